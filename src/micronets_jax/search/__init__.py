"""Searches: from a space and limits to proposals, from proposals to one network.

Invariant: nothing outside of this room knows which search took place; ``base`` is the contract.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from micronets_jax import recipes
from micronets_jax.search.base import Batch, Metrics, Problem, Proposal, Search, run
from micronets_jax.search.contest import Trial, Verdict, decide, decide_front
from micronets_jax.search.dnas import DNAS
from micronets_jax.search.random import Random
from micronets_jax.search.tinynas import TinyNAS

__all__ = [
    "SEARCHES",
    "Batch",
    "Metrics",
    "Problem",
    "Proposal",
    "Search",
    "Trial",
    "Verdict",
    "decide",
    "decide_front",
    "of",
    "run",
]

SEARCHES: dict[type[recipes.Search], Callable[[Any, Problem], Search]] = {
    recipes.DNAS: DNAS,
    recipes.Random: Random,
    recipes.TinyNAS: TinyNAS,
}
"""Which search runs by which settings."""


def of(settings: recipes.Search, problem: Problem) -> Search:
    """The search that these settings are of, made for a problem.

    Raises:
        ValueError: it cannot search the problem's space.
    """
    return SEARCHES[type(settings)](settings, problem)
