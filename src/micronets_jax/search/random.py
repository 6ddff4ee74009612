"""Random search: uniform draws among the members of a space that fit and use most of a limit.

Invariant: nothing is learned: this is the baseline that other searches are compared with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from micronets_jax import accelerators, decisions, recipes
from micronets_jax.budgets import Budget
from micronets_jax.decisions import Choice
from micronets_jax.search.base import Batch, Metrics, Problem, Proposal
from micronets_jax.spaces import Space
from micronets_jax.training import Variables

TIGHT = 0.8
"""Least share of its tightest limit that a drawn member uses; far smaller ones are no competitors
of networks that were searched for."""

DRAWS, ROUNDS = 4096, 16
"""Members drawn in one batch, and the largest number of batches."""


class State(NamedTuple):
    """The number of steps, always 0."""

    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True, eq=False)
class Random:
    """The search, see ``search.base.Search``; a run takes no steps of it."""

    settings: recipes.Random
    problem: Problem

    def init(self, key: Key[Array, ""]) -> State:
        """The only state."""
        return State(jnp.zeros((), jnp.int32))

    def step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """Counts the step; learns nothing and has no metrics."""
        return State(state.step + 1), {}

    def proposals(self, state: State) -> list[Proposal]:
        """As many draws as there are trials, fewer where :func:`draw` finds fewer."""
        rng = np.random.default_rng(self.problem.seed)
        members = draw(rng, self.problem.space, self.problem.budget)
        return [
            Proposal(f"random {i}", choice)
            for i, choice in zip(range(1, self.settings.trials + 1), members, strict=False)
        ]

    def variables(self, state: State) -> Variables:
        """There is no supernet."""
        return {}


def draw(rng: np.random.Generator, space: Space, budget: Budget) -> Iterator[Choice]:
    """One-hot choices by rejection sampling: uniform draws that fit and use at least :data:`TIGHT`
    of their tightest limit; ends after ``DRAWS * ROUNDS`` draws."""
    for _ in range(ROUNDS):
        choices = decisions.uniform(rng, space.decisions(), DRAWS)
        good = np.asarray(accelerators.once(_tight, space, budget, choices, static=(0, 1)))
        for i in np.flatnonzero(good):
            yield jax.tree.map(lambda leaf, i=i: leaf[i], choices)


def _tight(space: Space, budget: Budget, choices: Choice) -> Array:
    def one(choice: Choice) -> Array:
        network = space.network(choice)
        usage = jnp.stack([jnp.asarray(share) for share in budget.usage(network).values()])
        return budget.fits(network) & (jnp.max(usage) >= TIGHT)

    return jax.vmap(one)(choices)
