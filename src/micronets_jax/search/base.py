"""The contract of searches: what one is given, what it has to be, and the loop that runs any.

Invariant: a search is pure; its state, the problem and the settings decide all that follows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from micronets_jax import accelerators, recipes
from micronets_jax.budgets import Budget
from micronets_jax.decisions import Choice
from micronets_jax.losses import CROSS_ENTROPY, Loss
from micronets_jax.spaces import Space
from micronets_jax.training import Examples, Inputs, Progress, Variables, computed_ahead

Metrics = dict[str, Array]
"""Whatever a search has to say of a step, by name; ``loss`` and ``accuracy`` are drawn if there,
the latter where the loss is of classes."""

HELD_OUT_SIZE, HELD_OUT_BATCHES = 256, 6
"""Of what networks are judged by while searching."""


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What any search is given.

    Attributes:
        space: what may be chosen.
        budget: what the result must fit.
        halves: of the training data: the first trains weights, the second is held out from them
            and judges architectures.
        inputs: front end and augmentation of training examples.
        frontend: from raw examples to features, without augmentation.
        seed: of samples, of the order of examples and of augmentation.
        mesh: from ``accelerators.mesh``; examples and sampled architectures are sharded over it.
        loss: what weights are trained by and architectures judged by.
        front: limits that one search serves, ``budget`` among them; empty where it serves
            ``budget`` alone.
    """

    space: Space
    budget: Budget
    halves: tuple[Examples, Examples]
    inputs: Inputs
    frontend: Callable[[Array], Array]
    seed: int
    mesh: jax.sharding.Mesh | None = None
    loss: Loss = CROSS_ENTROPY
    front: tuple[Budget, ...] = ()

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """All limits that the search serves."""
        return self.front or (self.budget,)

    def each(self) -> list[Problem]:
        """This problem once for each of the limits: it differs in ``budget`` alone."""
        return [dataclasses.replace(self, budget=budget) for budget in self.budgets]


class Batch(NamedTuple):
    """Inputs and targets of a step, one batch from each half of :class:`Problem`."""

    weight_examples: Array
    weight_targets: Num[Array, "half ..."]
    judged_examples: Array
    judged_targets: Num[Array, "half ..."]


class Proposal(NamedTuple):
    """A choice that a search proposes.

    Attributes:
        name: shown in reports.
        choice: int32 one-hot.
        loss: held-out loss under shared weights, None where the search did not evaluate it.
    """

    name: str
    choice: Choice
    loss: float | None = None


@runtime_checkable
class State(Protocol):
    """A pytree of arrays that counts its steps."""

    @property
    def step(self) -> Int[Array, ""]:
        """Steps taken so far, int32 []."""
        ...


S = TypeVar("S", bound=State)


@runtime_checkable
class Search(Protocol[S]):
    """What a search has to be; it is made of its settings and a :class:`Problem`.

    Raises ``ValueError`` when made for a space that it cannot search.

    Where a problem has a front, one state serves all of it: a search is made of each of
    ``Problem.each()``, one of them trains, and each proposes, from that state, for its own
    ``Problem.budget``. A search that learns something of limits learns it of ``Problem.budgets``.
    """

    def init(self, key: Key[Array, ""]) -> S:
        """The state before the first step."""
        ...

    def step(self, state: S, batch: Batch) -> tuple[S, Metrics]:
        """The next state and the step's metrics; pure, compiled by :func:`run`, called only where
        the settings have epochs."""
        ...

    def proposals(self, state: S) -> list[Proposal]:
        """Members of the space to choose from for the problem's budget, the most promising first;
        not all need fit."""
        ...

    def variables(self, state: S) -> Variables:
        """Weights ``{"params", "batch_stats"}`` of the supernet, empty where there is none."""
        ...


def num_steps(settings: recipes.Search, problem: Problem) -> int:
    """Steps of the whole search."""
    return settings.epochs * _steps_per_epoch(settings, problem)


def run(
    search: Search[S],
    state: S,
    settings: recipes.Search,
    problem: Problem,
    progress: Progress | None = None,
) -> Iterator[tuple[S, dict[str, int | float]]]:
    """Run from ``state`` to the last epoch.

    Args:
        search: any search.
        state: from ``init``, or yielded by an earlier, interrupted call.
        settings: epochs and batch size.
        problem: what the search was made for.
        progress: called with steps done, steps in all and metrics every few steps.

    Yields:
        The state after each epoch, and the epoch's mean metrics.
    """
    total, num_batches = num_steps(settings, problem), _steps_per_epoch(settings, problem)
    step = jax.jit(search.step, out_shardings=accelerators.replicated(problem.mesh))
    state = accelerators.place(state, problem.mesh)
    batches = _batches(settings, problem)
    for epoch in range(int(state.step) // max(num_batches, 1), settings.epochs):
        seen = []
        for i, batch in enumerate(batches(epoch), 1):
            state, metrics = step(state, batch)
            seen.append(metrics)
            if progress and (i % 10 == 0 or i == num_batches):
                done = epoch * num_batches + i
                progress(done, total, {name: float(value) for name, value in metrics.items()})
        mean = jax.tree.map(lambda *leaves: float(np.mean(leaves)), *jax.device_get(seen))
        yield state, {"epoch": epoch + 1, **mean}


def held_out(
    problem: Problem,
) -> list[tuple[Float[Array, "batch ..."], Num[Array, "batch ..."]]]:
    """Batches of features, not augmented, and labels of the held-out half."""
    split = problem.halves[1]
    compute = jax.jit(problem.frontend)
    batches = split.batches(min(HELD_OUT_SIZE, len(split)), problem.seed, 0)
    return [
        (compute(clips), jnp.asarray(labels))
        for (clips, labels), _ in zip(batches, range(HELD_OUT_BATCHES), strict=False)
    ]


def examples(
    problem: Problem, half: int, count: int
) -> tuple[Float[Array, "batch ..."], Num[Array, "batch ..."]]:
    """Features, not augmented, and labels of up to ``count`` examples of a half, as one batch."""
    split = problem.halves[half]
    raw, labels = next(iter(split.batches(min(count, len(split)), problem.seed, 0)))
    return jax.jit(problem.frontend)(raw), jnp.asarray(labels)


def _steps_per_epoch(settings: recipes.Search, problem: Problem) -> int:
    """Steps until the smaller half has been seen once."""
    return min(part.num_batches(settings.batch_size // 2) for part in problem.halves)


def _batches(settings: recipes.Search, problem: Problem) -> Callable[[int], Iterator[Batch]]:
    """From the number of an epoch to its batches, after front end and augmentation."""
    key = jax.random.key(problem.seed)

    @jax.jit
    def prepare(number: Array, raw: Batch) -> Batch:
        first, second = jax.random.split(jax.random.fold_in(key, number))
        return Batch(*problem.inputs(first, *raw[:2]), *problem.inputs(second, *raw[2:]))

    def of_epoch(epoch: int) -> Iterator[Batch]:
        size = settings.batch_size // 2
        rows = accelerators.share(problem.mesh, size)
        halves = (part.batches(size, problem.seed, epoch, rows) for part in problem.halves)
        begin = epoch * _steps_per_epoch(settings, problem)

        def prepared(numbered: tuple[int, tuple]) -> Batch:
            number, (first, second) = numbered
            placed = accelerators.place(Batch(*first, *second), problem.mesh, "data")
            return prepare(number, placed)

        raw = enumerate(zip(*halves, strict=False), begin)
        return computed_ahead(prepared, raw, problem.mesh)

    return of_epoch
