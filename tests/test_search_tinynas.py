"""One-shot search: the sandwich, sorted channels, members judged, evolution under limits."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import cost, derive, losses, recipes, search, supernet
from micronets_jax.budgets import Budget
from micronets_jax.search import Problem, tinynas
from micronets_jax.spaces import MCUNet
from micronets_jax.spaces.mcunet import Stage
from support.learning import DATA, jittered

SPACE = MCUNet((9, 6, 1), 3, 0.25, (Stage(24, 2), Stage(40, 1)), (1, 2), (1, 3), (2, 3, 4, 5))
BUDGET = Budget(mops=cost.ops(SPACE.largest()) * 0.6e-6)
SETTINGS = recipes.TinyNAS(
    epochs=3, batch_size=32, population=12, parents=4, rounds=2, calibration=32, judged=64
)


def problem(**changes):
    given = Problem(SPACE, BUDGET, (DATA, DATA), jittered, jnp.asarray, seed=1)
    return dataclasses.replace(given, **changes)


@pytest.fixture(scope="module")
def made():
    return tinynas.TinyNAS(SETTINGS, problem())


@pytest.fixture(scope="module")
def run(made):
    """Every state with its record."""
    first = made.init(jax.random.key(0))
    return [(first, {}), *search.run(made, first, SETTINGS, problem())]


@pytest.fixture(scope="module")
def states(run):
    return [state for state, _ in run]


def logits(params, batch_stats, x):
    """Of the largest network, in training mode."""
    model = supernet.Supernet(SPACE.supernetwork())
    variables = {"params": params, "batch_stats": batch_stats}
    return model.apply(variables, x, train=True, mutable=["batch_stats"])[0]


# ---------------------------------------------------------------- several limits


def test_a_supernet_of_a_front_sees_members_that_fit_each_limit(made):
    tight = Budget(mops=0.9 * BUDGET.mops)
    front = problem(front=(tight, BUDGET))
    both = tinynas.TinyNAS(SETTINGS, front)
    first, second = (tinynas.TinyNAS(SETTINGS, one)._members for one in front.each())
    chex.assert_trees_all_equal(
        both._pool, jax.tree.map(lambda *x: np.concatenate(x), first, second)
    )
    chex.assert_trees_all_equal(second, made._pool)
    assert all(tight.fits(SPACE.decode(choice)) for choice in tinynas._rows(first)[:20])


@pytest.mark.slow
def test_a_supernet_of_a_front_evolves_members_for_each_limit(states):
    """By the weights of the one search, each population fits its own limit."""
    front = problem(front=(Budget(mops=0.9 * BUDGET.mops), BUDGET))
    for one in front.each():
        settings = dataclasses.replace(SETTINGS, rounds=1)
        proposed = tinynas.TinyNAS(settings, one).proposals(states[-1])
        assert len(proposed) >= settings.parents
        assert all(one.budget.fits(SPACE.decode(each.choice)) for each in proposed)


# ---------------------------------------------------------------- channels


def test_sorting_channels_changes_nothing_but_their_order(states):
    network, state = SPACE.supernetwork(), states[-1]
    order = derive.importance(network, state.params)
    params = derive.reorder(network, order, state.params)
    stats = derive.reorder(network, order, state.batch_stats)
    x = jax.random.normal(jax.random.key(1), (8, *SPACE.input_shape))
    apply = jax.jit(logits)
    np.testing.assert_allclose(
        apply(params, stats, x), apply(state.params, state.batch_stats, x), atol=1e-4
    )
    assert any(np.any(np.diff(np.asarray(row)) < 0) for row in order.values())
    assert {"stem", "block2_expand", "block4_expand"} < set(order)
    for name in order:
        block = "block1" if name == "stem" else name.removesuffix("_expand")
        important = np.abs(params[f"{block}_project"]["kernel"]).sum((0, 1, 3))
        assert np.all(np.diff(important) <= 1e-6)


def test_the_optimiser_remembers_of_a_channel_what_was_its_own(made, states):
    state = states[-1]
    sorted_ = jax.jit(made._sorted)(state)
    order = derive.importance(SPACE.supernetwork(), state.params)["block2_expand"]
    (before, *_), (after, *_) = state.optimizer, sorted_.optimizer
    for moments in ("mu", "nu"):
        kernels = [getattr(one, moments)["block2_expand"]["kernel"] for one in (before, after)]
        np.testing.assert_array_equal(kernels[0][..., order], kernels[1])


# ---------------------------------------------------------------- training


def test_first_the_largest_learns_alone(made, run):
    """A third of the epochs; then come the smallest and members of the pool."""
    records = [record for _, record in run[1:]]
    alone = [record["students"] == 0 for record in records]
    assert alone == [True, False, False]
    ends = [jax.tree.map(lambda leaf, i=i: leaf[i], made._ends) for i in range(2)]
    assert [SPACE.decode(end) for end in ends] == [
        SPACE.largest(),
        SPACE.decode(SPACE.lightest()[0]),
    ]


def test_students_learn_what_the_largest_says(made, states):
    """The weights of a step are those of a loss written out by hand."""
    state = states[-2]
    x = jax.random.normal(jax.random.key(2), (16, *SPACE.input_shape))
    labels = jnp.arange(16) % 3
    choices = made._sandwich(state.step)
    assert all(len(leaf) == SETTINGS.samples for leaf in choices.values())
    _, metrics = jax.jit(made._update)(state, x, labels, choices, SETTINGS.samples)
    forward = jax.vmap(made._forward, in_axes=(None, None, None, 0))
    outputs, _ = jax.jit(forward)(state.params, state.batch_stats, x, choices)
    says = jax.nn.softmax(outputs[0])
    by_hand = [-np.sum(says * jax.nn.log_softmax(one), axis=-1).mean() for one in outputs[1:]]
    np.testing.assert_allclose(metrics["students"], np.mean(by_hand), rtol=1e-4)
    own = losses.cross_entropy(outputs[0], labels)
    np.testing.assert_allclose(metrics["loss"], own, rtol=1e-4)


# ---------------------------------------------------------------- judging and evolution


def test_a_member_is_judged_as_a_network_of_its_own(made, states):
    """Cut from the supernet, moments taken anew, the loss of plain inference."""
    state, choice = states[-1], tinynas._rows(made._pool)[0]
    (loss,) = made.judging(state)([choice])
    x, labels = search.base.examples(problem(), 1, SETTINGS.judged)
    calibration, _ = search.base.examples(problem(), 0, SETTINGS.calibration)
    network = SPACE.decode(choice)
    own = derive.weights(network, made.variables(state))
    own = derive.recalibrate(network, own, [calibration])
    outputs = jax.jit(supernet.Supernet(network).apply)(own, x)
    np.testing.assert_allclose(losses.cross_entropy(outputs, labels), loss, rtol=1e-3)


def test_a_generation_fits_is_new_and_never_worse(made, states):
    generations = list(made.evolve(states[-1]))
    assert len(generations) == 1 + SETTINGS.rounds
    for generation in generations:
        assert all(BUDGET.fits(SPACE.decode(member.choice)) for member in generation)
        names = tinynas._names(tinynas._stacked([member.choice for member in generation]))
        assert len({*names}) == len(generation)
        losses = [member.loss for member in generation]
        assert losses == sorted(losses)
    best = [generation[0].loss for generation in generations]
    assert best == sorted(best, reverse=True)
    assert len(generations[-1]) == SETTINGS.parents + SETTINGS.population


# ---------------------------------------------------------------- what is refused


def test_spaces_and_limits_that_are_too_small_are_named(made):
    with pytest.raises(ValueError, match="population=12: the space has only 9 members"):
        small = MCUNet((9, 6, 1), 3, 0.25, (Stage(24, 2), Stage(40, 1)), (1,), (3,), (2, 3, 4))
        tinynas.TinyNAS(SETTINGS, problem(space=small))
    least = cost.ops(SPACE.decode(SPACE.lightest()[0]))
    tight = dataclasses.replace(made, problem=problem(budget=Budget(mops=1.001 * least / 1e6)))
    with pytest.raises(ValueError, match=r"leave about \d+ members.*TinyNAS needs 200"):
        tight.init(jax.random.key(0))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"samples": 2}, "samples=2: must be at least 3"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"mutation": 1.5}, "mutation=1.5: give a probability"),
        ({"population": 10, "parents": 11}, "parents=11: the population has only 10"),
    ],
)
def test_impossible_settings_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        recipes.TinyNAS(**arguments)
