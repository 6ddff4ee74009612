"""Where and how programs run; meshes are tested in test_sharding, on devices of their own."""

import jax
import jax.numpy as jnp
import numpy as np

from micronets_jax import accelerators


def power(exponent, x):
    return x**exponent


def test_what_runs_once_is_the_function_itself_on_its_own_and_within_a_program():
    x = jnp.arange(3.0)
    alone = accelerators.once(power, 3, x, static=(0,))
    within = jax.jit(lambda x: accelerators.once(power, 3, x, static=(0,)) + 1)(x)
    np.testing.assert_array_equal(alone, [0, 1, 8])
    np.testing.assert_array_equal(within, [1, 2, 9])


def test_what_runs_once_inside_a_program_is_a_part_of_it():
    text = jax.jit(lambda x: accelerators.once(jnp.sin, x)).lower(jnp.ones(2)).as_text()
    assert "call @" not in text
