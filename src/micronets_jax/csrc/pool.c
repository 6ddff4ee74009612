/* Average and maximum pooling; padding takes no part. */
#include "vectors.h"

struct window {
    const int8_t *start;
    int rows, columns;
};

/* The part of the window of output `row`, `column` that lies inside the picture. */
static struct window clip(const struct mn_pool *p, const int8_t *in, int row, int column)
{
    const int y = row * p->stride_rows - p->pad_top, x = column * p->stride_columns - p->pad_left;
    const int top = y < 0 ? 0 : y, left = x < 0 ? 0 : x;
    const int bottom = y + p->kernel_rows, right = x + p->kernel_columns;
    struct window w;
    w.start = in + (top * p->in_columns + left) * p->channels;
    w.rows = (bottom > p->in_rows ? p->in_rows : bottom) - top;
    w.columns = (right > p->in_columns ? p->in_columns : right) - left;
    return w;
}

void mn_average_pool(const struct mn_pool *p, const int8_t *in, int8_t *out)
{
    const int pitch = p->in_columns * p->channels;
    for (int row = 0; row < p->out_rows; row++)
        for (int column = 0; column < p->out_columns; column++) {
            const struct window w = clip(p, in, row, column);
            const int32_t count = w.rows * w.columns;
            int channel = 0;
#if MN_MVE
            for (; channel + 4 <= p->channels; channel += 4) {
                int32x4_t sums = vdupq_n_s32(0);
                int32_t four[4];
                for (int y = 0; y < w.rows; y++) {
                    const int8_t *at = w.start + y * pitch + channel;
                    for (int x = 0; x < w.columns; x++, at += p->channels)
                        sums = vaddq_s32(sums, vldrbq_s32(at));
                }
                vst1q_s32(four, sums);
                for (int i = 0; i < 4; i++)
                    *out++ = mn_clamp(
                        (four[i] > 0 ? four[i] + count / 2 : four[i] - count / 2) / count, p->min,
                        p->max);
            }
#endif
            for (; channel < p->channels; channel++) {
                int32_t sum = 0;
                for (int y = 0; y < w.rows; y++) {
                    const int8_t *at = w.start + y * pitch + channel;
                    for (int x = 0; x < w.columns; x++, at += p->channels)
                        sum += *at;
                }
                sum = (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
                *out++ = mn_clamp(sum, p->min, p->max);
            }
        }
}

void mn_max_pool(const struct mn_pool *p, const int8_t *in, int8_t *out)
{
    const int pitch = p->in_columns * p->channels;
    for (int row = 0; row < p->out_rows; row++)
        for (int column = 0; column < p->out_columns; column++) {
            const struct window w = clip(p, in, row, column);
            for (int channel = 0; channel < p->channels; channel++) {
                int32_t max = -128;
                for (int y = 0; y < w.rows; y++) {
                    const int8_t *at = w.start + y * pitch + channel;
                    for (int x = 0; x < w.columns; x++, at += p->channels)
                        max = *at > max ? *at : max;
                }
                *out++ = mn_clamp(max, p->min, p->max);
            }
        }
}
