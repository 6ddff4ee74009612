"""The memory planner: one arena for inputs, outputs, everything between, and scratch.

Invariant: a plan leaves this room only after :func:`prove`, which shares no code with the search,
has found no two live bytes at one address. A dying input and the output of a call may share bytes
as far as the call's declared order of reads and writes allows.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable

import numpy as np

from micronets_jax.compile.kernels import Order

ALIGN = 4


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
    buffers: tuple[Buffer, ...]
    sharings: tuple[Sharing, ...]
    addresses: tuple[int, ...]
    peak: int
    bound: int  # no plan can be smaller: the largest step, with sharing at its best


def share(source: int, target: int, step: int, order: Order) -> Sharing:
    """How close two buffers may lie, from the order of the call at ``step``."""
    if order.classes:
        return Sharing(source, target, step, order, same=True)
    # whatever is read after step s must lie above everything written up to s
    later = np.minimum.accumulate(order.read_low[::-1])[::-1]
    if len(later) < 2:
        lead = -(1 << 40)
    else:
        written = np.maximum.accumulate(order.write_high)
        lead = int((written[:-1] - later[1:]).max())
    return Sharing(source, target, step, order, lead=lead)


def plan(buffers: Iterable[Buffer], sharings: Iterable[Sharing] = (), rounds: int = 300) -> Plan:
    """Addresses for all buffers, with a proof; deterministic.

    First fit in several natural orders; if none reaches the bound, the best order is improved by
    moving single buffers, ``rounds`` times.
    """
    buffers, sharings = tuple(buffers), tuple(sharings)
    task = _Task(buffers, sharings)
    bound = lower_bound(buffers, sharings)
    span = [b.last - b.first for b in buffers]
    pressure = task.pressure()
    indices = range(len(buffers))
    orders = [
        sorted(indices, key=lambda i: (-buffers[i].size, buffers[i].first)),
        sorted(indices, key=lambda i: (-pressure[i], -buffers[i].size, buffers[i].first)),
        sorted(indices, key=lambda i: (buffers[i].first, -buffers[i].size)),
        sorted(indices, key=lambda i: (-buffers[i].last, -buffers[i].size)),
        sorted(indices, key=lambda i: (-span[i] * buffers[i].size, buffers[i].first)),
        sorted(indices, key=lambda i: (-span[i], -buffers[i].size)),
    ]
    best: tuple[int, list[int], list[int]] | None = None
    for order in orders:
        addresses, peak = task.first_fit(order)
        if best is None or peak < best[0]:
            best = (peak, order, addresses)
        if peak <= bound:
            break
    assert best is not None
    chance = random.Random(0)
    for _ in range(rounds if len(buffers) > 1 else 0):
        if best[0] <= bound:
            break
        order = list(best[1])
        # whoever touches the peak goes first, or anything moves anywhere
        top = [i for i in order if best[2][i] + buffers[i].size == best[0]]
        mover = chance.choice(top) if chance.random() < 0.5 else chance.choice(order)
        order.remove(mover)
        order.insert(chance.randrange(len(order) + 1), mover)
        addresses, peak = task.first_fit(order)
        if peak <= best[0]:
            best = (peak, order, addresses)
    result = Plan(buffers, sharings, tuple(best[2]), best[0], bound)
    prove(result)
    return result


def lower_bound(buffers: tuple[Buffer, ...], sharings: tuple[Sharing, ...]) -> int:
    """The largest sum of live bytes of any step, an output counted only where it cannot share."""
    steps = range(min(b.first for b in buffers), max(b.last for b in buffers) + 1)
    best = 0
    for step in steps:
        total = sum(b.size for b in buffers if b.first <= step <= b.last)
        saved: dict[int, int] = {}
        for s in (s for s in sharings if s.step == step):
            source, target = buffers[s.source].size, buffers[s.target].size
            joint = max(source, target) if s.same else max(target, source + max(0, s.lead))
            gain = max(0, source + target - joint)
            saved[s.target] = saved.get(s.target, 0) + gain
        total -= sum(min(gain, buffers[target].size) for target, gain in saved.items())
        best = max(best, total)
    return best


class _Task:
    def __init__(self, buffers: tuple[Buffer, ...], sharings: tuple[Sharing, ...]) -> None:
        self.buffers = buffers
        n = len(buffers)
        shared = {(s.source, s.target): s for s in sharings}
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

    def first_fit(self, order: list[int]) -> tuple[list[int], int]:
        addresses: list[int] = [-1] * len(self.buffers)
        peak = 0
        blocked: list[list[tuple[int, int]]] = [[] for _ in self.buffers]
        for i in order:
            at = 0
            for low, high in sorted(blocked[i]):
                if low >= at:
                    break  # sorted: nothing blocks `at` any more
                if high > at:
                    at = -(-high // ALIGN) * ALIGN
            addresses[i] = at
            peak = max(peak, at + self.buffers[i].size)
            for j, low, high, exception in self.conflicts[i]:
                if addresses[j] >= 0:
                    continue
                if exception is None:
                    blocked[j].append((at + low, at + high))
                else:  # two open intervals around the one address that is allowed
                    blocked[j] += [(at + low, at + exception), (at + exception, at + high)]
        return addresses, peak


def prove(result: Plan) -> None:
    """Checks a plan from the definition: no byte holds two live things.

    Raises:
        AssertionError: the plan is wrong (a fault of this room, never of the model).
    """
    at, buffers = result.addresses, result.buffers
    shared = {(s.source, s.target): s for s in result.sharings}
    for i, (a, start_a) in enumerate(zip(buffers, at, strict=True)):
        assert start_a >= 0 and start_a % ALIGN == 0, f"{a.name} lies at {start_a}"
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
    if order.classes:
        return (target - source) % order.classes == 0
    # the hull of everything that is still to be read after each step
    empty = order.read_low >= order.read_high
    low = np.where(empty, 1 << 60, order.read_low + source)
    high = np.where(empty, -1, order.read_high + source)
    unread_low = np.append(np.minimum.accumulate(low[::-1])[::-1][1:], 1 << 60)
    unread_high = np.append(np.maximum.accumulate(high[::-1])[::-1][1:], -1)
    hit = (order.write_low + target < unread_high) & (unread_low < order.write_high + target)
    return not hit.any()
