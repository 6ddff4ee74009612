/* Depthwise convolution, one channel at a time, specialised for kernel and stride by the compiler.
 *
 * A channel is gathered, widened to int16, into a padded plane in `scratch`; its outputs are written
 * afterwards, so that the output may lie on the input. The plane may be the transposed picture:
 * two outputs of a row are computed together, so rows want to be long. */
#ifndef MN_DEPTHWISE_H
#define MN_DEPTHWISE_H

#include "vectors.h"

#if MN_MVE
typedef int8_t mn_value; /* of a plane */
#else
typedef int16_t mn_value;
#endif

/* Copies a channel to the inside of its plane. */
#if MN_MVE
/* Steps to eight columns are 16 bits. */
enum { MN_FURTHEST = 65535 / 7 };
MN_INLINE uint16x8_t mn_columns(const struct mn_depthwise *d)
{
    return vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)d->in_column_step);
}

/* As bytes. */
MN_NOINLINE void mn_gather_plane(const struct mn_depthwise *d, const int8_t *in, int8_t *plane)
{
    const uint16x8_t columns = mn_columns(d);
    plane += d->pad_top * d->plane_columns + d->pad_left;
    for (int32_t row = 0; row < d->in_rows; row++, in += d->in_row_step, plane += d->plane_columns) {
        const int8_t *from = in;
        int8_t *to = plane;
        for (int32_t i = 0; d->in_column_step > MN_FURTHEST && i < d->in_columns; i++)
            plane[i] = in[i * d->in_column_step];
        for (int32_t left = d->in_column_step > MN_FURTHEST ? 0 : d->in_columns; left > 0;
             left -= 8, to += 8) {
            const mve_pred16_t there = vctp16q((uint32_t)left);
            vstrbq_p_s16(to, vldrbq_gather_offset_z_s16(from, columns, there), there);
            from += 8 * d->in_column_step;
        }
    }
}

/* Rows `y` and `y` + 1, which may lie outside, as the two bytes of an int16. */
MN_INLINE int16x8_t mn_two_rows(const struct mn_depthwise *d, const int8_t *in, int32_t y,
                                uint16x8_t columns, mve_pred16_t there)
{
    int16x8_t first = vdupq_n_s16(d->pad_value), second = first;
    if (y >= 0 && y < d->in_rows)
        first = vldrbq_gather_offset_z_s16(in + y * d->in_row_step, columns, there);
    if (y >= -1 && y + 1 < d->in_rows)
        second = vldrbq_gather_offset_z_s16(in + (y + 1) * d->in_row_step, columns, there);
    return (int16x8_t)vmovntq_s16((int8x16_t)first, second);
}

/* As strips of four rows that begin at every second one: the bytes of a column are a word, so that
 * a window of 3 x 3 is what lies in 12 bytes. */
MN_NOINLINE void mn_gather_strips(const struct mn_depthwise *d, const int8_t *in, int8_t *strips,
                                  int32_t count)
{
    const uint16x8_t columns = mn_columns(d), words = vidupq_n_u16(0, 4);
    const int32_t pitch = 4 * d->plane_columns;
    strips += 4 * d->pad_left;
    for (int32_t left = d->in_columns; left > 0; left -= 8, strips += 32) {
        const mve_pred16_t there = vctp16q((uint32_t)left);
        int32_t y = -d->pad_top;
        int16_t *to = (int16_t *)(void *)strips;
        int16x8x2_t rows;
        rows.val[0] = mn_two_rows(d, in, y, columns, there);
        for (int32_t strip = 0; strip < count; strip++, to += pitch / 2) {
            y += 2;
            rows.val[1] = mn_two_rows(d, in, y, columns, there);
            if (left >= 8) {
                int16_t *at = to;
                __asm__("" : "+r"(at)); /* or gcc 12 advances it within the store, which it cannot */
                vst2q_s16(at, rows);
            } else {
                vstrhq_scatter_offset_p_s16(to, words, rows.val[0], there);
                vstrhq_scatter_offset_p_s16(to + 1, words, rows.val[1], there);
            }
            rows.val[0] = rows.val[1];
        }
        in += 8 * d->in_column_step;
    }
}
#elif MN_DSP
MN_AT(mn_depthwise, in_rows, 10);
MN_AT(mn_depthwise, in_columns, 12);
MN_AT(mn_depthwise, pad_top, 18);
MN_AT(mn_depthwise, pad_left, 20);
MN_AT(mn_depthwise, plane_columns, 24);
MN_AT(mn_depthwise, in_row_step, 36);
MN_AT(mn_depthwise, in_column_step, 40);
#define MN_GATHER_4                                                                                \
    "ldrsb r9, [r0]\n\t"                                                                           \
    "ldrsb r10, [r0, r3]\n\t"                                                                      \
    "ldrsb r11, [r0, r3, lsl #1]\n\t"                                                              \
    "strh r9, [r7], #2\n\t"                                                                        \
    "ldrsb r9, [r0, lr]\n\t"                                                                       \
    "strh r10, [r7], #2\n\t"                                                                       \
    "strh r11, [r7], #2\n\t"                                                                       \
    "strh r9, [r7], #2\n\t"                                                                        \
    "add r0, r0, r3, lsl #2\n\t"
MN_NAKED mn_gather_plane(MN_REGISTER const struct mn_depthwise *d, MN_REGISTER const int8_t *in,
                         MN_REGISTER int16_t *plane)
{
    __asm__ volatile("push {r4-r11, lr}\n\t"
                     "ldrsh r3, [r0, #18]\n\t"
                     "ldrsh r4, [r0, #24]\n\t"
                     "ldrsh r5, [r0, #20]\n\t"
                     "mla r3, r3, r4, r5\n\t"
                     "add r2, r2, r3, lsl #1\n\t"
                     "lsls r4, r4, #1\n\t"
                     "ldr r12, [r0, #36]\n\t"
                     "ldr r3, [r0, #40]\n\t"
                     "ldrsh r5, [r0, #10]\n\t"
                     "ldrsh r6, [r0, #12]\n\t"
                     "add lr, r3, r3, lsl #1\n\t"
                     "cmp r5, #0\n\t"
                     "ble 7f\n"
                     "1:\n\t" /* a row */
                     "mov r0, r1\n\t"
                     "mov r7, r2\n\t"
                     "lsrs r8, r6, #3\n\t" /* an odd number of fours enters in the middle */
                     "bcc 2f\n\t"
                     "adds r8, r8, #1\n\t"
                     "b 4f\n"
                     "2:\n\t"
                     "beq 5f\n"
                     "3:\n\t" MN_GATHER_4 "4:\n\t" MN_GATHER_4
                     "subs r8, r8, #1\n\t"
                     "bne 3b\n"
                     "5:\n\t"
                     "ands r8, r6, #3\n\t"
                     "beq 6f\n"
                     "8:\n\t"
                     "ldrsb r9, [r0]\n\t"
                     "add r0, r0, r3\n\t"
                     "strh r9, [r7], #2\n\t"
                     "subs r8, r8, #1\n\t"
                     "bne 8b\n"
                     "6:\n\t"
                     "add r1, r1, r12\n\t"
                     "add r2, r2, r4\n\t"
                     "subs r5, r5, #1\n\t"
                     "bne 1b\n"
                     "7:\n\t"
                     "pop {r4-r11, pc}\n\t");
}
#else
MN_NOINLINE void mn_gather_plane(const struct mn_depthwise *d, const int8_t *in, int16_t *plane)
{
    plane += d->pad_top * d->plane_columns + d->pad_left;
    for (int row = 0; row < d->in_rows; row++, in += d->in_row_step, plane += d->plane_columns)
        for (int column = 0; column < d->in_columns; column++)
            plane[column] = in[column * d->in_column_step];
}
#endif

#if MN_MVE
/* What the assembly below needs for one channel; it reads members by their offsets. */
struct mn_strips {
    int8_t weights[16]; /* a word for each column, its last byte and the last word 0 */
    const struct mn_channel *channel;
    const int8_t *x;
    int8_t *out;
    int32_t pitch;    /* bytes of a strip */
    int32_t row_step; /* between outputs */
    int32_t column_step, rows, min, max;
    int32_t groups; /* of four outputs in a row, beside which there are: */
    int32_t rest;
};
MN_AT(mn_strips, channel, 16);
MN_AT(mn_strips, column_step, 36);
MN_AT(mn_strips, groups, 52);

/* Sums of the first row of a strip in r0, r2, r4, r6, of the second in r8, r10, r12, lr; of that the
 * weights are those of the first a byte further. */
#define MN_STRIP_1(first, second, advance)                                                         \
    "vldrb.8 q0, [r1], #" advance "\n\t"                                                           \
    "vmladav.s8 " first ", q0, q3\n\t"                                                             \
    "vmladav.s8 " second ", q0, q4\n\t"
#define MN_STRIP_2(first, second, advance)                                                         \
    "vldrb.8 q0, [r1], #" advance "\n\t"                                                           \
    "vmladav.s8 " first ", q0, q3\n\t"
#define MN_VECTOR(q, s0, s1, s2, s3)                                                               \
    "vmov " q "[2], " q "[0], " s0 ", " s2 "\n\t"                                                  \
    "vmov " q "[3], " q "[1], " s1 ", " s3 "\n\t"
#define MN_SIGN_MN_POSITIVE(q)
#define MN_SIGN_MN_SIGNED(q)                                                                       \
    "vshr.s32 " q ", " q ", #31\n\t"                                                               \
    "vadd.i32 q0, q0, " q "\n\t"
#define MN_STRIP_OUTPUTS(q, ROUNDING, out)                                                         \
    "vadd.i32 " q ", " q ", r9\n\t"                                                                \
    "vqrdmulh.s32 q0, " q ", r3\n\t" MN_SIGN_##ROUNDING(q)                                         \
    "vadd.i32 q0, q0, r5\n\t"                                                                      \
    "vshl.s32 q0, r7\n\t"                                                                          \
    "vmax.s32 q0, q0, q6\n\t"                                                                      \
    "vmin.s32 q0, q0, q7\n\t"                                                                      \
    "vstrb.32 q0, [" out ", q5]\n\t"
/* An odd last row is both: the step between rows is 0 then, and it is written last. */
#define MN_STRIP_SECOND_1(ROUNDING)                                                                \
    MN_VECTOR("q2", "r8", "r10", "r12", "lr")                                                      \
    "ldr r2, [sp, #16]\n\t"                                                                        \
    "add r2, r2, r11\n\t" MN_STRIP_OUTPUTS("q2", ROUNDING, "r2")
#define MN_STRIP_SECOND_2(ROUNDING)
#define MN_STRIP_ROWS_1 "2"
#define MN_STRIP_ROWS_2 "1"

/* Stack: 0 x, 4 out, 8 groups left, 12 step to the next group, 16 between rows, 20 rows left, 24
 * parameters, 28 whether the rest is to come. Rows that are no multiple of four end with a group that
 * overlaps the one before. */
#define MN_STRIPS(name, SR, ADVANCE, ROUNDING)                                                     \
    MN_NAKED name(MN_REGISTER const struct mn_strips *strips)                                      \
    {                                                                                              \
        __asm__ volatile(                                                                          \
            "push {r4-r11, lr}\n\t"                                                                \
            "vpush {d8-d15}\n\t"                                                                   \
            "sub sp, sp, #36\n\t"                                                                  \
            "vldrb.8 q3, [r0]\n\t"                                                                 \
            "vshl.i32 q4, q3, #8\n\t"                                                              \
            "str r0, [sp, #24]\n\t"                                                                \
            "add r1, r0, #16\n\t"                                                                  \
            "ldm r1, {r2, r3, r4, r5, r6, r7, r8, r10, r11}\n\t"                                   \
            "strd r3, r4, [sp]\n\t"                                                                \
            "lsls r9, r7, #2\n\t"                                                                  \
            "strd r9, r6, [sp, #12]\n\t"                                                           \
            "str r8, [sp, #20]\n\t"                                                                \
            "vdup.32 q6, r10\n\t"                                                                  \
            "vdup.32 q7, r11\n\t"                                                                  \
            "movs r0, #0\n\t"                                                                      \
            "vidup.u32 q5, r0, #1\n\t"                                                             \
            "vmul.i32 q5, q5, r7\n\t"                                                              \
            "ldr r9, [r2]\n\t"                                                                     \
            "ldr r3, [r2, #4]\n\t"                                                                 \
            "ldr r5, [r2, #8]\n\t"                                                                 \
            "ldr r7, [r2, #12]\n\t"                                                                \
            "rsbs r7, r7, #0\n"                                                                    \
            "1:\n\t" /* a strip */                                                                 \
            "ldr r0, [sp, #24]\n\t"                                                                \
            "ldrd r1, r11, [sp]\n\t"                                                               \
            "ldrd r2, r4, [r0, #52]\n\t"                                                           \
            "str r2, [sp, #8]\n\t"                                                                 \
            "str r4, [sp, #28]\n\t"                                                                \
            "ldr r2, [sp, #20]\n\t"                                                                \
            "cmp r2, #1\n\t"                                                                       \
            "bne 2f\n\t"                                                                           \
            "movs r2, #0\n\t"                                                                      \
            "str r2, [sp, #16]\n"                                                                  \
            "2:\n\t" /* a group */                                                                 \
            MN_STRIP_##SR("r0", "r8", ADVANCE) MN_STRIP_##SR("r2", "r10", ADVANCE)                 \
            MN_STRIP_##SR("r4", "r12", ADVANCE) MN_STRIP_##SR("r6", "lr", ADVANCE)                 \
            MN_VECTOR("q1", "r0", "r2", "r4", "r6") MN_STRIP_SECOND_##SR(ROUNDING)                 \
            MN_STRIP_OUTPUTS("q1", ROUNDING, "r11")                                                \
            "ldrd r0, r2, [sp, #8]\n\t"                                                            \
            "add r11, r11, r2\n\t"                                                                 \
            "subs r0, r0, #1\n\t"                                                                  \
            "str r0, [sp, #8]\n\t"                                                                 \
            "bne 2b\n\t"                                                                           \
            "ldr r2, [sp, #28]\n\t"                                                                \
            "cmp r2, #0\n\t"                                                                       \
            "beq 3f\n\t"                                                                           \
            "str r0, [sp, #28]\n\t"                                                                \
            "movs r4, #1\n\t"                                                                      \
            "str r4, [sp, #8]\n\t"                                                                 \
            "rsb r2, r2, #4\n\t"                                                                   \
            "mov r6, #" ADVANCE "\n\t"                                                             \
            "mls r1, r2, r6, r1\n\t"                                                               \
            "ldr r6, [sp, #24]\n\t"                                                                \
            "ldr r6, [r6, #36]\n\t"                                                                \
            "mls r11, r2, r6, r11\n\t"                                                             \
            "b 2b\n"                                                                               \
            "3:\n\t"                                                                               \
            "ldr r0, [sp, #24]\n\t"                                                                \
            "ldrd r1, r11, [sp]\n\t"                                                               \
            "ldrd r2, r4, [r0, #28]\n\t"                                                           \
            "add r1, r1, r2\n\t"                                                                   \
            "ldr r2, [sp, #20]\n\t"                                                                \
            "mov r6, #" MN_STRIP_ROWS_##SR "\n\t"                                                  \
            "mla r11, r4, r6, r11\n\t"                                                             \
            "strd r1, r11, [sp]\n\t"                                                               \
            "subs r2, r2, r6\n\t"                                                                  \
            "str r2, [sp, #20]\n\t"                                                                \
            "bgt 1b\n\t"                                                                           \
            "add sp, sp, #36\n\t"                                                                  \
            "vpop {d8-d15}\n\t"                                                                    \
            "pop {r4-r11, pc}\n\t");                                                               \
    }

MN_STRIPS(mn_strips_11_positive, 1, "4", MN_POSITIVE)
MN_STRIPS(mn_strips_11_signed, 1, "4", MN_SIGNED)
MN_STRIPS(mn_strips_12_positive, 1, "8", MN_POSITIVE)
MN_STRIPS(mn_strips_12_signed, 1, "8", MN_SIGNED)
MN_STRIPS(mn_strips_21_positive, 2, "4", MN_POSITIVE)
MN_STRIPS(mn_strips_21_signed, 2, "4", MN_SIGNED)
MN_STRIPS(mn_strips_22_positive, 2, "8", MN_POSITIVE)
MN_STRIPS(mn_strips_22_signed, 2, "8", MN_SIGNED)
#define MN_STRIPS_OF(sr, sc, rounding)                                                             \
    ((sr) == 1                                                                                     \
         ? (sc) == 1 ? (rounding) == MN_POSITIVE ? mn_strips_11_positive : mn_strips_11_signed     \
           : (rounding) == MN_POSITIVE ? mn_strips_12_positive : mn_strips_12_signed               \
     : (sc) == 1 ? (rounding) == MN_POSITIVE ? mn_strips_21_positive : mn_strips_21_signed         \
     : (rounding) == MN_POSITIVE ? mn_strips_22_positive : mn_strips_22_signed)

/* One channel of strips by squares of 3, 5 and 7, one output after the other. Of 5 x 5 the rows that
 * a strip does not hold are in the next one, of 7 x 7 in the one behind it. */
MN_INLINE void mn_depthwise_windows(const struct mn_depthwise *d, const int8_t *strips,
                                    const int8_t *weights, const struct mn_channel *channel,
                                    int8_t *out, int side, int sr, int sc)
{
    enum { MOST = 8 };
    const int32_t pitch = 4 * d->plane_columns, second = side == 5 ? pitch : 2 * pitch;
    int8x16_t w[4];
    int32_t sums[MOST];
    for (int v = 0; v < (side == 3 ? 1 : 4); v++)
        w[v] = mn_window_weights(weights, side, v, 1, mn_window_bits[(side - 3) / 2][v]);
    for (int odd = 0; odd < (sr == 1 ? 2 : 1); odd++) {
        int8x16_t v[4] = {w[0], w[0], w[0], w[0]};
        if (side > 3)
            for (int i = 0; i < 4; i++)
                v[i] = w[i];
        for (int i = 0; odd && i < (side == 3 ? 1 : 2); i++) { /* a row further */
            if (side > 3)
                v[2 + i] = (int8x16_t)vsliq_n_u32(vshrq_n_u32((uint32x4_t)w[i], 24),
                                                  (uint32x4_t)w[2 + i], 8);
            v[i] = (int8x16_t)vshlq_n_u32((uint32x4_t)w[i], 8);
        }
        for (int i = 2; side == 5 && i < 4; i++)
            v[i] = (int8x16_t)vshlq_n_u32((uint32x4_t)v[i], 16);
        for (int32_t row = odd; row < d->out_rows; row += sr == 1 ? 2 : 1) {
            const int8_t *x = strips + (sr == 1 ? row / 2 : row) * pitch;
            int8_t *to = out + row * d->out_row_step;
            for (int32_t left = d->out_columns; left > 0; left -= MOST, x += 4 * sc * MOST) {
                const int32_t count = left < MOST ? left : MOST;
                mn_window_sums(x, second, 4 * sc, count, side, v, sums, 1);
                mn_window_outputs(sums, count, channel->bias, channel, d->min, d->max, to,
                                  d->out_column_step);
                to += MOST * d->out_column_step;
            }
        }
    }
}

/* One channel of a plane of bytes by any kernel, four outputs at a time. */
MN_INLINE void mn_depthwise_bytes(const struct mn_depthwise *d, const int8_t *plane,
                                  const int8_t *weights, const struct mn_channel *channel,
                                  int8_t *out, int kr, int kc, int sr, int sc, int rounding)
{
    const int32_t pitch = d->plane_columns, step = d->out_column_step;
    const int32x4_t min = vdupq_n_s32(d->min), max = vdupq_n_s32(d->max);
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)step);
    const uint32x4_t columns = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)sc);
    for (int32_t row = 0; row < d->out_rows; row++, plane += sr * pitch, out += d->out_row_step) {
        const int8_t *window = plane;
        int8_t *to = out;
        for (int32_t left = d->out_columns; left > 0; left -= 4, window += 4 * sc, to += 4 * step) {
            const mve_pred16_t there = vctp32q((uint32_t)left);
            const int8_t *x = window, *w = weights;
            int32x4_t acc = vdupq_n_s32(channel->bias), y;
            for (int k = 0; k < kr; k++, x += pitch, w += kc) {
#pragma GCC unroll 8
                for (int i = 0; i < kc; i++) {
                    const int32x4_t at = sc == 1
                                             ? vldrbq_z_s32(x + i, there)
                                             : vldrbq_gather_offset_z_s32(x + i, columns, there);
                    acc = vmlaq_n_s32(acc, at, w[i]);
                }
            }
            y = vqrdmulhq_n_s32(acc, channel->multiplier);
            if (rounding != MN_POSITIVE)
                y = vaddq_s32(y, vshrq_n_s32(acc, 31));
            y = vshlq_r_s32(vaddq_n_s32(y, channel->offset), -channel->shift);
            y = vminq_s32(vmaxq_s32(y, min), max);
            vstrbq_scatter_offset_p_s32(to, places, y, there);
        }
    }
}
#endif

#if !MN_MVE
/* Two values at a time; planes have an even number of columns. */
MN_NOINLINE void mn_fill_plane(int16_t *plane, int32_t values, int16_t value)
{
    const int16_t two[2] = {value, value};
    for (; values > 0; values -= 2, plane += 2)
        memcpy(plane, two, sizeof two);
}
#endif

#if MN_DSP && !MN_MVE
/* What the assembly below needs for one channel; it reads members by their offsets. */
struct mn_rows {
    const int16_t *x;  /* first word of the current row of windows */
    int32_t row_bytes; /* from one row of windows to the next */
    int8_t *out;
    int32_t out_row_step;
    int32_t pitch;          /* bytes of one row of the plane */
    const int32_t *weights; /* pairs, see below */
    int32_t multiplier;
    int32_t offset;
    int32_t shift;
    int32_t step; /* between the outputs of a pair, set by the loop */
    int32_t bias;
    int32_t pairs_bytes; /* of the plane that whole pairs of outputs advance over */
    int32_t odd;         /* whether a single output follows the pairs */
    int32_t rows;
    int32_t column_step;
    const int16_t *end; /* set by the loop */
};
MN_AT(mn_rows, x, 0);
MN_AT(mn_rows, row_bytes, 4);
MN_AT(mn_rows, out, 8);
MN_AT(mn_rows, out_row_step, 12);
MN_AT(mn_rows, pitch, 16);
MN_AT(mn_rows, weights, 20);
MN_AT(mn_rows, multiplier, 24);
MN_AT(mn_rows, offset, 28);
MN_AT(mn_rows, shift, 32);
MN_AT(mn_rows, step, 36);
MN_AT(mn_rows, bias, 40);
MN_AT(mn_rows, pairs_bytes, 44);
MN_AT(mn_rows, odd, 48);
MN_AT(mn_rows, rows, 52);
MN_AT(mn_rows, column_step, 56);
MN_AT(mn_rows, end, 60);

/* Weights of one row, doubled, as overlapping pairs (0,1) (1,2) (2,3) ..., so that outputs at even and
 * at odd columns both read whole words of the plane. Sums are doubled as requantisation wants them. */
MN_NOINLINE void mn_pair_weights(const int8_t *w, int32_t *pairs, int rows, int columns)
{
    for (int row = 0; row < rows; row++) {
        int32_t previous = 2 * *w++;
        for (int column = 1; column < columns; column++) {
            const int32_t next = 2 * *w++;
            *pairs++ = mn_pkhbt(previous, next);
            previous = next;
        }
    }
}

/* One row of the window for two outputs, sums in r0 and r1, plane at r10. 3 x 3 keeps its weights in
 * r4-r9; 5 x 5 and 7 x 7 load them from r9 on. */
#define MN_NEXT "add r10, r10, r11\n\t"
#define MN_ROW_3_1(w01, w12)                                                                       \
    "ldrd r2, r3, [r10]\n\t"                                                                       \
    "smlad r0, r2, " w01 ", r0\n\t"                                                                \
    "smlatb r1, r2, " w01 ", r1\n\t"                                                               \
    "smlabt r0, r3, " w12 ", r0\n\t"                                                               \
    "smlad r1, r3, " w12 ", r1\n\t"
#define MN_ROW_3_2(w01, w12)                                                                       \
    "ldrd r2, r3, [r10]\n\t"                                                                       \
    "smlad r0, r2, " w01 ", r0\n\t"                                                                \
    "ldr r2, [r10, #8]\n\t"                                                                        \
    "smlabt r0, r3, " w12 ", r0\n\t"                                                               \
    "smlad r1, r3, " w01 ", r1\n\t"                                                                \
    "smlabt r1, r2, " w12 ", r1\n\t"
#define MN_ROW_5_1                                                                                 \
    "ldmia r9!, {r4-r7}\n\t"                                                                       \
    "ldmia r10, {r2, r3, r8}\n\t"                                                                  \
    "smlad r0, r2, r4, r0\n\t"                                                                     \
    "smlatb r1, r2, r4, r1\n\t"                                                                    \
    "smlad r0, r3, r6, r0\n\t"                                                                     \
    "smlad r1, r3, r5, r1\n\t"                                                                     \
    "smlabt r0, r8, r7, r0\n\t"                                                                    \
    "smlad r1, r8, r7, r1\n\t"
#define MN_ROW_5_2                                                                                 \
    "ldmia r9!, {r4-r7}\n\t"                                                                       \
    "ldmia r10, {r2, r3, r5, r8}\n\t"                                                              \
    "smlad r0, r2, r4, r0\n\t"                                                                     \
    "smlad r1, r3, r4, r1\n\t"                                                                     \
    "smlad r0, r3, r6, r0\n\t"                                                                     \
    "smlad r1, r5, r6, r1\n\t"                                                                     \
    "smlabt r0, r5, r7, r0\n\t"                                                                    \
    "smlabt r1, r8, r7, r1\n\t"
#define MN_ROW_7_1                                                                                 \
    "ldmia r10, {r2-r5}\n\t"                                                                       \
    "ldmia r9!, {r6-r8}\n\t"                                                                       \
    "smlad r0, r2, r6, r0\n\t"                                                                     \
    "smlatb r1, r2, r6, r1\n\t"                                                                    \
    "smlad r0, r3, r8, r0\n\t"                                                                     \
    "smlad r1, r3, r7, r1\n\t"                                                                     \
    "ldmia r9!, {r6-r8}\n\t"                                                                       \
    "smlad r0, r4, r7, r0\n\t"                                                                     \
    "smlad r1, r4, r6, r1\n\t"                                                                     \
    "smlabt r0, r5, r8, r0\n\t"                                                                    \
    "smlad r1, r5, r8, r1\n\t"
#define MN_ROW_7_2                                                                                 \
    "ldmia r10, {r2-r5}\n\t"                                                                       \
    "ldmia r9!, {r6-r8}\n\t"                                                                       \
    "smlad r0, r2, r6, r0\n\t"                                                                     \
    "ldr r2, [r10, #16]\n\t"                                                                       \
    "smlad r1, r3, r6, r1\n\t"                                                                     \
    "smlad r0, r3, r8, r0\n\t"                                                                     \
    "smlad r1, r4, r8, r1\n\t"                                                                     \
    "ldmia r9!, {r6-r8}\n\t"                                                                       \
    "smlad r0, r4, r7, r0\n\t"                                                                     \
    "smlad r1, r5, r7, r1\n\t"                                                                     \
    "smlabt r0, r5, r8, r0\n\t"                                                                    \
    "smlabt r1, r2, r8, r1\n\t"

/* All rows of a window, and the plane pointer back and on to the next pair. */
#define MN_WINDOW_3(S, advance)                                                                    \
    MN_ROW_3_##S("r4", "r5") MN_NEXT MN_ROW_3_##S("r6", "r7") MN_NEXT MN_ROW_3_##S("r8", "r9")     \
    "sub r10, r10, r11, lsl #1\n\t"                                                                \
    "adds r10, r10, #" advance "\n\t"
#define MN_WINDOW_5(S, advance)                                                                    \
    "ldr r9, [lr, #20]\n\t" MN_ROW_5_##S MN_NEXT MN_ROW_5_##S MN_NEXT MN_ROW_5_##S MN_NEXT         \
        MN_ROW_5_##S MN_NEXT MN_ROW_5_##S                                                          \
    "sub r10, r10, r11, lsl #2\n\t"                                                                \
    "adds r10, r10, #" advance "\n\t"
#define MN_WINDOW_7(S, advance)                                                                    \
    "ldr r9, [lr, #20]\n\t" MN_ROW_7_##S MN_NEXT MN_ROW_7_##S MN_NEXT MN_ROW_7_##S MN_NEXT         \
        MN_ROW_7_##S MN_NEXT MN_ROW_7_##S MN_NEXT MN_ROW_7_##S MN_NEXT MN_ROW_7_##S                \
    "sub r10, r10, r11, lsl #2\n\t"                                                                \
    "sub r10, r10, r11, lsl #1\n\t"                                                                \
    "adds r10, r10, #" advance "\n\t"

/* A window of one row keeps its weights in r4-r9. */
#define MN_WINDOW_LINE3(S, advance)                                                                \
    MN_ROW_3_##S("r4", "r5") "adds r10, r10, #" advance "\n\t"
#define MN_LINE_5_1                                                                                \
    "ldrd r2, r3, [r10]\n\t"                                                                       \
    "smlad r0, r2, r4, r0\n\t"                                                                     \
    "smlatb r1, r2, r4, r1\n\t"                                                                    \
    "ldr r2, [r10, #8]\n\t"                                                                        \
    "smlad r0, r3, r6, r0\n\t"                                                                     \
    "smlad r1, r3, r5, r1\n\t"                                                                     \
    "smlabt r0, r2, r7, r0\n\t"                                                                    \
    "smlad r1, r2, r7, r1\n\t"
#define MN_LINE_5_2                                                                                \
    "ldrd r2, r3, [r10]\n\t"                                                                       \
    "smlad r0, r2, r4, r0\n\t"                                                                     \
    "smlad r0, r3, r6, r0\n\t"                                                                     \
    "smlad r1, r3, r4, r1\n\t"                                                                     \
    "ldrd r2, r3, [r10, #8]\n\t"                                                                   \
    "smlabt r0, r2, r7, r0\n\t"                                                                    \
    "smlad r1, r2, r6, r1\n\t"                                                                     \
    "smlabt r1, r3, r7, r1\n\t"
#define MN_LINE_7_1                                                                                \
    "ldrd r2, r3, [r10]\n\t"                                                                       \
    "smlad r0, r2, r4, r0\n\t"                                                                     \
    "smlatb r1, r2, r4, r1\n\t"                                                                    \
    "smlad r0, r3, r6, r0\n\t"                                                                     \
    "smlad r1, r3, r5, r1\n\t"                                                                     \
    "ldrd r2, r3, [r10, #8]\n\t"                                                                   \
    "smlad r0, r2, r8, r0\n\t"                                                                     \
    "smlad r1, r2, r7, r1\n\t"                                                                     \
    "smlabt r0, r3, r9, r0\n\t"                                                                    \
    "smlad r1, r3, r9, r1\n\t"
#define MN_LINE_7_2                                                                                \
    "ldrd r2, r3, [r10]\n\t"                                                                       \
    "smlad r0, r2, r4, r0\n\t"                                                                     \
    "smlad r0, r3, r6, r0\n\t"                                                                     \
    "smlad r1, r3, r4, r1\n\t"                                                                     \
    "ldrd r2, r3, [r10, #8]\n\t"                                                                   \
    "smlad r0, r2, r8, r0\n\t"                                                                     \
    "smlad r1, r2, r6, r1\n\t"                                                                     \
    "ldr r2, [r10, #16]\n\t"                                                                       \
    "smlabt r0, r3, r9, r0\n\t"                                                                    \
    "smlad r1, r3, r8, r1\n\t"                                                                     \
    "smlabt r1, r2, r9, r1\n\t"
#define MN_WINDOW_LINE5(S, advance) MN_LINE_5_##S "adds r10, r10, #" advance "\n\t"
#define MN_WINDOW_LINE7(S, advance) MN_LINE_7_##S "adds r10, r10, #" advance "\n\t"

#define MN_ROUND_PAIR_MN_POSITIVE                                                                  \
    "ldrd r2, r3, [lr, #24]\n\t"                                                                   \
    "smmlar r0, r0, r2, r3\n\t"                                                                    \
    "smmlar r1, r1, r2, r3\n\t"
#define MN_ROUND_PAIR_MN_SIGNED                                                                    \
    "ldrd r2, r3, [lr, #24]\n\t"                                                                   \
    "add r3, r3, r0, asr #31\n\t"                                                                  \
    "smmlar r0, r0, r2, r3\n\t"                                                                    \
    "ldr r3, [lr, #28]\n\t"                                                                        \
    "add r3, r3, r1, asr #31\n\t"                                                                  \
    "smmlar r1, r1, r2, r3\n\t"

#define MN_ROUND_PAIR_MN_MIXED MN_ROUND_PAIR_MN_SIGNED

/* All outputs of a channel. A row ends, if its length is odd, with a pair of step 0, whose second
 * output is written first and then overwritten. */
#define MN_DEPTHWISE_ROWS(name, K, S, ADVANCE, ROUNDING)                                           \
    MN_NAKED name(MN_REGISTER struct mn_rows *rows)                                                \
    {                                                                                              \
        __asm__ volatile(                                                                          \
            "push {r4-r11, lr}\n\t"                                                                \
            "mov lr, r0\n\t"                                                                       \
            "ldrd r11, r0, [lr, #16]\n\t"                                                          \
            "ldmia r0, {r4-r9}\n"                                                                  \
            "1:\n\t"                                                                               \
            "ldr r10, [lr]\n\t"                                                                    \
            "ldr r2, [lr, #44]\n\t"                                                                \
            "ldr r12, [lr, #8]\n\t"                                                                \
            "ldr r3, [lr, #56]\n\t"                                                                \
            "add r2, r2, r10\n\t"                                                                  \
            "str r3, [lr, #36]\n\t"                                                                \
            "str r2, [lr, #60]\n\t"                                                                \
            "b 3f\n"                                                                               \
            "2:\n\t"                                                                               \
            "ldr r0, [lr, #40]\n\t"                                                                \
            "mov r1, r0\n\t" MN_WINDOW_##K(S, ADVANCE) MN_ROUND_PAIR_##ROUNDING                    \
            "ldrd r2, r3, [lr, #32]\n\t"                                                           \
            "asrs r0, r0, r2\n\t"                                                                  \
            "asrs r1, r1, r2\n\t"                                                                  \
            "ssat r0, #8, r0\n\t"                                                                  \
            "ssat r1, #8, r1\n\t"                                                                  \
            "strb r1, [r12, r3]\n\t"                                                               \
            "strb r0, [r12]\n\t"                                                                   \
            "add r12, r12, r3, lsl #1\n"                                                           \
            "ldr r2, [lr, #60]\n\t"                                                                \
            "3:\n\t"                                                                               \
            "cmp r10, r2\n\t"                                                                      \
            "blo 2b\n\t"                                                                           \
            "ldr r2, [lr, #48]\n\t"                                                                \
            "ldr r3, [lr, #36]\n\t"                                                                \
            "cbz r2, 4f\n\t"                                                                       \
            "cbz r3, 4f\n\t"                                                                       \
            "movs r3, #0\n\t"                                                                      \
            "str r3, [lr, #36]\n\t"                                                                \
            "str r10, [lr, #60]\n\t"                                                               \
            "b 2b\n"                                                                               \
            "4:\n\t"                                                                               \
            "ldmia lr, {r0-r3}\n\t"                                                                \
            "add r0, r0, r1\n\t"                                                                   \
            "add r2, r2, r3\n\t"                                                                   \
            "ldr r1, [lr, #52]\n\t"                                                                \
            "str r0, [lr]\n\t"                                                                     \
            "str r2, [lr, #8]\n\t"                                                                 \
            "subs r1, r1, #1\n\t"                                                                  \
            "str r1, [lr, #52]\n\t"                                                                \
            "bne 1b\n\t"                                                                           \
            "pop {r4-r11, pc}\n\t");                                                               \
    }

/* 3 x 3 at stride 1 takes four outputs at a time, sums in r0-r3, weights in r4-r9, plane at r10. */
#define MN_QUAD_ROW(w01, w12)                                                                      \
    "ldrd r12, lr, [r10]\n\t"                                                                      \
    "smlad r0, r12, " w01 ", r0\n\t"                                                               \
    "smlatb r1, r12, " w01 ", r1\n\t"                                                              \
    "ldr r12, [r10, #8]\n\t"                                                                       \
    "smlabt r0, lr, " w12 ", r0\n\t"                                                               \
    "smlad r1, lr, " w12 ", r1\n\t"                                                                \
    "smlad r2, lr, " w01 ", r2\n\t"                                                                \
    "smlatb r3, lr, " w01 ", r3\n\t"                                                               \
    "smlabt r2, r12, " w12 ", r2\n\t"                                                              \
    "smlad r3, r12, " w12 ", r3\n\t"
#define MN_ROUND_QUAD_MN_POSITIVE                                                                  \
    "smmlar r0, r0, r12, lr\n\t"                                                                   \
    "smmlar r1, r1, r12, lr\n\t"                                                                   \
    "smmlar r2, r2, r12, lr\n\t"                                                                   \
    "smmlar r3, r3, r12, lr\n\t"
#define MN_ROUND_SIGNED(acc)                                                                       \
    "add r11, lr, " acc ", asr #31\n\t"                                                            \
    "smmlar " acc ", " acc ", r12, r11\n\t"
#define MN_ROUND_QUAD_MN_SIGNED                                                                    \
    MN_ROUND_SIGNED("r0") MN_ROUND_SIGNED("r1") MN_ROUND_SIGNED("r2") MN_ROUND_SIGNED("r3")        \
    "ldr r11, [sp, #36]\n\t"
#define MN_ROUND_QUAD_MN_MIXED MN_ROUND_QUAD_MN_SIGNED

/* All outputs of a channel, in rows of three and more. What is left of a row is computed by a group
 * that begins at an even column and overlaps the one before; where the row's length is odd, its last
 * output lies outside and is written below the one before, which is written after it.
 *
 * Stack: 0 bias, 4 shift, 8 multiplier, 12 offset, 16 out, 20 step, 24 from the first output of a
 * group to the last, 28 end of whole groups, 32 parameters, 36 pitch. */
#define MN_DEPTHWISE_QUADS(name, ROUNDING)                                                         \
    MN_NAKED name(MN_REGISTER struct mn_rows *rows)                                                \
    {                                                                                              \
        __asm__ volatile(                                                                          \
            "push {r4-r11, lr}\n\t"                                                                \
            "sub sp, sp, #40\n\t"                                                                  \
            "ldrd r4, r5, [r0, #24]\n\t"                                                           \
            "ldr r6, [r0, #40]\n\t"                                                                \
            "ldr r7, [r0, #32]\n\t"                                                                \
            "strd r6, r7, [sp]\n\t"                                                                \
            "strd r4, r5, [sp, #8]\n\t"                                                            \
            "ldr r6, [r0, #56]\n\t"                                                                \
            "ldrd r11, r1, [r0, #16]\n\t"                                                          \
            "str r6, [sp, #20]\n\t"                                                                \
            "strd r0, r11, [sp, #32]\n\t"                                                          \
            "ldmia r1, {r4-r9}\n"                                                                  \
            "1:\n\t" /* a row */                                                                   \
            "ldr r12, [sp, #32]\n\t"                                                               \
            "ldr r2, [sp, #20]\n\t"                                                                \
            "ldr r10, [r12]\n\t"                                                                   \
            "ldr r1, [r12, #8]\n\t"                                                                \
            "ldr r3, [r12, #44]\n\t"                                                               \
            "add r2, r2, r2, lsl #1\n\t"                                                           \
            "bic r3, r3, #7\n\t"                                                                   \
            "add r3, r3, r10\n\t"                                                                  \
            "str r1, [sp, #16]\n\t"                                                                \
            "strd r2, r3, [sp, #24]\n\t"                                                           \
            "cmp r10, r3\n\t"                                                                      \
            "beq 3f\n"                                                                             \
            "2:\n\t" /* a group */                                                                 \
            "ldr r0, [sp]\n\t"                                                                     \
            "mov r1, r0\n\t"                                                                       \
            "mov r2, r0\n\t"                                                                       \
            "mov r3, r0\n\t" MN_QUAD_ROW("r4", "r5") MN_NEXT MN_QUAD_ROW("r6", "r7") MN_NEXT       \
                MN_QUAD_ROW("r8", "r9")                                                            \
            "sub r10, r10, r11, lsl #1\n\t"                                                        \
            "adds r10, r10, #8\n\t"                                                                \
            "ldrd r12, lr, [sp, #8]\n\t" MN_ROUND_QUAD_##ROUNDING                                  \
            "ldr r12, [sp, #4]\n\t"                                                                \
            "asrs r0, r0, r12\n\t"                                                                 \
            "asrs r1, r1, r12\n\t"                                                                 \
            "asrs r2, r2, r12\n\t"                                                                 \
            "asrs r3, r3, r12\n\t"                                                                 \
            "ldrd r12, lr, [sp, #16]\n\t"                                                          \
            "ssat r0, #8, r0\n\t"                                                                  \
            "ssat r1, #8, r1\n\t"                                                                  \
            "strb r0, [r12]\n\t"                                                                   \
            "strb r1, [r12, lr]\n\t"                                                               \
            "ldrd r0, r1, [sp, #24]\n\t"                                                           \
            "ssat r3, #8, r3\n\t"                                                                  \
            "ssat r2, #8, r2\n\t"                                                                  \
            "strb r3, [r12, r0]\n\t"                                                               \
            "strb r2, [r12, lr, lsl #1]\n\t"                                                       \
            "add r12, r12, lr, lsl #2\n\t"                                                         \
            "str r12, [sp, #16]\n\t"                                                               \
            "cmp r10, r1\n\t"                                                                      \
            "blo 2b\n"                                                                             \
            "3:\n\t" /* what is left of the row */                                                 \
            "ldr r12, [sp, #32]\n\t"                                                               \
            "ldrd r0, r1, [r12, #44]\n\t"                                                          \
            "ldr r2, [r12]\n\t"                                                                    \
            "add r0, r0, r1, lsl #1\n\t"                                                           \
            "add r3, r2, r0\n\t"                                                                   \
            "cmp r10, r3\n\t"                                                                      \
            "bhs 4f\n\t"                                                                           \
            "subs r3, r3, #8\n\t"                                                                  \
            "add r10, r3, r1, lsl #1\n\t"                                                          \
            "sub r2, r10, r2\n\t"                                                                  \
            "ldr r0, [sp, #20]\n\t"                                                                \
            "ldr r3, [r12, #8]\n\t"                                                                \
            "lsrs r2, r2, #1\n\t"                                                                  \
            "mla r3, r2, r0, r3\n\t"                                                               \
            "rsb r1, r1, #3\n\t"                                                                   \
            "mul r2, r1, r0\n\t"                                                                   \
            "str r3, [sp, #16]\n\t"                                                                \
            "movs r3, #0\n\t"                                                                      \
            "strd r2, r3, [sp, #24]\n\t"                                                           \
            "b 2b\n"                                                                               \
            "4:\n\t"                                                                               \
            "ldmia r12, {r0-r3}\n\t"                                                               \
            "add r0, r0, r1\n\t"                                                                   \
            "add r2, r2, r3\n\t"                                                                   \
            "ldr r1, [r12, #52]\n\t"                                                               \
            "str r0, [r12]\n\t"                                                                    \
            "str r2, [r12, #8]\n\t"                                                                \
            "subs r1, r1, #1\n\t"                                                                  \
            "str r1, [r12, #52]\n\t"                                                               \
            "bne 1b\n\t"                                                                           \
            "add sp, sp, #40\n\t"                                                                  \
            "pop {r4-r11, pc}\n\t");                                                               \
    }
#endif

MN_NOINLINE void mn_clamp_plane(const struct mn_depthwise *d, int8_t *out)
{
    for (int row = 0; row < d->out_rows; row++, out += d->out_row_step)
        for (int column = 0; column < d->out_columns; column++)
            out[column * d->out_column_step] =
                mn_clamp(out[column * d->out_column_step], d->min, d->max);
}

/* One channel by any kernel: what MN_DEPTHWISE_ROWS does, in C. */
MN_INLINE void mn_depthwise_plane(const struct mn_depthwise *d, const mn_value *plane,
                                  const int8_t *weights, const struct mn_channel *channel,
                                  int8_t *out, int kr, int kc, int sr, int sc, int rounding)
{
    const int32_t pitch = d->plane_columns;
    for (int row = 0; row < d->out_rows; row++, plane += sr * pitch, out += d->out_row_step)
        for (int column = 0; column < d->out_columns; column++) {
            const mn_value *window = plane + column * sc;
            const int8_t *w = weights;
            uint32_t acc = (uint32_t)channel->bias;
            for (int k = 0; k < kr; k++, window += pitch)
                for (int i = 0; i < kc; i++)
                    acc += (uint32_t)(window[i] * *w++);
            out[column * d->out_column_step] =
                (int8_t)mn_requantize((int32_t)acc, channel, rounding);
        }
}

#if !MN_DSP
/* A row of the windows of two outputs. */
#define MN_ROW_OF_TWO                                                                              \
    MN_WRITTEN_OUT                                                                                 \
    for (int i = 0; i < kc; i++) {                                                                 \
        a += (uint32_t)(window[i] * w[i]);                                                         \
        MN_ONE_BY_ONE(a);                                                                          \
        b += (uint32_t)(window[i + sc] * w[i]);                                                    \
        MN_ONE_BY_ONE(b);                                                                          \
    }                                                                                              \
    window += pitch;                                                                               \
    w += kc;

/* One channel whose rows have two outputs and more: two at once, of an odd row the last two again. */
MN_SPECIAL void mn_depthwise_twos(const struct mn_depthwise *d, const mn_value *plane,
                                  const int8_t *weights, const struct mn_channel *channel,
                                  int8_t *out, int kr, int kc, int sr, int sc, int rounding)
{
    const int32_t pitch = d->plane_columns, last = d->out_columns - 2;
    for (int row = 0; row < d->out_rows; row++, plane += sr * pitch, out += d->out_row_step)
        for (int column = 0; column <= last; column += column + 1 == last ? 1 : 2) {
            const mn_value *window = plane + column * sc;
            const int8_t *w = weights;
            int8_t *const to = out + column * d->out_column_step;
            uint32_t a = (uint32_t)channel->bias, b = a;
            if (kr == 3) {
                MN_ROW_OF_TWO
                MN_ROW_OF_TWO
                MN_ROW_OF_TWO
            }
            for (int k = kr == 3 ? 3 : 0; k < kr; k++) {
                MN_ROW_OF_TWO
            }
            to[0] = (int8_t)mn_requantize((int32_t)a, channel, rounding);
            to[d->out_column_step] = (int8_t)mn_requantize((int32_t)b, channel, rounding);
        }
}
#endif

/* The function of one layer's shape; kr, kc, sr, sc, rounding and clamp are constants.
 * MN_DEPTHWISE takes any; MN_DEPTHWISE_FAST takes squares of 3, 5 and 7 at stride 1 and 2, and
 * MN_DEPTHWISE_LINE one row of as many; MN_DEPTHWISE_FOURS takes 3 x 3 at stride 1 in rows of three
 * outputs and more. */
#define MN_DEPTHWISE_BODY(name, kr, kc, sr, sc, rounding, clamp, CHANNEL)                          \
    MN_NOINLINE void name(const struct mn_depthwise *d, const int8_t *in, int8_t *out,             \
                          void *scratch)                                                           \
    {                                                                                              \
        int16_t *plane = scratch;                                                                  \
        const int8_t *weights = d->weights;                                                        \
        mn_fill_plane(plane, d->plane_rows * d->plane_columns, d->pad_value);                      \
        for (int32_t c = 0; c < d->num_channels; c++, in++, out++, weights += (kr) * (kc)) {       \
            mn_gather_plane(d, in, plane);                                                         \
            CHANNEL(name, kr, kc, sr, sc, rounding)                                                \
            if (clamp)                                                                             \
                mn_clamp_plane(d, out);                                                            \
        }                                                                                          \
    }
#define MN_CHANNEL_C(name, kr, kc, sr, sc, rounding)                                               \
    mn_depthwise_plane(d, plane, weights, &d->channels[c], out, kr, kc, sr, sc, rounding);
#if MN_MVE
#define MN_DEPTHWISE(name, kr, kc, sr, sc, rounding, clamp)                                        \
    MN_DEPTHWISE_VECTORS(name, kr, kc, sr, sc, rounding, MN_NO_STRIPS)
#elif MN_DSP
#define MN_DEPTHWISE(name, kr, kc, sr, sc, rounding, clamp)                                        \
    MN_DEPTHWISE_BODY(name, kr, kc, sr, sc, rounding, clamp, MN_CHANNEL_C)
#else
#define MN_CHANNEL_TWOS(name, kr, kc, sr, sc, rounding)                                            \
    if (d->out_columns > 1)                                                                        \
        mn_depthwise_twos(d, plane, weights, &d->channels[c], out, kr, kc, sr, sc, rounding);      \
    else                                                                                           \
        MN_CHANNEL_C(name, kr, kc, sr, sc, rounding)
#define MN_DEPTHWISE(name, kr, kc, sr, sc, rounding, clamp)                                        \
    MN_DEPTHWISE_BODY(name, kr, kc, sr, sc, rounding, clamp, MN_CHANNEL_TWOS)
#endif

#if MN_MVE
/* Squares of 3, 5 and 7 by strips, all else by planes of bytes. */
#define MN_DEPTHWISE_VECTORS(name, kr, kc, sr, sc, rounding, STRIPS)                               \
    MN_NOINLINE void name(const struct mn_depthwise *d, const int8_t *in, int8_t *out,             \
                          void *scratch)                                                           \
    {                                                                                              \
        int8_t *plane = scratch;                                                                   \
        const int8_t *weights = d->weights;                                                        \
        const struct mn_channel *channel = d->channels;                                            \
        mn_set(d->pad_value, plane, 2 * d->plane_rows * d->plane_columns);                         \
        STRIPS(kc, sr, sc, rounding)                                                               \
        for (int32_t c = 0; c < d->num_channels; c++, in++, out++, weights += (kr) * (kc)) {       \
            mn_gather_plane(d, in, plane);                                                         \
            if ((rounding) == MN_MIXED && channel[c].wide) {                                       \
                mn_depthwise_plane(d, plane, weights, &channel[c], out, kr, kc, sr, sc, rounding); \
                mn_clamp_plane(d, out);                                                            \
            } else {                                                                               \
                mn_depthwise_bytes(d, plane, weights, &channel[c], out, kr, kc, sr, sc, rounding); \
            }                                                                                      \
        }                                                                                          \
    }
#define MN_NO_STRIPS(side, sr, sc, rounding)
#define MN_TAKE_STRIPS(side, sr, sc, rounding)                                                     \
    if ((rounding) != MN_MIXED && (sr) <= 2 && d->in_column_step <= MN_FURTHEST) {                 \
        const int32_t count = ((sr) == 1 ? (d->out_rows + 1) / 2 : d->out_rows) + ((side)-3) / 2;  \
        struct mn_strips strips = {{0},                                                            \
                                   channel,                                                        \
                                   plane,                                                          \
                                   out,                                                            \
                                   4 * d->plane_columns,                                           \
                                   d->out_row_step,                                                \
                                   d->out_column_step,                                             \
                                   d->out_rows,                                                    \
                                   d->min,                                                         \
                                   d->max,                                                         \
                                   d->out_columns / 4,                                             \
                                   d->out_columns % 4};                                            \
        for (int32_t c = 0; c < d->num_channels; c++, in++, weights += (side) * (side)) {          \
            mn_gather_strips(d, in, plane, count);                                                 \
            if ((side) == 3 && d->out_columns >= 4) {                                              \
                vstrbq_s8(strips.weights,                                                          \
                          mn_window_weights(weights, 3, 0, 1, mn_window_bits[0][0]));              \
                MN_STRIPS_OF(sr, sc, rounding)(&strips);                                           \
            } else {                                                                               \
                mn_depthwise_windows(d, plane, weights, strips.channel, strips.out, side, sr, sc); \
            }                                                                                      \
            strips.channel++;                                                                      \
            strips.out++;                                                                          \
        }                                                                                          \
        return;                                                                                    \
    }
#define MN_VECTORS_3(name, sr, sc, rounding)                                                       \
    MN_DEPTHWISE_VECTORS(name, 3, 3, sr, sc, rounding, MN_TAKE_STRIPS)
#define MN_VECTORS_5(name, sr, sc, rounding)                                                       \
    MN_DEPTHWISE_VECTORS(name, 5, 5, sr, sc, rounding, MN_TAKE_STRIPS)
#define MN_VECTORS_7(name, sr, sc, rounding)                                                       \
    MN_DEPTHWISE_VECTORS(name, 7, 7, sr, sc, rounding, MN_TAKE_STRIPS)
#define MN_DEPTHWISE_FAST(name, kr, kc, sr, sc, rounding, clamp)                                   \
    MN_VECTORS_##kc(name, sr, sc, rounding)
#define MN_DEPTHWISE_FOURS MN_DEPTHWISE_FAST
#define MN_DEPTHWISE_LINE MN_DEPTHWISE
#elif MN_DSP
#define MN_CHANNEL_FAST(name, kr, kc, sr, sc, rounding)                                            \
    int32_t pairs[(kr) * ((kc)-1) > 6 ? (kr) * ((kc)-1) : 6];                                      \
    const struct mn_channel *const channel = &d->channels[c];                                      \
    struct mn_rows rows = {plane,                                                                  \
                           2 * (sr)*d->plane_columns,                                              \
                           out,                                                                    \
                           d->out_row_step,                                                        \
                           2 * d->plane_columns,                                                   \
                           pairs,                                                                  \
                           channel->multiplier,                                                    \
                           channel->offset,                                                        \
                           channel->shift,                                                         \
                           0,                                                                      \
                           2 * channel->bias,                                                      \
                           d->out_columns / 2 * 4 * (sc),                                          \
                           d->out_columns % 2,                                                     \
                           d->out_rows,                                                            \
                           d->out_column_step,                                                     \
                           0};                                                                     \
    mn_pair_weights(weights, pairs, kr, kc);                                                       \
    name##_rows(&rows);                                                                            \
    if (rounding == MN_MIXED && channel->wide)                                                     \
        MN_CHANNEL_C(name, kr, kc, sr, sc, rounding)
#define MN_ADVANCE_1 "4"
#define MN_ADVANCE_2 "8"
#define MN_DEPTHWISE_FAST(name, kr, kc, sr, sc, rounding, clamp)                                   \
    MN_DEPTHWISE_ROWS(name##_rows, kc, sc, MN_ADVANCE_##sc, rounding)                              \
    MN_DEPTHWISE_BODY(name, kr, kc, sr, sc, rounding, clamp, MN_CHANNEL_FAST)
#define MN_DEPTHWISE_LINE(name, kr, kc, sr, sc, rounding, clamp)                                   \
    MN_DEPTHWISE_ROWS(name##_rows, LINE##kc, sc, MN_ADVANCE_##sc, rounding)                        \
    MN_DEPTHWISE_BODY(name, kr, kc, sr, sc, rounding, clamp, MN_CHANNEL_FAST)
#define MN_DEPTHWISE_FOURS(name, kr, kc, sr, sc, rounding, clamp)                                  \
    MN_DEPTHWISE_QUADS(name##_rows, rounding)                                                      \
    MN_DEPTHWISE_BODY(name, kr, kc, sr, sc, rounding, clamp, MN_CHANNEL_FAST)
#else
#define MN_DEPTHWISE_FAST MN_DEPTHWISE
#define MN_DEPTHWISE_LINE MN_DEPTHWISE
#define MN_DEPTHWISE_FOURS MN_DEPTHWISE
#endif

#endif
