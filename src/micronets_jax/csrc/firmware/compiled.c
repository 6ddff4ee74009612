/* The engine of a model compiled to C. */
#include "config.h"
#include "core.h"
#include "engine.h"
#include "model/model.h"

static uint64_t arena[(MODEL_ARENA_BYTES + 7) / 8];
#if FIRMWARE_REMEMBERS
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

#if FIRMWARE_REMEMBERS
void engine_forget(void)
{
    model_reset(state);
}
#endif

const char *engine_start(void)
{
#if FIRMWARE_REMEMBERS
    engine_forget();
#endif
    return 0;
}

static void marks_begin(void)
{
    for (int i = 0; i < FIRMWARE_LAYERS; i++)
        engine_marks[i] = 0;
}

static void marks_end(uint64_t end)
{
    for (int i = 0; i < FIRMWARE_LAYERS; i++)
        engine_marks[i] = end += engine_marks[i];
}

#if FIRMWARE_ROWS
static int8_t row[MODEL_INPUT_ROW_BYTES];
static uint32_t filled;
static uint64_t taken;
static int status;

void engine_begin(void)
{
    marks_begin();
    model_begin(arena);
    filled = 0;
    taken = 0;
    status = 0;
}

void engine_take(const uint8_t *bytes, uint32_t count)
{
    while (count--) {
        row[filled++] = (int8_t)*bytes++;
        if (filled == MODEL_INPUT_ROW_BYTES) {
            const uint64_t start = marked = core_ticks();
            const int failed = model_push(arena, row, 1);
            status = status ? status : failed;
            taken += core_ticks() - start;
            filled = 0;
        }
    }
}

uint64_t engine_taken(void)
{
    return taken;
}

void *engine_input(int index)
{
    (void)index;
    return 0; /* it is never whole */
}
#else
void *engine_input(int index)
{
    return model_input(arena, index);
}
#endif

const void *engine_output(int index)
{
    return model_output(arena, index);
}

int engine_run(void)
{
    const uint64_t start = core_ticks();
#if !FIRMWARE_ROWS
    int status;
    marks_begin();
    marked = start;
#if FIRMWARE_REMEMBERS
    status = model_run(arena, state);
#else
    status = model_run(arena);
#endif
#endif
    marks_end(start);
    return status;
}

uint32_t engine_arena_used(void)
{
    return MODEL_ARENA_BYTES;
}
