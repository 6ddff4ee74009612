"""What the C that ``compile`` writes does for a layer.

Invariant: kernels are those that ``compile.kernels`` calls for a whole layer.
"""

from __future__ import annotations

from collections.abc import Iterator

from micronets_jax import steps
from micronets_jax.counts import Count
from micronets_jax.kernels import Depthwise, is_direct
from micronets_jax.network import Layer
from micronets_jax.steps import Term
from micronets_jax.windows import Window


def terms(layer: Layer, window: Window, channels: Count) -> Iterator[Term]:
    """What the kernels of ``csrc`` do for a layer that reads ``channels`` channels."""
    outputs, signed = layer.out_channels, layer.activation == "linear"
    if layer.kind in ("conv", "dense") and is_direct(window):
        yield from steps.dense(window.pixels, window.taps * channels, outputs)
    elif layer.kind in ("conv", "dense"):
        yield from steps.conv(window, channels, outputs, signed)
    elif layer.kind == "depthwise":
        yield from steps.depthwise(Depthwise.over(window), outputs, signed)
    elif layer.kind == "avg_pool":
        yield from steps.pool(window, layer.in_channels)
    elif layer.kind == "add":
        yield from steps.add(window.pixels, outputs)
    elif layer.kind == "pad":
        yield from steps.pad(window.pixels, layer.in_channels, outputs)
