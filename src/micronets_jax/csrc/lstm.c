/* Long short-term memory with int8 activations and an int16 cell state. */
#include "kernels.h"

static int32_t clamp16(int32_t x)
{
    return x < -32768 ? -32768 : x > 32767 ? 32767 : x;
}

/* Of |x| in 1/24 of the table's index and `bits` more: Q0.16 with `bits` more, 65536 its limit. */
static int32_t sigmoid_of(const uint16_t *table, int32_t x, int bits)
{
    const uint32_t size = (uint32_t)(x < 0 ? -x : x), index = size >> bits;
    const uint32_t part = size & ((1u << bits) - 1);
    if (index >= 255)
        return 0;
    return (int32_t)(((uint32_t)table[index] << bits) +
                     part * ((uint32_t)table[index + 1] - table[index]));
}

/* Q3.12 to Q0.15. */
static int32_t sigmoid(const uint16_t *table, int32_t x)
{
    const int32_t scaled = x * 3;
    int32_t y = sigmoid_of(table, scaled, 9);
    if (y == 0)
        y = 0x7fff << 10;
    y = scaled >= 0 ? y + (1 << 9) : (1 << 25) - y + (1 << 9) - 1;
    return y >> 10;
}

/* `scaled` is x in 3/4096 of a unit, so its sigmoid at 2 x is tanh(x) / 2 + 1/2; Q0.15. */
static int32_t hyperbolic_tangent(const uint16_t *table, int32_t scaled)
{
    int32_t y = sigmoid_of(table, scaled, 8);
    if (y == 0)
        y = 0xffff << 8;
    y = scaled >= 0 ? y - (1 << 23) + (1 << 7) : -y + (1 << 23) + (1 << 7) - 1;
    return y >> 8;
}

MN_INLINE int32_t product(const int8_t *weights, const int8_t *in, int32_t count, int32_t sum)
{
    for (; count > 0; count--)
        sum += *weights++ * *in++;
    return sum;
}

/* What goes into the nonlinearity of a gate (input, forget, cell, output) of a unit; Q3.12. */
static int32_t gate(const struct mn_lstm *p, int g, int32_t unit, const int8_t *in,
                    const int8_t *hidden)
{
    const int32_t row = g * p->units + unit;
    const int32_t x = product(p->input_weights + row * p->features, in, p->features, p->bias[row]);
    const int32_t y =
        product(p->recurrent_weights + row * p->units, hidden, p->units, p->offsets[row]);
    return clamp16(clamp16(mn_scale_wide(x, p->multipliers[2 * g], p->shifts[2 * g])) +
                   clamp16(mn_scale_wide(y, p->multipliers[2 * g + 1], p->shifts[2 * g + 1])));
}

void mn_lstm(const struct mn_lstm *p, const int8_t *in, int8_t *hidden, int16_t *cell, int8_t *out)
{
    const int32_t units = p->units;
    for (int32_t step = 0; step < p->steps; step++, in += p->features, out += units) {
        for (int32_t u = 0; u < units; u++) {
            const int32_t update = sigmoid(p->sigmoid, gate(p, 0, u, in, hidden));
            const int32_t forget = sigmoid(p->sigmoid, gate(p, 1, u, in, hidden));
            const int32_t fresh = hyperbolic_tangent(p->sigmoid, 3 * gate(p, 2, u, in, hidden));
            const int32_t result = sigmoid(p->sigmoid, gate(p, 3, u, in, hidden));
            const int32_t kept =
                clamp16(mn_scale_wide(forget * cell[u], p->multipliers[8], p->shifts[8]));
            const int32_t added =
                clamp16(mn_scale_wide(update * fresh, p->multipliers[9], p->shifts[9]));
            int32_t c = clamp16(kept + added), scaled;
            if (p->clip > 0)
                c = c > p->clip ? p->clip : c < -p->clip ? -p->clip : c;
            cell[u] = (int16_t)c;
            if (p->cell_shift >= 0) /* a power of two from the cell's scale to 1/4096 */
                scaled = c * 3 * (1 << p->cell_shift);
            else
                scaled = (c * 3 + (1 << (-p->cell_shift - 1))) >> -p->cell_shift;
            scaled = hyperbolic_tangent(p->sigmoid, scaled);
            out[u] = mn_clamp(mn_scale_wide(scaled * result, p->multipliers[10], p->shifts[10]) +
                                  p->zero_point,
                              -128, 127);
        }
        memcpy(hidden, out, (size_t)units);
    }
}
