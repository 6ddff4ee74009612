/* Nearest-neighbour resizing by tables of source rows and columns. */
#include "kernels.h"

void mn_resize(const struct mn_resize *p, const int8_t *in, int8_t *out)
{
    for (int row = 0; row < p->out_rows; row++)
        for (int column = 0; column < p->out_columns; column++, out += p->channels)
            memcpy(out, in + (p->rows[row] * p->in_columns + p->columns[column]) * p->channels,
                   (size_t)p->channels);
}
