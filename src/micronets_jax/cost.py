"""Costs of a network under any runtime: multiply-accumulates, weights, and the size of its file.

Invariant: one formula per cost. Python ints give exact Python ints, int32 exact arrays inside
``jit``, floats differentiable expectations, equal to the exact cost where the choice is one-hot.

Sizes are those of the TFLite file that ``export`` writes. Absent layers cost nothing, and a mix is
only a second name.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from micronets_jax.counts import align, is_float, maximum, stacked, summed, total
from micronets_jax.memory import ALIGNMENT, operators, padded
from micronets_jax.network import INPUT, Count, Layer, Network, output_sizes
from micronets_jax.operators import NAMED

# ---------------------------------------------------------------- arithmetic


def macs(network: Network) -> Count:
    """Multiply-accumulates of one inference; pooling, which only adds, counts none."""
    sizes = output_sizes(network)
    return summed(
        lambda pixels, presence, *kernel: presence * (pixels * _elements(*kernel)),
        (
            (math.prod(sizes[layer.name]), layer.presence, *_kernel(layer))
            for layer in network
            if any(taps(layer))
        ),
    )


def ops(network: Network) -> Count:
    """Operations as the papers count them: two for each multiply-accumulate."""
    return 2 * macs(network)


def weights(network: Network) -> Count:
    """Elements of all kernels; biases are not counted."""
    return summed(
        lambda presence, *kernel: presence * _elements(*kernel),
        ((layer.presence, *_kernel(layer)) for layer in network if any(taps(layer))),
    )


def kernel_elements(layer: Layer) -> Count:
    """Elements of a layer's kernel, 0 where it has none."""
    return _elements(*_kernel(layer)) if any(taps(layer)) else 0


def taps(layer: Layer) -> tuple[int, int]:
    """Weights of each pair of an input and an output channel, and of each output channel alone."""
    rows, columns = layer.kernel
    if layer.kind in ("conv", "dense"):
        return rows * columns, 0
    return 0, rows * columns if layer.kind == "depthwise" else 0


def _kernel(layer: Layer) -> tuple[int, int, Count, Count]:
    return *taps(layer), layer.in_channels, layer.out_channels


def _elements(pair: Count, single: Count, inputs: Count, outputs: Count) -> Count:
    return pair * (inputs * outputs) + single * outputs


# ---------------------------------------------------------------- flash

_FILE_BYTES = 234
_FILE_BYTES_PER_KIND = 54
"""Tables of the file itself, and of each kind of operator; those of one operator are its row's."""

_FILE_BYTES_PER_CHANNEL = 12
"""A float32 scale and an int64 zero point of a kernel's channel."""


def flash_bytes(network: Network) -> Count:
    """Size of the TFLite file: what is stored of the model, without code.

    Each kernel (int8, or two weights a byte) and bias (int32) padded to 16 bytes, scales and zero
    points of each channel, the names of activations, and the tables around them.
    """
    listed = operators(network)
    present = {
        kind: [operator.layer.presence for operator in listed if operator.kind == kind]
        for kind in NAMED
    }
    weighted, others = [], []
    for layer, kind, *_ in listed:
        size = NAMED[kind].file_bytes + _name_bytes(layer.name)
        if NAMED[kind].weighted:
            weighted.append((layer.presence, size, 8 // layer.weight_bits, *_kernel(layer)))
        else:
            others.append((layer.presence, size))

    def with_weights(presence: Count, size: Count, per_byte: Count, *kernel: Count) -> Count:
        channels = kernel[-1]
        held = _kernel_bytes(per_byte, *kernel) + padded(4 * channels)
        return presence * (held + _FILE_BYTES_PER_CHANNEL * channels + size)

    return total(
        [
            _FILE_BYTES + _name_bytes(INPUT),
            summed(with_weights, weighted),
            summed(lambda presence, size: presence * size, others),
            *(_FILE_BYTES_PER_KIND * _any(kind) for kind in present.values()),
        ]
    )


def _any(present: list[Count]) -> Count:
    """1 if any is; of probabilities, the largest."""
    if any(is_float(presence) for presence in present):
        return jnp.max(stacked(present))
    return maximum([0, *present])


def _kernel_bytes(per_byte: Count, *kernel: Count) -> Count:
    """Bytes of a kernel in the file, padded, with ``per_byte`` weights in a byte."""
    elements = align(_elements(*kernel), ALIGNMENT * per_byte)
    return elements / per_byte if is_float(elements) else elements // per_byte


def _name_bytes(name: str) -> int:
    return align(4 + len(name) + 1, 4)  # its length, the characters, a closing zero
