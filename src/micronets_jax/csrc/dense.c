/* Dense layers, and convolutions whose patch is the input as it lies: read as int8, never copied.
 *
 * Output channels come in pairs a, b whose weights lie side by side. With the DSP extension three
 * instructions do four multiplications: taken as an int16, two bytes are a + 256 b, so SMLAD sums
 * both channels at once, SXTB16 and another SMLAD sum a alone, and what is left of the difference
 * after a shift is the sum of b. */
#include "kernels.h"

/* An output from the definition, for any compiler and any scale. */
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
    return (int8_t)mn_requantize((int32_t)acc, &d->channels[channel], d->rounding);
}

#if MN_DSP
/* So few bytes, with a quad behind them, that the sum of b stays below 2^23 and survives being
 * multiplied by 256; the sums of longer rows are set aside in between. */
#define MOST_BYTES 500

struct row {
    const int8_t *in, *stop; /* of full quads, as many as are summed at once */
    const int8_t *end;       /* of all full quads */
    int32_t tail;            /* whether inputs are left */
    int8_t *out;
    const struct mn_channel *channels;
    uint32_t min, max; /* four times the byte */
    int32_t high[2];   /* sums of b that were set aside */
    const struct mn_channel *last;
    int32_t rest; /* the inputs that are left, filled up with zeros */
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

/* Channels of a row up to the last; an odd number of quads enters in the middle. */
#define CHANNELS(name, QUAD, OUTPUTS, STORE)                                                       \
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
                         "add r6, r9, r6, asr #8\n\t"                                              \
                         "ldr lr, [r3, #40]\n\t"                                                   \
                         "ldrd r0, r2, [r3, #16]\n\t" OUTPUTS "9:\n\t"                             \
                         "ldrd r8, r9, [r3, #24]\n\t"                                              \
                         "ssub8 r10, r12, r8\n\t"                                                  \
                         "sel r12, r12, r8\n\t"                                                    \
                         "ssub8 r10, r9, r12\n\t"                                                  \
                         "sel r12, r12, r9\n\t" STORE "strd r0, r2, [r3, #16]\n\t"                 \
                         "cmp r2, lr\n\t"                                                          \
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
CHANNELS(channels2, QUAD_2, OUTPUTS_2, "strh r12, [r0], #2\n\t")
CHANNELS(channels4, QUAD_4, OUTPUTS_4, "str r12, [r0], #4\n\t")

MN_INLINE void outputs(const struct mn_dense *d, const int8_t *in, int8_t *out)
{
    const int32_t full = d->inputs & ~3, grouped = d->out_channels & ~3;
    struct row row = {.in = in, .end = in + full, .tail = d->inputs - full, .out = out};
    const int8_t *weights = d->weights;
    row.stop = full < MOST_BYTES ? row.end : in + MOST_BYTES;
    row.min = (uint8_t)d->min * 0x01010101u;
    row.max = (uint8_t)d->max * 0x01010101u;
    for (int i = 0; i < row.tail; i++)
        row.rest |= mn_shl((uint8_t)row.end[i], 8 * i);
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
#else
MN_INLINE void outputs(const struct mn_dense *d, const int8_t *in, int8_t *out)
{
    for (int i = 0; i < d->out_channels; i++)
        out[i] = mn_clamp(plain(d, in, i), d->min, d->max);
}
#endif

void mn_dense(const struct mn_dense *d, const int8_t *in, int8_t *out)
{
    for (int32_t pixel = 0; pixel < d->pixels; pixel++, in += d->inputs, out += d->out_channels)
        outputs(d, in, out);
}
