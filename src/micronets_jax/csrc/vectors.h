/* What kernels share that use the vector extension of Armv8.1-M (MN_MVE): see kernels.h. */
#ifndef MN_VECTORS_H
#define MN_VECTORS_H

#include "kernels.h"

#if MN_MVE
#include <arm_mve.h>

/* Bytes one after the other, up to 16 at a time. */
MN_INLINE void mn_move(const int8_t *in, int8_t *out, int32_t bytes)
{
    __asm__ volatile("wlstp.8 lr, %[bytes], 2f\n"
                     "1:\n\t"
                     "vldrb.8 q0, [%[in]], #16\n\t"
                     "vstrb.8 q0, [%[out]], #16\n\t"
                     "letp lr, 1b\n"
                     "2:\n\t"
                     : [in] "+&r"(in), [out] "+&r"(out)
                     : [bytes] "r"(bytes)
                     : "lr", "q0", "cc", "memory");
}
MN_INLINE void mn_set(int8_t value, int8_t *out, int32_t bytes)
{
    __asm__ volatile("vdup.8 q0, %[value]\n\t"
                     "wlstp.8 lr, %[bytes], 2f\n"
                     "1:\n\t"
                     "vstrb.8 q0, [%[out]], #16\n\t"
                     "letp lr, 1b\n"
                     "2:\n\t"
                     : [out] "+&r"(out)
                     : [bytes] "r"(bytes), [value] "r"(value)
                     : "lr", "q0", "cc", "memory");
}

/* Depthwise convolution by squares of 3, 5 and 7. A channel is laid out in strips of four rows, in
 * which the bytes of a column are a word: columns 0-3 and 4-7 of a window are two vectors of each of two
 * strips (of 3 x 3 one vector of one strip), whose products VMLADAV adds up.
 *
 * Of every byte of these vectors which weight it takes, row by row; 255 is none. */
enum { MN_WINDOW_BYTES = 64 };
static const uint8_t mn_window_3[16] = {
    0, 3, 6, 255, 1, 4, 7, 255, 2, 5, 8, 255, 255, 255, 255, 255};
static const uint8_t mn_window_5[MN_WINDOW_BYTES] = {
    0, 5, 10, 15, 1, 6, 11, 16, 2, 7, 12, 17, 3, 8, 13, 18,
    4, 9, 14, 19, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    20, 255, 255, 255, 21, 255, 255, 255, 22, 255, 255, 255, 23, 255, 255, 255,
    24, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
static const uint8_t mn_window_7[MN_WINDOW_BYTES] = {
    0, 7, 14, 21, 1, 8, 15, 22, 2, 9, 16, 23, 3, 10, 17, 24,
    4, 11, 18, 25, 5, 12, 19, 26, 6, 13, 20, 27, 255, 255, 255, 255,
    28, 35, 42, 255, 29, 36, 43, 255, 30, 37, 44, 255, 31, 38, 45, 255,
    32, 39, 46, 255, 33, 40, 47, 255, 34, 41, 48, 255, 255, 255, 255, 255};

MN_INLINE const uint8_t *mn_window(int side)
{
    return side == 3 ? mn_window_3 : side == 5 ? mn_window_5 : mn_window_7;
}

/* Which bytes of its vectors have one. */
static const uint16_t mn_window_bits[3][4] = {
    {0x0777}, {0xFFFF, 0x000F, 0x1111, 0x0001}, {0xFFFF, 0x0FFF, 0x7777, 0x0777}};

/* Weights of a window's vectors that are `there`, `apart` bytes from one to the next in memory. */
MN_INLINE int8x16_t mn_window_weights(const int8_t *weights, int side, int vector, uint8_t apart,
                                      mve_pred16_t there)
{
    const uint8x16_t places = vldrbq_u8(mn_window(side) + 16 * vector);
    return vldrbq_gather_offset_z_s8(weights, vmulq_n_u8(places, apart), there);
}

/* Sums of `count` windows, each `advance` bytes further, 4 or 8; the other strip lies at `second`.
 * Sums are `lanes` words apart, 1 or 4. */
#define MN_SUMS_OF_ONE(bytes, apart)                                                                      \
    __asm__ volatile("dls lr, %[count]\n"                                                          \
                     "1:\n\t"                                                                      \
                     "vldrb.8 %q[u], [%[x]], #" bytes "\n\t"                                       \
                     "vmladav.s8 %[sum], %q[u], %q[a]\n\t"                                         \
                     "str %[sum], [%[sums]], #" apart "\n\t"                                         \
                     "le lr, 1b\n\t"                                                               \
                     : [x] "+&r"(x), [sums] "+&r"(sums), [sum] "=&Te"(sum), [u] "=&w"(u)           \
                     : [count] "r"(count), [a] "w"(w[0])                                           \
                     : "lr", "memory");
#define MN_SUMS_OF_FOUR(bytes, apart)                                                                     \
    __asm__ volatile("dls lr, %[count]\n"                                                          \
                     "1:\n\t"                                                                      \
                     "vldrb.8 %q[u], [%[x], #16]\n\t"                                              \
                     "vmladav.s8 %[sum], %q[u], %q[b]\n\t"                                         \
                     "vldrb.8 %q[v], [%[x]], #" bytes "\n\t"                                       \
                     "vmladava.s8 %[sum], %q[v], %q[a]\n\t"                                        \
                     "vldrb.8 %q[u], [%[y], #16]\n\t"                                              \
                     "vmladava.s8 %[sum], %q[u], %q[d]\n\t"                                        \
                     "vldrb.8 %q[v], [%[y]], #" bytes "\n\t"                                       \
                     "vmladava.s8 %[sum], %q[v], %q[c]\n\t"                                        \
                     "str %[sum], [%[sums]], #" apart "\n\t"                                         \
                     "le lr, 1b\n\t"                                                               \
                     : [x] "+&r"(x), [y] "+&r"(y), [sums] "+&r"(sums), [sum] "=&Te"(sum),          \
                       [u] "=&w"(u), [v] "=&w"(v)                                                  \
                     : [count] "r"(count), [a] "w"(w[0]), [b] "w"(w[1]), [c] "w"(w[2]),            \
                       [d] "w"(w[3])                                                               \
                     : "lr", "memory");
MN_INLINE void mn_window_sums(const int8_t *x, int32_t second, int32_t advance, int32_t count,
                              int side, const int8x16_t *w, int32_t *sums, int lanes)
{
    const int8_t *y = x + second;
    int8x16_t u, v;
    int32_t sum;
    if (side == 3 && advance == 4 && lanes == 1)
        MN_SUMS_OF_ONE("4", "4")
    else if (side == 3 && advance == 4)
        MN_SUMS_OF_ONE("4", "16")
    else if (side == 3 && lanes == 1)
        MN_SUMS_OF_ONE("8", "4")
    else if (side == 3)
        MN_SUMS_OF_ONE("8", "16")
    else if (advance == 4 && lanes == 1)
        MN_SUMS_OF_FOUR("4", "4")
    else if (advance == 4)
        MN_SUMS_OF_FOUR("4", "16")
    else if (lanes == 1)
        MN_SUMS_OF_FOUR("8", "4")
    else
        MN_SUMS_OF_FOUR("8", "16")
}

#ifdef __clang__ /* has no name for what VCTP sets */
#define MN_PREDICATE int32_t p0;
#define MN_KEEP "vmrs %[p0], p0\n\t"
#define MN_RESTORE "vmsr p0, %[p0]\n\t"
#define MN_KEPT , [p0] "=&r"(p0)
#define MN_SET
#else
#define MN_PREDICATE
#define MN_KEEP
#define MN_RESTORE
#define MN_KEPT
#define MN_SET , "p0"
#endif

/* Outputs of four channels from sums without biases, four for each pixel; pixels are `step` bytes
 * apart. `parameters` are the channels' in the order of struct mn_channel, see mn_requantize. */
MN_INLINE void mn_four_outputs(const int32_t *sums, int32_t count, const int32_t *biases,
                               const struct mn_channel *channels, int32_t min, int32_t max,
                               int8_t *out, int32_t step)
{
    const int32x4x4_t parameters = vld4q_s32(&channels->bias);
    const int32x4_t bias = vldrwq_s32(biases);
    const int32x4_t shift = (int32x4_t)vnegq_s8((int8x16_t)parameters.val[3]);
    const int32x4_t low = vdupq_n_s32(min), high = vdupq_n_s32(max);
    int32x4_t acc, y;
    __asm__ volatile("dls lr, %[count]\n"
                     "1:\n\t"
                     "vldrw.u32 %q[acc], [%[sums]], #16\n\t"
                     "vadd.i32 %q[acc], %q[acc], %q[bias]\n\t"
                     "vqrdmulh.s32 %q[y], %q[acc], %q[multiplier]\n\t"
                     "vshr.s32 %q[acc], %q[acc], #31\n\t"
                     "vadd.i32 %q[y], %q[y], %q[acc]\n\t"
                     "vadd.i32 %q[y], %q[y], %q[offset]\n\t"
                     "vshl.s32 %q[y], %q[y], %q[shift]\n\t"
                     "vmax.s32 %q[y], %q[y], %q[low]\n\t"
                     "vmin.s32 %q[y], %q[y], %q[high]\n\t"
                     "vstrb.32 %q[y], [%[out]]\n\t"
                     "add %[out], %[out], %[step]\n\t"
                     "le lr, 1b\n\t"
                     : [sums] "+&r"(sums), [acc] "=&w"(acc), [y] "=&w"(y), [out] "+&l"(out)
                     : [bias] "w"(bias), [multiplier] "w"(parameters.val[1]),
                       [offset] "w"(parameters.val[2]), [shift] "w"(shift), [low] "w"(low),
                       [high] "w"(high), [count] "r"(count), [step] "r"(step)
                     : "lr", "memory");
}

/* Outputs of a channel from sums without the bias, `step` bytes apart; see mn_requantize. */
MN_INLINE void mn_window_outputs(const int32_t *sums, int32_t count, int32_t bias,
                                 const struct mn_channel *channel, int32_t min, int32_t max,
                                 int8_t *out, int32_t step)
{
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)step);
    const int32x4_t low = vdupq_n_s32(min), high = vdupq_n_s32(max);
    const int32_t multiplier = channel->multiplier, offset = channel->offset;
    const int32_t shift = -channel->shift;
    int32x4_t acc, y;
    MN_PREDICATE
    for (; count > 0; count -= 4, out += 4 * step)
        __asm__ volatile("vldrw.u32 %q[acc], [%[sums]], #16\n\t"
                         "vadd.i32 %q[acc], %q[acc], %[bias]\n\t"
                         "vqrdmulh.s32 %q[y], %q[acc], %[multiplier]\n\t"
                         "vshr.s32 %q[acc], %q[acc], #31\n\t"
                         "vadd.i32 %q[y], %q[y], %q[acc]\n\t"
                         "vadd.i32 %q[y], %q[y], %[offset]\n\t"
                         "vshl.s32 %q[y], %[shift]\n\t"
                         "vmax.s32 %q[y], %q[y], %q[low]\n\t"
                         "vmin.s32 %q[y], %q[y], %q[high]\n\t"
                         MN_KEEP "vctp.32 %[count]\n\t"
                         "vpst\n\t"
                         "vstrbt.32 %q[y], [%[out], %q[places]]\n\t" MN_RESTORE
                         : [sums] "+&r"(sums), [acc] "=&w"(acc), [y] "=&w"(y) MN_KEPT
                         : [bias] "r"(bias), [multiplier] "r"(multiplier), [offset] "r"(offset),
                           [shift] "r"(shift), [low] "w"(low), [high] "w"(high),
                           [count] "r"(count), [out] "r"(out), [places] "w"(places)
                         : "memory" MN_SET);
}
#endif

#endif
