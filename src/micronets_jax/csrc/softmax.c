/* Softmax in the fixed-point arithmetic of the reference. Exponentials come from a table, since
 * differences of two int8 take only 256 values; one reciprocal is computed per row. */
#include "kernels.h"

/* round(a * b / 2^31), ties upwards; both below 2^31 in size. */
static int32_t high(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
}

static int32_t divide_by_power(int32_t x, int bits)
{
    const int32_t half = bits > 0 ? (int32_t)((uint32_t)1 << (bits - 1)) : 0;
    return (int32_t)(((int64_t)x + half - (bits > 0 && x < 0 ? 1 : 0)) >> bits);
}

static int32_t saturating_shl(int32_t x, int bits)
{
    const int64_t y = (int64_t)x * ((int64_t)1 << bits);
    return y > INT32_MAX ? INT32_MAX : y < INT32_MIN ? INT32_MIN : (int32_t)y;
}

/* 1 / (1 + x) in Q0.31 for x in [0, 1): three Newton steps on half the denominator, in Q2.29. */
static int32_t reciprocal(int32_t x)
{
    const int32_t half_denominator = (int32_t)(((int64_t)x + INT32_MAX + 1) >> 1);
    int32_t y = 1515870810 + high(half_denominator, -1010580540); /* 48/17, -32/17 */
    for (int i = 0; i < 3; i++) {
        const int32_t error = (1 << 29) - high(half_denominator, y);
        y += saturating_shl(high(y, error), 2);
    }
    return saturating_shl(y, 1);
}

void mn_softmax(const struct mn_softmax *p, const int8_t *in, int8_t *out)
{
    for (int32_t row = 0; row < p->rows; row++, in += p->columns, out += p->columns) {
        int32_t max = -128, sum = 0, scale;
        int zeros = 0;
        for (int32_t i = 0; i < p->columns; i++)
            max = in[i] > max ? in[i] : max;
        for (int32_t i = 0; i < p->columns; i++)
            if (max - in[i] < p->num_exponentials)
                sum += divide_by_power(p->exponentials[max - in[i]], 12);
        while (!((uint32_t)sum << zeros & 0x80000000u))
            zeros++;
        scale = reciprocal((int32_t)(((uint32_t)sum << zeros) - 0x80000000u));
        for (int32_t i = 0; i < p->columns; i++) {
            int32_t y = 0;
            if (max - in[i] < p->num_exponentials)
                y = divide_by_power(high(scale, p->exponentials[max - in[i]]), 12 - zeros + 23);
            out[i] = mn_clamp(y - 128, -128, 127);
        }
    }
}
