/* Sums of all values so far. They are halves of 2^20 a level and wrap around, and each begins with
 * the input's zero point taken off once too often: both as the reference has it. */
#include "kernels.h"

void mn_cumsum(const struct mn_cumsum *p, const int8_t *in, int8_t *out)
{
    const int32_t step = p->reverse ? -p->inner : p->inner;
    for (int32_t i = 0; i < p->outer; i++)
        for (int32_t j = 0; j < p->inner; j++) {
            int32_t at = (i * p->count + (p->reverse ? p->count - 1 : 0)) * p->inner + j;
            uint32_t sum = (uint32_t)-p->in_zero_point << 19;
            for (int32_t k = 0; k < p->count; k++, at += step) {
                const uint32_t next = sum + ((uint32_t)(in[at] - p->in_zero_point) << 19);
                const int32_t y = (int32_t)(p->exclusive ? sum : next);
                out[at] = mn_clamp(
                    mn_scale_wide(y, p->multiplier, p->shift) + p->out_zero_point, -128, 127);
                sum = next;
            }
        }
}
