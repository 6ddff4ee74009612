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
/* So few quads that the sum of b stays below 2^23 and survives being multiplied by 256. */
#define MOST_QUADS 126

/* Adds `quads` quads of inputs times weights to the sums of one or two pairs of channels. An odd
 * number of quads enters in the middle. */
#define PAIR(first, second, both, a)                                                               \
    "smlad " both ", " first ", r8, " both "\n\t"                                                  \
    "sxtb16 r3, " first "\n\t"                                                                     \
    "smlad " a ", r3, r8, " a "\n\t"                                                               \
    "smlad " both ", " second ", r9, " both "\n\t"                                                 \
    "sxtb16 r3, " second "\n\t"                                                                    \
    "smlad " a ", r3, r9, " a "\n\t"
#define INPUTS                                                                                     \
    "ldr r9, [r0], #4\n\t"                                                                         \
    "sxtb16 r8, r9\n\t"                                                                            \
    "sxtb16 r9, r9, ror #8\n\t"
#define QUAD_1 INPUTS "ldrd r10, r11, [r1], #8\n\t" PAIR("r10", "r11", "r4", "r5")
#define QUAD_2                                                                                     \
    INPUTS "ldmia r1!, {r10-r12, lr}\n\t" PAIR("r10", "r11", "r4", "r5")                           \
        PAIR("r12", "lr", "r6", "r7")
#define ACCUMULATE(name, QUAD)                                                                     \
    static __attribute__((naked, noinline)) void name(const int8_t *in, const int8_t *weights,     \
                                                      int32_t quads, int32_t *sums)                \
    {                                                                                              \
        __asm__ volatile("push {r3-r11, lr}\n\t"                                                   \
                         "movs r4, #0\n\t"                                                         \
                         "movs r5, #0\n\t"                                                         \
                         "movs r6, #0\n\t"                                                         \
                         "movs r7, #0\n\t"                                                         \
                         "lsrs r3, r2, #1\n\t"                                                     \
                         "add r2, r0, r2, lsl #2\n\t"                                              \
                         "bcs 2f\n"                                                                \
                         "1:\n\t" QUAD "2:\n\t" QUAD                                               \
                         "cmp r0, r2\n\t"                                                          \
                         "bne 1b\n\t"                                                              \
                         "pop {r3}\n\t"                                                            \
                         "ldmia r3, {r8-r11}\n\t"                                                  \
                         "subs r4, r4, r5\n\t"                                                     \
                         "subs r6, r6, r7\n\t"                                                     \
                         "add r8, r8, r5\n\t"                                                      \
                         "add r9, r9, r4, asr #8\n\t"                                              \
                         "add r10, r10, r7\n\t"                                                    \
                         "add r11, r11, r6, asr #8\n\t"                                            \
                         "stmia r3, {r8-r11}\n\t"                                                  \
                         "pop {r4-r11, pc}\n\t");                                                  \
        (void)in, (void)weights, (void)quads, (void)sums;                                          \
    }
ACCUMULATE(accumulate2, QUAD_1)
ACCUMULATE(accumulate4, QUAD_2)

MN_INLINE void finish(const int32_t *sums, const struct mn_channel *channel, int count, int8_t *out)
{
    for (int i = 0; i < count; i++)
        out[i] = (int8_t)mn_requantize(sums[i] + channel[i].bias, &channel[i], MN_SIGNED);
}

/* `count` channels of one pixel: four, or what is left. */
MN_INLINE void outputs(const struct mn_dense *d, const int8_t *in, const int8_t *w, int first,
                       int count, int8_t *out)
{
    const struct mn_channel *const channel = d->channels + first;
    const int8_t *x = in;
    int32_t sums[4] = {0, 0, 0, 0}, last = 0;
    for (int32_t left = d->inputs / 4, quads; left > 0; left -= quads) {
        quads = left < MOST_QUADS ? left : MOST_QUADS;
        (count > 2 ? accumulate4 : accumulate2)(x, w, quads, sums);
        x += 4 * quads;
        w += (count > 2 ? 16 : 8) * quads;
    }
    if (d->inputs % 4) { /* what is left of a quad, filled up */
        memcpy(&last, x, (size_t)(d->inputs % 4));
        (count > 2 ? accumulate4 : accumulate2)((const int8_t *)&last, w, 1, sums);
    }
    if (count == 4)
        finish(sums, channel, 4, out);
    else
        finish(sums, channel, count, out);
    for (int i = 0; d->rounding == MN_MIXED && i < count; i++)
        if (channel[i].wide)
            out[i] = plain(d, in, first + i);
}
#else
MN_INLINE void outputs(const struct mn_dense *d, const int8_t *in, const int8_t *w, int first,
                       int count, int8_t *out)
{
    (void)w;
    for (int i = 0; i < count; i++)
        out[i] = plain(d, in, first + i);
}
#endif

void mn_dense(const struct mn_dense *d, const int8_t *in, int8_t *out)
{
    const int32_t count = d->out_channels, group = (d->inputs + 3) / 4 * 16;
    for (int32_t pixel = 0; pixel < d->pixels; pixel++, in += d->inputs, out += count) {
        const int8_t *w = d->weights;
        for (int32_t first = 0; first < count; first += 4, w += group)
            outputs(d, in, w, first, count - first < 4 ? count - first : 4, out + first);
        if (d->min > -128 || d->max < 127)
            for (int i = 0; i < count; i++)
                out[i] = mn_clamp(out[i], d->min, d->max);
    }
}
