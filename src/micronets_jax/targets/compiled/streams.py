"""The least arena over plans of a network whose channels and blocks are not decided yet.

Invariant: what ``targets.compiled.rows`` plans for a decided network, written as arithmetic on its
channel counts. Rows do not depend on widths, so how many of them wait where is found once, while
tracing; what is left are sums of channels times rows, a step for every pair of cuts, and the
choice of cuts whose largest step is smallest.

It holds for networks that are one chain of layers, with layers that may be absent, and sums of
what a block reads and makes: all of our spaces. Rows of the image are the unit of all positions:
a row of a tensor ``2^level`` times smaller is ``2^level`` of them.

A tensor waits, whole or in a ring, for the layer that reads it, so its ring is counted there. A
stretch from cut b to cut e then holds the sum of the rings in between, and how far its first layer
is ahead of its last one is a sum too, of how many rows each kernel looks ahead.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from micronets_jax import kernels, memory
from micronets_jax.counts import Condition, Counts, align, is_soft, rounded, stacked, straight
from micronets_jax.kernels import ALIGNMENT
from micronets_jax.memory import Operator
from micronets_jax.network import INPUT, Count, Layer, Network, output_sizes, window
from micronets_jax.rows import MAX_TAPS, ByRows, Order, Reads
from micronets_jax.targets.compiled.memory import access, padded
from micronets_jax.windows import Window

_NEVER = 1 << 30


class Unit(NamedTuple):
    """A layer of the chain, or a sum with the zeros before it; counts are bytes. "Waiting" is said
    of rows that are kept for a later read.

    Attributes:
        presence: 0 where it does not run.
        rows, row, size: of what it reads (of a sum: what its block makes): how many rows, bytes of
            each, bytes of all, padded.
        ring: bytes of the line buffer of its input within a stretch.
        sums: bytes of accumulators that live between its calls by rows.
        row_scratch, scratch: bytes of a call by rows, and of one on the whole tensor.
        overlap: bytes that its whole output shares with its input, if that dies.
        made, made_row: bytes of its output, padded, and of a row.
        calls, out_rows: by rows, and rows that they make: as many, or 1 if it accumulates.
        ahead: rows of its input that it needs beyond its stride, after every call.
        pad: rows of padding above.
        read_level, level: of input and output.
        streams: whether it goes by rows.
        block: of a sum, the unit that reads first what the sum reads last; else -1.
        short: of a sum: its other input, as ``row``, ``size``.
        waiting: of a sum: bytes of the ring of that.
        pads: presence of zeros behind the shortcut, and behind what the block makes.
    """

    presence: Count
    rows: int
    row: Count
    size: Count
    ring: Count
    sums: Count
    row_scratch: Count
    scratch: Count
    overlap: Count
    made: Count
    made_row: Count
    calls: int
    out_rows: int
    ahead: int
    pad: int
    read_level: int
    level: int
    streams: bool
    block: int = -1
    short: tuple[Count, Count] = (0, 0)
    waiting: Count = 0
    pads: tuple[Count, Count] = (0, 0)


def arena_bytes(network: Network) -> Count | None:
    """Bytes of the arena of the plan that needs least; None if the network is wired otherwise.

    Ints give an int, int32 the same inside ``jit``; floats that of the rounded network, and
    the slope of all that its largest step holds, in proportion. Where outputs lie over inputs step
    after step, and their offsets add up, a plan may need more (``rows.Steps.least``): that was seen
    of ten in 300 networks whose rows are a single pixel, 14 % at most.
    """
    chain = units(network)
    if chain is None or not is_soft(network):
        return None if chain is None else least(chain)[0]
    count, exact = len(chain), units(rounded(network))
    assert exact is not None
    value, place = least(exact)
    begins, ends = _tables(chain)
    end, begin = place // count, place % count
    whole = end < 0
    end = jnp.where(whole, place + count * count, end)
    begin = jnp.where(whole, end, begin)
    held = jnp.where(whole, 0.0, ends.rings[end] - begins.rings[begin])
    held = held + begins.alive[begin] + ends.made[end]
    return straight(held * jax.lax.stop_gradient(value / held), value)


def units(network: Network) -> list[Unit] | None:
    """The network as a chain; None if it is wired otherwise."""
    try:
        return _Chain(network).units
    except _Otherwise:
        return None


class _Otherwise(Exception):
    """The network is no chain of layers and sums."""


class _Chain:
    """Reads layers in order; ``current`` are the names under which the tensor at the cut that is
    reached may be known, ``cut`` of every tensor the unit behind it."""

    def __init__(self, network: Network) -> None:
        self.network, self.sizes, self.soft = network, output_sizes(network), is_soft(network)
        self.operators = {o.layer.name: o for o in memory.operators(network, reshapes=False)}
        self.units: list[Unit] = []
        self.current, self.cut = {INPUT}, {INPUT: 0}
        self.level = {INPUT: 0}
        self.sources: list[str] = []  # of every unit, what it reads
        self.sides: dict[str, tuple[str, Count]] = {}  # of a sum: tensor, presence of its zeros
        self.last = {name: i for i, layer in enumerate(network) for name in layer.inputs}
        for self.turn, layer in enumerate(network):
            self._take(layer)

    def _take(self, layer: Layer) -> None:
        source = layer.inputs[0]
        if layer.kind == "pad":
            self.sides[layer.name] = source, layer.presence
            return
        if layer.kind == "mix" and source in self.sides:
            self.sides[layer.name] = self.sides[source]
            return
        if layer.kind == "mix" or (layer.kind == "reshape" and source in self.current):
            if not {*layer.inputs} <= self.current:
                raise _Otherwise
            read_later = {name for name in self.current if self.last.get(name, -1) > self.turn}
            self._known(layer.name, self.level[source], {layer.name} | read_later)
            return
        if layer.kind == "add":
            self._sum(layer)
        elif source in self.current:
            self.units.append(self._unit(layer))
        else:
            raise _Otherwise
        self.sources.append(source)
        always = isinstance(layer.presence, int)
        self._known(
            layer.name, self.units[-1].level, {layer.name} | (set() if always else self.current)
        )

    def _known(self, name: str, level: int, current: set[str]) -> None:
        self.current, self.cut[name], self.level[name] = current, len(self.units), level

    def _unit(self, layer: Layer) -> Unit:
        operator, walked = self.operators[layer.name], window(layer, self.sizes)
        level = self.level[layer.inputs[0]]
        scratch, order = access(operator, walked)
        size, made = padded(operator.in_bytes[0]), padded(operator.out_bytes)
        row = input_row_bytes(self.network, operator, self.sizes)
        added = map_rows(self.network, operator, self.sizes)
        point, rows = added > 0, added or walked.size[0]
        stride, calls = (1, rows) if point else (walked.stride[0], walked.out[0])
        taps, pad = (1, 0) if point else (walked.kernel[0], walked.before[0])
        if stride not in (1, 2) or stride * calls + taps - pad - stride < rows:
            raise _Otherwise
        streams = point or (layer.kind != "dense" and taps <= MAX_TAPS)
        depth = _depth(rows, taps, stride, pad, calls) if streams else 0
        return Unit(
            layer.presence, rows, row, size, padded(depth * row),
            padded(sum_bytes(operator)) if point else 0,
            0 if point else padded(row_scratch(operator, walked)), padded(scratch),
            0 if order is None or self.soft else order.overlap(size, made), made,
            operator.out_bytes if point else walked.out[1] * layer.out_channels,
            calls, 1 if point else calls, taps - pad - stride, pad, level,
            level + (stride == 2), streams,
        )  # fmt: skip

    def _sum(self, layer: Layer) -> None:
        (first, zeros), (second, more) = (self.sides.get(name, (name, 0)) for name in layer.inputs)
        ways = [o for o in (first, second) if o in self.current]
        if second not in ways or first not in self.cut or first == second:
            raise _Otherwise
        begin = self.cut[first]
        branch = self.units[begin:]
        plain = all(u.streams and u.read_level == u.level and u.block < 0 for u in branch)
        if not branch or not plain or self.sources[begin] != first:
            raise _Otherwise
        rows, columns = self.sizes[layer.name]
        head, last = branch[0], branch[-1]
        made = padded(rows * columns * layer.out_channels)
        waiting = 0
        for unit in branch:
            if unit.ahead:
                direct = unit is head or head.ahead > 0
                deep = [_lag(rows, unit.ahead, unit.pad, direct, way) for way in range(3)]
                lag = deep[0] + zeros * (deep[1] - deep[0]) + more * (deep[2] - deep[0])
                waiting = waiting + unit.presence * lag
        if all(unit.ahead == 0 for unit in branch):
            raise _Otherwise
        self.units[begin] = head._replace(ring=padded(waiting * head.row))
        self.units.append(
            Unit(
                layer.presence, rows, last.made_row, last.made,
                (zeros + more) * padded(last.made_row), 0, 0, 0, 0, made,
                columns * layer.out_channels, rows, rows, 0, 0, last.level, last.level, True,
                begin, (head.row, head.size), self.units[begin].ring, (zeros, more),
            )
        )  # fmt: skip


def map_rows(network: Network, operator: Operator, sizes: Mapping[str, tuple[int, int]]) -> int:
    """Rows of the map of which a layer makes one pixel by adding them up as they come: pooling, a
    dense layer over a map, a convolution with a kernel of its size; 0 of any other.

    Args:
        network: which the operator belongs to.
        operator: of its listing without reshapes.
        sizes: rows and columns of every tensor, see :func:`network.output_sizes`.
    """
    layer = operator.layer
    walked = window(layer, sizes)
    if layer.kind == "dense":
        size = sizes[operator.reads[0]]
        walked = Window(size, (1, 1), size, (1, 1), (0, 0), (1, 1))
    if layer.kind in ("conv", "dense"):
        return walked.size[0] if kernels.adds_up(walked) else 0
    pools = layer.kind == "avg_pool" and walked.out == (1, 1) and walked.kernel == walked.size
    return walked.size[0] if pools else 0


def input_row_bytes(
    network: Network, operator: Operator, sizes: Mapping[str, tuple[int, int]]
) -> Count:
    """Bytes of a row of what an operator reads first; arguments as of :func:`map_rows`."""
    source = operator.reads[0]
    if source == INPUT:
        return math.prod(network.input_shape[1:])
    if operator.layer.kind == "dense":  # which counts all that it reads as channels
        return sizes[source][1] * network[source].out_channels
    return sizes[source][1] * operator.layer.in_channels


def sum_bytes(operator: Operator) -> Count:
    """Bytes of the sums of a layer that adds up rows."""
    if operator.layer.kind == "avg_pool":
        return 4 * operator.out_bytes
    return kernels.row_sum_bytes(operator.layer.out_channels)


def row_scratch(operator: Operator, walked: Window) -> Count:
    """Bytes that a call by rows needs besides its rows."""
    layer = operator.layer
    if layer.kind == "conv":
        return kernels.conv_row_scratch(walked, layer.in_channels)
    if layer.kind == "depthwise":
        return kernels.depthwise_row_scratch(walked, layer.out_channels)
    return 0


@functools.lru_cache(maxsize=4096)
def _depth(rows: int, taps: int, stride: int, pad: int, calls: int) -> int:
    """Rows that wait for one layer, made when it asks for them."""
    nodes = [
        ByRows(1, (Reads(0, 0, rows),), rows, rows, 1),
        ByRows(2, (Reads(1, 0, rows, taps, stride, pad),), calls, calls, 1),
    ]
    return Order({0: rows, 1: rows}, nodes, {2}).depth([1])


@functools.lru_cache(maxsize=4096)
def _lag(rows: int, ahead: int, pad: int, direct: bool, way: int) -> int:
    """Rows of what a block reads that wait for its sum: without zeros, with zeros behind them
    (``way`` 1), or behind what the block makes (2)."""
    read = Reads(1, 0, rows, ahead + pad + 1, 1, pad)
    same = (Reads(0, 0, rows),)

    def node(output: int, *reads: Reads) -> ByRows:
        return ByRows(output, reads or same, rows, rows, 1)

    def of(tensor: int, position: int = 0) -> Reads:
        return Reads(tensor, position, rows)

    block = [node(1), node(2, read)]
    if not direct:
        block = [node(1), node(5, of(1)), node(2, dataclasses.replace(read, tensor=5))]
    if way == 0:
        nodes = [*block, node(4, of(1), of(2, 1))]
    elif way == 1:
        nodes = [*block, node(3, of(1)), node(4, of(3), of(2, 1))]
    else:
        nodes = [*block, node(3, of(2)), node(4, of(1), of(3, 1))]
    sizes = dict.fromkeys(range(6), rows)
    return Order(sizes, nodes, {4}).depth([1])


# ---------------------------------------------------------------- all steps


class Begins(NamedTuple):
    """What is known of a step by the cut at which it begins; arrays, [cuts].

    Attributes:
        rings: bytes of all rings of the units before, and of the first unit's.
        alive: bytes of whole tensors.
        dies: whether the tensor at the cut is read by the first unit alone.
        reader: the first unit that is present.
        size, row, level, pad, looked, last: of its input and of its calls, see :func:`_gain`.
        holder: a sum whose other input waits at the cut or is the tensor there.
        holds: whether there is one.
        short_size, short_row, short_level, short_looked, short_last: likewise, of the sum.
    """

    rings: Counts
    alive: Counts
    dies: Counts
    reader: Counts
    size: Counts
    row: Counts
    level: Counts
    pad: Counts
    looked: Counts
    last: Counts
    holder: Counts
    holds: Counts
    short_size: Counts
    short_row: Counts
    short_level: Counts
    short_looked: Counts
    short_last: Counts


class Ends(NamedTuple):
    """What is known of a step by the unit with which it ends; arrays, [units].

    Attributes:
        unit: its number.
        writer, previous: the last unit that is present, and the one before that.
        rings: bytes of all rings up to here.
        made, row, rows, level: of its output.
        looked: rows of the image that all units up to here look ahead.
        zeros: whether it is a sum with zeros behind its shortcut.
        plain: whether it is a sum without zeros.
        block, block_looked: the first unit of its block, if it is a sum, and ``looked`` before.
        more: bytes of a shortcut that is kept whole, beyond those of its ring, in steps that begin
            before ``more_before``.
        first: the first unit with which a stretch that ends here may begin.
        scratch: of a call by rows.
        whole: bytes of the step on whole tensors.
    """

    unit: Counts
    writer: Counts
    previous: Counts
    rings: Counts
    made: Counts
    row: Counts
    rows: Counts
    level: Counts
    looked: Counts
    zeros: Counts
    plain: Counts
    block: Counts
    block_looked: Counts
    more: Counts
    more_before: Counts
    first: Counts
    scratch: Counts
    whole: Counts


def _known(listed: Sequence[Unit]) -> bool:
    counts = (c for u in listed for c in (u.presence, u.made, u.row, *u.pads))
    return all(isinstance(count, int) for count in counts)


def _tables(listed: Sequence[Unit]) -> tuple[Begins, Ends]:
    """Both ends of all steps; counts are ints, int32 inside ``jit``, or floats."""
    count, at = len(listed), np.arange(len(listed))
    xp: ModuleType = np if _known(listed) else jnp
    column = np.asarray if xp is np else stacked

    def field(name: str) -> Counts:
        return column([getattr(unit, name) for unit in listed])

    present, made = field("presence"), field("made")
    writer = reader = at  # absent units are passed over
    behind = at[:, None] >= at
    decided = all(isinstance(unit.presence, int) for unit in listed)
    if not decided:
        some = jnp.round(present) > 0
        reader = jnp.min(jnp.where(behind.T & some[None], at[None], count - 1), axis=1)
        writer = jnp.max(jnp.where(behind & some[None], at[None], 0), axis=1)

    def begun(values: Counts) -> Counts:
        return values if decided else jnp.asarray(values)[reader]

    def ended(values: Counts) -> Counts:
        return values if decided else jnp.asarray(values)[writer]

    def summed(values: Counts) -> Counts:
        # A running sum compiles several times longer.
        rows = xp.where(behind, values[None], xp.zeros((), values.dtype))
        upto = rows.sum(axis=1, dtype=values.dtype)
        return xp.concatenate([xp.zeros(1, values.dtype), upto])

    ring, zeros, more = field("ring"), *(column([u.pads[i] for u in listed]) for i in (0, 1))
    rings = summed(present * (ring + field("sums")))
    read_level = np.asarray([unit.read_level for unit in listed])
    looked = summed(present * column([unit.ahead << unit.read_level for unit in listed]))
    levels = np.asarray([unit.level for unit in listed])
    last = np.asarray([unit.calls - 1 << unit.level for unit in listed])
    output = ended(made)
    current = xp.concatenate([column([listed[0].size])[:1].astype(output.dtype), output[:-1]])

    block = np.asarray([unit.block for unit in listed])
    holder = np.full(count, -1)
    for i, unit in enumerate(listed):
        if unit.block >= 0:
            holder[unit.block : i + 1] = i
    held, of = holder >= 0, np.maximum(holder, 0)
    starts = held & (at == block[of])
    waits = held & ~starts  # whole at the cut, beside the tensor there
    holds = held * present[of]
    row, size = (column([listed[k].short[i] for k in of]) for i in (0, 1))
    alive = current + waits * holds * size
    dies = 1 - starts * holds
    begins = Begins(
        rings[:-1] + begun(ring), alive, dies, reader, begun(field("size")), begun(field("row")),
        begun(read_level), begun(np.asarray([u.pad << u.read_level for u in listed])),
        begun(looked[1:]), begun(last), of, holds, size, row, levels[of], looked[1:][of],
        last[of],
    )  # fmt: skip

    is_sum = block >= 0
    kept = np.append(waits[1:], False)  # the shortcut is read behind a step that ends here
    following = np.append(of[1:], 0)
    beyond = column([listed[k].short[1] - listed[k].waiting for k in following])
    barrier = np.maximum.accumulate(np.where([u.streams for u in listed], 0, at + 1))
    overlap = xp.minimum(field("overlap"), made) * dies
    on_whole = xp.where(
        is_sum, alive + (zeros + more) * made, alive + made + field("scratch") - overlap
    )
    ends = Ends(
        at, writer, ended(at - 1), rings[1:], output, ended(field("made_row")),
        ended(np.asarray([u.out_rows for u in listed])), ended(levels), looked[1:],
        ended(zeros * is_sum), ended((1 - zeros - more) * is_sum), ended(np.maximum(block, 0)),
        ended(looked[np.maximum(block, 0)]), kept * holds[following] * beyond, block[following],
        barrier, present * field("row_scratch"), present * on_whole,
    )  # fmt: skip
    return begins, ends


def _gain(
    end: Ends,
    own: Condition,
    reader: Counts,
    size: Counts,
    row: Counts,
    level: Counts,
    pad: Counts,
    looked: Counts,
    last: Counts,
    xp: ModuleType,
) -> Counts:
    """Bytes of a dying input over which a stretch's output may lie.

    Whatever is unread when row n of the output is written must lie above that row. Both grow
    evenly, so the first row that is written while some are unread decides, the last such one, or
    the one from which on the padding above is read.

    Args:
        end: the unit with which the stretch ends.
        own: whether the unit that reads the input last writes the output in the same calls.
        reader: place in the chain of the unit that reads the input last.
        size: bytes of the input.
        row: bytes of a row of the input.
        level: of the input: its row is ``2^level`` rows of the image.
        pad: rows of padding above the reader's input.
        looked: rows of the image that all units up to the reader look ahead.
        last: the reader's last call.
        xp: NumPy, or jax.numpy for traced counts.
    """
    late = own | (end.zeros > 0)  # the output's row is there before its last readings
    delta, ahead, one = xp.where(late, 1, 0), end.looked - looked, 1 << end.level
    upstream = xp.where(reader < end.block, one + end.block_looked - looked, 0)
    first = xp.where(own, 0, xp.where(end.zeros > 0, upstream, one + ahead))
    most = xp.minimum(((last - ahead) >> end.level) + delta, end.rows)
    latest = xp.maximum(most, 1)

    def lead(rows: Counts, position: Counts) -> Counts:
        return rows * end.row - (xp.maximum(0, position - pad) >> level) * row

    def later(rows: Counts) -> Counts:
        return lead(rows, ((rows - delta) << end.level) + ahead)

    leads = xp.maximum(lead(1, first), later(latest))
    if not (isinstance(pad, int) and pad == 0):
        bend = xp.clip(((pad - ahead) >> end.level) + delta, 1, latest)
        leads = xp.maximum(leads, xp.where(bend > 1, later(bend), leads))
        leads = xp.maximum(leads, later(xp.minimum(bend + 1, latest)))
    leads = xp.where(most < 1, -_NEVER, leads)
    offset = align(xp.maximum(leads, -size - end.made), ALIGNMENT)
    joint = xp.maximum(end.made, size + xp.maximum(0, offset))
    return xp.maximum(0, size + end.made - joint)


def _streaming(begin: Begins, end: Ends, scratch: Counts, sums: bool, xp: ModuleType) -> Counts:
    """Bytes of the stretches with one end, by their beginning; much where there is none."""
    at = np.arange(len(begin.alive))
    own = (begin.reader == end.writer) | ((end.plain > 0) & (begin.reader == end.previous))
    gained = begin.dies * _gain(
        end, own, begin.reader, begin.size, begin.row, begin.level, begin.pad, begin.looked,
        begin.last, xp,
    )  # fmt: skip
    if sums:
        over = _gain(
            end, begin.holder == end.writer, begin.holder, begin.short_size, begin.short_row,
            begin.short_level, 0, begin.short_looked, begin.short_last, xp,
        )  # fmt: skip
        gained = xp.maximum(gained, over * begin.holds * (end.unit >= begin.holder))
    kept = end.more * (at < end.more_before)
    held = end.rings - begin.rings + end.made + kept + scratch + begin.alive
    there = (at <= end.unit) & (at >= end.first)
    return xp.where(there, held - xp.minimum(end.made, gained), _NEVER)


def least(listed: Sequence[Unit]) -> tuple[Count, Count]:
    """Bytes of the largest step, of the plan whose largest step is smallest; and which step that
    is: its first unit plus its last one times the number of units, or that many less for one on
    whole tensors.

    Ints, or int32 inside ``jit``.
    """
    begins, ends = _tables(listed)
    count, at = len(listed), np.arange(len(listed))
    sums = any(unit.block >= 0 for unit in listed)
    xp: ModuleType = np if _known(listed) else jnp

    def turn(state: tuple[Counts, Counts, Counts], end: Ends) -> tuple[Counts, Counts, Counts]:
        reached, places, scratch = state
        scratch = xp.where(at <= end.unit, xp.maximum(scratch, end.scratch), 0)
        streaming = _streaming(begins, end, scratch, sums, xp)
        steps = xp.maximum(reached[:-1], streaming)
        best = xp.maximum(reached[end.unit], end.whole)
        found = xp.minimum(best, steps.min())
        # The step that is this large: one before, or the one that ends here.
        begin = xp.argmin(steps)
        whole = best <= found
        own = xp.where(whole, end.unit - count * count, begin + count * end.unit)
        origin = xp.where(whole, end.unit, begin)
        place = xp.where(reached[origin] >= found, places[origin], own)
        here = np.arange(count + 1) == end.unit + 1
        return xp.where(here, found, reached), xp.where(here, place, places), scratch

    zeros = xp.zeros(count + 1, np.int32)
    state = zeros, zeros, zeros[:-1]
    if xp is np:
        for unit in range(count):
            state = turn(state, Ends(*(column[unit] for column in ends)))
        return int(state[0][-1]), int(state[1][-1])
    rows = Ends(*(jnp.asarray(column) for column in ends))
    reached, places, _ = jax.lax.scan(lambda s, end: (turn(s, end), None), state, rows)[0]
    return reached[-1], places[-1]
