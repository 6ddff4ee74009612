"""The integer reference: weights in integers, and a network computed to the bit.

Invariant: :func:`run` gives what TensorFlow Lite Micro gives for the file that ``export`` writes.
NumPy throughout, float32 and integers: the same on every platform.

``compile.arithmetic`` has the same fixed-point arithmetic (Jacob et al., 2018, section 2.2), on
Python integers, for what the compiler decides beforehand. The two are written independently on
purpose and import nothing of each other; each is compared with TensorFlow Lite Micro by itself.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32, Int8, Int32, Shaped

from micronets_jax.network import INPUT, Layer, Network
from micronets_jax.quantize.scheme import (
    DECIDE,
    MAX_BIAS,
    WEIGHT_MAX,
    Folded,
    Ranges,
    affine,
    ends_of,
    limited_thresholds,
    lowest_level,
    range_bits,
    range_owners,
    weight_max,
    weighted,
)


@dataclasses.dataclass(frozen=True)
class QuantizedLayer:
    """Weights of one layer: ``kernel`` int8 (shapes as in training; -7 ... 7 at 4 bits), ``bias``
    int32 [channels] at input scale * ``scales``, ``scales`` float32 [channels] of the kernel."""

    kernel: Int8[np.ndarray, "*shape"]
    bias: Int32[np.ndarray, " channels"]
    scales: Float32[np.ndarray, " channels"]


@dataclasses.dataclass(frozen=True)
class QuantizedNetwork:
    """A network in integers. ``scales`` (float32) and ``zero_points`` (-128 ... 127) are by tensor,
    the input's included; ``layers`` by layer with weights."""

    network: Network
    scales: dict[str, np.float32]
    zero_points: dict[str, int]
    layers: dict[str, QuantizedLayer]


def integers(network: Network, folded: Folded, ranges: Ranges) -> QuantizedNetwork:
    """What the exported file holds. NumPy float32 throughout: the same on every platform.

    Raises:
        ValueError: a weight, bias or range is not finite, or the network still has mixes; the layer
            or tensor is named.
    """
    for layer in network:
        if layer.kind == "mix":
            raise ValueError(f"layer {layer.name!r} is a mix: {DECIDE}")
    folded, ranges = jax.tree.map(lambda v: np.asarray(v, np.float32), (folded, ranges))
    scales, zero_points, quantized = {}, {}, {}
    bits = range_bits(network)
    for tensor, owner in range_owners(network).items():
        interval = ends_of(ranges["activation"][owner])
        _require_finite(f"range of {owner!r}", *interval)
        scale, zero_point = affine(np, *interval, bits[tensor])
        scales[tensor] = np.float32(scale)
        zero_points[tensor] = int(zero_point) + lowest_level(bits[tensor])
    for layer in weighted(network):
        kernel, bias = folded[layer.name]["kernel"], folded[layer.name]["bias"]
        threshold, input_scale = ranges["weight"][layer.name], scales[layer.inputs[0]]
        _require_finite(f"weights of {layer.name!r}", kernel, bias, threshold)
        largest = np.float32(weight_max(layer.weight_bits))
        step = limited_thresholds(np, kernel, threshold, bias, input_scale) / largest
        levels = np.round(np.clip(kernel / step, -largest, largest))
        steps = bias.astype(np.float64) / (np.float64(input_scale) * step)
        quantized[layer.name] = QuantizedLayer(
            levels.astype(np.int8),
            np.round(np.clip(steps, -MAX_BIAS, MAX_BIAS)).astype(np.int32),
            step,
        )
    result = QuantizedNetwork(network, scales, zero_points, quantized)
    for layer in network:
        if layer.kind == "add" and not _sum_factor(result, layer) < 1:
            raise ValueError(
                f"range of {layer.name!r} is {2**_SUM_SHIFT:,} times narrower than what it adds: "
                "training diverged; lower the learning rate"
            )
    return result


def _require_finite(what: str, *values: Any) -> None:
    if not all(np.all(np.isfinite(v)) for v in values):
        raise ValueError(f"{what} are not finite: training diverged; lower the learning rate")


def run(
    quantized: QuantizedNetwork, x: Shaped[np.ndarray, "n rows columns channels"], batch: int = 100
) -> Int8[np.ndarray, "n ..."]:
    """The output of TensorFlow Lite Micro for every input, to the bit.

    Works ``batch`` inputs at a time, which bounds memory and changes nothing else.
    """
    expected = quantized.network.input_shape
    if x.dtype != np.int8 or x.shape[1:] != expected:
        raise ValueError(f"x is {x.dtype} {x.shape}; give int8 of shape (n, *{expected})")
    parts = [_run(quantized, x[i : i + batch]) for i in range(0, max(len(x), 1), batch)]
    return np.concatenate(parts)


def _run(quantized: QuantizedNetwork, x: np.ndarray) -> np.ndarray:
    tensors = {INPUT: x}
    for layer in quantized.network:
        source = layer.inputs[0]
        x = tensors[source]
        match layer.kind:
            case "conv" | "depthwise" | "dense":
                centred = x.astype(np.int32) - quantized.zero_points[source]
                weights = quantized.layers[layer.name]
                sums = _SUMS[layer.kind](layer, centred, weights.kernel) + weights.bias
                x = _requantize(quantized, layer, sums)
            case "avg_pool":
                x = _mean(layer, x)
            case "reshape":
                x = x.reshape(len(x), math.prod(x.shape[1:]))
            case "pad":
                more = ((0, 0), (0, 0), (0, 0), (0, layer.out_channels - x.shape[-1]))
                x = np.pad(x, more, constant_values=quantized.zero_points[source])
            case "add":
                x = _sum(quantized, layer, x, tensors[layer.inputs[1]])
        tensors[layer.name] = x
    return x


def _windows(layer: Layer, x: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """For each kernel position, the inputs it meets: (row, column, [n, rows, columns, channels]).

    Outside the input there are zeros; the right and lower edges get the odd row of padding.
    """
    sizes, before = [], []
    for n, k, s in zip(x.shape[1:3], layer.kernel, layer.stride, strict=True):
        size = -(-n // s) if layer.padding == "SAME" else (n - k) // s + 1
        missing = max((size - 1) * s + k - n, 0) if layer.padding == "SAME" else 0
        sizes.append(size)
        before.append((missing // 2, missing - missing // 2))
    x = np.pad(x, ((0, 0), *before, (0, 0)))
    for i in range(layer.kernel[0]):
        for j in range(layer.kernel[1]):
            rows = slice(i, i + (sizes[0] - 1) * layer.stride[0] + 1, layer.stride[0])
            columns = slice(j, j + (sizes[1] - 1) * layer.stride[1] + 1, layer.stride[1])
            yield i, j, x[:, rows, columns]


def _product(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """x @ weights, exact: whole numbers below 2^24 (2^53) survive in float32 (float64) BLAS."""
    exact = np.float32 if 255 * WEIGHT_MAX * len(weights) < 2**24 else np.float64
    return (x.astype(exact) @ weights.astype(exact)).astype(np.int32)


def _conv_sums(layer: Layer, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    patches = np.concatenate([window for _, _, window in _windows(layer, x)], axis=-1)
    return _product(patches, kernel.reshape(-1, kernel.shape[-1]))


def _depthwise_sums(layer: Layer, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    taps = kernel[:, :, 0].astype(np.int32)
    return functools.reduce(np.add, (w * taps[i, j] for i, j, w in _windows(layer, x)))


def _dense_sums(layer: Layer, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return _product(x, kernel)


_SUMS = {"conv": _conv_sums, "depthwise": _depthwise_sums, "dense": _dense_sums}


def _mean(layer: Layer, x: np.ndarray) -> np.ndarray:
    """Average pooling over the real pixels: int32 sums, division rounding halves away from 0."""
    total = sum(window for _, _, window in _windows(layer, x.astype(np.int32)))
    ones = np.ones((1, *x.shape[1:3], 1), np.int32)
    count = sum(window for _, _, window in _windows(layer, ones))
    magnitude = (np.abs(total) + count // 2) // count
    return (np.sign(total) * magnitude).astype(np.int8)


def _requantize(quantized: QuantizedNetwork, layer: Layer, sums: np.ndarray) -> np.ndarray:
    """int32 sums to int8 outputs, with TensorFlow Lite's fixed-point multiplier per channel."""
    scale, zero_point = quantized.scales[layer.name], quantized.zero_points[layer.name]
    real = np.float64(quantized.scales[layer.inputs[0]]) * quantized.layers[layer.name].scales
    multiplier, shift = multipliers(real / np.float64(scale))
    return _activate(quantized, layer, _rescale(sums, multiplier, shift) + zero_point)


_SUM_SHIFT = 20  # bits by which TFLite widens the terms of an int8 ADD


def _sum(quantized: QuantizedNetwork, layer: Layer, x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """TFLite's ADD: terms in steps of twice the coarser scale, 20 bits finer, then rescaled."""
    terms, widest = (x, other), _widest(quantized, layer)
    total = np.zeros(x.shape, np.int64)
    for name, term in zip(layer.inputs, terms, strict=True):
        multiplier, shift = multipliers(np.atleast_1d(np.float64(quantized.scales[name]) / widest))
        centred = (term.astype(np.int64) - quantized.zero_points[name]) << _SUM_SHIFT
        total = total + _rescale(centred, multiplier, shift)
    multiplier, shift = multipliers(np.atleast_1d(_sum_factor(quantized, layer)))
    values = _rescale(total, multiplier, shift) + quantized.zero_points[layer.name]
    return _activate(quantized, layer, values)


def _widest(quantized: QuantizedNetwork, layer: Layer) -> np.float64:
    return 2 * np.float64(max(quantized.scales[name] for name in layer.inputs))


def _sum_factor(quantized: QuantizedNetwork, layer: Layer) -> np.float64:
    """From the sum of widened terms to steps of the output; TFLite refuses 1 and more."""
    return _widest(quantized, layer) / (2**_SUM_SHIFT * np.float64(quantized.scales[layer.name]))


def _activate(quantized: QuantizedNetwork, layer: Layer, values: np.ndarray) -> np.ndarray:
    """Steps of a layer's output, zero point added, cut to what its activation and bits allow."""
    scale, zero_point = quantized.scales[layer.name], quantized.zero_points[layer.name]
    low, high = lowest_level(layer.activation_bits), 127
    if layer.activation != "linear":
        low = max(low, zero_point)
    if layer.activation == "relu6":
        high = min(high, zero_point + int(np.floor(np.float32(6.0) / scale + np.float32(0.5))))
    return np.clip(values, low, high).astype(np.int8)


def multipliers(real: Float[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """(m, s), both int64, with real = m / 2^31 * 2^s, 2^30 <= m < 2^31, as TFLite chooses them."""
    fraction, shift = np.frexp(real)
    multiplier = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
    shift = shift.astype(np.int64)
    full = multiplier == 2**31
    multiplier, shift = np.where(full, 2**30, multiplier), np.where(full, shift + 1, shift)
    tiny = shift < -31
    return np.where(tiny, 0, multiplier), np.where(tiny, 0, shift)


def _rescale(x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """``MultiplyByQuantizedMultiplier``: rounds twice, to the high half and at the shift."""
    product = (x.astype(np.int64) << np.maximum(shift, 0)) * multiplier
    high = (product + (1 << 30)) >> 31  # halves up
    right = np.maximum(-shift, 0)
    mask = (np.int64(1) << right) - 1
    threshold = (mask >> 1) + (high < 0)  # halves away from 0
    return (high >> right) + ((high & mask) > threshold)
