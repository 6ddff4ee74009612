"""Decisions and choices: what there is to decide, how it is sampled, mutated and learned.

Invariant: a choice is a pytree of arrays whose last axis runs over options and sums to one. Options
of a width are rising channel counts; the first option of a binary decision is yes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num, PyTree

Kind = Literal["width", "binary", "categorical"]

# The leading underscores leave the axes unbound: each leaf has its own.
Logits = PyTree[Float[Array, "*_decisions _options"]]
Choice = PyTree[Num[Array | np.ndarray, "*_decisions _options"]]
Widths = dict[str, Float[Array, "*_decisions"]]
"""By name of a width decision, real channel counts [decisions] within the range of its options."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """Decisions of one kind that a choice holds in one array [decisions, options].

    Attributes:
        kind: ``width``, channel counts; ``binary``, a block or its skip; ``categorical``, what has
            neither order nor neighbours, such as kernels, expansions, input sizes or bits.
        values: row i holds what the i-th decision chooses from: channel counts, rising; 1 and 0 of
            a binary one, yes first; any numbers of a categorical one. Rows are equally long.
        places: depth in the network of each decision, 0 at the first layer.
    """

    kind: Kind
    values: tuple[tuple[int, ...], ...]
    places: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.places) != len(self.values) or len({len(row) for row in self.values}) != 1:
            raise ValueError(
                f"{self.kind}: {len(self.values)} rows of values and {len(self.places)} places; "
                "give one place a row, and rows of one length"
            )
        for row in self.values:
            if self.kind == "binary" and row != (1, 0):
                raise ValueError(f"binary values {row}: give 1 and 0, yes first")
            if self.kind == "width" and list(row) != sorted({*row}):
                raise ValueError(f"widths {row}: give rising channel counts")

    @property
    def shape(self) -> tuple[int, int]:
        """Number of decisions, number of options."""
        return len(self.values), len(self.values[0])

    def value(self, weights: Num[Array | np.ndarray, "decisions options"]) -> jax.Array:
        """The chosen values [decisions]: exact int32 of an int32 choice, expectations of floats."""
        weights = jnp.asarray(weights)
        return jnp.sum(weights * jnp.asarray(self.values, weights.dtype), axis=-1)


Decisions = Mapping[str, Decision]
"""What a space leaves to decide, by name."""


# ---------------------------------------------------------------- members, on the host


def uniform(rng: np.random.Generator, decisions: Decisions, *count: int) -> Choice:
    """Int32 one-hot choices [*count, decisions, options], uniform over options."""
    return {
        name: _rows(rng.integers(0, options, (*count, taken)), options)
        for name, (taken, options) in _shapes(decisions)
    }


def mutate(rng: np.random.Generator, choice: Choice, rate: float) -> Choice:
    """The one-hot choices [..., decisions, options] with each decision redrawn uniformly with
    probability ``rate``."""
    return {
        name: np.where(
            rng.random((*leaf.shape[:-1], 1)) < rate,
            _rows(rng.integers(0, leaf.shape[-1], leaf.shape[:-1]), leaf.shape[-1]),
            np.asarray(leaf, np.int32),
        )
        for name, leaf in choice.items()
    }


def crossover(rng: np.random.Generator, first: Choice, second: Choice) -> Choice:
    """Uniform crossover of choices [..., decisions, options]: each decision from either parent with
    probability one half."""
    return {
        name: np.where(rng.random((*leaf.shape[:-1], 1)) < 0.5, leaf, second[name])
        for name, leaf in first.items()
    }


def neighbours(choice: Choice, decisions: Decisions) -> list[Choice]:
    """The one-hot choices that differ in one decision: by one option of a width, or in any other
    option of a binary or categorical decision."""
    found = []
    for name, decision in decisions.items():
        for i, at in enumerate(np.argmax(np.asarray(choice[name]), axis=-1)):
            others = range(decision.shape[1])
            if decision.kind == "width":
                others = [o for o in others if abs(o - at) == 1]
            for option in others:
                if option != at:
                    leaf = np.array(choice[name])
                    leaf[i] = _rows(option, leaf.shape[-1])
                    found.append({**choice, name: leaf})
    return found


def count(decisions: Decisions) -> int:
    """The number of choices; several may be one network, where blocks are left out."""
    return math.prod(options**taken for _, (taken, options) in _shapes(decisions))


def nearest(widths: Widths, decisions: Decisions) -> Choice:
    """The int32 one-hot choice of the options nearest to these widths; jittable."""
    return {
        name: jax.nn.one_hot(
            jnp.argmin(jnp.abs(jnp.asarray(decisions[name].values) - width[..., None]), axis=-1),
            decisions[name].shape[1],
            dtype=jnp.int32,
        )
        for name, width in widths.items()
    }


def _shapes(decisions: Decisions) -> list[tuple[str, tuple[int, int]]]:
    return [(name, decision.shape) for name, decision in decisions.items()]


def _rows(indices: np.ndarray | int, options: int) -> np.ndarray:
    return np.eye(options, dtype=np.int32)[indices]


# ---------------------------------------------------------------- samples, inside jit


def undecided(decisions: Decisions) -> Logits:
    """Logits of uniform distributions."""
    return {name: jnp.zeros(shape) for name, shape in _shapes(decisions)}


def interpolated(widths: Widths, decisions: Decisions) -> Choice:
    """Linear interpolation: weights on the two options beside each width, with the width (clipped
    to the range of its options) as their mean; differentiable."""

    def one(width: Array, row: Array) -> Array:
        return jax.vmap(lambda column: jnp.interp(width, row, column))(jnp.eye(len(row)))

    return {
        name: jax.vmap(one)(width, jnp.asarray(decisions[name].values, float))
        for name, width in widths.items()
    }


def around(widths: Widths, decisions: Decisions, reach: float) -> Logits:
    """Logits of a Gaussian in the logarithm of the channel count about each width.

    Args:
        widths: the centres.
        decisions: whose options get the logits.
        reach: standard deviation of the logarithm, so about a relative deviation.
    """
    return {
        name: -jnp.square(
            (jnp.log(jnp.asarray(decisions[name].values, float)) - jnp.log(width)[..., None])
            / reach
        )
        / 2
        for name, width in widths.items()
    }


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
    """A random point between two draws, whose gradient estimates that of the expected loss.

    With ``a`` and ``b`` drawn from ``softmax(logits)`` and ``u`` uniform, the point is
    ``a + u (b - a)`` in all decisions. Integrated over ``u``, the derivative of a loss along this
    line is the loss of ``b`` less that of ``a``, and the part through one decision is what
    integrated gradients attribute to it (Sundararajan et al., 2017). The backward pass multiplies
    each attribution by ``(b - a) / 2`` to give the gradient of its logits. For a single decision
    this is an unbiased estimate of the gradient of the expected loss over draws; the loss of
    relaxed choices, which are no networks, does not enter.
    """
    keys = jax.random.split(key, 3)
    a, b, u = draw(keys[0], logits), draw(keys[1], logits), jax.random.uniform(keys[2])

    def point(a: Array, b: Array, logits: Array) -> Array:
        share = jnp.sum((b - a) * logits, axis=-1, keepdims=True) / 2
        return a + (b - a) * (u + share - jax.lax.stop_gradient(share))

    return jax.tree.map(point, a, b, logits)


def all_yes(choice: Choice, decisions: Decisions) -> Choice:
    """The choice with yes, the first option, for every binary decision."""
    return {
        name: jnp.zeros_like(leaf).at[..., 0].set(1) if decisions[name].kind == "binary" else leaf
        for name, leaf in choice.items()
    }


def spread(gradient: Logits, decisions: Decisions, reach: float) -> Logits:
    """Gradients of widths smoothed over neighbouring options by the Gaussian of :func:`around`.

    A draw tells something of one width, and nearby widths cost nearly the same loss. Gradients of
    other kinds of decisions pass unchanged.
    """

    def one(name: str, leaf: Array) -> Array:
        if not reach or decisions[name].kind != "width":
            return leaf
        logs = np.log(decisions[name].values)
        near = np.exp(-np.square((logs[:, :, None] - logs[:, None, :]) / reach) / 2)
        return jnp.einsum("do,dop->dp", leaf, jnp.asarray(near, leaf.dtype))

    return {name: one(name, leaf) for name, leaf in gradient.items()}


def widths(logits: Logits, decisions: Decisions) -> Widths:
    """The mean channel count of each width decision."""
    return {
        name: decision.value(jax.nn.softmax(logits[name]))
        for name, decision in decisions.items()
        if decision.kind == "width"
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
