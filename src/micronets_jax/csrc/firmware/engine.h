/* A model behind one interface, whichever runtime computes it. */
#ifndef ENGINE_H
#define ENGINE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

const char *engine_start(void); /* 0, or a sentence that says why there is no model */
void *engine_input(int index);
const void *engine_output(int index);
int engine_run(void); /* 0, or the runtime's error */
void engine_forget(void); /* what a model with state keeps from run to run (FIRMWARE_REMEMBERS) */

/* Only of a model whose input comes row by row (FIRMWARE_ROWS): forget the rows that came; the next
 * bytes of the input, on which it computes as far as they allow; what that took so far. */
void engine_begin(void);
void engine_take(const uint8_t *bytes, uint32_t count);
uint64_t engine_taken(void);
uint32_t engine_arena_used(void);

/* Ticks at the end of every layer of the last run, as if one layer ran after the other. */
extern uint64_t engine_marks[];

#ifdef __cplusplus
}
#endif

#endif
