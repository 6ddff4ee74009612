"""Decisions: what the Gumbel-softmax promises."""

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
