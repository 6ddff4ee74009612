/* Runs a compiled model on this machine for tests: inputs from stdin, outputs to stdout.
 *
 *     host run            every case: all inputs in, all outputs out; state goes on from case to
 *                         case
 *     host trace          one case: the whole arena out after every layer
 *     host poison FILE    like run, but every byte that the plan calls dead is overwritten after
 *                         every layer; FILE holds, per layer and once before them, the number of
 *                         dead ranges and their bounds as int32
 */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int tracing;
static FILE *dead;

static void poison(uint8_t *arena)
{
    static unsigned noise = 1;
    int32_t count = 0, range[2];
    if (!dead || fread(&count, sizeof count, 1, dead) != 1)
        return;
    for (; count > 0 && fread(range, sizeof range, 1, dead) == 1; count--)
        for (int32_t i = range[0]; i < range[1]; i++)
            arena[i] = (uint8_t)((noise = noise * 1664525u + 1013904223u) >> 24);
}

void mn_hook(int layer, void *arena);
void mn_hook(int layer, void *arena)
{
    (void)layer;
    if (tracing)
        fwrite(arena, 1, MODEL_ARENA_BYTES, stdout);
    poison(arena);
}

int main(int argc, char **argv)
{
    static const int in_bytes[] = {HOST_INPUT_BYTES}, out_bytes[] = {HOST_OUTPUT_BYTES};
    uint8_t *arena = malloc(MODEL_ARENA_BYTES);
#ifdef MODEL_STATE_BYTES
    uint8_t *state = malloc(MODEL_STATE_BYTES);
    if (!state)
        return 2;
    memset(state, 0xA5, MODEL_STATE_BYTES);
    model_reset(state);
#endif
    tracing = argc > 1 && strcmp(argv[1], "trace") == 0;
    if (argc > 2)
        dead = fopen(argv[2], "rb");
    if (!arena)
        return 2;
    for (;;) {
        memset(arena, 0xA5, MODEL_ARENA_BYTES);
        if (dead)
            rewind(dead);
#ifdef MODEL_INPUT_ROWS
        int8_t *input = malloc((size_t)in_bytes[0]);
        if (!input || fread(input, 1, (size_t)in_bytes[0], stdin) != (size_t)in_bytes[0]) {
            free(input);
            free(arena);
            return 0;
        }
        model_begin(arena);
        poison(arena);
        for (int row = 0, count = 0; row < MODEL_INPUT_ROWS; row += count, count = count % 4 + 1) {
            count = count < MODEL_INPUT_ROWS - row ? count : MODEL_INPUT_ROWS - row;
            if (model_push(arena, input + row * MODEL_INPUT_ROW_BYTES, count) != 0)
                return 4;
        }
        free(input);
        if (model_push(arena, 0, 1) != MODEL_ERROR_ROWS)
            return 5;
#else
        for (int i = 0; i < MODEL_NUM_INPUTS; i++)
            if (fread(model_input(arena, i), 1, (size_t)in_bytes[i], stdin) !=
                (size_t)in_bytes[i]) {
                free(arena);
#ifdef MODEL_STATE_BYTES
                free(state);
#endif
                return i == 0 ? 0 : 3;
            }
        poison(arena);
#ifdef MODEL_STATE_BYTES
        if (model_run(arena, state) != 0)
            return 4;
#else
        if (model_run(arena) != 0)
            return 4;
#endif
#endif
        for (int i = 0; i < MODEL_NUM_OUTPUTS && !tracing; i++)
            fwrite(model_output(arena, i), 1, (size_t)out_bytes[i], stdout);
    }
}
