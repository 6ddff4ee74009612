/* Softmax in the fixed-point arithmetic of the reference. Exponentials come from a table, since
 * differences of two int8 take only 256 values; one reciprocal is computed per row. */
#ifndef MN_SOFTMAX_H
#define MN_SOFTMAX_H

#include "fixed_point.h"

/* Outputs of 8 bits go to `narrow`, those of 16 to `wide`. */
MN_INLINE void softmax(const struct mn_softmax *p, const int8_t *in, int bits, int8_t *narrow,
                       int16_t *wide)
{
    int32_t at = 0;
    for (int32_t row = 0; row < p->rows; row++, in += p->columns) {
        int32_t max = -128, sum = 0, scale;
        int zeros = 0;
        for (int32_t i = 0; i < p->columns; i++)
            max = in[i] > max ? in[i] : max;
        for (int32_t i = 0; i < p->columns; i++)
            if (max - in[i] < p->num_exponentials)
                sum += mn_divide_by_power(p->exponentials[max - in[i]], 12);
        while (!((uint32_t)sum << zeros & 0x80000000u))
            zeros++;
        scale = mn_reciprocal((int32_t)(((uint32_t)sum << zeros) - 0x80000000u));
        for (int32_t i = 0; i < p->columns; i++, at++) {
            int32_t y = 0;
            if (max - in[i] < p->num_exponentials)
                y = mn_divide_by_power(mn_high(scale, p->exponentials[max - in[i]]),
                                       12 - zeros + 31 - bits);
            if (bits == 8)
                narrow[at] = mn_clamp(y - 128, -128, 127);
            else
                wide[at] = (int16_t)((y > 65535 ? 65535 : y) - 32768);
        }
    }
}

#endif
