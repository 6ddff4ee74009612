/* Dense layers, and convolutions whose patch is the input as it lies: read as int8, never copied.
 *
 * Output channels come in pairs a, b whose weights lie side by side. With the DSP extension three
 * instructions do four multiplications: taken as an int16, two bytes are a + 256 b, so SMLAD sums
 * both channels at once, SXTB16 and another SMLAD sum a alone, and what is left of the difference
 * after a shift is the sum of b. */
#include "kernels.h"

/* The output of a channel with this sum, bias included; before the clamp. */
MN_NOINLINE int8_t scaled(const struct mn_dense *d, uint32_t sum, int channel)
{
    return (int8_t)mn_requantize((int32_t)sum, &d->channels[channel], d->rounding);
}

/* An output from the definition, for any scale. */
MN_NOINLINE int8_t plain(const struct mn_dense *d, const int8_t *in, int channel)
{
    const int32_t quads = (d->inputs + 3) / 4;
    const int pair = channel / 2, step = (pair | 1) * 2 < d->out_channels ? 16 : 8;
    const int8_t *w = d->weights + pair / 2 * 16 * quads + pair % 2 * 8;
    uint32_t acc = (uint32_t)d->channels[channel].bias;
    for (int32_t i = 0; i < d->inputs; i++) {
        const int8_t *at = w + i / 4 * step + (i & 1) * 4 + (i & 2);
        acc += (uint32_t)(in[i] * (channel & 1 ? (int8_t)(at[1] + (at[0] < 0)) : at[0]));
    }
    return scaled(d, acc, channel);
}

#if MN_MVE
/* Of 16 inputs the weights of a pair of channels are words of (a0 B0 a2 B2) and (a1 B1 a3 B3), which
 * VLD4 and VLD2 take apart; narrowing makes the bytes of a, and a rounded narrowing shift by 8 those
 * of b (see conv.c). Sums of a group's channels lie in r0, r2, r4, r6. */
struct row {
    const int8_t *weights, *in;
    int32_t steps, rest; /* of 16 inputs, and inputs that are left */
    const struct mn_channel *channels;
    void *out; /* outputs, or sums */
    int32_t groups, min, max;
};
MN_AT(row, max, 32);

#define APART(even, odd, second)                                                                   \
    "vrshrnb.i16 " second ", " even ", #8\n\t"                                                     \
    "vrshrnt.i16 " second ", " odd ", #8\n\t"                                                      \
    "vmovnt.i16 " even ", " odd "\n\t"
#define SUMS_2                                                                                     \
    "vmladava.s8 r0, q0, q6\n\t"                                                                   \
    "vmladava.s8 r2, q4, q6\n\t"
#define SUMS_4                                                                                     \
    SUMS_2 "vmladava.s8 r4, q2, q6\n\t"                                                            \
           "vmladava.s8 r6, q5, q6\n\t"
#define APART_2 APART("q0", "q1", "q4")
#define APART_4 APART_2 APART("q2", "q3", "q5")
#define STEP_2                                                                                     \
    "vld20.32 {q0, q1}, [r1]\n\t"                                                                  \
    "vld21.32 {q0, q1}, [r1]!\n\t"                                                                 \
    "vldrb.8 q6, [r3], #16\n\t" APART_2 SUMS_2
#define STEP_4                                                                                     \
    "vld40.32 {q0, q1, q2, q3}, [r1]\n\t"                                                          \
    "vld41.32 {q0, q1, q2, q3}, [r1]\n\t"                                                          \
    "vld42.32 {q0, q1, q2, q3}, [r1]\n\t"                                                          \
    "vld43.32 {q0, q1, q2, q3}, [r1]!\n\t"                                                         \
    "vldrb.8 q6, [r3], #16\n\t" APART_4 SUMS_4
/* Fewer inputs than 16: lanes beyond them have no weights. */
#define WORD(q)                                                                                    \
    "vpst\n\t"                                                                                     \
    "vldrwt.u32 " q ", [r1, q6]\n\t"                                                               \
    "adds r1, r1, #4\n\t"
#define REST(bytes, shift)                                                                         \
    "add lr, r12, #3\n\t"                                                                          \
    "bic lr, lr, #3\n\t"                                                                           \
    "add r1, r1, lr, lsl #" shift "\n\t"                                                           \
    "sub r1, r1, #" bytes "\n\t"                                                                   \
    "vpst\n\t"                                                                                     \
    "vldrbt.8 q6, [r3]\n\t"
#define REST_2                                                                                     \
    "mov lr, #0\n\t"                                                                               \
    "vidup.u32 q6, lr, #8\n\t" WORD("q0") WORD("q1") REST("8", "1") APART_2 SUMS_2
#define REST_4                                                                                     \
    "mov lr, #0\n\t"                                                                               \
    "vidup.u32 q6, lr, #8\n\t"                                                                     \
    "vshl.i32 q6, q6, #1\n\t" WORD("q0") WORD("q1") WORD("q2") WORD("q3") REST("16", "2")          \
        APART_4 SUMS_4
/* Sums to q4, parameters to q0-q3; a pair twice. */
#define CHANNELS_4                                                                                 \
    "vmov q4[2], q4[0], r0, r4\n\t"                                                                \
    "vmov q4[3], q4[1], r2, r6\n\t"                                                                \
    "vld40.32 {q0, q1, q2, q3}, [r7]\n\t"                                                          \
    "vld41.32 {q0, q1, q2, q3}, [r7]\n\t"                                                          \
    "vld42.32 {q0, q1, q2, q3}, [r7]\n\t"                                                          \
    "vld43.32 {q0, q1, q2, q3}, [r7]!\n\t"
#define PARAMETER(q)                                                                               \
    "vldrw.u32 " q ", [r7, q5]\n\t"                                                                \
    "adds r7, r7, #4\n\t"
#define CHANNELS_2                                                                                 \
    "vmov q4[2], q4[0], r0, r0\n\t"                                                                \
    "vmov q4[3], q4[1], r2, r2\n\t"                                                                \
    "vmov.i32 q5, #0\n\t"                                                                          \
    "mov lr, #16\n\t"                                                                              \
    "vmov.32 q5[1], lr\n\t"                                                                        \
    "vmov.32 q5[3], lr\n\t" PARAMETER("q0") PARAMETER("q1") PARAMETER("q2") PARAMETER("q3")        \
    "adds r7, r7, #16\n\t"

/* Sums begin at 0 and become outputs; or they are int32 that lie at r5, and go back there. */
#define FROM_0                                                                                     \
    "movs r0, #0\n\t"                                                                              \
    "movs r2, #0\n\t"                                                                              \
    "movs r4, #0\n\t"                                                                              \
    "movs r6, #0\n\t"
#define TO_OUTPUTS(channels)                                                                       \
    channels "vadd.i32 q4, q4, q0\n\t"                                                             \
             "vqrdmulh.s32 q6, q4, q1\n\t"                                                         \
             "vshr.s32 q4, q4, #31\n\t"                                                            \
             "vadd.i32 q6, q6, q4\n\t"                                                             \
             "vadd.i32 q6, q6, q2\n\t"                                                             \
             "vneg.s8 q3, q3\n\t"                                                                  \
             "vshl.s32 q6, q6, q3\n\t"                                                             \
             "vdup.32 q5, r8\n\t"                                                                  \
             "vmax.s32 q6, q6, q7\n\t"                                                             \
             "vmin.s32 q6, q6, q5\n\t"                                                             \
             "vstrb.32 q6, [r5], #4\n\t"
#define FROM_SUMS_2 "ldrd r0, r2, [r5]\n\t"
#define FROM_SUMS_4 FROM_SUMS_2 "ldrd r4, r6, [r5, #8]\n\t"
#define TO_SUMS_2 "strd r0, r2, [r5], #8\n\t"
#define TO_SUMS_4 TO_SUMS_2 "strd r4, r6, [r5], #8\n\t"

#define CHANNELS(name, N, FROM, TO)                                                                \
    MN_NAKED name(MN_REGISTER const struct row *row)                                               \
    {                                                                                              \
        __asm__ volatile("push {r4-r11, lr}\n\t"                                                   \
                         "vpush {d8-d15}\n\t"                                                      \
                         "ldrd r1, r10, [r0]\n\t"                                                  \
                         "ldrd r9, r12, [r0, #8]\n\t"                                              \
                         "ldrd r7, r5, [r0, #16]\n\t"                                              \
                         "ldrd r11, r2, [r0, #24]\n\t"                                             \
                         "ldr r8, [r0, #32]\n\t"                                                   \
                         "vdup.32 q7, r2\n\t"                                                      \
                         "vctp.8 r12\n"                                                            \
                         "1:\n\t"                                                                  \
                         "mov r3, r10\n\t" FROM "wls lr, r9, 3f\n"                                 \
                         "2:\n\t" STEP_##N "le lr, 2b\n"                                          \
                         "3:\n\t"                                                                  \
                         "cmp r12, #0\n\t"                                                         \
                         "beq 4f\n\t" REST_##N "4:\n\t" TO "subs r11, r11, #1\n\t"                 \
                         "bne 1b\n\t"                                                              \
                         "vpop {d8-d15}\n\t"                                                       \
                         "pop {r4-r11, pc}\n\t");                                                  \
    }
CHANNELS(channels2, 2, FROM_0, TO_OUTPUTS(CHANNELS_2))
CHANNELS(channels4, 4, FROM_0, TO_OUTPUTS(CHANNELS_4))
CHANNELS(adding2, 2, FROM_SUMS_2, TO_SUMS_2)
CHANNELS(adding4, 4, FROM_SUMS_4, TO_SUMS_4)

MN_INLINE void outputs(const struct mn_dense *d, const int8_t *in, int8_t *out)
{
    const int32_t grouped = d->out_channels & ~3, left = d->out_channels - grouped;
    struct row row = {d->weights, in,      d->inputs / 16, d->inputs % 16, d->channels,
                      out,        grouped / 4, d->min,     d->max};
    if (grouped > 0)
        channels4(&row);
    if (left > 0) { /* not all that the assembly writes is wanted */
        int8_t made[4];
        row.weights += grouped * 4 * ((d->inputs + 3) / 4);
        row.channels += grouped;
        row.out = made;
        row.groups = 1;
        (left > 2 ? channels4 : channels2)(&row);
        memcpy(out + grouped, made, (size_t)left);
    }
    for (int i = 0; d->rounding == MN_MIXED && i < d->out_channels; i++)
        if (d->channels[i].wide)
            out[i] = mn_clamp(plain(d, in, i), d->min, d->max);
}

/* Adds the products of one row of a map to sums. */
MN_INLINE void add_up(const struct mn_dense *d, const int8_t *in, const int8_t *weights,
                      uint32_t *sums)
{
    const int32_t fours = (d->out_channels + 1) / 4, grouped = 4 * fours;
    struct row row = {weights, in, d->inputs / 16, d->inputs % 16, 0, sums, fours, 0, 0};
    if (fours > 0)
        adding4(&row);
    if (d->out_channels > grouped) {
        row.weights += grouped * 4 * ((d->inputs + 3) / 4);
        row.out = sums + grouped;
        row.groups = 1;
        adding2(&row);
    }
}
#elif MN_DSP
/* So few bytes, with a quad behind them, that the sum of b stays below 2^23 and survives being
 * multiplied by 256; the sums of longer rows are set aside in between. */
#define MOST_BYTES 500

struct row {
    const int8_t *in, *stop; /* of full quads, as many as are summed at once */
    const int8_t *end;       /* of all full quads */
    int32_t tail;            /* whether inputs are left */
    void *out;               /* outputs, or sums */
    const struct mn_channel *channels;
    uint32_t min, max; /* four times the byte */
    int32_t high[2];   /* sums of b that were set aside */
    const void *last;  /* the end of channels, or of sums */
    int32_t rest;      /* the inputs that are left, filled up with zeros */
};
MN_AT(row, in, 0);
MN_AT(row, end, 8);
MN_AT(row, out, 16);
MN_AT(row, min, 24);
MN_AT(row, high, 32);
MN_AT(row, last, 40);
MN_AT(row, rest, 44);

/* Adds a quad of inputs times weights to the sums of a pair of channels. */
#define PAIR(first, second, both, a)                                                               \
    "smlad " both ", " first ", r8, " both "\n\t"                                                  \
    "sxtb16 r3, " first "\n\t"                                                                     \
    "smlad " a ", r3, r8, " a "\n\t"                                                               \
    "smlad " both ", " second ", r9, " both "\n\t"                                                 \
    "sxtb16 r3, " second "\n\t"                                                                    \
    "smlad " a ", r3, r9, " a "\n\t"
#define UNPACK                                                                                     \
    "sxtb16 r8, r9\n\t"                                                                            \
    "sxtb16 r9, r9, ror #8\n\t"
#define QUAD_2 UNPACK "ldrd r10, r11, [r1], #8\n\t" PAIR("r10", "r11", "r4", "r5")
#define QUAD_4                                                                                     \
    UNPACK "ldmia r1!, {r10-r12, lr}\n\t" PAIR("r10", "r11", "r4", "r5")                           \
        PAIR("r12", "lr", "r6", "r7")

/* The output of the next channel, of its sum without the bias, in r8; mn_requantize in short. */
#define ROUND(sum)                                                                                 \
    "ldmia r2!, {r8-r11}\n\t"                                                                      \
    "add " sum ", " sum ", r8\n\t"                                                                 \
    "lsl r8, " sum ", #1\n\t"                                                                      \
    "smmlar r8, r8, r9, r10\n\t"                                                                   \
    "add r8, r8, " sum ", asr #31\n\t"                                                             \
    "asr r8, r8, r11\n\t"                                                                          \
    "ssat r8, #8, r8\n\t"
#define OUTPUTS_2 ROUND("r5") "mov r12, r8\n\t" LAST_OR ROUND("r4") "bfi r12, r8, #8, #8\n"
#define OUTPUTS_4                                                                                  \
    ROUND("r5")                                                                                    \
    "mov r12, r8\n\t" ROUND("r4") "bfi r12, r8, #8, #8\n\t" ROUND("r7")                            \
        "bfi r12, r8, #16, #8\n\t" LAST_OR ROUND("r6") "bfi r12, r8, #24, #8\n"
/* The last channel of an odd number has none beside it. */
#define LAST_OR                                                                                    \
    "cmp r2, lr\n\t"                                                                               \
    "beq 9f\n\t"

/* What becomes of the sums a, b in r5, r4 (and r7, r6): outputs; or they are added to int32 in the
 * order of the channels. */
#define TO_OUTPUTS(OUTPUTS, STORE)                                                                 \
    "ldr lr, [r3, #40]\n\t"                                                                        \
    "ldrd r0, r2, [r3, #16]\n\t" OUTPUTS "9:\n\t"                                                 \
    "ldrd r8, r9, [r3, #24]\n\t"                                                                   \
    "ssub8 r10, r12, r8\n\t"                                                                       \
    "sel r12, r12, r8\n\t"                                                                         \
    "ssub8 r10, r9, r12\n\t"                                                                       \
    "sel r12, r12, r9\n\t" STORE "strd r0, r2, [r3, #16]\n\t"                                     \
    "cmp r2, lr\n\t"
#define TO_SUMS(registers, MORE)                                                                   \
    "ldr lr, [r3, #40]\n\t"                                                                        \
    "ldr r0, [r3, #16]\n\t"                                                                        \
    "ldmia r0, " registers "\n\t"                                                                  \
    "add r8, r8, r5\n\t"                                                                           \
    "add r9, r9, r4\n\t" MORE "stmia r0!, " registers "\n\t"                                      \
    "str r0, [r3, #16]\n\t"                                                                        \
    "cmp r0, lr\n\t"

/* Channels of a row up to the last; an odd number of quads enters in the middle. */
#define CHANNELS(name, QUAD, TO)                                                                   \
    MN_NAKED name(MN_REGISTER struct row *row, MN_REGISTER const int8_t *weights)                  \
    {                                                                                              \
        __asm__ volatile("push {r0, r4-r11, lr}\n"                                                 \
                         "1:\n\t"                                                                  \
                         "ldr r3, [sp]\n\t"                                                        \
                         "ldrd r0, r2, [r3]\n\t"                                                   \
                         "movs r4, #0\n\t"                                                         \
                         "movs r5, #0\n\t"                                                         \
                         "movs r6, #0\n\t"                                                         \
                         "movs r7, #0\n\t"                                                         \
                         "strd r4, r5, [r3, #32]\n"                                                \
                         "2:\n\t"                                                                  \
                         "eor r3, r0, r2\n\t"                                                      \
                         "lsls r3, r3, #29\n\t"                                                    \
                         "bpl 5f\n\t"                                                              \
                         "b 4f\n"                                                                  \
                         "3:\n\t"                                                                  \
                         "ldr r9, [r0], #4\n\t" QUAD "4:\n\t"                                      \
                         "ldr r9, [r0], #4\n\t" QUAD "5:\n\t"                                      \
                         "cmp r0, r2\n\t"                                                          \
                         "bne 3b\n\t"                                                              \
                         "ldr r3, [sp]\n\t"                                                        \
                         "ldrd r8, r9, [r3, #8]\n\t"                                               \
                         "cmp r0, r8\n\t"                                                          \
                         "bne 8f\n\t"                                                              \
                         "cmp r9, #0\n\t"                                                          \
                         "bne 7f\n"                                                                \
                         "6:\n\t"                                                                  \
                         "ldrd r8, r9, [r3, #32]\n\t"                                              \
                         "subs r4, r4, r5\n\t"                                                     \
                         "subs r6, r6, r7\n\t"                                                     \
                         "add r4, r8, r4, asr #8\n\t"                                              \
                         "add r6, r9, r6, asr #8\n\t" TO                                           \
                         "bne 1b\n\t"                                                              \
                         "pop {r0, r4-r11, pc}\n"                                                  \
                         "7:\n\t" /* the inputs that are left */                                   \
                         "ldr r9, [r3, #44]\n\t" QUAD "ldr r3, [sp]\n\t"                           \
                         "b 6b\n"                                                                  \
                         "8:\n\t" /* more than can be summed at once */                            \
                         "ldrd r10, r11, [r3, #32]\n\t"                                            \
                         "subs r4, r4, r5\n\t"                                                     \
                         "subs r6, r6, r7\n\t"                                                     \
                         "add r10, r10, r4, asr #8\n\t"                                            \
                         "add r11, r11, r6, asr #8\n\t"                                            \
                         "strd r10, r11, [r3, #32]\n\t"                                            \
                         "mov r4, r5\n\t"                                                          \
                         "mov r6, r7\n\t"                                                          \
                         "add r2, r0, #500\n\t"                                                    \
                         "cmp r2, r8\n\t"                                                          \
                         "it hi\n\t"                                                               \
                         "movhi r2, r8\n\t"                                                        \
                         "b 2b\n\t");                                                              \
    }
CHANNELS(channels2, QUAD_2, TO_OUTPUTS(OUTPUTS_2, "strh r12, [r0], #2\n\t"))
CHANNELS(channels4, QUAD_4, TO_OUTPUTS(OUTPUTS_4, "str r12, [r0], #4\n\t"))
CHANNELS(adding2, QUAD_2, TO_SUMS("{r8, r9}", ""))
CHANNELS(adding4, QUAD_4,
         TO_SUMS("{r8-r11}", "add r10, r10, r7\n\t"
                             "add r11, r11, r6\n\t"))

MN_INLINE void begin(struct row *row, int32_t full)
{
    row->stop = full < MOST_BYTES ? row->end : row->in + MOST_BYTES;
    for (int i = 0; i < row->tail; i++)
        row->rest |= mn_shl((uint8_t)row->end[i], 8 * i);
}

MN_INLINE void outputs(const struct mn_dense *d, const int8_t *in, int8_t *out)
{
    const int32_t full = d->inputs & ~3, grouped = d->out_channels & ~3;
    struct row row = {.in = in, .end = in + full, .tail = d->inputs - full, .out = out};
    const int8_t *weights = d->weights;
    begin(&row, full);
    row.min = (uint8_t)d->min * 0x01010101u;
    row.max = (uint8_t)d->max * 0x01010101u;
    row.channels = d->channels;
    row.last = d->channels + grouped;
    if (grouped > 0)
        channels4(&row, weights);
    if (d->out_channels > grouped) { /* not all that the assembly writes is wanted */
        int8_t *const at = row.out;
        int8_t made[4];
        row.out = made;
        row.last = d->channels + d->out_channels;
        weights += grouped * 4 * ((d->inputs + 3) / 4);
        (d->out_channels - grouped > 2 ? channels4 : channels2)(&row, weights);
        for (int i = grouped; i < d->out_channels; i++)
            at[i - grouped] = made[i - grouped];
    }
    for (int i = 0; d->rounding == MN_MIXED && i < d->out_channels; i++)
        if (d->channels[i].wide)
            out[i] = mn_clamp(plain(d, in, i), d->min, d->max);
}

/* Adds the products of one row of a map to sums. */
MN_INLINE void add_up(const struct mn_dense *d, const int8_t *in, const int8_t *weights,
                      uint32_t *sums)
{
    const int32_t full = d->inputs & ~3, grouped = (d->out_channels + 1) & ~3;
    struct row row = {.in = in, .end = in + full, .tail = d->inputs - full, .out = sums};
    begin(&row, full);
    row.last = sums + grouped;
    if (grouped > 0)
        adding4(&row, weights);
    if (d->out_channels > grouped) {
        row.last = sums + grouped + 2;
        adding2(&row, weights + grouped * 4 * ((d->inputs + 3) / 4));
    }
}
#else
/* Quads at once: what a + 256 b and a sum up to tells the sum of b as long as that has 24 bits. */
enum { MOST_QUADS = 124 };

/* Adds two inputs times the weights of a pair of channels to the sums of a and of a + 256 b. */
#define PRODUCT(x, v, sum)                                                                         \
    sum += (uint32_t)((x) * (v));                                                                  \
    MN_ONE_BY_ONE(sum);
#define TWO(w, x, y, a, both)                                                                      \
    PRODUCT(x, (w)[0], a)                                                                          \
    PRODUCT(x, mn_both(w), both)                                                                   \
    PRODUCT(y, (w)[2], a)                                                                          \
    PRODUCT(y, mn_both((w) + 2), both)
#define HALF(first, second, w)                                                                     \
    {                                                                                              \
        const int32_t u = first, v = second;                                                       \
        TWO(w, u, v, a0, both0)                                                                    \
        if (pairs > 1) {                                                                           \
            TWO((w) + 8, u, v, a1, both1)                                                          \
        }                                                                                          \
    }
#define QUAD(n)                                                                                    \
    HALF(x[4 * (n)], x[4 * (n) + 2], w + step * (n))                                               \
    HALF(x[4 * (n) + 1], x[4 * (n) + 3], w + step * (n) + 4)

#if MN_THUMB1 && defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__) /* else gcc lends no r8-r12 */
/* Sums stay in the registers that can only add; the compiler would move them. */
#define TWO_BY_TWO(at, a, both)                                                                    \
    "ldr %[four], [%[w], #" at "]\n\t"                                                             \
    "sxtb %[t], %[four]\n\t"                                                                       \
    "muls %[t], %[u]\n\t"                                                                          \
    "add %[" a "], %[t]\n\t"                                                                       \
    "sxth %[t], %[four]\n\t"                                                                       \
    "muls %[t], %[u]\n\t"                                                                          \
    "add %[" both "], %[t]\n\t"                                                                    \
    "asrs %[four], %[four], #16\n\t"                                                               \
    "sxtb %[t], %[four]\n\t"                                                                       \
    "muls %[t], %[v]\n\t"                                                                          \
    "add %[" a "], %[t]\n\t"                                                                       \
    "muls %[four], %[v]\n\t"                                                                       \
    "add %[" both "], %[four]\n\t"
#define INPUTS(first, second)                                                                      \
    "ldrb %[u], [%[x], #" first "]\n\t"                                                            \
    "ldrb %[v], [%[x], #" second "]\n\t"                                                           \
    "sxtb %[u], %[u]\n\t"                                                                          \
    "sxtb %[v], %[v]\n\t"
#define FOUR_BY_FOUR(x0, x1, x2, x3, w0, w1, w2, w3)                                               \
    INPUTS(x0, x2)                                                                                 \
    TWO_BY_TWO(w0, "a0", "both0")                                                                  \
    TWO_BY_TWO(w2, "a1", "both1")                                                                  \
    INPUTS(x1, x3)                                                                                 \
    TWO_BY_TWO(w1, "a0", "both0")                                                                  \
    TWO_BY_TWO(w3, "a1", "both1")
#define ALL_FOURS(fours)                                                                           \
    if ((fours) > 0) {                                                                             \
        const int8_t *const end = x + 16 * (fours);                                                \
        int32_t u, v, t, four;                                                                     \
        __asm__(".syntax unified\n" /* which gcc is not at here */                                 \
                "1:\n\t"                                                                           \
                FOUR_BY_FOUR("0", "1", "2", "3", "0", "4", "8", "12")                              \
                FOUR_BY_FOUR("4", "5", "6", "7", "16", "20", "24", "28")                           \
                FOUR_BY_FOUR("8", "9", "10", "11", "32", "36", "40", "44")                         \
                FOUR_BY_FOUR("12", "13", "14", "15", "48", "52", "56", "60")                       \
                "adds %[x], #16\n\t"                                                               \
                "adds %[w], #64\n\t"                                                               \
                "cmp %[x], %[end]\n\t"                                                             \
                "beq 2f\n\t"                                                                       \
                "b 1b\n"                                                                           \
                "2:\n\t"                                                                           \
                : [u] "=&l"(u), [v] "=&l"(v), [t] "=&l"(t), [four] "=&l"(four), [a0] "+h"(a0),     \
                  [both0] "+h"(both0), [a1] "+h"(a1), [both1] "+h"(both1), [x] "+l"(x),            \
                  [w] "+l"(w)                                                                      \
                : [end] "h"(end)                                                                   \
                : "cc", "memory");                                                                 \
    }
#else
#define ALL_FOURS(fours)                                                                           \
    for (uint32_t left_fours = fours; left_fours > 0; left_fours--) {                              \
        QUAD(0)                                                                                    \
        QUAD(1)                                                                                    \
        QUAD(2)                                                                                    \
        QUAD(3)                                                                                    \
        x += 16;                                                                                   \
        w += 4 * step;                                                                             \
    }
#endif

/* The sums of a group of two pairs of output channels, or of one. */
MN_SPECIAL void group_sums(const struct mn_dense *d, const int8_t *x, const int8_t *w, int pairs,
                           uint32_t *sums)
{
    const int step = 8 * pairs;
    uint32_t a0 = 0, a1 = 0, b0 = 0, b1 = 0;
    for (uint32_t left = (uint32_t)d->inputs / 4, few; left > 0; left -= few) {
        uint32_t both0 = a0, both1 = a1;
        few = left < MOST_QUADS ? left : MOST_QUADS;
        if (pairs > 1) {
            ALL_FOURS(few / 4)
        }
        for (uint32_t quads = pairs > 1 ? few % 4 : few; quads > 0; quads--) {
            QUAD(0)
            x += 4;
            w += step;
        }
        b0 += (uint32_t)((int32_t)(both0 - a0) >> 8);
        b1 += (uint32_t)((int32_t)(both1 - a1) >> 8);
    }
    sums[0] = a0;
    sums[1] = b0;
    sums[2] = a1;
    sums[3] = b1;
    for (uint32_t j = 0; j < (uint32_t)d->inputs % 4; j++)
        for (int i = 0; i < pairs; i++) {
            const int8_t *const two = w + 8 * i + (j & 1) * 4 + (j & 2);
            sums[2 * i] += (uint32_t)(x[j] * two[0]);
            sums[2 * i + 1] += (uint32_t)(x[j] * ((mn_both(two) - two[0]) >> 8));
        }
}

/* The output channels from `first` on. */
MN_SPECIAL void group(const struct mn_dense *d, const int8_t *x, const int8_t *w, int first,
                      int pairs, int8_t *out)
{
    const int left_over = d->out_channels - first, rounding = d->rounding;
    const int count = left_over < 2 * pairs ? left_over : 2 * pairs, min = d->min, max = d->max;
    const struct mn_channel *channel = &d->channels[first];
    uint32_t sums[4];
    group_sums(d, x, w, pairs, sums);
    for (int i = 0; i < count; i++, channel++) {
        const int32_t sum = (int32_t)(sums[i] + (uint32_t)channel->bias);
        out[first + i] = mn_clamp(mn_scaled(sum, channel, rounding), min, max);
    }
}

MN_NOINLINE void one_pair(const struct mn_dense *d, const int8_t *in, const int8_t *w, int first,
                          int8_t *out)
{
    group(d, in, w, first, 1, out);
}

MN_INLINE void outputs(const struct mn_dense *d, const int8_t *in, int8_t *out)
{
    const int8_t *w = d->weights;
    int first = 0;
    for (; first + 2 < d->out_channels; first += 4, w += 16 * ((d->inputs + 3) / 4))
        group(d, in, w, first, 2, out);
    if (first < d->out_channels)
        one_pair(d, in, w, first, out);
    for (int i = 0; d->rounding == MN_MIXED && i < d->out_channels; i++)
        if (d->channels[i].wide)
            out[i] = mn_clamp(plain(d, in, i), d->min, d->max);
}

MN_NOINLINE void add_pair(const struct mn_dense *d, const int8_t *in, const int8_t *w, uint32_t *to)
{
    uint32_t sums[4];
    group_sums(d, in, w, 1, sums);
    to[0] += sums[0];
    to[1] += sums[1];
}

/* Adds the products of one row of a map to sums. */
MN_INLINE void add_up(const struct mn_dense *d, const int8_t *in, const int8_t *w, uint32_t *to)
{
    int left = d->out_channels;
    for (; left > 2; left -= 4, to += 4, w += 16 * ((d->inputs + 3) / 4)) {
        uint32_t sums[4];
        group_sums(d, in, w, 2, sums);
        for (int i = 0; i < 4; i++)
            to[i] += sums[i];
    }
    if (left > 0)
        add_pair(d, in, w, to);
}
#endif

void mn_dense(const struct mn_dense *d, const int8_t *in, int8_t *out)
{
    for (int32_t pixel = 0; pixel < d->pixels; pixel++, in += d->inputs, out += d->out_channels)
        outputs(d, in, out);
}

#if !MN_MVE /* which takes the two bytes of a pair apart, and so has -128 there */
/* By how much the sum of b exceeds what it should be where a weight does not fit its byte: -128
 * beside a negative one is 128. */
MN_NOINLINE uint32_t excess(const struct mn_dense *d, const int8_t *in, const int8_t *w, int pair)
{
    const int step = (pair | 1) * 2 < d->out_channels ? 16 : 8;
    uint32_t sum = 0;
    w += pair / 2 * 16 * ((d->inputs + 3) / 4) + pair % 2 * 8;
    for (int32_t i = 0; i < d->inputs; i++) {
        const int8_t *at = w + i / 4 * step + (i & 1) * 4 + (i & 2);
        if (at[0] < 0 && at[1] == 127)
            sum += (uint32_t)(256 * in[i]);
    }
    return sum;
}
#endif

/* A layer of one pixel whose input comes in rows, which `pixels` counts: products of each are added
 * to sums, int32 in pairs as the channels, and those of the last row make the output. */
void mn_dense_row(const void *parameters, const int8_t *const *in, int8_t *out, void *scratch,
                  int32_t row)
{
    const struct mn_dense *d = parameters;
    const int32_t pairs = (d->out_channels + 1) / 2;
    const int8_t *const weights = d->weights + row * pairs * 8 * ((d->inputs + 3) / 4);
    uint32_t *const sums = scratch;
    for (int i = 0; row == 0 && i < 2 * pairs; i++)
        sums[i] = (uint32_t)d->channels[i].bias;
    add_up(d, in[0], weights, sums);
#if !MN_MVE
    for (int i = 1; d->rounding == MN_MIXED && i < d->out_channels; i += 2)
        if (d->channels[i].wide)
            sums[i] -= excess(d, in[0], weights, i / 2);
#endif
    for (int i = 0; row == d->pixels - 1 && i < d->out_channels; i++)
        out[i] = mn_clamp(scaled(d, sums[i], i), d->min, d->max);
}
