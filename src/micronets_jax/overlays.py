"""Addresses in an arena where calls write over their inputs, one call after the other.

Invariant: exact. An address is listed if and only if the call can be laid out with its input there,
its output at an address that was listed for it, and all else of the call in one piece.

An input lies above the output by the offset of the call's order, or apart from it, and the output
is the next call's input. So where a tensor may lie depends on the calls after it: from the last
call to the first, :func:`sources` says from the addresses of outputs those of inputs, and from the
first to the last :func:`lowest` takes one of these for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from micronets_jax.kernels import ALIGNMENT, Turn

Addresses = list[tuple[int, int]]
"""Stretches of addresses in whole words, first and last, that rise and do not touch."""

_ANY = 1 << 40


class _Way(NamedTuple):
    """How a call may be laid out: first and last address of output and input, and by how much the
    input starts above the output, at least and at most."""

    target: tuple[int, int]
    source: tuple[int, int]
    above: tuple[int, int]


def sources(turn: Turn, arena: int, targets: Addresses) -> Addresses:
    """Where a call's input may lie.

    Args:
        turn: what the call asks; its input dies, and its output may lie over it.
        arena: bytes.
        targets: where its output may lie.

    Returns:
        All such addresses; none where the call cannot be laid out so.
    """
    found = []
    for way in _ways(turn, arena):
        for first, last in targets:
            low, high = max(first, way.target[0]), min(last, way.target[1])
            if low <= high:
                least = max(way.source[0], low + way.above[0])
                found.append((least, min(way.source[1], high + way.above[1])))
    return union(found)


def lowest(turn: Turn, arena: int, source: int, targets: Addresses) -> int:
    """The lowest address for a call's output, its input lying at one of :func:`sources`.

    Args:
        turn: what the call asks.
        arena: bytes.
        source: where its input lies.
        targets: where its output may lie.

    Returns:
        An address of ``targets``, in bytes.
    """
    found = []
    for way in _ways(turn, arena):
        if way.source[0] <= source <= way.source[1]:
            low = max(way.target[0], source - way.above[1])
            high = min(way.target[1], source - way.above[0])
            found += [max(low, a) for a, b in targets if max(low, a) <= min(high, b)]
    return min(found)


def _ways(turn: Turn, arena: int) -> Iterator[_Way]:
    source, target = turn.source, turn.target
    rest = turn.total - source - target
    all_of = (0, arena - target), (0, arena - source)
    above = (rest, arena - target), (rest, arena - source)
    below = (0, arena - target - rest), (0, arena - source - rest)
    # All else lies below the two, above them, or between them where they are apart.
    for targets, inputs in (above, below):
        yield _Way(targets, inputs, (0, 0) if turn.same else (turn.offset, _ANY))
        yield _Way(targets, inputs, (target, _ANY))
        yield _Way(targets, inputs, (-_ANY, -source))
    yield _Way(*all_of, (target + rest, _ANY))
    yield _Way(*all_of, (-_ANY, -source - rest))


def holds(stretches: Addresses, address: int) -> bool:
    """Whether an address lies in one of the stretches."""
    return any(first <= address <= last for first, last in stretches)


def union(stretches: Sequence[tuple[int, int]]) -> Addresses:
    """What lies in any of these stretches; one that ends before it begins is empty."""
    found: Addresses = []
    for first, last in sorted(stretches):
        if first > last:
            continue
        if found and first <= found[-1][1] + ALIGNMENT:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def smallest(bound: int, fits: Callable[[int], bool]) -> int:
    """The smallest arena of whole words, from ``bound`` on, that fits: what fits an arena fits all
    larger ones.

    Args:
        bound: bytes that any arena needs, in whole words.
        fits: whether an arena of so many bytes is enough.
    """
    low, high = bound, bound
    while not fits(high):
        low, high = high + ALIGNMENT, high + max(ALIGNMENT, high // 32 // ALIGNMENT * ALIGNMENT)
    while low < high:
        middle = (low + high) // (2 * ALIGNMENT) * ALIGNMENT
        low, high = (low, middle) if fits(middle) else (middle + ALIGNMENT, high)
    return low
