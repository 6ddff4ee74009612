"""From proposals to one network: exact costs, short trainings, held-out data.

Invariant: what :func:`decide` returns fits every limit by the exact costs.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from micronets_jax import derive, recipes, supernet, training
from micronets_jax.budgets import Budget
from micronets_jax.decisions import Choice
from micronets_jax.network import Network
from micronets_jax.search import base
from micronets_jax.search.base import Problem, Proposal

TRIALS_AT_ONCE = 2
"""Trained side by side: networks this small leave most of a machine idle, and each still computes
the same bits."""


class Trial(NamedTuple):
    """A proposal after its short training, and the held-out loss it reached."""

    proposal: Proposal
    network: Network
    loss: float


class Verdict(NamedTuple):
    """The choice to build, int32 one-hot, and all trials that it was selected by, by rising
    held-out loss."""

    choice: Choice
    trials: list[Trial]


Entered = dict[tuple, tuple[Proposal, Network]]
"""Proposals with their networks, by what tells these apart (:func:`_shape`)."""


def decide(
    proposals: Sequence[Proposal],
    settings: recipes.Search,
    problem: Problem,
    fallback: Choice,
) -> Verdict:
    """The choice to build for the problem's budget, and the trials it was selected by.

    The first ``settings.trials`` distinct networks that fit are trained from scratch, each to the
    end of its own short schedule: losses before the learning rate has fallen predict those at the
    end poorly, and favour shallow networks. A single one wins untrained.

    Args:
        proposals: the most promising first.
        settings: trials and their training.
        problem: space, limits and data.
        fallback: a choice that fits, taken where no proposal does.

    Returns:
        The choice, int32 one-hot, and the trials that fit, by rising held-out loss; without trials
        where fewer than two networks enter.
    """
    alone = dataclasses.replace(problem, front=())
    (verdict,) = decide_front([proposals], settings, alone, [fallback])
    return verdict


def decide_front(
    proposals: Sequence[Sequence[Proposal]],
    settings: recipes.Search,
    problem: Problem,
    fallbacks: Sequence[Choice],
) -> list[Verdict]:
    """:func:`decide` for each of the problem's budgets, with one set of trials.

    The budget in the middle enters as many proposals as it would alone. What it shows of the ways
    in which they were made holds for its neighbours, so each of the others enters half as many, two
    at least: those of its own whose ways did best there, by :class:`Proposal`'s names. A network
    that several enter is trained once. Each budget takes the best of all that fit it and use no
    less of its tightest limit than the least of its own, whoever entered them: short trainings
    favour small networks, so those of tighter budgets would win where they should not.

    Args:
        proposals: for each budget, the most promising first.
        settings: trials of a budget alone, and their training.
        problem: space, limits and data.
        fallbacks: for each budget a choice that fits, taken where no proposal does.

    Returns:
        What :func:`decide` gives, for each budget in their order.
    """
    each = [
        _entrants(offered, settings.trials, one)
        for offered, one in zip(proposals, problem.each(), strict=True)
    ]
    train = functools.cache(lambda: _trainer(settings, problem))  # nothing where nobody competes
    trials: dict[tuple, Trial] = {}

    def compare(entered: Entered) -> None:
        new = {shape: pair for shape, pair in entered.items() if shape not in trials}
        losses = train()([proposal.choice for proposal, _ in new.values()]) if new else []
        for (shape, pair), loss in zip(new.items(), losses, strict=True):
            trials[shape] = Trial(*pair, loss)

    leader = len(each) // 2
    if len(each[leader]) > 1:
        compare(each[leader])
        each = [
            one if i == leader else _likeliest(one, settings.trials, list(trials.values()))
            for i, one in enumerate(each)
        ]
    compare({shape: pair for one in each if len(one) > 1 for shape, pair in one.items()})
    ordered = sorted(trials.values(), key=lambda trial: trial.loss)
    found = []
    for one, budget, fallback in zip(each, problem.budgets, fallbacks, strict=True):
        if len(one) < 2:
            found.append(Verdict(next(iter(one.values()))[0].choice if one else fallback, []))
            continue
        least = min(_used(budget, network) for _, network in one.values())
        fitting = [
            trial
            for trial in ordered
            if budget.fits(trial.network) and _used(budget, trial.network) >= least
        ]
        found.append(Verdict(fitting[0].proposal.choice, fitting))
    return found


def _likeliest(entered: Entered, trials: int, seen: list[Trial]) -> Entered:
    """Half of the trials, two at least, made in the ways that did best in what was seen; other ways
    come last."""
    losses = {trial.proposal.name: trial.loss for trial in seen}
    ordered = sorted(entered.items(), key=lambda item: losses.get(item[1][0].name, float("inf")))
    return dict(ordered[: max(2, trials // 2)])


def _used(budget: Budget, network: Network) -> float:
    """The share of its tightest limit that the network uses; 0 without limits."""
    return max(map(float, budget.usage(network).values()), default=0.0)


def _entrants(proposals: Sequence[Proposal], count: int, problem: Problem) -> Entered:
    """The first proposals that fit and differ, with their networks, by what tells these apart."""
    found: Entered = {}
    for proposal in proposals:
        member = problem.space.decode(proposal.choice)
        if len(found) < count and problem.budget.fits(member):
            found.setdefault(_shape(member), (proposal, member))
    return found


def _trainer(
    settings: recipes.Search, problem: Problem
) -> Callable[[Sequence[Choice]], list[float]]:
    """A function from choices to the held-out loss of each after the same training.

    The supernet is trained, masked to one member and initialised with that member's weights: the
    same arithmetic as training the member alone, but one compiled program serves all members.
    """
    recipe = recipes.FloatTraining(
        epochs=settings.trial_epochs,
        batch_size=settings.batch_size // 2,
        learning_rate=settings.learning_rate,
        final_learning_rate=settings.final_learning_rate,
        weight_decay=settings.weight_decay,
        precision=settings.precision,
    )
    space, key = problem.space, jax.random.key(problem.seed)
    largest = space.supernetwork()
    model = supernet.Supernet(largest, precision=settings.precision)

    def forward(
        trainable: training.Variables, stats: training.Variables, x: Array
    ) -> tuple[Array, training.Variables]:
        variables = {"params": trainable, "batch_stats": stats["batch_stats"]}
        logits, changed = model.apply(
            variables, x, stats["architecture"], train=True, mutable=["batch_stats"]
        )
        return logits, {**stats, **changed}

    @jax.jit
    def judged(state: training.State, x: Array, labels: Array) -> Array:
        variables = {"params": state.trainable, "batch_stats": state.stats["batch_stats"]}
        logits = jnp.asarray(model.apply(variables, x, state.stats["architecture"]))
        return problem.loss.value(logits, labels, x)

    prepared = training.prepare(problem.halves[0], problem.inputs, recipe, seed=problem.seed)
    held_out = base.held_out(problem)
    masks = jax.jit(lambda choice: supernet.architecture(space, choice))
    num_steps = len(prepared.steps)
    step = jax.jit(
        training.make_step(
            training.Model(forward), training.as_prepared, recipe, num_steps, key, problem.loss
        )
    )

    def begin(choice: Choice) -> training.State:
        member = space.decode(choice)
        fresh = derive.embed(supernet.init(key, member), largest)
        stats = {
            "batch_stats": fresh["batch_stats"],
            "architecture": masks(jax.tree.map(np.float32, choice)),
        }
        return first._replace(trainable=fresh["params"], stats=stats)

    def trial(choice: Choice) -> float:
        state = begin(choice)
        for batch in prepared.steps:
            state, _ = step(state, *batch)
        return float(np.mean([judged(state, x, labels) for x, labels in held_out]))

    def train(choices: Sequence[Choice]) -> list[float]:
        with concurrent.futures.ThreadPoolExecutor(TRIALS_AT_ONCE) as pool:
            return list(pool.map(trial, choices))

    zeros = derive.embed({"params": {}, "batch_stats": {}}, largest)
    first = training.init(zeros["params"], {}, recipe, num_steps)
    return train


def _shape(network: Network) -> tuple:
    """Kind, channels, kernel and stride of every layer: what tells networks apart but for names."""
    return tuple((x.kind, x.in_channels, x.out_channels, x.kernel, x.stride) for x in network)
