"""Differentiable architecture search: weights and decisions trained together under limits.

Invariant: a state and a seed decide every state that follows.

Each step alternates between two halves of the training data: AdamW on the shared weights, NovoGrad
on the decisions' logits. Limits are inequality constraints of an augmented Lagrangian whose
multipliers rise by dual ascent. Source: MicroNets (Banbury et al., 2021, section 5) for
Gumbel-softmax decisions, widths as masks, parallel skips, and limits on memory and operations. It
does not give temperatures, optimisers or how limits are weighed; what we chose is marked (ours) in
``recipes.DNAS``.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from micronets_jax import accelerators, decisions, recipes
from micronets_jax.budgets import Budget
from micronets_jax.decisions import Choice, Logits, Widths
from micronets_jax.losses import agreement
from micronets_jax.search import base, proposals
from micronets_jax.search.base import Batch, Metrics, Problem, Proposal
from micronets_jax.search.proposals import Layout
from micronets_jax.spaces import Space
from micronets_jax.supernet import Supernet, architecture
from micronets_jax.supernet import init as init_supernet
from micronets_jax.training import Variables, kernels_only

SAMPLED_LIMITS = ("sram_bytes",)
"""Limits on a maximum over layers: the maximum of means is not the mean of maxima, so their
expectation is estimated from sampled choices."""


Multipliers = dict[str, Float[Array, ""]]
"""Of a budget's limits, by name."""


FEWEST_EXAMPLES = 4
"""Examples of a step that each budget of a front must get, for batch-norm moments to mean anything.
"""


class State(NamedTuple):
    """Everything a search step reads and writes.

    Where the problem has a front, ``logits`` and ``decision_optimizer`` have a leading axis of
    budgets and ``multipliers`` are a list; weights are shared.
    """

    step: Int[Array, ""]
    params: Variables
    batch_stats: Variables
    logits: Logits
    multipliers: Multipliers | list[Multipliers]
    weight_optimizer: optax.OptState
    decision_optimizer: optax.OptState


@dataclasses.dataclass(frozen=True, eq=False)
class DNAS:
    """The search, see ``search.base.Search``.

    Metrics of a step: ``loss`` and, of classes, ``accuracy`` on the held-out half, and each limit's
    used share, its name followed by the number of the budget where there are several.

    Of a front, each budget has decisions of its own. A batch is divided among them, so that a step
    of several computes about as much as that of one.
    """

    settings: recipes.DNAS
    problem: Problem

    def __post_init__(self) -> None:
        count, half = len(self.problem.budgets), self.settings.batch_size // 2
        if half < FEWEST_EXAMPLES * count and self.problem.front:
            raise ValueError(
                f"search.batch_size={self.settings.batch_size}: half of it is divided among "
                f"{count} limits; give at least {2 * FEWEST_EXAMPLES * count}, or fewer limits"
            )

    def init(self, key: Key[Array, ""]) -> State:
        """New weights, logits of :func:`start`, multipliers 0."""
        variables = init_supernet(key, self.problem.space.supernetwork())
        starts = [start(self.problem.space, self.settings, one) for one in self.problem.budgets]
        zeros = [{name: jnp.zeros(()) for name in one.limits()} for one in self.problem.budgets]
        logits = jax.tree.map(lambda *x: jnp.stack(x), *starts) if self.problem.front else starts[0]
        return State(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            logits=logits,
            multipliers=zeros if self.problem.front else zeros[0],
            weight_optimizer=self._weight_optimizer.init(variables["params"]),
            decision_optimizer=self._each(self._decision_optimizer.init)(logits),
        )

    def step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """One step of the weights on their half, then, after the warm-up, one of the decisions on
        the other half."""
        batch = accelerators.place(batch, self.problem.mesh, "data")
        seeded = jax.random.fold_in(jax.random.key(self.problem.seed), state.step)
        of_weights, of_decisions = jax.random.split(jax.random.fold_in(seeded, 1))
        state = self._weights_step(of_weights, state, batch.weight_examples, batch.weight_targets)
        moved, metrics = self._decisions_step(
            of_decisions, state, batch.judged_examples, batch.judged_targets
        )
        warm = state.step >= self._warmup_steps
        state = jax.tree.map(lambda new, old: jnp.where(warm, new, old), moved, state)
        return state._replace(step=state.step + 1), metrics

    def proposals(self, state: State) -> list[Proposal]:
        """Learned layouts (:func:`learned`) alternating with ones that need no training
        (``proposals.unlearned``), so that a contest of few trials compares both."""
        space, budget = self.problem.space, self.problem.budget
        logits = self._by_budget(state.logits)[self.problem.budgets.index(budget)]
        turns = itertools.zip_longest(learned(space, logits), proposals.unlearned(space, budget))
        return proposals.fitting(space, budget, [x for pair in turns for x in pair if x])

    def variables(self, state: State) -> Variables:
        """Weights and batch-norm moments of the supernet."""
        return {"params": state.params, "batch_stats": state.batch_stats}

    # ------------------------------------------------------------ the two halves of a step

    def _weights_step(self, key: Key[Array, ""], state: State, x: Array, targets: Array) -> State:
        choice = jax.lax.stop_gradient(self._sample(key, state, state.logits, decisions.draw))
        # With blocks dropped at random from the first step on, deep networks do not learn.
        every = decisions.all_yes(choice, self.problem.space.decisions())
        warming = state.step < self._warmup_steps
        choice = jax.tree.map(lambda all_, some: jnp.where(warming, all_, some), every, choice)

        def loss(params: Variables) -> tuple[Array, Variables]:
            def of_budget(choice: Choice, x: Array, targets: Array) -> tuple[Array, Variables]:
                outputs, batch_stats = self._outputs(params, state.batch_stats, x, choice)
                mean = jax.tree.map(lambda leaf: leaf.mean(axis=0), batch_stats)
                return self._mean_loss(outputs, targets, x), mean

            return self._mean(self._each(of_budget)(choice, *self._parted(x, targets)))

        gradient, batch_stats = jax.grad(loss, has_aux=True)(state.params)
        updates, optimizer = self._weight_optimizer.update(
            gradient, state.weight_optimizer, state.params
        )
        return state._replace(
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            weight_optimizer=optimizer,
        )

    def _decisions_step(
        self, key: Key[Array, ""], state: State, x: Array, targets: Array
    ) -> tuple[State, Metrics]:
        """Gradient step of the logits on the augmented Lagrangian, dual ascent of its multipliers.

        With g the used share of a limit less 1, each limit adds ``multiplier * g + damping / 2 *
        max(g, 0)^2`` to the loss, and its multiplier grows by ``multiplier_rate * g``, never below
        0 (Bertsekas, "Constrained Optimization and Lagrange Multiplier Methods", 1982). Of a front
        the losses of all budgets are added, each of which depends on its own logits alone.
        """
        front = self.problem.front
        multipliers = state.multipliers
        multipliers = [multipliers] if isinstance(multipliers, dict) else multipliers

        def of_budget(choice: Choice, x: Array, targets: Array) -> tuple[Array, Metrics]:
            outputs, _ = self._outputs(state.params, state.batch_stats, x, choice)
            metrics = {"loss": self._mean_loss(outputs, targets, x)}
            if self.problem.loss.of_classes:
                agree = jax.vmap(agreement, (0, None))(outputs, targets)
                metrics["accuracy"] = jnp.mean(agree)
            return metrics["loss"], metrics

        def loss(logits: Logits) -> tuple[Array, tuple[Metrics, list[Metrics]]]:
            choice = self._sample(key, state, logits, decisions.between)
            losses, metrics = self._each(of_budget)(choice, *self._parted(x, targets))
            used = self._used(logits, choice)
            price = sum(
                multiplier[name] * (share - 1)
                + self.settings.damping / 2 * jnp.square(jnp.maximum(share - 1, 0))
                for multiplier, shares in zip(multipliers, used, strict=True)
                for name, share in shares.items()
            )
            return (jnp.sum(losses) if front else losses) + price, (self._mean(metrics), used)

        gradient, (metrics, used) = jax.grad(loss, has_aux=True)(state.logits)
        updates, optimizer = self._each(self._decision_optimizer.update)(
            gradient, state.decision_optimizer, state.logits
        )
        raised = [
            {
                name: jnp.maximum(m + self.settings.multiplier_rate * (shares[name] - 1), 0)
                for name, m in multiplier.items()
            }
            for multiplier, shares in zip(multipliers, used, strict=True)
        ]
        moved = state._replace(
            logits=optax.apply_updates(state.logits, updates),
            multipliers=raised if front else raised[0],
            decision_optimizer=optimizer,
        )
        for number, shares in enumerate(used, 1):
            metrics |= {f"{name} {number}" if front else name: x for name, x in shares.items()}
        return moved, metrics

    def _used(self, logits: Logits, choice: Choice) -> list[Metrics]:
        """For each budget the used share of each of its limits.

        Budgets that differ in numbers alone are counted side by side, by one piece of program.
        """
        space, budgets = self.problem.space, self.problem.budgets
        if not self.problem.front:
            return [_usage(space, budgets[0], logits, choice)]
        alike: dict[tuple, list[int]] = {}
        for i, budget in enumerate(budgets):
            alike.setdefault(budget.counting, []).append(i)
        found: dict[int, Metrics] = {}
        for group in alike.values():
            first, rows = budgets[group[0]], np.asarray(group)
            theirs = jax.tree.map(lambda leaf, rows=rows: leaf[rows], (logits, choice))
            shares = jax.vmap(functools.partial(_usage, space, first))(*theirs)
            for row, i in enumerate(group):
                limits, counted = budgets[i].limits(), first.limits()
                found[i] = {
                    name: share[row] * (counted[name] / limits[name])
                    for name, share in shares.items()
                }
        return [found[i] for i in range(len(budgets))]

    # ------------------------------------------------------------ one budget or several

    def _each(self, function: Callable) -> Callable:
        """A function of one budget's arrays, over the axis of budgets where there is one."""
        return jax.vmap(function) if self.problem.front else function

    def _mean(self, tree: Any) -> Any:
        """The mean over budgets."""
        mean = functools.partial(jnp.mean, axis=0)
        return jax.tree.map(mean, tree) if self.problem.front else tree

    def _by_budget(self, tree: Any) -> list[Any]:
        """The part of each budget."""
        if not self.problem.front:
            return [tree]
        return [
            jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(len(self.problem.front))
        ]

    def _parted(self, *batch: Array) -> tuple[Array, ...]:
        """Arrays [examples, ...] as [budgets, examples of each, ...]; a remainder is left out.

        Neighbours go to different budgets, so that each device keeps its examples.
        """
        if not self.problem.front:
            return batch
        count = len(self.problem.front)
        return tuple(
            jnp.swapaxes(x[: len(x) // count * count].reshape(-1, count, *x.shape[1:]), 0, 1)
            for x in batch
        )

    # ------------------------------------------------------------ parts of both halves

    def _mean_loss(
        self, outputs: Float[Array, "samples batch outputs"], targets: Array, x: Array
    ) -> Float[Array, ""]:
        """The loss, as a mean over the sampled architectures."""
        return jnp.mean(jax.vmap(self.problem.loss.value, (0, None, None))(outputs, targets, x))

    def _sample(self, key: Key[Array, ""], state: State, logits: Logits, draw: Callable) -> Choice:
        """Gumbel-softmax samples, whose widths ``draw`` replaces unless settings relax them too."""
        taken, temperature = self.problem.space.decisions(), self._temperature(state.step)
        front = self.problem.front

        def one(key: Key[Array, ""], logits: Logits) -> Choice:
            relaxed = decisions.gumbel_softmax(key, logits, temperature)
            if self.settings.widths == "relaxed":
                return relaxed
            drawn = draw(jax.random.fold_in(key, 1), logits)
            return {
                name: leaf if taken[name].kind == "width" else relaxed[name]
                for name, leaf in drawn.items()
            }

        def samples(key: Key[Array, ""], logits: Logits) -> Choice:
            keys = jax.random.split(key, self.settings.samples)
            return jax.vmap(one, (0, None))(keys, logits)

        choices = self._each(samples)(jax.random.split(key, len(front)) if front else key, logits)
        axes: tuple = (None, "arch") if front else ("arch",)
        choices = accelerators.place(choices, self.problem.mesh, *axes)
        # Without the barrier XLA's GPU compiler fuses choice, masks and layers and analyses every
        # fusion anew: a step took five times as long to compile. Results are the same.
        return jax.lax.optimization_barrier(choices)

    def _outputs(
        self, params: Variables, batch_stats: Variables, x: Array, choices: Choice
    ) -> tuple[Float[Array, "samples batch classes"], Variables]:
        """Logits and new batch-norm moments of each sampled architecture."""
        space = self.problem.space
        model = Supernet(space.supernetwork(), self.settings.bits or None, self.settings.precision)

        def forward(choice: Choice) -> tuple[Array, Variables]:
            outputs: Any = model.apply(
                {"params": params, "batch_stats": batch_stats},
                x,
                architecture(space, choice),
                train=True,
                mutable=["batch_stats"],
            )
            logits, changed = outputs
            return logits, changed["batch_stats"]

        return jax.vmap(forward)(choices)

    def _temperature(self, step: Int[Array, ""]) -> Float[Array, ""]:
        first, last = self.settings.temperature, self.settings.final_temperature
        left = max(self._num_steps - self._warmup_steps, 1)
        return first * (last / first) ** jnp.clip((step - self._warmup_steps) / left, 0, 1)

    @functools.cached_property
    def _num_steps(self) -> int:
        return base.num_steps(self.settings, self.problem)

    @property
    def _warmup_steps(self) -> int:
        return int(self.settings.warmup * self._num_steps)

    @functools.cached_property
    def _weight_optimizer(self) -> optax.GradientTransformation:
        settings = self.settings
        schedule = optax.cosine_decay_schedule(
            settings.learning_rate,
            max(self._num_steps, 1),
            settings.final_learning_rate / settings.learning_rate,
        )
        return optax.adamw(schedule, weight_decay=settings.weight_decay, mask=kernels_only)

    @functools.cached_property
    def _decision_optimizer(self) -> optax.GradientTransformation:
        taken, reach = self.problem.space.decisions(), self.settings.decision_reach
        return optax.chain(
            optax.stateless(lambda gradient, _: decisions.spread(gradient, taken, reach)),
            # NovoGrad normalises by one second moment a leaf, Adam by one an option. With Adam's, a
            # decision of little effect would follow its noise as far as others their signal.
            optax.novograd(self.settings.decision_learning_rate, b1=0.5, b2=0.95),
        )


# ---------------------------------------------------------------- where a search starts and ends


def start(space: Space, settings: recipes.DNAS, budget: Budget) -> Logits:
    """First logits: widths distributed about those of :data:`STARTS`, all else uniform.

    The mean network with all blocks meets the limits. So weights train from the first step on
    networks near those that may be built and near each other, and multipliers do not overshoot.

    Args:
        space: what may be chosen.
        settings: ``start`` names the proportions, ``decision_reach`` the deviation about them.
        budget: limits that the mean network is scaled to.

    Returns:
        Logits, float32 [decisions, options], by name of the decision.
    """
    taken = space.decisions()
    logits = decisions.undecided(taken)
    others = {name: leaf for name, leaf in logits.items() if taken[name].kind != "width"}
    every = decisions.all_yes(decisions.expected(others), taken)
    arguments = (space, settings, budget)
    return others | accelerators.once(_widths, *arguments, every, static=(0, 1, 2))


def _widths(space: Space, settings: recipes.DNAS, budget: Budget, others: Choice) -> Logits:
    taken = space.decisions()

    def odds(widths: Widths) -> Logits:
        return decisions.around(widths, taken, settings.decision_reach)

    widths = STARTS[settings.start](space, budget, others)
    fitting = proposals.widest(
        space, budget, widths, lambda widths: decisions.expected(odds(widths)) | others
    )
    return odds(fitting)


STARTS: dict[recipes.Start, Callable[[Space, Budget, Choice], Widths]] = {
    "balanced": proposals.balanced,
    "even": lambda space, budget, others: proposals.shares(space.decisions()),
}
"""Proportions of widths that a search may start from, before they are scaled to the limits."""


def learned(space: Space, logits: Logits) -> list[Layout]:
    """The mean widths with the likeliest option of every other decision; then the same with the
    least certain binary decision flipped, and with the second least certain one."""
    taken = space.decisions()
    widths = jax.tree.map(jnp.asarray, decisions.widths(logits, taken))
    others = {
        name: np.asarray(decisions.decided(leaf)).astype(np.int32)
        for name, leaf in logits.items()
        if taken[name].kind != "width"
    }
    margins = sorted(
        (abs(float(row[0] - row[1])), name, i)
        for name, decision in taken.items()
        if decision.kind == "binary"
        for i, row in enumerate(np.asarray(logits[name]))
    )
    layouts = [Layout("learned", widths, others)]
    for _, name, i in margins[:2]:
        leaf = np.array(others[name])
        leaf[i] = 1 - leaf[i]
        layouts.append(Layout(f"learned, {name} {i + 1} flipped", widths, {**others, name: leaf}))
    return layouts


def _usage(space: Space, budget: Budget, logits: Logits, choice: Choice) -> dict[str, Array]:
    """Used share of each limit, differentiable in ``logits``.

    Of the network that :func:`learned` proposes first, its other decisions one-hot with
    straight-through gradients; for :data:`SAMPLED_LIMITS` the mean over the sampled choices.
    """
    taken, soft = space.decisions(), decisions.expected(logits)
    likeliest = decisions.straight_through(soft)
    mean = {
        name: soft[name] if decision.kind == "width" else likeliest[name]
        for name, decision in taken.items()
    }
    others = budget.limits().keys() - set(SAMPLED_LIMITS)
    expected = budget.usage(space.network(mean), others)
    decided = decisions.straight_through(choice)
    sampled = jax.vmap(lambda one: budget.usage(space.network(one), SAMPLED_LIMITS))(decided)
    return jax.tree.map(jnp.mean, sampled) | expected
