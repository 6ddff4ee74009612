"""Layouts: proportions of widths, learned or not, scaled up to the limits.

Invariant: what :func:`fitting` returns meets every limit by the exact costs, or no member of the
space with these proportions does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from micronets_jax import accelerators, decisions
from micronets_jax.budgets import Budget
from micronets_jax.decisions import Choice, Decisions, Widths
from micronets_jax.search.base import Proposal
from micronets_jax.spaces import Space

FACTORS = np.geomspace(4.0, 1 / 64, 256, dtype=np.float32)
"""Scale factors, 2 % apart; at 1 one width is as large as its largest option."""

SMOOTH = 4
"""Order p of the p-norm of the used shares, a smooth maximum over limits."""

TURNS = 48
"""Iterations of the fixed point of :func:`balanced`; each halves its distance."""

FULL = 0.998
"""Used share that :func:`balanced` aims at: below 1, so that the distance which is left after
:data:`TURNS` does not exceed a limit."""


NARROW = 0.2
"""Width of a narrow stem, as a share of the proportion of the layers behind it."""


class Layout(NamedTuple):
    """A kind of network: widths up to a common factor, and all else decided.

    Attributes:
        name: shown in reports.
        widths: channel counts up to a common factor.
        others: int32 one-hot choice of every decision that is not a width.
    """

    name: str
    widths: Widths
    others: Choice


def fitting(space: Space, budget: Budget, layouts: Sequence[Layout]) -> list[Proposal]:
    """Each layout at the largest factor at which it fits, rounded to the space's widths."""
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *[layout[1:] for layout in layouts])
    choices = accelerators.once(_fit, space, budget, *stacked, static=(0, 1))
    choices = jax.tree.map(np.asarray, choices)
    return [
        Proposal(layout.name, jax.tree.map(lambda leaf, i=i: leaf[i], choices))
        for i, layout in enumerate(layouts)
    ]


def _fit(space: Space, budget: Budget, widths: Widths, others: Choice) -> Choice:
    taken = space.decisions()

    def one(widths: Widths, others: Choice) -> Choice:
        def decided(widths: Widths) -> Choice:
            return decisions.nearest(widths, taken) | others

        return decided(widest(space, budget, widths, decided))

    return jax.vmap(one)(widths, others)


def widest(
    space: Space, budget: Budget, widths: Widths, choose: Callable[[Widths], Choice]
) -> Widths:
    """Widths scaled by the largest of :data:`FACTORS` that fits, by the least where none does.

    Args:
        space: what may be chosen.
        budget: limits, decided on exact costs.
        widths: channel counts by decision, before scaling.
        choose: from scaled widths to the choice that is priced.

    Returns:
        Scaled channel counts, float32, by decision.
    """

    def times(factor: Array) -> Widths:
        return jax.tree.map(lambda width: factor * width, widths)

    fits = jax.vmap(lambda factor: budget.fits(space.network(choose(times(factor)))))
    factors = jnp.asarray(FACTORS)
    return times(factors[jnp.argmax(fits(factors).at[-1].set(True))])


def shares(taken: Decisions, stem: float = 1.0, rise: float = 0.0) -> Widths:
    """Widths as shares of the largest options: the same share everywhere by default.

    Args:
        taken: the space's decisions.
        stem: factor on the share of the first layer.
        rise: how much larger the last layer's share is than that of the layer after the stem,
            linear in depth between, as in RegNet (Radosavovic et al., 2020, section 3.3).

    Returns:
        Channel counts, float32 [decisions], by name of the decision.
    """
    last = max(max(decision.places) for decision in taken.values())
    found = {}
    for name, decision in taken.items():
        if decision.kind == "width":
            places = np.asarray(decision.places)
            deep = 1 + rise * np.maximum(places - 1, 0) / max(last - 1, 1)
            share = np.where(places == 0, stem, deep) / (1 + rise)
            found[name] = jnp.asarray(share * [row[-1] for row in decision.values], float)
    return found


def balanced(space: Space, budget: Budget, others: Choice) -> Widths:
    """Widths of equal cost elasticity that use the limits up.

    The cost C is the p-norm of the used shares (:data:`SMOOTH`). Its elasticity ``w dC/dw`` is one
    Lagrange multiplier for every width strictly between its least and largest option: the
    stationarity condition of a maximal sum of log widths under a limit on C. A fixed point solves
    it: each iteration multiplies a width by the square root of multiplier over elasticity, and the
    multiplier by the inverse square root of the used share. So layers on large maps come out
    narrow, those on small maps wide.

    Args:
        space: what may be chosen.
        budget: limits; their used shares are made :data:`FULL`.
        others: weights of every decision that is not a width.

    Returns:
        Channel counts, float32 [decisions], by name of the decision; empty without widths.
    """
    taken = space.decisions()
    logs = {
        name: jnp.log(jnp.asarray(decision.values, float))
        for name, decision in taken.items()
        if decision.kind == "width"
    }
    if not logs:
        return {}
    least, most = (jax.tree.map(lambda row, end=end: row[:, end], logs) for end in (0, -1))

    def used(logs: Widths) -> tuple[Array, Array]:
        widths = jax.tree.map(jnp.exp, logs)
        choice = decisions.interpolated(widths, taken) | others
        usage = jnp.stack([jnp.asarray(x) for x in budget.usage(space.network(choice)).values()])
        # Under the true maximum, widths that only affect the second limit would cost nothing.
        return jnp.linalg.norm(usage, ord=SMOOTH), jnp.max(usage)

    def turn(at: tuple[Widths, Float[Array, ""]], _: None):
        logs, multiplier = at
        costs, share = jax.grad(used, has_aux=True)(logs)
        multiplier = multiplier - jnp.log(share / FULL) / 2
        moved = jax.tree.map(
            lambda log, cost, low, high: jnp.clip(
                log + (multiplier - jnp.log(jnp.maximum(cost, 1e-9))) / 2, low, high
            ),
            logs,
            costs,
            least,
            most,
        )
        return (moved, multiplier), None

    first = jax.tree.map(lambda low, high: (low + high) / 2, least, most)
    (logs, _), _ = jax.lax.scan(turn, (first, jnp.zeros(())), length=TURNS)
    return jax.tree.map(jnp.exp, logs)


def patterns(taken: Decisions, most: int = 2) -> dict[str, Choice]:
    """One-hot choices of binary and categorical decisions: all blocks, then one fewer at a time,
    the deepest removed first; the middle option of every categorical decision.

    Args:
        taken: the space's decisions.
        most: the largest number of patterns.
    """
    others = {name: decision for name, decision in taken.items() if decision.kind != "width"}
    pattern = {
        name: np.full(
            len(decision.values), 0 if decision.kind == "binary" else decision.shape[1] // 2
        )
        for name, decision in others.items()
    }
    blocks = [
        (place, name, i)
        for name, decision in others.items()
        if decision.kind == "binary"
        for i, place in enumerate(decision.places)
    ]
    found = {"": pattern}
    for count, (_, name, i) in enumerate(sorted(blocks, reverse=True)[: most - 1], 1):
        pattern = {**pattern, name: np.where(np.arange(len(pattern[name])) == i, 1, pattern[name])}
        found[f" less {count}"] = pattern
    return {
        label: {
            name: np.eye(others[name].shape[1], dtype=np.int32)[row]
            for name, row in pattern.items()
        }
        for label, pattern in found.items()
    }


def unlearned(space: Space, budget: Budget) -> list[Layout]:
    """Layouts that need no training, each with all blocks and without the deepest one: balanced;
    a narrow stem with rising or with even shares; even shares."""
    taken = space.decisions()
    kept = patterns(taken)

    def balance(others: Choice) -> Widths:
        weights = jax.tree.map(np.float32, others)
        return accelerators.once(balanced, space, budget, weights, static=(0, 1))

    kinds: dict[str, Callable[[Choice], Widths]] = {
        "balanced": balance,
        "rising": lambda _: shares(taken, stem=NARROW, rise=1.0),
        "narrow": lambda _: shares(taken, stem=NARROW),
        "even": lambda _: shares(taken),
    }
    return [
        Layout(f"{kind}{pattern}", widths(others), others)
        for kind, widths in kinds.items()
        for pattern, others in kept.items()
    ]
