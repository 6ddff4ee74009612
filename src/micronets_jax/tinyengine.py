"""Memory of a network under TinyEngine, MCUNet's runtime: a reference rule, no target.

Invariant: nothing here can be run; the rule gives to the byte what TinyEngine's planner printed for
MCUNet's published networks (Lin et al., "MCUNet", NeurIPS 2020, and the repositories mcunet and
tinyengine), so that their search can be repeated.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from micronets_jax import cost
from micronets_jax.counts import align, maximum, stacked, total
from micronets_jax.memory import Operator, greedy, neighbours, operators, tensors_of
from micronets_jax.network import INPUT, Count, Network, consumers, output_sizes

ALIGNMENT = 4
"""Bytes."""

CODE_BYTES = 63 * 1024
"""Of flash, about, whatever the network."""


class Peak(NamedTuple):
    """Bytes of memory: of tensors, of working memory, of the widest kernel unpacked."""

    activations: Count
    scratch: Count
    kernel: Count

    @property
    def total(self) -> Count:
        """All three."""
        return self.activations + self.scratch + self.kernel


class _Rectangle(NamedTuple):
    """Bytes of one or more tensors in one place, from operator ``first`` to ``last``.

    After operator ``halved`` only the first ``tail`` of them are occupied. ``latest`` is the
    greatest that ``last`` can be.
    """

    bytes: Count
    tail: Count
    first: int
    halved: int
    last: Count
    latest: int


def sram_bytes(network: Network) -> Count:
    """Bytes of memory that one inference needs; see :func:`peak`."""
    return peak(network).total


def flash_bytes(network: Network) -> Count:
    """Bytes of weights, of 8 for each output channel, and of code."""
    channels = total(
        o.layer.presence * o.layer.out_channels for o in operators(network) if _weighted(o)
    )
    return cost.weights(network) + 8 * channels + CODE_BYTES


def peak(network: Network) -> Peak:
    """Memory by parts, of ints or of int32 inside ``jit``.

    A depthwise convolution writes over its input; with stride 2 a quarter of that is left. Largest
    first, each rectangle goes to the lowest address that is free all through its life.
    """
    sizes, ran = output_sizes(network), operators(network)
    scratch, kernels = [0], [0]
    for operator in ran:
        layer, (rows, columns) = operator.layer, operator.layer.kernel
        if layer.kind == "conv":
            scratch.append(layer.presence * 4 * rows * columns * layer.in_channels)
            if rows * columns > 1:
                taps = rows * columns * layer.in_channels * layer.out_channels
                kernels.append(layer.presence * 2 * taps)
        elif layer.kind == "depthwise":
            high, wide = sizes[layer.inputs[0]]
            scratch.append(layer.presence * 2 * (high + rows - 1) * (wide + columns - 1))
    return Peak(_placed(_rectangles(network)), maximum(scratch), maximum(kernels))


def _weighted(operator: Operator) -> bool:
    return operator.layer.kind in ("conv", "depthwise", "dense")


def _rectangles(network: Network) -> list[_Rectangle]:
    readers, ran = consumers(network), operators(network)
    lives = {tensor.name: tensor for tensor in tensors_of(network, ran)}
    made: dict[str, Count] = {INPUT: math.prod(network.input_shape)}
    made |= {operator.layer.name: align(operator.out_bytes, ALIGNMENT) for operator in ran}
    found = {
        name: _Rectangle(
            align(size, ALIGNMENT) * lives[name].presence, 0, lives[name].first,
            lives[name].latest, lives[name].last, lives[name].latest,
        )
        for name, size in made.items()
    }  # fmt: skip
    for i, operator in enumerate(ran):
        layer, source = operator.layer, operator.reads[0]
        only = all(network[reader].kind == "depthwise" for reader in readers[source])
        if layer.kind != "depthwise" or not only or source not in found:
            continue
        own, over = found.pop(layer.name), found[source]
        # Of convolutions that read the same, kernels to choose from, one is present.
        found[source] = over._replace(
            tail=over.tail + own.bytes,
            halved=i,
            last=maximum([over.last, own.last * layer.presence]),
            latest=own.latest,
        )
    return list(found.values())


def _placed(listed: list[_Rectangle]) -> Count:
    """The highest end, where rectangles come largest first, equals in the order of their lives."""
    known = all(isinstance(value, int) for rectangle in listed for value in rectangle)
    xp = np if known else jnp
    size, tail, first, halved, last, latest = (
        np.asarray(column) if known or all(isinstance(v, int) for v in column) else stacked(column)
        for column in zip(*listed, strict=True)
    )
    near = neighbours(first, latest)
    size, tail, first, halved, last = map(xp.asarray, (size, tail, first, halved, last))
    order = xp.argsort(-size, stable=True)
    start = greedy(size, first, last, order, near, tail, halved)
    return int((start + size).max()) if known else jnp.max(start + size)
