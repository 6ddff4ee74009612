"""Strided copies, which all moves of bytes are made of, and the positions that they stand for.

Invariant: :func:`copies` and :func:`positions` are each other's inverse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from micronets_jax.compile.graph import Copy
from micronets_jax.tflite import TFLiteError

MAX_COPIES = 256
SOURCE = 40  # bits of a position; above them stands which input it is in


def positions(found: Sequence[Copy], elements: int) -> np.ndarray:
    """For each of the ``elements`` of an output where it comes from: its position in an input plus
    the input's number shifted left by ``SOURCE``, or -1 where nothing is copied."""
    result = np.full(elements, -1, np.int64)
    for copy in found:
        index = np.indices(copy.shape).reshape(len(copy.shape), -1)
        target = np.array(copy.out_steps, np.int64) @ index + copy.out_at
        result[target] = np.array(copy.in_steps, np.int64) @ index + copy.in_at
        result[target] += copy.source << SOURCE
    return result


def copies(positions: np.ndarray) -> list[Copy]:
    """The strided copies that fill an output.

    Args:
        positions: for each element of the output, in any number of dimensions, its position in an
            input plus the input's number shifted left by ``SOURCE``; negative where nothing is
            copied.

    Raises:
        TFLiteError: there is too little order in it.
    """
    found: list[Copy] = []
    steps = [int(s) for s in np.cumprod([1, *positions.shape[:0:-1]])[::-1]]
    _factor(positions, 0, steps, found)
    return found


def _factor(positions: np.ndarray, at: int, steps: list[int], found: list[Copy]) -> None:
    taken = positions >= 0
    if not taken.any():
        return
    for axis in range(positions.ndim):  # the box of what is copied
        used = np.flatnonzero(taken.any(axis=tuple(a for a in range(taken.ndim) if a != axis)))
        box = slice(int(used[0]), int(used[-1]) + 1)
        at += box.start * steps[axis]
        index = (slice(None),) * axis + (box,)
        positions, taken = positions[index], taken[index]
    first = positions[(0,) * positions.ndim]
    walk = [
        int(np.take(positions, 1, axis)[(0,) * (positions.ndim - 1)] - first) if n > 1 else 0
        for axis, n in enumerate(positions.shape)
    ]
    affine = np.full((1,) * positions.ndim, first)
    for axis, (n, step) in enumerate(zip(positions.shape, walk, strict=True)):
        shape = [1] * positions.ndim
        shape[axis] = n
        affine = affine + (np.arange(n) * step).reshape(shape)
    source = int(first) >> SOURCE
    one = source == int(positions.min()) >> SOURCE == int(positions.max()) >> SOURCE
    if first >= 0 and one and np.array_equal(affine, positions):
        found.append(
            Copy(source, positions.shape, walk, int(first) - (source << SOURCE), list(steps), at)
        )
        if len(found) > MAX_COPIES:
            raise TFLiteError(f"it would take more than {MAX_COPIES} copies")
        return
    axis, pieces = min(
        ((axis, _pieces(positions, axis)) for axis in range(positions.ndim)),
        key=lambda cut: len(cut[1]) if len(cut[1]) > 1 else positions.size + 1,
    )
    for piece in pieces:
        index = (slice(None),) * axis + (piece,)
        inner = [*steps[:axis], steps[axis] * piece.step, *steps[axis + 1 :]]
        _factor(positions[index], at + piece.start * steps[axis], inner, found)


def _pieces(positions: np.ndarray, axis: int) -> list[slice]:
    """The fewest parts of an axis within each of which a slice follows from the one before it by
    one constant step: neighbours, or every p-th slice."""
    count = positions.shape[axis]
    slices = np.moveaxis(positions, axis, 0).reshape(count, -1)
    inside = slices[:-1] >= 0
    alike = (inside == (slices[1:] >= 0)).all(axis=1)
    steps = np.diff(slices, axis=0)
    step = steps[np.arange(count - 1), np.argmax(inside, axis=1)]
    alike &= np.abs(step) < 1 << (SOURCE - 1)  # further apart are different inputs
    uniform = alike & ((steps == step[:, None]) | ~inside).all(axis=1)
    cuts, low = [0], 0
    for i in range(count - 1):  # between slices i and i + 1
        if not uniform[i] or (i > low and step[i] != step[low]):
            low = i + 1
            cuts.append(low)
    pieces = [slice(a, e, 1) for a, e in zip(cuts, [*cuts[1:], count], strict=True)]
    if uniform.all():
        for p in range(2, min(len(pieces), count // 2)):
            if np.array_equal(step[p:], step[:-p]):
                return [slice(i, count, p) for i in range(p)]
    return pieces
