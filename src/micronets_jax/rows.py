"""Computation by rows: receptive fields in rows, the order of row calls, and the least memory.

Invariant: the order of row calls, and the rows that each line buffer holds, follow from shapes,
strides and kernels alone; bytes are these counts times the bytes of a row. No row is made twice.

A stretch is a run of operations that computes row by row, driven by demand from its last tensor: an
operation makes a row when a later one needs it. A tensor that only the stretch reads is a ring (a
line buffer): row y lies in slot y mod depth. The compiler plans with this room, and the costs count
with it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from micronets_jax import kernels, overlays, planner
from micronets_jax.counts import align
from micronets_jax.kernels import ALIGNMENT, Turn
from micronets_jax.overlays import Addresses
from micronets_jax.planner import Buffer, Sharing

MAX_TAPS = 16
"""Most rows that one call may read: its pointers to them lie on the stack."""

MAX_NODES = 96
"""Most operations of one stretch, which bounds the time of planning."""


SKETCH = 4_000
"""Placements that laying out a choice of steps may try where many are compared."""


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
class ByRows:
    """An operation by rows: call c makes row c of ``rows``; or, if it ``accumulates``, all calls
    together make the only row.

    Attributes:
        output: the tensor that it makes.
        reads: of the inputs at run time.
        calls: how many make the whole output.
        row_bytes: of the output.
        in_place: inputs that the output may overwrite row by row.
    """

    output: int
    reads: tuple[Reads, ...]
    calls: int
    rows: int
    row_bytes: int
    accumulates: bool = False
    in_place: tuple[int, ...] = ()

    def calls_for(self, row: int) -> int:
        """Calls after which rows up to ``row`` are complete."""
        return self.calls if self.accumulates else row + 1


class Order:
    """The row calls of nodes that end with ``nodes[-1]``, made on demand.

    A stretch that begins later makes the same calls without those of the earlier nodes, so one
    order serves all stretches that end here.

    Attributes:
        calls: (index in ``nodes``, call) one after the other.
        begin: first node that a stretch may begin with: from there on all who read a tensor agree
            on its rows.
    """

    def __init__(self, sizes: Mapping[int, int], nodes: Sequence[ByRows], kept: set[int]) -> None:
        """``sizes``: bytes of tensors. ``kept``: those that are read after the stretch, so that all
        their rows are made."""
        self.nodes = nodes
        self.row_bytes = {r.tensor: sizes[r.tensor] // r.rows for n in nodes for r in n.reads}
        self.producer = {n.output: i for i, n in enumerate(nodes)}
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
        """int -> time after which row r and all before it are read no more (-1: never read)."""
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
        """Slots of a ring shared by ``members``, tensors of which each overwrites the one before
        row by row."""
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
        return int((np.arange(len(written)) - oldest).max(initial=-1)) + 1  # 0 of no row

    def lead(self, tensor: int, members: Sequence[int]) -> int:
        """Least distance in bytes from the start of the output that ``members`` write up to that of
        ``tensor``, whole before the stretch, such that no row is overwritten before it is read."""
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

    def access(self, begin: int, tensor: int, members: Sequence[int]) -> kernels.Order:
        """The order in which a stretch reads ``tensor``, whole before it, and writes ``members``.

        Args:
            begin: the stretch's first node.
            tensor: that it reads.
            members: the tensor that is made last, and those that lie where it will before it.
        """
        last = self.nodes[-1]
        spans = functools.partial(self._spans, begin, tensor, members)
        return kernels.Order(kernels.Steps(spans), self.row_bytes[tensor], last.row_bytes)

    def _spans(self, begin: int, tensor: int, members: Sequence[int]) -> kernels.Spans:
        """Rows that are read and rows that are written. A call writes before it has read
        everything, so its reads come as a step of their own."""
        nowhere, steps = kernels.NOWHERE, []
        for index, call in self.calls:
            node = self.nodes[index]
            if index < begin:
                continue
            row = 0 if node.accumulates else call
            written = (row, row + 1) if node.output in members else (nowhere, -1)
            spans = [r.span(call) for r in node.reads if r.tensor == tensor]
            low = min((a for a, b in spans if a <= b), default=nowhere)
            high = max((b + 1 for a, b in spans if a <= b), default=-1)
            steps += [(nowhere, -1, *written), (low, high, nowhere, -1)]
        return kernels.Spans(*np.array(steps).T)

    def taken_over(self, kept: set[int]) -> dict[int, int]:
        """Tensor -> the tensor that overwrites it row by row, made by its only reader."""
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
                found[max(fitting, key=lambda t: self.producer[t])] = node.output
        return found


# ---------------------------------------------------------------- programs of stretches


class Call(NamedTuple):
    """Memory of a call on whole tensors: scratch bytes, inputs in the arena, the output, and the
    order of access by input."""

    scratch: int
    inputs: tuple[int, ...]
    output: int
    orders: Mapping[int, kernels.Order]


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a program, as its memory sees it.

    Attributes:
        inputs: tensors in the arena.
        calls: on whole tensors; none of rows that are pushed.
        by_rows: None if it has to see its input whole.
        row_scratch: bytes that one call by rows needs besides its rows.
        sum_bytes: bytes that wait between calls by rows, where they accumulate.
    """

    output: int
    inputs: tuple[int, ...]
    calls: tuple[Call, ...]
    by_rows: ByRows | None
    row_scratch: int = 0
    sum_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Ring:
    """Bytes that the tensors of a stretch need: ``depth`` slots of ``row_bytes``. Several tensors
    share a ring where each is written over the one before, row on row."""

    tensors: tuple[int, ...]
    depth: int
    row_bytes: int

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.depth * self.row_bytes


class Lines(NamedTuple):
    """What a stretch holds while it runs, and how it uses what is whole.

    Attributes:
        rings: what only the stretch needs.
        local: name and bytes of what lives during the stretch alone: rings, sums, scratch.
        inputs: tensors that were whole before it.
        outputs: tensors that are whole after it, the one that is made last at the end.
        written_through: output -> tensors that lie where it will, row on row, before it.
        orders: input -> order of its reads and of writes to the last output.
    """

    rings: list[Ring]
    local: list[tuple[str, int]]
    inputs: list[int]
    outputs: list[int]
    written_through: dict[int, list[int]]
    orders: dict[int, kernels.Order]


class Arena(NamedTuple):
    """What a choice of steps asks of the planner.

    Attributes:
        tensors: whose buffers come first, in this order; then come those of what is local to
            steps, one step after the other, and the progress of rows that are pushed.
        buffers: with the steps during which they live; a node of several calls takes several.
        sharings: which of them may share bytes.
    """

    tensors: list[int]
    buffers: list[Buffer]
    sharings: list[Sharing]


class Step(NamedTuple):
    """Operations ``begin`` to ``end`` - 1: one on whole tensors, or a stretch that ``streams``.

    Attributes:
        source: the one input that dies and may be overwritten; -1 if there is none, or several.
        output: the tensor that the step makes last.
    """

    begin: int
    end: int
    streams: bool
    turn: Turn
    source: int
    output: int

    @property
    def bytes(self) -> int:
        """Live bytes during the step, less those that the output shares with a dying input."""
        return self.turn.total - self.turn.shared


Cut = tuple[int, int, bool]
"""A step by its operations: the first, the one behind the last, whether it streams."""


class Steps:
    """All steps of a program's operations, by the cut at which they end.

    Attributes:
        dies: tensor -> last operation that reads it.
        orders: cut -> first operation of the order that ends there, and the order.
        ending: cut -> steps.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        sizes: Mapping[int, int],
        outputs: set[int],
        names: Mapping[int, str] | None = None,
    ) -> None:
        """``sizes``: bytes of the tensors in the arena. ``outputs``: who lives to the end.
        ``names``: of tensors."""
        self.operations = operations
        self.sizes = sizes
        self.outputs = outputs
        self.names = names or {tensor: f"tensor {tensor}" for tensor in sizes}
        self._padded = {tensor: _padded(size) for tensor, size in sizes.items()}
        made = {operation.output: i for i, operation in enumerate(operations)}
        self.born = {tensor: made.get(tensor, -1) for tensor in sizes}
        self.dies = dict(self.born)
        for i, operation in enumerate(operations):
            self.dies |= dict.fromkeys(operation.inputs, i)
        self.dies |= dict.fromkeys(outputs, len(operations))
        self.orders: dict[int, tuple[int, Order]] = {}
        self._lines: dict[tuple[int, int], Lines] = {}
        self.ending = {
            end: [*self._whole(end), *self._stretches(end)] for end in range(1, len(operations) + 1)
        }

    @property
    def pushed(self) -> bool:
        """Whether the first operation is the input, which comes row by row."""
        first = self.operations[0] if self.operations else None
        return first is not None and not (first.inputs or first.calls)

    def kept(self, cut: int) -> set[int]:
        """Tensors that are read after a cut."""
        return {tensor for tensor, last in self.dies.items() if last >= cut}

    def alive(self, cut: int) -> set[int]:
        """Tensors that are whole at a cut."""
        return {tensor for tensor in self.kept(cut) if self.born[tensor] < cut}

    def _alive_bytes(self, cut: int) -> int:
        return sum(self._padded[tensor] for tensor in self.alive(cut))

    def _whole(self, end: int) -> list[Step]:
        operation, begin = self.operations[end - 1], end - 1
        if not operation.calls:
            return []
        held = self._alive_bytes(begin) + self._padded.get(operation.output, 0)
        calls, scratch = operation.calls, max(_padded(c.scratch) for c in operation.calls)
        orders = calls[0].orders if len(calls) == 1 else {}
        return [self._step(begin, end, False, held + scratch, operation.output, dict(orders))]

    def _step(
        self,
        begin: int,
        end: int,
        streams: bool,
        total: int,
        output: int,
        orders: dict[int, kernels.Order] | dict[int, int],
    ) -> Step:
        """``orders``: input -> order of reads beside the output's writes, or its lead in bytes."""
        target, gains = self._padded.get(output, 0), {}
        for tensor, order in orders.items():
            if self.dies[tensor] < end:
                size, offset = self._padded[tensor], order
                if isinstance(order, kernels.Order):
                    offset = order.offset
                else:
                    offset = _padded(max(order, -size - target))
                gains[tensor] = offset, max(0, size + target - max(target, size + max(0, offset)))
        shared = min(target, max((gain for _, gain in gains.values()), default=0))
        if len(gains) != 1:
            return Step(begin, end, streams, Turn(total, shared), -1, output)
        ((source, (offset, _)),) = gains.items()
        order = orders[source]
        same = isinstance(order, kernels.Order) and order.steps is None
        turn = Turn(total, shared, 1, self._padded[source], target, offset, 1, same=same)
        return Step(begin, end, streams, turn, source, output)

    def _stretches(self, end: int) -> list[Step]:
        start = end
        while start > 0 and self.operations[start - 1].by_rows and end - start < MAX_NODES:
            start -= 1
        nodes = [o.by_rows for o in self.operations[start:end] if o.by_rows]
        if not nodes:
            return []
        kept = self.kept(end)
        order = Order(self.sizes, nodes, kept)
        self.orders[end] = (start, order)
        over = order.taken_over(kept)
        local = scratch = 0  # bytes of rings and sums; of the largest scratch
        through: dict[int, tuple[list[int], int]] = {}  # first tensor of a ring: all, bytes
        external: set[int] = set()
        found = []
        for begin in range(end - 1, start + order.begin - 1, -1):
            operation, node = self.operations[begin], nodes[begin - start]
            chain, before = through.pop(over.get(node.output, -1), ([], 0))
            chain = [node.output, *chain]
            if chain[-1] in kept:
                size = self._padded[chain[-1]]
            else:
                size = _padded(order.depth(chain) * node.row_bytes)
            through[node.output] = chain, size
            local += size - before + _padded(operation.sum_bytes)
            scratch = max(scratch, _padded(operation.row_scratch))
            external = (external | {r.tensor for r in node.reads}) - {node.output}
            if begin == 0 and end == 1 and not operation.calls:
                continue  # rows that are pushed into a whole tensor
            last = next(c for c, _ in through.values() if c[-1] == nodes[-1].output)
            leads = {t: order.lead(t, last) for t in external if self.dies[t] < end}
            total = local + scratch + self._alive_bytes(begin)
            found.append(self._step(begin, end, True, total, nodes[-1].output, leads))
        return found

    def lines(self, begin: int, end: int) -> Lines:
        """Of the stretch of these operations."""
        if (begin, end) in self._lines:  # of many choices
            return self._lines[begin, end]
        start, order = self.orders[end]
        kept, part = self.kept(end), order.nodes[begin - start :]
        rings, through = [], {}
        for chain in _chains(part, order.taken_over(kept)):
            if chain[-1] in kept:
                through[chain[-1]] = chain[:-1]
            else:
                row_bytes = order.nodes[order.producer[chain[0]]].row_bytes
                rings.append(Ring(tuple(chain), order.depth(chain), row_bytes))
        last = part[-1].output
        made = {node.output for node in part}
        inputs = dict.fromkeys(r.tensor for n in part for r in n.reads if r.tensor not in made)
        operations = self.operations[begin:end]
        local = [(f"rows of {self.names[ring.tensors[0]]}", ring.bytes) for ring in rings]
        local += [
            (f"sums of {self.names[o.output]}", o.sum_bytes) for o in operations if o.sum_bytes
        ]
        if scratch := max(o.row_scratch for o in operations):
            local.append(("scratch of a stretch", scratch))
        members = [*through[last], last]
        self._lines[begin, end] = Lines(
            rings,
            local,
            list(inputs),
            sorted(through, key=lambda tensor: tensor == last),
            through,
            {tensor: order.access(begin - start, tensor, members) for tensor in inputs},
        )
        return self._lines[begin, end]

    def arena(self, cuts: Sequence[Cut]) -> Arena:
        """The buffers of a choice of steps, and what may share."""
        running: list[tuple[Sequence[int], list[int], list[tuple[str, int]], Mapping]] = []
        for begin, end, streams in cuts:
            if streams:
                lines = self.lines(begin, end)
                running.append((lines.inputs, lines.outputs, lines.local, lines.orders))
            else:
                for call in self.operations[begin].calls:
                    made = [call.output] if call.output in self.sizes else []
                    scratch = f"scratch of {self.names.get(call.output, 'a call')}"
                    local = [(scratch, call.scratch)] if call.scratch else []
                    running.append((call.inputs, made, local, call.orders))
        first = {tensor: -1 for tensor, born in self.born.items() if born < 0}
        last = dict(first)
        for step, (inputs, outputs, _, _) in enumerate(running):
            first |= {tensor: step for tensor in outputs if tensor not in first}
            last |= dict.fromkeys((*inputs, *outputs), step)
        last |= dict.fromkeys(self.outputs, len(running))
        tensors = list(first)
        buffers = [Buffer(self.names[t], self.sizes[t], first[t], last[t]) for t in tensors]
        for step, (_, _, local, _) in enumerate(running):
            buffers += [Buffer(name, size, step, step) for name, size in local]
        if self.pushed:
            buffers.append(Buffer("progress", kernels.PROGRESS_BYTES, 0, len(running)))
        place = {tensor: i for i, tensor in enumerate(tensors)}
        sharings = [
            planner.share(place[tensor], place[outputs[-1]], step, order)
            for step, (_, outputs, _, orders) in enumerate(running)
            for tensor, order in orders.items()
            if outputs and last.get(tensor) == step == first[outputs[-1]]
        ]
        return Arena(tensors, buffers, sharings)

    def least(self) -> tuple[int, list[list[Step]]]:
        """The smallest arena of any choice of steps, and two such choices: of the shortest steps
        that there are at every cut, and of the longest.

        Dynamic programming over cuts, from the last to the first, for an arena of given size: the
        state is where the input of the next step may lie (``overlays``). All else of a step is
        taken as one piece, and that what lives longer than two steps keeps its address is not
        counted; :meth:`planned` counts both.
        """
        arena = overlays.smallest(self._bound(), lambda arena: bool(self._places(arena)[0]))
        places = self._places(arena)
        return arena, [self._choice(arena, places, way) for way in (1, -1)]

    def planned(self) -> int:
        """The bytes of the arena in which the planner lays out one of :meth:`least`'s choices."""
        arena, choices = self.least()
        enough, peaks = arena + self.pushed * kernels.PROGRESS_BYTES, []
        for choice in choices:
            _, buffers, sharings = self.arena([step[:3] for step in choice])
            peaks.append(planner.plan(buffers, sharings, SKETCH).peak)
            if peaks[-1] <= enough:
                break
        return min(peaks)

    def _bound(self) -> int:
        """The largest step of the choice whose largest step is smallest."""
        reached = [0]
        for end in range(1, len(self.operations) + 1):
            steps = (max(reached[s.begin], s.bytes) for s in self.ending[end])
            reached.append(min(steps, default=_NEVER))  # no step ends where rows are pushed
        return reached[-1]

    def _places(self, arena: int) -> list[dict[int, Addresses]]:
        """By cut where the tensor may lie that the next step writes over, so that all later steps
        fit; -1 stands for none."""
        last = len(self.operations)
        places: list[dict[int, Addresses]] = [{} for _ in range(last + 1)]
        places[last][-1] = [(0, arena)]
        for cut in range(last, -1, -1):
            here = {source: overlays.union(found) for source, found in places[cut].items()}
            places[cut] = here
            for step in self.ending.get(cut, ()) if here else ():
                if found := _sources(step, arena, _targets(step, arena, here)):
                    places[step.begin].setdefault(step.source, []).extend(found)
        return places

    def _choice(self, arena: int, places: list[dict[int, Addresses]], way: int) -> list[Step]:
        """A choice that fits the arena: the shortest step at every cut, or with -1 the longest."""
        beginning: dict[int, list[Step]] = {}
        for step in sorted(itertools.chain(*self.ending.values()), key=lambda s: way * s.end):
            beginning.setdefault(step.begin, []).append(step)

        def fitting(cut: int, made: int | None, at: int) -> Iterator[tuple[Step, int, Addresses]]:
            """Steps with the address of what they write over and those left for their output; the
            tensor that the step before has made lies ``at``."""
            for step in beginning[cut]:
                targets = _targets(step, arena, places[step.end])
                found = _sources(step, arena, targets) if targets else []
                if found and (step.source != made or overlays.holds(found, at)):
                    yield step, at if step.source == made else found[0][0], targets

        cut, made, at, chosen = 0, None, 0, []
        while cut < len(self.operations):
            step, source, targets = next(fitting(cut, made, at))
            at = targets[0][0]
            if step.source >= 0:
                at = overlays.lowest(step.turn, arena, source, targets)
            chosen.append(step)
            cut, made = step.end, step.output
        return chosen


def _chains(part: Sequence[ByRows], over: Mapping[int, int]) -> list[list[int]]:
    """Tensors of a stretch by the ring they share."""
    made = [node.output for node in part]
    followers = {over[tensor] for tensor in made if tensor in over}
    found = []
    for tensor in made:
        if tensor in followers:
            continue
        chain = [tensor]
        while over.get(chain[-1]) in made:
            chain.append(over[chain[-1]])
        found.append(chain)
    return found


def _targets(step: Step, arena: int, places: Mapping[int, Addresses]) -> Addresses:
    """Where a step's output may lie, of ``places`` at its end: anywhere where the next step does
    not write over it."""
    anywhere = [(0, arena)]
    found = (here if source == step.output else anywhere for source, here in places.items())
    return overlays.union([stretch for stretches in found for stretch in stretches])


def _sources(step: Step, arena: int, targets: Addresses) -> Addresses:
    """Where the input that a step writes over may lie; anywhere where there is none."""
    if step.bytes > arena:
        return []
    return [(0, arena)] if step.source < 0 else overlays.sources(step.turn, arena, targets)


_NEVER = 1 << 40


def _padded(size: int) -> int:
    return align(size, ALIGNMENT)
