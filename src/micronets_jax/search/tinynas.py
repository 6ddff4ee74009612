"""One-shot search: one supernet for all members, then an evolution of members that fit.

Invariant: a state and a seed decide every state that follows, and the members proposed.

Source: TinyNAS's second stage (Lin et al., "MCUNet", NeurIPS 2020, section 3.1). The supernet is
trained by the sandwich rule with in-place distillation (Yu et al., "BigNAS", ECCV 2020, section
3.1), where the paper draws random members alone. TinyNAS's first stage, which space suits a board,
is ``spaces.survey``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from micronets_jax import accelerators, decisions, derive, recipes
from micronets_jax.decisions import Choice
from micronets_jax.losses import Loss, agreement, shares
from micronets_jax.search import base
from micronets_jax.search.base import Batch, Metrics, Problem, Proposal
from micronets_jax.spaces import Space
from micronets_jax.supernet import Supernet, architecture
from micronets_jax.supernet import init as init_supernet
from micronets_jax.training import Variables, kernels_only

POOL = 1024
"""Members that fit, drawn before training, from which every step takes some."""

DRAWS, ROUNDS = 1024, 32
"""Members costed in one call, and how many calls look for those that fit."""

FEWEST = 200
"""Members that have to fit, by estimate: of fewer an evolution has nothing to choose from."""

AT_ONCE = 10
"""Members judged in one call."""


class State(NamedTuple):
    """Everything a step reads and writes."""

    step: Int[Array, ""]
    params: Variables
    batch_stats: Variables
    optimizer: optax.OptState


class Member(NamedTuple):
    """A choice, int32 one-hot, and its held-out loss under the shared weights."""

    choice: Choice
    loss: float


@dataclasses.dataclass(frozen=True, eq=False)
class TinyNAS:
    """The search, see ``search.base.Search``.

    Metrics of a step: ``loss`` and, of classes, ``accuracy`` of the largest network on its training
    batch, and ``students``, the mean loss of the other members against the largest network's
    probabilities (0 during the warm-up). Only classes are distilled in place: with other losses the
    other members follow the targets as the largest one does.
    """

    settings: recipes.TinyNAS
    problem: Problem

    def __post_init__(self) -> None:
        members = decisions.count(self.problem.space.decisions())
        if members < self.settings.population:
            raise ValueError(
                f"population={self.settings.population}: the space has only {members} members; "
                "give a smaller population or a larger space"
            )

    def init(self, key: Key[Array, ""]) -> State:
        """New weights.

        Raises:
            ValueError: the limits leave too few members.
        """
        assert self._pool
        variables = init_supernet(key, self.problem.space.supernetwork())
        return State(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            optimizer=self._optimizer.init(variables["params"]),
        )

    def step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """The largest network alone during the warm-up, then the sandwich rule: largest, smallest
        and drawn members. Between the two, expanded channels are sorted by importance.
        """
        batch = accelerators.place(batch, self.problem.mesh, "data")
        state = jax.lax.cond(
            state.step == self._warmup_steps, self._sorted, lambda same: same, state
        )
        count = jnp.where(state.step < self._warmup_steps, 1, self.settings.samples)
        choices = self._sandwich(state.step)
        return self._update(state, batch.weight_examples, batch.weight_targets, choices, count)

    def proposals(self, state: State) -> list[Proposal]:
        """The last generation of :meth:`evolve`, the best first."""
        *_, last = self.evolve(state)
        return [
            Proposal(f"evolved {i}", member.choice, member.loss) for i, member in enumerate(last, 1)
        ]

    def variables(self, state: State) -> Variables:
        """Weights and batch-norm moments of the supernet."""
        return {"params": state.params, "batch_stats": state.batch_stats}

    # ------------------------------------------------------------ training

    def _sandwich(self, step: Int[Array, ""]) -> Choice:
        """Choices of a step: the largest, the smallest, and draws from the pool."""
        key = jax.random.fold_in(jax.random.key(self.problem.seed), step)
        drawn = jax.random.randint(key, (self.settings.samples - 2,), 0, self._pool_size)
        return jax.tree.map(
            lambda ends, pool: jnp.concatenate([ends, jnp.asarray(pool, jnp.float32)[drawn]]),
            self._ends,
            self._pool,
        )

    def _update(
        self, state: State, x: Array, targets: Array, choices: Choice, count: Int[Array, ""]
    ) -> tuple[State, Metrics]:
        """One optimiser step on the sum of the choices' gradients: the first choice's loss is
        against the targets, that of the others, where it is of classes, against the first one's
        probabilities.

        Choices run in a loop, not unrolled: one gradient takes half a minute to compile, one for
        each choice side by side took several times that.

        Args:
            state: before the step.
            x: inputs.
            targets: classes [batch], shares of classes [batch, classes], or what else the loss
                compares outputs with.
            choices: one-hot, stacked along the first axis.
            count: how many of the choices take part.
        """
        objective = self.problem.loss
        if objective.of_classes:
            targets = shares(targets, self._outputs)

        def loss(
            params: Variables, choice: Choice, wanted: Array
        ) -> tuple[Array, tuple[Array, Variables]]:
            outputs, batch_stats = self._forward(params, state.batch_stats, x, choice)
            return objective.value(outputs, wanted, x), (outputs, batch_stats)

        def one(turn: Array, before: tuple) -> tuple:
            sums, losses, teacher = before
            choice = jax.tree.map(lambda leaf: leaf[turn], choices)
            wanted = targets
            if objective.of_classes:
                says = jax.lax.stop_gradient(jax.nn.softmax(teacher))
                wanted = jnp.where(turn == 0, targets, says)
            (value, (outputs, batch_stats)), gradient = jax.value_and_grad(loss, has_aux=True)(
                state.params, choice, wanted
            )
            sums = jax.tree.map(jnp.add, sums, (gradient, batch_stats))
            return sums, losses.at[turn].set(value), jnp.where(turn == 0, outputs, teacher)

        zeros = jax.tree.map(jnp.zeros_like, (state.params, state.batch_stats))
        teacher = jnp.zeros((len(x), self._outputs))
        start = zeros, jnp.zeros(self.settings.samples), teacher
        (gradient, batch_stats), losses, teacher = jax.lax.fori_loop(0, count, one, start)
        updates, optimizer = self._optimizer.update(gradient, state.optimizer, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        moved = State(
            step=state.step + 1,
            params=params,
            batch_stats=jax.tree.map(lambda leaf: leaf / count, batch_stats),
            optimizer=optimizer,
        )
        students = jnp.sum(losses[1:]) / jnp.maximum(count - 1, 1)
        metrics = {"loss": losses[0], "students": students}
        if objective.of_classes:
            metrics["accuracy"] = agreement(teacher, targets)
        return moved, metrics

    def _forward(
        self, params: Variables, batch_stats: Variables, x: Array, choice: Choice
    ) -> tuple[Float[Array, "batch classes"], Variables]:
        """Logits of a member, and the running moments after its batch."""
        outputs: Any = self._model.apply(
            {"params": params, "batch_stats": batch_stats},
            x,
            architecture(self.problem.space, choice),
            train=True,
            mutable=["batch_stats"],
        )
        logits, changed = outputs
        return logits, changed["batch_stats"]

    def _sorted(self, state: State) -> State:
        """Expanded channels in order of importance, in weights, moments and optimiser state."""

        def by_layer(part: object) -> bool:
            return isinstance(part, dict)

        network = self.problem.space.supernetwork()
        order = derive.importance(network, state.params)
        return state._replace(
            params=derive.reorder(network, order, state.params),
            batch_stats=derive.reorder(network, order, state.batch_stats),
            optimizer=jax.tree.map(
                lambda part: derive.reorder(network, order, part) if by_layer(part) else part,
                state.optimizer,
                is_leaf=by_layer,
            ),
        )

    # ------------------------------------------------------------ evolution

    def evolve(self, state: State) -> Iterator[list[Member]]:
        """The population at first and after each generation, the best first.

        The best are parents; half of the children are mutants, half crossovers of two parents. Only
        children that fit and are new are evaluated (Lin et al., appendix).
        """
        settings, rng = self.settings, np.random.default_rng((self.problem.seed, 1))
        judge = self.judging(state)
        members = dict(zip(_names(self._members), _rows(self._members), strict=True))
        taken = list(members.items())[: settings.population]
        known, first = {name for name, _ in taken}, [choice for _, choice in taken]
        population = _ranked(first, judge(first))
        yield population
        for _ in range(settings.rounds):
            parents = population[: settings.parents]
            children = self._children(rng, [parent.choice for parent in parents], known)
            ranked = _ranked(children, judge(children)) if children else []
            population = sorted(parents + ranked, key=lambda member: member.loss)
            yield population

    def judging(self, state: State) -> Callable[[list[Choice]], list[float]]:
        """A function from members to their held-out losses under the shared weights.

        Batch-norm moments are recalibrated for each member on training examples; :data:`AT_ONCE`
        members share a call.
        """
        judged = _judging(self.problem.space, self.settings.precision, self.problem.loss)
        calibration, _ = base.examples(self.problem, 0, self.settings.calibration)
        x, labels = base.examples(self.problem, 1, self.settings.judged)

        def judge(choices: list[Choice]) -> list[float]:
            losses: list[float] = []
            for begin in range(0, len(choices), AT_ONCE):
                part = choices[begin : begin + AT_ONCE]
                full = _stacked(part + part[:1] * (AT_ONCE - len(part)))
                found = judged(state.params, state.batch_stats, calibration, x, labels, full)
                losses += np.asarray(found).tolist()[: len(part)]
            return losses

        return judge

    def _children(
        self, rng: np.random.Generator, parents: list[Choice], known: set[bytes]
    ) -> list[Choice]:
        """A new population of members that fit and are not in ``known``, which they join."""
        half, rate, among = self.settings.population // 2, self.settings.mutation, _stacked(parents)

        def some() -> Choice:
            taken = rng.integers(len(parents), size=DRAWS)
            return jax.tree.map(lambda leaf: leaf[taken], among)

        def mutants() -> Choice:
            return decisions.mutate(rng, some(), rate)

        def crossings() -> Choice:
            return decisions.crossover(rng, some(), some())

        children = self._new(half, mutants, known)
        children += self._new(self.settings.population - half, crossings, known)
        # Parents that are much alike have few crossovers.
        return children + self._new(self.settings.population - len(children), mutants, known)

    def _new(self, count: int, draw: Callable[[], Choice], known: set[bytes]) -> list[Choice]:
        """Up to ``count`` children that fit and are not in ``known``, which they join.

        ``draw`` makes :data:`DRAWS` of them at once, stacked.
        """
        found: list[Choice] = []
        for _ in range(ROUNDS):
            if len(found) == count:
                break
            children = draw()
            names = _names(children)
            for i in np.flatnonzero(np.asarray(self._fits(children))):
                if names[i] not in known and len(found) < count:
                    known.add(names[i])
                    found.append(jax.tree.map(lambda leaf, i=i: leaf[i], children))
        return found

    # ------------------------------------------------------------ what is fixed

    @functools.cached_property
    def _pool(self) -> Choice:
        """What every step takes some of: members that fit each of the problem's budgets."""
        if not self.problem.front:
            return self._members
        each = [dataclasses.replace(self, problem=one)._members for one in self.problem.each()]
        return jax.tree.map(lambda *rows: np.concatenate(rows), *each)

    @functools.cached_property
    def _members(self) -> Choice:
        """Uniform draws of members that fit the budget, stacked, at most :data:`POOL`."""
        rng, taken = np.random.default_rng(self.problem.seed), self.problem.space.decisions()
        found, drawn = [], 0
        while len(found) < POOL and drawn < DRAWS * ROUNDS:
            choices = decisions.uniform(rng, taken, DRAWS)
            with jax.ensure_compile_time_eval():  # a step may be the first to ask, while traced
                fits = np.asarray(self._fits(choices))
            found += [
                jax.tree.map(lambda leaf, i=i: leaf[i], choices) for i in np.flatnonzero(fits)
            ]
            drawn += DRAWS
        members = len(found) / drawn * decisions.count(taken)
        if members < FEWEST:
            limits = ", ".join(f"{name}={x:g}" for name, x in self.problem.budget.limits().items())
            raise ValueError(
                f"the limits {limits} leave about {members:,.0f} members of the space, for "
                f"{len(found)} of {drawn:,} drawn fit; TinyNAS needs {FEWEST}: raise the limits or "
                "offer smaller members"
            )
        return _stacked(found[:POOL])

    @property
    def _pool_size(self) -> int:
        return len(next(iter(self._pool.values())))

    @functools.cached_property
    def _ends(self) -> Choice:
        """The largest member and the smallest, float32 one-hot."""
        ends = {}
        for name, decision in self.problem.space.decisions().items():
            rows = np.asarray(decision.values)
            at = np.stack([rows.argmax(axis=1), rows.argmin(axis=1)])
            ends[name] = np.eye(rows.shape[1], dtype=np.float32)[at]
        return ends

    @functools.cached_property
    def _fits(self) -> Callable[[Choice], Bool[Array, " members"]]:
        space, budget = self.problem.space, self.problem.budget
        return jax.jit(jax.vmap(lambda choice: jnp.asarray(budget.fits(space.network(choice)))))

    @functools.cached_property
    def _model(self) -> Supernet:
        return Supernet(self.problem.space.supernetwork(), precision=self.settings.precision)

    @property
    def _outputs(self) -> int:
        return self.problem.space.supernetwork().layers[-1].out_channels

    @property
    def _warmup_steps(self) -> int:
        return int(self.settings.warmup * base.num_steps(self.settings, self.problem))

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        settings = self.settings
        schedule = optax.cosine_decay_schedule(
            settings.learning_rate,
            max(base.num_steps(settings, self.problem), 1),
            settings.final_learning_rate / settings.learning_rate,
        )
        return optax.adamw(schedule, weight_decay=settings.weight_decay, mask=kernels_only)


@functools.lru_cache(maxsize=1)
def _judging(
    space: Space, precision: recipes.Precision, loss: Loss
) -> Callable[..., Float[Array, " members"]]:
    """Evaluation, compiled once for all limits: weights, moments, calibration inputs, held-out
    inputs and labels, choices [members, ...] -> losses [members]."""
    model = Supernet(space.supernetwork(), precision=precision)

    def one(
        params: Variables,
        batch_stats: Variables,
        calibration: Array,
        x: Array,
        labels: Array,
        choice: Choice,
    ) -> Float[Array, ""]:
        member = architecture(space, choice)
        moments = derive.moments(model, params, batch_stats, calibration, member)
        variables = {"params": params, "batch_stats": moments}
        return loss.value(jnp.asarray(model.apply(variables, x, member)), labels, x)

    return jax.jit(jax.vmap(one, in_axes=(None,) * 5 + (0,)))


def _stacked(choices: list[Choice]) -> Choice:
    return jax.tree.map(lambda *rows: np.stack(rows), *choices)


def _rows(choices: Choice) -> list[Choice]:
    count = len(next(iter(choices.values())))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], choices) for i in range(count)]


def _names(choices: Choice) -> list[bytes]:
    """Keys of stacked choices that are equal for equal ones only."""
    options = [np.argmax(leaf, axis=-1) for _, leaf in sorted(choices.items())]
    return [row.tobytes() for row in np.concatenate(options, axis=-1).astype(np.uint8)]


def _ranked(choices: list[Choice], losses: list[float]) -> list[Member]:
    return sorted(map(Member, choices, losses), key=lambda member: member.loss)
