/* Transposed convolution: each output gathers the taps that fall on a pixel of the input. */
#include "kernels.h"

void mn_transpose_conv(const struct mn_transpose_conv *p, const int8_t *in, int8_t *out)
{
    const int32_t depth = p->in_channels, zero_point = p->in_zero_point;
    for (int32_t row = 0; row < p->out_rows; row++)
        for (int32_t column = 0; column < p->out_columns; column++)
            for (int32_t channel = 0; channel < p->out_channels; channel++) {
                const int32_t below = row + p->pad_top, beside = column + p->pad_left;
                int32_t acc = p->bias[channel];
                for (int32_t k = below % p->stride_rows; k < p->kernel_rows; k += p->stride_rows) {
                    const int32_t y = (below - k) / p->stride_rows;
                    if (below < k || y >= p->in_rows)
                        continue;
                    for (int32_t i = beside % p->stride_columns; i < p->kernel_columns;
                         i += p->stride_columns) {
                        const int32_t x = (beside - i) / p->stride_columns;
                        const int8_t *pixel = in + (y * p->in_columns + x) * depth;
                        const int8_t *w = p->weights + ((channel * p->kernel_rows + k) *
                                                            p->kernel_columns +
                                                        i) *
                                                           depth;
                        if (beside < i || x >= p->in_columns)
                            continue;
                        for (int32_t j = 0; j < depth; j++)
                            acc += (pixel[j] - zero_point) * w[j];
                    }
                }
                acc = mn_scale_wide(acc, p->multipliers[channel], p->shifts[channel]);
                *out++ = mn_clamp(acc + p->zero_point, p->min, p->max);
            }
}
