/* Sum or mean over some axes; the mean's divisor is part of the multiplier. */
#include "kernels.h"

void mn_reduce(const struct mn_reduce *p, const int8_t *in, int8_t *out)
{
    int32_t at[4] = {0, 0, 0, 0};
    for (;;) {
        const int8_t *from = in;
        int32_t sum = -p->zero_point_sum;
        int axis = 3;
        for (int i = 0; i < 4; i++)
            from += at[i] * p->kept_steps[i];
        for (int32_t i = 0; i < p->reduced[0]; i++)
            for (int32_t j = 0; j < p->reduced[1]; j++)
                for (int32_t k = 0; k < p->reduced[2]; k++)
                    for (int32_t l = 0; l < p->reduced[3]; l++)
                        sum += from[i * p->reduced_steps[0] + j * p->reduced_steps[1] +
                                    k * p->reduced_steps[2] + l * p->reduced_steps[3]];
        *out++ = mn_clamp(mn_scale_wide(sum, p->multiplier, p->shift) + p->zero_point, -128, 127);
        while (axis >= 0 && ++at[axis] == p->kept[axis])
            at[axis--] = 0;
        if (axis < 0)
            return;
    }
}
