"""Rows: the least memory of a program, over all ways to cut it into steps."""

import itertools

import numpy as np
import pytest

from micronets_jax import kernels
from micronets_jax.rows import ByRows, Call, Operation, Order, Reads, Steps


def pointwise(i, rows, ins, outs, kernel=1):
    """Operation i of a chain: a convolution over rows of so many bytes, row by row."""
    reads = (Reads(i, 0, rows, kernel, 1, kernel // 2),)
    by_rows = ByRows(i + 1, reads, rows, rows, outs)
    order = kernels.Order(kernels.elementwise(rows).steps, ins, outs)
    return Operation(i + 1, (i,), (Call(8, (i,), i + 1, {i: order}),), by_rows, 4)


def chain(rows, widths, kernels_of):
    operations = [
        pointwise(i, rows, a, b, k)
        for i, (a, b, k) in enumerate(zip(widths[:-1], widths[1:], kernels_of, strict=True))
    ]
    return Steps(operations, {i: rows * w for i, w in enumerate(widths)}, {len(widths) - 1})


def test_a_stretch_by_hand():
    """Eight rows of 16 bytes in and out, 64 between: a ring of three of them, or all eight."""
    steps = chain(8, (16, 64, 16), (1, 3))
    (stretch,) = (s for s in steps.ending[2] if s.begin == 0)
    # The first output is written when two rows of the input are read, and lies on them.
    assert stretch.turn.total == 2 * 128 + 3 * 64 + 4
    assert (stretch.source, stretch.turn.offset, stretch.turn.shared) == (0, -16, 128)
    arena, (plan, _) = steps.least()
    assert (arena, [s[:3] for s in plan]) == (128 + 3 * 64 + 4, [(0, 2, True)])


def test_an_order_ends_with_all_rows_of_what_is_kept():
    nodes = [ByRows(1, (Reads(0, 0, 6),), 6, 6, 4), ByRows(2, (Reads(1, 0, 6, 2, 2),), 2, 2, 4)]
    order = Order({0: 24, 1: 24}, nodes, {1, 2})
    assert [row for op, row in order.calls if op == 0] == list(range(6))
    assert [row for op, row in Order({0: 24, 1: 24}, nodes, {2}).calls if op == 0] == [0, 1, 2, 3]


def choices(steps, cut):
    """Every way to cut the operations before a cut into steps."""
    if cut == 0:
        return [[]]
    return [[*before, s] for s in steps.ending[cut] for before in choices(steps, s.begin)]


def turns(plan):
    """The turns of a plan, with what each tells of the next."""
    following = [s.source for s in plan[1:]] + [-1]
    return [
        s.turn._replace(follows=int(source == s.output))
        for s, source in zip(plan, following, strict=True)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_the_least_of_all_choices_of_steps(seed):
    """Against all of them, each laid out by the rule for programs that are given."""
    rng = np.random.default_rng(seed)
    widths = [int(4 * w) for w in rng.integers(1, 24, 6)]
    steps = chain(int(rng.integers(3, 9)), widths, rng.choice([1, 3], 5).tolist())
    every = choices(steps, 5)
    assert len(every) == 89
    assert steps.least()[0] == min(kernels.least_arena(turns(plan)) for plan in every)
    arena, (short, long) = steps.least()
    for plan in (short, long):
        assert kernels.least_arena(turns(plan)) == arena
        assert all(a.end == b.begin for a, b in itertools.pairwise(plan))
    assert len(short) >= len(long)
