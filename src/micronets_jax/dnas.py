"""Differentiable architecture search: weights and decisions trained together under limits.

Invariant: what :func:`decide` returns fits every limit by the exact costs.

Follows MicroNets (Banbury et al., 2021, section 5) where it speaks: Gumbel-softmax decisions,
widths as masks, skips, limits on memory and operations. It is silent on temperatures, optimisers
and how limits are weighed; those choices are ours and marked so in ``recipes.Search``.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from micronets_jax import accelerators, decisions, recipes, training
from micronets_jax.budgets import Budget
from micronets_jax.decisions import Choice, Logits
from micronets_jax.network import Network
from micronets_jax.spaces import Space
from micronets_jax.supernet import Supernet, architecture
from micronets_jax.supernet import init as init_supernet
from micronets_jax.training import Examples, Inputs, Progress, cross_entropy, kernels_only

SAMPLED_LIMITS = ("sram_bytes",)
"""Limits on a maximum: the mean network's cost is not the mean cost, so samples are costed."""

CONVOLUTIONS = ("conv", "depthwise")
"""Kinds of layers that make a network deep."""

TIGHT = 0.92
"""Share of a limit that a candidate should use."""

FLATNESS = (1.0, 4.0, 16.0)
"""What the learned logits are divided by where candidates are drawn."""

DECODED = 256
"""Draws of a depth that are looked at; what absent blocks would be makes many of one shape."""

TRIALS_AT_ONCE = 2
"""Finalists trained side by side."""

ROUNDS = 2
"""Of a contest of finalists: after each but the last the worse half drops out."""


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
    """Raw examples and labels: one half trains weights, the other decisions."""

    weight_examples: Array
    weight_labels: Int[Array, " half"]
    decision_examples: Array
    decision_labels: Int[Array, " half"]


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
    """Every width about the same option, the largest at which a mean network meets the limits.

    So weights are trained from the first step on networks that might be built and that are alike
    enough to share weights, and no multiplier has an excess to overshoot. Widths are spread by
    ``settings.decision_reach`` options; yes or no is even: which blocks are worth their cost is for
    the search to find.
    """

    def around(centre: Array) -> Logits:
        def logits(shape: tuple[int, ...]) -> Array:
            if decisions.yes_or_no(shape) or not settings.decision_reach:
                return jnp.zeros(shape)
            distance = (jnp.arange(shape[-1]) - centre * (shape[-1] - 1)) / settings.decision_reach
            return jnp.broadcast_to(-jnp.square(distance) / 2, shape)

        return {name: logits(shape) for name, shape in space.options().items()}

    def meets(centre: Array) -> Array:
        usage = budget.usage(space.network(decisions.expected(around(centre))))
        return jnp.all(jnp.stack([jnp.asarray(share) for share in usage.values()]) <= 1)

    centres = jnp.linspace(1, 0, 101)
    return around(centres[jnp.argmax(jax.jit(jax.vmap(meets))(centres).at[-1].set(True))])


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

    def prepared(key: Array, raw: Array, labels: Array) -> tuple[Array, Array]:
        return accelerators.place(inputs(key, raw, labels), mesh, "data")

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
        labels: Array,
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
        accuracy = jnp.mean(jnp.argmax(outputs, -1) == labels)
        return loss + price, {"loss": loss, "accuracy": accuracy, **used}

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        keys = jax.random.split(jax.random.fold_in(key, state.step), 4)

        x, targets = prepared(keys[0], batch.weight_examples, batch.weight_labels)
        choice = jax.lax.stop_gradient(sample(keys[1], state.logits, state.step, decisions.draw))
        gradient, batch_stats = jax.grad(weight_loss, has_aux=True)(
            state.params, state, x, targets, choice
        )
        updates, weight_optimizer = weights.update(gradient, state.weight_optimizer, state.params)
        params = optax.apply_updates(state.params, updates)

        x, targets = prepared(keys[2], batch.decision_examples, batch.decision_labels)
        gradient, metrics = jax.grad(decision_loss, has_aux=True)(
            state.logits, state, x, targets, batch.decision_labels, keys[3]
        )
        updates, decision_optimizer = choices.update(gradient, state.decision_optimizer)
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
    step = jax.jit(make_step(space, settings, budget, total, inputs, jax.random.key(seed), mesh))
    half = settings.batch_size // 2
    state = accelerators.place(state, mesh)
    for epoch in range(int(state.step) // num_batches, settings.epochs):
        pairs = zip(*(part.batches(half, seed, epoch) for part in halves), strict=False)
        seen = []
        for i, (first, second) in enumerate(pairs, 1):
            state, metrics = step(state, accelerators.place(Batch(*first, *second), mesh, "data"))
            seen.append(metrics)
            if progress and (i % 10 == 0 or i == num_batches):
                done = epoch * num_batches + i
                progress(done, total, {name: float(value) for name, value in metrics.items()})
        mean = jax.tree.map(lambda *leaves: float(np.mean(leaves)), *jax.device_get(seen))
        yield state, {"epoch": epoch + 1, **mean}


def steps_per_epoch(settings: recipes.Search, halves: tuple[Examples, Examples]) -> int:
    """Steps until the smaller half has been seen once."""
    return min(part.num_batches(settings.batch_size // 2) for part in halves)


def decide(
    key: Key[Array, ""],
    state: State,
    space: Space,
    settings: recipes.Search,
    budget: Budget,
    halves: tuple[Examples, Examples],
    inputs: Inputs,
    held_out: list[tuple[Float[Array, "batch ..."], Int[Array, " batch"]]],
    fallback: Choice,
) -> Choice:
    """The architecture to build, from a contest in two rounds.

    Candidates are draws that fit by the exact costs and use most of the tightest limit: of each
    depth, as deep networks and shallow ones differ most, the likeliest. Those of each depth whose
    shared weights do best on ``held_out`` are finalists. Every finalist is then trained briefly,
    from scratch and on the same examples, and the one with the least loss on ``held_out`` wins:
    shared weights were trained at the depths that decisions had come to, and mistrust all others.

    Args:
        halves: training data; finalists train on the first.
        inputs: front end and augmentation.
        held_out: inputs, not augmented, and labels that trained no weights.
        fallback: a choice that fits, taken where no draw does.

    Returns:
        An int32 one-hot choice.
    """
    groups = _candidates(key, state.logits, space, budget, settings.candidates).values()
    everyone = [choice for group in groups for choice in group]
    losses = iter(shared_losses(state, space, settings, everyone, held_out))
    ranked = []
    for group in groups:
        order = np.argsort(list(itertools.islice(losses, len(group))))
        ranked.append([group[i] for i in order])
    # Turn by turn: the best of each depth, the likeliest depth first, then the second of each.
    turns = itertools.zip_longest(*ranked)
    finalists = [choice for turn in turns for choice in turn if choice][: settings.finalists]
    if not finalists:
        return fallback
    if settings.trial_epochs == 0 or len(finalists) == 1:
        return finalists[0]
    networks = [space.decode(choice) for choice in finalists]
    return finalists[contest(key, networks, settings, halves[0], inputs, held_out)]


def shared_losses(
    state: State,
    space: Space,
    settings: recipes.Search,
    choices: list[Choice],
    held_out: list[tuple[Float[Array, "batch ..."], Int[Array, " batch"]]],
) -> list[float]:
    """Cross entropy of each choice under the shared weights and the batch's own moments."""
    model = Supernet(space.supernetwork(), settings.bits or None)

    @jax.jit
    def loss(choice: Choice, x: Array, labels: Array) -> Array:
        floats = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), choice)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        outputs, _ = model.apply(
            variables, x, architecture(space, floats), train=True, mutable=["batch_stats"]
        )
        return cross_entropy(outputs, labels)

    return [float(np.mean([loss(c, x, labels) for x, labels in held_out])) for c in choices]


def contest(
    key: Key[Array, ""],
    networks: list[Network],
    settings: recipes.Search,
    examples: Examples,
    inputs: Inputs,
    held_out: list[tuple[Float[Array, "batch ..."], Int[Array, " batch"]]],
) -> int:
    """Which network has the least held-out loss after the same short training from scratch.

    By successive halving (Jamieson and Talwalkar, 2016): after half of the epochs the worse
    half is trained no further.
    """
    recipe = recipes.Training(
        epochs=settings.trial_epochs,
        batch_size=settings.batch_size // 2,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    seed = int(jax.random.randint(key, (), 0, 1 << 30))
    prepared = training.prepare(examples, inputs, recipe, seed=seed)
    num_steps = prepared.num_batches(recipe.batch_size) * recipe.epochs

    def trial(network: Network) -> Iterator[Callable[[], float]]:
        """After each epoch, what computes the loss."""
        fresh = init_supernet(key, network)
        start = training.init(fresh["params"], fresh["batch_stats"], recipe, num_steps)
        model = training.float_model(network)

        @jax.jit
        def on_batch(variables: training.Variables, x: Array, labels: Array) -> Array:
            return cross_entropy(jnp.asarray(Supernet(network).apply(variables, x)), labels)

        def loss(state: training.State) -> float:
            variables = {"params": state.trainable, "batch_stats": state.stats}
            return float(np.mean([on_batch(variables, x, labels) for x, labels in held_out]))

        for state, _ in training.fit(
            model, start, prepared, training.as_prepared, recipe, seed=seed
        ):
            yield functools.partial(loss, state)

    trials = [trial(network) for network in networks]
    left = list(range(len(networks)))
    # Networks this small leave most of a machine idle; each still computes the same bits.
    with concurrent.futures.ThreadPoolExecutor(TRIALS_AT_ONCE) as pool:
        for epochs in np.diff(np.linspace(0, recipe.epochs, ROUNDS + 1).round().astype(int)):
            if not epochs:
                continue
            run = functools.partial(_advance, epochs=int(epochs))
            losses = list(pool.map(run, [trials[i] for i in left]))
            left = [left[i] for i in np.argsort(losses)[: -(-len(left) // 2)]]
    return left[0]


def _advance(trial: Iterator[Callable[[], float]], epochs: int) -> float:
    """The loss of a trial that many epochs later."""
    (loss,) = collections.deque(itertools.islice(trial, epochs), maxlen=1)
    return loss()


class _Draws(NamedTuple):
    """Many draws: choices, their likelihood as learned, whether each fits, its usage of the
    tightest limit, its number of convolutions."""

    choices: Choice
    likelihood: Float[Array, " draws"]
    fits: Bool[Array, " draws"]
    usage: Float[Array, " draws"]
    depth: Int[Array, " draws"]


def _candidates(
    key: Key[Array, ""], logits: Logits, space: Space, budget: Budget, count: int
) -> dict[int, list[Choice]]:
    """By depth, the likeliest first, ``count`` draws in all: of each depth the most probable that
    fit, each of another shape.

    Drawn from the learned distribution and from flatter ones, which reach every depth. Draws that
    leave much of every limit unused are taken only where no others are: the modes of many decisions
    together are smaller than their mean, which the limits hold.
    """
    drawn = jax.tree.map(np.asarray, _draw(key, logits, space, budget))
    order = np.argsort(-drawn.likelihood, kind="stable")
    order = order[drawn.fits[order]]
    tight = order[drawn.usage[order] >= TIGHT]
    order = tight if tight.size else order
    options = np.concatenate([np.argmax(leaf, -1) for leaf in drawn.choices.values()], axis=-1)
    _, first = np.unique(options[order], axis=0, return_index=True)
    order = order[np.sort(first)]
    depths = list(dict.fromkeys(drawn.depth[order].tolist()))
    found: dict[int, list[Choice]] = {}
    for depth in depths:
        shapes: dict[tuple, Choice] = {}
        for i in order[drawn.depth[order] == depth][:DECODED]:
            choice = jax.tree.map(lambda leaf, i=i: leaf[i], drawn.choices)
            shapes.setdefault(_shape(space.decode(choice)), choice)
            if len(shapes) == -(-count // len(depths)):
                break
        found[depth] = list(shapes.values())
    return found


def _draw(
    key: Key[Array, ""], logits: Logits, space: Space, budget: Budget, draws: int = 1 << 15
) -> _Draws:
    """That many draws from the distribution at every flatness."""
    learned = jax.tree.map(jax.nn.log_softmax, logits)

    def one(key: Key[Array, ""], flatness: Array) -> _Draws:
        flatter = jax.tree.map(lambda leaf: leaf / flatness, logits)
        chosen = jax.tree.map(lambda leaf: leaf.astype(jnp.int32), decisions.draw(key, flatter))
        likelihood = jnp.stack([jnp.sum(chosen[name] * learned[name]) for name in chosen]).sum()
        network = space.network(chosen)
        usage = jnp.stack([jnp.asarray(u) for u in budget.usage(network).values()])
        convolutions = [layer.presence for layer in network if layer.kind in CONVOLUTIONS]
        depth = jnp.asarray(sum(convolutions), jnp.int32)
        return _Draws(chosen, likelihood, budget.fits(network), jnp.max(usage), depth)

    flatness = jnp.repeat(jnp.asarray(FLATNESS), draws)
    return jax.jit(jax.vmap(one))(jax.random.split(key, len(flatness)), flatness)


def _shape(network: Network) -> tuple:
    """What distinguishes networks to a trained eye: all but the names of their layers."""
    return tuple((x.kind, x.in_channels, x.out_channels, x.kernel, x.stride) for x in network)


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
        optax.adam(settings.decision_learning_rate, b1=0.5),
    )
    return weights, choices
