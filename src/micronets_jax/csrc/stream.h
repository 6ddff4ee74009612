/* The order of row calls of a stretch, as loops over phases. Included by model.c, which defines
 * MODEL_HOOK and MN_TAPS, the most rows that a call reads. */
#ifndef MN_STREAM_H
#define MN_STREAM_H

#include "kernels.h"

/* Where a stretch stands; all zero before its first call. */
struct mn_progress {
    uint16_t phase, first, time, call; /* `first`: call of the phase */
    int32_t rows;                      /* of the model's input that have come */
};

MN_INLINE void mn_advance(const struct mn_stretch *s, struct mn_progress *at)
{
    if (++at->call < s->phases[at->phase].calls)
        return;
    at->call = 0;
    if (++at->time < s->phases[at->phase].times)
        return;
    at->time = 0;
    at->first = (uint16_t)(at->first + s->phases[at->phase++].calls);
}

/* Makes calls until the stretch ends (1) or waits for a row of the model's input (0). */
MN_NOINLINE int mn_stream(const struct mn_stretch *s, struct mn_progress *at, int8_t *arena)
{
    for (; at->phase < s->num_phases; mn_advance(s, at)) {
        const struct mn_row_call *const call = &s->calls[at->first + at->call];
        const struct mn_row_op *const op = &s->ops[call->op];
        const int32_t row = call->row + at->time * call->step;
        const int8_t *in[MN_TAPS], **next = in;
        if (op->kernel == 0)
            return 0;
        for (int i = 0; i < op->num_sources; i++) {
            const struct mn_source *const from = &op->sources[i];
            const int8_t *const base = from->constant ? from->constant : arena + from->offset;
            int32_t y = from->map ? from->map[row] : row * from->stride - from->pad;
            for (int32_t left = from->taps; left > 0; left--, y += from->dilation)
                *next++ = y < 0 || y >= from->rows ? 0 : base + y % from->depth * from->pitch;
        }
        op->kernel(op->parameters, in, arena + op->out + row % op->depth * op->pitch,
                   arena + op->scratch, row);
        MODEL_HOOK(op->layer, arena);
    }
    return 1;
}

/* Takes the row that mn_stream waits for. */
MN_INLINE void mn_take(const struct mn_stretch *s, struct mn_progress *at, int8_t *arena,
                       const int8_t *row)
{
    const struct mn_row_call *const call = &s->calls[at->first + at->call];
    const struct mn_row_op *const op = &s->ops[call->op];
    memcpy(arena + op->out + (call->row + at->time * call->step) % op->depth * op->pitch, row,
           (size_t)op->pitch);
    mn_advance(s, at);
}

#endif
