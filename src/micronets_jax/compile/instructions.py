"""Instructions of a call on a Cortex-M4, predicted, so that plans can be compared.

Invariant: what a kernel of ``csrc`` repeats is counted from its parameters, and weighed with the
instructions that its code takes each time (arm-none-eabi-gcc 12.2, -O2).
"""

from __future__ import annotations

import math

from micronets_jax import kernels
from micronets_jax.compile.kernels import POSITIVE, Call, window_of
from micronets_jax.compile.rows import RowNode

# Of depthwise.h: two outputs of a square by its side, and four of 3 x 3 at stride 1; then of
# depthwise_row.h: two outputs, one row of the kernel for four channels, at stride 1 and 2.
_PLANE_PAIR, _PLANE_FOUR = {3: 35, 5: 63, 7: 103}, 63
_PAIR_ROW = {(3, 1): 42, (5, 1): 68, (7, 1): 95, (3, 2): 48, (5, 2): 78, (7, 2): 108}


def of_call(call: Call) -> int:
    """Instructions of a call on whole tensors."""
    f = call.fields
    if call.function == "mn_conv":
        groups, singles = divmod(f["pixels"], 4)
        return round(_product(f, 4) * groups + _product(f, 1) * singles + f["pixels"] * _lay(f))
    if call.function == "mn_dense":
        return round(_dense(f))
    if call.source == "depthwise.h":
        return round(_plane(f))
    return round(_rest(call.kind, call, 1))


def of_rows(node: RowNode, call: Call | None) -> int:
    """Instructions of all row calls of a node, whose ``call`` on whole tensors is given (None for
    rows that are pushed)."""
    taps = sum(read.taps for read in node.reads)
    turns = node.calls * (65 + 22 * taps)
    if call is None:
        return round(turns + node.calls * node.row_bytes / 2)
    f = call.fields
    if node.accumulates and node.node.kind != "max_pool":
        columns, channels = node.node.in_shapes[0][2:]
        return round(turns + channels * (node.calls * (9 + 2.1 * columns) + 35))
    if call.function == "mn_conv":
        groups, rest = divmod(f["out_columns"], 4)
        row = _product(f, 4) * groups + (_product(f, rest) if rest else 0)
        return round(turns + node.rows * (row + f["out_columns"] * _lay(f)))
    if call.function == "mn_dense":  # by rows it is a convolution of few pixels
        return round(turns + _dense(f) * 1.4)
    if call.kind == "depthwise" and call.function != "mn_depthwise_any":
        return round(turns + _depthwise_rows(node))
    return round(turns + _rest(call.kind, call, node.calls))


def _product(f: dict, lanes: int) -> float:
    """All output channels of some pixels, after their patches are laid out."""
    pairs, quads = -(-f["out_channels"] // 2), f["quads"]
    wide = lanes * (28.0 * quads + 60) * int(f["channels"]["wide"].sum()) + 40
    if lanes == 4:
        step = 22.75 if f["wide"] else 24.75
        return pairs * (step * quads + 78 + 8 * (f["rounding"] != POSITIVE)) + wide
    if lanes == 1:
        return pairs * (8.0 * quads + 42) + wide
    return pairs * ((3.5 + 5.5 * lanes) * quads + 30 + 18 * lanes) + wide


def _dense(f: dict) -> float:
    """Pixels as they lie, four output channels at a time."""
    groups, quads = -(-f["out_channels"] // 4), -(-f["inputs"] // 4)
    wide = int(f["channels"]["wide"].sum()) * (12.0 * f["inputs"] + 60)
    return f["pixels"] * (groups * (17.0 * quads + 72) + wide + 110)


def _lay(f: dict) -> float:
    """The patch of one pixel."""
    quads, rows, run = f["quads"], f["kernel_rows"], f["kernel_columns"] * f["in_channels"]
    if rows == 1 and f["kernel_columns"] == 1 and f["in_channels"] % 4 == 0:
        return 5.75 * quads + 36 + 22 * (f["stride_rows"] > 1)
    if f["in_channels"] % 4 == 0:
        return 5.75 * quads + 60 * rows + 40
    return 6.0 * quads + rows * (15 + 4 * (run // 4) + 4 * (run % 4)) + 140


def _plane(f: dict) -> float:
    """Depthwise convolution channel by channel."""
    kernel, rows, columns = f["kernel_rows"], f["out_rows"], f["out_columns"]
    fast = kernel == f["kernel_columns"] and kernel in _PLANE_PAIR and f["stride_columns"] < 3
    signed = f["rounding"] != POSITIVE
    if fast and kernel == 3 and f["stride_columns"] == 1 and columns >= 3:
        group = _PLANE_FOUR + 5 * signed
        outputs = rows * (31 + group * -(-columns // 4) + 18 * (columns % 4 > 0)) + 130
    elif fast:
        pair = _PLANE_PAIR[kernel] + 2 * signed
        outputs = rows * (24 + pair * -(-columns // 2)) + 110 + 5.5 * kernel * kernel
    else:
        outputs = rows * columns * (30 + 5 * kernel * f["kernel_columns"])
    gather = f["in_rows"] * (14 + 2.6 * f["in_columns"])
    return f["num_channels"] * (outputs + gather) + 2.5 * f["plane_rows"] * f["plane_columns"]


def _depthwise_rows(node: RowNode) -> float:
    """Pairs of pixels inside of the picture, single ones elsewhere, four channels at once."""
    window = window_of(node.node, node.node.in_shapes[0][1:3])
    (kr, kc), step, groups = window.kernel, window.stride[1], -(-node.node.in_shapes[0][3] // 4)
    down, along = (kernels.taps_inside(window, axis) for axis in (0, 1))
    if kernels.takes_threes(window):
        columns = window.out[1]
        taps = 8.0 * (3 * columns - 2)
        return sum(60 + groups * (82 + 43 * columns + taps * k) for k in down)
    pairs = kernels.depthwise_row_pairs(window)
    total = 0.0
    if pairs:
        for _ in range(2 * pairs):
            along.remove(kc)
        for k in down:
            total += groups * (75 + 8 * kr + 6 * kc * k)
            total += groups * pairs * (78 + (_PAIR_ROW[kc, step] + 4) * k + 4 * (kr - k))
    for k in down:
        for i in along:
            total += 80 + 11 * kr * kc + groups * (54 + 11.5 * k * i)
    return total


def _rest(kind: str, call: Call, calls: int) -> float:
    """Whatever takes a small part of a network's time, by the elements of its work."""
    f = call.fields
    if kind in ("average_pool", "max_pool"):
        window = f["kernel_rows"] * f["kernel_columns"]
        outputs = f["out_rows"] * f["out_columns"] * f["channels"]
        return outputs * (30 + 7.6 * window) + 60 * calls
    if kind in ("add", "mul"):
        return 19.0 * math.prod(f["dims"]) + 60 * calls
    if kind == "softmax":
        return 90.0 * f["rows"] * f["columns"]
    if kind == "depthwise":
        taps = f["kernel_rows"] * f["kernel_columns"]
        return f["out_rows"] * f["out_columns"] * f["in_channels"] * f["multiplier"] * 18.0 * taps
    if kind == "table" and call.trailing:
        return (1.25 if call.function == "mn_flip" else 5.0) * int(call.trailing[-1])
    return 8.0 * call.macs + 200 * calls
