/* Depthwise convolution of one row over pointers to rows, four channels at once, specialised for
 * kernel columns and stride by the compiler.
 *
 * Where the window lies inside of the picture, two pixels are computed together. Elsewhere inputs
 * come as differences from their zero point, so that what lies outside adds nothing and is not
 * visited: on the small pictures of last layers that is most of a window. */
#ifndef MN_DEPTHWISE_ROW_H
#define MN_DEPTHWISE_ROW_H

#include "vectors.h"

#if MN_DSP
/* What the assembly below takes; it reads members by their offsets. */
struct mn_pixel_pairs {
    const int8_t *weights;             /* of four channels */
    const struct mn_channel *channels; /* of the first */
    int32_t minus_zero;
    int32_t step; /* bytes of a pixel */
    int8_t *out;
    int32_t count;             /* of pairs */
    const int8_t *const *rows; /* a pointer for every row of the kernel, or 0 */
    int32_t start;             /* bytes from there to the first window */
};
MN_AT(mn_pixel_pairs, weights, 0);
MN_AT(mn_pixel_pairs, channels, 4);
MN_AT(mn_pixel_pairs, minus_zero, 8);
MN_AT(mn_pixel_pairs, step, 12);
MN_AT(mn_pixel_pairs, out, 16);
MN_AT(mn_pixel_pairs, count, 20);
MN_AT(mn_pixel_pairs, rows, 24);
MN_AT(mn_pixel_pairs, start, 28);

/* Weights of one tap are unpacked into two words on the stack, channels (0, 2) and (1, 3), once for
 * all pairs of a row, and summed up for the bias. */
#define MN_UNPACK                                                                                  \
    "ldr r9, [r1], #4\n\t"                                                                         \
    "sxtb16 r10, r9\n\t"                                                                           \
    "sxtb16 r11, r9, ror #8\n\t"                                                                   \
    "sadd16 r4, r4, r10\n\t"                                                                       \
    "sadd16 r5, r5, r11\n\t"                                                                       \
    "strd r10, r11, [r2], #8\n\t"
#define MN_UNPACK_3 MN_UNPACK MN_UNPACK MN_UNPACK
#define MN_UNPACK_5 MN_UNPACK_3 MN_UNPACK MN_UNPACK
#define MN_UNPACK_7 MN_UNPACK_5 MN_UNPACK MN_UNPACK

/* Sums of the first pixel in r4-r7, of the second in r8-r11; inputs of a column in r0, r1, weights in
 * r2, r3; the window in r12, bytes of a pixel in lr. */
#define MN_COLUMN(at)                                                                              \
    "ldr r1, [r12" at "]\n\t"                                                                      \
    "sxtb16 r0, r1\n\t"                                                                            \
    "sxtb16 r1, r1, ror #8\n\t"
#define MN_FIRST                                                                                   \
    "smlabb r4, r0, r2, r4\n\t"                                                                    \
    "smlabb r5, r1, r3, r5\n\t"                                                                    \
    "smlatt r6, r0, r2, r6\n\t"                                                                    \
    "smlatt r7, r1, r3, r7\n\t"
#define MN_SECOND                                                                                  \
    "smlabb r8, r0, r2, r8\n\t"                                                                    \
    "smlabb r9, r1, r3, r9\n\t"                                                                    \
    "smlatt r10, r0, r2, r10\n\t"                                                                  \
    "smlatt r11, r1, r3, r11\n\t"
#define MN_TAP(tap) "ldrd r2, r3, [sp, #8 * (" tap ")]\n\t"
#define MN_STEP1 ", lr"
#define MN_STEP2 ", lr, lsl #1"
#define MN_MOVE2 "add r12, r12, lr, lsl #1\n\t"
#define MN_MOVE4 "add r12, r12, lr, lsl #2\n\t"

/* One row of the kernel, whose first tap is `t`. At stride 1 a column serves both pixels. */
#define MN_BOTH(at, tap) MN_COLUMN(at) MN_SECOND MN_TAP(tap) MN_FIRST
#define MN_KERNEL_ROW_3_1(t)                                                                       \
    MN_COLUMN("") MN_TAP(t) MN_FIRST MN_BOTH(MN_STEP1, t "+1") MN_BOTH(MN_STEP2, t "+2") MN_MOVE2  \
        MN_COLUMN(MN_STEP1) MN_SECOND
#define MN_KERNEL_ROW_5_1(t)                                                                       \
    MN_COLUMN("") MN_TAP(t) MN_FIRST MN_BOTH(MN_STEP1, t "+1") MN_BOTH(MN_STEP2, t "+2") MN_MOVE2  \
        MN_BOTH(MN_STEP1, t "+3") MN_BOTH(MN_STEP2, t "+4") MN_MOVE2 MN_COLUMN(MN_STEP1) MN_SECOND
#define MN_KERNEL_ROW_7_1(t)                                                                       \
    MN_COLUMN("") MN_TAP(t) MN_FIRST MN_BOTH(MN_STEP1, t "+1") MN_BOTH(MN_STEP2, t "+2") MN_MOVE2  \
        MN_BOTH(MN_STEP1, t "+3") MN_BOTH(MN_STEP2, t "+4") MN_MOVE2 MN_BOTH(MN_STEP1, t "+5")     \
            MN_BOTH(MN_STEP2, t "+6") MN_MOVE2 MN_COLUMN(MN_STEP1) MN_SECOND
/* At stride 2 a tap serves both pixels. */
#define MN_TWICE(first, second, tap)                                                               \
    MN_TAP(tap) MN_COLUMN(first) MN_FIRST MN_COLUMN(second) MN_SECOND
#define MN_TWICE_AHEAD(tap)                                                                        \
    MN_TAP(tap) MN_COLUMN(MN_STEP1) MN_FIRST MN_MOVE2 MN_COLUMN(MN_STEP1) MN_SECOND
#define MN_KERNEL_ROW_3_2(t)                                                                       \
    MN_TWICE("", MN_STEP2, t) MN_TWICE_AHEAD(t "+1") MN_TWICE("", MN_STEP2, t "+2")
#define MN_KERNEL_ROW_5_2(t)                                                                       \
    MN_KERNEL_ROW_3_2(t) MN_TWICE_AHEAD(t "+3") MN_TWICE("", MN_STEP2, t "+4")
#define MN_KERNEL_ROW_7_2(t)                                                                       \
    MN_KERNEL_ROW_5_2(t) MN_TWICE_AHEAD(t "+5") MN_TWICE("", MN_STEP2, t "+6")

#define MN_ROUND_ONE_MN_POSITIVE(acc)                                                              \
    "lsls " acc ", " acc ", #1\n\t"                                                                \
    "smmlar r3, " acc ", r0, r1\n\t"
#define MN_ROUND_ONE_MN_MIXED MN_ROUND_ONE_MN_SIGNED
#define MN_ROUND_ONE_MN_SIGNED(acc)                                                                \
    "lsls " acc ", " acc ", #1\n\t"                                                                \
    "smmlar r3, " acc ", r0, r1\n\t"                                                               \
    "add r3, r3, " acc ", asr #31\n\t"
/* A channel of both pixels; the bytes of a pixel are in r4 from the first channel's sum on. */
#define MN_STORE_CHANNEL(ROUND, i, first, second, step)                                            \
    "ldrd r0, r1, [r12, #16 * " i " + 4]\n\t"                                                      \
    "ldr r2, [r12, #16 * " i " + 12]\n\t" ROUND(first)                                             \
    "asrs r3, r3, r2\n\t"                                                                          \
    "ssat r3, #8, r3\n\t"                                                                          \
    "strb r3, [lr]\n\t" step ROUND(second)                                                         \
    "asrs r3, r3, r2\n\t"                                                                          \
    "ssat r3, #8, r3\n\t"                                                                          \
    "strb r3, [lr, r4]\n\t"                                                                        \
    "add lr, lr, #1\n\t"

/* The frame: weights, then (from F on) biases 0, channels 16, bytes of a pixel 20, output 24, pairs
 * left 28, bytes to the window 32, pointers to rows 36. */
#define MN_ROWS_OF_3(ROW, F) ROW("0", "3", F) ROW("1", "3", F) ROW("2", "3", F)
#define MN_ROWS_OF_5(ROW, F)                                                                       \
    ROW("0", "5", F) ROW("1", "5", F) ROW("2", "5", F) ROW("3", "5", F) ROW("4", "5", F)
#define MN_ROWS_OF_7(ROW, F)                                                                       \
    ROW("0", "7", F) ROW("1", "7", F) ROW("2", "7", F) ROW("3", "7", F) ROW("4", "7", F)           \
        ROW("5", "7", F) ROW("6", "7", F)
#define MN_SKIP(k, F)                                                                              \
    "ldr r12, [sp, #" F " + 36 + 4 * " k "]\n\t"                                                   \
    "ldr r0, [sp, #" F " + 32]\n\t"                                                                \
    "cmp r12, #0\n\t"                                                                              \
    "beq 5f\n\t"                                                                                   \
    "add r12, r12, r0\n\t"
#define MN_ROW_3_1_AT(k, K, F) MN_SKIP(k, F) MN_KERNEL_ROW_3_1(k "*" K) "5:\n\t"
#define MN_ROW_5_1_AT(k, K, F) MN_SKIP(k, F) MN_KERNEL_ROW_5_1(k "*" K) "5:\n\t"
#define MN_ROW_7_1_AT(k, K, F) MN_SKIP(k, F) MN_KERNEL_ROW_7_1(k "*" K) "5:\n\t"
#define MN_ROW_3_2_AT(k, K, F) MN_SKIP(k, F) MN_KERNEL_ROW_3_2(k "*" K) "5:\n\t"
#define MN_ROW_5_2_AT(k, K, F) MN_SKIP(k, F) MN_KERNEL_ROW_5_2(k "*" K) "5:\n\t"
#define MN_ROW_7_2_AT(k, K, F) MN_SKIP(k, F) MN_KERNEL_ROW_7_2(k "*" K) "5:\n\t"

#define MN_PAIRS(name, K, S, ROUNDING)                                                             \
    MN_PAIRS_FRAME(name, K, S, ROUNDING, #K, "8 * " #K " * " #K)
#define MN_PAIRS_FRAME(name, K, S, ROUNDING, k, F)                                                 \
    MN_NAKED name##_pairs(MN_REGISTER const struct mn_pixel_pairs *pairs)                          \
    {                                                                                              \
        __asm__ volatile(                                                                          \
            "push {r4-r11, lr}\n\t"                                                                \
            "sub sp, sp, #" F " + 36 + 4 * " k "\n\t"                                              \
            "ldr r1, [r0]\n\t"                                                                     \
            "ldr r3, [r0, #24]\n\t"                                                                \
            "mov r2, sp\n\t"                                                                       \
            "add r8, sp, #" F " + 36\n\t"                                                          \
            "movs r4, #0\n\t"                                                                      \
            "movs r5, #0\n\t"                                                                      \
            "movs r6, #" k "\n"                                                                    \
            "1:\n\t"                                                                               \
            "ldr r7, [r3], #4\n\t"                                                                 \
            "str r7, [r8], #4\n\t"                                                                 \
            "cmp r7, #0\n\t"                                                                       \
            "beq 2f\n\t" MN_UNPACK_##K                                                             \
            "subs r6, r6, #1\n\t"                                                                  \
            "bne 1b\n\t"                                                                           \
            "b 3f\n"                                                                               \
            "2:\n\t"                                                                               \
            "add r1, r1, #4 * " k "\n\t"                                                           \
            "add r2, r2, #8 * " k "\n\t"                                                           \
            "subs r6, r6, #1\n\t"                                                                  \
            "bne 1b\n"                                                                             \
            "3:\n\t"                                                                               \
            "ldrd r1, r2, [r0, #4]\n\t"                                                            \
            "ldr r6, [r1]\n\t"                                                                     \
            "ldr r7, [r1, #16]\n\t"                                                                \
            "ldr r8, [r1, #32]\n\t"                                                                \
            "ldr r9, [r1, #48]\n\t"                                                                \
            "smlabb r6, r4, r2, r6\n\t"                                                            \
            "smlabb r7, r5, r2, r7\n\t"                                                            \
            "smlatb r8, r4, r2, r8\n\t"                                                            \
            "smlatb r9, r5, r2, r9\n\t"                                                            \
            "strd r6, r7, [sp, #" F "]\n\t"                                                        \
            "strd r8, r9, [sp, #" F " + 8]\n\t"                                                    \
            "ldrd r2, r3, [r0, #12]\n\t"                                                           \
            "strd r1, r2, [sp, #" F " + 16]\n\t"                                                   \
            "mov lr, r2\n\t"                                                                       \
            "ldr r1, [r0, #20]\n\t"                                                                \
            "strd r3, r1, [sp, #" F " + 24]\n\t"                                                   \
            "ldr r1, [r0, #28]\n\t"                                                                \
            "str r1, [sp, #" F " + 32]\n"                                                          \
            "4:\n\t"                                                                               \
            "ldrd r4, r5, [sp, #" F "]\n\t"                                                        \
            "ldrd r6, r7, [sp, #" F " + 8]\n\t"                                                    \
            "mov r8, r4\n\t"                                                                       \
            "mov r9, r5\n\t"                                                                       \
            "mov r10, r6\n\t"                                                                      \
            "mov r11, r7\n\t" MN_ROWS_OF_##K(MN_ROW_##K##_##S##_AT, F)                             \
            "ldr r12, [sp, #" F " + 16]\n\t"                                                       \
            "ldr lr, [sp, #" F " + 24]\n\t"                                                        \
            MN_STORE_CHANNEL(MN_ROUND_ONE_##ROUNDING, "0", "r4", "r8",                             \
                             "ldr r4, [sp, #" F " + 20]\n\t")                                      \
            MN_STORE_CHANNEL(MN_ROUND_ONE_##ROUNDING, "1", "r5", "r9", "")                         \
            MN_STORE_CHANNEL(MN_ROUND_ONE_##ROUNDING, "2", "r6", "r10", "")                        \
            MN_STORE_CHANNEL(MN_ROUND_ONE_##ROUNDING, "3", "r7", "r11", "")                        \
            "add lr, lr, r4, lsl #1\n\t"                                                           \
            "subs r0, lr, #4\n\t"                                                                  \
            "ldrd r1, r2, [sp, #" F " + 28]\n\t"                                                   \
            "add r2, r2, r4, lsl #" #S "\n\t"                                                      \
            "subs r1, r1, #1\n\t"                                                                  \
            "strd r0, r1, [sp, #" F " + 24]\n\t"                                                   \
            "str r2, [sp, #" F " + 32]\n\t"                                                        \
            "mov lr, r4\n\t"                                                                       \
            "bne 4b\n\t"                                                                           \
            "add sp, sp, #" F " + 36 + 4 * " k "\n\t"                                              \
            "pop {r4-r11, pc}\n\t");                                                               \
    }

/* Three by three at stride 1 in short rows, padded by one column on either side: all outputs of four
 * channels. Border columns leave out the taps that lie outside. */
struct mn_threes {
    const int8_t *weights;             /* of four channels */
    const struct mn_channel *channels; /* of the first */
    int32_t minus_zero;
    int32_t step; /* bytes of a pixel */
    int8_t *out;
    int32_t columns;           /* two and more */
    const int8_t *const *rows; /* a pointer for every row of the kernel, or 0 */
    int32_t first;             /* channel */
};
MN_AT(mn_threes, weights, 0);
MN_AT(mn_threes, channels, 4);
MN_AT(mn_threes, minus_zero, 8);
MN_AT(mn_threes, step, 12);
MN_AT(mn_threes, out, 16);
MN_AT(mn_threes, columns, 20);
MN_AT(mn_threes, rows, 24);
MN_AT(mn_threes, first, 28);

/* Sums in r4-r7, the window in r12. The frame: weights 0, biases 72, pointers to rows 88, the offset
 * of the last window 100. */
#define MN_THREES_TAP(at, tap)                                                                     \
    "ldr r1, [r12" at "]\n\t"                                                                      \
    "ldrd r2, r3, [sp, #8 * (" tap ")]\n\t"                                                        \
    "sxtab16 r0, r8, r1\n\t"                                                                       \
    "sxtab16 r1, r8, r1, ror #8\n\t"                                                               \
    "smlabb r4, r0, r2, r4\n\t"                                                                    \
    "smlabb r5, r1, r3, r5\n\t"                                                                    \
    "smlatt r6, r0, r2, r6\n\t"                                                                    \
    "smlatt r7, r1, r3, r7\n\t"
#define MN_THREES_LEFT(t) MN_THREES_TAP(", lr", t "+1") MN_THREES_TAP(", lr, lsl #1", t "+2")
#define MN_THREES_RIGHT(t) MN_THREES_TAP("", t) MN_THREES_TAP(", lr", t "+1")
#define MN_THREES_INNER(t)                                                                         \
    MN_THREES_TAP("", t) MN_THREES_TAP(", lr", t "+1") MN_THREES_TAP(", lr, lsl #1", t "+2")
#define MN_THREES_ROW(at, TAPS, t)                                                                 \
    "ldr r0, [sp, #" at "]\n\t"                                                                    \
    "cbz r0, 5f\n\t"                                                                               \
    "add r12, r0, r11\n\t" TAPS(t) "5:\n\t"
#define MN_THREES_STORE(ROUND, i, acc)                                                             \
    "ldrd r0, r1, [r9, #16 * " i " + 4]\n\t"                                                       \
    "ldr r2, [r9, #16 * " i " + 12]\n\t" ROUND(acc)                                                \
    "asrs r3, r3, r2\n\t"                                                                          \
    "ssat r3, #8, r3\n\t"                                                                          \
    "strb r3, [r10, #" i "]\n\t"
#define MN_THREES_PIXEL(TAPS, ROUND)                                                               \
    "ldrd r4, r5, [sp, #72]\n\t"                                                                   \
    "ldrd r6, r7, [sp, #80]\n\t" MN_THREES_ROW("88", TAPS, "0") MN_THREES_ROW("92", TAPS, "3")     \
        MN_THREES_ROW("96", TAPS, "6") MN_THREES_STORE(ROUND, "0", "r4")                           \
            MN_THREES_STORE(ROUND, "1", "r5") MN_THREES_STORE(ROUND, "2", "r6")                    \
                MN_THREES_STORE(ROUND, "3", "r7")                                                  \
    "add r10, r10, lr\n\t"                                                                         \
    "add r11, r11, lr\n\t"
#define MN_THREES_UNPACK                                                                           \
    "ldr r9, [r1], #4\n\t"                                                                         \
    "sxtb16 r10, r9\n\t"                                                                           \
    "sxtb16 r11, r9, ror #8\n\t"                                                                   \
    "strd r10, r11, [r2], #8\n\t"
#define MN_THREES_UNPACK_3 MN_THREES_UNPACK MN_THREES_UNPACK MN_THREES_UNPACK
#define MN_THREES(name, ROUND)                                                                     \
    MN_NAKED name(MN_REGISTER const struct mn_threes *threes)                                      \
    {                                                                                              \
        __asm__ volatile(                                                                          \
            "push {r4-r11, lr}\n\t"                                                                \
            "sub sp, sp, #108\n\t"                                                                 \
            "ldrd r1, r12, [r0]\n\t"                                                               \
            "mov r2, sp\n\t" MN_THREES_UNPACK_3 MN_THREES_UNPACK_3 MN_THREES_UNPACK_3              \
            "ldr r4, [r12]\n\t"                                                                    \
            "ldr r5, [r12, #16]\n\t"                                                               \
            "ldr r6, [r12, #32]\n\t"                                                               \
            "ldr r7, [r12, #48]\n\t"                                                               \
            "strd r4, r5, [sp, #72]\n\t"                                                           \
            "strd r6, r7, [sp, #80]\n\t"                                                           \
            "ldrd r1, r11, [r0, #24]\n\t"                                                          \
            "ldmia r1, {r4-r6}\n\t"                                                                \
            "strd r4, r5, [sp, #88]\n\t"                                                           \
            "str r6, [sp, #96]\n\t"                                                                \
            "mov r9, r12\n\t"                                                                      \
            "ldrd r8, lr, [r0, #8]\n\t"                                                            \
            "ldrd r10, r1, [r0, #16]\n\t"                                                          \
            "pkhbt r8, r8, r8, lsl #16\n\t"                                                        \
            "sub r11, r11, lr\n\t"                                                                 \
            "subs r1, r1, #1\n\t"                                                                  \
            "mla r1, r1, lr, r11\n\t"                                                              \
            "str r1, [sp, #100]\n\t" MN_THREES_PIXEL(MN_THREES_LEFT, ROUND)                        \
            "b 2f\n"                                                                               \
            "1:\n\t" MN_THREES_PIXEL(MN_THREES_INNER, ROUND)                                       \
            "2:\n\t"                                                                               \
            "ldr r0, [sp, #100]\n\t"                                                               \
            "cmp r11, r0\n\t"                                                                      \
            "bne 1b\n\t" MN_THREES_PIXEL(MN_THREES_RIGHT, ROUND)                                   \
            "add sp, sp, #108\n\t"                                                                 \
            "pop {r4-r11, pc}\n\t");                                                               \
    }

/* One pixel, of all groups of four channels. */
struct mn_pixel {
    const struct mn_channel *channels;
    int8_t *out;
    const int8_t *in;
    const int8_t *weights;
    int32_t group_bytes; /* of weights */
    int32_t groups;      /* left */
    int32_t minus_zero;
    const int32_t *taps; /* pairs of offsets, to inputs and to weights */
    const int32_t *end;  /* behind them */
    int32_t entry;       /* set below */
};
MN_AT(mn_pixel, channels, 0);
MN_AT(mn_pixel, out, 4);
MN_AT(mn_pixel, in, 8);
MN_AT(mn_pixel, weights, 12);
MN_AT(mn_pixel, group_bytes, 16);
MN_AT(mn_pixel, groups, 20);
MN_AT(mn_pixel, minus_zero, 24);
MN_AT(mn_pixel, taps, 28);
MN_AT(mn_pixel, end, 32);
MN_AT(mn_pixel, entry, 36);

/* A tap takes 44 bytes, so that a number of them that is no multiple of four enters in the middle. */
#define MN_PIXEL_TAP                                                                               \
    "ldrd r0, r2, [r12], #8\n\t"                                                                   \
    "ldr.w r1, [r10, r0]\n\t"                                                                      \
    "ldr.w r3, [r11, r2]\n\t"                                                                      \
    "sxtab16 r0, r8, r1\n\t"                                                                       \
    "sxtab16 r1, r8, r1, ror #8\n\t"                                                               \
    "sxtb16 r2, r3\n\t"                                                                            \
    "sxtb16 r3, r3, ror #8\n\t"                                                                    \
    "smlabb r4, r0, r2, r4\n\t"                                                                    \
    "smlabb r5, r1, r3, r5\n\t"                                                                    \
    "smlatt r6, r0, r2, r6\n\t"                                                                    \
    "smlatt r7, r1, r3, r7\n\t"
#define MN_PIXEL_STORE(ROUND, acc)                                                                 \
    "ldrd r0, r1, [r10, #4]\n\t"                                                                   \
    "ldr r2, [r10, #12]\n\t" ROUND(acc)                                                            \
    "add r10, r10, #16\n\t"                                                                        \
    "asrs r3, r3, r2\n\t"                                                                          \
    "ssat r3, #8, r3\n\t"                                                                          \
    "strb r3, [r11], #1\n\t"
#define MN_PIXEL(name, ROUND)                                                                      \
    MN_NAKED name(MN_REGISTER struct mn_pixel *pixel)                                              \
    {                                                                                              \
        __asm__ volatile(                                                                          \
            "push {r4-r11, lr}\n\t"                                                                \
            "mov lr, r0\n\t"                                                                       \
            "ldrd r12, r9, [lr, #28]\n\t"                                                          \
            "ldr r8, [lr, #24]\n\t"                                                                \
            "pkhbt r8, r8, r8, lsl #16\n\t"                                                        \
            "sub r0, r9, r12\n\t"                                                                  \
            "ubfx r0, r0, #3, #2\n\t"                                                              \
            "rsb r0, r0, #4\n\t"                                                                   \
            "and r0, r0, #3\n\t"                                                                   \
            "movs r1, #44\n\t"                                                                     \
            "adr.w r2, 2f\n\t"                                                                     \
            "mla r0, r0, r1, r2\n\t"                                                               \
            "orr r0, r0, #1\n\t"                                                                   \
            "str r0, [lr, #36]\n"                                                                   \
            "1:\n\t"                                                                               \
            "ldr r0, [lr]\n\t"                                                                     \
            "ldr r12, [lr, #28]\n\t"                                                               \
            "ldr r4, [r0]\n\t"                                                                     \
            "ldr r5, [r0, #16]\n\t"                                                                \
            "ldr r6, [r0, #32]\n\t"                                                                \
            "ldr r7, [r0, #48]\n\t"                                                                \
            "ldrd r10, r11, [lr, #8]\n\t"                                                          \
            "cmp r12, r9\n\t"                                                                      \
            "beq 3f\n\t"                                                                           \
            "ldr r0, [lr, #36]\n\t"                                                                \
            "bx r0\n\t"                                                                            \
            ".balign 4\n"                                                                          \
            "2:\n\t" MN_PIXEL_TAP MN_PIXEL_TAP MN_PIXEL_TAP MN_PIXEL_TAP                           \
            "cmp r12, r9\n\t"                                                                      \
            "bne 2b\n"                                                                              \
            "3:\n\t"                                                                               \
            "ldr r0, [lr, #16]\n\t"                                                                \
            "adds r10, r10, #4\n\t"                                                                \
            "add r11, r11, r0\n\t"                                                                 \
            "strd r10, r11, [lr, #8]\n\t"                                                          \
            "ldrd r10, r11, [lr]\n\t" MN_PIXEL_STORE(ROUND, "r4") MN_PIXEL_STORE(ROUND, "r5")      \
                MN_PIXEL_STORE(ROUND, "r6") MN_PIXEL_STORE(ROUND, "r7")                            \
            "strd r10, r11, [lr]\n\t"                                                              \
            "ldr r0, [lr, #20]\n\t"                                                                \
            "subs r0, r0, #1\n\t"                                                                  \
            "str r0, [lr, #20]\n\t"                                                                \
            "bne 1b\n\t"                                                                           \
            "pop {r4-r11, pc}\n\t");                                                               \
    }
MN_PIXEL(mn_pixel_positive, MN_ROUND_ONE_MN_POSITIVE)
MN_PIXEL(mn_pixel_signed, MN_ROUND_ONE_MN_SIGNED)
#endif

/* Channels first..first + 4 * groups - 1 of the pixel whose window begins at column `start`.
 * `offsets` has room for two numbers for every tap. Of a pixel that was `paired` only wide channels
 * are left. */
#if MN_DSP && !defined(__clang__)
__attribute__((noipa)) /* else a program of short rows alone takes less than its size is known to be */
#endif
MN_NOINLINE void mn_depthwise_pixel(const struct mn_depthwise_row *d, const int8_t *const *in,
                                    int32_t first, int32_t groups, const int8_t *weights,
                                    int32_t start, int8_t *out, int32_t *offsets, int paired)
{
    const int8_t *base = 0;
    int32_t *end = offsets, tap = 0;
    /* what lies inside of the picture, relative to the first row there */
    for (int32_t k = 0; k < d->kernel_rows; k++) {
        int32_t x = start;
        base = base ? base : in[k];
        for (int32_t i = 0; i < d->kernel_columns; i++, tap += 4, x += d->dilation_columns)
            if (in[k] && x >= 0 && x < d->in_columns) {
                *end++ = (int32_t)(in[k] - base) + x * d->num_channels;
                *end++ = tap;
            }
    }
#if MN_DSP
    if (!paired) {
        struct mn_pixel pixel = {d->channels + first,
                                 out + first,
                                 base + first,
                                 weights,
                                 tap,
                                 groups,
                                 -d->zero_point,
                                 offsets,
                                 end,
                                 0};
        (d->rounding == MN_POSITIVE ? mn_pixel_positive : mn_pixel_signed)(&pixel);
    }
    if (d->rounding != MN_MIXED)
        return;
#endif
    (void)paired;
    for (int32_t c = 0; c < 4 * groups; c++) {
        const struct mn_channel *const channel = &d->channels[first + c];
        const int8_t *w = weights + c / 4 * tap + c % 4;
        uint32_t acc = (uint32_t)channel->bias;
        if (MN_DSP && !channel->wide)
            continue;
        for (const int32_t *at = offsets; at < end; at += 2)
            acc += (uint32_t)((base[at[0] + first + c] - d->zero_point) * w[at[1]]);
        out[first + c] = (int8_t)mn_requantize((int32_t)acc, channel, d->rounding);
    }
}

#if !MN_DSP
struct mn_pixel_pairs;
#endif

MN_NOINLINE void mn_clamp_line(const struct mn_depthwise_row *d, int8_t *out)
{
    if (d->min > -128 || d->max < 127)
        for (int32_t i = 0; i < d->out_columns * d->num_channels; i++)
            out[i] = mn_clamp(out[i], d->min, d->max);
}

/* One row: pairs of pixels where the window lies inside, as many as there are, if `pairs` computes
 * them (a single pair would not pay for unpacking weights), and single pixels elsewhere. A group of
 * channels that overlaps the one before ends a number that is no multiple of four. */
MN_NOINLINE void mn_depthwise_row(const struct mn_depthwise_row *d, const int8_t *const *in,
                                  int8_t *out, void *scratch, void (*pairs)(const struct mn_pixel_pairs *))
{
    const int32_t count = d->num_channels, groups = count / 4;
    const int32_t size = 4 * d->kernel_rows * d->kernel_columns;
    int32_t start = -d->pad_left, paired = 0;
    for (int32_t x = 0; x < d->out_columns; x++, start += d->stride_columns) {
#if MN_DSP
        const int32_t inside = d->in_columns - d->kernel_columns - start;
        const int32_t fit = inside < 0 || start < 0 ? 0 : inside / d->stride_columns + 1;
        const int32_t left = d->out_columns - x, twos = (fit < left ? fit : left) / 2;
        if (pairs && paired <= 0 && twos > 1) {
            struct mn_pixel_pairs state = {d->weights, 0, -d->zero_point, count, 0, twos, in, 0};
            for (int32_t c = 0; c < count; c += 4, state.weights += size) {
                const int32_t first = c + 4 > count ? count - 4 : c;
                state.channels = d->channels + first;
                state.out = out + x * count + first;
                state.start = start * count + first;
                pairs(&state);
            }
            paired = 2 * twos;
        }
#endif
        if (--paired < 0 || d->rounding == MN_MIXED) {
            mn_depthwise_pixel(d, in, 0, groups, d->weights, start, out + x * count, scratch,
                               paired >= 0);
            if (count % 4)
                mn_depthwise_pixel(d, in, count - 4, 1, d->weights + groups * size, start,
                                   out + x * count, scratch, paired >= 0);
        }
    }
    (void)pairs;
    mn_clamp_line(d, out);
}

#if MN_DSP
/* One row by `threes`; of wide channels pixel by pixel. */
MN_NOINLINE void mn_depthwise_row_threes(const struct mn_depthwise_row *d, const int8_t *const *in,
                                         int8_t *out, void *scratch,
                                         void (*threes)(const struct mn_threes *))
{
    const int32_t count = d->num_channels;
    struct mn_threes state = {d->weights, 0, -d->zero_point, count, 0, d->out_columns, in, 0};
    for (int32_t c = 0; c < count; c += 4, state.weights += 36) {
        state.first = c + 4 > count ? count - 4 : c;
        state.channels = d->channels + state.first;
        state.out = out + state.first;
        threes(&state);
    }
    for (int32_t x = 0; d->rounding == MN_MIXED && x < d->out_columns; x++) {
        mn_depthwise_pixel(d, in, 0, count / 4, d->weights, x - 1, out + x * count, scratch, 1);
        if (count % 4)
            mn_depthwise_pixel(d, in, count - 4, 1, d->weights + count / 4 * 36, x - 1,
                               out + x * count, scratch, 1);
    }
    mn_clamp_line(d, out);
}
#endif

#if MN_MVE
/* Eight columns of all rows to strips, 64 bytes from the first to the second; columns that are not
 * `there` get the value of the zero point. What is not used of a strip has no weights. */
#define MN_LAY_OPERANDS                                                                            \
    [there] "r"(there), [columns] "w"(columns), [zero] "w"(zero), [strips] "r"(strips)
#define MN_LAY_ROW(q, k)                                                                           \
    "ldr %[row], [%[rows], #4 * " k "]\n\t"                                                        \
    "vpst\n\t"                                                                                     \
    "vldrbt.s16 " q ", [%[row], %q[columns]]\n\t"
#define MN_LAY_STRIP                                                                               \
    "vpsel q0, q0, %q[zero]\n\t"                                                                   \
    "vpsel q1, q1, %q[zero]\n\t"                                                                   \
    "vst20.16 {q0, q1}, [%[strips]]\n\t"                                                           \
    "vst21.16 {q0, q1}, [%[strips]]\n\t"
#define MN_LAY_FOUR                                                                                \
    MN_LAY_ROW("q0", "0")                                                                          \
    MN_LAY_ROW("q2", "1")                                                                          \
    MN_LAY_ROW("q1", "2")                                                                          \
    MN_LAY_ROW("q3", "3")                                                                          \
    "vmovnt.i16 q0, q2\n\t"                                                                        \
    "vmovnt.i16 q1, q3\n\t" MN_LAY_STRIP
#define MN_LAY_SECOND                                                                              \
    "vpsel q0, q0, %q[zero]\n\t"                                                                   \
    "vpsel q1, q1, %q[zero]\n\t"                                                                   \
    "add %[row], %[strips], #64\n\t"                                                               \
    "vst20.16 {q0, q1}, [%[row]]\n\t"                                                              \
    "vst21.16 {q0, q1}, [%[row]]\n\t"
MN_INLINE void mn_lay_columns(const int8_t *const *rows, uint16x8_t columns, mve_pred16_t there,
                              int8x16_t zero, int8_t *strips, int side)
{
    const int8_t *row;
    MN_PREDICATE
    if (side == 3)
        __asm__ volatile(MN_KEEP "vmsr p0, %[there]\n\t"
                                 "vpsttt\n\t"
                                 "vldrbt.s16 q0, [%[a], %q[columns]]\n\t"
                                 "vldrbt.s16 q2, [%[b], %q[columns]]\n\t"
                                 "vldrbt.s16 q1, [%[c], %q[columns]]\n\t"
                                 "vmovnt.i16 q0, q2\n\t" MN_LAY_STRIP MN_RESTORE
                         : [row] "=&r"(row)MN_KEPT
                         : MN_LAY_OPERANDS, [a] "r"(rows[0]), [b] "r"(rows[1]), [c] "r"(rows[2])
                         : "memory", "q0", "q1", "q2" MN_SET);
    else if (side == 5)
        __asm__ volatile(MN_KEEP "vmsr p0, %[there]\n\t" MN_LAY_FOUR MN_LAY_ROW("q0", "4")
                             MN_LAY_SECOND MN_RESTORE
                         : [row] "=&r"(row)MN_KEPT
                         : MN_LAY_OPERANDS, [rows] "r"(rows)
                         : "memory", "q0", "q1", "q2", "q3" MN_SET);
    else
        __asm__ volatile(MN_KEEP "vmsr p0, %[there]\n\t" MN_LAY_FOUR MN_LAY_ROW("q0", "4")
                             MN_LAY_ROW("q2", "5") MN_LAY_ROW("q1", "6")
                         "vmovnt.i16 q0, q2\n\t" MN_LAY_SECOND MN_RESTORE
                         : [row] "=&r"(row)MN_KEPT
                         : MN_LAY_OPERANDS, [rows] "r"(rows)
                         : "memory", "q0", "q1", "q2", "q3" MN_SET);
}

/* Squares of 3, 5 and 7, four channels after the other: 16 columns at a time are laid out in strips,
 * see vectors.h. Rows that lie outside have no weights, nor part in what is taken off the bias for
 * the zero point. */
MN_INLINE void mn_row_windows(const struct mn_depthwise_row *d, const int8_t *const *in,
                              int8_t *out, int8_t *strips, int side, int stride)
{
    enum { COLUMNS = 16, PITCH = 4 * COLUMNS, VECTORS = 4 };
    const int vectors = side == 3 ? 1 : VECTORS;
    const int32_t channels = d->num_channels, most = (COLUMNS - side) / stride + 1;
    const uint16x8_t end = vdupq_n_u16((uint16_t)d->in_columns);
    const uint16x8_t steps = vmulq_n_u16(vidupq_n_u16(0, 1), (uint16_t)channels);
    const int8x16_t zero = vdupq_n_s8(d->zero_point);
    const int8_t *rows[7], *base = 0;
    mve_pred16_t bits[VECTORS];
    int32_t start = -d->pad_left;
    uint32_t present = 0;
    for (int k = 0; k < side; k++) {
        base = base ? base : in[k];
        present |= in[k] ? 0x1111u << (k % 4 + k / 4 * 16) : 0;
    }
    for (int v = 0; v < vectors; v++)
        bits[v] = (mve_pred16_t)(mn_window_bits[(side - 3) / 2][v] & (present >> v / 2 * 16));
    for (int32_t left = d->out_columns; left > 0; left -= most, start += most * stride) {
        const int32_t count = left < most ? left : most;
        const int32_t halves = (count - 1) * stride + side > 8 ? 2 : 1;
        const uint16x8_t at = vaddq_n_u16(vidupq_n_u16(0, 1), (uint16_t)start);
        const mve_pred16_t low = vcmphiq_u16(end, at);
        const mve_pred16_t high = vcmphiq_u16(end, vaddq_n_u16(at, 8));
        const int8_t *weights = d->weights;
        for (int k = 0; k < side; k++)
            rows[k] = (in[k] ? in[k] : base) + start * channels;
        for (int32_t c = 0; c < channels; c += 4, weights += 4 * side * side) {
            const int32_t first = c + 4 > channels ? channels - 4 : c;
            const struct mn_channel *const channel = d->channels + first;
            int32_t sums[4 * COLUMNS], biases[4];
            for (int lane = 0; lane < 4; lane++) {
                const uint16x8_t columns = vaddq_n_u16(steps, (uint16_t)(first + lane));
                uint32_t bias = (uint32_t)channel[lane].bias;
                int8x16_t w[VECTORS];
                int32_t sum = 0;
                for (int v = 0; v < vectors; v++) {
                    w[v] = mn_window_weights(weights + lane, side, v, 4, bits[v]);
                    sum = vaddvaq_s8(sum, w[v]);
                }
                bias -= (uint32_t)(d->zero_point * sum);
                biases[lane] = (int32_t)bias;
                mn_lay_columns(rows, columns, low, zero, strips, side);
                if (halves > 1)
                    mn_lay_columns(rows, vaddq_n_u16(columns, (uint16_t)(8 * channels)), high, zero,
                                   strips + PITCH / 2, side);
                mn_window_sums(strips, PITCH, 4 * stride, count, side, w, sums + lane, 4);
            }
            mn_four_outputs(sums, count, biases, channel, d->min, d->max, out + first, channels);
        }
        out += count * channels;
    }
}
#define MN_ROW_WINDOWS(side)                                                                       \
    MN_NOINLINE void mn_row_windows_##side(const struct mn_depthwise_row *d,                       \
                                           const int8_t *const *in, int8_t *out, int8_t *strips)   \
    {                                                                                              \
        if (d->stride_columns == 1)                                                                \
            mn_row_windows(d, in, out, strips, side, 1);                                           \
        else                                                                                       \
            mn_row_windows(d, in, out, strips, side, 2);                                           \
    }
MN_ROW_WINDOWS(3)
MN_ROW_WINDOWS(5)
MN_ROW_WINDOWS(7)

/* Whether a row is computed so. */
MN_INLINE int mn_takes_windows(const struct mn_depthwise_row *d)
{
    return d->kernel_rows == d->kernel_columns && d->kernel_rows % 2 == 1 && d->kernel_rows >= 3 &&
           d->kernel_rows <= 7 && d->stride_columns <= 2 && d->dilation_columns == 1 &&
           d->rounding != MN_MIXED && d->num_channels <= 65535 / 16;
}
#endif

/* The kernel of any shape, and that of squares of 3, 5 and 7 at stride 1 and 2. */
#if MN_MVE
#define MN_DEPTHWISE_ROW(name)                                                                     \
    static void name(const void *parameters, const int8_t *const *in, int8_t *out, void *scratch,  \
                     int32_t row)                                                                  \
    {                                                                                              \
        const struct mn_depthwise_row *const d = parameters;                                       \
        (void)row;                                                                                 \
        if (!mn_takes_windows(d))                                                                  \
            mn_depthwise_row(d, in, out, scratch, 0);                                              \
        else if (d->kernel_rows == 3)                                                              \
            mn_row_windows_3(d, in, out, scratch);                                                 \
        else if (d->kernel_rows == 5)                                                              \
            mn_row_windows_5(d, in, out, scratch);                                                 \
        else                                                                                       \
            mn_row_windows_7(d, in, out, scratch);                                                 \
    }
#define MN_DEPTHWISE_ROW_FAST(name, k, stride, rounding)                                           \
    static void name(const void *parameters, const int8_t *const *in, int8_t *out, void *scratch,  \
                     int32_t row)                                                                  \
    {                                                                                              \
        (void)row;                                                                                 \
        if (mn_takes_windows(parameters))                                                          \
            mn_row_windows_##k(parameters, in, out, scratch);                                      \
        else                                                                                       \
            mn_depthwise_row(parameters, in, out, scratch, 0);                                     \
    }
#define MN_DEPTHWISE_ROW_THREES(name, rounding) MN_DEPTHWISE_ROW_FAST(name, 3, 1, rounding)
#else
#define MN_DEPTHWISE_ROW_BODY(name, pairs)                                                         \
    static void name(const void *parameters, const int8_t *const *in, int8_t *out, void *scratch,  \
                     int32_t row)                                                                  \
    {                                                                                              \
        (void)row;                                                                                 \
        mn_depthwise_row(parameters, in, out, scratch, pairs);                                     \
    }
#define MN_DEPTHWISE_ROW(name) MN_DEPTHWISE_ROW_BODY(name, 0)
#if MN_DSP
#define MN_DEPTHWISE_ROW_FAST(name, k, stride, rounding)                                           \
    MN_PAIRS(name, k, stride, rounding)                                                            \
    MN_DEPTHWISE_ROW_BODY(name, name##_pairs)
#else
#define MN_DEPTHWISE_ROW_FAST(name, k, stride, rounding) MN_DEPTHWISE_ROW(name)
#endif

/* 3 x 3 at stride 1 in rows of two to eight pixels. */
#if MN_DSP
#define MN_DEPTHWISE_ROW_THREES(name, rounding)                                                    \
    MN_THREES(name##_threes, MN_ROUND_ONE_##rounding)                                              \
    static void name(const void *parameters, const int8_t *const *in, int8_t *out, void *scratch,  \
                     int32_t row)                                                                  \
    {                                                                                              \
        (void)row;                                                                                 \
        mn_depthwise_row_threes(parameters, in, out, scratch, name##_threes);                      \
    }
#else
#define MN_DEPTHWISE_ROW_THREES(name, rounding) MN_DEPTHWISE_ROW(name)
#endif

#endif

#endif
