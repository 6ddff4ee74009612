"""Choices: weights over the options of each decision, how they are sampled and decided.

Invariant: a choice is a pytree of arrays whose last axis runs over options and sums to one; options
of a decision are in the order of their size, so neighbours are alike.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num, PyTree

# The leading underscores leave the axes unbound: each leaf has its own.
Logits = PyTree[Float[Array, "*_decisions _options"]]
Choice = PyTree[Num[Array | np.ndarray, "*_decisions _options"]]
Sizes = dict[str, Float[Array, "*_decisions"]]
"""Of each decision but yes or no, a point on its options, the first being 1."""


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


def draw(key: Key[Array, ""], logits: Logits) -> Choice:
    """A one-hot draw from ``softmax(logits)``, float32, without gradient."""
    return decided(jax.lax.stop_gradient(gumbel_softmax(key, logits, 1.0)))


def between(key: Key[Array, ""], logits: Logits) -> Choice:
    """A point between two draws, through which decisions learn what a draw would cost.

    With ``a`` and ``b`` drawn from ``softmax(logits)`` and ``u`` uniform, the point is
    ``a + u (b - a)`` in all decisions. Integrated over ``u``, the derivative of a loss along this
    line is the loss of ``b`` less that of ``a``, and its part through one decision is that
    decision's share in the difference (integrated gradients; Sundararajan et al., 2017). Each share
    moves the logits of its decision by ``(b - a) / 2`` times itself. Of a single decision that is
    the gradient of the expected loss over draws, without bias: the loss of relaxed choices, which
    no network will ever have, plays no part.
    """
    keys = jax.random.split(key, 3)
    a, b, u = draw(keys[0], logits), draw(keys[1], logits), jax.random.uniform(keys[2])

    def point(a: Array, b: Array, logits: Array) -> Array:
        share = jnp.sum((b - a) * logits, axis=-1, keepdims=True) / 2
        return a + (b - a) * (u + share - jax.lax.stop_gradient(share))

    return jax.tree.map(point, a, b, logits)


def yes_or_no(shape: tuple[int, ...]) -> bool:
    """Whether decisions of this shape have two options, yes first, not sizes with neighbours."""
    return shape[-1] == 2


def all_yes(choice: Choice) -> Choice:
    """The same with a yes, the first option, to every yes or no."""
    return {
        name: jnp.zeros_like(leaf).at[..., 0].set(1) if yes_or_no(leaf.shape) else leaf
        for name, leaf in choice.items()
    }


def spread(gradient: Logits, reach: float) -> Logits:
    """Of each option's gradient a part for its neighbours, by a Gaussian ``reach`` options wide.

    A draw says something of one option; a little more or less is alike. Yes or no is left as it is.
    """

    def one(leaf: Array) -> Array:
        if not reach or yes_or_no(leaf.shape):
            return leaf
        options = np.arange(leaf.shape[-1])
        distance = np.subtract.outer(options, options)
        return leaf @ jnp.asarray(np.exp(-np.square(distance / reach) / 2), leaf.dtype)

    return jax.tree.map(one, gradient)


def sizes(logits: Logits) -> Sizes:
    """The mean options."""
    return {
        name: jax.nn.softmax(leaf) @ jnp.arange(1, leaf.shape[-1] + 1, dtype=leaf.dtype)
        for name, leaf in logits.items()
        if not yes_or_no(leaf.shape)
    }


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
