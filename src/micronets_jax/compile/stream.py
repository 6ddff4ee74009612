"""Streams: a stretch of nodes lowered to row calls over line buffers, as the C tables have it.

Invariant: a stretch is complete but for addresses: its calls, rings, sums and scratch, and the
order of its reads of whole inputs and writes of outputs. The planner places them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from micronets_jax.compile import kernels
from micronets_jax.compile.graph import MOVES, Graph
from micronets_jax.compile.kernels import Call
from micronets_jax.compile.rows import RowNode, moved_rows
from micronets_jax.kernels import (
    conv_row_scratch,
    depthwise_row_pairs,
    depthwise_row_scratch,
    row_sum_bytes,
    takes_threes,
)
from micronets_jax.rows import Lines, Order, Reads, Ring

ALIGN = 4


@dataclasses.dataclass
class Stretch:
    """A step of a plan that computes row by row.

    Attributes:
        nodes: in the order of the graph; the first may be rows that are pushed.
        layers: calls of the nodes (None for pushed rows), one each.
        sequence: row calls: (index of the node, call).
        whole: bytes of inputs and outputs.
        lines: what it holds.
    """

    nodes: Sequence[RowNode]
    layers: list[Call | None]
    sequence: list[tuple[int, int]]
    whole: dict[int, int]
    lines: Lines

    @property
    def rings(self) -> list[Ring]:
        """Its line buffers."""
        return self.lines.rings

    @property
    def local(self) -> list[tuple[str, int]]:
        """Name and bytes of what lives during the stretch alone, rings first."""
        return self.lines.local

    @property
    def pushed(self) -> bool:
        """Whether its first operation is the input, pushed row by row."""
        return self.nodes[0].node.kind == "push"

    @property
    def taps(self) -> int:
        """Most rows that a call reads."""
        return max(sum(s.taps for s in sources_of(n)) for n in self.nodes)

    def places(self, addresses: dict[int, int], local: Sequence[int]) -> dict[int, Place]:
        """Where the rows of every tensor lie.

        Args:
            addresses: of whole tensors.
            local: first byte of each of ``self.local``.
        """
        found = {}
        for ring, at in zip(self.rings, local, strict=False):
            for tensor in ring.tensors:
                found[tensor] = Place(at, ring.row_bytes, ring.depth)
        views = {r.tensor: r.rows for n in self.nodes for r in n.reads}
        views |= {n.node.output: n.rows for n in self.nodes}
        for tensor in self.whole:
            rows = views[tensor]
            found[tensor] = Place(addresses[tensor], self.whole[tensor] // rows, rows)
        for final, members in self.lines.written_through.items():
            for tensor in members:
                found[tensor] = found[final]
        return found

    @functools.cached_property
    def loops(self) -> list[tuple[list[tuple[int, int, int]], int]]:
        """The sequence as :func:`phases`."""
        return phases(self.sequence)


@dataclasses.dataclass(frozen=True)
class Place:
    """Rows of a tensor: slot i lies at ``offset + i * pitch``, row y in slot y mod depth."""

    offset: int
    pitch: int
    depth: int


@dataclasses.dataclass(frozen=True)
class Source(Reads):
    """What ``struct mn_source`` says of an operand, but for its place.

    Attributes:
        row_bytes: of a constant: from one row to the next.
    """

    row_bytes: int = 0


def sources_of(node: RowNode) -> list[Source]:
    """All operands in the order of the node's inputs."""
    reads = {r.position: r for r in node.reads}
    found = []
    for position, tensor in enumerate(node.node.inputs):
        if r := reads.get(position):
            found.append(Source(**vars(r)))
            continue
        shape = (1,) * (4 - len(s := node.node.in_shapes[position])) + tuple(s)
        one = int(shape[1] > 1)
        row_bytes = one * shape[2] * shape[3]
        found.append(Source(tensor, position, shape[1], stride=one, row_bytes=row_bytes))
    return found


def stretch(graph: Graph, nodes: Sequence[RowNode], order: Order, lines: Lines) -> Stretch:
    """A stretch of nodes.

    Args:
        graph: whose nodes they are.
        nodes: the last ones of the order.
        order: of the row calls of these and of earlier nodes.
        lines: what it holds.

    Returns:
        Its row calls, lowered, without addresses.
    """
    before = len(order.nodes) - len(nodes)
    layers = [None if n.node.kind == "push" else lower(graph, n) for n in nodes]
    sequence = [(i - before, call) for i, call in order.calls if i >= before]
    whole = {t: graph.values[t].bytes for t in (*lines.inputs, *lines.outputs)}
    return Stretch(nodes, layers, sequence, whole, lines)


# Lowering ---------------------------------------------------------------------------------------


def sum_bytes(node: RowNode) -> int:
    """Bytes of the accumulators that live between the calls of an operation by rows."""
    if not node.accumulates:
        return 0
    if node.node.kind == "conv":
        return row_sum_bytes(node.node.out_shape[-1])
    return node.row_bytes * (1 if node.node.kind == "max_pool" else 4)


def scratch_bytes(graph: Graph, node: RowNode) -> int:
    """Scratch bytes of one row call."""
    if node.node.kind not in ("conv", "depthwise") or node.accumulates:
        return 0
    shape = node.node.in_shapes[0]
    window = kernels.window_of(node.node, shape[1:3])
    if node.node.kind == "depthwise":
        return depthwise_row_scratch(window, shape[3]) if _four_channels(node) else 0
    return conv_row_scratch(window, shape[3])


def lower(graph: Graph, node: RowNode) -> Call:
    """The row call of a node: its kernel and parameters."""
    call = _LOWER[node.node.kind](graph, node)
    call.headers = ("stream.h", *call.headers)
    call.orders, call.scratch = {}, scratch_bytes(graph, node)
    return call


def _call(
    node: RowNode, function: str, struct: str, fields: dict[str, Any], source: str = "rows.h"
):
    n = node.node
    return Call(
        n.name, n.kind, n.macs, n.operator, function, source, list(n.inputs), n.output,
        struct=struct, fields=fields, headers=("rows.h",),
    )  # fmt: skip


def _conv(graph: Graph, node: RowNode) -> Call:
    if node.accumulates:
        return kernels.dense_rows(graph, node.node, node.calls)
    call = kernels.patches(graph, node.node)
    call.function = "mn_conv_row"
    return call


def _depthwise(graph: Graph, node: RowNode) -> Call:
    n, o = node.node, node.node.options
    weights = o["weights"][0]  # [kernel rows, kernel columns, channels]
    kr, kc, count = weights.shape
    if not _four_channels(node):
        whole, rounding = kernels.channel_table(graph, n)
        call = kernels.depthwise_any(graph, n, weights, whole, rounding)
        call.function, call.source, call.headers = "mn_depthwise_any_row", "rows.h", ("rows.h",)
        return call
    table, rounding = kernels.channel_table(graph, n, folded=False)
    starts = [min(c, count - 4) for c in range(0, count, 4)]
    groups = np.stack([weights[:, :, c : c + 4] for c in starts])
    fast = depthwise_row_pairs(kernels.window_of(n, n.in_shapes[0][1:3])) > 0
    stride, name, macro = o["stride"][1], "depthwise_row", "MN_DEPTHWISE_ROW({})"
    if takes_threes(kernels.window_of(n, n.in_shapes[0][1:3])):
        name += f"_threes_{rounding[3:].lower()}"
        macro = f"MN_DEPTHWISE_ROW_THREES({{}}, {rounding})"
    elif fast:
        name += f"_{kc}_s{stride}_{rounding[3:].lower()}"
        macro = f"MN_DEPTHWISE_ROW_FAST({{}}, {kc}, {stride}, {rounding})"
    fields = {
        "weights": np.ascontiguousarray(groups).reshape(-1), "channels": table,
        "num_channels": count, "in_columns": n.in_shapes[0][2], "out_columns": o["size"][1],
        "pad_left": o["pads"][1], "kernel_rows": kr, "kernel_columns": kc,
        "stride_columns": stride, "dilation_columns": o["dilation"][1],
        "zero_point": graph.values[n.inputs[0]].zero_point, "min": o["min"], "max": o["max"],
        "rounding": rounding,
    }  # fmt: skip
    call = _call(node, name, "mn_depthwise_row", fields, "depthwise_row.h")
    call.template = macro.format(name)
    return call


def _four_channels(node: RowNode) -> bool:
    """Whether channels can be computed four at once: multiplier 1, and there are so many."""
    return node.node.options["weights"].shape[3] == node.node.in_shapes[0][3] >= 4


def _pool(graph: Graph, node: RowNode) -> Call:
    if node.accumulates:
        return _sum(graph, node)
    (call,) = kernels.lower_node(graph, node.node)
    call.function, call.source, call.headers = f"mn_{node.node.kind}_row", "rows.h", ("rows.h",)
    return call


def _sum(graph: Graph, node: RowNode) -> Call:
    n, o = node.node, node.node.options
    rows, columns, channels = n.in_shapes[0][1:]
    fields = {"columns": columns, "channels": channels, "rows": rows}
    if n.kind == "max_pool":
        return _call(node, "mn_max_row", "mn_max_row", {**fields, "min": o["min"], "max": o["max"]})
    if n.kind == "average_pool":
        fields |= {
            "count": rows * columns, "zero_point_sum": 0, "multiplier": 0, "shift": 0,
            "zero_point": 0, "min": o["min"], "max": o["max"],
        }  # fmt: skip
    else:
        fields |= {
            "count": 0, "zero_point_sum": graph.values[n.inputs[0]].zero_point * o["count"],
            "multiplier": o["multiplier"], "shift": -o["exponent"],
            "zero_point": graph.values[n.output].zero_point, "min": -128, "max": 127,
        }  # fmt: skip
    return _call(node, "mn_sum_row", "mn_sum_row", fields)


def _binary(graph: Graph, node: RowNode) -> Call:
    """The whole operation's call, of a picture of one row."""
    n = node.node

    def one_row(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-3], 1, *shape[-2:]) if len(shape) > 2 else shape

    row = dataclasses.replace(
        n, in_shapes=[one_row(s) for s in n.in_shapes], out_shape=one_row(n.out_shape)
    )
    (call,) = kernels.lower_node(graph, row)
    call.function, call.headers = call.function + "_row", ("rows.h",)
    return call


def _table(graph: Graph, node: RowNode) -> Call:
    (call,) = kernels.lower_node(graph, node.node)
    fields = {"table": "0" if call.table is None else call.table, "bytes": node.row_bytes}
    return _call(node, "mn_bytes_row", "mn_bytes_row", fields, "table.c")


def _float(graph: Graph, node: RowNode) -> Call:
    n = node.node
    quantize = n.kind == "quantize"
    value = graph.values[n.output if quantize else n.inputs[0]]
    fields = {
        "scale": kernels.float_literal(value.scale),
        "zero_point": value.zero_point,
        "count": value.elements // node.rows,
        "is_unsigned": int(value.dtype == "uint8"),
    }
    return _call(node, f"mn_{n.kind}_row", "mn_float_row", fields, "ends.c")


def _softmax(graph: Graph, node: RowNode) -> Call:
    (call,) = kernels.lower_node(graph, node.node)
    call.fields["rows"] //= node.rows
    call.function, call.headers = "mn_softmax_row", ("rows.h",)
    return call


def _move(graph: Graph, node: RowNode) -> Call:
    n, item = node.node, graph.values[node.node.output].item_bytes
    parts = []
    for copy in n.options["copies"]:
        moved = moved_rows(n, copy)
        assert moved is not None
        runs = [(count, a * item, b * item) for count, a, b in moved.runs]
        if runs and runs[-1][1:] == (item, item):
            runs[-1] = (runs[-1][0] * item, 1, 1)
        else:
            runs.append((item, 1, 1))
        runs = [(1, 0, 0)] * (3 - len(runs)) + runs
        parts.append([moved.source, moved.in_at * item, moved.out_at * item, *sum(runs, ())])
    fill = n.options["fill"]
    fields = {
        "parts": np.array(parts, np.int32),
        "num_parts": len(parts),
        "bytes": node.row_bytes,
        "fill": 0 if fill is None else fill,
        "fills": int(fill is not None),
    }
    return _call(node, "mn_move_row", "mn_move_row", fields)


def _resize(graph: Graph, node: RowNode) -> Call:
    n = node.node
    fields = {
        "columns": np.array(n.options["columns"], np.int16),
        "out_columns": n.out_shape[2],
        "channels": n.out_shape[3],
    }
    return _call(node, "mn_resize_row", "mn_resize_row", fields)


_LOWER: dict[str, Callable[[Graph, RowNode], Call]] = {
    "conv": _conv, "depthwise": _depthwise, "average_pool": _pool, "max_pool": _pool,
    "reduce": _sum, "add": _binary, "mul": _binary, "table": _table, "quantize": _float,
    "dequantize": _float, "softmax": _softmax, "resize": _resize,
    **dict.fromkeys(MOVES, _move),
}  # fmt: skip


# Loops ------------------------------------------------------------------------------------------


def phases(sequence: Sequence[tuple[int, int]]) -> list[tuple[list[tuple[int, int, int]], int]]:
    """A sequence of (operation, row) as loops: calls (operation, row, step) and how often; in
    repetition i a call makes row ``row + i * step``."""
    ops = np.array([op for op, _ in sequence])
    rows = np.array([row for _, row in sequence])
    found: list[tuple[list[tuple[int, int, int]], int]] = []
    literal: list[tuple[int, int, int]] = []
    at = 0
    while at < len(ops):
        period, times = _loop(ops[at:], rows[at:])
        if times < 2:
            literal.append((int(ops[at]), int(rows[at]), 0))
            at += 1
            continue
        if literal:
            found.append((literal, 1))
            literal = []
        steps = rows[at + period : at + 2 * period] - rows[at : at + period]
        calls = zip(ops[at : at + period], rows[at : at + period], steps, strict=True)
        found.append(([(int(o), int(r), int(s)) for o, r, s in calls], times))
        at += period * times
    return [*found, (literal, 1)] if literal else found


def _loop(ops: np.ndarray, rows: np.ndarray) -> tuple[int, int]:
    """The period and number of repetitions of the loop at the beginning that saves most calls."""
    best, saved = (1, 1), 1
    for period in np.flatnonzero(ops[1 : len(ops) // 2 + 1] == ops[0]) + 1:
        if period * (len(ops) // period - 1) <= saved or period > 1000:
            continue
        same = ops[period:] == ops[:-period]
        steps = rows[period:] - rows[:-period]
        good = same & (steps >= 0) & (steps < 256)
        good[period:] &= steps[period:] == steps[:-period]
        bad = np.flatnonzero(~good)
        length = int(bad[0]) if len(bad) else len(good)
        times = min(length // period + 1, 65535)
        if times > 1 and period * (times - 1) > saved:
            best, saved = (int(period), int(times)), int(period * (times - 1))
    return best
