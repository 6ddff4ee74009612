"""Reductions: pooling, sums, extremes, interpolation, products of matrices, normalisation.

Invariant: as of the package.
"""

from __future__ import annotations

import numpy as np

from micronets_jax.compile import arithmetic
from micronets_jax.compile.graph import Value
from micronets_jax.compile.operators.builder import MAX_SIDE, Builder, picture, same_quantization
from micronets_jax.compile.operators.convolution import activation, window
from micronets_jax.compile.operators.move import axis_of, output_size
from micronets_jax.compile.operators.registry import reads
from micronets_jax.tflite import Operator, TFLiteError


def require_same_quantization(a: Value, b: Value) -> None:
    """Refuses an operator that copies bytes between tensors of different scale or zero point.

    Raises:
        TFLiteError: they differ.
    """
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
    """The mean over each window, padding left out."""
    _pool(b, operator, "average_pool")


@reads("MAX_POOL_2D", "one scale for input and output")
def max_pool_2d(b: Builder, operator: Operator) -> None:
    """The largest byte of each window."""
    _pool(b, operator, "max_pool")


def _axes(b: Builder, operator: Operator, value: Value) -> list[int]:
    rank = len(value.shape)
    return sorted({axis_of(operator, axis, rank) for axis in b.integers(operator, 1, "axes")})


def _axis(b: Builder, operator: Operator, value: Value) -> int:
    axes = _axes(b, operator, value)
    if len(axes) != 1:
        raise TFLiteError(f"axes {axes}; one is supported")
    return axes[0]


def _reduced(
    b: Builder, operator: Operator, value: Value, axes: list[int], dtype: str = "int8"
) -> Value:
    """The output, with or without the dimensions of one that are left of ``axes``."""
    kept = [n for i, n in enumerate(value.shape) if i not in axes]
    if len(b.model.tensors[operator.outputs[0]].shape) == len(value.shape):
        kept = [1 if i in axes else n for i, n in enumerate(value.shape)]
    return b.free_output(operator, kept, dtype)


@reads("MEAN", "axes constant", inputs=2)
@reads("SUM", "axes constant", inputs=2)
def mean_or_sum(b: Builder, operator: Operator) -> None:
    """Sums along axes, requantised; the mean's multiplier includes the division by the count."""
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


@reads(
    "SOFTMAX",
    "along the last axis; output scale 1/256, zero point -128; in int16 1/65536 and -32768",
)
def softmax(b: Builder, operator: Operator) -> None:
    """Softmax along the last axis from a table of exponentials, to int8 or int16."""
    value = b.input(operator)
    wide = b.model.tensors[operator.outputs[0]].dtype == "int16"
    output = b.output(operator, value.shape, "int16" if wide else "int8")
    if wide and (abs(output.scale * 65536 - 1) > 0.001 or output.zero_point != -(1 << 15)):
        raise TFLiteError("its output needs scale 1/65536, zero point -32768")
    if not wide and (output.scale != 1 / 256 or output.zero_point != -128):
        raise TFLiteError("its output needs scale 1/256, zero point -128")
    try:
        table = arithmetic.softmax_exponentials(value.scale, operator.options["beta"])
    except ValueError as error:
        raise TFLiteError(str(error)) from error
    b.add(operator, "softmax", [value], output, exponentials=table)


@reads("LOG_SOFTMAX", "along the last axis; output scale 1/16, zero point 127")
def log_softmax(b: Builder, operator: Operator) -> None:
    """Logarithm of the softmax along the last axis, from a table of exponentials."""
    value = b.input(operator)
    output = b.output(operator, value.shape)
    if output.scale != 1 / 16 or output.zero_point != 127:
        raise TFLiteError("its output needs scale 1/16, zero point 127")
    try:
        table = arithmetic.softmax_exponentials(value.scale, 1.0)
    except ValueError as error:
        raise TFLiteError(str(error)) from error
    multiplier, left = arithmetic.softmax_scale(value.scale, 1.0)
    back = arithmetic.quantize_multiplier((1 << (31 - left)) / multiplier)
    b.add(
        operator, "log_softmax", [value], output, exponentials=table,
        scales=[(multiplier, left), back],
    )  # fmt: skip


@reads("L2_NORMALIZATION", "along the last axis; output scale 1/128, zero point 0")
def l2_normalization(b: Builder, operator: Operator) -> None:
    """Vectors along the last axis divided by their Euclidean norm."""
    value = b.input(operator)
    if operator.options["activation"]:
        raise TFLiteError("a fused activation is not supported")
    if not value.shape or value.shape[-1] > MAX_SIDE:
        raise TFLiteError(f"vectors of {list(value.shape)}; at most {MAX_SIDE} elements")
    b.add(operator, "l2_norm", [value], b.output(operator, value.shape))


@reads("REDUCE_MAX", "axes constant; one scale for input and output", inputs=2)
@reads("REDUCE_MIN", "axes constant; one scale for input and output", inputs=2)
def reduce_extreme(b: Builder, operator: Operator) -> None:
    """The largest or smallest byte along axes."""
    value = b.input(operator)
    axes = _axes(b, operator, value)
    output = _reduced(b, operator, value, axes)
    require_same_quantization(value, output)
    sign = 1 if operator.kind == "REDUCE_MAX" else -1
    b.add(operator, "extreme", [value], output, axes=axes, sign=sign)


@reads("ARG_MAX", "axis constant; output int32", inputs=2)
@reads("ARG_MIN", "axis constant; output int32", inputs=2)
def arg_extreme(b: Builder, operator: Operator) -> None:
    """Position of the largest or smallest byte along an axis, int32."""
    value = b.input(operator)
    axis = _axis(b, operator, value)
    output = _reduced(b, operator, value, [axis], "int32")
    sign = 1 if operator.kind == "ARG_MAX" else -1
    b.add(operator, "arg", [value], output, axis=axis, sign=sign)


@reads("CUMSUM", "axis constant", inputs=2)
def cumsum(b: Builder, operator: Operator) -> None:
    """Running sums along an axis, forwards or backwards, with or without the element itself."""
    value = b.input(operator)
    axis = _axis(b, operator, value)
    output = b.output(operator, value.shape)
    multiplier, exponent = arithmetic.quantize_multiplier(
        2 * value.scale / ((1 << 20) * output.scale)
    )
    if exponent > 0:
        raise TFLiteError("its scales are out of proportion")
    exclusive, reverse = (bool(operator.options[name]) for name in ("exclusive", "reverse"))
    b.add(
        operator, "cumsum", [value], output, axis=axis, multiplier=multiplier,
        exponent=exponent, exclusive=exclusive, reverse=reverse,
    )  # fmt: skip


@reads("RESIZE_BILINEAR", "size constant", inputs=2)
def resize_bilinear(b: Builder, operator: Operator) -> None:
    """Bilinear interpolation in fixed point with 10 bits of fraction."""
    value = b.input(operator)
    batch, rows, columns, channels = picture(value)
    size = output_size(b, operator)
    align, half = (bool(operator.options[n]) for n in ("align_corners", "half_pixel_centers"))
    if align and half:
        raise TFLiteError("align_corners and half_pixel_centers exclude each other")
    output = b.output(operator, (batch, *size, channels))
    b.add(
        operator, "bilinear", [value], output, batch=batch,
        rows=_between(rows, size[0], align, half), columns=_between(columns, size[1], align, half),
    )  # fmt: skip


def _between(size: int, out_size: int, align: bool, half: bool) -> list[tuple[int, int, int]]:
    """For every output index the two of the input that it lies between, and how far in 1/1024."""
    if align and out_size > 1:
        step = ((size - 1) * 1024 + (out_size - 1) // 2) // (out_size - 1)
    else:
        step = (size * 1024 + out_size // 2) // out_size
    found = []
    for i in range(out_size):
        x = i * step + (step // 2 - 512 if half else 0)
        low = max(int(x / 1024), 0)  # towards zero
        high = min(int((x + 1023) / 1024), size - 1)
        found.append((low, high, x - 1024 * low))
    return found


@reads("BATCH_MATMUL", "both factors computed or constant, either transposed", inputs=2)
def batch_matmul(b: Builder, operator: Operator) -> None:
    """Products of matrices over batches that broadcast, either factor transposed."""
    left, right = b.input(operator), b.input(operator, 1)
    turned = [bool(operator.options[n]) for n in ("adj_x", "adj_y")]
    if min(len(left.shape), len(right.shape)) < 2 or max(len(left.shape), len(right.shape)) > 5:
        raise TFLiteError(f"{list(left.shape)} by {list(right.shape)}; 2 to 5 dimensions")
    (rows, depth), (height, columns) = (
        value.shape[:-3:-1] if turn else value.shape[-2:]
        for value, turn in zip((left, right), turned, strict=True)
    )
    try:
        batches = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    except ValueError as error:
        raise TFLiteError(str(error)) from error
    if depth != height or depth > MAX_SIDE:
        raise TFLiteError(f"{list(left.shape)} by {list(right.shape)}")
    output = b.output(operator, (*batches, rows, columns))
    b.add(
        operator, "matmul", [left, right], output, output.elements * depth, transposed=turned,
        result=arithmetic.quantize_multiplier(left.scale * right.scale / output.scale),
    )  # fmt: skip
