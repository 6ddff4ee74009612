"""Layouts: proportions of widths, learned or not, made as wide as the limits allow.

Invariant: what :func:`fitting` returns fits by the exact costs, or its space has nothing that does
in these proportions.
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
"""What proportions are multiplied by, 2 % apart; 1 makes one of them as wide as its largest."""

SMOOTH = 4
"""Order of the norm that stands for the most used limit where widths are balanced."""

TURNS = 48
"""Of the fixed point that balances widths: each halves its distance."""

FULL = 0.998
"""Share of the limits that balanced widths are to use, so that what is left of the distance does
not exceed them."""


NARROW = 0.2
"""Of a narrow stem to what follows."""


class Layout(NamedTuple):
    """A kind of network: widths up to a common factor, and all else decided.

    Attributes:
        name: for people.
        widths: in proportion to each other.
        others: int32 one-hot, of all decisions that are no widths.
    """

    name: str
    widths: Widths
    others: Choice


def fitting(space: Space, budget: Budget, layouts: Sequence[Layout]) -> list[Proposal]:
    """Each layout at the largest factor at which it fits, in the space's own widths."""
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
    """These widths times the largest of :data:`FACTORS` at which what ``choose`` makes of them
    fits; the least of these factors where nothing does."""

    def times(factor: Array) -> Widths:
        return jax.tree.map(lambda width: factor * width, widths)

    fits = jax.vmap(lambda factor: budget.fits(space.network(choose(times(factor)))))
    factors = jnp.asarray(FACTORS)
    return times(factors[jnp.argmax(fits(factors).at[-1].set(True))])


def shares(taken: Decisions, stem: float = 1.0, rise: float = 0.0) -> Widths:
    """Proportions to the largest widths: even by default.

    Args:
        stem: of the first layer to what follows.
        rise: by how much more the last width is than the one after the stem, linearly between, as
            RegNet has it (Radosavovic et al., 2020, section 3.3).
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
    """Widths at which one per cent more of any of them costs the same, as large as the limits
    allow.

    The condition has one multiplier: that cost, ``w dC/dw``, is the same for all widths between
    their least and their largest. It is met by a fixed point: each width is multiplied by the root
    of how much less it costs than the multiplier says, the multiplier divided by the used share of
    the limits. A convolution on large maps stays narrow, one on small maps becomes wide.

    Args:
        others: weights of all decisions that are no widths.
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
        # A smooth maximum: by the true one, widths that only the second limit feels were free.
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
    """All blocks, then without the deepest, and so on; of anything categorical the middle option.

    Args:
        most: how many patterns at most.
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
    """Layouts that take no training, each of all blocks and without the deepest: balanced widths;
    behind a narrow stem rising ones, and even ones; even ones throughout."""
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
