/* Logarithm of softmax: differences to the largest input, less the logarithm of their sum. */
#include "fixed_point.h"

MN_INLINE int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

MN_INLINE int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* log(x) in Q5.26 for x >= 1 in Q12.19: a power of two, times a fraction near sqrt(sqrt(1/2)) whose
 * logarithm is a quotient of polynomials. */
static int32_t logarithm(int32_t x)
{
    const int32_t sqrt_half = 1518500250, fourth_root_half = 1805811301;
    const int32_t zeros = mn_leading_zeros((uint32_t)x);
    const int32_t other = mn_high(x, sqrt_half);
    const int32_t other_zeros = mn_leading_zeros((uint32_t)other) - 1;
    const int32_t r =
        smaller(mn_saturating_shl(mn_high(mn_saturating_shl(x, zeros - 1), sqrt_half), 1),
                mn_saturating_shl(x, other_zeros));
    const int32_t power = larger(mn_saturating_shl(12 - zeros, 25) + (1 << 23),
                                 mn_saturating_shl(12 - other_zeros, 25) - (1 << 23));
    const int64_t sum = (int64_t)r + fourth_root_half;
    const int32_t p = (int32_t)((sum + (sum >= 0 ? 1 : -1)) / 2);
    const int32_t q = 2 * (r - fourth_root_half), square = mn_high(q, q);
    const int32_t numerator = mn_high(q, r) + mn_high(mn_high(q, square), 117049297);
    const int32_t denominator =
        mn_high(p, 1057819769 + q + mn_high(127690142, square)) + mn_high(638450708, q);
    return mn_saturating_shl(mn_high(power, 1488522236) + /* log 2 */
                                 mn_high(mn_divide_by_power(numerator, 6),
                                         mn_reciprocal(denominator)),
                             1);
}

void mn_log_softmax(const struct mn_log_softmax *p, const int8_t *in, int8_t *out)
{
    for (int32_t row = 0; row < p->rows; row++, in += p->columns, out += p->columns) {
        int32_t max = -128, sum = 0, log_sum, least;
        for (int32_t i = 0; i < p->columns; i++)
            max = in[i] > max ? in[i] : max;
        for (int32_t i = 0; i < p->columns; i++)
            if (max - in[i] < p->num_exponentials)
                sum += mn_divide_by_power(p->exponentials[max - in[i]], 12);
        log_sum = logarithm(sum);
        least = mn_scale_wide(log_sum + INT32_MIN, p->reverse_multiplier, p->reverse_shift);
        least = larger(least, -p->num_exponentials);
        for (int32_t i = 0; i < p->columns; i++) {
            int32_t y = -128;
            if (in[i] - max > least)
                y = mn_divide_by_power(
                        mn_scale_wide(in[i] - max, p->multiplier, p->shift) - log_sum, 22) +
                    127;
            out[i] = mn_clamp(y, -128, 127);
        }
    }
}
