/* What every Cortex-M gives: start-up, a clock of 64 bits, painted stacks, faults as frames. */
#ifndef CORE_H
#define CORE_H

#include <stdint.h>

/* Ticks since start. A tick is a cycle of the core, or some instructions of an emulated one: a nanosecond each. */
uint64_t core_ticks(void);

/* Starts the clock anew, so that equal work takes equal ticks in an emulator. */
void core_restart_clock(void);

/* Fills the free part of the stack; core_stack_used says how much was overwritten since, counted
 * from the frame of the function that painted. */
void core_paint_stack(void);
uint32_t core_stack_used(void);

void core_reset(void);
int main(void);

#endif
