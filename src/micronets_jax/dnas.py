"""Differentiable architecture search: weights and decisions trained together under limits.

Invariant: a state and a seed decide every state that follows.

Follows MicroNets (Banbury et al., 2021, section 5) where it speaks: Gumbel-softmax decisions,
widths as masks, skips, limits on memory and operations. It is silent on temperatures, optimisers
and how limits are weighed; those choices are ours and marked so in ``recipes.Search``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, Num

from micronets_jax import accelerators, decisions, recipes
from micronets_jax.budgets import Budget
from micronets_jax.decisions import Choice, Logits, Sizes
from micronets_jax.spaces import Space
from micronets_jax.supernet import Supernet, architecture
from micronets_jax.supernet import init as init_supernet
from micronets_jax.training import (
    Examples,
    Inputs,
    Progress,
    agreement,
    ahead,
    as_prepared,
    cross_entropy,
    kernels_only,
)

SAMPLED_LIMITS = ("sram_bytes",)
"""Limits on a maximum: the mean network's cost is not the mean cost, so samples are costed."""

SMOOTH = 4
"""Order of the norm that stands for the most used limit where sizes are balanced."""

GROWTH, GROWTH_STEPS = 0.08, 128
"""Most that the logarithm of a size grows in a step of balancing, and how many steps there are."""

EVEN_SHARES = 101
"""How many shares of the largest widths are tried."""


class State(NamedTuple):
    """Everything a search step reads and writes."""

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    logits: Logits
    multipliers: dict[str, Float[Array, ""]]
    weight_optimizer: optax.OptState
    decision_optimizer: optax.OptState


class Batch(NamedTuple):
    """Examples, raw or prepared, and labels or targets: one half trains weights, the other
    decisions."""

    weight_examples: Array
    weight_labels: Num[Array, "half ..."]
    decision_examples: Array
    decision_labels: Num[Array, "half ..."]


def init(
    key: Key[Array, ""], space: Space, settings: recipes.Search, budget: Budget, num_steps: int
) -> State:
    """The state before the first of ``num_steps`` steps: decisions as of :func:`start`."""
    variables = init_supernet(key, space.supernetwork())
    logits = start(space, settings, budget)
    weights, choices = _optimizers(settings, num_steps)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        logits=logits,
        multipliers={name: jnp.zeros(()) for name in budget.limits()},
        weight_optimizer=weights.init(variables["params"]),
        decision_optimizer=choices.init(logits),
    )


def start(space: Space, settings: recipes.Search, budget: Budget) -> Logits:
    """Widths about those of ``settings.start``, see :data:`STARTS`; yes or no is even.

    So weights are trained from the first step on networks that might be built and that are alike
    enough to share weights, and no multiplier has an excess to overshoot. Which blocks are worth
    their cost is for the search to find.
    """
    undecided = {name: jnp.zeros(shape) for name, shape in space.options().items()}
    if not settings.decision_reach:
        return undecided
    given = {name: leaf for name, leaf in undecided.items() if decisions.yes_or_no(leaf.shape)}
    sizes = accelerators.once(
        STARTS[settings.start],
        space,
        budget,
        settings.decision_reach,
        decisions.expected(given),
        static=(0, 1, 2),
    )
    return given | around(space, sizes, settings.decision_reach)


def around(space: Space, sizes: Sizes, reach: float) -> Logits:
    """Of every size, odds that fall as a Gaussian ``reach`` options wide."""
    options = {name: jnp.arange(1, space.options()[name][-1] + 1) for name in sizes}
    return {
        name: -jnp.square((options[name] - size[..., None]) / reach) / 2
        for name, size in sizes.items()
    }


def balanced(space: Space, budget: Budget, reach: float, given: Choice) -> Sizes:
    """Sizes at which one per cent more of any of them costs the same, as large as the limits allow.

    All begin at the first option and grow, those fastest whose growth costs least, until the mean
    network of :func:`around` has used up a limit or all are at their last option. A convolution on
    large maps stays narrow, one on small maps becomes wide.

    Args:
        given: weights of yes or no.
    """
    most = {
        name: shape[-1] for name, shape in space.options().items() if not decisions.yes_or_no(shape)
    }

    if not most:
        return {}

    def most_used(logs: Sizes) -> tuple[Array, Array]:
        sizes = jax.tree.map(jnp.exp, logs)
        choice = decisions.expected(around(space, sizes, reach)) | given
        usage = jnp.stack([jnp.asarray(x) for x in budget.usage(space.network(choice)).values()])
        # A smooth maximum: with the true one, sizes that only the second limit feels would be free.
        return jnp.linalg.norm(usage, ord=SMOOTH), jnp.max(usage) <= 1

    def grow(at: tuple[Sizes, Sizes], _: None) -> tuple[tuple[Sizes, Sizes], None]:
        logs, fitting = at
        spent, fits = jax.grad(most_used, has_aux=True)(logs)
        growing = {name: logs[name] < math.log(most[name]) - 1e-3 for name in most}
        spent = {
            name: jnp.where(growing[name], jnp.maximum(spent[name], 1e-6), jnp.inf) for name in most
        }
        least = jnp.min(jnp.stack([jnp.min(leaf) for leaf in spent.values()]))
        fitting = jax.tree.map(lambda new, old: jnp.where(fits, new, old), logs, fitting)
        grown = {
            name: jnp.minimum(
                logs[name]
                + jnp.where(fits & growing[name], GROWTH * (least / spent[name]) ** 2, 0.0),
                math.log(most[name]),
            )
            for name in most
        }
        return (grown, fitting), None

    first = {name: jnp.zeros(space.options()[name][:-1]) for name in most}
    (_, fitting), _ = jax.lax.scan(grow, (first, first), length=GROWTH_STEPS)
    return jax.tree.map(jnp.exp, fitting)


def even(space: Space, budget: Budget, reach: float, given: Choice) -> Sizes:
    """The same share of the largest everywhere, as large as the limits allow the mean network of
    :func:`around`; the arguments are those of :func:`balanced`."""
    shapes = {
        name: shape for name, shape in space.options().items() if not decisions.yes_or_no(shape)
    }

    def sizes(share: Array) -> Sizes:
        return {
            name: jnp.full(shape[:-1], jnp.maximum(share * shape[-1], 1))
            for name, shape in shapes.items()
        }

    shares = jnp.linspace(1, 0, EVEN_SHARES)
    used = jax.vmap(
        lambda share: tightest(
            space, budget, decisions.expected(around(space, sizes(share), reach)) | given
        )
    )(shares)
    return sizes(shares[jnp.argmax((used <= 1).at[-1].set(True))])


STARTS: dict[recipes.Start, Callable[[Space, Budget, float, Choice], Sizes]] = {
    "balanced": balanced,
    "even": even,
}
"""Where a search may start."""


def make_step(
    space: Space,
    settings: recipes.Search,
    budget: Budget,
    num_steps: int,
    inputs: Inputs,
    key: Key[Array, ""],
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[[State, Batch], tuple[State, dict[str, Array]]]:
    """A pure ``step(state, batch) -> state, metrics``, to be jitted or lowered by the caller.

    With a mesh, examples lie along its axis ``data`` and sampled architectures along ``arch``.

    ``metrics``: ``loss`` and ``accuracy`` on the decisions' half, and each limit's used share.
    """
    network = space.supernetwork()
    model = Supernet(network, settings.bits or None, settings.precision)
    weights, choices = _optimizers(settings, num_steps)
    warmup_steps = int(settings.warmup * num_steps)

    def forward(params: Any, batch_stats: Any, x: Array, choice: Choice) -> tuple[Array, Any]:
        logits, changed = model.apply(
            {"params": params, "batch_stats": batch_stats},
            x,
            architecture(space, choice),
            train=True,
            mutable=["batch_stats"],
        )
        return logits, changed["batch_stats"]

    over_samples = jax.vmap(forward, in_axes=(None, None, None, 0))

    def sample(key: Array, logits: Logits, step: Array, draw: Callable) -> Choice:
        """Relaxed architectures, but widths as ``draw`` has them if the settings say so."""
        temperature = _temperature(settings, step, warmup_steps, num_steps)

        def one(key: Array) -> Choice:
            relaxed = decisions.gumbel_softmax(key, logits, temperature)
            if settings.widths == "relaxed":
                return relaxed
            drawn = draw(jax.random.fold_in(key, 1), logits)
            return {
                name: relaxed[name] if decisions.yes_or_no(leaf.shape) else leaf
                for name, leaf in drawn.items()
            }

        keys = jax.random.split(key, settings.samples)
        return accelerators.place(jax.vmap(one)(keys), mesh, "arch")

    def weight_loss(params: Any, state: State, x: Array, targets: Array, choice: Choice):
        outputs, batch_stats = over_samples(params, state.batch_stats, x, choice)
        loss = jnp.mean(jax.vmap(cross_entropy, (0, None))(outputs, targets))
        return loss, jax.tree.map(lambda leaf: leaf.mean(axis=0), batch_stats)

    def decision_loss(
        logits: Logits,
        state: State,
        x: Array,
        targets: Array,
        key: Array,
    ):
        choice = sample(key, logits, state.step, decisions.between)
        outputs, _ = over_samples(state.params, state.batch_stats, x, choice)
        loss = jnp.mean(jax.vmap(cross_entropy, (0, None))(outputs, targets))
        used = _usage(space, budget, logits, choice)
        price = sum(
            state.multipliers[name] * (share - 1)
            + settings.damping / 2 * jnp.square(jnp.maximum(share - 1, 0))
            for name, share in used.items()
        )
        accuracy = jnp.mean(jax.vmap(agreement, (0, None))(outputs, targets))
        return loss + price, {"loss": loss, "accuracy": accuracy, **used}

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        batch = accelerators.place(prepare(inputs, key, state.step, batch), mesh, "data")
        _, of_weights, _, of_decisions = _keys(key, state.step)

        choice = jax.lax.stop_gradient(sample(of_weights, state.logits, state.step, decisions.draw))
        # Under blocks that come and go from the first step on, deep networks learn nothing.
        warming = state.step < warmup_steps
        choice = jax.tree.map(
            lambda whole, drawn: jnp.where(warming, whole, drawn), decisions.all_yes(choice), choice
        )
        gradient, batch_stats = jax.grad(weight_loss, has_aux=True)(
            state.params, state, batch.weight_examples, batch.weight_labels, choice
        )
        updates, weight_optimizer = weights.update(gradient, state.weight_optimizer, state.params)
        params = optax.apply_updates(state.params, updates)

        gradient, metrics = jax.grad(decision_loss, has_aux=True)(
            state.logits, state, batch.decision_examples, batch.decision_labels, of_decisions
        )
        updates, decision_optimizer = choices.update(
            gradient, state.decision_optimizer, state.logits
        )
        decided = (
            optax.apply_updates(state.logits, updates),
            decision_optimizer,
            {
                name: jnp.maximum(m + settings.multiplier_rate * (metrics[name] - 1), 0)
                for name, m in state.multipliers.items()
            },
        )
        undecided = (state.logits, state.decision_optimizer, state.multipliers)
        logits, decision_optimizer, multipliers = jax.tree.map(
            lambda new, old: jnp.where(state.step >= warmup_steps, new, old), decided, undecided
        )
        return (
            State(
                state.step + 1,
                params,
                batch_stats,
                logits,
                multipliers,
                weight_optimizer,
                decision_optimizer,
            ),
            metrics,
        )

    return step


def prepare(inputs: Inputs, key: Key[Array, ""], step: Int[Array, ""], batch: Batch) -> Batch:
    """A raw batch as the step of this number sees it."""
    for_weights, _, for_decisions, _ = _keys(key, step)
    return Batch(
        *inputs(for_weights, batch.weight_examples, batch.weight_labels),
        *inputs(for_decisions, batch.decision_examples, batch.decision_labels),
    )


def _keys(key: Key[Array, ""], step: Int[Array, ""]) -> Key[Array, 4]:
    """Of a step: for the weights' examples and architectures, then for the decisions'."""
    return jax.random.split(jax.random.fold_in(key, step), 4)


def search(
    state: State,
    space: Space,
    settings: recipes.Search,
    budget: Budget,
    halves: tuple[Examples, Examples],
    inputs: Inputs,
    *,
    seed: int,
    mesh: jax.sharding.Mesh | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[State, dict[str, int | float]]]:
    """Run from ``state`` to the last epoch; yields the state and mean metrics of each epoch.

    Args:
        state: from :func:`init`, or yielded by an earlier, interrupted call.
        halves: training data for the weights and for the decisions.
        inputs: front end and augmentation.
        seed: of samples, of the order of examples and of augmentation.
        mesh: from ``accelerators.mesh``, over which examples and samples are laid.
        progress: called now and then.
    """
    num_batches = steps_per_epoch(settings, halves)
    total = num_batches * settings.epochs
    key = jax.random.key(seed)
    step = jax.jit(make_step(space, settings, budget, total, as_prepared, key, mesh))
    compute = jax.jit(functools.partial(prepare, inputs, key))
    half = settings.batch_size // 2
    state = accelerators.place(state, mesh)

    def of_epoch(epoch: int) -> Iterator[Batch]:
        pairs = zip(*(part.batches(half, seed, epoch) for part in halves), strict=False)
        for number, (first, second) in enumerate(pairs, epoch * num_batches):
            placed = accelerators.place(Batch(*first, *second), mesh, "data")
            yield jax.block_until_ready(compute(number, placed))

    for epoch in range(int(state.step) // num_batches, settings.epochs):
        seen = []
        for i, batch in enumerate(ahead(of_epoch(epoch)), 1):
            state, metrics = step(state, batch)
            seen.append(metrics)
            if progress and (i % 10 == 0 or i == num_batches):
                done = epoch * num_batches + i
                progress(done, total, {name: float(value) for name, value in metrics.items()})
        mean = jax.tree.map(lambda *leaves: float(np.mean(leaves)), *jax.device_get(seen))
        yield state, {"epoch": epoch + 1, **mean}


def steps_per_epoch(settings: recipes.Search, halves: tuple[Examples, Examples]) -> int:
    """Steps until the smaller half has been seen once."""
    return min(part.num_batches(settings.batch_size // 2) for part in halves)


def tightest(space: Space, budget: Budget, choice: Choice) -> Array:
    """Used share of the limit of which most is used."""
    usage = budget.usage(space.network(choice))
    return jnp.max(jnp.stack([jnp.asarray(share) for share in usage.values()]))


def _usage(space: Space, budget: Budget, logits: Logits, choice: Choice) -> dict[str, Array]:
    """Used share of each limit: expected, but sampled where a maximum rules."""
    expected = budget.usage(space.network(decisions.expected(logits)))
    decided = decisions.straight_through(choice)
    sampled = jax.vmap(lambda one: budget.usage(space.network(one)))(decided)
    return {
        name: jnp.mean(sampled[name]) if name in SAMPLED_LIMITS else expected[name]
        for name in expected
    }


def _temperature(settings: recipes.Search, step: Array, warmup_steps: int, num_steps: int) -> Array:
    done = jnp.clip((step - warmup_steps) / max(num_steps - warmup_steps, 1), 0, 1)
    return settings.temperature * (settings.final_temperature / settings.temperature) ** done


def _optimizers(
    settings: recipes.Search, num_steps: int
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    schedule = optax.cosine_decay_schedule(
        settings.learning_rate,
        max(num_steps, 1),
        settings.final_learning_rate / settings.learning_rate,
    )
    weights = optax.adamw(schedule, weight_decay=settings.weight_decay, mask=kernels_only)
    reach = functools.partial(decisions.spread, reach=settings.decision_reach)
    choices = optax.chain(
        optax.stateless(lambda gradient, _: reach(gradient)),
        # One scale for all widths, where Adam has one for each option: a decision that matters
        # little must not follow its noise as far as one that matters much follows its signal.
        optax.novograd(settings.decision_learning_rate, b1=0.5, b2=0.95),
    )
    return weights, choices
