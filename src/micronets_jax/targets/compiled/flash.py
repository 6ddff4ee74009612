"""What a program that ``compile`` writes takes of flash and of the stack, from the network alone.

Invariant: weights and tables of a decided network are, to the byte, those that the compiler writes,
if the weights leave no channel constant, which it would fold away.
"""

from __future__ import annotations

from micronets_jax import cost, kernels, memory, sizes
from micronets_jax.counts import align, summed, total
from micronets_jax.kernels import CHANNEL_BYTES, Depthwise, is_direct, takes_fours
from micronets_jax.network import Count, Layer, Network, output_sizes, window
from micronets_jax.windows import Window

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
        layer, (taps_pair, taps_single) = operator.layer, cost.taps(operator.layer)
        struct = kernels.struct_bytes(_STRUCTS[layer.kind], table)[0]
        rows.append(
            (layer.presence, struct, taps_pair, taps_single, layer.in_channels, layer.out_channels)
        )

    def held(
        presence: Count, struct: Count, pair: Count, single: Count, inputs: Count, outputs: Count
    ) -> Count:
        even = align(outputs, 2)
        weights = even * align(pair * inputs, 4) + single * outputs
        return presence * (weights + (pair + single > 0) * CHANNEL_BYTES * even + struct)

    return summed(held, rows)


def code_bytes(network: Network) -> Count:
    """Predicted bytes of the kernels that are called, and of the calls."""
    listed = memory.operators(network, reshapes=False)
    calls = total(calls_of(operator.kind) * operator.layer.presence for operator in listed)
    sizes_of = output_sizes(network)
    kernels_of = []
    for operator in listed:
        layer = operator.layer
        walked = window(layer, sizes_of)
        name = function = kernel(layer, walked)
        if layer.kind == "depthwise":  # one for each shape and rounding
            shape = f"{walked.kernel} {walked.stride} {layer.activation == 'linear'}"
            function = f"{name} {shape}"
        kernels_of.append((name, function, layer.presence))
        if layer.kind == "pad":
            kernels_of.append(("mn_fill", "mn_fill", layer.presence))
    return sizes.run_bytes(calls) + sizes.code_bytes(kernels_of)


def stack_bytes(network: Network) -> Count:
    """Predicted bytes of stack that a run takes at most, whatever the weights."""
    sizes_of = output_sizes(network)
    found = []
    for operator in memory.operators(network, reshapes=False):
        name = kernel(operator.layer, window(operator.layer, sizes_of), mixed=True)
        found.append((name, operator.layer.presence))
    return sizes.RUN_STACK_BYTES + sizes.stack_bytes(found)


def kernel(layer: Layer, walked: Window, mixed: bool = False) -> str:
    """The kernel that computes a layer, by its name in the table of sizes; ``mixed``: if some of
    its scales are of 1/2 and more, as only the weights tell."""
    if layer.kind == "depthwise":
        way = Depthwise.over(walked)
        side, stride = way.window.kernel[0], way.window.stride[1]
        rounding = "MN_MIXED" if mixed else "MN_SIGNED"
        if takes_fours(way.window):
            return sizes.depthwise_fours(rounding)
        return sizes.depthwise(side if way.fast else 0, stride, rounding)
    if layer.kind in ("conv", "dense"):
        return "mn_dense" if is_direct(walked) else "mn_conv"
    return {"add": "mn_add", "avg_pool": "mn_average_pool", "pad": "mn_copy"}[layer.kind]


def calls_of(kind: str) -> int:
    """Calls that an operator of TFLite takes: zeros are laid out before they are copied over."""
    return 2 if kind == "PAD" else 1


def flash_bytes(network: Network) -> Count:
    """Both."""
    return constant_bytes(network) + code_bytes(network)
