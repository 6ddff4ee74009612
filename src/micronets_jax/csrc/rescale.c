/* Changes of scale at ends of 16 bits, by the reference's arithmetic. */
#include "kernels.h"

MN_INLINE int32_t rescaled(const struct mn_rescale *p, int32_t x)
{
    return mn_scale_wide(x - p->in_zero_point, p->multiplier, p->shift) + p->out_zero_point;
}

void mn_rescale_16_8(const struct mn_rescale *p, const int16_t *in, int8_t *out)
{
    for (int32_t i = 0; i < p->count; i++)
        out[i] = mn_clamp(rescaled(p, in[i]), -128, 127);
}

void mn_rescale_8_16(const struct mn_rescale *p, const int8_t *in, int16_t *out)
{
    for (int32_t i = 0; i < p->count; i++) {
        const int32_t y = rescaled(p, in[i]);
        out[i] = (int16_t)(y < -32768 ? -32768 : y > 32767 ? 32767 : y);
    }
}

void mn_rescale_16_32(const struct mn_rescale *p, const int16_t *in, int32_t *out)
{
    for (int32_t i = 0; i < p->count; i++)
        out[i] = rescaled(p, in[i]);
}
