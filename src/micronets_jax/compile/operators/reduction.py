"""Many values to one: pooling, sums, extremes, and what divides by a sum."""

from __future__ import annotations

import numpy as np

from micronets_jax.compile import arithmetic
from micronets_jax.compile.graph import Value
from micronets_jax.compile.operators.builder import Builder, picture, same_quantization
from micronets_jax.compile.operators.convolution import activation, window
from micronets_jax.compile.operators.move import axis_of
from micronets_jax.compile.operators.registry import reads
from micronets_jax.tflite import Operator, TFLiteError


def require_same_quantization(a: Value, b: Value) -> None:
    if not same_quantization(a, b):
        raise TFLiteError(
            "input and output differ in scale or zero point, which it cannot change; put a QUANTIZE"
            " behind it"
        )


def _pool(b: Builder, operator: Operator, kind: str) -> None:
    value = b.input(operator)
    batch, rows, columns, channels = picture(value)
    kernel = (operator.options["filter_h"], operator.options["filter_w"])
    made = window(operator, (rows, columns), kernel, (1, 1))
    output = b.output(operator, (batch, *made["size"], channels))
    require_same_quantization(value, output)
    b.add(
        operator, kind, [value], output, kernel=kernel, batch=batch, **made,
        **activation(operator, output),
    )  # fmt: skip


@reads("AVERAGE_POOL_2D", "one scale for input and output")
def average_pool_2d(b: Builder, operator: Operator) -> None:
    _pool(b, operator, "average_pool")


@reads("MAX_POOL_2D", "one scale for input and output")
def max_pool_2d(b: Builder, operator: Operator) -> None:
    _pool(b, operator, "max_pool")


def _axes(b: Builder, operator: Operator, value: Value) -> list[int]:
    rank = len(value.shape)
    return sorted({axis_of(operator, axis, rank) for axis in b.integers(operator, 1, "axes")})


def _reduced(b: Builder, operator: Operator, value: Value, axes: list[int]) -> Value:
    """The output, with or without the dimensions of one that are left of ``axes``."""
    shape = b.model.tensors[operator.outputs[0]].shape
    kept = [n for i, n in enumerate(value.shape) if i not in axes]
    if [n for n in shape if n != 1] != [n for n in kept if n != 1]:
        raise TFLiteError(f"the output has shape {list(shape)}; it should be {kept}")
    return b.output(operator, shape)


@reads("MEAN", "axes constant", inputs=2)
@reads("SUM", "axes constant", inputs=2)
def mean_or_sum(b: Builder, operator: Operator) -> None:
    value = b.input(operator)
    axes = _axes(b, operator, value)
    output = _reduced(b, operator, value, axes)
    count = int(np.prod([value.shape[i] for i in axes], dtype=np.int64))
    multiplier, exponent = arithmetic.quantize_multiplier(value.scale / output.scale)
    if operator.kind == "MEAN":
        shift = min(count.bit_length() - 1, 32, 31 + exponent)
        multiplier, exponent = (multiplier << shift) // count, exponent - shift
    b.add(
        operator, "reduce", [value], output, axes=axes, multiplier=multiplier, exponent=exponent,
        count=count,
    )  # fmt: skip


@reads("SOFTMAX", "along the last axis; output scale 1/256, zero point -128")
def softmax(b: Builder, operator: Operator) -> None:
    value = b.input(operator)
    output = b.output(operator, value.shape)
    if output.scale != 1 / 256 or output.zero_point != -128:
        raise TFLiteError("its output needs scale 1/256, zero point -128")
    try:
        table = arithmetic.softmax_exponentials(value.scale, operator.options["beta"])
    except ValueError as error:
        raise TFLiteError(str(error)) from error
    b.add(operator, "softmax", [value], output, exponentials=table)
