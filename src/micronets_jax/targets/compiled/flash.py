"""What a program that ``compile`` writes takes of flash and of the stack, from the network alone.

Invariant: weights and tables of a decided network on whole tensors are, to the byte, those that the
compiler writes, if the weights leave no channel constant, which it would fold away. Which layers go
by rows depends on the plan; ``most_flash_bytes`` and ``most_stack_bytes`` are bounds for any plan.
"""

from __future__ import annotations

from micronets_jax import cost, kernels, memory, sizes
from micronets_jax.counts import align, maximum, summed, total, where
from micronets_jax.kernels import (
    CHANNEL_BYTES,
    Depthwise,
    depthwise_row_pairs,
    is_direct,
    is_line,
    takes_fours,
    takes_threes,
)
from micronets_jax.network import Count, Layer, Network, output_sizes, window
from micronets_jax.targets.compiled.streams import input_row_bytes, map_rows
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
    """Predicted bytes of the kernels that are called on whole tensors, and of the calls."""
    return _calls_bytes(network) + sizes.code_bytes(_kernels(network))


def _calls_bytes(network: Network) -> Count:
    listed = memory.operators(network, reshapes=False)
    return sizes.run_bytes(total(calls_of(o.kind) * o.layer.presence for o in listed))


_Kernels = list[tuple[str, str, Count]]  # as ``sizes.code_bytes`` takes them


def _kernels(network: Network) -> _Kernels:
    listed, sizes_of = memory.operators(network, reshapes=False), output_sizes(network)
    kernels_of: _Kernels = []
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
    return kernels_of


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
        side, stride = way.window.kernel[1], way.window.stride[1]
        rounding = "MN_MIXED" if mixed else "MN_SIGNED"
        if takes_fours(way.window):
            return sizes.depthwise_fours(rounding)
        if way.fast and is_line(way.window):
            return sizes.depthwise_line(side, stride, rounding)
        return sizes.depthwise(side if way.fast else 0, stride, rounding)
    if layer.kind in ("conv", "dense"):
        return "mn_dense" if is_direct(walked) else "mn_conv"
    return {"add": "mn_add", "avg_pool": "mn_average_pool", "pad": "mn_copy"}[layer.kind]


def calls_of(kind: str) -> int:
    """Calls that an operator of TFLite takes: zeros are laid out before they are copied over."""
    return 2 if kind == "PAD" else 1


def flash_bytes(network: Network) -> Count:
    """Bytes of constants and of code."""
    return constant_bytes(network) + code_bytes(network)


# ---------------------------------------------------------------- any plan


def most_flash_bytes(network: Network) -> Count:
    """Flash of the plan that takes most: all layers have their kernels for whole tensors and for
    rows, and each the tables of a stretch."""
    by_rows = _row_kernels(network)
    tables = total(
        (_TABLE_BYTES + _SOURCE_BYTES * len(o.reads)) * o.layer.presence
        for o in memory.operators(network, reshapes=False)
    )
    code = sizes.code_bytes([*_kernels(network), *by_rows, ("mn_stream", "mn_stream", 1)])
    return (
        constant_bytes(network) + _more_constants(network) + _calls_bytes(network) + code + tables
    )


_TABLE_BYTES, _SOURCE_BYTES = 80, 28
"""Of a layer in a stretch: operation (32) and, as measured on the spaces' members, at most this
with its share of phases and calls; and for each tensor that it reads."""


def most_stack_bytes(network: Network) -> Count:
    """Stack of the plan that takes most."""
    rows = sizes.stack_bytes([(name, there) for name, _, there in _row_kernels(network)])
    walked = [layer for layer in network if layer.kind in ("conv", "depthwise")]
    taps = max([2, *(layer.kernel[0] for layer in walked)])
    streaming = sizes.stack_bytes([("mn_stream", 1)]) + sizes.STREAM_STACK_BYTES + 4 * taps
    return maximum([stack_bytes(network), sizes.RUN_STACK_BYTES + streaming + rows])


def _row_kernels(network: Network) -> _Kernels:
    found: _Kernels = []
    sizes_of = output_sizes(network)
    for operator in memory.operators(network, reshapes=False):
        layer = operator.layer
        walked, linear = window(layer, sizes_of), layer.activation == "linear"
        if layer.kind == "depthwise":
            fast = depthwise_row_pairs(walked) > 0
            shape = (walked.kernel[0], walked.stride[1]) if fast else (0, 0)
            threes = takes_threes(walked)
            name = sizes.DEPTHWISE_ROW_THREES if threes else sizes.depthwise_row(*shape)
            fours = where(layer.out_channels >= 4, layer.presence, 0)
            found.append((name, f"{name} {linear}", fours))
            few = "mn_depthwise_any_row"
            found.append((few, few, where(layer.out_channels >= 4, 0, layer.presence)))
        elif (added := map_rows(network, operator, sizes_of) > 0) or layer.kind != "dense":
            name = {
                "conv": "mn_dense_row" if added else "mn_conv_row",
                "dense": "mn_dense_row",
                "add": "mn_add_row",
                "pad": "mn_move_row",
                "avg_pool": "mn_sum_row" if added else "mn_average_pool_row",
            }[layer.kind]
            found.append((name, name, layer.presence))
    return found


def _more_constants(network: Network) -> Count:
    """Bytes that parameters by rows may take beyond those on whole tensors."""
    table = kernels.structs()

    def struct(name: str) -> int:
        return kernels.struct_bytes(name, table)[0]

    sizes_of, rows = output_sizes(network), []
    for operator in memory.operators(network, reshapes=False):
        layer, walked = operator.layer, window(operator.layer, sizes_of)
        added = map_rows(network, operator, sizes_of)
        if layer.kind == "avg_pool":
            rows.append(layer.presence * (struct("mn_sum_row") - struct("mn_pool")))
        elif added:
            # The weights of every row begin with a quad of their own.
            inputs = input_row_bytes(network, operator, sizes_of)
            more = added * align(inputs, 4) - align(operator.in_bytes[0], 4)
            rows.append(layer.presence * align(layer.out_channels, 2) * more)
        elif layer.kind == "conv" and is_direct(walked):
            rows.append(layer.presence * (struct("mn_conv") - struct("mn_dense")))
        elif layer.kind == "depthwise":
            # Four channels at once: the last ones are filled up.
            more = walked.taps * (align(layer.out_channels, 4) - layer.out_channels)
            less = struct("mn_depthwise") - struct("mn_depthwise_row")
            rows.append(layer.presence * maximum([0, more - less]))
    return total(rows)
