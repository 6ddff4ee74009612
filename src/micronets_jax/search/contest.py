"""From proposals to one network: exact costs, short trainings, held-out data.

Invariant: what :func:`decide` returns fits every limit by the exact costs.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from micronets_jax import recipes, supernet, training
from micronets_jax.decisions import Choice
from micronets_jax.network import Network
from micronets_jax.search import base
from micronets_jax.search.base import Problem, Proposal

TRIALS_AT_ONCE = 2
"""Trained side by side: networks this small leave most of a machine idle, and each still computes
the same bits."""


class Trial(NamedTuple):
    """How a proposal did; the less its held-out loss the better."""

    proposal: Proposal
    network: Network
    loss: float


def decide(
    proposals: Sequence[Proposal],
    settings: recipes.Search,
    problem: Problem,
    fallback: Choice,
) -> tuple[Choice, list[Trial]]:
    """The choice to build, and the trials that say so, the best first.

    The first ``settings.trials`` proposals that fit and that are different networks are trained
    from scratch, each to the end of its own short schedule: losses at a rate that has not fallen
    yet say little of those at the end, and favour shallow networks. A single one wins untrained.

    Args:
        proposals: the most promising first.
        fallback: a choice that fits, taken where no proposal does.
    """
    entrants: dict[tuple, tuple[Proposal, Network]] = {}
    for proposal in proposals:
        member = problem.space.decode(proposal.choice)
        if problem.budget.fits(member):
            entrants.setdefault(_shape(member), (proposal, member))
    chosen = list(entrants.values())[: settings.trials]
    if len(chosen) < 2:
        return (chosen[0][0].choice if chosen else fallback), []
    losses = _train([member for _, member in chosen], settings, problem)
    trials = [Trial(*pair, loss) for pair, loss in zip(chosen, losses, strict=True)]
    trials.sort(key=lambda trial: trial.loss)
    return trials[0].proposal.choice, trials


def _train(networks: list[Network], settings: recipes.Search, problem: Problem) -> list[float]:
    """The held-out loss of each after the same training."""
    recipe = recipes.FloatTraining(
        epochs=settings.trial_epochs,
        batch_size=settings.batch_size // 2,
        learning_rate=settings.learning_rate,
        final_learning_rate=settings.final_learning_rate,
        weight_decay=settings.weight_decay,
        precision=settings.precision,
    )
    seed, key = problem.seed, jax.random.key(problem.seed)
    prepared = training.prepare(problem.halves[0], problem.inputs, recipe, seed=seed)
    num_steps = prepared.num_batches(recipe.batch_size) * recipe.epochs
    judged_by = base.held_out(problem)

    def trial(network: Network) -> float:
        fresh = supernet.init(key, network)
        start = training.init(fresh["params"], fresh["batch_stats"], recipe, num_steps)
        model = training.float_model(network, precision=recipe.precision)
        epochs = training.fit(model, start, prepared, training.as_prepared, recipe, seed=seed)
        *_, (state, _) = epochs
        variables = {"params": state.trainable, "batch_stats": state.stats}

        @jax.jit
        def loss(variables: training.Variables, x: Array, labels: Array) -> Array:
            logits = jnp.asarray(supernet.Supernet(network).apply(variables, x))
            return training.cross_entropy(logits, labels)

        return float(np.mean([loss(variables, x, labels) for x, labels in judged_by]))

    with concurrent.futures.ThreadPoolExecutor(TRIALS_AT_ONCE) as pool:
        return list(pool.map(trial, networks))


def _shape(network: Network) -> tuple:
    """What distinguishes networks to a trained eye: all but the names of their layers."""
    return tuple((x.kind, x.in_channels, x.out_channels, x.kernel, x.stride) for x in network)
