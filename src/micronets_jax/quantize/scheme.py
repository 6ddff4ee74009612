"""The quantisation scheme: which levels a range has, and which tensor has which range.

Invariant: every scale comes from :func:`affine` and :func:`limited_thresholds`, whether it is
simulated in JAX or stored in NumPy; ``xp`` is one of the two.

Activations are affine per tensor, weights symmetric per output channel, biases int32 at the product
of both scales (Jacob et al., 2018; TensorFlow Lite's int8 specification). Bits are those of each
layer. Activations of 4 bits are stored as the 16 highest levels of int8: saturation clips them
above and a ReLU below, so that 8-bit kernels compute them.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Array

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

MIN_SPAN = 1e-6
"""Least span of a range: keeps every scale positive whatever an optimiser does."""

MAX_BIAS = 2**30
"""Largest quantised bias; leaves the other half of int32 to the products."""

DECIDE = "decode the choice, or prune the network, first"
"""What to do about a mix, as errors say it."""

_MIN_WEIGHT = 1e-6  # a channel below counts as without weights; the converter's scales end at half


def weight_max(bits: int) -> int:
    """Largest quantised weight; the smallest is its negative (narrow range)."""
    return 2 ** (bits - 1) - 1


def lowest_level(bits: int) -> int:
    """Least int8 value of an activation; the greatest is always 127."""
    return 128 - 2**bits


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


def weighted(network: Network) -> Iterator[Layer]:
    """Layers with weights, in order."""
    return (layer for layer in network if layer.kind in WEIGHTED)


def owners(network: Network) -> list[tuple[str, str]]:
    """Names and activations of the tensors that own a range."""
    ranged = (layer for layer in network if layer.kind in RANGED)
    return [(INPUT, "linear"), *((layer.name, layer.activation) for layer in ranged)]


def ends_of(entry: dict[str, Any]) -> tuple[Any, Any]:
    """Lower and upper end of an entry of ``Ranges["activation"]``."""
    return entry.get("min", np.float32(0.0)), entry["max"]


def affine(xp: ModuleType, low: Any, high: Any, bits: int = 8) -> tuple[Any, Any]:
    """Scale and zero point of a range, after it is widened and moved to hold 0.

    Args:
        xp: ``numpy`` or ``jax.numpy``.
        low: lower end of the range, a float32 scalar.
        high: upper end.
        bits: of the levels.

    Returns:
        The step between two levels, and the level of 0, whole, counted from the lowest as 0.
    """
    levels = np.float32(2**bits - 1)
    low = xp.minimum(low, np.float32(0.0))
    high = xp.maximum(high, low + np.float32(MIN_SPAN))
    scale = (xp.maximum(high, np.float32(0.0)) - low) / levels
    # Floor of x + 0.5, not round: halves go up, as in TensorFlow.
    return scale, xp.clip(xp.floor(-low / scale + np.float32(0.5)), np.float32(0.0), levels)


def limited_thresholds(
    xp: ModuleType, kernel: Any, threshold: Any, bias: Any, input_scale: Any
) -> Any:
    """The weight thresholds that are used, all positive.

    Args:
        xp: ``numpy`` or ``jax.numpy``.
        kernel: float, output channels last.
        threshold: as learned, [channels].
        bias: float, [channels], or None where it has no part in the limit.
        input_scale: of the layer's input; 0 where there is no bias.

    Returns:
        At most max|w| of each channel and at least a sixteenth of it; a channel without weights, or
        whose bias would exceed ``MAX_BIAS``, has the largest threshold of the others.
    """
    largest = channel_max(xp, kernel)
    # The lower limit keeps a channel alive when an optimiser overshoots.
    limited = xp.clip(threshold, largest / np.float32(16.0), largest)
    usable = limited > np.float32(_MIN_WEIGHT)
    if bias is not None:
        usable &= xp.abs(bias) <= limited * (input_scale * np.float32(MAX_BIAS / WEIGHT_MAX))
    borrowed = xp.max(xp.where(usable, limited, np.float32(0.0)))
    borrowed = xp.where(borrowed > 0, borrowed, np.float32(1.0))
    return xp.where(usable, limited, borrowed)


def channel_max(xp: ModuleType, kernel: Any) -> Any:
    """Largest magnitude of each output channel, the last axis: [channels]."""
    return xp.max(xp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
