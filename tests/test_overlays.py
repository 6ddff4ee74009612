"""Overlays: addresses of calls that write over their inputs, against all arrangements there are."""

import itertools

import numpy as np
import pytest

from micronets_jax import overlays
from micronets_jax.kernels import Turn


def chain(rng):
    """Three calls, each reading what the one before it made; bytes in whole words."""
    sizes = 4 * rng.integers(1, 6, 4)
    turns = []
    for source, target in itertools.pairwise(sizes.tolist()):
        rest, offset = 4 * rng.integers(0, 4), 4 * rng.integers(-4, 5)
        total = int(source + target + rest)
        same = bool(rng.random() < 0.3)
        turns.append(Turn(total, 0, 1, source, target, 0 if same else int(offset), 1, same=same))
    return turns


def allowed(turn, source, target):
    """Whether input and output may lie there, whatever else there is."""
    apart = source + turn.source <= target or target + turn.target <= source
    return apart or (source == target if turn.same else source >= target + turn.offset)


def roomy(turn, arena, source, target):
    """Whether all else has a place in one piece."""
    rest = turn.total - turn.source - turn.target
    taken = sorted([(source, source + turn.source), (target, target + turn.target)])
    ends = [0, taken[0][1], max(end for _, end in taken)]
    begins = [taken[0][0], taken[1][0], arena]
    return any(begin - end >= rest for begin, end in zip(begins, ends, strict=True))


def arrangements(turns, arena):
    """All addresses of the tensors of a chain that fit."""
    sizes = [turns[0].source, *(turn.target for turn in turns)]
    for at in itertools.product(*(range(0, arena - size + 1, 4) for size in sizes)):
        pairs = itertools.pairwise(at)
        if all(allowed(t, *p) and roomy(t, arena, *p) for t, p in zip(turns, pairs, strict=True)):
            yield at


def places(turns, arena):
    """Where each tensor may lie so that all later calls fit."""
    found = [[(0, arena - turns[-1].target)]]
    for turn in reversed(turns):
        found.insert(0, overlays.sources(turn, arena, found[0]))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_the_smallest_arena_is_that_of_all_arrangements(seed):
    turns = chain(np.random.default_rng(seed))
    arena = overlays.smallest(4, lambda arena: bool(places(turns, arena)[0]))
    known = set(arrangements(turns, arena))
    assert known and not any(arrangements(turns, arena - 4))
    where = places(turns, arena)
    listed = {at for at in range(0, arena + 1, 4) if overlays.holds(where[0], at)}
    assert listed == {at[0] for at in known}
    at = [where[0][0][0]]
    for turn, targets in zip(turns, where[1:], strict=True):
        at.append(overlays.lowest(turn, arena, at[-1], targets))
    assert tuple(at) in known


def test_stretches_of_addresses_are_joined_where_they_touch():
    assert overlays.union([(8, 12), (0, 4), (20, 16), (30, 40)]) == [(0, 12), (30, 40)]
