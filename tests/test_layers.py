"""Layers: the CPU's own lowering against XLA's convolution, values and gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from micronets_jax import layers

SHAPES = [((2, 7, 5, 3), s) for s in (1, 2)] + [((3, 8, 6, 3), s) for s in (1, 2)]


def xla(x, kernel, stride, padding, groups):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, stride, padding, dimension_numbers=numbers, feature_group_count=groups
    )


def draws(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def with_gradients(function, *arguments):
    """What it gives, and the gradients of a weighted sum of that; compiled as one."""
    (weights,) = draws(jax.eval_shape(function, *arguments).shape)

    @jax.jit
    def both(*arguments):
        y, pull = jax.vjp(function, *arguments)
        return y, pull(weights)

    return both(*arguments)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("shape", "stride"), SHAPES)
@pytest.mark.parametrize("kind", ["depthwise", "conv3", "conv1"])
def test_convolutions_and_gradients_equal_xlas(kind, shape, stride, padding):
    size = (1, 1) if kind == "conv1" else (3, 3)
    groups = shape[-1] if kind == "depthwise" else 1
    out = shape[-1] if kind == "depthwise" else 4
    x, kernel = draws(shape, (*size, shape[-1] // groups, out))
    ours = layers.depthwise if kind == "depthwise" else layers.conv
    steps = (stride, stride)
    y, gradients = with_gradients(lambda *a: ours(*a, steps, padding), x, kernel)
    expected, twins = with_gradients(lambda *a: xla(*a, steps, padding, groups), x, kernel)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(gradients, twins, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("steps", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("out", [3, 60])
def test_convolutions_of_one_channel_narrow_or_wide_equal_xlas(out, steps, padding):
    x, kernel = draws((2, 9, 6, 1), (5, 4, 1, out))
    y, gradients = with_gradients(lambda *a: layers.conv(*a, steps, padding), x, kernel)
    expected, twins = with_gradients(lambda *a: xla(*a, steps, padding, 1), x, kernel)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(gradients, twins, rtol=1e-4, atol=1e-4)


def test_depthwise_under_vmap_shares_its_kernel():
    x, kernel = draws((4, 2, 7, 5, 3), (3, 3, 1, 3))
    many = jax.vmap(lambda one: layers.depthwise(one, kernel, (2, 2), "SAME"))(x)
    one = jnp.stack([layers.depthwise(part, kernel, (2, 2), "SAME") for part in x])
    np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["linear", "relu", "relu6"])
def test_batch_norm_equals_its_definition(activation):
    x, scale, offset = draws((4, 5, 3, 6), (6,), (6,))
    x = 3 * x + 1

    def definition(x, scale, offset):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        normal = (x - mean) / jnp.sqrt(var + layers.BATCH_NORM_EPSILON)
        return layers.activate(normal * scale + offset, activation)

    _, mean, var = layers.batch_norm(x, scale, offset, activation)
    np.testing.assert_allclose(mean, np.mean(x, (0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(var, np.var(x, (0, 1, 2)), rtol=1e-4)
    arguments = x, scale, offset
    y, gradients = with_gradients(lambda *a: layers.batch_norm(*a, activation)[0], *arguments)
    expected, twins = with_gradients(definition, *arguments)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    chex.assert_trees_all_close(gradients, twins, atol=2e-3)


def test_average_pooling_at_the_edge_divides_by_real_pixels():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    pooled = layers.avg_pool(x, (2, 2), (2, 2), "SAME")
    np.testing.assert_allclose(pooled[0, :, :, 0], [[2, 3.5], [6.5, 8]])
    np.testing.assert_allclose(layers.avg_pool(x, (3, 3), (3, 3), "VALID")[0, 0, 0, 0], 4)


@pytest.mark.parametrize("window", [(2, 2), (3, 2)])
@pytest.mark.parametrize("shape", [(2, 7, 5, 3), (2, 6, 4, 3)])
def test_average_pooling_and_gradient_equal_xlas(shape, window):
    def windows_sum(x):
        return lax.reduce_window(x, 0.0, lax.add, (1, *window, 1), (1, *window, 1), "SAME")

    def xla(x):
        return windows_sum(x) / windows_sum(jnp.ones_like(x))

    def ours(x):
        return layers.avg_pool(x, window, window, "SAME")

    (x,) = draws(shape)
    y, (gradient,) = with_gradients(ours, x)
    expected, (twin,) = with_gradients(xla, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, twin, rtol=1e-5, atol=1e-6)
    many = jnp.stack([x, 2 * x])
    _, (gradients,) = with_gradients(jax.vmap(ours), many)
    _, (twins,) = with_gradients(lambda many: jnp.stack([xla(one) for one in many]), many)
    np.testing.assert_allclose(gradients, twins, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_gradients_lower_for_accelerators(platform):
    def loss(x, kernel):
        return jnp.sum(layers.depthwise(x, kernel, (1, 1), "SAME") ** 2)

    x, kernel = draws((2, 7, 5, 3), (3, 3, 1, 3))
    exported = jax.export.export(jax.jit(jax.grad(loss, (0, 1))), platforms=[platform])(x, kernel)
    assert "convolution" in exported.mlir_module()
