"""Operations of a graph by rows: the receptive field of one row, as ``rows`` plans it.

Invariant: the rows that a call is said to read are those that its kernel in ``csrc`` reads.
"""

from __future__ import annotations

import dataclasses

from micronets_jax.compile.graph import MOVES, Copy, Graph, Node
from micronets_jax.compile.kernels import window_of
from micronets_jax.kernels import adds_up
from micronets_jax.rows import MAX_TAPS, ByRows, Reads
from micronets_jax.windows import Window


@dataclasses.dataclass(frozen=True)
class RowNode(ByRows):
    """A node by rows."""

    node: Node = dataclasses.field(kw_only=True)


def by_rows(graph: Graph, node: Node) -> RowNode | None:
    """The operation by rows, or None if it needs its input whole."""
    shape, o = node.out_shape, node.options
    size = graph.values[node.output].bytes
    runtime = [i for i, t in enumerate(node.inputs) if graph.values[t].data is None]
    if not runtime or node.states:
        return None
    rows = map_rows(graph, node)
    pictures = all(len(node.in_shapes[i]) == 4 and node.in_shapes[i][0] == 1 for i in runtime)
    if not rows and not pictures:
        return None
    if not all(graph.values[t].in_arena for t in (*(node.inputs[i] for i in runtime), node.output)):
        return None
    source, added = node.inputs[runtime[0]], rows > 0
    rows = rows or node.in_shapes[runtime[0]][1]
    if added or _pools_to_a_point(node):
        reads = Reads(source, runtime[0], rows)
        return RowNode(node.output, (reads,), rows, 1, size, accumulates=True, node=node)
    if len(shape) != 4 or shape[0] != 1:
        return None
    out_rows = shape[1]

    def made(*reads: Reads, in_place: tuple[int, ...] = ()) -> RowNode | None:
        if sum(r.taps for r in reads) > MAX_TAPS:
            return None
        row = size // out_rows
        return RowNode(node.output, reads, out_rows, out_rows, row, in_place=in_place, node=node)

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


def map_rows(graph: Graph, node: Node) -> int:
    """Rows of the map that a dense layer or a convolution makes one pixel of, which it may add up
    as they come; 0 of any other node."""
    o, source = node.options, node.inputs[0] if node.inputs else -1
    if node.kind != "conv" or o["size"] != (1, 1) or o.get("batch", 1) > 1:
        return 0
    if o.get("dense"):  # which sees its input flat: rows are those that were made
        maker = next((n for n in graph.nodes if n.output == source), None)
        shape = maker.out_shape if maker else graph.values[source].shape
        if len(shape) != 4 or shape[0] != 1:
            return 0
        window = Window(shape[1:3], (1, 1), shape[1:3], (1, 1), (0, 0), (1, 1))
    else:
        window = window_of(node, node.in_shapes[0][1:3])
    return window.size[0] if adds_up(window) else 0


def _pools_to_a_point(node: Node) -> bool:
    """Whether all rows and columns become one pixel, so that rows may be summed as they come."""
    o, shape = node.options, node.in_shapes[0]
    if node.kind == "reduce":
        return tuple(o["axes"]) == (1, 2)
    if node.kind not in ("average_pool", "max_pool") or o["size"] != (1, 1):
        return False
    return o["pads"] == (0, 0) and o["kernel"] == tuple(shape[1:3])
