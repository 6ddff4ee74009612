"""Where tensors lie in the arena of TensorFlow Lite Micro (TFLM), and when.

Invariant: buffers that live at the same time do not overlap, and the highest end is to the byte
what TFLM's own planner reaches.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from micronets_jax.counts import align, is_soft, maximum, minimum, rounded, stacked, where
from micronets_jax.network import INPUT, Count, Layer, Network, consumers, output_sizes, prune

ALIGNMENT = 16
"""Bytes: each buffer starts at a multiple of it."""


# ---------------------------------------------------------------- operators of the exported file


class Operator(NamedTuple):
    """A layer as TFLite runs it.

    Attributes:
        layer: what it computes; ``layer.name`` is the tensor it makes.
        kind: TFLite's name of the operator.
        reads: names of the tensors read.
        in_bytes: int8 elements of each tensor read.
        out_bytes: int8 elements of the tensor made.
    """

    layer: Layer
    kind: str
    reads: tuple[str, ...]
    in_bytes: tuple[Count, ...]
    out_bytes: Count


def operators(network: Network, reshapes: bool = True) -> list[Operator]:
    """The operators of the exported file in order, absent ones and mixes' branches included.

    Reshaping a single pixel before a dense layer vanishes, as TFLite's converter has it; without
    ``reshapes`` so does any other, as where a reshaped tensor is the same bytes.
    """
    sizes, readers = output_sizes(network), consumers(network)
    elements: dict[str, Count] = {INPUT: math.prod(network.input_shape)}
    alias = {INPUT: INPUT}
    result = []
    for layer in network:
        source = layer.inputs[0]
        elements[layer.name] = math.prod(sizes[layer.name]) * layer.out_channels
        alias[layer.name] = layer.name
        if layer.kind == "mix":
            continue
        single_pixel = layer.kind == "reshape" and sizes[source] == (1, 1)
        kinds = {network[reader].kind for reader in readers[layer.name]}
        if (single_pixel and kinds == {"dense"}) or (layer.kind == "reshape" and not reshapes):
            alias[layer.name] = alias[source]
            continue
        reads = tuple(alias[name] for name in layer.inputs)
        result.append(
            Operator(
                layer,
                _KINDS[layer.kind],
                reads,
                tuple(elements[name] for name in reads),
                elements[layer.name],
            )
        )
    return result


_KINDS = {
    "conv": "CONV_2D",
    "depthwise": "DEPTHWISE_CONV_2D",
    "dense": "FULLY_CONNECTED",
    "avg_pool": "AVERAGE_POOL_2D",
    "reshape": "RESHAPE",
    "add": "ADD",
    "pad": "PAD",
}


def padded(size: Count) -> Count:
    """Bytes that a buffer of this size takes."""
    return align(size, ALIGNMENT)


def scratch_bytes(operator: Operator, cmsis_nn: bool = True) -> Count:
    """Working memory that an operator's kernel asks for: CMSIS-NN's on a Cortex-M with DSP, or the
    reference's, which unpacks 4-bit weights."""
    layer, (rows, columns) = operator.layer, operator.layer.kernel
    if not cmsis_nn:
        four = layer.weight_bits == 4 and layer.kind in ("conv", "depthwise")
        inputs = layer.in_channels if layer.kind == "conv" else 1
        return rows * columns * (inputs * layer.out_channels) if four else 0
    if layer.weight_bits == 4 and operator.kind == "CONV_2D" and layer.kernel != (1, 1):
        return 4 * rows * columns * layer.in_channels
    if layer.weight_bits == 4 and layer.kind == "depthwise":
        return 2 * rows * columns * layer.in_channels
    if operator.kind == "AVERAGE_POOL_2D":
        return 4 * layer.in_channels  # an int32 sum per channel
    if operator.kind == "CONV_2D" and layer.kernel != (1, 1):
        return 4 * align(rows * columns * layer.in_channels, 4)  # two columns in int16
    if layer.kind == "depthwise" and layer.kernel != (3, 3):
        return 2 * rows * columns * layer.in_channels  # the kernel in int16
    return 0


# ---------------------------------------------------------------- where the planner puts buffers


def head_bytes(network: Network, scratch: bool) -> Count:
    """Bytes of the arena's head, where tensors and scratch are: the planner's highest end.

    ``scratch`` says whether kernels ask for working memory as those of CMSIS-NN do, or as the
    reference's, for 4-bit weights only. The layout depends on the order of sizes, so it has no
    useful slope: floats get the head of the rounded network and the slope of the most bytes alive
    at once.
    """
    if not is_soft(network):
        return _head(network, scratch)

    def work(operator: Operator) -> Count:
        return scratch_bytes(operator, scratch)

    peak, head = peak_bytes(network, work), _head(network, scratch)
    return peak + jax.lax.stop_gradient(head - peak).astype(peak.dtype)


class Buffer(NamedTuple):
    """A stretch of the arena: ``name`` is a tensor, or an operator's scratch.

    It lives from operator ``first`` to operator ``last``, both included; ``latest`` is the greatest
    that ``last`` can be, whatever is decided.
    """

    name: str
    bytes: Count
    first: int
    last: Count
    latest: int
    presence: Count


def _head(network: Network, scratch: bool) -> Count:
    if is_chain(network) and _scratch_is_small(network, scratch):
        return _chain_head(rounded(network), scratch)
    start, size = _planned(_claims(network, scratch))
    head = (start + size).max()
    return int(head) if isinstance(head, np.integer) else head


def peak_bytes(
    network: Network,
    scratch: Callable[[Operator], Count],
    rounding: Callable[[Count], Count] = padded,
) -> Count:
    """Live bytes of the operator that has most: what it reads, makes and works with, and what waits
    for a later reader; ``rounding`` gives what a buffer of some bytes takes."""
    xp, column = _columns(all(isinstance(leaf, int) for leaf in jax.tree.leaves(network)))
    listed = operators(network)
    if is_chain(network):
        outputs, inputs = [o.out_bytes for o in listed], [o.in_bytes[0] for o in listed]
        tensors = [rounding(column(outputs)), rounding(column(inputs))]
    else:
        tensors = [alive(tensors_of(network, listed), len(listed), rounding)]
    live = sum(tensors, rounding(column([scratch(operator) for operator in listed])))
    peak = xp.max(live * column([operator.layer.presence for operator in listed]))
    return int(peak) if xp is np else peak


def alive(tensors: list[Buffer], turns: int, rounding: Callable[[Count], Count]) -> Any:
    """Bytes of the tensors alive while each operator runs, [turns]."""
    xp, column = _columns(all(isinstance(v, int) for tensor in tensors for v in tensor[1:]))
    size = rounding(column([t.bytes for t in tensors])) * column([t.presence for t in tensors])
    last = column([t.last for t in tensors])
    turn = np.arange(turns)[:, None]
    alive = (np.asarray([t.first for t in tensors])[None] <= turn) & (turn <= last[None])
    return xp.sum(xp.where(alive, size[None], 0), axis=1)


def _columns(known: bool) -> tuple[Any, Callable[[list[Count]], Any]]:
    """The array library for known or traced counts, and what makes one array of many."""
    return (np, np.asarray) if known else (jnp, stacked)


def buffers(network: Network, scratch: bool) -> list[Buffer]:
    """Everything that the planner places, in the order in which it is told: tensors, then scratch.

    Any wiring: a tensor lives until its last present reader, also where mixes rename it.
    """
    return [claim._replace(bytes=padded(claim.bytes)) for claim in _claims(network, scratch)]


def _claims(network: Network, scratch: bool) -> list[Buffer]:
    """:func:`buffers` before their bytes are padded."""
    listed = operators(network)
    result = tensors_of(network, listed)
    for i, operator in enumerate(listed):
        size = scratch_bytes(operator, scratch)
        if not (isinstance(size, int) and size == 0):
            name = f"{operator.layer.name} scratch"
            result.append(Buffer(name, size, i, i, i, operator.layer.presence))
    return result


def tensors_of(network: Network, listed: list[Operator]) -> list[Buffer]:
    """Tensors with their lives, before bytes are padded; times are positions in ``listed``."""
    makers = makers_of(network, {operator.layer.name for operator in listed})
    first = {INPUT: 0} | {o.layer.name: i for i, o in enumerate(listed)}
    sizes: dict[str, Count] = {INPUT: math.prod(network.input_shape)}
    presence = {INPUT: 1}
    last: dict[str, Count] = dict(first)
    latest = dict(first)
    for i, operator in enumerate(listed):
        sizes[operator.layer.name] = operator.out_bytes
        presence[operator.layer.name] = operator.layer.presence
        for name in operator.reads:
            for maker, share in makers[name].items():
                last[maker] = maximum([last[maker], i * operator.layer.presence * share])
                latest[maker] = i
    for maker, share in makers[network.layers[-1].name].items():
        last[maker] = maximum([last[maker], (len(listed) - 1) * share])
        latest[maker] = len(listed) - 1
    return [Buffer(n, sizes[n], first[n], last[n], latest[n], presence[n]) for n in first]


def makers_of(network: Network, made: set[str]) -> dict[str, dict[str, Count]]:
    """For each name, which tensors of those made it may stand for, each with 1 if it does, else
    0."""
    presence = {layer.name: layer.presence for layer in network}
    makers: dict[str, dict[str, Count]] = {INPUT: {INPUT: 1}}
    for layer in network:
        if layer.kind != "mix":
            known = layer.name in made
            makers[layer.name] = {layer.name: 1} if known else makers[layer.inputs[0]]
            continue
        first, second = layer.inputs
        makers[layer.name] = {
            name: presence[first] * makers[first].get(name, 0)
            + (1 - presence[first]) * makers[second].get(name, 0)
            for name in {**makers[first], **makers[second]}
        }
    return makers


def place(listed: list[Buffer]) -> list[Count]:
    """Where TFLM's greedy planner puts each buffer: its first byte.

    Buffers come largest first, of equals the one told last; each goes to the lowest gap among those
    already placed that live at the same time. The order depends on sizes, but who can live beside
    whom does not: traced sizes cost one pass per buffer over its few possible neighbours.
    """
    start, _ = _planned(listed)
    return [int(x) for x in start] if isinstance(start, np.ndarray) else list(start)


def _planned(listed: list[Buffer]) -> tuple[Any, Any]:
    """Start and padded size of each buffer, 0 of absent ones; floats are rounded."""
    xp, column = _columns(all(isinstance(v, int) for b in listed for v in b[1:]))

    def whole(counts: list[Count]) -> Any:
        array = column(counts)
        return array if xp is np else jax.lax.stop_gradient(jnp.round(array)).astype(jnp.int32)

    size = padded(whole([b.bytes for b in listed])) * whole([b.presence for b in listed])
    first, last = xp.asarray([b.first for b in listed]), whole([b.last for b in listed])
    near = xp.asarray(_neighbours(listed))
    order = len(listed) - 1 - xp.argsort(-size[::-1], stable=True)

    def step(turn: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        start, placed = state
        mine = order[turn]
        others = near[mine]
        begin, length = start[others], size[others]
        together = (first[mine] <= last[others]) & (first[others] <= last[mine])
        taken = placed[others] & together & (length > 0) & (others != mine)
        end = xp.where(taken, begin + length, 0)
        at = xp.append(end, 0)  # each end is a candidate, and so is the arena's start
        below, above = at[:, None] + size[mine] <= begin[None], at[:, None] >= end[None]
        clear = xp.all(below | above | ~taken[None], axis=1)
        lowest = xp.min(xp.where(clear, at, xp.sum(size)))
        if xp is jnp:
            return start.at[mine].set(lowest), placed.at[mine].set(True)
        start[mine], placed[mine] = lowest, True
        return start, placed

    state = xp.zeros_like(size), xp.zeros(len(listed), bool)
    if xp is jnp:
        return jax.lax.fori_loop(0, len(listed), step, state)[0], size
    for turn in range(len(listed)):
        state = step(turn, state)
    return state[0], size


def _neighbours(listed: list[Buffer]) -> np.ndarray:
    """For each buffer, those that may live beside it, [buffers, most]; itself where there are
    fewer."""
    first, latest = (np.asarray([getattr(b, name) for b in listed]) for name in ("first", "latest"))
    beside = (first[:, None] <= latest[None]) & (first[None] <= latest[:, None])
    np.fill_diagonal(beside, False)
    rows = [np.flatnonzero(row) for row in beside]
    table = np.repeat(np.arange(len(listed))[:, None], max(1, *map(len, rows)), axis=1)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


class _Placed(NamedTuple):
    """A stretch of the arena, from ``start`` to before ``end``, that others must avoid."""

    start: Count
    end: Count

    @property
    def size(self) -> Count:
        return self.end - self.start


_NOWHERE = _Placed(2**30, 0)
"""In nobody's way: all lie before its start, and it ends at once."""


def _chain_head(network: Network, scratch: bool) -> Count:
    """:func:`place` for a chain of operators, where a tensor meets only its two neighbours.

    The larger neighbour goes first, so a tensor's place follows from a run of ever larger ones on
    its left, another on its right, or both. One pass over the layers in each direction finds them,
    with no sorting: this is what makes a million architectures a second possible. Scratch comes
    last, which :func:`_scratch_is_small` allows.
    """
    listed = {operator.layer.name: operator for operator in operators(network)}
    size: dict[str, Count] = {INPUT: padded(math.prod(network.input_shape))}
    size |= {name: padded(operator.out_bytes) for name, operator in listed.items()}

    # From the output back: where each tensor lies if only its right neighbour is larger.
    right = dict.fromkeys(size, _NOWHERE)  # the next tensor, by the name of the one before
    for layer in reversed(network.layers):
        after = right.get(layer.name, _NOWHERE)
        if layer.kind == "mix":
            right |= dict.fromkeys(layer.inputs, after)
        elif layer.name in listed:
            own = size[layer.name]
            placed = _lowest(own, _if(after.size >= own, after))
            (source,) = listed[layer.name].reads
            right[source] = _select(layer.presence > 0, placed, right.get(source, _NOWHERE))

    # From the input on: likewise with the left neighbour, then both.
    own, after = size[INPUT], right[INPUT]
    left = {INPUT: _Placed(0, own)}
    final = {INPUT: _lowest(own, _if(after.size >= own, after))}
    ends = [final[INPUT].end]
    for layer in network:
        if layer.kind == "mix":
            first, second = layer.inputs
            kept = network[first].presence > 0
            for placed in (left, final):
                placed[layer.name] = _select(kept, placed[first], placed[second])
        elif layer.name in listed:
            operator, own = listed[layer.name], size[layer.name]
            (source,) = operator.reads
            before, after = left[source], right[layer.name]
            before = _if(before.size > own, before)
            left[layer.name] = _lowest(own, before)
            final[layer.name] = _lowest(own, before, _if(after.size >= own, after))
            ends.append(layer.presence * final[layer.name].end)
            room = padded(scratch_bytes(operator, scratch))
            if not (isinstance(room, int) and room == 0):
                both = final[source], final[layer.name]
                ends.append(layer.presence * _lowest(room, *both).end)
    return maximum(ends)


def is_chain(network: Network) -> bool:
    """Whether each tensor has one reader, not counting branches of which a mix takes one."""
    readers = consumers(network)
    allowed = dict.fromkeys(readers, 1)
    for layer in network:
        if layer.kind == "mix":
            branch = layer.inputs[1]
            only_here = branch != INPUT and len(readers[branch]) == 1
            if only_here and network[branch].kind != "mix":  # a layer that stands in for the block
                branch = network[branch].inputs[0]
            allowed[branch] += 1
        elif len(layer.inputs) > 1:
            return False
    return all(len(names) <= allowed[tensor] for tensor, names in readers.items())


def _scratch_is_small(network: Network, cmsis_nn: bool) -> bool:
    """Whether placing scratch after tensors comes to the same head, whatever is decided.

    It does where scratch is smaller than what its operator reads and makes: of the convolution that
    reads the network's input where one channel of either is larger, and of a pooling, with 4 bytes
    a channel, that reads more than 4 pixels and makes more than 4 or the vectors of the classifier,
    which are too small to matter.
    """
    sizes = output_sizes(network)
    areas = {name: math.prod(size) for name, size in sizes.items()}
    followers = {layer.name: network.layers[i:] for i, layer in enumerate(network)}
    for operator in operators(network):
        scratch, name = scratch_bytes(operator, cmsis_nn), operator.layer.name
        if isinstance(scratch, int) and scratch == 0:
            continue
        read, made = areas[operator.layer.inputs[0]], areas[name]
        if operator.kind == "AVERAGE_POOL_2D":
            vectors = all(areas[layer.name] == 1 for layer in followers[name])
            if read <= 4 or (made <= 4 and not vectors):
                return False
        elif not isinstance(scratch, int) or padded(scratch) >= padded(min(read, made)):
            return False
    return True


def _lowest(size: Count, a: _Placed, b: _Placed | None = None) -> _Placed:
    """The lowest place where ``size`` bytes overlap neither ``a`` nor ``b``."""
    if b is None:
        start = where(size <= a.start, 0, a.end)
        return _Placed(start, start + size)
    # Before both, else between them, else after both.
    first, low, high = minimum(a.start, b.start), minimum(a.end, b.end), maximum([a.end, b.end])
    second = where(a.end < b.end, b.start, a.start)
    start = where(size <= first, 0, where(low + size <= second, low, high))
    return _Placed(start, start + size)


def _if(condition: Any, placed: _Placed) -> _Placed:
    return _select(condition, placed, _NOWHERE)


def _select(condition: Any, a: _Placed, b: _Placed) -> _Placed:
    return _Placed(*(where(condition, x, y) for x, y in zip(a, b, strict=True)))


# ---------------------------------------------------------------- for people to look at


@dataclasses.dataclass(frozen=True)
class Block:
    """A tensor, or a kernel's scratch, in the arena.

    Attributes:
        name: the layer that made the tensor, ``"input"``, or ``"<layer> scratch"``.
        start: first byte.
        bytes: length, padded to 16.
        first: index of the operator that makes it.
        last: index of the last operator that reads it.
    """

    name: str
    start: int
    bytes: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Step:
    """An operator that runs: the layer's name, TFLite's kind, and the blocks alive meanwhile."""

    name: str
    kind: str
    live: tuple[Block, ...]

    @property
    def live_bytes(self) -> int:
        """Bytes of all blocks alive, gaps between them not counted."""
        return sum(block.bytes for block in self.live)


def timeline(network: Network, scratch: bool = True) -> tuple[Step, ...]:
    """What lies where while each operator of a decided network runs."""
    network = prune(network)
    listed = buffers(network, scratch)
    blocks = [
        Block(b.name, start, b.bytes, b.first, b.last)
        for b, start in zip(listed, place(listed), strict=True)
    ]
    return tuple(
        Step(
            operator.layer.name,
            operator.kind,
            tuple(block for block in blocks if block.first <= i <= block.last),
        )
        for i, operator in enumerate(operators(network))
    )
