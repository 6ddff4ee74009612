"""Widths on a grid: what spaces offer as channel counts, and choices of them.

Invariant: the widths of a grid rise, the last of them is the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, Num

Grid = Literal["fine", "tenths"]

NUM_WIDTHS = 10
"""Widths run from 10 % to 100 % of the largest in steps of 10 % (MicroNets, section 5.2)."""

FINE = (4, 6, 8, 10, 12, 14)
"""Widths below 16: on the large maps of a first layer two channels are a sizeable share."""


def fine_grid(max_width: int) -> tuple[int, ...]:
    """All multiples of 4 up to ``max_width``, for which CMSIS-NN is fastest, and below 16 of 2.

    Raises:
        ValueError: the largest is below 16.
    """
    if max_width < 16:
        raise ValueError(f"max_width={max_width} is too small; use at least 16")
    return (*FINE, *range(16, max_width + 1, 4))


def width_grid(max_width: int, multiples: Sequence[int] = (4,)) -> tuple[int, ...]:
    """10 % to 100 % of ``max_width``, each to the nearest multiple of a number, halves up.

    The number is the first of ``multiples`` for which ten different widths result: CMSIS-NN is
    fastest at multiples of 4, which layers of few channels are too narrow for.

    Raises:
        ValueError: for each of them two steps fall on the same multiple, or on 0.
    """
    for multiple in multiples:
        whole = 2 * NUM_WIDTHS * multiple
        grid = tuple(
            (2 * max_width * step + whole // 2) // whole * multiple
            for step in range(1, NUM_WIDTHS + 1)
        )
        if grid[0] > 0 and len(set(grid)) == NUM_WIDTHS:
            return grid
    raise ValueError(
        f"max_width={max_width} is too small: its ten widths would not be different; "
        f"use at least {NUM_WIDTHS * multiples[-1]}"
    )


def index_of(width: int, grid: tuple[int, ...]) -> int:
    """Which option of a grid a width is.

    Raises:
        ValueError: it is none of them.
    """
    if width not in grid:
        raise ValueError(f"width {width} is not one of {grid}")
    return grid.index(width)


def one_hot(indices: Sequence[int], options: int) -> Int32[np.ndarray, "n options"]:
    """Decided choices: row i has its 1 at ``indices[i]``."""
    return np.eye(options, dtype=np.int32)[np.asarray(indices, int)]


def width_of(choice: Num[Array | np.ndarray, " options"], grid: tuple[int, ...]) -> jax.Array:
    """The chosen width, int32 of an int32 choice; the expected one of float weights."""
    return jnp.asarray(choice) @ jnp.asarray(grid, choice.dtype)


def mask_of(choice: Num[Array | np.ndarray, " options"], grid: tuple[int, ...]) -> jax.Array:
    """Which of the largest width's channels exist: the first; probabilities of float weights."""
    exists = np.arange(grid[-1]) < np.asarray(grid)[:, None]
    return jnp.asarray(choice) @ jnp.asarray(exists, choice.dtype)
