"""From what a search learned to one network: candidates, and a contest of them.

Invariant: what :func:`decide` returns fits every limit by the exact costs.

Ours throughout: MicroNets (Banbury et al., 2021) takes the likeliest options.
"""

from __future__ import annotations

import concurrent.futures
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from micronets_jax import accelerators, decisions, recipes, training
from micronets_jax.budgets import Budget
from micronets_jax.decisions import Choice, Logits, Sizes
from micronets_jax.dnas import State, around, balanced, even, tightest
from micronets_jax.network import Network
from micronets_jax.spaces import Space
from micronets_jax.supernet import Supernet, architecture
from micronets_jax.supernet import init as init_supernet
from micronets_jax.training import Examples, Inputs, cross_entropy

CONVOLUTIONS = ("conv", "depthwise")
"""Kinds of layers that make a network deep."""

TIGHT = 0.92
"""Share of a limit that a candidate should use."""

FLATNESS = (1.0, 4.0, 16.0)
"""What the learned logits of yes or no are divided by where candidates are drawn."""

SPREAD = 1.2
"""Options that the widths of candidates lie about their means."""

MOST_FACTOR = 4.0
"""Most that the widths of a candidate are multiplied or divided by to meet the limits."""

WAYS = (0.5, 0.0, 1.0, -0.5, -1.0)
"""How far widths are taken of the way from where the search started to what it learned; below 0, of
that to where it might have started instead, see ``dnas.STARTS``. In the order of the contest."""

SHARE = 0.4
"""Of the largest, where widths are even, before all are multiplied or divided."""

PATTERNS = 20
"""Of blocks kept and left out, for each flatness and way."""

DRAWS = 64
"""Of widths, for each pattern."""

ROUNDING = 1e-5
"""Of a usage computed in float32; what is drawn is then decided by the exact costs."""

DECODED = 256
"""Draws of a depth that are looked at; what absent blocks would be makes many of one shape."""

SHAPES = 8
"""Candidates of one depth and way."""

COMPARED = 2
"""Batches on which candidates of one depth and way are compared."""

TRIALS_AT_ONCE = 2
"""Finalists trained side by side."""


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
    """The architecture to build, from a contest of candidates.

    Candidates are draws that fit by the exact costs and use most of the tightest limit. Shared
    weights were trained where the decisions had come to, and mistrust all else. So candidates are
    of several depths, and of each some are as was learned, some balanced (:func:`dnas.balanced`),
    some even, some between, see :data:`WAYS`. Of those alike in both, the one whose shared weights
    do best on ``held_out`` is a finalist; finalists are trained briefly from scratch, see
    :func:`contest`.

    Args:
        halves: training data; finalists train on the first.
        inputs: front end and augmentation.
        held_out: inputs, not augmented, and labels that trained no weights.
        fallback: a choice that fits, taken where no draw does.

    Returns:
        An int32 one-hot choice.
    """
    groups = _candidates(key, state.logits, space, budget, settings.start)
    if not groups:
        return fallback
    # The likeliest depth and shallower ones; at each, the first of the ways stands for it.
    likeliest, _ = next(iter(groups))
    depths = list(dict.fromkeys(depth for depth, _ in groups if depth <= likeliest))
    depths = depths[: -(-settings.finalists // 2)]
    most = 1 + settings.finalists - len(depths)  # no more can run of any depth
    rows = [
        [groups[depth, way] for way in WAYS if (depth, way) in groups][:most] for depth in depths
    ]
    count = -(-settings.candidates // sum(map(len, rows)))
    rows = [[group[:count] for group in row] for row in rows]
    everyone = [choice for row in rows for group in row for choice in group]
    losses = iter(shared_losses(state, space, settings, everyone, held_out[:COMPARED]))
    ranked = [[sorted(group, key=lambda _: next(losses)) for group in row] for row in rows]
    finalists = [_different(row, space) for row in ranked]
    if settings.trial_epochs == 0 or settings.finalists == 1:
        return finalists[0][0]
    networks = [[space.decode(choice) for choice in row] for row in finalists]
    row, column = contest(key, networks, settings, halves[0], inputs, held_out)
    return finalists[row][column]


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
    rows: list[list[Network]],
    settings: recipes.Search,
    examples: Examples,
    inputs: Inputs,
    held_out: list[tuple[Float[Array, "batch ..."], Int[Array, " batch"]]],
) -> tuple[int, int]:
    """Which network has the least held-out loss after the same short training from scratch.

    The first of each row runs; then, row by row from the best on, their variants do, until
    ``settings.finalists`` have run. Each runs to the end of its own schedule: losses at a rate that
    has not fallen yet say little of those at the end, and favour shallow networks.

    Returns:
        Row and column of the winner.
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

    def trial(network: Network) -> float:
        fresh = init_supernet(key, network)
        start = training.init(fresh["params"], fresh["batch_stats"], recipe, num_steps)
        *_, (state, _) = training.fit(
            training.float_model(network),
            start,
            prepared,
            training.as_prepared,
            recipe,
            seed=seed,
        )
        variables = {"params": state.trainable, "batch_stats": state.stats}

        @jax.jit
        def on_batch(variables: training.Variables, x: Array, labels: Array) -> Array:
            return cross_entropy(jnp.asarray(Supernet(network).apply(variables, x)), labels)

        return float(np.mean([on_batch(variables, x, labels) for x, labels in held_out]))

    def run(names: list[tuple[int, int]]) -> dict[tuple[int, int], float]:
        # Networks this small leave most of a machine idle; each still computes the same bits.
        with concurrent.futures.ThreadPoolExecutor(TRIALS_AT_ONCE) as pool:
            losses = pool.map(trial, [rows[i][j] for i, j in names])
            return dict(zip(names, losses, strict=True))

    leaders = [(i, 0) for i in range(len(rows))][: settings.finalists]
    losses = run(leaders)
    best = [i for i, _ in sorted(leaders, key=losses.__getitem__)]
    variants = [(i, j) for i in best for j in range(1, len(rows[i]))]
    losses |= run(variants[: max(settings.finalists - len(leaders), 0)])
    return min(losses, key=losses.__getitem__)


def _different(groups: list[list[Choice]], space: Space) -> list[Choice]:
    """Of each group the first choice whose network no group before has given."""
    taken: dict[tuple, Choice] = {}
    for group in groups:
        shapes = ((_shape(space.decode(choice)), choice) for choice in group)
        taken |= itertools.islice((pair for pair in shapes if pair[0] not in taken), 1)
    return list(taken.values())


class _Draws(NamedTuple):
    """Many draws: choices, their likelihood, usage of the tightest limit, number of convolutions,
    how far the decisions had been taken."""

    choices: Choice
    likelihood: Float[Array, " draws"]
    usage: Float[Array, " draws"]
    depth: Int[Array, " draws"]
    way: Float[Array, " draws"]


def _candidates(
    key: Key[Array, ""], learned: Logits, space: Space, budget: Budget, start: recipes.Start
) -> dict[tuple[int, float], list[Choice]]:
    """By depth and by how far decisions are taken, the likeliest first: of each a few of the most
    probable draws that fit, each of another shape.

    Draws that leave much of every limit unused are taken only where no others are.
    """
    drawn = accelerators.once(_draw, key, learned, space, budget, start, static=(2, 3, 4))
    drawn = jax.tree.map(np.asarray, drawn)
    order = np.argsort(-drawn.likelihood, kind="stable")
    order = order[drawn.usage[order] <= 1 + ROUNDING]
    tight = order[drawn.usage[order] >= TIGHT]
    order = tight if tight.size else order
    options = np.concatenate([np.argmax(leaf, -1) for leaf in drawn.choices.values()], axis=-1)
    found: dict[tuple[int, float], list[Choice]] = {}
    groups = zip(drawn.depth[order].tolist(), drawn.way[order].tolist(), strict=True)
    for depth, way in dict.fromkeys(groups):
        members = order[(drawn.depth[order] == depth) & (drawn.way[order] == way)]
        _, once = np.unique(options[members], axis=0, return_index=True)
        shapes: dict[tuple, Choice] = {}
        for i in members[np.sort(once)][:DECODED]:
            choice = jax.tree.map(lambda leaf, i=i: leaf[i], drawn.choices)
            network = space.decode(choice)
            if budget.fits(network):
                shapes.setdefault(_shape(network), choice)
            if len(shapes) == SHAPES:
                break
        if shapes:
            found[depth, way] = list(shapes.values())
    return found


def _draw(
    key: Key[Array, ""], learned: Logits, space: Space, budget: Budget, start: recipes.Start
) -> _Draws:
    """For every flatness and way many patterns of yes and no, each with many draws of widths.

    Flatter odds reach every depth. A network with fewer blocks may be wider, so widths of a pattern
    are drawn about where a search of it would start, each times what the search made of its own
    start, to the power of the way, or taken towards the other start, and all times what makes their
    mean network meet the limits.
    """
    starts_even = start == "even"
    evens = {
        name: jnp.full(shape[:-1], SHARE * shape[-1])
        for name, shape in space.options().items()
        if not decisions.yes_or_no(shape)
    }
    binary = {name: leaf for name, leaf in learned.items() if decisions.yes_or_no(leaf.shape)}
    factors = jnp.geomspace(MOST_FACTOR, 1 / MOST_FACTOR, 65)
    grid = np.repeat(list(itertools.product(FLATNESS, WAYS)), PATTERNS, axis=0)
    flatness, ways = jnp.asarray(grid, jnp.float32).T

    def blocks(key: Key[Array, ""], flatness: Array) -> Choice:
        return decisions.draw(key, {name: leaf / flatness for name, leaf in binary.items()})

    def widths(
        key: Key[Array, ""], fixed: Choice, balance: Sizes, gone: Sizes, way: Array
    ) -> _Draws:
        def times(factor: Array) -> Logits:
            towards_other, towards_learned = jnp.maximum(-way, 0), jnp.maximum(way, 0)
            own, other = (evens, balance) if starts_even else (balance, evens)
            sizes = {
                name: factor
                * own[name]
                * (other[name] / own[name]) ** towards_other
                * jnp.exp(towards_learned * gone[name])
                for name in own
            }
            return around(space, sizes, SPREAD)

        mean = jax.vmap(
            lambda factor: tightest(space, budget, decisions.expected(times(factor)) | fixed)
        )(factors)
        logits = times(factors[jnp.argmax((mean <= 1).at[-1].set(True))]) | binary
        odds = jax.tree.map(jax.nn.log_softmax, logits)

        def one(key: Key[Array, ""]) -> _Draws:
            choice = decisions.draw(key, logits) | fixed
            likelihood = jnp.stack([jnp.sum(choice[name] * odds[name]) for name in choice]).sum()
            convolutions = [x.presence for x in space.network(choice) if x.kind in CONVOLUTIONS]
            depth = jnp.round(jnp.asarray(sum(convolutions))).astype(jnp.int32)
            decided = jax.tree.map(lambda leaf: leaf.astype(jnp.int32), choice)
            return _Draws(decided, likelihood, tightest(space, budget, choice), depth, way)

        return jax.vmap(one)(jax.random.split(key, DRAWS))

    keys = jax.random.split(key, (2, ways.size))
    fixed = jax.vmap(blocks)(keys[0], flatness)
    # One call balances what was learned, the first, and every pattern. The numbers are there for
    # spaces without yes or no: vmap needs something to go over.
    given = jax.tree.map(
        lambda one, many: jnp.concatenate([one[None], many]), decisions.expected(binary), fixed
    )
    balances = jax.vmap(lambda _, given: balanced(space, budget, SPREAD, given))(
        jnp.arange(ways.size + 1), given
    )
    if starts_even:
        first = even(space, budget, SPREAD, decisions.expected(binary))
    else:
        first = jax.tree.map(lambda b: b[0], balances)
    before = decisions.sizes(around(space, first, SPREAD))
    gone = jax.tree.map(lambda new, old: jnp.log(new / old), decisions.sizes(learned), before)
    balances = jax.tree.map(lambda b: b[1:], balances)
    drawn = jax.vmap(widths, in_axes=(0, 0, 0, None, 0))(keys[1], fixed, balances, gone, ways)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), drawn)


def _shape(network: Network) -> tuple:
    """What distinguishes networks to a trained eye: all but the names of their layers."""
    return tuple((x.kind, x.in_channels, x.out_channels, x.kernel, x.stride) for x in network)
