/* Words out of a stream of sound without end: a ring of samples, the front end frame by frame, an
 * inference every hop, the mean of the last posteriors, a threshold, a pause. Integers from the
 * logits on, the same as in micronets_jax.spotting; what is set is generated. */
#ifndef LISTENING_H
#define LISTENING_H

#include <stdint.h>

struct listening_word {
    uint32_t step;       /* the inference after which it was told, from 0 */
    uint32_t label;      /* of the class */
    uint32_t confidence; /* its mean posterior, in parts of 32768 */
};

void listening_restart(void);

/* Samples that have come; an interrupt may call it while listening_work works. What the ring cannot
 * hold is lost and counted. */
void listening_hear(const void *samples, uint32_t count);

/* Works on what has come. 0: all of it is done. 1: an inference was made, call again. 2: and *word
 * was told. */
int listening_work(struct listening_word *word);

extern volatile uint32_t listening_lost; /* samples */
extern uint32_t listening_steps;         /* inferences */
extern uint64_t listening_ticks;         /* that these took, with smoothing; the front end counts its own */
extern int8_t listening_features[];      /* that the last of them read */
extern int32_t listening_status;         /* of the last one: 0, or the runtime's error */

#endif
