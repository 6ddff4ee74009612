/* Fixed-point functions of the reference, for kernels that compute more than sums and scales. */
#ifndef MN_FIXED_POINT_H
#define MN_FIXED_POINT_H

#include "kernels.h"

/* round(a * b / 2^31), ties upwards; both below 2^31 in size. */
MN_INLINE int32_t mn_high(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
}

/* x / 2^bits, halves away from zero. */
MN_INLINE int32_t mn_divide_by_power(int32_t x, int32_t bits)
{
    const int32_t half = bits > 0 ? (int32_t)((uint32_t)1 << (bits - 1)) : 0;
    return (int32_t)(((int64_t)x + half - (bits > 0 && x < 0 ? 1 : 0)) >> bits);
}

MN_INLINE int32_t mn_saturating_shl(int32_t x, int32_t bits)
{
    const int64_t y = (int64_t)x * ((int64_t)1 << bits);
    return y > INT32_MAX ? INT32_MAX : y < INT32_MIN ? INT32_MIN : (int32_t)y;
}

/* Of 0 it is 32. */
MN_NOINLINE int32_t mn_leading_zeros(uint32_t x)
{
    int32_t n = 0;
    for (; n < 32 && !(x & 0x80000000u); x <<= 1)
        n++;
    return n;
}

/* 1 / (1 + x) in Q0.31 for x in [0, 1): three Newton steps on half the denominator, in Q2.29. */
MN_NOINLINE int32_t mn_reciprocal(int32_t x)
{
    const int32_t half_denominator = (int32_t)(((int64_t)x + INT32_MAX + 1) >> 1);
    int32_t y = 1515870810 + mn_high(half_denominator, -1010580540); /* 48/17, -32/17 */
    for (int i = 0; i < 3; i++) {
        const int32_t error = (1 << 29) - mn_high(half_denominator, y);
        y += mn_saturating_shl(mn_high(y, error), 2);
    }
    return mn_saturating_shl(y, 1);
}

#endif
