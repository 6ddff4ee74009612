"""Decisions: what samples promise, and what is learned through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import decisions
from micronets_jax.decisions import Decision

WIDTHS = Decision("width", ((4, 8, 16), (4, 8, 16)), (0, 1))
KEEP = Decision("binary", ((1, 0),), (1,))
KERNELS = Decision("categorical", ((3, 5, 7),), (1,))
TAKEN = {"width": WIDTHS, "keep": KEEP, "kernel": KERNELS}
LOGITS = {"a": jnp.log(jnp.array([[0.7, 0.2, 0.1]])), "b": jnp.zeros((2, 4))}


def test_cold_samples_follow_the_softmax():
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = jax.vmap(lambda key: decisions.gumbel_softmax(key, LOGITS, 0.01))(keys)
    np.testing.assert_allclose(draws["a"].mean(0)[0], [0.7, 0.2, 0.1], atol=0.03)
    np.testing.assert_allclose(draws["b"].sum(-1), 1, atol=1e-5)


def test_warm_samples_are_soft():
    draw = decisions.gumbel_softmax(jax.random.key(1), LOGITS, 100.0)
    np.testing.assert_allclose(draw["b"], 0.25, atol=0.05)


def test_draws_are_one_hot_and_follow_the_softmax():
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = jax.vmap(lambda key: decisions.draw(key, LOGITS))(keys)
    assert set(np.unique(draws["b"])) == {0.0, 1.0}
    np.testing.assert_allclose(draws["a"].mean(0)[0], [0.7, 0.2, 0.1], atol=0.03)


def test_all_yes_leaves_everything_else_alone():
    choice = {"keep": jnp.array([[0.2, 0.8]]), "width": jnp.ones((2, 3)) / 3}
    answered = decisions.all_yes(choice, TAKEN)
    np.testing.assert_array_equal(answered["keep"], [[1, 0]])
    assert answered["width"] is choice["width"]


def curved(choice):
    """A loss whose value between two decided choices says little of its value at these."""
    return jnp.sum(jnp.sqrt(choice["a"] @ jnp.array([1.0, 25.0, 49.0])))


def test_between_two_draws_decisions_learn_what_a_draw_would_cost():
    """By hand: the gradient of the expected loss over decided choices, 1, 5 and 7."""
    logits = {"a": LOGITS["a"]}

    def gradient(key):
        return jax.grad(lambda logits: curved(decisions.between(key, logits)))(logits)["a"]

    keys = jax.random.split(jax.random.key(2), 40_000)
    seen = jax.jit(jax.vmap(gradient))(keys)
    truth = jax.grad(lambda x: jnp.sum(jax.nn.softmax(x) @ jnp.array([1.0, 5.0, 7.0])))(logits["a"])
    np.testing.assert_allclose(seen.mean(0), truth, atol=4 * seen.std() / 200)
    relaxed = jax.grad(lambda x: curved(decisions.expected({"a": x})))(logits["a"])
    assert np.abs(relaxed - truth).max() > 0.1


def test_shares_of_several_decisions_add_up_to_the_difference():
    """Where a loss is a product of two decisions, neither can be credited with all of it."""
    logits = {"a": jnp.zeros((2, 2))}

    def loss(choice):
        return jnp.prod(choice["a"] @ jnp.array([1.0, 3.0]))

    def gradient(key):
        return jax.grad(lambda logits: loss(decisions.between(key, logits)))(logits)["a"]

    keys = jax.random.split(jax.random.key(3), 40_000)
    seen = jax.jit(jax.vmap(gradient))(keys).mean(0)
    truth = jax.grad(lambda x: jnp.prod(jax.nn.softmax(x) @ jnp.array([1.0, 3.0])))(logits["a"])
    np.testing.assert_allclose(seen, truth, atol=0.03)


def test_a_gradient_reaches_widths_that_are_alike_and_no_other_kind():
    """By hand: 8 is a factor of 2 from 4 and from 16, half a deviation of log 4."""
    gradient = {"width": jnp.eye(3)[jnp.array([1, 0])], "keep": jnp.array([[1.0, 0.0]])}
    spread = decisions.spread(gradient, TAKEN, float(np.log(4)))
    near, far = np.exp(-1 / 8), np.exp(-1 / 2)
    np.testing.assert_allclose(spread["width"], [[near, 1, near], [1, near, far]], rtol=1e-6)
    np.testing.assert_array_equal(spread["keep"], gradient["keep"])


def test_straight_through_is_one_hot_with_the_soft_gradient():
    def value(logits, choose):
        choice = choose(decisions.expected({"a": logits}))
        return jnp.sum(choice["a"] * jnp.array([[1.0, 5.0, 7.0]]))

    hard = decisions.straight_through(decisions.expected(LOGITS))
    np.testing.assert_allclose(hard["a"], [[1, 0, 0]], atol=1e-6)
    soft_gradient = jax.grad(value)(LOGITS["a"], lambda c: c)
    hard_gradient = jax.grad(value)(LOGITS["a"], decisions.straight_through)
    np.testing.assert_allclose(hard_gradient, soft_gradient, atol=1e-6)
    assert value(LOGITS["a"], decisions.straight_through) == 1.0


def test_ties_are_decided_for_the_first_option():
    np.testing.assert_array_equal(decisions.decided(LOGITS)["b"], [[1, 0, 0, 0]] * 2)


def test_widths_are_mean_channels_and_nothing_else_has_any():
    logits = {
        "width": jnp.log(jnp.array([[0.5, 0.25, 0.25], [0, 0, 1.0]])),
        "keep": jnp.ones((1, 2)),
        "kernel": jnp.ones((1, 3)),
    }
    widths = decisions.widths(logits, TAKEN)
    assert widths.keys() == {"width"}
    np.testing.assert_allclose(widths["width"], [8, 16], rtol=1e-6)


def test_odds_about_a_width_fall_alike_on_either_side():
    odds = decisions.around({"width": jnp.array([8.0, 4.0])}, TAKEN, 0.5)["width"]
    assert odds[0, 1] == 0 and odds[0, 0] == pytest.approx(odds[0, 2])
    assert odds[1].argmax() == 0
    mean = decisions.interpolated({"width": jnp.array([7.0, 99.0])}, TAKEN)["width"]
    np.testing.assert_allclose(mean, [[0.25, 0.75, 0], [0, 0, 1]])
    near = decisions.nearest({"width": jnp.array([11.0, 99.0])}, TAKEN)["width"]
    np.testing.assert_array_equal(near, [[0, 1, 0], [0, 0, 1]])


# ---------------------------------------------------------------- members


def indices(choice):
    return {name: np.argmax(leaf, axis=-1).tolist() for name, leaf in choice.items()}


def test_values_are_what_was_chosen_and_means_of_what_may_be():
    assert KERNELS.value(np.array([[0, 0, 1]], np.int32)).tolist() == [7]
    assert KEEP.value(np.array([[0.25, 0.75]], np.float32)).tolist() == [0.25]
    assert WIDTHS.value(np.eye(3, dtype=np.int32)[[0, 2]]).dtype == jnp.int32


def test_uniform_choices_are_one_hot_and_every_option_is_as_likely():
    drawn = decisions.uniform(np.random.default_rng(0), TAKEN, 3000)
    assert drawn["width"].shape == (3000, 2, 3) and drawn["width"].dtype == np.int32
    assert all((leaf.sum(axis=-1) == 1).all() for leaf in drawn.values())
    np.testing.assert_allclose(drawn["width"].mean(axis=0), 1 / 3, atol=0.03)
    np.testing.assert_allclose(drawn["keep"].mean(axis=0), 1 / 2, atol=0.03)


def test_members_are_counted_with_every_combination():
    assert decisions.count(TAKEN) == 3 * 3 * 2 * 3
    assert decisions.count({}) == 1


def test_mutation_changes_about_as_many_decisions_as_it_is_told():
    rng = np.random.default_rng(0)
    choice = decisions.uniform(rng, TAKEN)
    assert indices(decisions.mutate(rng, choice, 0.0)) == indices(choice)
    many = {name: np.repeat(leaf[None], 2000, axis=0) for name, leaf in choice.items()}
    changed = np.any(decisions.mutate(rng, many, 0.6)["width"] != choice["width"], axis=-1)
    assert changed.shape == (2000, 2)
    assert changed.mean() == pytest.approx(0.6 * 2 / 3, abs=0.03)  # a third draws the same


def test_a_cross_takes_each_decision_from_either_parent():
    rng = np.random.default_rng(0)
    first = {name: np.eye(d.shape[1], dtype=int)[[0] * d.shape[0]] for name, d in TAKEN.items()}
    second = {name: np.eye(d.shape[1], dtype=int)[[1] * d.shape[0]] for name, d in TAKEN.items()}
    assert {*indices(decisions.crossover(rng, first, second))["width"]} <= {0, 1}
    many = [
        {name: np.repeat(x[None], 200, 0) for name, x in one.items()} for one in (first, second)
    ]
    crossed = np.argmax(decisions.crossover(rng, *many)["width"], axis=-1)
    assert {*map(tuple, crossed.tolist())} == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_neighbours_differ_in_one_decision_by_the_next_width_or_any_other_option():
    choice = {
        "width": np.eye(3, dtype=int)[[0, 1]],
        "keep": np.eye(2)[[0]],
        "kernel": np.eye(3)[[2]],
    }
    found = [indices(one) for one in decisions.neighbours(choice, TAKEN)]
    assert [one["width"] for one in found if one["width"] != [0, 1]] == [[1, 1], [0, 0], [0, 2]]
    assert [one["keep"] for one in found if one["keep"] != [0]] == [[1]]
    assert [one["kernel"] for one in found if one["kernel"] != [2]] == [[0], [1]]
    assert len(found) == 6


@pytest.mark.parametrize(
    ("kind", "values", "places", "reason"),
    [
        ("width", ((8, 4),), (0,), "rising channel counts"),
        ("binary", ((0, 1),), (0,), "yes first"),
        ("width", ((4, 8), (4, 8, 12)), (0, 1), "rows of one length"),
        ("width", ((4, 8),), (0, 1), "one place a row"),
    ],
)
def test_decisions_that_cannot_be_are_refused(kind, values, places, reason):
    with pytest.raises(ValueError, match=reason):
        Decision(kind, values, places)
