/* Singular value decomposition filter: each filter is one product with the newest features, kept for
 * some time, and one over time. The state is the newest value last, filter after filter. */
#include "kernels.h"

void mn_svdf(const struct mn_svdf *p, const int8_t *in, void *state, int8_t *out)
{
    int8_t *const narrow = state;
    int16_t *const wide = state;
    const int32_t memory = p->memory, size = p->units * p->rank * memory;
    const int8_t *features = p->feature_weights;
    int32_t at = 0, filter = 0;
    if (p->wide)
        memmove(wide, wide + 1, 2 * (size_t)(size - 1));
    else
        memmove(narrow, narrow + 1, (size_t)(size - 1));
    for (int32_t unit = 0; unit < p->units; unit++) {
        int32_t sum = p->bias[unit]; /* of int16 it may wrap, as the reference's does */
        for (int32_t rank = 0; rank < p->rank; rank++, at += memory, filter++) {
            int32_t newest = p->feature_bias[filter];
            for (int32_t i = 0; i < p->features; i++)
                newest += in[i] * *features++;
            newest = mn_scale_wide(newest, p->feature_multiplier, p->feature_shift);
            if (p->wide) {
                const int16_t *weights = (const int16_t *)p->time_weights + at;
                newest = newest < -32768 ? -32768 : newest > 32767 ? 32767 : newest;
                wide[at + memory - 1] = (int16_t)newest; /* its zero point is 0 */
                for (int32_t i = 0; i < memory; i++)
                    sum = (int32_t)((uint32_t)sum + (uint32_t)(weights[i] * wide[at + i]));
            } else {
                const int8_t *weights = (const int8_t *)p->time_weights + at;
                newest = mn_clamp(newest, -128, 127);
                narrow[at + memory - 1] = (int8_t)(newest + p->state_zero_point);
                for (int32_t i = 0; i < memory; i++)
                    sum += weights[i] * (narrow[at + i] - p->state_zero_point);
            }
        }
        out[unit] = mn_clamp(mn_scale_wide(sum, p->multiplier, p->shift) + p->zero_point, -128, 127);
    }
}
