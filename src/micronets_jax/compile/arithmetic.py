"""The reference's fixed-point arithmetic on Python integers, for all that is decided beforehand.

Invariant: every function here equals, bit for bit, what TensorFlow Lite Micro does when it prepares
or runs an operator (double rounding; the scheme of Jacob et al., 2018, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

INT32_MAX = (1 << 31) - 1


def quantize_multiplier(real: float) -> tuple[int, int]:
    """A non-negative real as ``multiplier / 2^31 * 2^exponent``, multiplier in [2^30, 2^31).

    Raises:
        OverflowError: it is 2^30 or more, which the reference cannot shift by.
    """
    if real == 0:
        return 0, 0
    if not real < 1 << 30:
        raise OverflowError(f"{real} is not below 2^30")
    fraction, exponent = math.frexp(real)
    multiplier = round_away(fraction * (1 << 31))
    if multiplier == 1 << 31:
        multiplier, exponent = multiplier // 2, exponent + 1
    return (0, 0) if exponent < -31 else (multiplier, exponent)


def round_away(x: float) -> int:
    """To the nearest integer, halves away from zero."""
    return int(math.copysign(math.floor(abs(x) + 0.5), x)) if abs(x) < 1 << 51 else int(x)


def high_multiply(a: int, b: int, bits: int = 31) -> int:
    """round(a * b / 2^bits), ties upwards: the saturating rounding doubling high product."""
    if a == b == -(1 << bits):
        return (1 << bits) - 1
    return (a * b + (1 << (bits - 1))) >> bits


def divide_by_power(x: int, exponent: int) -> int:
    """x / 2^exponent, halves away from zero."""
    if exponent == 0:
        return x
    return (x + (1 << (exponent - 1)) - (x < 0)) >> exponent


def scale(x: int, multiplier: int, exponent: int) -> int:
    """x * multiplier / 2^31 * 2^exponent with the reference's two roundings."""
    left, right = max(exponent, 0), max(-exponent, 0)
    return divide_by_power(high_multiply(x << left, multiplier), right)


def scale_array(
    x: np.ndarray, multiplier: np.ndarray | int, exponent: np.ndarray | int
) -> np.ndarray:
    """:func:`scale` of int64 arrays; what a shift to the left takes beyond 32 bits wraps, as in
    registers."""
    left, right = np.maximum(exponent, 0), np.maximum(-exponent, 0)
    wrapped = ((x << left) + (1 << 31)) % (1 << 32) - (1 << 31)
    high = (wrapped * multiplier + (1 << 30)) >> 31
    half = np.where(right > 0, (1 << right) >> 1, 0)
    return (high + half - ((right > 0) & (high < 0))) >> right


def saturate(x: int, bits: int) -> int:
    """``x`` clipped to the range of a signed integer of so many bits."""
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, x))


def activation_range(activation: int, out_scale: float, zero_point: int) -> tuple[int, int]:
    """Clamp of a fused activation (schema's numbers: 0 none, 1 ReLU, 2 ReLU -1..1, 3 ReLU6)."""

    def level(real: float) -> int:
        return zero_point + round_away(float(np.float32(real) / np.float32(out_scale)))

    low, high = -128, 127
    if activation in (1, 3):
        low = max(low, level(0.0))
    if activation == 3:
        high = min(high, level(6.0))
    if activation == 2:
        low, high = max(low, level(-1.0)), min(high, level(1.0))
    return min(low, high), high


Table = tuple[int, ...]
"""256 output bytes by the bit pattern of the input byte.

Functions that make one take scale and zero point of the input (``in_scale``, ``in_zero``), then of
the output (``out_scale``, ``out_zero``), then what the operator has besides."""


def table_of(function, signed_in: bool = True) -> Table:
    """256 output bytes of an integer function, for the bit patterns 0..255 of its input."""
    return tuple(
        function(byte - 256 if signed_in and byte > 127 else byte) & 255 for byte in range(256)
    )


def requantize_table(
    in_scale: float, in_zero: int, out_scale: float, out_zero: int, in_type: str, out_type: str
) -> Table:
    """QUANTIZE between int8 and uint8."""
    multiplier, exponent = quantize_multiplier(in_scale / out_scale)
    low, high = (0, 255) if out_type == "uint8" else (-128, 127)
    return table_of(
        lambda x: max(low, min(high, scale(x - in_zero, multiplier, exponent) + out_zero)),
        in_type == "int8",
    )


def relu_table(in_scale: float, in_zero: int, out_scale: float, out_zero: int) -> Table:
    """RELU: requantised, then clamped below at zero."""
    multiplier, exponent = quantize_multiplier(in_scale / out_scale)
    low = max(-128, out_zero)
    return table_of(
        lambda x: min(127, max(low, out_zero + scale(x - in_zero, multiplier, exponent)))
    )


def relu6_table(in_scale: float, in_zero: int) -> Table:
    """The standalone operator clamps in the scale of its input."""
    six = saturate(in_zero + round_away(float(np.float32(6) / np.float32(in_scale))), 8)
    return table_of(lambda x: min(six, max(in_zero, x)))


def logistic_table(in_scale: float, in_zero: int) -> Table:
    """LOGISTIC to scale 1/256, zero point -128, by the reference's fixed-point polynomial."""
    fraction, left = math.frexp(in_scale * (1 << 27))
    multiplier = round_away(fraction * (1 << 31))
    radius = math.floor(15 * (1 << 27) / 2.0**left)

    def function(x: int) -> int:
        x -= in_zero
        if x <= -radius:
            return -128
        if x >= radius:
            return 127
        return saturate(divide_by_power(_logistic(scale(x, multiplier, left)), 23) - 128, 8)

    return table_of(function)


def tanh_table(in_scale: float, in_zero: int) -> Table:
    """The output's scale is 1/128, its zero point 0."""
    fraction, left = math.frexp(in_scale * (1 << 27))
    multiplier = round_away(fraction * (1 << 31))
    radius = math.floor(15 * (1 << 27) / 2.0**left)

    def function(x: int) -> int:
        x -= in_zero
        if abs(x) >= radius:
            return 127 if x > 0 else -128
        return saturate(divide_by_power(_tanh(scale(x, multiplier, left)), 24), 8)

    return table_of(function)


def leaky_relu_table(
    in_scale: float, in_zero: int, out_scale: float, out_zero: int, alpha: float
) -> Table:
    """LEAKY_RELU: ``x`` where x >= 0, else ``alpha * x``, each by a multiplier of its own."""
    multiplier, exponent = quantize_multiplier(in_scale / out_scale)
    slope = in_scale * alpha / out_scale
    slope_multiplier, slope_exponent = quantize_multiplier(abs(slope))

    def function(x: int) -> int:
        x -= in_zero
        if x >= 0:
            return saturate(out_zero + scale(x, multiplier, exponent), 8)
        y = scale(x, slope_multiplier, slope_exponent)
        return saturate(out_zero + (-y if slope < 0 else y), 8)

    return table_of(function)


def elu_table(in_scale: float, in_zero: int, out_scale: float, out_zero: int) -> Table:
    """ELU: ``exp(x) - 1`` below 0, in single precision as the reference makes it."""
    f = np.float32
    return _single_precision_table(
        lambda x: f(math.exp(x)) - f(1) if x < 0 else x, in_scale, in_zero, out_scale, out_zero
    )


def gelu_table(
    in_scale: float, in_zero: int, out_scale: float, out_zero: int, approximate: bool
) -> Table:
    """GELU in single precision, by erfc or by the tanh approximation."""
    f = np.float32

    def gelu(x: np.float32) -> np.float32:
        if approximate:
            inner = math.sqrt(2 / math.pi) * (float(x) + 0.044715 * float(x) ** 3)
            return f(0.5 * float(x) * (1 + math.tanh(inner)))
        return f(0.5) * x * f(math.erfc(float(x * f(-math.sqrt(0.5)))))

    return _single_precision_table(gelu, in_scale, in_zero, out_scale, out_zero)


def _single_precision_table(
    function: Callable[[np.float32], np.float32],
    in_scale: float,
    in_zero: int,
    out_scale: float,
    out_zero: int,
) -> Table:
    """The reference makes some tables in single precision."""
    f = np.float32
    inverse = f(1) / f(out_scale)

    def level(byte: int) -> int:
        y = function(f(in_scale) * f(byte - in_zero))
        return saturate(int(f(round_away(float(y * inverse))) + f(out_zero)), 8)

    return table_of(level)


def abs_table(in_scale: float, in_zero: int, out_scale: float, out_zero: int) -> Table:
    """ABS: the distance from the zero point, requantised where scales differ."""
    multiplier, exponent = quantize_multiplier(in_scale / out_scale)
    if in_scale == out_scale:
        return table_of(lambda x: saturate(abs(x - in_zero) + out_zero, 8))
    return table_of(lambda x: saturate(scale(abs(x - in_zero), multiplier, exponent) + out_zero, 8))


def rsqrt_table(in_scale: float, in_zero: int, out_scale: float, out_zero: int) -> Table:
    """Where the input is negative, for which there is no root, it is as at zero: the largest."""
    multiplier, exponent = quantize_multiplier(1 / (math.sqrt(in_scale) * out_scale))

    def function(x: int) -> int:
        if x <= in_zero:
            return 127
        root, shift = inverse_square_root(x - in_zero)
        y = scale(scale(1, root, 20 - shift), multiplier, exponent - 20)
        return saturate(y + out_zero, 8)

    return table_of(function)


def hard_swish_table(in_scale: float, in_zero: int, out_scale: float, out_zero: int) -> Table:
    """HARD_SWISH, ``x * relu6(x + 3) / 6``, in the reference's 16-bit steps.

    Raises:
        ValueError: the output's scale is finer than 1/128 of the input's.
    """
    fine = np.float32(1 / 128) * np.float32(in_scale)
    out_multiplier, out_exponent = quantize_multiplier(float(fine / np.float32(out_scale)))
    if out_exponent > 0:
        raise ValueError("the output's scale is finer than 1/128 of the input's")
    relu_multiplier, relu_exponent = quantize_multiplier(
        float(fine / np.float32(np.float32(3) / np.float32(32768)))
    )
    narrow = [min(32767, (m + (1 << 15)) >> 16) for m in (out_multiplier, relu_multiplier)]

    def function(x: int) -> int:
        x = (x - in_zero) << 7
        on_output_scale = high_multiply(x, narrow[0], 15)
        gate = x
        if relu_exponent > 0:
            gate = saturate(gate << (relu_exponent - 1), 16)
        gate = high_multiply(gate, narrow[1], 15)
        if relu_exponent > 0:
            gate = saturate(gate << 1, 16)
        else:
            gate = divide_by_power(gate, -relu_exponent)
        gate = (gate + (1 << 15)) >> 1
        product = gate * on_output_scale
        product = -(-product >> 15) if product < 0 else product >> 15  # towards zero
        return saturate(divide_by_power(product, -out_exponent) + out_zero, 8)

    return table_of(function)


def softmax_scale(in_scale: float, beta: float) -> tuple[int, int]:
    """Multiplier and exponent from steps of the input to Q5.26."""
    real = min(beta * in_scale * (1 << 26), float(INT32_MAX))
    if real <= 1:
        raise ValueError(f"beta * scale = {beta * in_scale:.3g} is too small for the reference")
    return quantize_multiplier(real)


def softmax_exponentials(in_scale: float, beta: float) -> list[int]:
    """exp(-k * beta * in_scale) in Q0.31 for k = 0, 1, ... as long as the reference counts them."""
    multiplier, left = softmax_scale(in_scale, beta)
    radius = math.floor(31 * (1 << 26) / 2.0**left)
    return [
        exp_on_negative(high_multiply(-k << left, multiplier), 5)
        for k in range(min(radius, 255) + 1)
    ]


# exp(-2^-2), exp(-2^-1) ... exp(-2^4) in Q0.31.
_POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


def exp_on_negative(x: int, integer_bits: int) -> int:
    """exp(x) in Q0.31 for x <= 0 with ``integer_bits`` integer bits: a polynomial of degree four on
    [-1/4, 0), times one factor for every higher bit."""
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    rest = (x & (quarter - 1)) - quarter
    a = (rest << integer_bits) + (1 << 28)  # around -1/8
    square = high_multiply(a, a)
    cube = high_multiply(square, a)
    fourth = divide_by_power(high_multiply(square, square), 2)
    series = divide_by_power(high_multiply(fourth + cube, 715827883) + square, 1)
    result = 1895147668 + high_multiply(1895147668, a + series)
    for bit, power in enumerate(_POWERS[: integer_bits + 2]):
        if (rest - x) & (1 << (fraction_bits - 2 + bit)):
            result = high_multiply(result, power)
    return INT32_MAX if x == 0 else result


def _tanh(x: int) -> int:
    """tanh(x) in Q0.31 for x in Q4.27."""
    if x == 0:
        return 0
    # (1 - e) / (1 + e) for e = exp(-2 |x|): twice the reciprocal of 1 + e, less one
    y = _newton_reciprocal(exp_on_negative(-abs(x), 5))
    positive = saturate((y - (1 << 29)) << 2, 32)
    return positive if x > 0 else -positive


def inverse_square_root(x: int) -> tuple[int, int]:
    """1 / sqrt(x) as ``root / 2^31 / 2^shift`` for an integer x, by Newton's method in Q3.28."""
    if x <= 1:
        return INT32_MAX, 0
    shift = 11
    while x >= 1 << 29:
        x, shift = x // 4, shift + 1
    pairs = (31 - x.bit_length()) // 2 - 1
    shift -= pairs
    x <<= 2 * pairs
    half = divide_by_power(x >> 1, 1)
    y = 1 << 28
    for _ in range(5):
        cube = _rescale(high_multiply(high_multiply(y, y), y), 6)
        y = _rescale(high_multiply((1 << 28) + (1 << 27), y) - high_multiply(half, cube), 3)
    root = high_multiply(y, 1518500250)
    return (root << -shift, 0) if shift < 0 else (root, shift)


def _rescale(x: int, bits: int) -> int:
    return saturate(x << bits, 32)


def reciprocal(x: int) -> int:
    """2^k / x in Q0.31 for an integer x and the k that brings it into (1/2, 1]. Of 0 it is what the
    reference's Newton steps end at, with k = -1."""
    headroom = 32 - x.bit_length()
    return _reciprocal_of_one_plus((x << headroom) - (1 << 31))


def quotient(x: int, y: int, multiplier: int, exponent: int) -> int:
    """x / y * multiplier / 2^31 * 2^exponent.

    Args:
        x: dividend, less its zero point.
        y: divisor, less its zero point; 0 divides as the reference's Newton steps end.
        multiplier: of the result.
        exponent: of the result.

    Returns:
        That in steps of the output, rounded, before its zero point is added; int32, not clamped.
    """
    if x == 0:
        return 0
    if y < 0:
        x, y = -x, -y
    headroom = 31 - x.bit_length() if x > 0 else 32 - (-2 * x - 1).bit_length()
    right = -exponent + y.bit_length() - 1 + headroom
    wide = high_multiply(x << headroom, reciprocal(y))
    return 0 if right > 31 else divide_by_power(high_multiply(wide, multiplier), right)


def sigmoid_table() -> list[int]:
    """sigmoid(i / 24) in Q0.16 for i below 256, raised by half of what linear interpolation lacks
    at most between two of them."""
    table = []
    for i in range(255):
        s = 1 / (1 + math.exp(-i / 24))
        bend = s * (1 - s) * (1 - 2 * s) / 24**2 / 8
        table.append(round_away(65536 * (s - bend / 2)))
    return [*table, 65535]


def _logistic(x: int) -> int:
    """1 / (1 + exp(-x)) in Q0.31 for x in Q4.27."""
    if x == 0:
        return 1 << 30
    positive = _reciprocal_of_one_plus(exp_on_negative(-abs(x), 4))
    return positive if x > 0 else INT32_MAX - positive


def _reciprocal_of_one_plus(x: int) -> int:
    """1 / (1 + x) for x in [0, 1), Q0.31."""
    return saturate(_newton_reciprocal(x) << 1, 32)


def _newton_reciprocal(x: int) -> int:
    """2 / (1 + x) for x in [0, 1) in Q0.31, by three Newton steps in Q2.29."""
    half_denominator = (x + INT32_MAX + 1) >> 1
    y = 1515870810 + high_multiply(half_denominator, -1010580540)
    for _ in range(3):
        y += saturate(high_multiply(y, (1 << 29) - high_multiply(half_denominator, y)) << 2, 32)
    return y
