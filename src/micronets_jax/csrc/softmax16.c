#include "softmax.h"

void mn_softmax16(const struct mn_softmax *p, const int8_t *in, int16_t *out)
{
    softmax(p, in, 16, 0, out);
}
