/* Functions of two bytes with broadcasting, other than sums and products. The output may lie on
 * either operand of its own size. */
#include "fixed_point.h"

typedef int32_t function(const struct mn_pairs *p, int32_t left, int32_t right);

MN_INLINE void walk(const struct mn_pairs *p, const int8_t *left, const int8_t *right, int8_t *out,
                    function *f)
{
    for (int32_t i = 0; i < p->dims[0]; i++)
        for (int32_t j = 0; j < p->dims[1]; j++)
            for (int32_t k = 0; k < p->dims[2]; k++) {
                const int8_t *a = left + i * p->left_steps[0] + j * p->left_steps[1] +
                                  k * p->left_steps[2];
                const int8_t *b = right + i * p->right_steps[0] + j * p->right_steps[1] +
                                  k * p->right_steps[2];
                for (int32_t n = p->dims[3]; n > 0;
                     n--, a += p->left_steps[3], b += p->right_steps[3])
                    *out++ = mn_clamp(f(p, *a, *b), p->min, p->max);
            }
}

static int32_t maximum(const struct mn_pairs *p, int32_t x, int32_t y)
{
    (void)p;
    return x > y ? x : y;
}

static int32_t minimum(const struct mn_pairs *p, int32_t x, int32_t y)
{
    (void)p;
    return x < y ? x : y;
}

static int32_t prelu(const struct mn_pairs *p, int32_t x, int32_t slope)
{
    x -= p->left_zero_point;
    if (x >= 0)
        return p->zero_point + mn_scale_wide(x, p->multipliers[0], p->shifts[0]);
    return p->zero_point + mn_scale_wide(x * (slope - p->right_zero_point), p->multipliers[1],
                                         p->shifts[1]);
}

static int32_t squared_difference(const struct mn_pairs *p, int32_t x, int32_t y)
{
    const int32_t difference =
        mn_scale_wide((x - p->left_zero_point) * 128, p->multipliers[0], p->shifts[0]) -
        mn_scale_wide((y - p->right_zero_point) * 128, p->multipliers[1], p->shifts[1]);
    return p->zero_point +
           mn_scale_wide(difference * difference, p->multipliers[2], p->shifts[2]);
}

/* x / y as x scaled up to all of 32 bits, times the reciprocal of y, a number below 1 in Q0.31. */
static int32_t quotient(const struct mn_pairs *p, int32_t x, int32_t y)
{
    int32_t headroom, shift;
    const int32_t reciprocal = p->reciprocals[y + 128];
    x -= p->left_zero_point;
    y -= p->right_zero_point;
    if (x == 0)
        return p->zero_point;
    if (y < 0) {
        x = -x;
        y = -y;
    }
    headroom = x > 0 ? mn_leading_zeros((uint32_t)x) - 1 : mn_leading_zeros(2 * (uint32_t)-x - 1);
    shift = p->shifts[0] + 31 - mn_leading_zeros((uint32_t)y) + headroom;
    if (shift > 31)
        return p->zero_point;
    return p->zero_point +
           mn_scale_wide(mn_scale_wide(x, reciprocal, -headroom), p->multipliers[0], shift);
}

/* Of truth values and their opposites: `zero_point` is 1 for the latter. */
static int32_t greater(const struct mn_pairs *p, int32_t x, int32_t y)
{
    return (mn_scale_wide((x - p->left_zero_point) * 256, p->multipliers[0], p->shifts[0]) >
            mn_scale_wide((y - p->right_zero_point) * 256, p->multipliers[1], p->shifts[1])) ^
           p->zero_point;
}

static int32_t equal(const struct mn_pairs *p, int32_t x, int32_t y)
{
    return (mn_scale_wide((x - p->left_zero_point) * 256, p->multipliers[0], p->shifts[0]) ==
            mn_scale_wide((y - p->right_zero_point) * 256, p->multipliers[1], p->shifts[1])) ^
           p->zero_point;
}

void mn_greater(const struct mn_pairs *p, const int8_t *left, const int8_t *right, int8_t *out)
{
    walk(p, left, right, out, greater);
}

void mn_equal(const struct mn_pairs *p, const int8_t *left, const int8_t *right, int8_t *out)
{
    walk(p, left, right, out, equal);
}

void mn_select(const struct mn_select *p, const int8_t *condition, const int8_t *left,
               const int8_t *right, int8_t *out)
{
    for (int32_t i = 0; i < p->dims[0]; i++)
        for (int32_t j = 0; j < p->dims[1]; j++)
            for (int32_t k = 0; k < p->dims[2]; k++) {
                const int8_t *c = condition + i * p->condition_steps[0] +
                                  j * p->condition_steps[1] + k * p->condition_steps[2];
                const int8_t *a = left + i * p->left_steps[0] + j * p->left_steps[1] +
                                  k * p->left_steps[2];
                const int8_t *b = right + i * p->right_steps[0] + j * p->right_steps[1] +
                                  k * p->right_steps[2];
                for (int32_t n = p->dims[3]; n > 0; n--, c += p->condition_steps[3],
                             a += p->left_steps[3], b += p->right_steps[3])
                    *out++ = *c ? *a : *b;
            }
}

void mn_maximum(const struct mn_pairs *p, const int8_t *left, const int8_t *right, int8_t *out)
{
    walk(p, left, right, out, maximum);
}

void mn_minimum(const struct mn_pairs *p, const int8_t *left, const int8_t *right, int8_t *out)
{
    walk(p, left, right, out, minimum);
}

void mn_prelu(const struct mn_pairs *p, const int8_t *left, const int8_t *right, int8_t *out)
{
    walk(p, left, right, out, prelu);
}

void mn_squared_difference(const struct mn_pairs *p, const int8_t *left, const int8_t *right,
                           int8_t *out)
{
    walk(p, left, right, out, squared_difference);
}

void mn_quotient(const struct mn_pairs *p, const int8_t *left, const int8_t *right, int8_t *out)
{
    walk(p, left, right, out, quotient);
}
