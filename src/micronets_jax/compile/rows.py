"""Rows: which rows an operation reads to make one row, and the order in which a stretch makes them.

Invariant: an order of row calls follows from shapes, strides and kernels alone, and so do the rows
that each ring holds; bytes are these counts times the bytes of a row. Nothing is computed twice.

A stretch is a run of nodes that computes row by row: demand pulls rows, from the last tensor to the
first, so a layer makes a row when somebody needs it. A tensor that only the stretch reads is a
ring (a line buffer): row y lies in slot y mod depth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from micronets_jax.compile.graph import MOVES, Copy, Graph, Node

MAX_TAPS = 16
"""Rows that one call may read: pointers to them lie on the stack of the core."""

MAX_NODES = 96
"""Nodes of one stretch, so that the time of planning stays bounded."""


@dataclasses.dataclass(frozen=True)
class Reads:
    """Rows of one input that calls read: call c reads rows ``c * stride - pad + k * dilation`` for
    k < ``taps``, those inside 0..rows-1; or, with a ``map``, row ``map[c]``.

    Attributes:
        position: of the input among the node's inputs.
        rows: of the tensor as the node sees it.
    """

    tensor: int
    position: int
    rows: int
    taps: int = 1
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    map: tuple[int, ...] = ()

    def span(self, call: int) -> tuple[int, int]:
        """First and last row that a call reads; first > last if it reads padding alone."""
        if self.map:
            return self.map[call], self.map[call]
        first = call * self.stride - self.pad
        if first < 0:
            first += -(first // self.dilation) * self.dilation
        last = min(self.taps - 1, (self.rows - 1 - call * self.stride + self.pad) // self.dilation)
        return first, call * self.stride - self.pad + last * self.dilation


@dataclasses.dataclass(frozen=True)
class RowNode:
    """An operation by rows: call c makes row c of ``rows``; or, if it ``accumulates``, all calls
    together make the only row.

    Attributes:
        reads: of the inputs at run time.
        calls: how many make the whole output.
        row_bytes: of the output.
        in_place: input that the output may lie on, row on row; or None.
    """

    node: Node
    reads: tuple[Reads, ...]
    calls: int
    rows: int
    row_bytes: int
    accumulates: bool = False
    in_place: tuple[int, ...] = ()

    def calls_for(self, row: int) -> int:
        """Calls after which rows up to ``row`` are complete."""
        return self.calls if self.accumulates else row + 1


def by_rows(graph: Graph, node: Node) -> RowNode | None:
    """The operation by rows, or None if it has to see its input whole."""
    shape, o = node.out_shape, node.options
    size = graph.values[node.output].bytes
    runtime = [i for i, t in enumerate(node.inputs) if graph.values[t].data is None]
    pictures = all(len(node.in_shapes[i]) == 4 and node.in_shapes[i][0] == 1 for i in runtime)
    if not runtime or not pictures or node.states:
        return None
    if not all(graph.values[t].in_arena for t in (*(node.inputs[i] for i in runtime), node.output)):
        return None
    source, rows = node.inputs[runtime[0]], node.in_shapes[runtime[0]][1]
    if _pools_to_a_point(node):
        reads = Reads(source, runtime[0], rows)
        return RowNode(node, (reads,), rows, 1, size, accumulates=True)
    if len(shape) != 4 or shape[0] != 1:
        return None
    out_rows = shape[1]

    def made(*reads: Reads, in_place: tuple[int, ...] = ()) -> RowNode | None:
        if sum(r.taps for r in reads) > MAX_TAPS:
            return None
        return RowNode(node, reads, out_rows, out_rows, size // out_rows, in_place=in_place)

    if node.kind in ("conv", "depthwise", "average_pool", "max_pool") and not o.get("dense"):
        dilation = o.get("dilation", (1, 1))[0]
        return made(Reads(source, 0, rows, o["kernel"][0], o["stride"][0], o["pads"][0], dilation))
    if node.kind in ("add", "mul"):
        reads = [
            Reads(node.inputs[i], i, n := node.in_shapes[i][1], stride=int(n > 1)) for i in runtime
        ]
        return made(*reads, in_place=tuple(r.tensor for r in reads))
    if node.kind in ("table", "quantize", "dequantize"):
        return made(Reads(source, 0, rows), in_place=(source,))
    if node.kind == "softmax":
        return made(Reads(source, 0, rows), in_place=(source,))
    if node.kind in MOVES:
        moved = [moved_rows(node, copy) for copy in o["copies"]]
        pads = {m.source: m.pad for m in moved if m}
        if None in moved or any(m and pads[m.source] != m.pad for m in moved):
            return None
        return made(
            *(Reads(t, i, node.in_shapes[i][1], pad=pads[i]) for i, t in enumerate(node.inputs))
        )
    if node.kind == "resize":
        return made(Reads(source, 0, rows, map=tuple(o["rows"])))
    return None


@dataclasses.dataclass(frozen=True)
class MovedRows:
    """A copy that takes rows to rows: output row y comes from row y - ``pad`` of the input.

    Attributes:
        runs: (elements, step in the input, step in the output) of each dimension within a row.
        in_at, out_at: first element within a row.
    """

    source: int
    pad: int
    runs: tuple[tuple[int, int, int], ...]
    in_at: int
    out_at: int


def moved_rows(node: Node, copy: Copy) -> MovedRows | None:
    """The copy by rows, or None if it mixes them, or takes some of the middle only."""
    shape, into = node.in_shapes[copy.source], node.out_shape
    if len(shape) != 4 or shape[0] != 1 or len(into) != 4:
        return None
    in_row, out_row = shape[2] * shape[3], into[2] * into[3]
    runs, count = [], 1
    for n, a, b in zip(copy.shape, copy.in_steps, copy.out_steps, strict=True):
        inner = n if n * b <= out_row else max(1, out_row // max(1, b))
        if n > inner:  # this dimension walks over rows
            if count > 1 or n % inner or (inner * a, inner * b) != (in_row, out_row):
                return None
            count = n // inner
        if inner > 1:
            runs.append((inner, a, b))
    (top, in_at), (first, out_at) = divmod(copy.in_at, in_row), divmod(copy.out_at, out_row)
    inside = all(
        at + sum((run[0] - 1) * run[i] for run in runs) < row
        for at, i, row in ((in_at, 1, in_row), (out_at, 2, out_row))
    )
    begins, ends = min(top, first) == 0, top + count == shape[1] or first + count == into[1]
    if not (inside and begins and ends):
        return None
    return MovedRows(copy.source, first - top, tuple(runs), in_at, out_at)


def _pools_to_a_point(node: Node) -> bool:
    """Whether all rows and columns become one pixel, so that rows may be summed as they come."""
    o, shape = node.options, node.in_shapes[0]
    if node.kind == "reduce":
        return tuple(o["axes"]) == (1, 2)
    if node.kind not in ("average_pool", "max_pool") or o["size"] != (1, 1):
        return False
    return o["pads"] == (0, 0) and o["kernel"] == tuple(shape[1:3])


@dataclasses.dataclass(frozen=True)
class Ring:
    """Bytes that the tensors of a stretch need: ``depth`` slots of ``row_bytes``. Several tensors
    share a ring where each is written over the one before, row on row."""

    tensors: tuple[int, ...]
    depth: int
    row_bytes: int

    @property
    def bytes(self) -> int:
        return self.depth * self.row_bytes


class Order:
    """The row calls of nodes that end with ``nodes[-1]``, made on demand.

    A stretch that begins later makes the same calls without those of the earlier nodes, so one
    order serves all stretches that end here.

    Attributes:
        calls: (index in ``nodes``, call) one after the other.
        begin: first node that a stretch may begin with: from there on all who read a tensor agree
            on its rows.
    """

    def __init__(self, graph: Graph, nodes: Sequence[RowNode], kept: set[int]) -> None:
        """``kept``: tensors that are read after the stretch, so that all their rows are made."""
        self.nodes = nodes
        self.row_bytes = {
            r.tensor: graph.values[r.tensor].bytes // r.rows for n in nodes for r in n.reads
        }
        self.producer = {n.node.output: i for i, n in enumerate(nodes)}
        self.begin = max(
            (
                self.producer[r.tensor] + 1
                for n in nodes
                for r in n.reads
                if r.tensor in self.producer and nodes[self.producer[r.tensor]].rows != r.rows
            ),
            default=0,
        )
        self.calls: list[tuple[int, int]] = []
        self.time: list[list[int]] = [[] for _ in nodes]
        """Of every call of every node: its place in ``calls``."""
        if self.begin >= len(nodes):
            return
        last = nodes[-1]
        for call in range(last.calls):
            self._make(len(nodes) - 1, call + 1)
        for tensor in kept & self.producer.keys():
            index = self.producer[tensor]
            if index >= self.begin:
                self._make(index, nodes[index].calls)
        self.last_read = self._last_reads()

    def _make(self, target: int, upto: int) -> None:
        stack = [(target, upto)]
        while stack:
            index, upto = stack[-1]
            done = len(self.time[index])
            if done >= upto:
                stack.pop()
                continue
            for reads in self.nodes[index].reads:
                producer = self.producer.get(reads.tensor, -1)
                if producer < self.begin:
                    continue
                first, high = reads.span(done)
                wanted = self.nodes[producer].calls_for(high) if first <= high else 0
                if len(self.time[producer]) < wanted:
                    stack.append((producer, wanted))
                    break
            else:
                self.time[index].append(len(self.calls))
                self.calls.append((index, done))

    def _last_reads(self) -> dict[int, np.ndarray]:
        """Tensor -> time after which row r and all before it are read no more (-1: never read)."""
        found: dict[int, np.ndarray] = {}
        for index in range(self.begin, len(self.nodes)):
            times = self.time[index]
            for reads in self.nodes[index].reads:
                last = found.setdefault(reads.tensor, np.full(reads.rows, -1))
                for call, time in enumerate(times):
                    low, high = reads.span(call)
                    if low <= high:
                        last[low : high + 1] = np.maximum(last[low : high + 1], time)
        return {tensor: np.maximum.accumulate(last) for tensor, last in found.items()}

    def depth(self, members: Sequence[int]) -> int:
        """Slots of a ring that holds ``members``, tensors of which each is written over the one
        before."""
        first, last = (self.producer[members[0]], self.producer[members[-1]])
        node = self.nodes[first]
        if node.accumulates:
            return 1
        written = np.array(self.time[first])
        dead = self.last_read.get(members[-1], np.full(len(written), -1))[: len(written)]
        own = np.array(self.time[last])  # a row lives at least until it is whole
        dead = np.maximum.accumulate(np.maximum(dead[: len(own)], own[: len(dead)]))
        if len(dead) < len(written):  # written, and never taken over
            dead = np.append(dead, np.maximum(written[len(dead) :], dead[-1] if len(dead) else 0))
        # row r is written when all rows up to r - depth are dead
        oldest = np.searchsorted(dead, written, side="left")
        return int((np.arange(len(written)) - oldest).max()) + 1

    def lead(self, tensor: int, members: Sequence[int]) -> int:
        """How many bytes ``tensor``, whole before the stretch, must start above the output that
        ``members`` write, so that no row is overwritten before its last reading is over."""
        first = self.producer[members[0]]
        node, last = self.nodes[first], self.last_read[tensor]
        written = np.array(self.time[first])
        rows = (
            np.arange(1, len(written) + 1) if not node.accumulates else np.ones(len(written), int)
        )
        unread = np.searchsorted(last, written, side="left")
        row_bytes = self.row_bytes[tensor]
        waiting = unread < len(last)
        return int((rows * node.row_bytes - unread * row_bytes)[waiting].max(initial=-(1 << 40)))

    def taken_over(self, kept: set[int]) -> dict[int, int]:
        """Tensor -> tensor that is written over it, row on row: whoever reads it alone may."""
        readers: dict[int, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for reads in node.reads:
                readers.setdefault(reads.tensor, []).append(index)
        found: dict[int, int] = {}
        for index, node in enumerate(self.nodes):
            fitting = [
                t
                for t in node.in_place
                if readers[t] == [index]
                and t not in kept
                and (p := self.producer.get(t)) is not None
                and not self.nodes[p].accumulates
                and (self.nodes[p].rows, self.nodes[p].row_bytes) == (node.rows, node.row_bytes)
            ]
            if fitting:  # the one made last waits least
                found[max(fitting, key=lambda t: self.producer[t])] = node.node.output
        return found
