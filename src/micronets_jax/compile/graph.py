"""The graph: a model as the few operations that kernels compute, after rewrites.

Invariant: a rewrite never changes a bit of any output. Reshapes become aliases, padding is fused
into the convolution behind it, functions of one byte are lookup tables and compose, and a table
that only clamps is fused into the operation before it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from micronets_jax.compile import arithmetic
from micronets_jax.tflite import Model


@dataclasses.dataclass
class Value:
    """A tensor at run time (``data`` None) or a constant operand; ``tensor`` is its index in the
    file. Values that are aliases share one ``root``: the value that owns the bytes."""

    tensor: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int
    data: np.ndarray | None = None
    initial: np.ndarray | None = None

    @property
    def is_state(self) -> bool:
        """Whether it is kept from one run to the next, in memory of its own; it begins as
        ``initial``."""
        return self.initial is not None

    @property
    def in_arena(self) -> bool:
        """Whether its bytes lie in the arena: it is neither a constant nor state."""
        return self.data is None and self.initial is None

    @property
    def elements(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.elements * self.item_bytes

    @property
    def item_bytes(self) -> int:
        """Bytes of an element."""
        return {"float32": 4, "int32": 4, "int16": 2}.get(self.dtype, 1)


@dataclasses.dataclass(frozen=True)
class Copy:
    """A strided copy of a part of one input into a part of the output, in elements.

    Attributes:
        source: which input of the node.
        shape: elements along each dimension.
        in_steps, out_steps: from one element to the next, along each dimension.
        in_at, out_at: the first element.
    """

    source: int
    shape: tuple[int, ...]
    in_steps: list[int]
    in_at: int
    out_steps: list[int]
    out_at: int


MOVES = frozenset(
    ["copy", "slice", "split", "concatenation", "gather", "pad", "transpose", "space_to_batch",
     "batch_to_space", "read_state", "write_state"]
)  # fmt: skip
"""Kinds of nodes that only copy: ``copies`` says what, ``fill`` what stands elsewhere."""


@dataclasses.dataclass
class Node:
    """One operation: ``kind`` is a name in ``kernels``; ``options`` are that kind's parameters.
    Shapes are those the operator sees: the tensors named are roots, whose own shape may be
    another."""

    kind: str
    inputs: list[int]  # tensor indices of roots
    output: int
    options: dict[str, Any]
    operator: int  # index in the file
    name: str
    macs: int = 0
    in_shapes: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    out_shape: tuple[int, ...] = ()
    states: list[int] = dataclasses.field(default_factory=list)  # what it reads and writes anew


@dataclasses.dataclass(frozen=True)
class Folding:
    """What constant folding left of a layer with weights.

    Attributes:
        operator: index in the file.
        name: of the layer.
        channels: of its output.
        constant: of these, how many never change.
        unread: how many others no operation reads.
        weights: of the layer.
        weights_left: those that can change an output of the model.
        macs: multiply-accumulates of the layer.
        macs_left: those that are computed, constant channels of an output of the model included.
    """

    operator: int
    name: str
    channels: int
    constant: int
    unread: int
    weights: int
    weights_left: int
    macs: int
    macs_left: int

    @property
    def folded(self) -> bool:
        """Whether anything was removed."""
        return self.weights_left < self.weights or self.constant + self.unread > 0


@dataclasses.dataclass
class Graph:
    """A model as nodes in an order that can be executed.

    Attributes:
        roots: tensor -> the tensor that holds its bytes.
        kept: tensor -> which channels of the file's tensor are stored, where some are not.
        foldings: one per layer with weights, once constants have been folded.
    """

    values: dict[int, Value]
    nodes: list[Node]
    inputs: list[int]
    outputs: list[int]
    roots: dict[int, int]
    model: Model
    kept: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    foldings: list[Folding] = dataclasses.field(default_factory=list)

    def consumers(self, tensor: int) -> list[Node]:
        """The nodes that read a tensor."""
        return [node for node in self.nodes if tensor in node.inputs]

    @property
    def states(self) -> list[Value]:
        """What is kept from one run to the next, as far as a node uses it."""
        used = {t for node in self.nodes for t in (*node.inputs, *node.states, node.output)}
        return [v for t, v in self.values.items() if v.is_state and t in used]


def rewrite(graph: Graph) -> Graph:
    """Applies all rewrites, in place."""
    _remove_unused(graph)
    _fold_dilation(graph)
    _fold_padding(graph)
    _fold_tables(graph)
    _read_states_in_place(graph)
    _write_states_in_place(graph)
    return graph


# Rewrites ---------------------------------------------------------------------------------------


def _remove_unused(graph: Graph) -> None:
    """Nodes that no output and no state needs."""
    needed = {*graph.outputs, *(t for t, v in graph.values.items() if v.is_state)}
    for node in reversed(graph.nodes):
        if node.output in needed:
            needed.update(node.inputs)
    graph.nodes = [node for node in graph.nodes if node.output in needed]


def _fold_dilation(graph: Graph) -> None:
    """A convolution between space_to_batch and batch_to_space is one with dilation: each batch is
    every d-th row and column."""
    for before in [node for node in graph.nodes if node.kind == "space_to_batch"]:
        readers = graph.consumers(before.output)
        afters = graph.consumers(readers[0].output) if readers else []
        if (
            [len(readers), len(afters)] != [1, 1]
            or readers[0].kind not in ("conv", "depthwise", "grouped")
            or afters[0].kind != "batch_to_space"
        ):
            continue
        (conv,), (after,) = readers, afters
        o, start, end = conv.options, before.options["blocks"], after.options["blocks"]
        order = _rows_and_columns(before.out_shape, conv.in_shapes[0])
        if (
            not {before.output, conv.output}.isdisjoint(graph.outputs)
            or o.get("dense")
            or o["stride"] != (1, 1)
            or start.block != end.block
            or start.shape[0] != 1
            or order is None
        ):
            continue

        def pick(values, other, order=order):
            return tuple(other if i is None else values[i] for i in order)

        block = pick(start.block, 1)
        pads, crops = (pick([low for low, _ in x.borders], 0) for x in (start, end))
        o["pads"] = tuple(
            pad + d * own - crop
            for pad, d, own, crop in zip(pads, block, o["pads"], crops, strict=True)
        )
        o["dilation"] = tuple(d * own for d, own in zip(block, o["dilation"], strict=True))
        o["size"] = pick(after.out_shape[1:-1], 1)
        o["batch"] = 1
        conv.macs = o["size"][0] * o["size"][1] * o["weights"].size
        conv.inputs = list(before.inputs)
        conv.in_shapes = [(1, *pick(start.shape[1:-1], 1), conv.in_shapes[0][3])]
        conv.output, conv.out_shape = after.output, (1, *o["size"], conv.out_shape[3])
        graph.nodes.remove(before)
        graph.nodes.remove(after)


def _rows_and_columns(made: tuple[int, ...], seen: tuple[int, ...]) -> tuple | None:
    """Which spatial dimension of a tensor are rows and which columns (None: neither, it is one)
    where it is seen as a picture; None if that is not clear."""
    if (seen[0], seen[3]) != (made[0], made[-1]):
        return None
    if len(made) == 4:
        return (0, 1) if seen == made else None
    if seen[1:3] == (1, made[1]):
        return (None, 0)
    return (0, None) if seen[1:3] == (made[1], 1) else None


def _fold_padding(graph: Graph) -> None:
    """Rows and columns of padding become the padding of the convolutions that read them: both pad
    with the zero point, so the sums are the same."""
    for pad in [node for node in graph.nodes if node.kind == "pad"]:
        before: list[int] | None = pad.options["before"]
        shape, source = pad.out_shape, pad.in_shapes[0]
        readers = graph.consumers(pad.output)
        if before is None or not _same_scale(graph, pad.inputs[0], pad.output):
            continue
        spatial = (
            len(before) == 4
            and before[0] == before[3] == 0
            and (shape[0], shape[3]) == (source[0], source[3])
        )
        aliased = any(root == pad.output != alias for alias, root in graph.roots.items())
        if not spatial or aliased or pad.output in graph.outputs:
            continue
        if not all(node.kind in ("conv", "depthwise", "grouped") for node in readers):
            continue
        for node in readers:
            top, left = node.options["pads"]
            node.options["pads"] = (top + before[1], left + before[2])
            node.inputs, node.in_shapes = [pad.inputs[0]], [source]
        graph.nodes.remove(pad)


_CLAMPING = ("conv", "depthwise", "grouped", "average_pool", "max_pool", "add", "mul")


def _fold_tables(graph: Graph) -> None:
    """Tables compose, an identity is an alias, and a clamp goes into the operation before it."""
    changed = True
    while changed:
        changed = False
        producers = {node.output: node for node in graph.nodes}
        for node in graph.nodes:
            if node.kind != "table":
                continue
            source, table = node.inputs[0], node.options["table"]
            before = producers.get(source)
            if table == tuple(range(256)) and source not in graph.inputs:
                if node.output in graph.outputs and source in graph.outputs:
                    continue
                _replace(graph, node, source)
            elif before is None or len(graph.consumers(source)) > 1 or source in graph.outputs:
                continue
            elif before.kind == "table":
                first = before.options["table"]
                before.options["table"] = tuple(table[byte] for byte in first)
                before.output = node.output
                graph.nodes.remove(node)
            elif (
                before.kind in _CLAMPING
                and _same_scale(graph, source, node.output)
                and (bounds := _as_clamp(table))
            ):
                low, high = bounds
                o = before.options
                o["min"] = max(low, min(high, o["min"]))
                o["max"] = max(low, min(high, o["max"]))
                before.output = node.output
                graph.nodes.remove(node)
            else:
                continue
            changed = True
            break


def _read_states_in_place(graph: Graph) -> None:
    """A copy of a state is not made where it is read only before the state is written."""
    for node in [node for node in graph.nodes if node.kind == "read_state"]:
        source = node.inputs[0]
        later = graph.nodes[graph.nodes.index(node) :]
        written = next((i for i, n in enumerate(later) if n.output == source), len(later))
        if node.output in graph.outputs or any(node.output in n.inputs for n in later[written:]):
            continue
        if _same_scale(graph, source, node.output):
            _replace(graph, node, source)


def _write_states_in_place(graph: Graph) -> None:
    """A move whose result only becomes a state writes it there, if the old one is read no more."""
    for node in [node for node in graph.nodes if node.kind == "write_state"]:
        source, state = node.inputs[0], node.output
        before = next((n for n in graph.nodes if n.output == source), None)
        if before is None or before.kind not in MOVES or source in graph.outputs:
            continue
        later = graph.nodes[graph.nodes.index(before) : graph.nodes.index(node)]
        if graph.consumers(source) == [node] and not any(state in n.inputs for n in later):
            before.output = state
            graph.nodes.remove(node)


def _same_scale(graph: Graph, a: int, b: int) -> bool:
    x, y = graph.values[a], graph.values[b]
    return (x.scale, x.zero_point) == (y.scale, y.zero_point)


def _as_clamp(table: arithmetic.Table) -> tuple[int, int] | None:
    signed = [byte - 256 if byte > 127 else byte for byte in table]
    values = signed[128:] + signed[:128]
    low, high = values[0], values[-1]
    if low <= high and all(
        y == max(low, min(high, x)) for x, y in zip(range(-128, 128), values, strict=True)
    ):
        return low, high
    return None


def _replace(graph: Graph, node: Node, source: int) -> None:
    """Removes a node; the readers of its output read ``source``."""
    graph.nodes.remove(node)
    for other in graph.nodes:
        other.inputs = [source if i == node.output else i for i in other.inputs]
    graph.outputs = [source if i == node.output else i for i in graph.outputs]
    graph.roots = {
        alias: source if root == node.output else root for alias, root in graph.roots.items()
    }
