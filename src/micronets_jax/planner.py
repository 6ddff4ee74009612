"""The memory planner: one arena for inputs, outputs, everything between, and scratch.

Invariant: a plan leaves this room only after :func:`prove`, which shares no code with the search,
has found no two live bytes at one address. A dying input and the output of a call may share bytes
as far as the call's declared order of reads and writes allows.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Iterator

import numpy as np

from micronets_jax import overlays
from micronets_jax.counts import align
from micronets_jax.kernels import ALIGNMENT, Order, Turn, least_arena, most_alive
from micronets_jax.overlays import Addresses


@dataclasses.dataclass(frozen=True)
class Buffer:
    """Bytes that live from step ``first`` to step ``last``, both included."""

    name: str
    size: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Sharing:
    """At ``step``, buffer ``source`` is read for the last time and ``target`` written first.

    ``lead`` is how far in bytes the source must start above the target; ``same`` says that only
    equal addresses will do.
    """

    source: int
    target: int
    step: int
    order: Order
    lead: int = 0
    same: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """Buffers with their addresses, first bytes in the arena of ``peak`` bytes."""

    buffers: tuple[Buffer, ...]
    sharings: tuple[Sharing, ...]
    addresses: tuple[int, ...]
    peak: int
    bound: int  # no plan can be smaller: the largest step, with sharing at its best


def share(source: int, target: int, step: int, order: Order) -> Sharing:
    """The distance at which two buffers may share bytes, from the order of the call at ``step``.

    Args:
        source: index of the buffer that is read for the last time.
        target: index of the buffer that is written first.
        step: of the call.
        order: of the call's reads and writes.

    Returns:
        ``lead`` in bytes for an order by steps, ``same`` for one by classes.
    """
    if order.steps is None:
        return Sharing(source, target, step, order, same=True)
    return Sharing(source, target, step, order, lead=order.lead)


def plan(buffers: Iterable[Buffer], sharings: Iterable[Sharing] = (), effort: int = 40_000) -> Plan:
    """Addresses for all buffers, in whole words, with a proof; deterministic.

    First fit in several natural orders, each improved by moving buffers, until one comes down to
    ``kernels.least_arena``; where none does, a depth-first search that places buffers from the
    lowest address upwards, for ever lower limits, ``effort`` placements in total.
    """
    buffers = tuple(dataclasses.replace(b, size=align(b.size, ALIGNMENT)) for b in buffers)
    sharings = tuple(sharings)
    task = _Task(buffers, sharings)
    bound, goal = lower_bound(buffers, sharings), least_arena(_turns(buffers, sharings))
    pressure = task.pressure()
    indices = range(len(buffers))
    best, peak = _chained(task, sharings) or ([], sum(b.size for b in buffers) + 1)
    if peak > goal:
        top, order = _improved(task, goal, 8 * min(effort, 100_000_000 // len(buffers) ** 2))
        if top < peak:
            best, peak = task.first_fit(order)[0], top
    effort = min(effort, 40_000_000 // len(buffers) ** 2)  # each placement looks at all buffers
    # from the bound upwards: the lower half of what is left to win first
    floor = goal
    while floor < peak and effort > 0:
        limit = floor if floor == goal else (floor + peak) // 2
        # buffers with few neighbours are placed afterwards
        crowd = [i for i in indices if 2 * pressure[i] > limit]
        nodes = max(1, effort // 24)
        effort -= 8 * nodes
        search = _Search(task, limit, nodes, crowd)
        found, top = list(best), peak
        if search.place():
            rest = sorted(set(indices) - set(crowd), key=lambda i: (-buffers[i].size, i))
            found, top = task.first_fit(rest, search.addresses)
        if top < peak:
            best, peak = found, top
        else:
            floor = limit + 1
    result = Plan(buffers, sharings, tuple(best), peak, bound)
    prove(result)
    return result


def lower_bound(buffers: tuple[Buffer, ...], sharings: tuple[Sharing, ...]) -> int:
    """The largest sum of live bytes of any step, an output counted only where it cannot share."""
    return most_alive(_turns(buffers, sharings))


def _turns(buffers: tuple[Buffer, ...], sharings: tuple[Sharing, ...]) -> list[Turn]:
    """The demands of each step on the arena."""
    turns, following = [], -1
    last = max(b.last for b in buffers)
    for step in range(last, min(b.first for b in buffers) - 1, -1):
        total = sum(b.size for b in buffers if b.first <= step <= b.last)
        here = [s for s in sharings if s.step == step]
        saved: dict[int, int] = {}
        for s in here:
            gain = s.order.overlap(buffers[s.source].size, buffers[s.target].size)
            saved[s.target] = saved.get(s.target, 0) + gain
        shared = sum(min(gain, buffers[target].size) for target, gain in saved.items())
        turn = Turn(total, shared)
        if len(here) == 1:
            (s,) = here
            sizes = buffers[s.source].size, buffers[s.target].size
            follows = int(following == s.target)
            turn = Turn(total, shared, 1, *sizes, s.order.offset, 1, follows, s.same)
        following = here[0].source if len(here) == 1 else -1
        turns.append(turn)
    return turns[::-1]


def _chained(task: _Task, sharings: tuple[Sharing, ...]) -> tuple[list[int], int] | None:
    """Addresses and peak, exact where calls write over their inputs one after the other.

    Of such calls inputs and outputs lie where all fit the smallest arena (``overlays``), all else
    by first fit, the largest first. That arena is reached where nothing else outlives a step. None
    where chains of such calls meet and do not agree.
    """
    buffers = task.buffers
    turns = _turns(buffers, sharings)
    begin = min(b.first for b in buffers)
    by_step = {s.step: s for s in sharings if turns[s.step - begin].over}

    def places(arena: int) -> dict[int, Addresses] | None:
        """By step where its input may lie so that all later steps fit; None if one cannot."""
        found: dict[int, Addresses] = {}
        for step in sorted(by_step, reverse=True):
            follows = turns[step - begin].follows
            targets = found[step + 1] if follows else [(0, arena)]
            found[step] = overlays.sources(turns[step - begin], arena, targets)
            if not found[step]:
                return None
        return found

    arena = overlays.smallest(most_alive(turns), lambda arena: places(arena) is not None)
    found, addresses = places(arena) or {}, [-1] * len(buffers)
    for step, s in sorted(by_step.items()):
        turn = turns[step - begin]
        if addresses[s.source] < 0:
            addresses[s.source] = found[step][0][0]
        if not overlays.holds(found[step], addresses[s.source]):
            return None
        targets = found[step + 1] if turn.follows else [(0, arena)]
        addresses[s.target] = overlays.lowest(turn, arena, addresses[s.source], targets)
    rest = [i for i, at in enumerate(addresses) if at < 0]
    rest.sort(key=lambda i: (-buffers[i].size, buffers[i].first))
    addresses, peak = task.first_fit(rest, addresses)
    return (addresses, peak) if task.agrees(addresses) else None


def _improved(task: _Task, goal: int, effort: int) -> tuple[int, list[int]]:
    """The lowest peak found and its order for first fit, by ``effort`` placements at most.

    From several natural orders in turns; a move is kept unless it is worse. Half of the moves put a
    buffer that reaches the peak, or one beside it, before another that lives beside it.
    """
    buffers, chance = task.buffers, random.Random(0)
    indices = range(len(buffers))
    working = [b.first == b.last for b in buffers]  # scratch, mostly
    orders = [
        sorted(indices, key=lambda i: (-buffers[i].size, buffers[i].first)),
        sorted(indices, key=lambda i: (buffers[i].first, -buffers[i].size)),
        sorted(indices, key=lambda i: (buffers[i].first, not working[i], -buffers[i].size)),
        sorted(indices, key=lambda i: (working[i], -buffers[i].last, -buffers[i].size)),
        sorted(indices, key=lambda i: (-task.span(i), -buffers[i].size)),
        sorted(indices, key=lambda i: (-task.span(i) * buffers[i].size, buffers[i].first)),
        sorted(indices, key=lambda i: (-buffers[i].last, -buffers[i].size)),
        sorted(indices, key=lambda i: (-buffers[i].last, not working[i], -buffers[i].size)),
    ]
    found = [(*task.first_fit(order), order) for order in orders]
    found.sort(key=lambda row: row[1])
    beside = [[j for j, *_ in task.conflicts[i]] or [i] for i in indices]
    turns = effort // len(buffers) // len(found) // _ROUNDS
    for _ in range(_ROUNDS if len(buffers) > 1 else 0):
        for which, (addresses, peak, order) in enumerate(found):
            for _ in range(turns):
                if peak <= goal:
                    return peak, order
                moved = list(order)
                if chance.random() < 0.5:
                    tops = [i for i in indices if addresses[i] + buffers[i].size == peak]
                    one = chance.choice(tops)
                    for _ in range(chance.randrange(3)):
                        one = chance.choice(beside[one])
                    other = chance.choice(beside[one])
                    moved.remove(one)
                    moved.insert(0 if other == one else moved.index(other), one)
                else:
                    for _ in range(chance.choice((1, 1, 2, 3))):
                        moved.insert(
                            chance.randrange(len(moved)), moved.pop(chance.randrange(len(moved)))
                        )
                again, top = task.first_fit(moved)
                if top <= peak:
                    addresses, peak, order = again, top, moved
            found[which] = addresses, peak, order
    _, peak, order = min(found, key=lambda row: row[1])
    return peak, order


_ROUNDS = 8


class _Task:
    def __init__(self, buffers: tuple[Buffer, ...], sharings: tuple[Sharing, ...]) -> None:
        self.buffers = buffers
        n = len(buffers)
        shared = {(s.source, s.target): s for s in sharings}
        self.sharing = bool(shared)
        steps = sorted({b.first for b in buffers})
        self.company = [
            {i for i in range(n) if buffers[i].first <= t <= buffers[i].last} for t in steps
        ]
        # for every pair that is live together: which addresses of j, relative to i, are forbidden
        self.conflicts: list[list[tuple[int, int, int, int | None]]] = [[] for _ in range(n)]
        for i in range(n):
            a = buffers[i]
            for j in range(n):
                b = buffers[j]
                if i == j or a.last < b.first or b.last < a.first:
                    continue
                low, high, exception = -b.size, a.size, None
                if (i, j) in shared:  # i dies where j is born: j may start `lead` below i
                    s = shared[i, j]
                    if s.same:
                        exception = 0
                    else:
                        low = max(low, min(-s.lead, high))
                elif (j, i) in shared:
                    s = shared[j, i]
                    if s.same:
                        exception = 0
                    else:
                        high = min(high, max(s.lead, low))
                self.conflicts[i].append((j, low, high, exception))

    def pressure(self) -> list[int]:
        """For every buffer, the live bytes of the fullest step of its life."""
        steps = range(min(b.first for b in self.buffers), max(b.last for b in self.buffers) + 1)
        live = {
            step: sum(b.size for b in self.buffers if b.first <= step <= b.last) for step in steps
        }
        return [max(live[s] for s in range(b.first, b.last + 1)) for b in self.buffers]

    def span(self, i: int) -> int:
        return self.buffers[i].last - self.buffers[i].first + 1

    def first_fit(self, order: list[int], placed: list[int] | None = None) -> tuple[list[int], int]:
        """Addresses and peak when every buffer in turn takes the lowest that is free."""
        addresses = list(placed or [-1] * len(self.buffers))
        blocked: list[list[tuple[int, int]]] = [[] for _ in self.buffers]
        for i in [i for i, at in enumerate(addresses) if at >= 0] + order:
            if addresses[i] < 0:
                addresses[i] = _lowest(blocked[i])
            for j, low, high in self.blocks(i, addresses[i]):
                blocked[j].append((low, high))
        ends = (at + b.size for at, b in zip(addresses, self.buffers, strict=True))
        return addresses, max(ends)

    def agrees(self, addresses: list[int]) -> bool:
        """Whether no buffer lies where another forbids it."""
        return not any(
            low < addresses[j] < high
            for i, at in enumerate(addresses)
            for j, low, high in self.blocks(i, at)
        )

    def blocks(self, i: int, at: int) -> Iterator[tuple[int, int, int]]:
        """Open intervals that other buffers must not start in, once buffer ``i`` lies at ``at``."""
        for j, low, high, exception in self.conflicts[i]:
            if exception is None:
                yield j, at + low, at + high
            else:  # all but one address
                yield j, at + low, at + exception
                yield j, at + exception, at + high


class _Search:
    """Depth first, from the lowest address upwards, never beyond ``limit``."""

    def __init__(self, task: _Task, limit: int, nodes: int, members: list[int]) -> None:
        self.task, self.limit, self.nodes, self.members = task, limit, nodes, members
        self.sizes = [b.size for b in task.buffers]
        self.addresses = [-1] * len(self.sizes)
        self.blocked: list[list[tuple[int, int]]] = [[] for _ in self.sizes]
        self.floors = [0] * len(self.sizes)  # lowest address that is free for each buffer

    def place(self, lowest: int = 0, after: int = -1) -> bool:
        """Places what is left at (address, index) beyond ``lowest, after``, so that no arrangement
        is tried in two orders; False if that is impossible or the nodes are used up."""
        left = [i for i in self.members if self.addresses[i] < 0]
        if not left:
            return True
        if not self.promising(left, lowest):
            return False
        # dominated: a buffer that starts above another's end could be placed after it instead
        ceiling = min(max(lowest, self.floors[i]) + self.sizes[i] for i in left)
        choices = [
            i for i in left if self.floors[i] < ceiling and (self.floors[i], i) > (lowest, after)
        ]
        choices.sort(key=lambda i: (self.floors[i], -self.sizes[i] * self.task.span(i)))
        for i in choices:
            if self.nodes <= 0:
                return False
            self.nodes -= 1
            undo = self._put(i)
            if self.place(self.addresses[i], i):
                return True
            self._take(i, undo)
        return False

    def promising(self, left: list[int], lowest: int) -> bool:
        """Whether the limit leaves room for what is still to come, step by step."""
        for company in self.task.company:
            waiting = [i for i in left if i in company]
            if waiting:
                room = self.limit - max(lowest, min(self.floors[i] for i in waiting))
                if sum(self.sizes[i] for i in waiting) > room and not self.task.sharing:
                    return False
        return all(max(lowest, self.floors[i]) + self.sizes[i] <= self.limit for i in left)

    def _put(self, i: int) -> list[tuple[int, int, int]]:
        at = self.addresses[i] = self.floors[i]
        undo = []
        for j, low, high in self.task.blocks(i, at):
            if self.addresses[j] < 0:
                undo.append((j, len(self.blocked[j]), self.floors[j]))
                self.blocked[j].append((low, high))
                self.floors[j] = _lowest(self.blocked[j])
        return undo

    def _take(self, i: int, undo: list[tuple[int, int, int]]) -> None:
        self.addresses[i] = -1
        for j, length, floor in reversed(undo):
            del self.blocked[j][length:]
            self.floors[j] = floor


def _lowest(blocked: list[tuple[int, int]]) -> int:
    """The lowest aligned address strictly inside no interval."""
    at = 0
    for low, high in sorted(blocked):
        if low >= at:
            break  # sorted: nothing blocks `at` any more
        if high > at:
            at = align(high, ALIGNMENT)
    return at


def prove(result: Plan) -> None:
    """Checks a plan from the definition: no byte holds two live things.

    Raises:
        AssertionError: the plan is wrong (a fault of this room, never of the model).
    """
    at, buffers = result.addresses, result.buffers
    shared = {(s.source, s.target): s for s in result.sharings}
    for i, (a, start_a) in enumerate(zip(buffers, at, strict=True)):
        assert start_a >= 0 and start_a % ALIGNMENT == 0, f"{a.name} lies at {start_a}"
        assert start_a + a.size <= result.peak, f"{a.name} ends beyond the arena"
        for j in range(i + 1, len(buffers)):
            b, start_b = buffers[j], at[j]
            if a.last < b.first or b.last < a.first:
                continue
            if start_a + a.size <= start_b or start_b + b.size <= start_a:
                continue
            pair = (i, j) if (i, j) in shared else (j, i)
            assert pair in shared, f"{a.name} and {b.name} overlap"
            s = shared[pair]
            source, target = buffers[s.source], buffers[s.target]
            assert source.last == target.first == s.step, f"{a.name} and {b.name} live together"
            assert _harmless(s.order, at[s.source], at[s.target]), f"{b.name} overwrites {a.name}"


def _harmless(order: Order, source: int, target: int) -> bool:
    """Whether no step of the call writes bytes that a later step reads."""
    if order.steps is None:
        return (target - source) % order.classes == 0
    # the hull of everything that is still to be read after each step
    spans = order.spans()
    empty = spans.read_low >= spans.read_high
    low = np.where(empty, 1 << 60, spans.read_low + source)
    high = np.where(empty, -1, spans.read_high + source)
    unread_low = np.append(np.minimum.accumulate(low[::-1])[::-1][1:], 1 << 60)
    unread_high = np.append(np.maximum.accumulate(high[::-1])[::-1][1:], -1)
    hit = (spans.write_low + target < unread_high) & (unread_low < spans.write_high + target)
    return not hit.any()
