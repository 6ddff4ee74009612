"""Decisions: what samples promise, and what is learned through them."""

import jax
import jax.numpy as jnp
import numpy as np

from micronets_jax import decisions

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


def test_all_yes_leaves_sizes_alone():
    choice = {"keep": jnp.array([[0.2, 0.8], [1.0, 0.0]]), "width": LOGITS["a"]}
    answered = decisions.all_yes(choice)
    np.testing.assert_array_equal(answered["keep"], [[1, 0], [1, 0]])
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


def test_a_gradient_reaches_neighbours_of_its_option_but_not_of_yes_or_no():
    width, keep = jnp.eye(5)[None, 1], jnp.array([[1.0, 0.0]])
    spread = decisions.spread({"width": width, "keep": keep}, 1.0)
    np.testing.assert_allclose(spread["width"][0, :4], np.exp([-0.5, 0, -0.5, -2]), rtol=1e-6)
    np.testing.assert_array_equal(spread["keep"], keep)
    np.testing.assert_array_equal(decisions.spread({"width": width}, 0.0)["width"], width)


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


def test_sizes_are_mean_options_and_yes_or_no_is_none():
    logits = {
        "width": jnp.log(jnp.array([[0.5, 0.25, 0.25], [0, 0, 1.0]])),
        "keep": jnp.ones((2, 2)),
    }
    sizes = decisions.sizes(logits)
    assert sizes.keys() == {"width"}
    np.testing.assert_allclose(sizes["width"], [1.75, 3], rtol=1e-6)
