/* Products of matrices that are both computed. */
#include "kernels.h"

void mn_matmul(const struct mn_matmul *p, const int8_t *left, const int8_t *right, int8_t *out)
{
    const int32_t left_zero = p->left_zero_point, right_zero = p->right_zero_point;
    const int32_t left_step = p->left_step, right_step = p->right_step;
    for (int32_t i = 0; i < p->batches[0]; i++)
        for (int32_t j = 0; j < p->batches[1]; j++)
            for (int32_t k = 0; k < p->batches[2]; k++)
                for (int32_t row = 0; row < p->rows; row++)
                    for (int32_t column = 0; column < p->columns; column++) {
                        const int8_t *a = left + i * p->left_batch_steps[0] +
                                          j * p->left_batch_steps[1] +
                                          k * p->left_batch_steps[2] + row * p->left_row_step;
                        const int8_t *b = right + i * p->right_batch_steps[0] +
                                          j * p->right_batch_steps[1] +
                                          k * p->right_batch_steps[2] +
                                          column * p->right_column_step;
                        int32_t sum = 0;
                        for (int32_t n = p->depth; n > 0; n--, a += left_step, b += right_step)
                            sum += (*a - left_zero) * (*b - right_zero);
                        *out++ = mn_clamp(
                            mn_scale_wide(sum, p->multiplier, p->shift) + p->zero_point, -128, 127);
                    }
}
