/* Interface and arithmetic of the int8 kernels.
 *
 * Every kernel computes, bit for bit, what TensorFlow Lite Micro computes. Kernels keep no state,
 * call no allocator and write only to `out` and `scratch`. Three paths share all of the code but the
 * innermost loops: portable C99, the DSP extension of Armv7E-M / Armv8-M (MN_DSP), and with it the
 * vector extension of Armv8.1-M (MN_MVE). All read the same weights. */
#ifndef MN_KERNELS_H
#define MN_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__ARM_FEATURE_DSP) && defined(__thumb2__) && defined(__GNUC__)
#define MN_DSP 1
#define MN_INLINE static inline __attribute__((always_inline))
/* A function that is assembly and nothing else, and its arguments, which it finds in registers. */
#define MN_NAKED static __attribute__((naked, noinline, unused)) void
#define MN_REGISTER __attribute__((unused))
#else
#define MN_DSP 0
#define MN_INLINE static inline
#endif
#if defined(__thumb__) && !defined(__thumb2__) && defined(__GNUC__)
#define MN_THUMB1 1 /* Armv6-M: its loads do not extend signs, and eight registers do all but add */
#else
#define MN_THUMB1 0
#endif
/* A function whose constant arguments make it another one wherever it is called; a loop of so few
 * steps that they are written out; a sum to which products are added one by one, as gcc would else
 * add up a few of them apart. */
#if defined(__GNUC__)
#define MN_SPECIAL static inline __attribute__((always_inline))
#define MN_ONE_BY_ONE(sum) __asm__("" : "+r"(sum))
#else
#define MN_SPECIAL static inline
#define MN_ONE_BY_ONE(sum)
#endif
#if defined(__GNUC__) && !defined(__clang__)
#define MN_WRITTEN_OUT _Pragma("GCC unroll 8")
#else
#define MN_WRITTEN_OUT
#endif
#if MN_DSP && defined(__ARM_FEATURE_MVE)
#define MN_MVE 1
#else
#define MN_MVE 0
#endif

/* Small code: what is called from many places is not copied there, nor for one of them alone. */
#if defined(__clang__)
#define MN_NOINLINE static __attribute__((noinline, unused))
#elif defined(__GNUC__)
#define MN_NOINLINE static __attribute__((noinline, noclone, unused))
#else
#define MN_NOINLINE static
#endif

/* One output channel. An accumulator becomes an output by
 *     ((acc * multiplier + 2^30) >> 31) + offset, corrected by -1 if acc < 0, then >> shift
 * where `offset` holds half of the last divisor and the output's zero point shifted left. This is
 * the reference's double rounding exactly: the second rounding is half away from zero, which the
 * -1 accounts for. Where outputs below the zero point are clamped to it (ReLU), the sign of a
 * negative accumulator cannot show and MN_POSITIVE leaves the correction out.
 *
 * A `wide` channel (scale of 1/2 and more, negative scale, sums beyond 30 bits) takes the
 * reference's steps one by one instead: `offset` is the plain zero point and `shift` the
 * reference's exponent with its sign turned. Assembly loads `shift` and `wide` as one word, of
 * which shifts by a register use the lowest byte. */
struct mn_channel {
    int32_t bias; /* the input's zero point is folded in */
    int32_t multiplier;
    int32_t offset;
    int16_t shift, wide;
};

/* The assembly reads members by their offsets: where one has moved, this does not compile. */
#define MN_AT(type, member, offset)                                                                \
    typedef char type##_##member##_moved[offsetof(struct type, member) == (offset) ? 1 : -1]

enum mn_rounding {
    MN_POSITIVE, /* no output below the zero point survives the clamp */
    MN_SIGNED,
    MN_MIXED /* some channels are wide, the others signed */
};

struct mn_conv {
    const void *weights; /* int8 by pairs of output channels a, b and quads of inputs 0..3:
                            a0 B0 a2 B2 a1 B1 a3 B3, where B is b, less one where a is negative:
                            then a + 256 b is what the two bytes are as an int16, and SXTB16
                            unpacks a without shuffling; if `wide`, int16: a0 a2 b0 b2 a1 a3 b1 b3 */
    const struct mn_channel *channels;
    uint16_t out_channels, quads; /* quads: kernel_rows * kernel_columns * in_channels / 4, up */
    int16_t in_rows, in_columns, in_channels, out_columns;
    int32_t pixels;
    int16_t kernel_rows, kernel_columns, stride_rows, stride_columns;
    int16_t pad_top, pad_left, dilation_rows, dilation_columns;
    int8_t pad_value, min, max;
    uint8_t rounding, wide;
};

struct mn_dense {
    const int8_t *weights; /* by groups of two pairs of output channels a, b, and in them by quads of
                              inputs 0..3, as in struct mn_conv. A pair alone at the end is a group */
    const struct mn_channel *channels;
    int32_t inputs, pixels; /* by rows: inputs of a row, and rows, whose weights lie one by one */
    uint16_t out_channels;
    int8_t min, max;
    uint8_t rounding;
};

struct mn_depthwise {
    const int8_t *weights; /* [channels][kernel rows][kernel columns] */
    const struct mn_channel *channels;
    int16_t num_channels, in_rows, in_columns, out_rows, out_columns;
    int16_t pad_top, pad_left;
    int16_t plane_rows, plane_columns; /* with padding; columns even */
    int16_t kernel_rows, kernel_columns, stride_rows, stride_columns;
    int32_t in_row_step, in_column_step, out_row_step, out_column_step; /* in bytes */
    int8_t pad_value, min, max;
    uint8_t rounding;
};

struct mn_depthwise_row { /* a row of outputs over rows of inputs, four channels at once */
    const int8_t *weights;  /* [groups of four channels][kernel rows][kernel columns][4]; the last
                               group ends with the last channel and may overlap the one before */
    const struct mn_channel *channels; /* the input's zero point is not folded in */
    int16_t num_channels, in_columns, out_columns, pad_left;
    int16_t kernel_rows, kernel_columns, stride_columns, dilation_columns;
    int8_t zero_point, min, max;
    uint8_t rounding;
};

struct mn_depthwise_any { /* any multiplier, any dilation */
    const int8_t *weights;    /* [kernel rows][kernel columns][out channels] */
    const struct mn_channel *channels;
    int16_t in_rows, in_columns, in_channels, out_rows, out_columns, multiplier;
    int16_t kernel_rows, kernel_columns, stride_rows, stride_columns;
    int16_t pad_top, pad_left, dilation_rows, dilation_columns;
    int8_t zero_point, min, max;
    uint8_t rounding;
};

struct mn_grouped {
    const int8_t *weights; /* [out channels][kernel rows][kernel columns][inputs of a group] */
    const struct mn_channel *channels;
    int16_t in_rows, in_columns, in_channels, out_rows, out_columns, out_channels;
    int16_t group_inputs, group_outputs;
    int16_t kernel_rows, kernel_columns, stride_rows, stride_columns;
    int16_t pad_top, pad_left, dilation_rows, dilation_columns;
    int8_t zero_point, min, max;
    uint8_t rounding;
};

struct mn_transpose_conv {
    const int8_t *weights; /* [out channels][kernel rows][kernel columns][in channels] */
    const int32_t *bias, *multipliers, *shifts;
    int16_t in_rows, in_columns, in_channels, out_rows, out_columns, out_channels;
    int16_t kernel_rows, kernel_columns, stride_rows, stride_columns, pad_top, pad_left;
    int8_t in_zero_point, zero_point, min, max;
};

struct mn_pool {
    int16_t in_rows, in_columns, channels, out_rows, out_columns;
    int16_t kernel_rows, kernel_columns, stride_rows, stride_columns, pad_top, pad_left;
    int8_t min, max;
};

/* An operand of an addition: (x - zero_point) * factor, scaled and rounded. */
struct mn_operand {
    int32_t multiplier, offset, shift, zero_point, factor;
};

struct mn_add {
    struct mn_operand left, right;
    int32_t multiplier, offset, shift, zero_point;
    int32_t dims[4], left_steps[4], right_steps[4]; /* elements; a step of 0 broadcasts */
    int8_t min, max, subtract;
};

struct mn_mul {
    int32_t left_zero_point, right_zero_point, zero_point, multiplier, shift;
    int32_t dims[4], left_steps[4], right_steps[4];
    int8_t min, max;
};

struct mn_pairs { /* what of it a function needs */
    const int32_t *reciprocals; /* of right + 128 */
    int32_t left_zero_point, right_zero_point, zero_point, multipliers[3], shifts[3];
    int32_t dims[4], left_steps[4], right_steps[4];
    int8_t min, max;
};

struct mn_select { /* `condition` is 0 or 1 */
    int32_t dims[4], condition_steps[4], left_steps[4], right_steps[4];
};

struct mn_sum_row { /* rows summed up to one pixel */
    int32_t columns, channels, rows;
    int32_t count, zero_point_sum, multiplier, shift, zero_point; /* count > 0: a rounded mean */
    int8_t min, max;
};

struct mn_max_row {
    int32_t columns, channels, rows;
    int8_t min, max;
};

struct mn_bytes_row {
    const uint8_t *table; /* 0: the sign bit turns */
    int32_t bytes;
};

struct mn_float_row {
    float scale;
    int32_t zero_point, count;
    uint8_t is_unsigned;
};

struct mn_move_row { /* a row put together of parts of other rows */
    const int32_t *parts; /* twelve numbers each: input; first byte there and here; three times:
                             count, step there, step here, of the last of which steps are 1 */
    int32_t num_parts, bytes;
    int8_t fill;
    uint8_t fills; /* whether the parts leave something out */
};

struct mn_resize_row {
    const int16_t *columns;
    int32_t out_columns, channels;
};

struct mn_reduce {
    int32_t zero_point_sum, multiplier, shift, zero_point;
    int32_t kept[4], kept_steps[4], reduced[4], reduced_steps[4];
};

struct mn_extreme {
    int32_t kept[4], kept_steps[4], reduced[4], reduced_steps[4];
    int32_t sign; /* 1: the largest, -1: the smallest */
};

struct mn_arg { /* position of an extreme along the middle of three dimensions */
    int32_t outer, count, inner, sign;
};

struct mn_rescale {
    int32_t in_zero_point, out_zero_point, multiplier, shift, count;
};

struct mn_cumsum { /* along the middle of three dimensions */
    int32_t outer, count, inner, exclusive, reverse, in_zero_point, out_zero_point;
    int32_t multiplier, shift;
};

struct mn_l2_norm {
    int32_t zero_point, rows, columns;
};

struct mn_matmul { /* elements */
    int32_t batches[3], left_batch_steps[3], right_batch_steps[3];
    int32_t rows, columns, depth, left_row_step, left_step, right_step, right_column_step;
    int32_t left_zero_point, right_zero_point, zero_point, multiplier, shift;
};

struct mn_copy {
    int32_t dims[6], in_steps[6], out_steps[6]; /* bytes; the last dimension is contiguous */
};

struct mn_resize {
    const int16_t *rows, *columns; /* input row and column of every output row and column */
    int16_t out_rows, out_columns, in_columns, channels;
};

struct mn_bilinear {
    const int16_t *rows, *columns; /* of every output row and column: the two of the input it lies
                                      between, and the second one's weight in 1/1024 */
    int16_t out_rows, out_columns, in_columns, channels;
};

struct mn_log_softmax {
    const int32_t *exponentials; /* as in mn_softmax */
    int32_t num_exponentials, rows, columns;
    int32_t multiplier, shift;                 /* from steps of the input to Q5.26 */
    int32_t reverse_multiplier, reverse_shift; /* and back */
};

struct mn_svdf {
    const int8_t *feature_weights;
    const int32_t *feature_bias, *bias;
    const void *time_weights; /* int8 or, if `wide`, int16, as the state */
    int32_t features, memory, rank, units, state_zero_point, zero_point;
    int32_t feature_multiplier, feature_shift, multiplier, shift;
    uint8_t wide;
};

struct mn_lstm { /* gates in this order: input, forget, cell, output */
    const int8_t *input_weights, *recurrent_weights; /* [gates][units][...] */
    const int32_t *bias, *offsets; /* [gates][units], with the zero points of input and state */
    const uint16_t *sigmoid;       /* of i / 24 in Q0.16 */
    int32_t multipliers[11], shifts[11]; /* of each gate's input and state; forget, update, result */
    int32_t steps, features, units, zero_point, clip, cell_shift;
};

/* Rows of a tensor that a row call reads: those of a window that begins with row
 * `call * stride - pad`, or row map[call]. Row y lies in slot y mod depth. */
struct mn_source {
    const int8_t *constant; /* or 0: in the arena */
    const int16_t *map;     /* or 0 */
    int32_t offset, pitch;  /* of slot 0; from one to the next */
    int16_t depth, rows, taps, stride, pad, dilation;
};

/* `in`: a pointer for every row of every source, 0 for those outside of the picture; `row` counts
 * the calls. */
typedef void mn_row_kernel(const void *parameters, const int8_t *const *in, int8_t *out,
                           void *scratch, int32_t row);

struct mn_row_op {
    mn_row_kernel *kernel; /* 0: waits for a row of the model's input */
    const void *parameters;
    const struct mn_source *sources;
    int32_t out, pitch, scratch; /* bytes in the arena */
    int16_t depth, num_sources, layer;
};

struct mn_row_call { /* in repetition i of its phase: row + i * step of operation `op` */
    int16_t row;
    uint8_t op, step;
};

struct mn_phase { /* the next `calls` calls, `times` times */
    uint16_t calls, times;
};

struct mn_stretch {
    const struct mn_row_op *ops;
    const struct mn_row_call *calls;
    const struct mn_phase *phases;
    int32_t num_phases;
};

struct mn_softmax {
    const int32_t *exponentials; /* of 0, -1, -2 ... steps of the input, in Q0.31 */
    int32_t num_exponentials, rows, columns;
};

void mn_conv(const struct mn_conv *c, const int8_t *in, int8_t *out, void *scratch);
void mn_dense(const struct mn_dense *d, const int8_t *in, int8_t *out);
void mn_depthwise_any(const struct mn_depthwise_any *d, const int8_t *in, int8_t *out);
void mn_grouped(const struct mn_grouped *g, const int8_t *in, int8_t *out);
void mn_transpose_conv(const struct mn_transpose_conv *p, const int8_t *in, int8_t *out);
void mn_average_pool(const struct mn_pool *p, const int8_t *in, int8_t *out);
void mn_max_pool(const struct mn_pool *p, const int8_t *in, int8_t *out);
void mn_add(const struct mn_add *p, const int8_t *left, const int8_t *right, int8_t *out);
void mn_mul(const struct mn_mul *p, const int8_t *left, const int8_t *right, int8_t *out);
void mn_maximum(const struct mn_pairs *p, const int8_t *left, const int8_t *right, int8_t *out);
void mn_minimum(const struct mn_pairs *p, const int8_t *left, const int8_t *right, int8_t *out);
void mn_greater(const struct mn_pairs *p, const int8_t *left, const int8_t *right, int8_t *out);
void mn_equal(const struct mn_pairs *p, const int8_t *left, const int8_t *right, int8_t *out);
void mn_select(const struct mn_select *p, const int8_t *condition, const int8_t *left,
               const int8_t *right, int8_t *out);
void mn_prelu(const struct mn_pairs *p, const int8_t *left, const int8_t *right, int8_t *out);
void mn_squared_difference(const struct mn_pairs *p, const int8_t *left, const int8_t *right,
                           int8_t *out);
void mn_quotient(const struct mn_pairs *p, const int8_t *left, const int8_t *right, int8_t *out);
void mn_reduce(const struct mn_reduce *p, const int8_t *in, int8_t *out);
void mn_rescale_16_8(const struct mn_rescale *p, const int16_t *in, int8_t *out);
void mn_rescale_8_16(const struct mn_rescale *p, const int8_t *in, int16_t *out);
void mn_rescale_16_32(const struct mn_rescale *p, const int16_t *in, int32_t *out);
void mn_softmax16(const struct mn_softmax *p, const int8_t *in, int16_t *out);
void mn_softmax(const struct mn_softmax *p, const int8_t *in, int8_t *out);
void mn_extreme(const struct mn_extreme *p, const int8_t *in, int8_t *out);
void mn_arg(const struct mn_arg *p, const int8_t *in, int32_t *out);
void mn_cumsum(const struct mn_cumsum *p, const int8_t *in, int8_t *out);
void mn_log_softmax(const struct mn_log_softmax *p, const int8_t *in, int8_t *out);
void mn_l2_norm(const struct mn_l2_norm *p, const int8_t *in, int8_t *out);
void mn_matmul(const struct mn_matmul *p, const int8_t *left, const int8_t *right, int8_t *out);
void mn_bilinear(const struct mn_bilinear *p, const int8_t *in, int8_t *out);
void mn_svdf(const struct mn_svdf *p, const int8_t *in, void *state, int8_t *out);
void mn_lstm(const struct mn_lstm *p, const int8_t *in, int8_t *hidden, int16_t *cell, int8_t *out);
void mn_copy(const struct mn_copy *p, const int8_t *in, int8_t *out);
void mn_resize(const struct mn_resize *p, const int8_t *in, int8_t *out);
void mn_fill(int8_t value, int8_t *out, int32_t bytes);
void mn_flip(const uint8_t *in, uint8_t *out, int32_t bytes);
void mn_table(const uint8_t *table, const uint8_t *in, uint8_t *out, int32_t bytes);
void mn_widen(const int8_t *in, int32_t *out, int32_t count);
void mn_to_float(const int8_t *in, float *out, int32_t count);
void mn_quantize(float scale, int32_t zero_point, const float *in, int8_t *out, int32_t count);
void mn_dequantize(float scale, int32_t zero_point, const int8_t *in, float *out, int32_t count);
void mn_dequantize_u8(float scale, int32_t zero_point, const uint8_t *in, float *out,
                      int32_t count);

void mn_conv_row(const void *parameters, const int8_t *const *in, int8_t *out, void *scratch,
                 int32_t row);
void mn_dense_row(const void *parameters, const int8_t *const *in, int8_t *out, void *scratch,
                  int32_t row);

#if MN_DSP
/* Instructions that a compiler does not find by itself. */
MN_INLINE int32_t mn_smlad(int32_t x, int32_t y, int32_t acc)
{
    int32_t r;
    __asm__("smlad %0, %1, %2, %3" : "=r"(r) : "r"(x), "r"(y), "r"(acc));
    return r;
}
MN_INLINE int32_t mn_smlabt(int32_t x, int32_t y, int32_t acc)
{
    int32_t r;
    __asm__("smlabt %0, %1, %2, %3" : "=r"(r) : "r"(x), "r"(y), "r"(acc));
    return r;
}
MN_INLINE int32_t mn_smlatb(int32_t x, int32_t y, int32_t acc)
{
    int32_t r;
    __asm__("smlatb %0, %1, %2, %3" : "=r"(r) : "r"(x), "r"(y), "r"(acc));
    return r;
}
MN_INLINE int32_t mn_sxtb16(int32_t x)
{
    int32_t r;
    __asm__("sxtb16 %0, %1" : "=r"(r) : "r"(x));
    return r;
}
MN_INLINE int32_t mn_sxtb16_ror8(int32_t x)
{
    int32_t r;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(r) : "r"(x));
    return r;
}
/* Bytes 0 and 2, or 1 and 3, of `y` as two int16, each plus one of `x`. */
MN_INLINE int32_t mn_sxtab16(int32_t x, int32_t y)
{
    int32_t r;
    __asm__("sxtab16 %0, %1, %2" : "=r"(r) : "r"(x), "r"(y));
    return r;
}
MN_INLINE int32_t mn_sxtab16_ror8(int32_t x, int32_t y)
{
    int32_t r;
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(r) : "r"(x), "r"(y));
    return r;
}
MN_INLINE int32_t mn_smlabb(int32_t x, int32_t y, int32_t acc)
{
    int32_t r;
    __asm__("smlabb %0, %1, %2, %3" : "=r"(r) : "r"(x), "r"(y), "r"(acc));
    return r;
}
MN_INLINE int32_t mn_smlatt(int32_t x, int32_t y, int32_t acc)
{
    int32_t r;
    __asm__("smlatt %0, %1, %2, %3" : "=r"(r) : "r"(x), "r"(y), "r"(acc));
    return r;
}
MN_INLINE int32_t mn_pkhbt(int32_t low, int32_t high)
{
    int32_t r;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(r) : "r"(low), "r"(high));
    return r;
}
MN_INLINE int32_t mn_smmlar(int32_t x, int32_t y, int32_t acc)
{
    int32_t r;
    __asm__("smmlar %0, %1, %2, %3" : "=r"(r) : "r"(x), "r"(y), "r"(acc));
    return r;
}
MN_INLINE int32_t mn_saturate(int32_t x)
{
    int32_t r;
    __asm__("ssat %0, #8, %1" : "=r"(r) : "r"(x));
    return r;
}
#else
/* acc + round(x * y / 2^32), ties upwards. */
MN_INLINE int32_t mn_smmlar(int32_t x, int32_t y, int32_t acc)
{
#if MN_THUMB1 /* has no product of 64 bits: by halves, of which the lower ones are not signed */
    const int32_t x_low = x & 0xffff, x_high = x >> 16, y_low = y & 0xffff, y_high = y >> 16;
    const int32_t middle = x_high * y_low + (int32_t)((uint32_t)x_low * (uint32_t)y_low >> 16);
    const int32_t lower = x_low * y_high + (middle & 0xffff);
    return acc + x_high * y_high + (middle >> 16) + (lower >> 16) + (lower >> 15 & 1);
#else
    const uint64_t start = (uint64_t)(uint32_t)acc << 32 | (uint32_t)1 << 31;
    return (int32_t)((start + (uint64_t)((int64_t)x * y)) >> 32);
#endif
}
MN_INLINE int32_t mn_saturate(int32_t x)
{
    return x < -128 ? -128 : x > 127 ? 127 : x;
}
#endif

/* Wrapping shift left: what the registers do, without the undefined behaviour. */
MN_INLINE int32_t mn_shl(int32_t x, int32_t bits)
{
    return (int32_t)((uint32_t)x << bits);
}

/* round(x * multiplier / 2^31), ties upwards; |x| < 2^30. */
MN_INLINE int32_t mn_scale(int32_t x, int32_t multiplier, int32_t offset)
{
    return mn_smmlar(mn_shl(x, 1), multiplier, offset);
}

/* The reference's multiplication by a quantised multiplier for every scale and every sum. */
MN_INLINE int32_t mn_scale_wide(int32_t x, int32_t multiplier, int32_t shift)
{
    const int32_t left = shift < 0 ? -shift : 0, right = shift < 0 ? 0 : shift;
    const int64_t product = (int64_t)mn_shl(x, left) * multiplier;
    const int64_t high = (product + ((int64_t)1 << 30)) >> 31;
    const int64_t half = right > 0 ? (int64_t)1 << (right - 1) : 0;
    return (int32_t)((high + half - (right > 0 && high < 0 ? 1 : 0)) >> right);
}

MN_INLINE int8_t mn_clamp(int32_t x, int32_t min, int32_t max)
{
    return (int8_t)(x < min ? min : x > max ? max : x);
}

/* The weights of two output channels from their bytes, as one number a + 256 b: see struct mn_conv. */
MN_INLINE int32_t mn_both(const int8_t *pair)
{
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    int16_t both;
    memcpy(&both, __builtin_assume_aligned(pair, 2), 2);
    return both;
#else
    return (int16_t)((uint8_t)pair[0] | (uint8_t)pair[1] << 8);
#endif
}

/* Accumulator to output, unclamped. */
MN_INLINE int32_t mn_scaled(int32_t acc, const struct mn_channel *channel, int rounding)
{
    int32_t y;
    if (rounding == MN_MIXED && channel->wide) {
        y = mn_scale_wide(acc, channel->multiplier, channel->shift);
        return y < -512 ? -512 + channel->offset : y > 512 ? 512 + channel->offset : y + channel->offset;
    }
    y = mn_scale(acc, channel->multiplier, channel->offset);
    if (rounding != MN_POSITIVE)
        y += acc >> 31;
    return y >> channel->shift;
}

/* Before the activation's clamp but saturated to int8. */
MN_INLINE int32_t mn_requantize(int32_t acc, const struct mn_channel *channel, int rounding)
{
    return mn_saturate(mn_scaled(acc, channel, rounding));
}

#endif
