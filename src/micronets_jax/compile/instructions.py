"""Instructions of a call on a Cortex-M4, predicted, so that plans can be compared.

Invariant: what a kernel of ``csrc`` repeats is counted from its parameters, and weighed with the
instructions that its code takes each time (arm-none-eabi-gcc 12.2, -O2): as ``steps`` says of whole
layers, by the numbers here of rows and of what takes a small part of a network's time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from micronets_jax import kernels, steps
from micronets_jax.compile.kernels import POSITIVE, Call, window_of
from micronets_jax.compile.rows import RowNode
from micronets_jax.devices.instructions import fitted
from micronets_jax.kernels import LANES, Depthwise, is_fast
from micronets_jax.steps import Term
from micronets_jax.windows import Window

# Of depthwise_row.h: two outputs, one row of the kernel for four channels, at stride 1 and 2.
_PAIR_ROW = {(3, 1): 42, (5, 1): 68, (7, 1): 95, (3, 2): 48, (5, 2): 78, (7, 2): 108}


def of_call(call: Call) -> int:
    """Instructions of a call on whole tensors."""
    f = call.fields
    if call.function == "mn_conv":
        groups, singles = divmod(f["pixels"], LANES)
        return round(_lay(f) + _products(f, groups, singles) + f["pixels"] * _wide_channels(f))
    if call.function == "mn_dense":
        return round(_dense(f))
    if call.source == "depthwise.h":
        return round(_depthwise(f))
    return round(_rest(call.kind, call, 1))


def of_rows(node: RowNode, call: Call | None) -> int:
    """Instructions of all row calls of a node, whose ``call`` on whole tensors is given (None for
    rows that are pushed)."""
    taps = sum(read.taps for read in node.reads)
    turns = node.calls * (65 + 22 * taps)
    if call is None:
        return round(turns + node.calls * node.row_bytes / 2)
    f = call.fields
    if node.accumulates and node.node.kind == "conv":
        return round(turns + _dense_rows(node.calls, f))
    if node.accumulates and node.node.kind != "max_pool":
        columns, channels = node.node.in_shapes[0][2:]
        return round(turns + channels * (node.calls * (9 + 2.1 * columns) + 35))
    if call.function == "mn_conv":
        return round(turns + node.rows * _conv_row(f) + _lay(f))
    if call.function == "mn_dense":  # by rows it is a convolution of few pixels
        return round(turns + _dense(f) * 1.4)
    if call.kind == "depthwise" and call.function != "mn_depthwise_any":
        return round(turns + _depthwise_rows(node))
    return round(turns + _rest(call.kind, call, node.calls))


def _of(terms: Iterable[Term]) -> float:
    """Instructions of steps on a Cortex-M4."""
    cost = fitted("compiled", "cortex-m4")
    return sum(
        term.count * sum(cost.get(step, 0.0) * times for step, times in term.steps.items())
        for term in terms
    )


def _window(f: dict) -> Window:
    """How a kernel walks, by the parameters of its call."""

    def pair(name: str) -> tuple[int, int]:
        return f[f"{name}_rows"], f[f"{name}_columns"]

    out = pair("out") if "out_rows" in f else (f["pixels"] // f["out_columns"], f["out_columns"])
    return Window(pair("in"), out, pair("kernel"), pair("stride"), (f["pad_top"], f["pad_left"]))


def _signed(f: dict) -> bool:
    return f["rounding"] != POSITIVE


def _lay(f: dict) -> float:
    """The patches of all pixels."""
    return _of(steps.lay(_window(f), f["in_channels"]))


def _products(f: dict, groups: int, singles: int) -> float:
    """All output channels of groups of four pixels and of single ones."""
    quads, outputs = f["quads"], f["out_channels"]
    return _of(steps.products(groups, singles, quads, outputs, _signed(f), bool(f["wide"])))


def _wide_channels(f: dict) -> float:
    """Of a pixel: channels that no assembly computes."""
    return (28.0 * f["quads"] + 70) * int(f["channels"]["wide"].sum())


def _conv_row(f: dict) -> float:
    """The products of a row of pixels, of which up to three are left beside groups of four."""
    groups, rest = divmod(f["out_columns"], LANES)
    result = _products(f, groups, int(rest == 1))
    if rest > 1:
        pairs = -(-f["out_channels"] // 2)
        result += pairs * ((3.5 + 5.5 * rest) * f["quads"] + 30 + 18 * rest) + 40
    return result + f["out_columns"] * _wide_channels(f)


def _dense(f: dict) -> float:
    wide = int(f["channels"]["wide"].sum()) * (12.0 * f["inputs"] + 60)
    return _of(steps.dense(f["pixels"], f["inputs"], f["out_channels"])) + f["pixels"] * wide


def _dense_rows(rows: int, f: dict) -> float:
    """Of dense.c by rows: four channels at a time and a pair that is left, whose sums come and go;
    weights that do not fit their bytes, one by one."""
    quads, tail = divmod(f["inputs"] // rows, 4)
    outputs = f["out_channels"]
    fours, pairs = (outputs + 1) // 4, int(outputs % 4 in (1, 2))
    more = 3 * (tail > 0) + 21 * max(0, -(-quads // 125) - 1)
    filled = quads + (tail > 0)
    groups = fours * (33 + 17 * filled + more) + pairs * (43 + 11 * filled + more)
    wide = int(f["channels"]["wide"][1::2].sum())
    result = rows * (123 + 8.6 * tail + groups) + 46 * outputs + 80
    return result + wide * (15.7 * f["inputs"] + 30 * rows)


def _depthwise(f: dict) -> float:
    """Channel by channel."""
    window, plane = _window(f), (f["plane_rows"], f["plane_columns"])
    walked = Depthwise(window, False, is_fast(window), plane, window.size)
    result = _of(steps.depthwise(walked, f["num_channels"], _signed(f)))
    if not walked.fast:  # in C, of which no layer was measured alone
        result += f["num_channels"] * window.pixels * (30 + 5 * window.taps)
    return result


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
    """Instructions of operations that take a small part of the time, in proportion to elements."""
    f = call.fields
    if kind in ("average_pool", "max_pool"):
        return _of(steps.pool(_window(f), f["channels"])) + 60 * calls
    if kind in ("add", "mul"):
        return _of(steps.add(1, math.prod(f["dims"]))) + 60 * calls
    if kind == "softmax":
        return 90.0 * f["rows"] * f["columns"]
    if kind == "depthwise":
        taps = f["kernel_rows"] * f["kernel_columns"]
        return f["out_rows"] * f["out_columns"] * f["in_channels"] * f["multiplier"] * 18.0 * taps
    if kind == "table" and call.trailing:
        return (1.25 if call.function == "mn_flip" else 5.0) * int(call.trailing[-1])
    return 8.0 * call.macs + 200 * calls
