"""Choices: weights over the options of each decision, how they are sampled and decided.

Invariant: a choice is a pytree of arrays whose last axis runs over options and sums to one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num, PyTree

# The leading underscores leave the axes unbound: each leaf has its own.
Logits = PyTree[Float[Array, "*_decisions _options"]]
Choice = PyTree[Num[Array | np.ndarray, "*_decisions _options"]]


def gumbel_softmax(
    key: Key[Array, ""], logits: Logits, temperature: float | Float[Array, ""]
) -> Choice:
    """One relaxed sample per decision: ``softmax((logits + gumbel) / temperature)``.

    The limit at temperature 0 is a draw from ``softmax(logits)`` (Jang et al., 2017, section 2).
    """
    leaves, treedef = jax.tree.flatten(logits)
    keys = jax.random.split(key, len(leaves))
    noisy = [x + jax.random.gumbel(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return treedef.unflatten([jax.nn.softmax(x / temperature, axis=-1) for x in noisy])


def straight_through(choice: Choice) -> Choice:
    """The likeliest option, one-hot, with the gradient of the soft choice."""
    return jax.tree.map(lambda p: p + jax.lax.stop_gradient(_one_hot(p) - p), choice)


def expected(logits: Logits) -> Choice:
    """The distribution itself: ``softmax(logits)``."""
    return jax.tree.map(lambda x: jax.nn.softmax(x, axis=-1), logits)


def decided(choice: Choice) -> Choice:
    """The likeliest option of each decision, one-hot; ties go to the first."""
    return jax.tree.map(_one_hot, choice)


def _one_hot(weights: Float[Array, "*decisions options"]) -> Float[Array, "*decisions options"]:
    return jax.nn.one_hot(jnp.argmax(weights, axis=-1), weights.shape[-1], dtype=weights.dtype)
