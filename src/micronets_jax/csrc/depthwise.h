/* Depthwise convolution, one channel at a time, specialised for kernel and stride by the compiler.
 *
 * A channel is gathered, widened to int16, into a padded plane in `scratch`; its outputs are written
 * afterwards, so that the output may lie on the input. The plane may be the transposed picture:
 * two outputs of a row are computed together, so rows want to be long. */
#ifndef MN_DEPTHWISE_H
#define MN_DEPTHWISE_H

#include "kernels.h"

MN_INLINE void mn_gather_plane(const struct mn_depthwise *d, const int8_t *in, int16_t *plane)
{
    const int32_t step = d->in_column_step;
    plane += d->pad_top * d->plane_columns + d->pad_left;
    for (int row = 0; row < d->in_rows; row++, in += d->in_row_step, plane += d->plane_columns) {
        const int8_t *from = in;
        int16_t *to = plane;
        int left = d->in_columns;
        for (; left >= 4; left -= 4, from += 4 * step, to += 4) {
            to[0] = from[0];
            to[1] = from[step];
            to[2] = from[2 * step];
            to[3] = from[3 * step];
        }
        for (; left > 0; left--, from += step)
            *to++ = *from;
    }
}

#if MN_DSP
/* Weights of one row as overlapping pairs (0,1) (1,2) (2,3) ..., so that outputs at even and at odd
 * columns both read whole words of the plane. */
MN_INLINE const int8_t *mn_pair_weights(const int8_t *w, int32_t *pairs, int rows, int columns)
{
    for (int row = 0; row < rows; row++) {
        int32_t previous = *w++;
        for (int column = 1; column < columns; column++) {
            const int32_t next = *w++;
            *pairs++ = mn_pkhbt(previous, next);
            previous = next;
        }
    }
    return w;
}
#endif

/* kr, kc, sr, sc, rounding and clamp are constants where this is used. */
MN_INLINE void mn_depthwise(const struct mn_depthwise *d, const int8_t *in, int8_t *out,
                            void *scratch, int kr, int kc, int sr, int sc, int rounding, int clamp)
{
    int16_t *plane = scratch;
    const int8_t *weights = d->weights;
    const struct mn_channel *channel = d->channels;
    const int32_t pitch = d->plane_columns;
    for (int32_t i = 0; i < d->plane_rows * pitch; i++)
        plane[i] = d->pad_value;
    for (int left = d->num_channels; left > 0; left--, in++, out++, channel++) {
        const struct mn_channel constants = *channel;
        int8_t *line = out;
        const int16_t *from = plane;
        mn_gather_plane(d, in, plane);
#if MN_DSP
        if (kc % 2 == 1 && kc > 1 && kc <= 7 && kr <= 7 && sc <= 2) {
            int32_t pairs[7 * 6];
            weights = mn_pair_weights(weights, pairs, kr, kc);
            for (int row = 0; row < d->out_rows; row++, line += d->out_row_step) {
                int8_t *to = line;
                const int16_t *at = from;
                int columns = d->out_columns;
                for (; columns > 0; columns -= 2, at += 2 * sc) {
                    const int16_t *window = at;
                    const int32_t *w = pairs;
                    int32_t a = constants.bias, b = constants.bias;
#pragma GCC unroll 3
                    for (int k = 0; k < kr; k++, window += pitch, w += kc - 1) {
                        const int32_t *x = (const int32_t *)(const void *)window;
#pragma GCC unroll 4
                        for (int i = 0; i < kc / 2; i++) {
                            a = mn_smlad(x[i], w[2 * i], a);
                            if (sc == 2)
                                b = mn_smlad(x[i + 1], w[2 * i], b);
                            else if (i == 0)
                                b = mn_smlatb(x[0], w[0], b);
                            if (sc == 1)
                                b = mn_smlad(x[i + 1], w[2 * i + 1], b);
                        }
                        a = mn_smlabt(x[kc / 2], w[kc - 2], a);
                        if (sc == 2)
                            b = mn_smlabt(x[kc / 2 + 1], w[kc - 2], b);
                    }
                    a = mn_requantize(a, &constants, rounding);
                    *to = clamp ? mn_clamp(a, d->min, d->max) : (int8_t)a;
                    to += d->out_column_step;
                    if (columns > 1) {
                        b = mn_requantize(b, &constants, rounding);
                        *to = clamp ? mn_clamp(b, d->min, d->max) : (int8_t)b;
                        to += d->out_column_step;
                    }
                }
                from += sr * pitch;
            }
            continue;
        }
#endif
        for (int row = 0; row < d->out_rows; row++, from += sr * pitch, line += d->out_row_step) {
            int8_t *to = line;
            for (int column = 0; column < d->out_columns; column++, to += d->out_column_step) {
                const int16_t *window = from + column * sc;
                const int8_t *w = weights;
                int32_t acc = constants.bias;
                for (int k = 0; k < kr; k++, window += pitch)
                    for (int i = 0; i < kc; i++)
                        acc += window[i] * *w++;
                acc = mn_requantize(acc, &constants, rounding);
                *to = clamp ? mn_clamp(acc, d->min, d->max) : (int8_t)acc;
            }
        }
        weights += kr * kc;
    }
}

#define MN_DEPTHWISE(name, kr, kc, sr, sc, rounding, clamp)                                        \
    static void name(const struct mn_depthwise *d, const int8_t *in, int8_t *out, void *scratch)   \
    {                                                                                              \
        mn_depthwise(d, in, out, scratch, kr, kc, sr, sc, rounding, clamp);                        \
    }

#endif
