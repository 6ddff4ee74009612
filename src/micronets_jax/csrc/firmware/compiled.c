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

static uint64_t marked; /* time of the last mark */

/* Layers that compute row by row take turns, so the time of each is added up. */
void firmware_mark(int layer);
void firmware_mark(int layer)
{
    const uint64_t now = core_ticks();
    engine_marks[layer] += now - marked;
    marked = now;
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
    int status;
    uint64_t end = core_ticks();
    for (int i = 0; i < FIRMWARE_LAYERS; i++)
        engine_marks[i] = 0;
    marked = end;
#ifdef MODEL_STATE_BYTES
    status = model_run(arena, state); /* what is remembered stays until the board restarts */
#else
    status = model_run(arena);
#endif
    for (int i = 0; i < FIRMWARE_LAYERS; i++)
        engine_marks[i] = end += engine_marks[i];
    return status;
}

uint32_t engine_arena_used(void)
{
    return MODEL_ARENA_BYTES;
}
