"""Random search: members of the space that fit and leave little unused, each as likely as any.

Invariant: nothing is learned, so what another search finds is worth what it adds to this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from micronets_jax import accelerators, decisions, recipes
from micronets_jax.budgets import Budget
from micronets_jax.decisions import Choice
from micronets_jax.search.base import Batch, Metrics, Problem, Proposal
from micronets_jax.spaces import Space

TIGHT = 0.8
"""Share of the tightest limit that a member has to use: what is far smaller is no rival."""

DRAWS, ROUNDS = 4096, 16
"""Members drawn at once, and how often before giving up."""


class State(NamedTuple):
    """Nothing but the number of steps, of which there are none."""

    step: Int[Array, ""]


@dataclasses.dataclass(frozen=True, eq=False)
class Random:
    """The search as ``search.base.Search`` has it."""

    settings: recipes.Random
    problem: Problem

    def init(self, key: Key[Array, ""]) -> State:
        """Nothing is learned."""
        return State(jnp.zeros((), jnp.int32))

    def step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """Nothing is learned."""
        return State(state.step + 1), {}

    def proposals(self, state: State) -> list[Proposal]:
        """As many as there are trials."""
        rng = np.random.default_rng(self.problem.seed)
        members = draw(rng, self.problem.space, self.problem.budget)
        return [
            Proposal(f"random {i}", choice)
            for i, choice in zip(range(1, self.settings.trials + 1), members, strict=False)
        ]

    def variables(self, state: State) -> dict[str, Any]:
        """There is no supernet."""
        return {}


def draw(rng: np.random.Generator, space: Space, budget: Budget) -> Iterator[Choice]:
    """Uniform draws that fit and use :data:`TIGHT` of the tightest limit, until none is found in
    :data:`DRAWS` times :data:`ROUNDS`."""
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
