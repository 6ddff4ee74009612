/* Functions of one byte: every activation and every change of scale is a table of 256. */
#include "kernels.h"

void mn_table(const uint8_t *table, const uint8_t *in, uint8_t *out, int32_t bytes)
{
    for (; bytes > 0; bytes--)
        *out++ = table[*in++];
}

/* uint8 to int8 and back at the same scale: the sign bit turns. */
void mn_flip(const uint8_t *in, uint8_t *out, int32_t bytes)
{
    for (; bytes >= 4; bytes -= 4, in += 4, out += 4) {
        uint32_t four;
        memcpy(&four, in, 4);
        four ^= 0x80808080u;
        memcpy(out, &four, 4);
    }
    for (; bytes > 0; bytes--)
        *out++ = (uint8_t)(*in++ ^ 0x80);
}
