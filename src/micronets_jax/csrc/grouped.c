/* Convolution in groups: each output channel reads the input channels of its group alone. */
#include "kernels.h"

void mn_grouped(const struct mn_grouped *g, const int8_t *in, int8_t *out)
{
    const int depth = g->group_inputs;
    for (int row = 0; row < g->out_rows; row++)
        for (int column = 0; column < g->out_columns; column++) {
            const int8_t *w = g->weights;
            for (int channel = 0; channel < g->out_channels; channel++) {
                const int8_t *group = in + channel / g->group_outputs * depth;
                uint32_t acc = (uint32_t)g->channels[channel].bias;
                for (int k = 0; k < g->kernel_rows; k++) {
                    const int y = row * g->stride_rows - g->pad_top + k * g->dilation_rows;
                    for (int i = 0; i < g->kernel_columns; i++, w += depth) {
                        const int x = column * g->stride_columns - g->pad_left +
                                      i * g->dilation_columns;
                        const int8_t *pixel = group + (y * g->in_columns + x) * g->in_channels;
                        /* the bias counts the zero point for every tap, so padding gives it back */
                        if (y < 0 || y >= g->in_rows || x < 0 || x >= g->in_columns)
                            for (int j = 0; j < depth; j++)
                                acc += (uint32_t)(g->zero_point * w[j]);
                        else
                            for (int j = 0; j < depth; j++)
                                acc += (uint32_t)(pixel[j] * w[j]);
                    }
                }
                *out++ = mn_clamp(mn_requantize((int32_t)acc, &g->channels[channel], g->rounding),
                                  g->min, g->max);
            }
        }
}
