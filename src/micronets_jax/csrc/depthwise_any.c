/* Depthwise convolution with any multiplier and dilation, straight from the definition. */
#include "kernels.h"

void mn_depthwise_any(const struct mn_depthwise_any *d, const int8_t *in, int8_t *out)
{
    const int out_channels = d->in_channels * d->multiplier;
    for (int row = 0; row < d->out_rows; row++)
        for (int column = 0; column < d->out_columns; column++)
            for (int channel = 0; channel < out_channels; channel++) {
                const int8_t *w = d->weights + channel;
                uint32_t acc = (uint32_t)d->channels[channel].bias;
                for (int k = 0; k < d->kernel_rows; k++) {
                    const int y = row * d->stride_rows - d->pad_top + k * d->dilation_rows;
                    for (int i = 0; i < d->kernel_columns; i++, w += out_channels) {
                        const int x = column * d->stride_columns - d->pad_left +
                                      i * d->dilation_columns;
                        /* the bias counts the zero point for every tap, so padding gives it back */
                        if (y < 0 || y >= d->in_rows || x < 0 || x >= d->in_columns)
                            acc += (uint32_t)(d->zero_point * *w);
                        else
                            acc += (uint32_t)(in[(y * d->in_columns + x) * d->in_channels +
                                                 channel / d->multiplier] *
                                              *w);
                    }
                }
                *out++ = mn_clamp(mn_requantize((int32_t)acc, &d->channels[channel], d->rounding),
                                  d->min, d->max);
            }
}
