/* Vectors divided by their length, which Newton's method finds. */
#include "fixed_point.h"

/* 1 / sqrt(x) as *root / 2^31 / 2^shift; the shift is returned. */
static int32_t inverse_square_root(int32_t x, int32_t *root)
{
    int32_t shift = 11, pairs, half, y = 1 << 28; /* Q3.28 */
    if (x <= 1) {
        *root = INT32_MAX;
        return 0;
    }
    for (; x >= 1 << 29; x /= 4)
        shift++;
    pairs = (mn_leading_zeros((uint32_t)x) - 1) / 2 - 1;
    shift -= pairs;
    x *= 1 << 2 * pairs;
    half = mn_divide_by_power(x >> 1, 1);
    for (int i = 0; i < 5; i++) {
        const int32_t cube = mn_saturating_shl(mn_high(mn_high(y, y), y), 6);
        y = mn_saturating_shl(mn_high((1 << 28) + (1 << 27), y) - mn_high(half, cube), 3);
    }
    *root = mn_high(y, 1518500250); /* sqrt(1/2) */
    if (shift >= 0)
        return shift;
    *root *= 1 << -shift;
    return 0;
}

void mn_l2_norm(const struct mn_l2_norm *p, const int8_t *in, int8_t *out)
{
    for (int32_t row = 0; row < p->rows; row++, in += p->columns, out += p->columns) {
        int32_t sum = 0, root, shift;
        for (int32_t i = 0; i < p->columns; i++)
            sum += (in[i] - p->zero_point) * (in[i] - p->zero_point);
        shift = inverse_square_root(sum, &root) - 7;
        for (int32_t i = 0; i < p->columns; i++)
            out[i] = mn_clamp(mn_scale_wide(in[i] - p->zero_point, root, shift), -128, 127);
    }
}
