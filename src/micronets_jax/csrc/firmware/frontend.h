/* From sound to what the model reads: frames, window, spectrum, mel bands, logarithm, and for speech the
 * cosine transform. Single precision, no dynamic memory; parameters and tables are generated. */
#ifndef FRONTEND_H
#define FRONTEND_H

#include <stdint.h>

void frontend_restart(void);
void frontend_next(void); /* frames go on, to the first place of the features */

/* The next samples, int16; every frame that is complete becomes int8 features at its place. */
void frontend_feed(const void *samples, uint32_t count, int8_t *features);

int frontend_full(void); /* whether the features are complete */

/* The same, of a stream without end: takes samples until a frame is complete and returns how many;
 * whether it is; its features. */
uint32_t frontend_take(const void *samples, uint32_t count);
int frontend_has_frame(void);
void frontend_frame(int8_t *row);

extern uint32_t frontend_samples; /* that were fed since the restart */
extern uint64_t frontend_ticks;   /* that all frames took */

#endif
