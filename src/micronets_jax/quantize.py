"""Quantisation to 8 or 4 bits: batch-norm folding, learned ranges, simulation, integer reference.

Invariant: one arithmetic. :func:`apply` simulates, and :func:`run` computes to the bit, what
TensorFlow Lite Micro computes for the file that ``export`` writes; all scales come from
:func:`_affine` and :func:`_limit`.

Scheme (Jacob et al., 2018; TensorFlow Lite's int8 specification): activations affine per tensor,
weights symmetric per output channel, biases int32 at the product of both scales. Ranges are learned
with straight-through rounding as in LSQ (Esser et al., 2020) and TQT (Jain et al., 2020).

Bits are those of each layer. Activations of 4 bits are stored as the 16 highest levels of int8:
saturation clips them above and a ReLU below, so that 8-bit kernels compute them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int8, Int32, Shaped

from micronets_jax import accelerators, layers
from micronets_jax.network import INPUT, Layer, Network

Numbers = Array | np.ndarray

Folded = dict[str, dict[str, Any]]
"""For each conv, depthwise and dense layer ``kernel`` and ``bias``, batch norm folded in."""

Ranges = dict[str, dict[str, Any]]
"""What is learned beside the weights. ``activation``: for the input, each layer with weights and
each sum ``{"min", "max"}``, scalars; ReLU layers have no ``min``, theirs is 0. ``weight``: for each
layer with weights, thresholds [output channels]."""

WEIGHTED = ("conv", "depthwise", "dense")
"""Kinds of layers that own weights."""

RANGED = (*WEIGHTED, "add")
"""Kinds of layers that own a range; all others share the range of what they read."""

WEIGHT_MAX = 127
"""Largest quantised weight of 8 bits."""

_MIN_SPAN = 1e-6  # of a range: keeps every scale positive whatever an optimiser does
_MIN_WEIGHT = 1e-6  # a channel below counts as without weights; the converter's scales end at half
_MAX_BIAS = 2**30  # quantised; leaves the other half of int32 to the products
_SHARES = np.linspace(0.3, 1.0, 15, dtype=np.float32)  # of extremes, where a range may begin


def weight_max(bits: int) -> int:
    """Largest quantised weight; the smallest is its negative (narrow range)."""
    return 2 ** (bits - 1) - 1


def lowest_level(bits: int) -> int:
    """Least int8 value of an activation; the greatest is always 127."""
    return 128 - 2**bits


# ---------------------------------------------------------------- folding and ranges


def fold(network: Network, params: dict[str, Any], batch_stats: dict[str, Any]) -> Folded:
    """The weights of an equal network without batch norm.

    With s = scale / sqrt(var + epsilon): kernel * s and offset - mean * s. Dense layers without
    batch norm pass unchanged. Differentiable.
    """
    folded = {}
    for layer in _weighted(network):
        p = params[layer.name]
        if "scale" not in p:
            folded[layer.name] = {"kernel": p["kernel"], "bias": p["bias"]}
            continue
        stats = batch_stats[layer.name]
        slope = p["scale"] / jnp.sqrt(stats["var"] + layers.BATCH_NORM_EPSILON)
        # The output channel is the last axis of every kernel.
        folded[layer.name] = {
            "kernel": p["kernel"] * slope,
            "bias": p["offset"] - stats["mean"] * slope,
        }
    return folded


def calibrate(
    network: Network, folded: Folded, batches: Iterable[Float[Numbers, "n rows columns channels"]]
) -> Ranges:
    """First ranges: each tensor's extremes in a float pass, averaged over batches.

    Averaging limits the effect of outlying examples. Weight thresholds start at each channel's
    largest magnitude. At 4 bits, both are scaled to the share of these that minimises the squared
    rounding error.

    Raises:
        ValueError: ``batches`` is empty.
    """
    total, count = None, 0
    for x in batches:
        seen = _extremes(network, folded, jnp.asarray(x))
        total = seen if total is None else jax.tree.map(jnp.add, total, seen)
        count += 1
    if total is None:
        raise ValueError("batches is empty: give at least one batch of inputs to calibrate with")
    return {
        "activation": jax.tree.map(lambda v: v / count, total),
        "weight": accelerators.once(_thresholds, network, folded, static=(0,)),
    }


def _thresholds(network: Network, folded: Folded) -> dict[str, Array]:
    return {name: _threshold(network[name], p["kernel"]) for name, p in folded.items()}


def _threshold(layer: Layer, kernel: Array) -> Array:
    largest, bits = _channel_max(jnp, kernel), layer.weight_bits
    if bits == 8:
        return largest
    return _least_error(kernel, largest, lambda t: fake_quant_weight(kernel, t, bits=bits))


def _least_error(x: Array, largest: Array, rounded: Callable[[Array], Array]) -> Array:
    """``largest`` ([] or [channels]) times the share of it whose rounding errs least."""
    axes = tuple(range(x.ndim - largest.ndim))
    shares = jnp.asarray(_SHARES)
    errors = jax.lax.map(lambda s: jnp.sum(jnp.square(rounded(s * largest) - x), axes), shares)
    return largest * shares[jnp.argmin(errors, axis=0)]


@functools.partial(jax.jit, static_argnums=0)
def _extremes(network: Network, folded: Folded, x: Array) -> dict[str, dict[str, Array]]:
    tensors = _forward(network, x, lambda layer: folded[layer.name])
    seen, bits = {}, range_bits(network)
    for name, activation in _owners(network):
        values = tensors[name]
        seen[name] = {"max": jnp.max(values, initial=_MIN_SPAN)}
        if activation == "linear":
            seen[name]["min"] = jnp.min(values, initial=0.0)
        elif bits[name] < 8:
            simulate = functools.partial(fake_quant, values, np.float32(0.0), bits=bits[name])
            seen[name]["max"] = _least_error(values, seen[name]["max"], simulate)
    return seen


# ---------------------------------------------------------------- fake quantisation


def fake_quant(
    x: Float[Numbers, "*shape"],
    low: Float[Numbers, ""] | float | np.floating,
    high: Float[Numbers, ""] | float | np.floating,
    bits: int = 8,
) -> Float[Array, "*shape"]:
    """``x`` rounded to the 2^bits levels of the range ``low`` ... ``high``, nudged to hold 0.

    Computes what ``tf.quantization.fake_quant_with_min_max_vars`` computes. Gradients: to ``x``
    straight through inside the range, 0 outside; to the range as in LSQ (the rounding error inside,
    1 to the end that clips outside). LSQ's gradient scale is left out: it is for the gradient of a
    step size, and that of a whole range is smaller by the number of levels.

    Args:
        x: of any shape.
        low: lower end of the range.
        high: upper end of the range.
        bits: of the levels.
    """
    return _to_levels(x, jnp.asarray(low, x.dtype), jnp.asarray(high, x.dtype), bits)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _to_levels(x: Array, low: Array, high: Array, bits: int) -> Array:
    lowest, highest, scale = _nudged(low, high, bits)
    clamped = jnp.where(x < lowest, lowest, jnp.where(x > highest, highest, x))
    return jnp.floor((clamped - lowest) * (1.0 / scale) + 0.5) * scale + lowest


def _nudged(low: Array, high: Array, bits: int) -> tuple[Array, Array, Array]:
    """Lowest and highest level, and the step between two."""
    levels = np.float32(2**bits - 1)
    scale, rounded = _affine(jnp, low, high, bits)
    zero_point = _straight_through(jnp.clip(-low / scale, 0.0, levels), rounded)
    return -zero_point * scale, (levels - zero_point) * scale, scale


def _to_levels_forward(x: Array, low: Array, high: Array, bits: int) -> tuple[Array, Any]:
    return _to_levels(x, low, high, bits), (x, low, high)


def _to_levels_backward(bits: int, kept: tuple[Array, Array, Array], g: Array) -> Any:
    # By hand for speed: JAX's own derivative reduces the whole tensor once for each term.
    x, low, high = kept
    lowest, highest, scale = _nudged(low, high, bits)
    below, above = x < lowest, x > highest
    steps = (x - lowest) * (1.0 / scale)
    error = jnp.floor(steps + 0.5) - steps

    def slope(derivatives: tuple[Array, ...]) -> Array:
        d_lowest, d_highest, d_scale = derivatives
        of_each = jnp.where(below, d_lowest, jnp.where(above, d_highest, error * d_scale))
        # Over channels last: a CPU adds those side by side, all else one by one.
        return jnp.sum(jnp.sum(g * of_each, axis=tuple(range(x.ndim - 1))))

    jacobian = jax.jacfwd(functools.partial(_nudged, bits=bits), (0, 1))(low, high)
    d_low, d_high = map(slope, zip(*jacobian, strict=True))
    return jnp.where(below | above, 0.0, g), d_low, d_high


_to_levels.defvjp(_to_levels_forward, _to_levels_backward)


def fake_quant_weight(
    kernel: Float[Numbers, "... channels"],
    threshold: Float[Numbers, " channels"],
    bias: Float[Numbers, " channels"] | None = None,
    input_scale: Float[Numbers, ""] | float | np.floating = 0.0,
    bits: int = 8,
) -> Float[Array, "... channels"]:
    """``kernel`` rounded to 2^bits - 1 symmetric levels per output channel.

    The step is threshold / (2^(bits-1) - 1). A threshold is limited to max|w| of its channel, so
    that one quantised weight always reaches the largest level: the TFLite converter, which takes
    max|w| / 127 whatever was trained, then finds the trained range. Exceptions are channels without
    weights and, where ``bias`` and ``input_scale`` are given, those whose bias would not fit int32:
    they borrow the largest threshold of the layer. Gradients as for :func:`fake_quant`.

    Args:
        kernel: output channels last.
        threshold: largest magnitude of each channel's range.
        bias: of each channel; None where it has no part in the limit.
        input_scale: of the layer's input; 0 where there is no bias.
        bits: of the levels.
    """
    largest_level = np.float32(weight_max(bits))
    limited = _limit(jnp, kernel, threshold, bias, input_scale)
    step = _straight_through(jnp.asarray(threshold), limited) / largest_level
    steps = kernel / step
    clamped = jnp.clip(steps, -largest_level, largest_level)
    return _straight_through(clamped, jnp.round(clamped)) * step


def _affine(xp: ModuleType, low: Any, high: Any, bits: int = 8) -> tuple[Any, Any]:
    """Scale and zero point (whole, from 0) of the range after it is widened and moved to hold 0."""
    levels = np.float32(2**bits - 1)
    low = xp.minimum(low, np.float32(0.0))
    high = xp.maximum(high, low + np.float32(_MIN_SPAN))
    scale = (xp.maximum(high, np.float32(0.0)) - low) / levels
    # Floor of x + 0.5, not round: halves go up, as in TensorFlow.
    return scale, xp.clip(xp.floor(-low / scale + np.float32(0.5)), np.float32(0.0), levels)


def _limit(xp: ModuleType, kernel: Any, threshold: Any, bias: Any, input_scale: Any) -> Any:
    """The thresholds that are used, [channels], all positive."""
    largest = _channel_max(xp, kernel)
    # The lower limit keeps a channel alive when an optimiser overshoots.
    limited = xp.clip(threshold, largest / np.float32(16.0), largest)
    usable = limited > np.float32(_MIN_WEIGHT)
    if bias is not None:
        usable &= xp.abs(bias) <= limited * (input_scale * np.float32(_MAX_BIAS / WEIGHT_MAX))
    borrowed = xp.max(xp.where(usable, limited, np.float32(0.0)))
    borrowed = xp.where(borrowed > 0, borrowed, np.float32(1.0))
    return xp.where(usable, limited, borrowed)


def _channel_max(xp: ModuleType, kernel: Any) -> Any:
    return xp.max(xp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))


def _straight_through(value: Array, rounded: Array) -> Array:
    """``rounded``, with the gradient of ``value``."""
    return value + jax.lax.stop_gradient(rounded - value)


# ---------------------------------------------------------------- the float simulation


def apply(
    network: Network,
    folded: Folded,
    ranges: Ranges,
    x: Float[Numbers, "n rows columns channels"],
) -> Float[Array, "n classes"]:
    """Logits of the quantised network, simulated in float32.

    Differentiable in ``folded`` and ``ranges``. Agrees with :func:`run` up to one level here and
    there, where float32 sums round to the other side.

    Args:
        network: decided.
        folded: float kernels and biases by layer, batch norm folded.
        ranges: of activations and weights.
        x: float inputs.
    """
    activation = ranges["activation"]
    owner, bits = range_owners(network), range_bits(network)

    def weights(layer: Layer) -> dict[str, Array]:
        kernel, bias = folded[layer.name]["kernel"], folded[layer.name]["bias"]
        source = layer.inputs[0]
        scale, _ = _affine(jnp, *_interval(activation[owner[source]]), bits[source])
        threshold, scale = ranges["weight"][layer.name], jax.lax.stop_gradient(scale)
        limits = _limit(jnp, kernel, threshold, bias, scale) / weight_max(layer.weight_bits)
        step = jax.lax.stop_gradient(scale * limits)
        kernel = fake_quant_weight(kernel, threshold, bias, scale, layer.weight_bits)
        return {"kernel": kernel, "bias": _straight_through(bias, jnp.round(bias / step) * step)}

    def quantized(name: str, x: Array) -> Array:
        rounding = fake_quant if owner[name] == name else _round_mean
        return rounding(x, *_interval(activation[owner[name]]), bits[name])

    return _forward(network, jnp.asarray(x), weights, quantized)[network.layers[-1].name]


def _round_mean(x: Array, low: Any, high: Any, bits: int) -> Array:
    """Means of quantised values, rounded as TensorFlow Lite Micro does: halves away from int8 0."""
    scale, zero_point = jax.lax.stop_gradient(_affine(jnp, low, high, bits))
    zero_point = zero_point + np.float32(lowest_level(bits))
    mean = x / scale + zero_point
    # The small excess decides ties that float32 rounding hides; means of under 5,000 values that
    # are no ties lie further from a half than that.
    rounded = jnp.sign(mean) * jnp.floor(jnp.abs(mean) + (0.5 + 1e-4))
    return _straight_through(x, (rounded - zero_point) * scale)


def _forward(
    network: Network,
    x: Array,
    weights: Callable[[Layer], dict[str, Array]],
    seen: Callable[[str, Array], Array] = lambda name, x: x,
) -> dict[str, Array]:
    """Every tensor of the network by name; ``seen`` may change each one before it is read on."""
    tensors = {INPUT: seen(INPUT, x)}
    for layer in network:
        x = tensors[layer.inputs[0]]
        match layer.kind:
            case "conv" | "depthwise":
                p = weights(layer)
                convolve = layers.conv if layer.kind == "conv" else layers.depthwise
                x = convolve(x, p["kernel"], layer.stride, layer.padding) + p["bias"]
                x = seen(layer.name, layers.activate(x, layer.activation))
            case "dense":
                p = weights(layer)
                x = seen(layer.name, layers.activate(x @ p["kernel"] + p["bias"], layer.activation))
            case "avg_pool":
                x = layers.avg_pool(x, layer.kernel, layer.stride, layer.padding)
                x = seen(layer.name, x)
            case "reshape":
                x = x.reshape(x.shape[0], -1)
            case "pad":
                x = layers.pad_channels(x, layer.out_channels)
            case "add":
                total = layers.activate(x + tensors[layer.inputs[1]], layer.activation)
                x = seen(layer.name, total)
            case "mix":
                raise ValueError(f"layer {layer.name!r} is a mix: {_DECIDE}")
        tensors[layer.name] = x
    return tensors


_DECIDE = "decode the choice, or prune the network, first"


def range_owners(network: Network) -> dict[str, str]:
    """For every tensor, the one whose range it has: its own, or what it pools, reshapes or pads."""
    owner = {INPUT: INPUT}
    for layer in network:
        owner[layer.name] = layer.name if layer.kind in RANGED else owner[layer.inputs[0]]
    return owner


def range_bits(network: Network) -> dict[str, int]:
    """Bits of every tensor by name; the input always has 8."""
    made = {INPUT: 8} | {layer.name: layer.activation_bits for layer in network}
    return {name: made[owner] for name, owner in range_owners(network).items()}


def _weighted(network: Network) -> Iterator[Layer]:
    return (layer for layer in network if layer.kind in WEIGHTED)


def _owners(network: Network) -> list[tuple[str, str]]:
    """Names and activations of the tensors that own a range."""
    ranged = (layer for layer in network if layer.kind in RANGED)
    return [(INPUT, "linear"), *((layer.name, layer.activation) for layer in ranged)]


def _interval(entry: dict[str, Any]) -> tuple[Any, Any]:
    return entry.get("min", np.float32(0.0)), entry["max"]


# ---------------------------------------------------------------- integers


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
            raise ValueError(f"layer {layer.name!r} is a mix: {_DECIDE}")
    folded, ranges = jax.tree.map(lambda v: np.asarray(v, np.float32), (folded, ranges))
    scales, zero_points, quantized = {}, {}, {}
    bits = range_bits(network)
    for tensor, owner in range_owners(network).items():
        interval = _interval(ranges["activation"][owner])
        _require_finite(f"range of {owner!r}", *interval)
        scale, zero_point = _affine(np, *interval, bits[tensor])
        scales[tensor] = np.float32(scale)
        zero_points[tensor] = int(zero_point) + lowest_level(bits[tensor])
    for layer in _weighted(network):
        kernel, bias = folded[layer.name]["kernel"], folded[layer.name]["bias"]
        threshold, input_scale = ranges["weight"][layer.name], scales[layer.inputs[0]]
        _require_finite(f"weights of {layer.name!r}", kernel, bias, threshold)
        largest = np.float32(weight_max(layer.weight_bits))
        step = _limit(np, kernel, threshold, bias, input_scale) / largest
        levels = np.round(np.clip(kernel / step, -largest, largest))
        steps = bias.astype(np.float64) / (np.float64(input_scale) * step)
        quantized[layer.name] = QuantizedLayer(
            levels.astype(np.int8),
            np.round(np.clip(steps, -_MAX_BIAS, _MAX_BIAS)).astype(np.int32),
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
