/* Ends of a model that are not bytes: the only floating point there is. */
#include "kernels.h"

void mn_quantize(float scale, int32_t zero_point, const float *in, int8_t *out, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        const float x = in[i] / scale;
        /* half away from zero; x + 0.5 would round up just below a half */
        const float limited = x > 1000.0f ? 1000.0f : x < -1000.0f ? -1000.0f : x;
        int32_t y = (int32_t)limited;
        const float rest = limited - (float)y;
        y += rest >= 0.5f ? 1 : rest <= -0.5f ? -1 : 0;
        out[i] = mn_clamp(y + zero_point, -128, 127);
    }
}

void mn_dequantize(float scale, int32_t zero_point, const int8_t *in, float *out, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = scale * (float)(in[i] - zero_point);
}

void mn_dequantize_u8(float scale, int32_t zero_point, const uint8_t *in, float *out,
                      int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = scale * (float)(in[i] - zero_point);
}

void mn_widen(const int8_t *in, int32_t *out, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = in[i];
}

void mn_to_float(const int8_t *in, float *out, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        out[i] = (float)in[i];
}
