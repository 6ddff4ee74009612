"""Pixels of a picture, resized.

Invariant: level 0 is -1, level 255 is 1.
"""

from __future__ import annotations

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from micronets_jax.data import pictures
from micronets_jax.data.frontends.registry import register


@register("pixels")
@dataclasses.dataclass(frozen=True)
class Pixels:
    """Pictures stretched to one size, in grey or in colour, from -1 (black) to 1 (white).

    Attributes:
        rows, columns: of the size.
        channels: 1 (grey) or 3 (red, green, blue).
    """

    rows: int = 50
    columns: int = 50
    channels: int = 1

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1:
            raise ValueError(f"rows={self.rows}, columns={self.columns}: give at least 1")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: give 1 (grey) or 3 (colour)")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, channels."""
        return self.rows, self.columns, self.channels

    def read(self, path: pathlib.Path) -> UInt8[np.ndarray, "1 rows columns channels"]:
        """The one picture of a file.

        Raises:
            DataError: the file cannot be read.
        """
        return pictures.read(path, self.shape)[None]

    def __call__(
        self, pixels: Shaped[Array | np.ndarray, "batch rows columns channels"], /
    ) -> Float[Array, "batch rows columns channels"]:
        """Levels 0 to 255 as floats in [-1, 1]."""
        return jnp.asarray(pixels, jnp.float32) / 127.5 - 1
