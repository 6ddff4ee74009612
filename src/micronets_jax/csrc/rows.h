/* Row by row, whatever needs no file of its own: one call makes one row, or adds a row to sums.
 * Included by model.c, so that only what a model needs is compiled. */
#ifndef MN_ROWS_H
#define MN_ROWS_H

#include "kernels.h"

static inline void mn_depthwise_any_row(const void *parameters, const int8_t *const *in,
                                        int8_t *out, void *scratch, int32_t row)
{
    const struct mn_depthwise_any *d = parameters;
    const int out_channels = d->in_channels * d->multiplier;
    (void)scratch, (void)row;
    for (int column = 0; column < d->out_columns; column++)
        for (int channel = 0; channel < out_channels; channel++) {
            const int8_t *w = d->weights + channel;
            int32_t acc = d->channels[channel].bias;
            for (int k = 0; k < d->kernel_rows; k++)
                for (int i = 0; i < d->kernel_columns; i++, w += out_channels) {
                    const int x =
                        column * d->stride_columns - d->pad_left + i * d->dilation_columns;
                    /* the bias counts the zero point for every tap, so padding gives it back */
                    if (in[k] == 0 || x < 0 || x >= d->in_columns)
                        acc += d->zero_point * *w;
                    else
                        acc += in[k][x * d->in_channels + channel / d->multiplier] * *w;
                }
            *out++ =
                mn_clamp(mn_requantize(acc, &d->channels[channel], d->rounding), d->min, d->max);
        }
}

/* First and last column of a window inside the picture. */
MN_INLINE void mn_clip_row(const struct mn_pool *p, int column, int *low, int *high)
{
    const int x = column * p->stride_columns - p->pad_left, end = x + p->kernel_columns;
    *low = x < 0 ? 0 : x;
    *high = end > p->in_columns ? p->in_columns : end;
}

static inline void mn_average_pool_row(const void *parameters, const int8_t *const *in,
                                       int8_t *out, void *scratch, int32_t row)
{
    const struct mn_pool *p = parameters;
    (void)scratch, (void)row;
    for (int column = 0; column < p->out_columns; column++) {
        int low, high, rows = 0;
        mn_clip_row(p, column, &low, &high);
        for (int k = 0; k < p->kernel_rows; k++)
            rows += in[k] != 0;
        for (int channel = 0; channel < p->channels; channel++) {
            const int32_t count = rows * (high - low);
            int32_t sum = 0;
            for (int k = 0; k < p->kernel_rows; k++)
                for (int x = low; x < high && in[k]; x++)
                    sum += in[k][x * p->channels + channel];
            sum = (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
            *out++ = mn_clamp(sum, p->min, p->max);
        }
    }
}

static inline void mn_max_pool_row(const void *parameters, const int8_t *const *in,
                                   int8_t *out, void *scratch, int32_t row)
{
    const struct mn_pool *p = parameters;
    (void)scratch, (void)row;
    for (int column = 0; column < p->out_columns; column++) {
        int low, high;
        mn_clip_row(p, column, &low, &high);
        for (int channel = 0; channel < p->channels; channel++) {
            int32_t max = -128;
            for (int k = 0; k < p->kernel_rows; k++)
                for (int x = low; x < high && in[k]; x++) {
                    const int32_t y = in[k][x * p->channels + channel];
                    max = y > max ? y : max;
                }
            *out++ = mn_clamp(max, p->min, p->max);
        }
    }
}

/* All rows to one pixel: sums wait in `scratch`; the last row makes the output. */
static inline void mn_sum_row(const void *parameters, const int8_t *const *in,
                              int8_t *out, void *scratch, int32_t row)
{
    const struct mn_sum_row *p = parameters;
    int32_t *sums = scratch;
    int32_t c = 0;
#if MN_DSP
    for (; c + 4 <= p->channels; c += 4) {
        const int8_t *x = in[0] + c;
        int32_t *const to = sums + c;
        int32_t a = row ? to[0] : 0, b = row ? to[1] : 0, d = row ? to[2] : 0, e = row ? to[3] : 0;
        for (int32_t left = p->columns; left > 0; left -= 128) { /* so many fit into 16 bits */
            int32_t even = 0, odd = 0;
            for (int32_t few = left < 128 ? left : 128; few > 0; few--, x += p->channels) {
                int32_t four;
                memcpy(&four, x, 4);
                even = mn_sxtab16(even, four);
                odd = mn_sxtab16_ror8(odd, four);
            }
            a += (int16_t)even;
            b += (int16_t)odd;
            d += even >> 16;
            e += odd >> 16;
        }
        to[0] = a;
        to[1] = b;
        to[2] = d;
        to[3] = e;
    }
#endif
    for (; c < p->channels; c++) {
        const int8_t *x = in[0] + c;
        int32_t sum = row ? sums[c] : 0;
        for (int32_t left = p->columns; left > 0; left--, x += p->channels)
            sum += *x;
        sums[c] = sum;
    }
    for (c = 0; c < p->channels && row == p->rows - 1; c++) {
        const int32_t half = p->count / 2, sum = sums[c] - p->zero_point_sum;
        const int32_t y = p->count ? (sum > 0 ? sum + half : sum - half) / p->count
                                   : mn_scale_wide(sum, p->multiplier, p->shift) + p->zero_point;
        out[c] = mn_clamp(y, p->min, p->max);
    }
}

static inline void mn_max_row(const void *parameters, const int8_t *const *in,
                              int8_t *out, void *scratch, int32_t row)
{
    const struct mn_max_row *p = parameters;
    int8_t *largest = scratch;
    for (int32_t c = 0; c < p->channels; c++) {
        const int8_t *x = in[0] + c;
        int8_t max = row ? largest[c] : -128;
        for (int32_t left = p->columns; left > 0; left--, x += p->channels)
            max = *x > max ? *x : max;
        largest[c] = max;
        if (row == p->rows - 1)
            out[c] = mn_clamp(max, p->min, p->max);
    }
}

static inline void mn_add_row(const void *parameters, const int8_t *const *in,
                              int8_t *out, void *scratch, int32_t row)
{
    (void)scratch, (void)row;
    mn_add(parameters, in[0], in[1], out);
}

static inline void mn_mul_row(const void *parameters, const int8_t *const *in,
                              int8_t *out, void *scratch, int32_t row)
{
    (void)scratch, (void)row;
    mn_mul(parameters, in[0], in[1], out);
}

static inline void mn_softmax_row(const void *parameters, const int8_t *const *in,
                                  int8_t *out, void *scratch, int32_t row)
{
    (void)scratch, (void)row;
    mn_softmax(parameters, in[0], out);
}

static inline void mn_bytes_row(const void *parameters, const int8_t *const *in,
                                int8_t *out, void *scratch, int32_t row)
{
    const struct mn_bytes_row *p = parameters;
    (void)scratch, (void)row;
    if (p->table)
        mn_table(p->table, (const uint8_t *)in[0], (uint8_t *)out, p->bytes);
    else
        mn_flip((const uint8_t *)in[0], (uint8_t *)out, p->bytes);
}

static inline void mn_quantize_row(const void *parameters, const int8_t *const *in,
                                   int8_t *out, void *scratch, int32_t row)
{
    const struct mn_float_row *p = parameters;
    (void)scratch, (void)row;
    mn_quantize(p->scale, p->zero_point, (const float *)(const void *)in[0], out, p->count);
}

static inline void mn_dequantize_row(const void *parameters, const int8_t *const *in,
                                     int8_t *out, void *scratch, int32_t row)
{
    const struct mn_float_row *p = parameters;
    float *to = (float *)(void *)out;
    (void)scratch, (void)row;
    if (p->is_unsigned)
        mn_dequantize_u8(p->scale, p->zero_point, (const uint8_t *)in[0], to, p->count);
    else
        mn_dequantize(p->scale, p->zero_point, in[0], to, p->count);
}

static inline void mn_move_row(const void *parameters, const int8_t *const *in,
                               int8_t *out, void *scratch, int32_t row)
{
    const struct mn_move_row *p = parameters;
    (void)scratch, (void)row;
    if (p->fills)
        memset(out, p->fill, (size_t)p->bytes);
    for (int32_t i = 0; i < p->num_parts; i++) {
        const int32_t *part = p->parts + 12 * i;
        const int8_t *from = in[part[0]];
        for (int32_t a = 0; a < part[3] && from; a++)
            for (int32_t b = 0; b < part[6]; b++)
                memcpy(out + part[2] + a * part[5] + b * part[8],
                       from + part[1] + a * part[4] + b * part[7], (size_t)part[9]);
    }
}

static inline void mn_resize_row(const void *parameters, const int8_t *const *in,
                                 int8_t *out, void *scratch, int32_t row)
{
    const struct mn_resize_row *p = parameters;
    (void)scratch, (void)row;
    for (int32_t x = 0; x < p->out_columns; x++, out += p->channels)
        memcpy(out, in[0] + p->columns[x] * p->channels, (size_t)p->channels);
}

#endif
