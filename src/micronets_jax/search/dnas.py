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


class State(NamedTuple):
    """Everything a search step reads and writes; ``multipliers`` are those of the limits."""

    step: Int[Array, ""]
    params: Variables
    batch_stats: Variables
    logits: Logits
    multipliers: dict[str, Float[Array, ""]]
    weight_optimizer: optax.OptState
    decision_optimizer: optax.OptState


@dataclasses.dataclass(frozen=True, eq=False)
class DNAS:
    """The search, see ``search.base.Search``.

    Metrics of a step: ``loss`` and, of classes, ``accuracy`` on the held-out half, and each limit's
    used share.
    """

    settings: recipes.DNAS
    problem: Problem

    def init(self, key: Key[Array, ""]) -> State:
        """New weights, logits of :func:`start`, multipliers 0."""
        variables = init_supernet(key, self.problem.space.supernetwork())
        logits = start(self.problem.space, self.settings, self.problem.budget)
        return State(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            logits=logits,
            multipliers={name: jnp.zeros(()) for name in self.problem.budget.limits()},
            weight_optimizer=self._weight_optimizer.init(variables["params"]),
            decision_optimizer=self._decision_optimizer.init(logits),
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
        turns = itertools.zip_longest(
            learned(space, state.logits), proposals.unlearned(space, budget)
        )
        return proposals.fitting(space, budget, [x for pair in turns for x in pair if x])

    def variables(self, state: State) -> dict[str, Any]:
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
            outputs, batch_stats = self._outputs(params, state.batch_stats, x, choice)
            mean = jax.tree.map(lambda leaf: leaf.mean(axis=0), batch_stats)
            return self._mean_loss(outputs, targets, x), mean

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
        0 (Bertsekas, "Constrained Optimization and Lagrange Multiplier Methods", 1982).
        """

        def loss(logits: Logits) -> tuple[Array, Metrics]:
            choice = self._sample(key, state, logits, decisions.between)
            outputs, _ = self._outputs(state.params, state.batch_stats, x, choice)
            loss = self._mean_loss(outputs, targets, x)
            used = _usage(self.problem.space, self.problem.budget, logits, choice)
            price = sum(
                state.multipliers[name] * (share - 1)
                + self.settings.damping / 2 * jnp.square(jnp.maximum(share - 1, 0))
                for name, share in used.items()
            )
            metrics = {"loss": loss, **used}
            if self.problem.loss.of_classes:
                agree = jax.vmap(agreement, (0, None))(outputs, targets)
                metrics["accuracy"] = jnp.mean(agree)
            return loss + price, metrics

        gradient, metrics = jax.grad(loss, has_aux=True)(state.logits)
        updates, optimizer = self._decision_optimizer.update(
            gradient, state.decision_optimizer, state.logits
        )
        moved = state._replace(
            logits=optax.apply_updates(state.logits, updates),
            multipliers={
                name: jnp.maximum(m + self.settings.multiplier_rate * (metrics[name] - 1), 0)
                for name, m in state.multipliers.items()
            },
            decision_optimizer=optimizer,
        )
        return moved, metrics

    # ------------------------------------------------------------ parts of both

    def _mean_loss(
        self, outputs: Float[Array, "samples batch outputs"], targets: Array, x: Array
    ) -> Float[Array, ""]:
        """The loss, as a mean over the sampled architectures."""
        return jnp.mean(jax.vmap(self.problem.loss.value, (0, None, None))(outputs, targets, x))

    def _sample(self, key: Key[Array, ""], state: State, logits: Logits, draw: Callable) -> Choice:
        """Gumbel-softmax samples, whose widths ``draw`` replaces unless settings relax them too."""
        taken, temperature = self.problem.space.decisions(), self._temperature(state.step)

        def one(key: Key[Array, ""]) -> Choice:
            relaxed = decisions.gumbel_softmax(key, logits, temperature)
            if self.settings.widths == "relaxed":
                return relaxed
            drawn = draw(jax.random.fold_in(key, 1), logits)
            return {
                name: leaf if taken[name].kind == "width" else relaxed[name]
                for name, leaf in drawn.items()
            }

        keys = jax.random.split(key, self.settings.samples)
        choices = accelerators.place(jax.vmap(one)(keys), self.problem.mesh, "arch")
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
