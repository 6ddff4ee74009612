/* The largest or smallest value over some axes, and where it stands. */
#include "kernels.h"

void mn_extreme(const struct mn_extreme *p, const int8_t *in, int8_t *out)
{
    int32_t at[4] = {0, 0, 0, 0};
    for (;;) {
        const int8_t *from = in;
        int32_t best = -128;
        int axis = 3;
        for (int i = 0; i < 4; i++)
            from += at[i] * p->kept_steps[i];
        for (int32_t i = 0; i < p->reduced[0]; i++)
            for (int32_t j = 0; j < p->reduced[1]; j++)
                for (int32_t k = 0; k < p->reduced[2]; k++)
                    for (int32_t l = 0; l < p->reduced[3]; l++) {
                        const int32_t x =
                            from[i * p->reduced_steps[0] + j * p->reduced_steps[1] +
                                 k * p->reduced_steps[2] + l * p->reduced_steps[3]] *
                            p->sign;
                        best = x > best ? x : best;
                    }
        /* of -128 alone the smallest is 128 here */
        *out++ = (int8_t)(best * p->sign);
        while (axis >= 0 && ++at[axis] == p->kept[axis])
            at[axis--] = 0;
        if (axis < 0)
            return;
    }
}

void mn_arg(const struct mn_arg *p, const int8_t *in, int32_t *out)
{
    for (int32_t i = 0; i < p->outer; i++, in += p->count * p->inner)
        for (int32_t j = 0; j < p->inner; j++) {
            int32_t best = 0;
            for (int32_t k = 1; k < p->count; k++)
                if ((in[k * p->inner + j] - in[best * p->inner + j]) * p->sign > 0)
                    best = k;
            *out++ = best;
        }
}
