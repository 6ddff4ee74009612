"""Constant folding and dead-code elimination by channels, with interval arithmetic.

Invariant: no byte of any output changes, and inputs and outputs keep their shapes. A channel is
constant where no reachable accumulator, padding included, moves its output by one step. It is
removed, with the weights that make and read it, where every reader can do without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from micronets_jax.compile import arithmetic
from micronets_jax.compile.copies import SOURCE, copies, positions
from micronets_jax.compile.graph import MOVES, Folding, Graph, Node


class Range(NamedTuple):
    """Lowest and highest value of every channel, the last axis of a tensor; int64 [channels]."""

    low: np.ndarray
    high: np.ndarray

    @property
    def constant(self) -> np.ndarray:
        """Which channels have one value only: bool [channels]."""
        return self.low == self.high

    def seen(self, channels: int) -> Range:
        """The same bytes under a shape whose last axis has ``channels``."""
        if channels % len(self.low) == 0:
            repeats = channels // len(self.low)
            return Range(np.tile(self.low, repeats), np.tile(self.high, repeats))
        return Range(np.full(channels, self.low.min()), np.full(channels, self.high.max()))


def fold(graph: Graph) -> Graph:
    """Removes constant and unread channels, in place, and notes in ``graph.foldings`` what went.

    Every convolution gets two options, :class:`Range` of its output channels: ``sums``, of the
    accumulators, and ``reach``, of the outputs."""
    ranges = reachable(graph)
    owners = {node.output: _owners(node) for node in graph.nodes}
    kept = _kept(graph, ranges, owners)
    for node in graph.nodes:
        _cut(graph, node, owners[node.output], ranges, kept)
    graph.nodes = [node for node in graph.nodes if kept[node.output].any()]
    for tensor, channels in kept.items():
        if not channels.all():
            value = graph.values[tensor]
            shape = (*value.shape[:-1], int(channels.sum()))
            graph.values[tensor] = dataclasses.replace(value, shape=shape)
            graph.kept[tensor] = np.flatnonzero(channels)
    return graph


# Reachable values -------------------------------------------------------------------------------


def reachable(graph: Graph) -> dict[int, Range]:
    """The values that every channel of every tensor can take, whatever the inputs are."""
    ranges: dict[int, Range] = {}
    for tensor in (*graph.inputs, *(value.tensor for value in graph.states)):
        ranges[tensor] = _anything(graph, tensor)
    for node in graph.nodes:
        for tensor in node.inputs:
            data = graph.values[tensor].data
            if data is not None and tensor not in ranges:
                rows = data.reshape(-1, _channels(data.shape)).astype(np.int64)
                ranges[tensor] = Range(rows.min(axis=0), rows.max(axis=0))
        reach, channels = _REACH.get(node.kind), _channels(node.out_shape)
        inputs = [
            ranges[tensor].seen(_channels(shape))
            for tensor, shape in zip(node.inputs, node.in_shapes, strict=True)
        ]
        if reach is None or graph.values[node.output].is_state:
            found = _anything(graph, node.output)
        else:
            found = reach(graph, node, inputs)
            found = Range(*(np.broadcast_to(x, channels) for x in found))
        ranges[node.output] = found.seen(_channels(graph.values[node.output].shape))
    return ranges


def _channels(shape: tuple[int, ...]) -> int:
    return shape[-1] if shape else 1


def _anything(graph: Graph, tensor: int) -> Range:
    value = graph.values[tensor]
    low, high = {"uint8": (0, 255), "bool": (0, 1)}.get(value.dtype, (-128, 127))
    channels = _channels(value.shape)
    return Range(np.full(channels, low), np.full(channels, high))


def _clamped(node: Node, *values: np.ndarray) -> Range:
    clamped = [np.clip(v, node.options["min"], node.options["max"]) for v in values]
    return Range(np.minimum.reduce(clamped), np.maximum.reduce(clamped))


def _convolution(graph: Graph, node: Node, inputs: list[Range]) -> Range:
    """Outputs from sums: rounding is monotone, so the ends of the sums give those of the outputs.
    Sums beyond 32 bits, which wrap, are taken to give anything."""
    o = node.options
    o["sums"] = sums = _sums(graph, node, inputs[0])
    zero_out = graph.values[node.output].zero_point
    found = _clamped(
        node,
        *(arithmetic.scale_array(x, o["multiplier"], o["exponent"]) + zero_out for x in sums),
    )
    limit = np.int64(1) << (31 - np.maximum(o["exponent"], 0))
    wraps = (sums.low < -limit) | (sums.high >= limit)
    o["reach"] = Range(np.where(wraps, o["min"], found.low), np.where(wraps, o["max"], found.high))
    return o["reach"]


def _sums(graph: Graph, node: Node, x: Range) -> Range:
    """Of every output channel, the least and largest accumulator over all inputs and positions.

    Windows differ in which of their taps lie in the padding, and there are few ways to: one per
    distinct set of rows times one per distinct set of columns."""
    zero_point = graph.values[node.inputs[0]].zero_point
    weights = node.options["weights"].astype(np.int64)
    if node.kind == "depthwise":  # [count, rows, columns, 1], as a convolution has them
        weights = weights.transpose(3, 1, 2, 0)
    count, depth = len(weights), weights.shape[3]
    x = x.seen(depth) if node.kind == "conv" else x
    group = np.arange(count) // (count * depth // len(x.low))  # that an output channel reads
    read = group[:, None] * depth + np.arange(depth)
    low, high = (end[read][:, None, None, :] for end in x)
    inside = _inside(node).astype(np.int64)
    outside = zero_point * weights.sum(axis=3).reshape(len(weights), -1) @ (1 - inside).T
    bias = node.options["bias"] - zero_point * weights.sum(axis=(1, 2, 3))
    least, most = (
        (bias[:, None] + outside + end.sum(axis=3).reshape(len(weights), -1) @ inside.T)
        for end in (
            np.minimum(weights * low, weights * high),
            np.maximum(weights * low, weights * high),
        )
    )
    return Range(least.min(axis=1), most.max(axis=1))


def _inside(node: Node) -> np.ndarray:
    """Which taps of the kernel lie inside the picture: bool [distinct windows, taps]."""
    o = node.options
    if o.get("dense"):
        return np.ones((1, 1), bool)
    ways = []
    for axis in (0, 1):
        start = np.arange(o["size"][axis]) * o["stride"][axis] - o["pads"][axis]
        taps = start[:, None] + np.arange(o["kernel"][axis]) * o["dilation"][axis]
        ways.append(np.unique((taps >= 0) & (taps < node.in_shapes[0][1 + axis]), axis=0))
    rows, columns = ways
    both = rows[:, None, :, None] & columns[None, :, None, :]
    return both.reshape(len(rows) * len(columns), -1)


def _pool(graph: Graph, node: Node, inputs: list[Range]) -> Range:
    return _clamped(node, *inputs[0])


def _add(graph: Graph, node: Node, inputs: list[Range]) -> Range:
    o = node.options

    def output(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        scaled = [
            arithmetic.scale_array((v - graph.values[i].zero_point) << 20, *o[side])
            for v, i, side in zip((x, y), node.inputs, ("left", "right"), strict=True)
        ]
        total = scaled[0] - scaled[1] if o["subtract"] else scaled[0] + scaled[1]
        return arithmetic.scale_array(total, *o["result"]) + graph.values[node.output].zero_point

    return _clamped(node, *(output(x, y) for x in inputs[0] for y in inputs[1]))


def _mul(graph: Graph, node: Node, inputs: list[Range]) -> Range:
    zeros = [graph.values[i].zero_point for i in node.inputs]
    zero_out = graph.values[node.output].zero_point
    return _clamped(
        node,
        *(
            arithmetic.scale_array((x - zeros[0]) * (y - zeros[1]), *node.options["result"])
            + zero_out
            for x in inputs[0]
            for y in inputs[1]
        ),
    )


def _table(graph: Graph, node: Node, inputs: list[Range]) -> Range:
    """The least and largest entry between the ends of the input."""
    signed_in = graph.values[node.inputs[0]].dtype == "int8"
    kind = np.int8 if graph.values[node.output].dtype == "int8" else np.uint8
    entries = np.array(node.options["table"], np.uint8).view(kind).astype(np.int64)
    entries, first = (np.roll(entries, 128), -128) if signed_in else (entries, 0)
    parts = [entries[a - first : b - first + 1] for a, b in zip(*inputs[0], strict=True)]
    return Range(np.array([p.min() for p in parts]), np.array([p.max() for p in parts]))


def _reduce(graph: Graph, node: Node, inputs: list[Range]) -> Range:
    o, shape = node.options, node.in_shapes[0]
    if len(shape) - 1 in o["axes"] or len(node.out_shape) == 0:
        return _anything(graph, node.output)
    zero_in, zero_out = (graph.values[i].zero_point for i in (node.inputs[0], node.output))
    ends = [
        arithmetic.scale_array((x - zero_in) * o["count"], o["multiplier"], o["exponent"])
        for x in inputs[0]
    ]
    return Range(*(np.clip(x + zero_out, -128, 127) for x in ends))


def _move(graph: Graph, node: Node, inputs: list[Range]) -> Range:
    """Of every channel, all that is copied there, and what stands elsewhere."""
    source, channel = _origins(node)
    low, high = (np.full(channel.shape, fill) for fill in (1 << 20, -(1 << 20)))
    for position, x in enumerate(inputs):
        here = source == position
        low[here], high[here] = x.low[channel[here]], x.high[channel[here]]
    if (fill := node.options["fill"]) is not None:
        low[source < 0] = high[source < 0] = fill
    return Range(low.min(axis=0), high.max(axis=0))


def _origins(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """For each element of a move's output, [elements, channels], the input that it comes from, or
    -1, and its channel there."""
    found = positions(node.options["copies"], int(np.prod(node.out_shape)))
    source, channel = found >> SOURCE, found & ((1 << SOURCE) - 1)
    for position, shape in enumerate(node.in_shapes):
        channel[source == position] %= _channels(shape)
    shape = (-1, _channels(node.out_shape))
    return source.reshape(shape), channel.reshape(shape)


def _resize(graph: Graph, node: Node, inputs: list[Range]) -> Range:
    return inputs[0]


_REACH: dict[str, Callable[[Graph, Node, list[Range]], Range]] = {
    **dict.fromkeys(("conv", "depthwise", "grouped"), _convolution),
    **dict.fromkeys(("average_pool", "max_pool"), _pool),
    **dict.fromkeys(MOVES, _move),
    "add": _add, "mul": _mul, "table": _table, "reduce": _reduce, "resize": _resize,
}  # fmt: skip


# Liveness of channels ---------------------------------------------------------------------------


def _owners(node: Node) -> list[np.ndarray]:
    """For every input, the channel of it that each output channel comes from, or -1; nothing for a
    node that mixes channels."""
    count, depths = _channels(node.out_shape), [_channels(shape) for shape in node.in_shapes]
    if node.kind == "depthwise":
        return [np.arange(count) // (count // depths[0])]
    if node.kind in MOVES:
        return _runs(node)
    if node.kind == "reduce" and len(node.in_shapes[0]) - 1 in node.options["axes"]:
        return []
    if node.kind in ("average_pool", "max_pool", "add", "mul", "table", "reduce", "resize"):
        # a side of one channel is broadcast
        return [np.arange(count) if n == count else np.zeros(count, int) for n in depths]
    return []


def _runs(node: Node) -> list[np.ndarray]:
    """The owners of a move that copies channels in their order: those of each input stand side by
    side in the output."""
    source, channel = _origins(node)
    owners = []
    for position in range(len(node.inputs)):
        here = source == position
        owner = np.where(here, channel, -1).max(axis=0)
        own = np.flatnonzero(owner >= 0)
        if (here & (channel != owner)).any() or (source[:, own] >= 0)[~here[:, own]].any():
            return []
        if len(own) and (np.diff(own - owner[own]).any() or np.diff(own).max(initial=1) > 1):
            return []
        owners.append(owner)
    return owners


def _kept(
    graph: Graph, ranges: dict[int, Range], owners: dict[int, list[np.ndarray]]
) -> dict[int, np.ndarray]:
    """Of every tensor, which channels have to be stored: bool [channels]."""
    kept = {t: np.zeros(_channels(graph.values[t].shape), bool) for t in ranges}
    for tensor in [*graph.inputs, *graph.outputs, *(t for t in kept if _stays(graph, t))]:
        kept[tensor][:] = True
    before = -1
    while (now := sum(int(k.sum()) for k in kept.values())) > before:
        before = now
        for node in reversed(graph.nodes):
            _require(graph, node, owners[node.output], ranges, kept)
    return kept


def _stays(graph: Graph, tensor: int) -> bool:
    """Whether a tensor is a constant of the file or kept from one run to the next."""
    return not graph.values[tensor].in_arena


def _require(
    graph: Graph,
    node: Node,
    owners: list[np.ndarray],
    ranges: dict[int, Range],
    kept: dict[int, np.ndarray],
) -> None:
    """Adds to ``kept`` what ``node`` needs of its inputs, given what is kept of its output."""
    output = kept[node.output]
    if not output.any():
        return
    own = _own_view(graph, node)
    if not own:
        output[:] = True
    if node.kind == "conv":
        x, needed = node.inputs[0], _needed(graph, node, ranges, output)
        if len(needed) % len(kept[x]):
            kept[x][:] = True
        else:
            kept[x] |= needed.reshape(-1, len(kept[x])).any(axis=0)
        return
    known = own and bool(owners)
    if not known:
        output[:] = True
    for position, tensor in enumerate(node.inputs):
        if not known:
            kept[tensor][:] = True
        elif graph.values[tensor].data is None:
            owner = owners[position]
            kept[tensor][owner[(owner >= 0) & output]] = True
            # one channel here is one channel there: both sides keep it, or none
            if len(kept[tensor]) > 1:
                output |= (owner >= 0) & kept[tensor][owner]


def _own_view(graph: Graph, node: Node) -> bool:
    """Whether the channels that the node sees are those of the tensors that it names; of a
    convolution, which may see its input as it likes, only those of its output."""
    pairs = [(node.output, node.out_shape)]
    if node.kind != "conv":
        pairs += zip(node.inputs, node.in_shapes, strict=True)
    return all(_channels(graph.values[t].shape) == _channels(shape) for t, shape in pairs)


def _folds(graph: Graph, node: Node, x: Range) -> np.ndarray:
    """Input channels of a convolution that a bias can stand for. Padding brings the zero point, so
    another constant is not the same everywhere."""
    zero_point = graph.values[node.inputs[0]].zero_point
    return x.constant & ((x.low == zero_point) | _inside(node).all())


def _needed(graph: Graph, node: Node, ranges: dict[int, Range], output: np.ndarray) -> np.ndarray:
    """Input channels that a convolution has to read, as it sees them; at least one."""
    weights = node.options["weights"]
    folds = _folds(graph, node, ranges[node.inputs[0]].seen(weights.shape[3]))
    live = output & ~node.options["reach"].constant
    needed = (weights[live] != 0).any(axis=(0, 1, 2)) & ~folds
    needed[0] |= not needed.any()
    return needed


# Cutting ----------------------------------------------------------------------------------------


def _cut(
    graph: Graph,
    node: Node,
    owners: list[np.ndarray],
    ranges: dict[int, Range],
    kept: dict[int, np.ndarray],
) -> None:
    """Shapes, weights, copies and constant operands of a node, to what is kept."""
    output = kept[node.output]
    if node.kind in ("conv", "depthwise"):
        _cut_weights(graph, node, ranges, kept)
    elif not all(kept[t].all() for t in (node.output, *node.inputs)):
        stays = [kept[tensor] for tensor in node.inputs]
        for position, owner in enumerate(owners):
            value = graph.values[node.inputs[position]]
            if value.data is not None:
                stays[position] = np.isin(np.arange(len(stays[position])), owner[output])
                _cut_operand(graph, node, position, stays[position])
        if node.kind in MOVES:
            _cut_copies(node, stays, output)
    for position, tensor in enumerate(node.inputs):
        shape, own = node.in_shapes[position], len(kept.get(tensor, ()))
        if own and not kept[tensor].all() and _channels(shape) % own == 0:
            left = _channels(shape) // own * int(kept[tensor].sum())
            node.in_shapes[position] = (*shape[:-1], left)
    if not output.all():
        node.out_shape = (*node.out_shape[:-1], int(output.sum()))


def _cut_operand(graph: Graph, node: Node, position: int, channels: np.ndarray) -> None:
    """A constant operand becomes a tensor of its own, for others may read the whole of it."""
    value = graph.values[node.inputs[position]]
    assert value.data is not None
    data = value.data.reshape(node.in_shapes[position])[..., channels]
    node.inputs[position], node.in_shapes[position] = max(graph.values) + 1, data.shape
    graph.values[node.inputs[position]] = dataclasses.replace(value, shape=data.shape, data=data)


def _cut_copies(node: Node, stays: list[np.ndarray], output: np.ndarray) -> None:
    """Copies of what is kept; an input of which nothing is kept is no input any more."""
    found = positions(node.options["copies"], int(np.prod(node.out_shape)))
    source, at = found >> SOURCE, found & ((1 << SOURCE) - 1)
    for position, channels in enumerate(stays):
        here, rank = source == position, np.cumsum(channels) - 1
        pixel, channel = np.divmod(at[here], len(channels))
        at[here] = pixel * channels.sum() + rank[channel]
    found = np.where(source >= 0, (source << SOURCE) + at, -1).reshape(*node.out_shape)
    made = copies(found[..., output])
    used = sorted({copy.source for copy in made})
    node.options["copies"] = [dataclasses.replace(c, source=used.index(c.source)) for c in made]
    node.inputs = [node.inputs[i] for i in used]
    node.in_shapes = [node.in_shapes[i] for i in used]


def _cut_weights(
    graph: Graph, node: Node, ranges: dict[int, Range], kept: dict[int, np.ndarray]
) -> None:
    """Constant inputs go into the biases; outputs that are constant but kept need no weights."""
    o, output, x = node.options, kept[node.output], node.inputs[0]
    weights, constant = o["weights"], o["reach"].constant
    if node.kind == "depthwise":
        left = np.where(constant, 0, weights)[..., output]
    else:
        seen = ranges[x].seen(weights.shape[3])
        stays = np.ones(weights.shape[3], bool)
        if weights.shape[3] % len(kept[x]) == 0:
            stays = np.tile(kept[x], weights.shape[3] // len(kept[x]))
        gone = ~stays & seen.constant
        offsets = (seen.low - graph.values[x].zero_point)[gone]
        o["bias"] = o["bias"] + weights[..., gone].astype(np.int64).sum(axis=(1, 2)) @ offsets
        left = np.where(constant[:, None, None, None], 0, weights)[output][..., stays]
    live = left.size // max(1, int(output.sum())) * int((output & ~constant).sum())
    graph.foldings.append(
        Folding(
            node.operator, node.name, len(output), int(constant.sum()),
            int((~output & ~constant).sum()), weights.size, live, node.macs,
            node.macs // weights.size * left.size,
        )
    )  # fmt: skip
    node.macs = graph.foldings[-1].macs_left
    o["weights"] = left
    for name in ("bias", "multiplier", "exponent"):
        o[name] = o[name][output]
    for name in ("sums", "reach"):
        o[name] = Range(*(end[output] for end in o[name]))
