"""Mixup: blends of two examples and of their labels.

Invariant: shares of classes sum to 1. Source: Zhang et al., "mixup" (ICLR 2018).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from micronets_jax.data.dataset import Dataset
from micronets_jax.data.frontends import FrontEnd


@dataclasses.dataclass(frozen=True)
class Mixup:
    """Blends of two examples and of their labels (Zhang et al., 2018).

    Attributes:
        alpha: of the Beta distribution of shares: 0 blends nothing, 1 draws every share alike.
    """

    alpha: float = 0.3

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ValueError(f"alpha={self.alpha}: give 0 or more")

    def __call__(
        self,
        key: Key[Array, ""],
        dataset: Dataset,
        frontend: FrontEnd,
        raw: Shaped[Array, "batch ..."],
        labels: Shaped[Array, "batch ..."],
    ) -> tuple[Float[Array, "batch rows columns channels"], Shaped[Array, "batch ..."]]:
        """Blended features and the share of each class in them, of its own at least a half."""
        x = frontend(raw)
        if self.alpha == 0:
            return x, jax.nn.one_hot(labels, dataset.num_classes) if dataset.class_names else labels
        return blended(key, self.alpha, x, shares(dataset, labels, self.alpha))


def shares(
    dataset: Dataset, labels: Shaped[Array, "batch ..."], mixup: float
) -> Float[Array, "batch classes"]:
    """Labels as shares of each class, to be blended.

    Args:
        dataset: whose classes these are.
        labels: classes [batch].
        mixup: the option that asks for it.

    Raises:
        ValueError: there are no classes.
    """
    if not dataset.class_names:
        raise ValueError(f"mixup={mixup:g}: the data have no classes to blend; give 0")
    return jax.nn.one_hot(labels, dataset.num_classes)


def blended(
    key: Key[Array, ""],
    alpha: float,
    x: Float[Array, "batch rows columns channels"],
    shares: Float[Array, "batch classes"],
) -> tuple[Float[Array, "batch rows columns channels"], Float[Array, "batch classes"]]:
    """Each example and its shares, blended with a random other one; its own weight is at least 0.5.

    Args:
        key: of the draws.
        alpha: of the Beta distribution of shares.
        x: features.
        shares: of the classes, which sum to 1.

    Returns:
        Features [batch, rows, columns, channels], and shares [batch, classes] that still sum to 1.
    """
    share_key, partner_key = jax.random.split(key)
    share = jax.random.beta(share_key, alpha, alpha, (len(x),))
    share = jnp.maximum(share, 1 - share)
    partner = jax.random.permutation(partner_key, len(x))

    def blend(a: Array) -> Array:
        part = share.reshape(-1, *[1] * (a.ndim - 1))
        return part * a + (1 - part) * a[partner]

    return blend(x), blend(shares)
