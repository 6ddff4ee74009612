"""The protocol of augmentations, and draws that several share.

Invariant: an augmentation is a pure function of its key and a batch.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Key, Shaped

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
        labels: Shaped[Array, "batch ..."],
    ) -> tuple[Float[Array, "batch rows columns channels"], Shaped[Array, "batch ..."]]:
        """Features of changed examples, and their targets: labels, or [batch, classes] shares."""
        ...


@dataclasses.dataclass(frozen=True)
class Unchanged:
    """No augmentation: features as the front end computes them, and the labels."""

    def __call__(
        self,
        key: Key[Array, ""],
        dataset: Dataset,
        frontend: FrontEnd,
        raw: Shaped[Array, "batch ..."],
        labels: Shaped[Array, "batch ..."],
    ) -> tuple[Float[Array, "batch rows columns channels"], Shaped[Array, "batch ..."]]:
        """Features and labels."""
        return frontend(raw), labels


def either_way(key: Key[Array, ""], most: float, shape: tuple[int, ...]) -> Array:
    """Uniform draws between ``-most`` and ``most``."""
    return most * jax.random.uniform(key, shape, minval=-1.0)
