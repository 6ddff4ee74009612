"""Element by element: functions of one byte, which are tables of 256, and of two."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from micronets_jax.compile import arithmetic
from micronets_jax.compile.graph import Value
from micronets_jax.compile.operators.builder import FULL_INTEGER, Builder
from micronets_jax.compile.operators.convolution import activation
from micronets_jax.compile.operators.registry import reads
from micronets_jax.tflite import Operator, TFLiteError

# One operand -------------------------------------------------------------------------------------


def table(
    b: Builder, operator: Operator, make: Callable[[Value, Value], arithmetic.Table],
    types: tuple[str, str] = ("int8", "int8"),
) -> None:  # fmt: skip
    """Adds a function of one byte; ``make`` gives its 256 outputs from input and output."""
    value = b.input(operator, 0, types[0])
    output = b.output(operator, value.shape, types[1])
    b.add(operator, "table", [value], output, table=make(value, output))


def _function(
    name: str, make: Callable[[Value, Value], arithmetic.Table], limits: str = ""
) -> None:
    reads(name, limits)(lambda b, operator: table(b, operator, make))


_function("RELU", lambda x, y: arithmetic.relu_table(x.scale, x.zero_point, y.scale, y.zero_point))
_function(
    "RELU6",
    lambda x, y: arithmetic.relu6_table(x.scale, x.zero_point),
    "clamps in the scale of its input, as TensorFlow Lite Micro does",
)


@reads("LOGISTIC", "output zero point -128")
def logistic(b: Builder, operator: Operator) -> None:
    def make(x: Value, y: Value) -> arithmetic.Table:
        if y.zero_point != -128:
            raise TFLiteError("its output needs scale 1/256, zero point -128")
        return arithmetic.logistic_table(x.scale, x.zero_point)

    table(b, operator, make)


@reads("HARD_SWISH", "output scale at least 1/128 of the input's")
def hard_swish(b: Builder, operator: Operator) -> None:
    def make(x: Value, y: Value) -> arithmetic.Table:
        try:
            return arithmetic.hard_swish_table(x.scale, x.zero_point, y.scale, y.zero_point)
        except ValueError as error:
            raise TFLiteError(str(error)) from error

    table(b, operator, make)


@reads("QUANTIZE", "between int8, uint8 and, at an input of the model, float32")
def quantize(b: Builder, operator: Operator) -> None:
    source, target = (b.model.tensors[i[0]].dtype for i in (operator.inputs, operator.outputs))
    if (source, target) == ("float32", "int8"):
        value = b.input(operator, 0, "float32")
        b.add(operator, "quantize", [value], b.output(operator, value.shape))
    elif (source, target) in (("int8", "int8"), ("int8", "uint8"), ("uint8", "int8")):
        table(
            b, operator,
            lambda x, y: arithmetic.requantize_table(
                x.scale, x.zero_point, y.scale, y.zero_point, source, target
            ),
            (source, target),
        )  # fmt: skip
    else:
        raise TFLiteError(
            f"from {source} to {target} is not supported; ends may be int8, uint8 or float32"
        )


@reads("DEQUANTIZE", "from int8 or uint8 to float32, at an output of the model")
def dequantize(b: Builder, operator: Operator) -> None:
    source = b.model.tensors[operator.inputs[0]].dtype
    if source not in ("int8", "uint8"):
        raise TFLiteError(f"from {source}; {FULL_INTEGER}")
    value = b.input(operator, 0, source)
    b.add(operator, "dequantize", [value], b.output(operator, value.shape, "float32"))


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


def operands(b: Builder, operator: Operator) -> tuple[Value, Value, Value]:
    """Both inputs, of which one may be constant, and the output they broadcast to."""
    left, right = b.input(operator), b.input(operator, 1)
    try:
        shape = np.broadcast_shapes(left.shape, right.shape)
    except ValueError as error:
        raise TFLiteError(str(error)) from error
    return left, right, b.output(operator, shape)


@reads("ADD", "with broadcasting", inputs=2)
@reads("SUB", "with broadcasting", inputs=2)
def add(b: Builder, operator: Operator) -> None:
    subtract = operator.kind == "SUB"
    if folded(b, operator, np.subtract if subtract else np.add):
        return
    left, right, output = operands(b, operator)
    # the reference computes SUB's scales in single precision and ADD's in double
    real = np.float32 if subtract else np.float64
    twice = real(2) * real(max(left.scale, right.scale))
    scales = {
        "left": arithmetic.quantize_multiplier(float(real(left.scale) / twice)),
        "right": arithmetic.quantize_multiplier(float(real(right.scale) / twice)),
        "result": arithmetic.quantize_multiplier(
            float(twice / (real(1 << 20) * real(output.scale)))
        ),
    }
    if scales["result"][1] >= 0:
        raise TFLiteError("its scales are out of proportion")
    b.add(
        operator, "add", [left, right], output, subtract=subtract, **scales,
        **activation(operator, output),
    )  # fmt: skip


@reads("MUL", "with broadcasting", inputs=2)
def mul(b: Builder, operator: Operator) -> None:
    if folded(b, operator, np.multiply):
        return
    left, right, output = operands(b, operator)
    multiplier = arithmetic.quantize_multiplier(left.scale * right.scale / output.scale)
    b.add(operator, "mul", [left, right], output, result=multiplier, **activation(operator, output))
