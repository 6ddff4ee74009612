/* Convolution of any kernel, pointwise and dense layers included, as a product of matrices.
 *
 * The patches of four pixels are laid out side by side, widened to int16, in `scratch`; then all
 * output channels of the four pixels are computed by twos. Everything a group of four pixels reads
 * is read before its first output is written. */
#include "vectors.h"

/* What a window reads: pointers to its rows, 0 for those outside of the picture; or, where the kernel
 * has too many, the picture and the first row in it. */
enum { MAX_LINES = 10 };
struct source {
    const int8_t *const *rows;
    const int8_t *in;
    int row;
};

MN_INLINE const int8_t *row_of(const struct mn_conv *c, const struct source *from, int k)
{
    int y;
    if (from->rows)
        return from->rows[k];
    y = from->row + k * c->dilation_rows;
    return y < 0 || y >= c->in_rows ? 0 : from->in + y * c->in_columns * c->in_channels;
}

#if MN_MVE
/* Patches of four pixels lie one after the other as bytes, as inputs do, and sums of two output
 * channels a and b of four pixels fill the eight registers that VMLADAVA can take.
 *
 * Of 16 inputs the weights of a pair are eight words: (a0 B0 a2 B2) in even ones, (a1 B1 a3 B3) in odd
 * ones, which VLD2 takes apart. Taken as an int16, two bytes are a + 256 b, so narrowing makes the
 * bytes of a, and a rounded narrowing shift by 8 those of b, in the order of inputs. */
struct mn_product {
    const int8_t *weights;
    const int8_t *x; /* of the first pixel */
    int32_t pitch;   /* from pixel to pixel */
    int32_t steps;   /* of 16 inputs */
    const struct mn_channel *channels;
    int8_t *out;
    int32_t left; /* output channels */
    int32_t out_step, min, max;
    int32_t rest; /* inputs behind the last step, in quads */
};
MN_AT(mn_product, rest, 40);

#define TAKE_APART                                                                                 \
    "vrshrnb.i16 q2, q0, #8\n\t"                                                                   \
    "vrshrnt.i16 q2, q1, #8\n\t"                                                                   \
    "vmovnt.i16 q0, q1\n\t"
#define WEIGHTS                                                                                    \
    "vld20.32 {q0, q1}, [r1]\n\t"                                                                  \
    "vld21.32 {q0, q1}, [r1]!\n\t" TAKE_APART
#define PIXEL(MLA, x, a, b)                                                                        \
    "vldrb.8 q3, [" x "], #16\n\t" MLA " " a ", q0, q3\n\t" MLA " " b ", q2, q3\n\t"
/* Fewer inputs than 16: lanes beyond them have no weights. */
#define REST_WEIGHTS                                                                               \
    "add r11, r1, #4\n\t"                                                                          \
    "vpstt\n\t"                                                                                    \
    "vldrwt.u32 q0, [r1, q4]\n\t"                                                                  \
    "vldrwt.u32 q1, [r11, q4]\n\t"                                                                 \
    "ldr r11, [sp, #32]\n\t" TAKE_APART                                                            \
    "add r1, r1, r11\n\t"
#define REST_PIXEL(MLA, x, a, b)                                                                   \
    "vpst\n\t"                                                                                     \
    "vldrbt.8 q3, [" x "]\n\t" MLA " " a ", q0, q3\n\t" MLA " " b ", q2, q3\n\t"
#define PIXELS_1(P, MLA) P(MLA, "r3", "r0", "r8")
#define PIXELS_2(P, MLA) PIXELS_1(P, MLA) P(MLA, "r5", "r2", "r10")
#define PIXELS_3(P, MLA) PIXELS_2(P, MLA) P(MLA, "r7", "r4", "r12")
#define PIXELS_4(P, MLA) PIXELS_3(P, MLA) P(MLA, "r9", "r6", "lr")

/* Sums to vectors; where there are fewer pixels than four, the first one again, which is stored again. */
#define SUMS_1(q, s0, s1, s2, s3)                                                                  \
    "vdup.32 " q ", " s0 "\n\t"
#define SUMS_2(q, s0, s1, s2, s3)                                                                  \
    "vdup.32 " q ", " s0 "\n\t"                                                                    \
    "vmov.32 " q "[1], " s1 "\n\t"
#define SUMS_3(q, s0, s1, s2, s3)                                                                  \
    "vmov " q "[2], " q "[0], " s0 ", " s2 "\n\t"                                                  \
    "vmov " q "[3], " q "[1], " s1 ", " s0 "\n\t"
#define SUMS_4(q, s0, s1, s2, s3)                                                                  \
    "vmov " q "[2], " q "[0], " s0 ", " s2 "\n\t"                                                  \
    "vmov " q "[3], " q "[1], " s1 ", " s3 "\n\t"

/* An output channel of all pixels from its sums, parameters at r11; mn_requantize and the clamp. */
#define SIGN_MN_POSITIVE(q)
#define SIGN_MN_SIGNED(q)                                                                          \
    "vshr.s32 q3, " q ", #31\n\t"                                                                  \
    "vadd.i32 q2, q2, q3\n\t"
#define OUTPUTS(q, ROUNDING)                                                                       \
    "ldm r11!, {r2, r3, r4, r5}\n\t"                                                               \
    "vadd.i32 " q ", " q ", r2\n\t"                                                                \
    "rsbs r5, r5, #0\n\t"                                                                          \
    "vqrdmulh.s32 q2, " q ", r3\n\t" SIGN_##ROUNDING(q)                                            \
    "vadd.i32 q2, q2, r4\n\t"                                                                      \
    "vshl.s32 q2, r5\n\t"                                                                          \
    "vmax.s32 q2, q2, q6\n\t"                                                                      \
    "vmin.s32 q2, q2, q7\n\t"                                                                      \
    "vstrb.32 q2, [r0, q5]\n\t"

/* Lanes of no pixel store where the first does. */
#define ALIKE_1 "vmov.i32 q5, #0\n\t"
#define ALIKE_2                                                                                    \
    "movs r0, #0\n\t"                                                                              \
    "vmov.32 q5[2], r0\n\t"                                                                        \
    "vmov.32 q5[3], r0\n\t"
#define ALIKE_3                                                                                    \
    "movs r0, #0\n\t"                                                                              \
    "vmov.32 q5[3], r0\n\t"
#define ALIKE_4
#define FURTHER_1
#define FURTHER_2
#define FURTHER_3 "ldrd r7, r9, [sp, #8]\n\t"
#define FURTHER_4 FURTHER_3

/* Stack: 0 x of four pixels, 16 steps, 20 channels, 24 out, 28 channels left, 32 bytes of the weights
 * of the rest. */
#define PRODUCT(name, P, ROUNDING)                                                                 \
    MN_NAKED name(MN_REGISTER const struct mn_product *product)                                    \
    {                                                                                              \
        __asm__ volatile(                                                                          \
            "push {r4-r11, lr}\n\t"                                                                \
            "vpush {d8-d15}\n\t"                                                                   \
            "sub sp, sp, #36\n\t"                                                                  \
            "ldr r11, [r0, #40]\n\t"                                                               \
            "ldm r0, {r1-r10}\n\t"                                                                 \
            "vdup.32 q6, r9\n\t"                                                                   \
            "vdup.32 q7, r10\n\t"                                                                  \
            "movs r0, #0\n\t"                                                                      \
            "vidup.u32 q4, r0, #8\n\t"                                                             \
            "movs r0, #0\n\t"                                                                      \
            "vidup.u32 q5, r0, #1\n\t"                                                             \
            "vmul.i32 q5, q5, r8\n\t" ALIKE_##P                                                    \
            "add r9, r2, r3\n\t"                                                                   \
            "strd r2, r9, [sp]\n\t"                                                                \
            "add r9, r9, r3\n\t"                                                                   \
            "add r10, r9, r3\n\t"                                                                  \
            "strd r9, r10, [sp, #8]\n\t"                                                           \
            "strd r4, r5, [sp, #16]\n\t"                                                           \
            "strd r6, r7, [sp, #24]\n\t"                                                           \
            "lsls r3, r11, #2\n\t"                                                                 \
            "vctp.8 r3\n\t"                                                                        \
            "lsls r3, r11, #3\n\t"                                                                 \
            "str r3, [sp, #32]\n"                                                                  \
            "1:\n\t"                                                                               \
            "ldrd r3, r5, [sp]\n\t" FURTHER_##P                                                    \
            "ldr r11, [sp, #16]\n\t"                                                               \
            "subs r11, r11, #1\n\t"                                                                \
            "bmi 5f\n\t" WEIGHTS PIXELS_##P(PIXEL, "vmladav.s8")                                   \
            "beq 3f\n"                                                                             \
            "2:\n\t" WEIGHTS PIXELS_##P(PIXEL, "vmladava.s8")                                      \
            "subs r11, r11, #1\n\t"                                                                \
            "bne 2b\n"                                                                             \
            "3:\n\t"                                                                               \
            "ldr r11, [sp, #32]\n\t"                                                               \
            "cmp r11, #0\n\t"                                                                      \
            "beq 4f\n\t" REST_WEIGHTS PIXELS_##P(REST_PIXEL, "vmladava.s8")                   \
            "4:\n\t" SUMS_##P("q0", "r0", "r2", "r4", "r6") SUMS_##P("q1", "r8", "r10", "r12", "lr") \
            "ldrd r11, r0, [sp, #20]\n\t"                                                          \
            "ldr r6, [sp, #28]\n\t" OUTPUTS("q0", ROUNDING)                                        \
            "subs r6, r6, #1\n\t"                                                                  \
            "beq 6f\n\t"                                                                           \
            "adds r0, r0, #1\n\t" OUTPUTS("q1", ROUNDING)                                          \
            "adds r0, r0, #1\n\t"                                                                  \
            "subs r6, r6, #1\n\t"                                                                  \
            "strd r11, r0, [sp, #20]\n\t"                                                          \
            "str r6, [sp, #28]\n\t"                                                                \
            "bne 1b\n\t"                                                                           \
            "b 6f\n"                                                                               \
            "5:\n\t" REST_WEIGHTS PIXELS_##P(REST_PIXEL, "vmladav.s8")                             \
            "b 4b\n"                                                                               \
            "6:\n\t"                                                                               \
            "add sp, sp, #36\n\t"                                                                  \
            "vpop {d8-d15}\n\t"                                                                    \
            "pop {r4-r11, pc}\n\t");                                                               \
    }
PRODUCT(product1_positive, 1, MN_POSITIVE)
PRODUCT(product1_signed, 1, MN_SIGNED)
PRODUCT(product2_positive, 2, MN_POSITIVE)
PRODUCT(product2_signed, 2, MN_SIGNED)
PRODUCT(product3_positive, 3, MN_POSITIVE)
PRODUCT(product3_signed, 3, MN_SIGNED)
PRODUCT(product4_positive, 4, MN_POSITIVE)
PRODUCT(product4_signed, 4, MN_SIGNED)

/* Columns of all rows from `x` on, `run` at once, of which those from `low` to `high` lie inside. */
MN_INLINE void lay_runs(const struct mn_conv *c, const struct source *from, int x, int run, int low,
                        int high, int step, int8_t *patch)
{
    const int channels = c->in_channels, at = x * channels, bytes = run * channels;
    for (int k = 0; k < c->kernel_rows; k++, patch += step) {
        const int8_t *const line = row_of(c, from, k);
        if (line && high - low == run) {
            mn_move(line + at, patch, bytes);
            continue;
        }
        mn_set(c->pad_value, patch, bytes);
        if (line && high > low)
            mn_move(line + at + low * channels, patch + low * channels, (high - low) * channels);
    }
}

/* Lays out the patch of the output pixel whose window starts at `column` of these rows. Behind it, where
 * inputs do not fill a quad, are no weights. */
MN_NOINLINE void lay(const struct mn_conv *c, const struct source *from, int column, int8_t *patch)
{
    const int run = c->kernel_columns, room = c->in_columns - column;
    const int low = column >= 0 ? 0 : -column < run ? -column : run;
    const int step = run * c->in_channels;
    if (c->dilation_columns == 1)
        lay_runs(c, from, column, run, low, room >= run ? run : room > low ? room : low, step,
                 patch);
    else
        for (int i = 0; i < run; i++, column += c->dilation_columns, patch += c->in_channels)
            lay_runs(c, from, column, 1, 0, column >= 0 && column < c->in_columns, step, patch);
}

/* Any scale, and weights stored as int16. */
MN_NOINLINE void product(const int8_t *x, const struct mn_conv *c, int o, int8_t *out)
{
    const int at = (o >> 1) * 8 * c->quads;
    const int8_t *narrow = (const int8_t *)c->weights + at;
    const int16_t *wide = (const int16_t *)c->weights + at + 2 * (o & 1);
    uint32_t acc = (uint32_t)c->channels[o].bias;
    for (int i = 0; i < 4 * c->quads; i++) {
        const int8_t *const two = narrow + i / 4 * 8 + (i & 1) * 4 + (i & 2);
        const int w = c->wide  ? wide[i / 4 * 8 + (i & 1) * 4 + (i >> 1 & 1)]
                      : o & 1 ? (int8_t)(two[1] + (two[0] < 0))
                              : two[0];
        acc += (uint32_t)(x[i] * w);
    }
    out[o] = mn_clamp(mn_requantize((int32_t)acc, &c->channels[o], c->rounding), c->min, c->max);
}

/* One to four pixels. */
MN_NOINLINE void multiply(const int8_t *x, int32_t pitch, int lanes, const struct mn_conv *c,
                          int8_t *out)
{
    const int positive = c->rounding == MN_POSITIVE;
    if (!c->wide) {
        const struct mn_product p = {c->weights,    x,   pitch, c->quads / 4,     c->channels, out,
                                     c->out_channels, c->out_channels, c->min, c->max, c->quads % 4};
        if (lanes == 4)
            (positive ? product4_positive : product4_signed)(&p);
        else if (lanes == 3)
            (positive ? product3_positive : product3_signed)(&p);
        else if (lanes == 2)
            (positive ? product2_positive : product2_signed)(&p);
        else
            (positive ? product1_positive : product1_signed)(&p);
    }
    for (int lane = 0; lane < lanes && (c->wide || c->rounding == MN_MIXED);
         lane++, x += pitch, out += c->out_channels)
        for (int o = 0; o < c->out_channels; o++)
            if (c->wide || c->channels[o].wide)
                product(x, c, o, out);
}
#else
/* Words of one pixel's patch lie `lanes` words apart: quad q of inputs 0..3 makes the words (0, 2)
 * and (1, 3), which is what SXTB16 makes of four bytes. */
MN_INLINE int16_t *widen_quads(const int8_t *in, int16_t *x, int quads, int lanes)
{
#if MN_DSP
    int32_t *word = (int32_t *)(void *)x;
#define WIDEN(q)                                                                                   \
    memcpy(&four, in + 4 * (q), 4);                                                                \
    word[2 * (q)*lanes] = mn_sxtb16(four);                                                         \
    word[(2 * (q) + 1) * lanes] = mn_sxtb16_ror8(four);
    int32_t four;
    for (; lanes == 4 && quads >= 4; quads -= 4, in += 16, word += 8 * lanes) {
        WIDEN(0)
        WIDEN(1)
        WIDEN(2)
        WIDEN(3)
    }
    for (; quads > 0; quads--, in += 4, word += 2 * lanes) {
        WIDEN(0)
    }
    return (int16_t *)word;
#else
    for (; quads > 0; quads--, in += 4, x += 4 * lanes) {
        x[0] = in[0];
        x[1] = in[2];
        x[2 * lanes] = in[1];
        x[2 * lanes + 1] = in[3];
    }
    return x;
#endif
}

MN_NOINLINE int16_t *widen(const int8_t *in, int16_t *x, int quads, int lanes)
{
    return lanes == 4 ? widen_quads(in, x, quads, 4) : widen_quads(in, x, quads, lanes);
}

MN_NOINLINE int16_t *widen_value(int8_t value, int16_t *x, int quads, int lanes)
{
    for (; quads > 0; quads--, x += 4 * lanes)
        x[0] = x[1] = x[2 * lanes] = x[2 * lanes + 1] = value;
    return x;
}

/* Copies the bytes of a run; runs are short. */
MN_INLINE void copy(const int8_t *in, int8_t *out, uint32_t bytes)
{
    for (uint32_t words = bytes / 4; words > 0; words--, in += 4, out += 4)
        memcpy(out, in, 4);
    for (uint32_t rest = bytes % 4; rest > 0; rest--)
        *out++ = *in++;
}

/* Of every row a run from `at` on, `step` bytes apart. */
MN_NOINLINE void copy_runs(const int8_t *const *rows, int count, int at, uint32_t bytes, int step,
                           int pad_value, int8_t *patch)
{
    for (; count > 0; count--, rows++, patch += step) {
        if (*rows)
            copy(*rows + at, patch, bytes);
        else
            memset(patch, pad_value, bytes);
    }
}

/* Likewise tap by tap, where columns are dilated or a kernel has very many rows. */
MN_NOINLINE void copy_taps(const struct mn_conv *c, const struct source *from, int column,
                           int8_t *patch)
{
    const int channels = c->in_channels;
    for (int k = 0; k < c->kernel_rows; k++) {
        const int8_t *const line = row_of(c, from, k);
        for (int i = 0, x = column; i < c->kernel_columns; i++, patch += channels) {
            if (!line)
                memset(patch, c->pad_value, (size_t)channels);
            else if (x >= 0 && x < c->in_columns)
                copy(line + x * channels, patch, (uint32_t)channels);
            x += c->dilation_columns;
        }
    }
}

/* The patch as bytes first, for channel counts that do not fill quads (first layers, mostly). */
MN_NOINLINE void lay_bytes(const struct mn_conv *c, const struct source *from, int column,
                           int16_t *x, int lanes, int8_t *patch)
{
    const int channels = c->in_channels, run = c->kernel_columns, room = c->in_columns - column;
    const int low = column >= 0 ? 0 : -column, high = room < run ? room : run;
    const int by_taps = !from->rows || c->dilation_columns > 1;
    if (low > 0 || high < run || by_taps) { /* what lies outside keeps this */
        const uint32_t pads = (uint8_t)c->pad_value * 0x01010101u;
        for (int i = 0, quads = c->quads; i < quads; i++)
            memcpy(patch + 4 * i, &pads, 4);
    }
    if (by_taps)
        copy_taps(c, from, column, patch);
    else if (low < high)
        copy_runs(from->rows, c->kernel_rows, (column + low) * channels,
                  (uint32_t)((high - low) * channels), run * channels, c->pad_value,
                  patch + low * channels);
    widen(patch, x, c->quads, lanes);
}

/* Lays out the patch of the output pixel whose window starts at `column` of these rows. */
MN_NOINLINE void lay(const struct mn_conv *c, const struct source *from, int column, int16_t *x,
                     int lanes, int8_t *patch)
{
    const int channels = c->in_channels, quads = channels / 4;
    if (channels % 4 != 0) {
        lay_bytes(c, from, column, x, lanes, patch);
        return;
    }
    for (int k = 0; k < c->kernel_rows; k++) {
        const int8_t *line = row_of(c, from, k);
        const int run = c->kernel_columns;
        if (line)
            line += column * channels;
        if (!line) {
            x = widen_value(c->pad_value, x, run * channels / 4, lanes);
        } else if (c->dilation_columns == 1 && column >= 0 && column + run <= c->in_columns) {
            x = widen(line, x, run * channels / 4, lanes);
        } else {
            for (int i = 0, at = column; i < run; i++, at += c->dilation_columns) {
                if (at >= 0 && at < c->in_columns)
                    x = widen(line + (at - column) * channels, x, quads, lanes);
                else
                    x = widen_value(c->pad_value, x, quads, lanes);
            }
        }
    }
}

/* A weight of output channel `o`, from the two bytes of its pair: see struct mn_conv. */
MN_INLINE int32_t weight(const int8_t *narrow, int o)
{
    return o & 1 ? (int8_t)(narrow[1] + (narrow[0] < 0)) : narrow[0];
}

/* Any scale: `lanes` pixels of output channel `o`. */
MN_NOINLINE void product(const int16_t *x, int lanes, const struct mn_conv *c, int o, int8_t *out)
{
    const int words = 2 * c->quads, at = (o >> 1) * 4 * words;
    const int8_t *narrow = (const int8_t *)c->weights + at;
    const int16_t *wide = (const int16_t *)c->weights + at + 2 * (o & 1);
    for (int lane = 0; lane < lanes; lane++) {
        uint32_t acc = (uint32_t)c->channels[o].bias;
        for (int word = 0; word < words; word++) {
            const int16_t *pair = x + 2 * (word * lanes + lane);
            for (int i = 0; i < 2; i++)
                acc += (uint32_t)(pair[i] * (c->wide ? wide[4 * word + i]
                                                     : weight(narrow + 4 * word + 2 * i, o)));
        }
        out[lane * c->out_channels + o] =
            (int8_t)mn_requantize((int32_t)acc, &c->channels[o], c->rounding);
    }
}

#if MN_DSP
/* Four pixels, two output channels a and b at a time: sums of a in r4-r7 and, as the bytes of
 * both are an int16 a + 256 b, sums of a + 256 b in r8-r11. That leaves exactly the registers that the
 * loop needs. The 12 instructions of a STEP do 16 multiplications. Stack: 0 where the loop is entered,
 * 4 x, 8 its end, 12 out, 16 channel, 20 channels left, 24 bytes between pixels. */
MN_AT(mn_conv, weights, 0);
MN_AT(mn_conv, channels, 4);
MN_AT(mn_conv, out_channels, 8);
MN_AT(mn_channel, bias, 0);
MN_AT(mn_channel, multiplier, 4);
MN_AT(mn_channel, offset, 8);
MN_AT(mn_channel, shift, 12);
typedef char mn_channel_size_moved[sizeof(struct mn_channel) == 16 ? 1 : -1];

#define MULTIPLY                                                                                   \
    "smlad r4, r2, lr, r4\n\t"                                                                     \
    "smlad r8, r2, r12, r8\n\t"                                                                    \
    "smlad r5, r3, lr, r5\n\t"                                                                     \
    "smlad r9, r3, r12, r9\n\t"                                                                    \
    "ldrd r2, r3, [r0], #8\n\t"                                                                    \
    "smlad r6, r2, lr, r6\n\t"                                                                     \
    "smlad r10, r2, r12, r10\n\t"                                                                  \
    "smlad r7, r3, lr, r7\n\t"                                                                     \
    "smlad r11, r3, r12, r11\n\t"
#define STEP                                                                                       \
    "ldr r12, [r1], #4\n\t"                                                                        \
    "ldrd r2, r3, [r0], #8\n\t"                                                                    \
    "sxtb16 lr, r12\n\t" MULTIPLY
/* With weights stored as int16 there is nothing to unpack, and r8-r11 are sums of b. */
#define STEP_WIDE                                                                                  \
    "ldrd lr, r12, [r1], #8\n\t"                                                                   \
    "ldrd r2, r3, [r0], #8\n\t" MULTIPLY

/* Once sums of a are taken away, the others are 256 b, and a shift makes the doubles of b. */
#define APART                                                                                      \
    "sub r8, r8, r4\n\t"                                                                           \
    "sub r9, r9, r5\n\t"                                                                           \
    "sub r10, r10, r6\n\t"                                                                         \
    "sub r11, r11, r7\n\t"
/* Bytes of a quad's code, where r8-r11 begin, what separates the sums, and the shift. */
#define NARROW(WITH, name, ROUND, LAST) WITH(name, ROUND, LAST, STEP, "96", "r4", APART, "asr #7")
#define WIDE(WITH, name, ROUND, LAST) WITH(name, ROUND, LAST, STEP_WIDE, "88", "#0", "", "lsl #1")

#define LAST_POSITIVE(acc)                                                                         \
    "smmlar lr, " acc ", r2, r3\n\t"                                                               \
    "asr lr, lr, r12\n\t"                                                                          \
    "ssat lr, #8, lr\n\t"
#define LAST_SIGNED(acc)                                                                           \
    "smmlar lr, " acc ", r2, r3\n\t"                                                               \
    "add lr, lr, " acc ", asr #31\n\t"                                                             \
    "asr lr, lr, r12\n\t"                                                                          \
    "ssat lr, #8, lr\n\t"
#define ROUND_POSITIVE(acc) "lsls " acc ", " acc ", #1\n\t" LAST_POSITIVE(acc)
#define ROUND_SIGNED(acc) "lsls " acc ", " acc ", #1\n\t" LAST_SIGNED(acc)

/* One channel of four pixels, to r0 and on; the first sum's register becomes the pixel step. */
#define STORE(ROUND, s0, s1, s2, s3)                                                               \
    ROUND(s0) "strb lr, [r0]\n\t"                                                                  \
    "ldr " s0 ", [sp, #24]\n\t"                                                                    \
    ROUND(s1) "strb lr, [r0, " s0 "]\n\t"                                                          \
    ROUND(s2) "strb lr, [r0, " s0 ", lsl #1]\n\t"                                                  \
    "add " s0 ", " s0 ", " s0 ", lsl #1\n\t"                                                       \
    ROUND(s3) "strb lr, [r0, " s0 "]\n\t"

#define PRODUCT4(name, ROUND, LAST, STEP, QUAD_BYTES, START, APART, SHIFT)                         \
    MN_NAKED name(MN_REGISTER const int16_t *x, MN_REGISTER const int16_t *end,                    \
                  MN_REGISTER int8_t *out, MN_REGISTER const struct mn_conv *c)                    \
    {                                                                                              \
        __asm__ volatile(                                                                          \
            "push {r4-r11, lr}\n\t"                                                                \
            "ldrh r7, [r3, #10]\n\t"                                                               \
            "ldrh r4, [r3, #8]\n\t"                                                                \
            "ldrd r6, r3, [r3]\n\t"                                                                \
            "adr.w r9, 2f\n\t" /* quads enter where those that lack to four are over */            \
            "rsb r7, r7, #0\n\t"                                                                   \
            "and r7, r7, #3\n\t"                                                                   \
            "mov r8, #" QUAD_BYTES "\n\t"                                                          \
            "mla r7, r7, r8, r9\n\t"                                                               \
            "orr r7, r7, #1\n\t"                                                                   \
            "mov r5, r4\n\t"                                                                       \
            "push {r0-r5}\n\t"                                                                     \
            "push {r7}\n\t"                                                                        \
            "mov r1, r6\n"                                                                         \
            "1:\n\t"                                                                               \
            "ldr r12, [sp, #16]\n\t"                                                               \
            "ldr r0, [sp, #4]\n\t"                                                                 \
            "ldr r4, [r12]\n\t"                                                                    \
            "mov r8, " START "\n\t"                                                                \
            "mov r9, r8\n\t"                                                                       \
            "mov r10, r8\n\t"                                                                      \
            "mov r11, r8\n\t"                                                                      \
            "mov r5, r4\n\t"                                                                       \
            "mov r6, r4\n\t"                                                                       \
            "mov r7, r4\n\t"                                                                       \
            "ldr pc, [sp]\n\t"                                                                     \
            ".balign 4\n"                                                                          \
            "2:\n\t" STEP STEP STEP STEP STEP STEP STEP STEP                                       \
            "ldr r2, [sp, #8]\n\t"                                                                 \
            "cmp r0, r2\n\t"                                                                       \
            "bne 2b\n\t" APART                                                                     \
            "ldr r12, [sp, #16]\n\t"                                                               \
            "ldr r0, [sp, #12]\n\t"                                                                \
            "ldrd r2, r3, [r12, #4]\n\t"                                                           \
            "ldr r12, [r12, #12]\n\t" STORE(ROUND, "r4", "r5", "r6", "r7")                         \
            "ldrd r6, r5, [sp, #16]\n\t"                                                           \
            "subs r5, r5, #1\n\t"                                                                  \
            "beq 4f\n\t"                                                                           \
            "ldrd r4, r2, [r6, #16]\n\t"                                                           \
            "ldrd r3, r12, [r6, #24]\n\t"                                                          \
            "adds r0, r0, #1\n\t"                                                                  \
            "lsls r4, r4, #1\n\t"                                                                  \
            "add r8, r4, r8, " SHIFT "\n\t"                                                        \
            "add r9, r4, r9, " SHIFT "\n\t"                                                        \
            "add r10, r4, r10, " SHIFT "\n\t"                                                      \
            "add r11, r4, r11, " SHIFT "\n\t" STORE(LAST, "r8", "r9", "r10", "r11")                \
            "adds r0, r0, #1\n\t"                                                                  \
            "adds r6, r6, #32\n\t"                                                                 \
            "str r0, [sp, #12]\n\t"                                                                \
            "subs r5, r5, #1\n\t"                                                                  \
            "strd r6, r5, [sp, #16]\n\t"                                                           \
            "bne 1b\n"                                                                             \
            "4:\n\t"                                                                               \
            "add sp, sp, #28\n\t"                                                                  \
            "pop {r4-r11, pc}\n\t");                                                               \
    }
NARROW(PRODUCT4, product4_positive, ROUND_POSITIVE, LAST_POSITIVE)
NARROW(PRODUCT4, product4_signed, ROUND_SIGNED, LAST_SIGNED)
WIDE(PRODUCT4, product4_wide_positive, ROUND_POSITIVE, LAST_POSITIVE)
WIDE(PRODUCT4, product4_wide_signed, ROUND_SIGNED, LAST_SIGNED)

/* One to three pixels, two output channels at a time, sums a and b as above. A quad of inputs: the
 * weights' words w0 and w1 hold inputs (0, 2) and (1, 3) of both channels. */
#define SUM(n, in, w)                                                                              \
    "smlad %[a" #n "], %[" in "], %[t], %[a" #n "]\n\t"                                            \
    "smlad %[b" #n "], %[" in "], %[" w "], %[b" #n "]\n\t"
#define UNPACKED(w) "sxtb16 %[t], %[" w "]\n\t"
#define TWO_WORDS "ldrd %[i0], %[i1], [%[x]], #8\n\t"
#define QUAD_OF_1 TWO_WORDS UNPACKED("w0") SUM(0, "i0", "w0") UNPACKED("w1") SUM(0, "i1", "w1")
#define WORD_OF_2(w) TWO_WORDS UNPACKED(w) SUM(0, "i0", w) SUM(1, "i1", w)
#define WORD_OF_3(w) WORD_OF_2(w) "ldr %[i0], [%[x]], #4\n\t" SUM(2, "i0", w)
#define QUAD_OF_2 WORD_OF_2("w0") WORD_OF_2("w1")
#define QUAD_OF_3 WORD_OF_3("w0") WORD_OF_3("w1")
#define TWO_WEIGHTS "ldrd %[w0], %[w1], [%[w]], #8\n\t"
#define SUMS(n) , [a##n] "+&r"(a##n), [b##n] "+&r"(b##n)
#define OPERANDS                                                                                   \
    [x] "+&r"(word), [w] "+&r"(weights), [t] "=&r"(t), [w0] "=&r"(w0), [w1] "=&r"(w1),             \
        [i0] "=&r"(i0), [i1] "=&r"(i1)
#ifdef __clang__ /* has a register less to give, and so counts by itself */
#define QUADS(QUAD, LANES)                                                                         \
    for (; quads > 0; quads--)                                                                     \
        __asm__ volatile(TWO_WEIGHTS QUAD : OPERANDS LANES : : "cc", "memory");
#else
#define QUADS(QUAD, LANES) /* sums as operands; an odd number of quads enters in the middle */     \
    __asm__ volatile("lsrs %[quads], %[quads], #1\n\t"                                             \
                     "itt cs\n\t"                                                                  \
                     "addcs %[quads], %[quads], #1\n\t"                                            \
                     "bcs 2f\n"                                                                    \
                     "1:\n\t" TWO_WEIGHTS QUAD "2:\n\t" TWO_WEIGHTS QUAD                           \
                     "subs %[quads], %[quads], #1\n\t"                                             \
                     "bne 1b\n\t"                                                                  \
                     : OPERANDS, [quads] "+&r"(quads) LANES                                        \
                     :                                                                             \
                     : "cc", "memory");
#endif
#define START(n) int32_t a##n = channel[0].bias, b##n = c->wide ? 0 : a##n;
#define HALF(n)                                                                                    \
    a##n = mn_smlad(word[n], weights[0], a##n);                                                    \
    b##n = mn_smlad(word[n], weights[1], b##n);
#define FINISH(n)                                                                                  \
    out[n * c->out_channels] = (int8_t)mn_requantize(a##n, &channel[0], MN_SIGNED);                \
    b##n = c->wide ? b##n : (int32_t)((uint32_t)b##n - (uint32_t)a##n) >> 8;                       \
    if (left > 1)                                                                                  \
        out[n * c->out_channels + 1] =                                                             \
            (int8_t)mn_requantize(b##n + channel[1].bias, &channel[1], MN_SIGNED);
#define PRODUCT_FEW(name, count, QUAD, LANES)                                                      \
    static __attribute__((noinline)) void name(const int16_t *x, const struct mn_conv *c,          \
                                               int first, int8_t *out)                             \
    {                                                                                              \
        const int32_t *weights = (const int32_t *)c->weights + (first * c->quads << c->wide);      \
        const struct mn_channel *channel = c->channels + first;                                    \
        out += first;                                                                              \
        for (int left = c->out_channels - first; left > 0; left -= 2, channel += 2, out += 2) {    \
            const int32_t *word = (const int32_t *)(const void *)x;                                \
            LANES(START)                                                                           \
            for (int words = c->wide ? 2 * c->quads : 0; words > 0; words--) {                     \
                LANES(HALF)                                                                        \
                weights += 2;                                                                      \
                word += count;                                                                     \
            }                                                                                      \
            if (!c->wide) {                                                                        \
                int32_t quads = c->quads, t, w0, w1, i0, i1;                                       \
                QUADS(QUAD, LANES(SUMS))                                                           \
            }                                                                                      \
            LANES(FINISH)                                                                          \
        }                                                                                          \
    }
#define ONE(F) F(0)
#define TWO(F) F(0) F(1)
#define THREE(F) F(0) F(1) F(2)
PRODUCT_FEW(product_last, 1, QUAD_OF_1, ONE)
PRODUCT_FEW(product2, 2, QUAD_OF_2, TWO)
PRODUCT_FEW(product3, 3, QUAD_OF_3, THREE)

/* One pixel, four output channels at a time: the sums of the second pair are those of another lane,
 * the weights of the second pair at v. */
#define TWO_CHANNELS(n)                                                                            \
    UNPACKED("w0") SUM(n, "i0", "w0") UNPACKED("w1") SUM(n, "i1", "w1")
#define QUAD_OF_4                                                                                  \
    TWO_WORDS TWO_CHANNELS(0) "ldrd %[w0], %[w1], [%[v]], #8\n\t" TWO_CHANNELS(1)
#define BOTH_SUMS(n) , [v] "+&r"(second) TWO(SUMS)
static __attribute__((noinline)) void product1(const int16_t *x, const struct mn_conv *c,
                                               int8_t *out)
{
    const int32_t *weights = c->weights;
    const struct mn_channel *channel = c->channels;
    int first = 0;
    for (; first + 4 <= c->out_channels && !c->wide; first += 4, channel += 4) {
        const int32_t *word = (const int32_t *)(const void *)x, *second = weights + 2 * c->quads;
        int32_t a0 = channel[0].bias, b0 = a0, a1 = channel[2].bias, b1 = a1;
        int32_t quads = c->quads, t, w0, w1, i0, i1;
        QUADS(QUAD_OF_4, ONE(BOTH_SUMS))
        weights = second;
        b0 = (int32_t)((uint32_t)b0 - (uint32_t)a0) >> 8;
        b1 = (int32_t)((uint32_t)b1 - (uint32_t)a1) >> 8;
        out[first] = (int8_t)mn_requantize(a0, &channel[0], MN_SIGNED);
        out[first + 1] = (int8_t)mn_requantize(b0 + channel[1].bias, &channel[1], MN_SIGNED);
        out[first + 2] = (int8_t)mn_requantize(a1, &channel[2], MN_SIGNED);
        out[first + 3] = (int8_t)mn_requantize(b1 + channel[3].bias, &channel[3], MN_SIGNED);
    }
    product_last(x, c, first, out);
}
#endif

#if !MN_DSP
/* An input of pixel n times weights: as int8 of a, and of both channels as a + 256 b; or of a and b. */
#define PRODUCTS(n, i)                                                                             \
    if (few > (n)) {                                                                               \
        const int32_t input = x[2 * (n) + (i)];                                                    \
        a##n += (uint32_t)(input * v);                                                             \
        MN_ONE_BY_ONE(a##n);                                                                       \
        b##n += (uint32_t)(input * u);                                                             \
        MN_ONE_BY_ONE(b##n);                                                                       \
    }
#define SUMS(n)                                                                                    \
    if (few > (n)) {                                                                               \
        sums[2 * (n)] = a##n;                                                                      \
        sums[2 * (n) + 1] = wide ? b##n : (uint32_t)((int32_t)(b##n - a##n) >> 8);                 \
    }

/* Sums of two output channels of `few` pixels whose words lie `step` apart. The compiler keeps sums of b
 * to 24 bits where weights are bytes. */
MN_SPECIAL void sum_pair(const int16_t *x, int step, const void *weights, int words, uint32_t *sums,
                         int few, int wide)
{
    const int16_t *shorts = weights;
    const int8_t *w = weights, *const end = w + 4 * words;
    uint32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
    for (; w != end; w += 4, shorts += 4, x += step) {
        int32_t v = wide ? shorts[0] : w[0], u = wide ? shorts[2] : mn_both(w);
        PRODUCTS(0, 0)
        PRODUCTS(1, 0)
        PRODUCTS(2, 0)
        PRODUCTS(3, 0)
        v = wide ? shorts[1] : w[2];
        u = wide ? shorts[3] : mn_both(w + 2);
        PRODUCTS(0, 1)
        PRODUCTS(1, 1)
        PRODUCTS(2, 1)
        PRODUCTS(3, 1)
    }
    SUMS(0)
    SUMS(1)
    SUMS(2)
    SUMS(3)
}
#define SUM_PAIR(name, few, step, wide)                                                            \
    MN_NOINLINE void name(const int16_t *x, int pitch, const void *weights, int words,             \
                          uint32_t *sums)                                                          \
    {                                                                                              \
        (void)pitch;                                                                               \
        sum_pair(x, step, weights, words, sums, few, wide);                                        \
    }
SUM_PAIR(sum_four, 4, 8, 0)
SUM_PAIR(sum_two, 2, pitch, 0)
SUM_PAIR(sum_one, 1, pitch, 0)
SUM_PAIR(sum_four_wide, 4, 8, 1)
SUM_PAIR(sum_one_wide, 1, pitch, 1)

/* All output channels of `few` pixels, 4, 2 or 1, of `lanes` that lie side by side. */
MN_NOINLINE void products(const int16_t *x, int lanes, int few, const struct mn_conv *c,
                          int8_t *out)
{
    const int words = 2 * c->quads, bytes = (4 * words) << c->wide, rounding = c->rounding;
    const int32_t min = c->min, max = c->max;
    const int8_t *weights = c->weights;
    for (int o = 0; o < c->out_channels; o += 2, weights += bytes) {
        const int pair = o + 1 < c->out_channels ? 2 : 1;
        uint32_t sums[8];
        if (few == 4)
            (c->wide ? sum_four_wide : sum_four)(x, 2 * lanes, weights, words, sums);
        else if (few == 2)
            sum_two(x, 2 * lanes, weights, words, sums);
        else
            (c->wide ? sum_one_wide : sum_one)(x, 2 * lanes, weights, words, sums);
        for (int i = 0; i < pair; i++) {
            const struct mn_channel *const channel = &c->channels[o + i];
            for (int lane = 0; lane < few; lane++) {
                const int32_t sum = (int32_t)(sums[2 * lane + i] + (uint32_t)channel->bias);
                out[lane * c->out_channels + o + i] =
                    mn_clamp(mn_scaled(sum, channel, rounding), min, max);
            }
        }
    }
}
#endif

/* What the assembly leaves, wide channels and the activation's clamp; without it first the rest. */
MN_NOINLINE void complete(const int16_t *x, int lanes, const struct mn_conv *c, int8_t *out)
{
#if !MN_DSP
    for (int lane = 0, few; lane < lanes; lane += few) {
        few = lanes - lane >= 4 ? 4 : lanes - lane >= 2 && !c->wide ? 2 : 1;
        products(x + 2 * lane, lanes, few, c, out + lane * c->out_channels);
    }
#endif
    for (int o = 0; c->rounding == MN_MIXED && o < c->out_channels; o++)
        if (c->channels[o].wide)
            product(x, lanes, c, o, out);
    if ((MN_DSP || c->rounding == MN_MIXED) && (c->min > -128 || c->max < 127))
        for (int i = 0; i < lanes * c->out_channels; i++)
            out[i] = mn_clamp(out[i], c->min, c->max);
}

/* Whether the assembly leaves nothing to do. */
MN_INLINE int is_complete(const struct mn_conv *c)
{
    return MN_DSP && c->rounding != MN_MIXED && c->min == -128 && c->max == 127;
}

/* Four pixels, or one. */
MN_INLINE void multiply(const int16_t *x, int lanes, const struct mn_conv *c, int8_t *out)
{
#if MN_DSP
    if (lanes == 1)
        product1(x, c, out);
    else if (c->rounding == MN_POSITIVE)
        (c->wide ? product4_wide_positive : product4_positive)(x, x + 16 * c->quads, out, c);
    else
        (c->wide ? product4_wide_signed : product4_signed)(x, x + 16 * c->quads, out, c);
#endif
    if (!is_complete(c))
        complete(x, lanes, c, out);
}

/* Two or three pixels that are left of a row. */
MN_NOINLINE void multiply_few(const int16_t *x, int lanes, const struct mn_conv *c, int8_t *out)
{
#if MN_DSP
    (lanes == 2 ? product2 : product3)(x, c, 0, out);
#endif
    if (!is_complete(c))
        complete(x, lanes, c, out);
}

#endif

/* A pixel is its own patch. */
static int is_pointwise(const struct mn_conv *c)
{
    return c->kernel_rows * c->kernel_columns == 1 && c->stride_rows == 1 &&
           c->stride_columns == 1 && c->pad_top == 0 && c->pad_left == 0 &&
           c->in_channels % 4 == 0 && c->pixels == c->in_rows * c->in_columns;
}

#if MN_MVE
void mn_conv(const struct mn_conv *c, const int8_t *in, int8_t *out, void *scratch)
{
    const int pointwise = is_pointwise(c), size = 4 * c->quads, most = c->pixels < 4 ? 1 : 4;
    const int8_t *lines[MAX_LINES];
    struct source from = {0, in, -c->pad_top};
    int column = -c->pad_left, at = 0;
    for (int32_t left = c->pixels, lanes; left > 0; left -= lanes) {
        int8_t *patch = scratch;
        lanes = left < most ? left : most;
        if (pointwise) {
            mn_move(in, patch, lanes * size);
            in += lanes * size;
        }
        for (int lane = 0; lane < lanes && !pointwise; lane++, patch += size) {
            if (at == 0 && c->kernel_rows <= MAX_LINES) {
                from.rows = 0;
                for (int k = 0; k < c->kernel_rows; k++)
                    lines[k] = row_of(c, &from, k);
                from.rows = lines;
            }
            lay(c, &from, column, patch);
            column += c->stride_columns;
            if (++at == c->out_columns) {
                at = 0;
                column = -c->pad_left;
                from.row += c->stride_rows;
            }
        }
        multiply(scratch, size, lanes, c, out);
        out += lanes * c->out_channels;
    }
}

/* One row of outputs, which lies apart from its inputs: pixels that are patches stay where they are. */
void mn_conv_row(const void *parameters, const int8_t *const *rows, int8_t *out, void *scratch,
                 int32_t row)
{
    const struct mn_conv *c = parameters;
    const struct source from = {rows, 0, 0};
    const int pointwise = c->kernel_rows * c->kernel_columns == 1 && c->in_channels % 4 == 0 &&
                          c->pad_left == 0 && rows[0] &&
                          (c->out_columns - 1) * c->stride_columns < c->in_columns;
    const int size = 4 * c->quads, step = c->stride_columns * c->in_channels;
    int column = -c->pad_left;
    (void)row;
    for (int left = c->out_columns, lanes; left > 0; left -= lanes) {
        int8_t *patch = scratch;
        lanes = left < 4 ? left : 4;
        for (int lane = 0; lane < lanes; lane++, column += c->stride_columns, patch += size)
            if (!pointwise)
                lay(c, &from, column, patch);
        if (pointwise)
            multiply(rows[0] + (column - lanes * c->stride_columns) * c->in_channels, step, lanes, c,
                     out);
        else
            multiply(scratch, size, lanes, c, out);
        out += lanes * c->out_channels;
    }
}
#else
void mn_conv(const struct mn_conv *c, const int8_t *in, int8_t *out, void *scratch)
{
    const int pointwise = is_pointwise(c);
    int16_t *x = scratch;
    int32_t left = c->pixels;
    const int8_t *lines[MAX_LINES];
    struct source from = {0, in, -c->pad_top};
    int column = -c->pad_left, at = 0;
    while (left > 0) {
        const int lanes = left >= 4 ? 4 : 1;
        int8_t *patch = (int8_t *)(x + 4 * lanes * c->quads);
        for (int lane = 0; lane < lanes; lane++) {
            if (pointwise) {
                widen(in, x + 2 * lane, c->quads, lanes);
                in += c->in_channels;
                continue;
            }
            if (at == 0 && c->kernel_rows <= MAX_LINES) {
                from.rows = 0;
                for (int k = 0; k < c->kernel_rows; k++)
                    lines[k] = row_of(c, &from, k);
                from.rows = lines;
            }
            lay(c, &from, column, x + 2 * lane, lanes, patch);
            column += c->stride_columns;
            if (++at == c->out_columns) {
                at = 0;
                column = -c->pad_left;
                from.row += c->stride_rows;
            }
        }
        multiply(x, lanes, c, out);
        out += lanes * c->out_channels;
        left -= lanes;
    }
}

/* One row of outputs; a row is too short to leave up to three pixels to one by one. */
void mn_conv_row(const void *parameters, const int8_t *const *rows, int8_t *out, void *scratch,
                 int32_t row)
{
    const struct mn_conv *c = parameters;
    const struct source from = {rows, 0, 0};
    const int pointwise = c->kernel_rows * c->kernel_columns == 1 && c->in_channels % 4 == 0 &&
                          c->pad_left == 0 &&
                          (c->out_columns - 1) * c->stride_columns < c->in_columns;
    int16_t *x = scratch;
    int column = -c->pad_left;
    (void)row;
    for (int left = c->out_columns, lanes; left > 0; left -= lanes) {
        lanes = left < 4 ? left : 4;
        for (int lane = 0; lane < lanes; lane++, column += c->stride_columns) {
            if (pointwise && rows[0])
                widen(rows[0] + column * c->in_channels, x + 2 * lane, c->quads, lanes);
            else
                lay(c, &from, column, x + 2 * lane, lanes, (int8_t *)(x + 4 * lanes * c->quads));
        }
        (lanes == 2 || lanes == 3 ? multiply_few : multiply)(x, lanes, c, out);
        out += lanes * c->out_channels;
    }
}
#endif
