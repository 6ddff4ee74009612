"""What a program that ``compile`` writes takes of flash, from the network alone.

Invariant: weights and tables of a decided network are, to the byte, those that the compiler writes,
if the weights leave no channel constant, which it would fold away.
"""

from __future__ import annotations

from micronets_jax import kernels, memory
from micronets_jax.counts import align, maximum, summed, total
from micronets_jax.kernels import CHANNEL_BYTES, Depthwise
from micronets_jax.network import Count, Layer, Network, output_sizes, window

_STRUCTS = {
    "conv": "mn_conv", "dense": "mn_dense", "depthwise": "mn_depthwise", "avg_pool": "mn_pool",
    "add": "mn_add", "pad": "mn_copy",
}  # fmt: skip


def constant_bytes(network: Network) -> Count:
    """Weights, unpacked to a byte each, biases and scales by channel, parameters of calls.

    Kernels are laid out in pairs of output channels and, but for depthwise ones, quads of inputs.
    """
    table = kernels.structs()
    rows = []
    for operator in memory.operators(network, reshapes=False):
        layer, (taps_pair, taps_single) = operator.layer, _taps(operator.layer)
        struct = kernels.struct_bytes(_STRUCTS[layer.kind], table)[0]
        rows.append(
            (layer.presence, struct, taps_pair, taps_single, layer.in_channels, layer.out_channels)
        )

    def held(
        presence: Count, struct: int, pair: int, single: int, inputs: Count, outputs: Count
    ) -> Count:
        even = align(outputs, 2)
        weights = even * align(pair * inputs, 4) + single * outputs
        return presence * (weights + (pair + single > 0) * CHANNEL_BYTES * even + struct)

    return summed(held, rows)


def _taps(layer: Layer) -> tuple[int, int]:
    """Weights of each pair of an input and an output channel, and of each output channel alone."""
    taps = layer.kernel[0] * layer.kernel[1]
    if layer.kind in ("conv", "dense"):
        return taps, 0
    return 0, taps if layer.kind == "depthwise" else 0


def code_bytes(network: Network) -> Count:
    """Predicted bytes of the kernels that are called, and of the calls."""
    sizes = output_sizes(network)
    present: dict[tuple[str, int], list[Count]] = {}  # by what is linked once, and its bytes
    calls: list[Count] = []
    for operator in memory.operators(network, reshapes=False):
        layer = operator.layer
        calls.append((2 if layer.kind == "pad" else 1) * layer.presence)
        kind = layer.kind
        if kind == "depthwise":
            walked = Depthwise.over(window(layer, sizes))
            side = walked.window.kernel[0] if walked.fast else 0
            shape = f"{walked.window.kernel} {walked.window.stride} {layer.activation == 'linear'}"
            keys = [
                (f"depthwise {shape}", kernels.DEPTHWISE_BYTES[side]),
                (kind, kernels.DEPTHWISE_SHARED_BYTES),
            ]
        else:
            keys = [(kind, kernels.CODE_BYTES[kind])]
        for key in keys:
            present.setdefault(key, []).append(layer.presence)
    kept = total(size * maximum([0, *there]) for (_, size), there in present.items())
    return kernels.RUN_BYTES + kernels.CALL_BYTES * total(calls) + kept


def flash_bytes(network: Network) -> Count:
    """Both."""
    return constant_bytes(network) + code_bytes(network)
