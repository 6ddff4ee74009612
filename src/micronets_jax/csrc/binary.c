/* Addition, subtraction and multiplication of two tensors, with broadcasting. The output may lie on
 * either operand of its own size. */
#include "kernels.h"

MN_INLINE int32_t scale_operand(int32_t x, const struct mn_operand *operand)
{
    x = (x - operand->zero_point) * operand->factor;
    return (mn_smmlar(x, operand->multiplier, operand->offset) + (x >> 31)) >> operand->shift;
}

void mn_add(const struct mn_add *p, const int8_t *left, const int8_t *right, int8_t *out)
{
    const struct mn_operand l = p->left, r = p->right;
    const int32_t multiplier = p->multiplier, offset = p->offset, shift = p->shift;
    const int32_t zero_point = p->zero_point, min = p->min, max = p->max, count = p->dims[3];
    const int32_t left_step = p->left_steps[3], right_step = p->right_steps[3];
    for (int32_t i = 0; i < p->dims[0]; i++)
        for (int32_t j = 0; j < p->dims[1]; j++)
            for (int32_t k = 0; k < p->dims[2]; k++) {
                const int8_t *a = left + i * p->left_steps[0] + j * p->left_steps[1] +
                                  k * p->left_steps[2];
                const int8_t *b = right + i * p->right_steps[0] + j * p->right_steps[1] +
                                  k * p->right_steps[2];
                for (int8_t *end = out + count; out < end; a += left_step, b += right_step) {
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
