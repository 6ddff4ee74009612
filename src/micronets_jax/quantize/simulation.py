"""The training side: batch-norm folding, first ranges, fake quantisation, a float simulation.

Invariant: :func:`apply` simulates in float32, differentiable, what ``quantize.reference`` computes
in integers.

Ranges are learned with straight-through rounding as in LSQ (Esser et al., 2020) and TQT (Jain et
al., 2020).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from micronets_jax import accelerators, layers
from micronets_jax.network import INPUT, Layer, Network
from micronets_jax.quantize.scheme import (
    DECIDE,
    MIN_SPAN,
    Folded,
    Numbers,
    Ranges,
    affine,
    channel_max,
    ends_of,
    limited_thresholds,
    lowest_level,
    owners,
    range_bits,
    range_owners,
    weight_max,
    weighted,
)

_SHARES = np.linspace(0.3, 1.0, 15, dtype=np.float32)  # of extremes, where a range may begin


# ---------------------------------------------------------------- folding and ranges


def fold(network: Network, params: dict[str, Any], batch_stats: dict[str, Any]) -> Folded:
    """The weights of an equal network without batch norm.

    With s = scale / sqrt(var + epsilon): kernel * s and offset - mean * s. Dense layers without
    batch norm pass unchanged. Differentiable.
    """
    folded = {}
    for layer in weighted(network):
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
    largest, bits = channel_max(jnp, kernel), layer.weight_bits
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
    for name, activation in owners(network):
        values = tensors[name]
        seen[name] = {"max": jnp.max(values, initial=MIN_SPAN)}
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

    Returns:
        Values of the nearest levels, in shape and unit of ``x``.
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
    scale, rounded = affine(jnp, low, high, bits)
    zero_point = _straight_through(jnp.clip(-low / scale, 0.0, levels), rounded)
    return -zero_point * scale, (levels - zero_point) * scale, scale


def _to_levels_forward(
    x: Array, low: Array, high: Array, bits: int
) -> tuple[Array, tuple[Array, Array, Array]]:
    return _to_levels(x, low, high, bits), (x, low, high)


def _to_levels_backward(
    bits: int, kept: tuple[Array, Array, Array], g: Array
) -> tuple[Array, Array, Array]:
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

    Returns:
        Values of the nearest levels [..., channels], in the unit of ``kernel``.
    """
    largest_level = np.float32(weight_max(bits))
    limited = limited_thresholds(jnp, kernel, threshold, bias, input_scale)
    step = _straight_through(jnp.asarray(threshold), limited) / largest_level
    steps = kernel / step
    clamped = jnp.clip(steps, -largest_level, largest_level)
    return _straight_through(clamped, jnp.round(clamped)) * step


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

    Differentiable in ``folded`` and ``ranges``. Agrees with ``reference.run`` up to one level here
    and there, where float32 sums round to the other side.

    Args:
        network: decided.
        folded: float kernels and biases by layer, batch norm folded.
        ranges: of activations and weights.
        x: float inputs.

    Returns:
        float32 [n, classes], values of the output's levels.
    """
    activation = ranges["activation"]
    owner, bits = range_owners(network), range_bits(network)

    def weights(layer: Layer) -> dict[str, Array]:
        kernel, bias = folded[layer.name]["kernel"], folded[layer.name]["bias"]
        source = layer.inputs[0]
        scale, _ = affine(jnp, *ends_of(activation[owner[source]]), bits[source])
        threshold, scale = ranges["weight"][layer.name], jax.lax.stop_gradient(scale)
        limits = limited_thresholds(jnp, kernel, threshold, bias, scale) / weight_max(
            layer.weight_bits
        )
        step = jax.lax.stop_gradient(scale * limits)
        kernel = fake_quant_weight(kernel, threshold, bias, scale, layer.weight_bits)
        return {"kernel": kernel, "bias": _straight_through(bias, jnp.round(bias / step) * step)}

    def quantized(name: str, x: Array) -> Array:
        rounding = fake_quant if owner[name] == name else _round_mean
        return rounding(x, *ends_of(activation[owner[name]]), bits[name])

    return _forward(network, jnp.asarray(x), weights, quantized)[network.layers[-1].name]


def _round_mean(x: Array, low: Any, high: Any, bits: int) -> Array:
    """Means of quantised values, rounded as TensorFlow Lite Micro does: halves away from int8 0."""
    scale, zero_point = jax.lax.stop_gradient(affine(jnp, low, high, bits))
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
                raise ValueError(f"layer {layer.name!r} is a mix: {DECIDE}")
        tensors[layer.name] = x
    return tensors
