"""The protocol of augmentations, and draws that several share.

Invariant: an augmentation is a pure function of its key and a batch.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int, Key, Shaped

from micronets_jax.data.dataset import Dataset
from micronets_jax.data.frontends import FrontEnd


@runtime_checkable
class Augmentation(Protocol):
    """A frozen record of strengths that is a pure function."""

    def __call__(
        self,
        key: Key[Array, ""],
        dataset: Dataset,
        frontend: FrontEnd,
        raw: Shaped[Array, "batch ..."],
        labels: Int[Array, " batch"],
    ) -> tuple[Float[Array, "batch rows columns channels"], Shaped[Array, "batch ..."]]:
        """Features of changed examples, and their targets: classes, or [batch, classes] shares."""
        ...


def either_way(key: Key[Array, ""], most: float, shape: tuple[int, ...]) -> Array:
    """Uniform draws between ``-most`` and ``most``."""
    return most * jax.random.uniform(key, shape, minval=-1.0)
