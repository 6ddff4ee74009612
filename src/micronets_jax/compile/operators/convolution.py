"""Convolutions of every kind, and dense layers.

Invariant: as of the package.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from micronets_jax.compile import arithmetic
from micronets_jax.compile.graph import Value
from micronets_jax.compile.operators.builder import Builder, picture
from micronets_jax.compile.operators.registry import reads
from micronets_jax.tflite import Operator, Tensor, TFLiteError
from micronets_jax.windows import Padding, output_size, pads


def window(
    operator: Operator, size: tuple[int, int], kernel: tuple[int, int], dilation: tuple[int, int]
) -> dict[str, Any]:
    """Stride, padding at the top and left, and output size.

    Args:
        operator: whose stride and padding are read.
        size: rows and columns of the input.
        kernel: rows and columns of the kernel.
        dilation: rows and columns from one tap to the next.

    Returns:
        ``stride``, ``pads`` and ``size``, each of rows and columns, as options of a node.

    Raises:
        TFLiteError: a number is out of range, or the kernel does not fit the input.
    """
    o = operator.options
    stride = (o["stride_h"], o["stride_w"])
    if min(*stride, *dilation, *kernel) < 1 or max(*stride, *dilation, *kernel) > 1 << 14:
        raise TFLiteError(f"stride {stride}, kernel {kernel}, {dilation=}")
    if o["padding"] not in (0, 1):
        raise TFLiteError(f"unknown padding {o['padding']}")
    padding: Padding = "SAME" if o["padding"] == 0 else "VALID"
    out, before = [], []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        out.append(output_size(n, k, s, padding, d))
        before.append(pads(n, k, s, padding, d)[0])
    if min(out) < 1:
        raise TFLiteError("its kernel does not fit its input")
    return {"stride": stride, "pads": tuple(before), "size": tuple(out)}


def activation(operator: Operator, output: Value) -> dict[str, int]:
    """The clamp of a fused activation."""
    code = operator.options["activation"]
    if code not in (0, 1, 2, 3):
        raise TFLiteError(f"fused activation {code} is not supported")
    low, high = arithmetic.activation_range(code, output.scale, output.zero_point)
    return {"min": low, "max": high}


def weights_of(b: Builder, operator: Operator, axis: int, ndim: int) -> tuple[Tensor, np.ndarray]:
    """Constant weights with one scale, or one for each index of ``axis``.

    Args:
        b: the builder.
        operator: whose second input is read.
        axis: of the output channels.
        ndim: that the weights must have.

    Returns:
        The tensor and its values, int8 or int4 as int8, of the file's shape.

    Raises:
        TFLiteError: they are computed at run time, or have another rank, no scale, a zero point, or
            scales that do not fit their shape.
    """
    tensor, data = b.constant(operator, 1, "weights", ("int8", "int4"))
    if data.ndim != ndim or data.size == 0:
        raise TFLiteError(f"its weights have shape {list(data.shape)}")
    q = tensor.quantization
    if q is None:
        raise TFLiteError("its weights have no scale")
    if q.zero_points.any():
        raise TFLiteError("its weights have a zero point other than 0")
    if len(q.scales) > 1:
        named = data.shape[q.axis] if 0 <= q.axis < ndim else 0
        if not len(q.scales) == data.shape[axis] == named:
            raise TFLiteError(
                f"its weights have {len(q.scales)} scales along axis {q.axis}, which do not fit the"
                f" shape {list(data.shape)}"
            )
    return tensor, data


def bias_of(b: Builder, operator: Operator, channels: int, position: int = 2) -> np.ndarray:
    """Biases, or zeros. What their tensor says of scales is not looked at: they are in the units
    of the sums, input scale times weight scale.

    Args:
        b: the builder.
        operator: whose bias is read.
        channels: how many there must be.
        position: of the bias among the inputs.

    Returns:
        int64 [channels].

    Raises:
        TFLiteError: there is another number of biases, or they are computed at run time.
    """
    if len(operator.inputs) <= position or operator.inputs[position] == -1:
        return np.zeros(channels, np.int64)
    _, data = b.constant(operator, position, "bias", ("int32",))
    if data.size != channels:
        raise TFLiteError(f"{data.size} biases for {channels} channels")
    return data.reshape(-1).astype(np.int64)


def scales_of(value: Value, weights: Tensor, output: Value, channels: int) -> dict[str, np.ndarray]:
    """Fixed-point factors from sums to outputs, one per channel.

    Args:
        value: the input.
        weights: whose scales are one, or one for each channel.
        output: of the layer.
        channels: of the output.

    Returns:
        ``multiplier`` and ``exponent``, int64 [channels].
    """
    assert weights.quantization is not None
    product = value.scale * weights.quantization.scales.astype(np.float64)
    pairs = [arithmetic.quantize_multiplier(float(p / output.scale)) for p in product]
    pairs = pairs if len(pairs) > 1 else pairs * channels
    return {
        "multiplier": np.array([m for m, _ in pairs], np.int64),
        "exponent": np.array([e for _, e in pairs], np.int64),
    }


def _convolution(
    b: Builder, operator: Operator, value: Value, tensor: Tensor, weights: np.ndarray
) -> None:
    """Adds a convolution with any number of groups; a depthwise one has one for each input channel.

    Args:
        b: the builder.
        operator: that is read.
        value: the picture.
        tensor: the weights as the file has them.
        weights: of shape [outputs, rows, columns, inputs of each output].
    """
    batch, rows, columns, channels = picture(value)
    count, kr, kc, depth = weights.shape
    if channels % depth or count % (channels // depth):
        raise TFLiteError(f"weights {list(tensor.shape)} for {channels} input channels")
    dilation = (operator.options["dilation_h"], operator.options["dilation_w"])
    made = window(operator, (rows, columns), (kr, kc), dilation)
    output = b.output(operator, (batch, *made["size"], count))
    kind = "conv"
    if depth == 1 < channels:
        kind, weights = "depthwise", weights.transpose(3, 1, 2, 0)
    elif depth < channels:
        kind = "grouped"
    b.add(
        operator, kind, [value], output, batch * made["size"][0] * made["size"][1] * weights.size,
        weights=weights, bias=bias_of(b, operator, count), kernel=(kr, kc), dilation=dilation,
        batch=batch, **made, **scales_of(value, tensor, output, count),
        **activation(operator, output),
    )  # fmt: skip


@reads(
    "CONV_2D",
    "weights int8 or int4, constant, with one scale or one per output channel; any stride, "
    "dilation and number of groups",
    inputs=2,
)
def conv_2d(b: Builder, operator: Operator) -> None:
    """A convolution of any number of groups."""
    _convolution(b, operator, b.input(operator), *weights_of(b, operator, 0, 4))


@reads(
    "DEPTHWISE_CONV_2D",
    "weights int8 or int4, constant, with one scale or one per channel; any multiplier, stride and "
    "dilation",
    inputs=2,
)
def depthwise_conv_2d(b: Builder, operator: Operator) -> None:
    """A convolution of one input channel an output, of any multiplier."""
    tensor, weights = weights_of(b, operator, 3, 4)
    if weights.shape[0] != 1:
        raise TFLiteError(f"weights {list(weights.shape)}, which should begin with 1")
    _convolution(b, operator, b.input(operator), tensor, weights.transpose(3, 1, 2, 0))


@reads(
    "FULLY_CONNECTED",
    "weights int8 or int4, constant, with one scale or one per output",
    inputs=2,
)
def fully_connected(b: Builder, operator: Operator) -> None:
    """A dense layer: a convolution of 1 x 1 over rows of inputs."""
    value = b.input(operator)
    tensor, weights = weights_of(b, operator, 0, 2)
    if operator.options["weights_format"]:
        raise TFLiteError("shuffled weights are not supported")
    count, depth = weights.shape
    if value.elements % depth:
        raise TFLiteError(
            f"weights {list(weights.shape)} do not fit an input of {list(value.shape)}"
        )
    batch = value.elements // depth
    flat = len(b.model.tensors[operator.outputs[0]].shape) == 2
    output = b.free_output(operator, (batch, count) if flat else (*value.shape[:-1], count))
    b.add(
        operator, "conv", [value], output, batch * weights.size,
        weights=weights.reshape(count, 1, 1, depth), bias=bias_of(b, operator, count),
        kernel=(1, 1), stride=(1, 1), dilation=(1, 1), pads=(0, 0), size=(1, batch), dense=True,
        **scales_of(value, tensor, output, count), **activation(operator, output),
    )  # fmt: skip


@reads(
    "TRANSPOSE_CONV",
    "weights int8, constant, with one scale or one per output channel; any stride",
    inputs=3,
)
def transpose_conv(b: Builder, operator: Operator) -> None:
    """A transposed convolution: each input adds its kernel to a window of the output."""
    value = b.input(operator, 2)
    tensor, weights = weights_of(b, operator, 0, 4)
    batch, _, _, channels = picture(value)
    count, kr, kc, depth = weights.shape
    shape = b.model.tensors[operator.outputs[0]].shape
    if depth != channels or len(shape) != 4:
        raise TFLiteError(f"weights {list(weights.shape)} do not lead to {list(shape)}")
    # the ordinary convolution that leads back says where the padding is
    made = window(operator, (shape[1], shape[2]), (kr, kc), (1, 1))
    output = b.output(operator, (batch, shape[1], shape[2], count))
    bias = bias_of(b, operator, count, 3)
    reach = np.abs(bias) + 255 * np.abs(weights.astype(np.int64)).sum(axis=(1, 2, 3))
    if reach.max() >= 1 << 31:
        raise TFLiteError("its sums exceed 32 bits")
    b.add(
        operator, "transpose_conv", [value], output, value.elements // depth * weights.size,
        weights=weights, bias=bias, batch=batch, stride=made["stride"], pads=made["pads"],
        size=(shape[1], shape[2]), **scales_of(value, tensor, output, count),
        **activation(operator, output),
    )  # fmt: skip
