/* The engine of a model compiled to C. */
#include "config.h"
#include "core.h"
#include "engine.h"
#include "model/model.h"

static uint64_t arena[(MODEL_ARENA_BYTES + 7) / 8];
#ifdef MODEL_STATE_BYTES
static uint64_t state[(MODEL_STATE_BYTES + 7) / 8];
#endif
uint64_t engine_marks[FIRMWARE_LAYERS];

void firmware_mark(int layer);
void firmware_mark(int layer)
{
    engine_marks[layer] = core_ticks();
}

const char *engine_start(void)
{
#ifdef MODEL_STATE_BYTES
    model_reset(state);
#endif
    return 0;
}

void *engine_input(int index)
{
    return model_input(arena, index);
}

const void *engine_output(int index)
{
    return model_output(arena, index);
}

int engine_run(void)
{
#ifdef MODEL_STATE_BYTES
    return model_run(arena, state); /* what is remembered stays until the board restarts */
#else
    return model_run(arena);
#endif
}

uint32_t engine_arena_used(void)
{
    return MODEL_ARENA_BYTES;
}
