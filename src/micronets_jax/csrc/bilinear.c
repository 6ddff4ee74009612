/* Bilinear resizing: a mean of four pixels, with weights of 1/1024 along rows and columns. */
#include "kernels.h"

void mn_bilinear(const struct mn_bilinear *p, const int8_t *in, int8_t *out)
{
    for (int row = 0; row < p->out_rows; row++) {
        const int16_t *r = p->rows + 3 * row;
        const int8_t *const above = in + r[0] * p->in_columns * p->channels;
        const int8_t *const below = in + r[1] * p->in_columns * p->channels;
        for (int column = 0; column < p->out_columns; column++) {
            const int16_t *c = p->columns + 3 * column;
            const int32_t left = c[0] * p->channels, right = c[1] * p->channels;
            const int32_t weights[4] = {(1024 - r[2]) * (1024 - c[2]), (1024 - r[2]) * c[2],
                                        r[2] * (1024 - c[2]), r[2] * c[2]};
            for (int channel = 0; channel < p->channels; channel++) {
                const int32_t sum =
                    weights[0] * above[left + channel] + weights[1] * above[right + channel] +
                    weights[2] * below[left + channel] + weights[3] * below[right + channel];
                *out++ = (int8_t)((sum + (sum > 0 ? 1 << 19 : -(1 << 19))) / (1 << 20));
            }
        }
    }
}
