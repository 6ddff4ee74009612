"""Element-wise operators: functions of one byte, which are lookup tables of 256, and of two.

Invariant: as of the package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from micronets_jax.compile import arithmetic
from micronets_jax.compile.graph import Value
from micronets_jax.compile.operators import floats
from micronets_jax.compile.operators.builder import FULL_INTEGER, MAX_FOLDED, Builder
from micronets_jax.compile.operators.convolution import activation
from micronets_jax.compile.operators.registry import reads
from micronets_jax.tflite import Operator, TFLiteError

# One operand -------------------------------------------------------------------------------------


def table(
    b: Builder,
    operator: Operator,
    make: Callable[[Value, Value], arithmetic.Table],
    types: tuple[str, str] = ("int8", "int8"),
) -> None:
    """Adds a function of one byte as a table.

    Args:
        b: the builder.
        operator: that is read.
        make: from input and output to the 256 output bytes.
        types: of input and output.

    Raises:
        TFLiteError: the types are others, or there is no table for these scales.
    """
    value = b.input(operator, 0, types[0])
    output = b.output(operator, value.shape, types[1])
    try:
        made = make(value, output)
    except ValueError as error:
        raise TFLiteError(str(error)) from error
    b.add(operator, "table", [value], output, table=made)


def _function(name: str, make: Callable[..., arithmetic.Table], limits: str = "") -> None:
    """A function of scale and zero point, of input and output."""

    @reads(name, limits)
    def read(b: Builder, operator: Operator) -> None:
        table(b, operator, lambda x, y: make(x.scale, x.zero_point, y.scale, y.zero_point))


def _to_unit(zero_point: int, make: Callable[[float, int], arithmetic.Table]):
    """A function whose output scale is a convention, which the reference takes for granted."""

    def checked(in_scale: float, in_zero: int, _: float, out_zero: int) -> arithmetic.Table:
        if out_zero != zero_point:
            raise TFLiteError(f"its output needs zero point {zero_point}, not {out_zero}")
        return make(in_scale, in_zero)

    return checked


_function("RELU", arithmetic.relu_table)
_function(
    "RELU6",
    lambda scale, zero, *_: arithmetic.relu6_table(scale, zero),
    "clamps bytes in the scale of its input, whatever the output's",
)
_function(
    "LOGISTIC", _to_unit(-128, arithmetic.logistic_table), "output scale 1/256, zero point -128"
)
_function("TANH", _to_unit(0, arithmetic.tanh_table), "output scale 1/128, zero point 0")
_function("HARD_SWISH", arithmetic.hard_swish_table, "output scale at least 1/128 of the input's")
_function("ELU", arithmetic.elu_table)
_function("ABS", arithmetic.abs_table)
_function("RSQRT", arithmetic.rsqrt_table, "of negative inputs, which have no root, 127")


@reads("LEAKY_RELU")
def leaky_relu(b: Builder, operator: Operator) -> None:
    """``x`` where x >= 0, else ``alpha * x``: a table."""
    alpha = operator.options["alpha"]
    if not np.isfinite(alpha):
        raise TFLiteError(f"alpha is {alpha}")
    table(
        b,
        operator,
        lambda x, y: arithmetic.leaky_relu_table(
            x.scale, x.zero_point, y.scale, y.zero_point, alpha
        ),
    )


@reads("GELU", "as LiteRT computes it; TensorFlow Lite Micro does not")
def gelu(b: Builder, operator: Operator) -> None:
    """The Gaussian error linear unit, exact or by the tanh approximation: a table."""
    table(
        b,
        operator,
        lambda x, y: arithmetic.gelu_table(
            x.scale, x.zero_point, y.scale, y.zero_point, bool(operator.options["approximate"])
        ),
    )


@reads("QUANTIZE", "between int8, uint8 and int16, from float32, and from int16 to int32")
def quantize(b: Builder, operator: Operator) -> None:
    """Between integer types a table or a rescaling; from float32 a kernel, or one table with all
    that computed the float32 from a byte.
    """
    source, target = (b.model.tensors[i[0]].dtype for i in (operator.inputs, operator.outputs))
    if operator.inputs[0] in b.floats:
        value, reals = b.floats[operator.inputs[0]]
        output = b.output(operator, value.shape, target)
        made = floats.quantized(reals, output)
        b.add(operator, "table", [value], output, table=made)
    elif (source, target) == ("float32", "int8"):
        value = b.input(operator, 0, "float32")
        b.add(operator, "quantize", [value], b.output(operator, value.shape))
    elif (source, target) in (("int16", "int8"), ("int8", "int16"), ("int16", "int32")):
        value = b.input(operator, 0, source)
        output = b.output(operator, value.shape, target)
        q = b.model.tensors[output.tensor].quantization
        if q is None or not q.scale > 0:
            raise TFLiteError(f"its output {target} has no scale")
        multiplier, exponent = arithmetic.quantize_multiplier(value.scale / q.scale)
        b.add(
            operator, "rescale", [value], output, multiplier=multiplier, exponent=exponent,
            zero_point=q.zero_point,
        )  # fmt: skip
    elif (source, target) in (("int8", "int8"), ("int8", "uint8"), ("uint8", "int8")):
        table(
            b,
            operator,
            lambda x, y: arithmetic.requantize_table(
                x.scale, x.zero_point, y.scale, y.zero_point, source, target
            ),
            (source, target),
        )
    else:
        raise TFLiteError(
            f"from {source} to {target} is not supported; ends may be int8, uint8, int16 or float32"
        )


@reads("DEQUANTIZE", "from int8 or uint8 to float32")
def dequantize(b: Builder, operator: Operator) -> None:
    """To float32; functions of the result that end in QUANTIZE become one table."""
    source = b.model.tensors[operator.inputs[0]].dtype
    if source not in ("int8", "uint8"):
        raise TFLiteError(f"from {source}; {FULL_INTEGER}")
    value = b.input(operator, 0, source)
    output = b.output(operator, value.shape, "float32")
    b.add(operator, "dequantize", [value], output)
    b.floats[output.tensor] = (value, floats.dequantized(value))


@reads("CAST", "of constants, and from int8 to int32 or float32 at an output of the model")
def cast(b: Builder, operator: Operator) -> None:
    """Constants are folded; an output of the model is converted by a kernel."""
    target = b.model.tensors[operator.outputs[0]].dtype
    if b.is_constant(operator, 0) and target in ("int32", "int64"):
        b.fold(operator, b.constants[operator.inputs[0]].astype(target))
        return
    if target not in ("int32", "float32"):
        raise TFLiteError(f"to {target}; int32 and float32 are supported")
    value = b.input(operator)
    b.add(operator, "cast", [value], b.output(operator, value.shape, target))


# Two operands ------------------------------------------------------------------------------------


def folded(b: Builder, operator: Operator, function: Callable[..., np.ndarray]) -> bool:
    """Folds arithmetic of integer constants, which computes shapes."""
    if not b.is_constant(operator, 0, 1):
        return False
    data = [b.constants[i] for i in operator.inputs[:2]]
    if any(d.dtype not in (np.int32, np.int64) for d in data):
        return False
    try:
        b.fold(operator, function(*data).astype(data[0].dtype))
    except ValueError as error:
        raise TFLiteError(str(error)) from error
    return True


def pair(
    b: Builder,
    operator: Operator,
    kind: str,
    function: Callable[[int, int], int],
    operands: tuple[Value, Value, Value],
    **options: Any,
) -> None:
    """Adds a function of two bytes: a table where one is the same constant everywhere, or both are
    the same tensor; a constant where both are known.

    Args:
        b: the builder.
        operator: that is read.
        kind: of the node, if it remains one.
        function: the output byte, before its clamp to ``options``' min and max, of two bytes.
        operands: what :func:`operands_of` gives.
        options: of the node, if it remains one.

    Raises:
        TFLiteError: both are known, and too large to fold.
    """
    left, right, output = operands
    low, high = options.get("min", -128), options.get("max", 127)

    def clamped(x: int, y: int) -> int:
        return max(low, min(high, function(x, y)))

    if left.data is not None and right.data is not None:
        if output.elements > MAX_FOLDED:
            raise TFLiteError(f"more than {MAX_FOLDED} constants")
        pairs = np.broadcast_arrays(left.data, right.data)
        known = np.array(
            [clamped(int(x), int(y)) for x, y in zip(*(p.flat for p in pairs), strict=True)]
        )
        del b.values[output.tensor]
        b.fold(operator, known.astype(np.int8).reshape(output.shape))
    elif left.tensor == right.tensor:
        made = arithmetic.table_of(lambda x: clamped(x, x))
        b.add(operator, "table", [left], output, table=made)
    elif (y := _single(right)) is not None and left.elements == output.elements:
        made = arithmetic.table_of(lambda x: clamped(x, y))
        b.add(operator, "table", [left], output, table=made)
    elif (x := _single(left)) is not None and right.elements == output.elements:
        made = arithmetic.table_of(lambda y: clamped(x, y))
        b.add(operator, "table", [right], output, table=made)
    else:
        b.add(operator, kind, [left, right], output, **options)


def _single(value: Value) -> int | None:
    """The byte of a constant that has one element."""
    return None if value.data is None or value.elements > 1 else int(value.data.reshape(-1)[0])


def operands_of(
    b: Builder, operator: Operator, types: tuple[str, str] = ("int8", "int8")
) -> tuple[Value, Value, Value]:
    """Both inputs, either of which may be constant, and the output they broadcast to; ``types`` are
    those of inputs and output."""
    left, right = b.input(operator, 0, types[0]), b.input(operator, 1, types[0])
    return left, right, b.output(operator, _broadcast(left, right), types[1])


def _broadcast(*values: Value) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*(value.shape for value in values))
    except ValueError as error:
        raise TFLiteError(str(error)) from error


@reads("ADD", "with broadcasting", inputs=2)
@reads("SUB", "with broadcasting", inputs=2)
def add(b: Builder, operator: Operator) -> None:
    """ADD, SUB: operands widened by 20 bits at twice the coarser scale; the sum requantised."""
    subtract = operator.kind == "SUB"
    if folded(b, operator, np.subtract if subtract else np.add):
        return
    left, right, output = operands_of(b, operator)
    twice = 2 * max(left.scale, right.scale)
    scales = {
        "left": arithmetic.quantize_multiplier(left.scale / twice),
        "right": arithmetic.quantize_multiplier(right.scale / twice),
        "result": arithmetic.quantize_multiplier(twice / ((1 << 20) * output.scale)),
    }
    if scales["result"][1] >= 0:
        raise TFLiteError("its scales are out of proportion")

    def function(x: int, y: int) -> int:
        x = arithmetic.scale((x - left.zero_point) << 20, *scales["left"])
        y = arithmetic.scale((y - right.zero_point) << 20, *scales["right"])
        result = arithmetic.scale(x - y if subtract else x + y, *scales["result"])
        return result + output.zero_point

    pair(
        b, operator, "add", function, (left, right, output), subtract=subtract, **scales,
        **activation(operator, output),
    )  # fmt: skip


@reads("MUL", "with broadcasting", inputs=2)
def mul(b: Builder, operator: Operator) -> None:
    """The product of both operands less their zero points, requantised."""
    if folded(b, operator, np.multiply):
        return
    left, right, output = operands_of(b, operator)
    result = arithmetic.quantize_multiplier(left.scale * right.scale / output.scale)

    def function(x: int, y: int) -> int:
        product = (x - left.zero_point) * (y - right.zero_point)
        return arithmetic.scale(product, *result) + output.zero_point

    pair(
        b, operator, "mul", function, (left, right, output), result=result,
        **activation(operator, output),
    )  # fmt: skip


@reads("MAXIMUM", "with broadcasting; bytes are compared, whatever their scales", inputs=2)
@reads("MINIMUM", "with broadcasting; bytes are compared, whatever their scales", inputs=2)
def extreme(b: Builder, operator: Operator) -> None:
    """The larger or smaller byte of two; scales are ignored, as by the reference."""
    largest = operator.kind == "MAXIMUM"
    if not folded(b, operator, np.maximum if largest else np.minimum):
        pair(
            b, operator, operator.kind.lower(), max if largest else min, operands_of(b, operator),
            scales=[],
        )  # fmt: skip


@reads("EQUAL", "with broadcasting; of int8, to bool", inputs=2)
@reads("NOT_EQUAL", "with broadcasting; of int8, to bool", inputs=2)
@reads("GREATER", "with broadcasting; of int8, to bool", inputs=2)
@reads("GREATER_EQUAL", "with broadcasting; of int8, to bool", inputs=2)
@reads("LESS", "with broadcasting; of int8, to bool", inputs=2)
@reads("LESS_EQUAL", "with broadcasting; of int8, to bool", inputs=2)
def compare(b: Builder, operator: Operator) -> None:
    """Truth values are bytes, 0 or 1. Numbers are compared as the reference does, rounded to 1/256
    of what the scales say: so two that differ by little may be equal."""
    left, right, output = operands_of(b, operator, ("int8", "bool"))
    kind = operator.kind
    if kind in ("LESS", "GREATER_EQUAL"):  # y > x, and not so
        left, right = right, left
    opposite = int(kind in ("NOT_EQUAL", "GREATER_EQUAL", "LESS_EQUAL"))
    scales = [arithmetic.quantize_multiplier(v.scale) for v in (left, right)]
    if any(exponent > 0 or exponent < -31 for _, exponent in scales):
        raise TFLiteError("it compares what has scales of 1 or more, or next to none")
    equal = kind in ("EQUAL", "NOT_EQUAL")

    def function(x: int, y: int) -> int:
        x = arithmetic.scale((x - left.zero_point) << 8, *scales[0])
        y = arithmetic.scale((y - right.zero_point) << 8, *scales[1])
        return int(x == y if equal else x > y) ^ opposite

    pair(
        b, operator, "equal" if equal else "greater", function, (left, right, output),
        scales=scales, opposite=opposite,
    )  # fmt: skip


@reads("LOGICAL_AND", "with broadcasting; of bool", inputs=2)
@reads("LOGICAL_OR", "with broadcasting; of bool", inputs=2)
def logical(b: Builder, operator: Operator) -> None:
    """AND is the minimum of two bytes that are 0 or 1, OR the maximum."""
    both = operator.kind == "LOGICAL_AND"
    pair(
        b, operator, "minimum" if both else "maximum", min if both else max,
        operands_of(b, operator, ("bool", "bool")), scales=[],
    )  # fmt: skip


@reads("LOGICAL_NOT", "of bool")
def logical_not(b: Builder, operator: Operator) -> None:
    """1 for 0, 0 for any other byte: a table."""
    value = b.input(operator, 0, "bool")
    output = b.output(operator, value.shape, "bool")
    made = arithmetic.table_of(lambda x: int(x == 0))
    b.add(operator, "table", [value], output, table=made)


@reads("SELECT_V2", "with broadcasting; bytes are taken, whatever their scales", inputs=3)
def select(b: Builder, operator: Operator) -> None:
    """Elements of the second input where the first is true, else of the third."""
    operands = [b.input(operator, i, t) for i, t in enumerate(("bool", "int8", "int8"))]
    b.add(operator, "select", operands, b.output(operator, _broadcast(*operands)))


@reads("PRELU", "with broadcasting", inputs=2)
def prelu(b: Builder, operator: Operator) -> None:
    """``x`` where x >= 0, else ``x * slope``, with a tensor of slopes."""
    left, right, output = operands_of(b, operator)
    scales = [
        arithmetic.quantize_multiplier(left.scale / output.scale),
        arithmetic.quantize_multiplier(left.scale * right.scale / output.scale),
    ]

    def function(x: int, slope: int) -> int:
        x -= left.zero_point
        if x >= 0:
            return output.zero_point + arithmetic.scale(x, *scales[0])
        return output.zero_point + arithmetic.scale(x * (slope - right.zero_point), *scales[1])

    pair(b, operator, "prelu", function, (left, right, output), scales=scales)


@reads("SQUARED_DIFFERENCE", "with broadcasting", inputs=2)
def squared_difference(b: Builder, operator: Operator) -> None:
    """``(x - y)^2``: operands widened by 7 bits to twice the coarser scale."""
    left, right, output = operands_of(b, operator)
    twice = 2.0 * max(left.scale, right.scale)
    scales = [
        arithmetic.quantize_multiplier(left.scale / twice),
        arithmetic.quantize_multiplier(right.scale / twice),
        arithmetic.quantize_multiplier(
            twice * twice / float(np.float32(1 << 14) * np.float32(output.scale))
        ),
    ]

    def function(x: int, y: int) -> int:
        x = arithmetic.scale((x - left.zero_point) << 7, *scales[0])
        y = arithmetic.scale((y - right.zero_point) << 7, *scales[1])
        return output.zero_point + arithmetic.scale((x - y) ** 2, *scales[2])

    pair(b, operator, "squared_difference", function, (left, right, output), scales=scales)


@reads(
    "DIV",
    "with broadcasting; where the reference shifts by more than 31 bits (tiny quotients, division "
    "by zero), which C leaves open, it is what the formula says",
    inputs=2,
)
def div(b: Builder, operator: Operator) -> None:
    """The quotient, by a table of the reciprocals of all 256 divisors."""
    if folded(b, operator, lambda x, y: np.trunc(x / np.where(y, y, 1)).astype(x.dtype)):
        return
    left, right, output = operands_of(b, operator)
    result = arithmetic.quantize_multiplier(left.scale / (right.scale * output.scale))

    def function(x: int, y: int) -> int:
        return output.zero_point + arithmetic.quotient(
            x - left.zero_point, y - right.zero_point, *result
        )

    divisors = np.abs(np.arange(-128, 128) - right.zero_point)
    reciprocals = [arithmetic.reciprocal(int(d)) for d in divisors]
    pair(
        b, operator, "quotient", function, (left, right, output), scales=[result],
        reciprocals=np.array(reciprocals, np.int32), **activation(operator, output),
    )  # fmt: skip


@reads("FLOOR_DIV", "of integer constants, which compute shapes", inputs=2)
def floor_div(b: Builder, operator: Operator) -> None:
    """Floor division of integer constants, folded; 0 divides as 1."""
    if not folded(b, operator, lambda x, y: np.floor_divide(x, np.where(y, y, 1))):
        raise TFLiteError("only integer constants are divided so; use DIV")


@reads("FLOOR_MOD", "of integer constants, which compute shapes", inputs=2)
def floor_mod(b: Builder, operator: Operator) -> None:
    """The remainder of floor division of integer constants, folded; 0 divides as 1."""
    if not folded(b, operator, lambda x, y: np.mod(x, np.where(y, y, 1))):
        raise TFLiteError("only integer constants are divided so")


@reads("REDUCE_PROD", "of integer constants, which compute shapes", inputs=2)
def reduce_prod(b: Builder, operator: Operator) -> None:
    """The product along axes of integer constants, folded."""

    def product(x: np.ndarray, axes: np.ndarray) -> np.ndarray:
        return np.asarray(np.prod(x, axis=tuple(int(a) for a in axes.reshape(-1)), dtype=x.dtype))

    try:
        done = folded(b, operator, product)
    except np.exceptions.AxisError as error:
        raise TFLiteError(str(error)) from error
    if not done:
        raise TFLiteError("only integer constants are multiplied so")
