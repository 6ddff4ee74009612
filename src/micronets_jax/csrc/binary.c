/* Addition, subtraction and multiplication of two tensors, with broadcasting. The output may lie on
 * either operand of its own size. */
#include "vectors.h"

MN_INLINE int32_t scale_operand(int32_t x, const struct mn_operand *operand)
{
    x = (x - operand->zero_point) * operand->factor;
    return (mn_smmlar(x, operand->multiplier, operand->offset) + (x >> 31)) >> operand->shift;
}

/* The operand of the larger scale is exact: its multiplier is 1/2 and nothing is rounded. Sums of
 * such an operand and another (`bits` 21), or two such (22), without broadcasting or clamp: what
 * residual networks do, with few enough constants to stay in registers. */
MN_INLINE void add_exact(const struct mn_add *p, const struct mn_operand *l,
                         const struct mn_operand *r, const int8_t *a, const int8_t *b, int8_t *out,
                         int bits)
{
    const int32_t a_zero = -l->zero_point * (1 << bits), b_zero = -r->zero_point * (1 << 19);
    const int32_t a_multiplier = l->multiplier, a_offset = l->offset, a_shift = l->shift;
    const int32_t multiplier = p->multiplier, shift = p->shift;
    const int32_t offset = p->offset + p->zero_point * (1 << p->shift);
    const int8_t *const end = out + p->dims[3];
    while (out < end) {
        const int32_t x = *a++ * (1 << bits) + a_zero;
        int32_t sum = *b++ * (1 << 19) + b_zero;
        sum += bits == 22 ? x >> 3 : (mn_smmlar(x, a_multiplier, a_offset) + (x >> 31)) >> a_shift;
        *out++ = (int8_t)mn_saturate((mn_scale(sum, multiplier, offset) + (sum >> 31)) >> shift);
    }
}

#if MN_MVE
/* What scale_operand makes of four; an operand that is exact is shifted alone. */
MN_INLINE int32x4_t scale_four(int32x4_t x, const struct mn_operand *operand)
{
    int32x4_t y;
    x = vsubq_n_s32(x, operand->zero_point);
    if (operand->factor == 1 << 22)
        return vshlq_n_s32(x, 19);
    x = vshlq_n_s32(x, 20); /* the multiplication doubles */
    y = vaddq_n_s32(vqrdmulhq_n_s32(x, operand->multiplier), operand->offset);
    return vshlq_r_s32(vaddq_s32(y, vshrq_n_s32(x, 31)), -operand->shift);
}

/* As many elements as there are fours of. */
MN_INLINE int32_t add_fours(const struct mn_add *p, const struct mn_operand *l,
                            const struct mn_operand *r, const int8_t *a, const int8_t *b,
                            int8_t *out, int32_t count)
{
    const int32x4_t min = vdupq_n_s32(p->min), max = vdupq_n_s32(p->max);
    const int32_t multiplier = p->multiplier, offset = p->offset, shift = -p->shift;
    const int32_t zero_point = p->zero_point, subtract = p->subtract;
    int32_t done = 0;
    for (; done + 4 <= count; done += 4) {
        const int32x4_t x = scale_four(vldrbq_s32(a + done), l);
        const int32x4_t y = scale_four(vldrbq_s32(b + done), r);
        const int32x4_t sum = subtract ? vsubq_s32(x, y) : vaddq_s32(x, y);
        int32x4_t z = vaddq_n_s32(vqrdmulhq_n_s32(sum, multiplier), offset);
        z = vshlq_r_s32(vaddq_s32(z, vshrq_n_s32(sum, 31)), shift);
        z = vminq_s32(vmaxq_s32(vaddq_n_s32(z, zero_point), min), max);
        vstrbq_s32(out + done, z);
    }
    return done;
}
#endif

void mn_add(const struct mn_add *p, const int8_t *left, const int8_t *right, int8_t *out)
{
    const struct mn_operand l = p->left, r = p->right;
    const int32_t multiplier = p->multiplier, offset = p->offset, shift = p->shift;
    const int32_t zero_point = p->zero_point, min = p->min, max = p->max, count = p->dims[3];
    const int32_t left_step = p->left_steps[3], right_step = p->right_steps[3];
    const int32_t exact = 1 << 22;
    if (!MN_MVE && p->dims[0] * p->dims[1] * p->dims[2] == 1 && left_step == 1 && right_step == 1 &&
        !p->subtract && min == -128 && max == 127 && shift <= 22 &&
        (l.factor == exact || r.factor == exact)) {
        if (l.factor == r.factor)
            add_exact(p, &p->left, &p->right, left, right, out, 22);
        else if (r.factor == exact)
            add_exact(p, &p->left, &p->right, left, right, out, 21);
        else
            add_exact(p, &p->right, &p->left, right, left, out, 21);
        return;
    }
    for (int32_t i = 0; i < p->dims[0]; i++)
        for (int32_t j = 0; j < p->dims[1]; j++)
            for (int32_t k = 0; k < p->dims[2]; k++) {
                const int8_t *a = left + i * p->left_steps[0] + j * p->left_steps[1] +
                                  k * p->left_steps[2];
                const int8_t *b = right + i * p->right_steps[0] + j * p->right_steps[1] +
                                  k * p->right_steps[2];
                int8_t *const end = out + count;
#if MN_MVE
                if (left_step == 1 && right_step == 1) {
                    const int32_t done = add_fours(p, &l, &r, a, b, out, count);
                    a += done;
                    b += done;
                    out += done;
                }
#endif
                for (; out < end; a += left_step, b += right_step) {
                    const int32_t y = scale_operand(*b, &r), x = scale_operand(*a, &l);
                    const int32_t sum = p->subtract ? x - y : x + y;
                    const int32_t z =
                        (mn_scale(sum, multiplier, offset) + (sum >> 31)) >> shift;
                    *out++ = mn_clamp(z + zero_point, min, max);
                }
            }
}

void mn_mul(const struct mn_mul *p, const int8_t *left, const int8_t *right, int8_t *out)
{
    for (int32_t i = 0; i < p->dims[0]; i++)
        for (int32_t j = 0; j < p->dims[1]; j++)
            for (int32_t k = 0; k < p->dims[2]; k++) {
                const int8_t *a = left + i * p->left_steps[0] + j * p->left_steps[1] +
                                  k * p->left_steps[2];
                const int8_t *b = right + i * p->right_steps[0] + j * p->right_steps[1] +
                                  k * p->right_steps[2];
                for (int32_t n = p->dims[3]; n > 0;
                     n--, a += p->left_steps[3], b += p->right_steps[3]) {
                    const int32_t y = mn_scale_wide(
                        (*a - p->left_zero_point) * (*b - p->right_zero_point), p->multiplier,
                        p->shift);
                    *out++ = mn_clamp(y + p->zero_point, p->min, p->max);
                }
            }
}
