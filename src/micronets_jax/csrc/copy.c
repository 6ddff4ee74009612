/* Moves without arithmetic: concatenation, padding and transposition are strided copies. */
#include "kernels.h"

void mn_copy(const struct mn_copy *p, const int8_t *in, int8_t *out)
{
    const int32_t *n = p->dims, *s = p->in_steps, *d = p->out_steps;
    for (int32_t a = 0; a < n[0]; a++)
        for (int32_t b = 0; b < n[1]; b++)
            for (int32_t c = 0; c < n[2]; c++)
                for (int32_t e = 0; e < n[3]; e++)
                    for (int32_t f = 0; f < n[4]; f++)
                        memmove(out + a * d[0] + b * d[1] + c * d[2] + e * d[3] + f * d[4],
                                in + a * s[0] + b * s[1] + c * s[2] + e * s[3] + f * s[4],
                                (size_t)n[5]);
}

void mn_fill(int8_t value, int8_t *out, int32_t bytes)
{
    memset(out, value, (size_t)bytes);
}
