"""Folding, fake quantisation, the float simulation and the integer reference."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micronets_jax import layers, quantize
from micronets_jax.network import INPUT, Layer, Network
from support.networks import (
    NETWORK,
    RESIDUAL,
    SMALL,
    inputs,
    trained,
    variables,
)


@pytest.fixture(scope="module")
def model():
    return trained(NETWORK)


# ---------------------------------------------------------------- folding and calibration


def test_folding_keeps_the_function():
    rng = np.random.default_rng(0)
    params, stats = variables(NETWORK)
    p, s = params["stem"], stats["stem"]
    x = jnp.asarray(rng.normal(size=(2, 49, 10, 1)), jnp.float32)
    y = layers.conv(x, p["kernel"], (1, 1), "SAME")
    normal = (y - s["mean"]) / jnp.sqrt(s["var"] + layers.BATCH_NORM_EPSILON)
    folded = quantize.fold(NETWORK, params, stats)["stem"]
    got = layers.conv(x, folded["kernel"], (1, 1), "SAME") + folded["bias"]
    np.testing.assert_allclose(got, normal * p["scale"] + p["offset"], atol=1e-5)


def test_calibration_averages_the_extremes_of_batches():
    network = Network((1, 1, 2), (Layer("logits", "conv", (INPUT,), 2, 2),))
    folded = {"logits": {"kernel": jnp.eye(2).reshape(1, 1, 2, 2) * 2, "bias": jnp.zeros(2)}}
    batches = [jnp.asarray(v).reshape(1, 1, 1, 2) for v in ([-1.0, 3.0], [2.0, 5.0])]
    ranges = quantize.calibrate(network, folded, batches)
    np.testing.assert_allclose(ranges["activation"][INPUT]["min"], -0.5)
    np.testing.assert_allclose(ranges["activation"][INPUT]["max"], 4.0)
    np.testing.assert_allclose(ranges["activation"]["logits"]["max"], 8.0)
    np.testing.assert_allclose(ranges["weight"]["logits"], [2.0, 2.0])


def test_only_relu_layers_have_no_minimum(model):
    folded, trained_ranges = model
    ranges = quantize.calibrate(NETWORK, folded, [inputs(NETWORK)])
    chex.assert_trees_all_equal_shapes_and_dtypes(ranges, trained_ranges)
    assert {n for n, r in ranges["activation"].items() if "min" in r} == {INPUT, "logits"}
    assert set(ranges["weight"]) == {n for n in ranges["activation"] if n != INPUT}


# ---------------------------------------------------------------- fake quantisation


@pytest.mark.parametrize(
    ("x", "low", "high", "expected"),
    [
        (1.234, 0.0, 2.55, 1.23),
        (-1.0, 0.0, 2.55, 0.0),
        (9.0, 0.0, 2.55, 2.55),
        # -1 ... 1.55 has its zero at level 100 of 255, step 0.01: nothing to nudge.
        (-0.994, -1.0, 1.55, -0.99),
        (-7.0, -1.0, 1.55, -1.0),
        # -0.004 ... 2.546 is moved to 0 ... 2.55, and 0.5 ... 2.55 widened to it.
        (9.0, -0.004, 2.546, 2.55),
        (9.0, 0.5, 2.55, 2.55),
        (0.003, 0.5, 2.55, 0.0),
    ],
)
def test_fake_quant_by_hand(x, low, high, expected):
    got = quantize.fake_quant(jnp.asarray([x], jnp.float32), low, high)
    np.testing.assert_allclose(got, [expected], atol=1e-6)


def test_fake_quant_gradients_by_hand():
    x = jnp.asarray([-1.0, 0.374, 5.0])

    def loss(x, high):
        return quantize.fake_quant(x, 0.0, high).sum()

    dx, dhigh = jax.grad(loss, (0, 1))(x, jnp.float32(2.55))
    np.testing.assert_allclose(dx, [0, 1, 0])
    # Level 37.4 is rounded down by 0.4 levels of high / 255 each; the clipped value follows high.
    np.testing.assert_allclose(dhigh, 1 - 0.4 / 255, rtol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_gradients_are_those_of_rounding_taken_straight_through(bits):
    rng = np.random.default_rng(bits)
    x, weight = (jnp.asarray(rng.normal(size=(6, 5, 3)), jnp.float32) for _ in range(2))
    levels = 2**bits - 1

    def straight(value, rounded):
        return value + jax.lax.stop_gradient(rounded - value)

    def plain(x, low, high):
        scale = (high - low) / levels
        zero = straight(-low / scale, jnp.round(-low / scale))
        lowest, highest = -zero * scale, (levels - zero) * scale
        steps = (jnp.clip(x, lowest, highest) - lowest) / scale
        return jnp.sum(weight * (straight(steps, jnp.round(steps)) * scale + lowest))

    def ours(x, low, high):
        return jnp.sum(weight * quantize.fake_quant(x, low, high, bits))

    ends = jnp.float32(-0.7), jnp.float32(1.3)
    found, wanted = (jax.jit(jax.grad(f, (0, 1, 2)))(x, *ends) for f in (ours, plain))
    for got, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_a_bad_range_learns_to_fit():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 64)), jnp.float32)

    def error(ends):
        return jnp.mean((quantize.fake_quant(x, *ends, bits=4) - x) ** 2)

    step = jax.jit(jax.value_and_grad(error))
    ends = jnp.asarray([-0.3, 9.0])
    for _ in range(450):
        value, gradient = step(ends)
        ends -= 0.02 * jnp.sign(gradient)
    assert value < 1.2 * error(jnp.asarray([-2.5, 2.5]))  # nearly the best there is
    assert -3 < ends[0] < -2 and 2 < ends[1] < 3


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(1e-4, 1e6),
    st.floats(-1, 4),
    st.sampled_from([2, 4, 8]),
)
def test_one_weight_of_every_channel_reaches_the_largest_level(seed, size, factor, bits):
    rng = np.random.default_rng(seed)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 5)) * size, jnp.float32)
    threshold = jnp.abs(kernel).max((0, 1, 2)) * factor
    got = quantize.fake_quant_weight(kernel, threshold, bits=bits)
    peak = jnp.abs(got).max((0, 1, 2))
    assert jnp.all(peak <= jnp.abs(kernel).max((0, 1, 2)) * 1.00001)
    levels = got / peak * (2 ** (bits - 1) - 1)
    np.testing.assert_allclose(levels, jnp.round(levels), atol=1e-3)


def test_channels_without_weights_stay_finite():
    kernel = jnp.zeros((3, 3, 1, 2)).at[..., 1].set(0.5)
    threshold = jnp.asarray([0.0, 0.5])

    def loss(kernel, threshold):
        return quantize.fake_quant_weight(kernel, threshold).sum()

    chex.assert_tree_all_finite(jax.grad(loss, (0, 1))(kernel, threshold))
    np.testing.assert_array_equal(quantize.fake_quant_weight(kernel, threshold), kernel)
    chex.assert_tree_all_finite(quantize.fake_quant_weight(kernel * 0, threshold * 0))


# ---------------------------------------------------------------- the simulation


def test_apply_simulates_the_integers(model):
    quantized = quantize.integers(NETWORK, *model)
    x = np.random.default_rng(2).integers(-128, 128, (64, *NETWORK.input_shape)).astype(np.int8)
    real = (x.astype(np.float32) - quantized.zero_points[INPUT]) * quantized.scales[INPUT]
    logits = np.asarray(jax.jit(quantize.apply, static_argnums=0)(NETWORK, *model, real))
    levels = logits / quantized.scales["logits"] + quantized.zero_points["logits"]
    difference = np.abs(np.round(levels) - quantize.run(quantized, x))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.02  # none was seen


def test_every_gradient_is_finite_and_every_range_learns(model):
    x = inputs(NETWORK)

    def loss(folded, ranges):
        return jnp.mean(quantize.apply(NETWORK, folded, ranges, x) ** 2)

    folded, ranges = jax.jit(jax.grad(loss, (0, 1)))(*model)
    chex.assert_tree_all_finite((folded, ranges))
    assert all(abs(v) > 0 for v in jax.tree.leaves(ranges["activation"]))
    assert all(jnp.any(v != 0) for v in jax.tree.leaves(folded))


def test_apply_is_traced_once_and_maps_over_weights(model):
    folded, ranges = model
    x = jnp.asarray(inputs(NETWORK, 2))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def logits(folded, ranges, x):
        return quantize.apply(NETWORK, folded, ranges, x)

    first = logits(folded, ranges, x)
    np.testing.assert_array_equal(first, logits(folded, jax.tree.map(lambda v: v * 1, ranges), x))
    twice = jax.tree.map(lambda v: jnp.stack([v, v * 1.1]), folded)
    mapped = jax.jit(jax.vmap(lambda f: quantize.apply(NETWORK, f, ranges, x)))(twice)
    assert mapped.shape == (2, 2, 12)
    np.testing.assert_allclose(mapped[0], first, atol=0.2)


# ---------------------------------------------------------------- integers


@pytest.mark.parametrize(
    ("real", "multiplier", "shift"),
    [  # from the tests of TFLite's quantization_util
        (0.25, 1073741824, -1),
        (0.50 - 5e-9, 2147483627, -1),
        (0.50 - 1e-10, 1073741824, 0),
        (0.50, 1073741824, 0),
        (0.75, 1610612736, 0),
        (1 - 1e-9, 2147483646, 0),
        (1.0, 1073741824, 1),
        (2.0**-40, 0, 0),
    ],
)
def test_multipliers(real, multiplier, shift):
    got = quantize.multipliers(np.asarray([real]))
    assert [int(v[0]) for v in got] == [multiplier, shift]


def test_integers_by_hand():
    """One 1x1 layer: x in -1 ... 1.55 (step 0.01, zero point -28), y in 0 ... 5.1 (step 0.02)."""
    network = Network((1, 1, 2), (Layer("y", "conv", (INPUT,), 2, 1, activation="relu"),))
    folded = {"y": {"kernel": jnp.asarray([1.27, -0.5]).reshape(1, 1, 2, 1), "bias": jnp.ones(1)}}
    ranges = {
        "activation": {INPUT: {"min": -1.0, "max": 1.55}, "y": {"max": 5.1}},
        "weight": {"y": jnp.asarray([1.27])},
    }
    quantized = quantize.integers(network, folded, ranges)
    assert quantized.zero_points == {INPUT: -28, "y": -128}
    np.testing.assert_allclose([quantized.scales[INPUT], quantized.scales["y"]], [0.01, 0.02])
    weights = quantized.layers["y"]
    np.testing.assert_array_equal(weights.kernel.ravel(), [127, -50])
    np.testing.assert_array_equal(weights.bias, [10000])
    x = np.asarray([[72, 22], [-128, 127]], np.int8).reshape(2, 1, 1, 2)
    # 100 * 127 - 50 * 50 + 10000 = 20200 steps of 0.0001 = 2.02 = 101 steps of 0.02; then -1.045.
    np.testing.assert_array_equal(quantize.run(quantized, x).ravel(), [-128 + 101, -128])


def test_means_round_halves_away_from_zero():
    pool = Layer("p", "avg_pool", (INPUT,), 1, 1, (2, 2), (2, 2), "SAME")
    quantized = quantize.QuantizedNetwork(Network((3, 3, 1), (pool,)), {}, {}, {})
    x = np.asarray([[1, 2, 7], [1, 2, 8], [-1, -2, 5]], np.int8).reshape(1, 3, 3, 1)
    # 6 / 4, 15 / 2, -3 / 2, 5 / 1: at the edges only real pixels count.
    np.testing.assert_array_equal(quantize.run(quantized, x).ravel(), [2, 8, -2, 5])


def test_sums_by_hand():
    """x in steps of 0.01 (zero point -28), y of 0.02 (-128), their sum of 0.04 (0): 1 + 0.5, ..."""
    layers_ = (Layer("y", "avg_pool", (INPUT,), 1, 1), Layer("sum", "add", (INPUT, "y"), 1, 1))
    quantized = quantize.QuantizedNetwork(
        Network((1, 4, 1), layers_),
        {INPUT: np.float32(0.01), "y": np.float32(0.02), "sum": np.float32(0.04)},
        {INPUT: -28, "y": -128, "sum": 0},
        {},
    )
    x = np.asarray([72, -28, 127, -128], np.int8).reshape(1, 1, 4, 1)
    y = np.asarray([-103, -128, 127, -128], np.int8).reshape(1, 1, 4, 1)
    # 1.5 is 37.5 steps, rounded up; 1.55 + 5.1 is beyond the last level; -1 is 25 steps below 0.
    got = quantize.reference._sum(quantized, layers_[1], x, y)
    np.testing.assert_array_equal(got.ravel(), [38, 0, 127, -25])
    relu6 = dataclasses.replace(layers_[1], activation="relu6")
    got = quantize.reference._sum(quantized, relu6, x, y)
    np.testing.assert_array_equal(got.ravel(), [38, 0, 127, 0])


def test_padding_appends_zeros_and_keeps_the_range():
    layers_ = (Layer("p", "pad", (INPUT,), 1, 3), Layer("q", "pad", ("p",), 3, 4))
    network = Network((1, 1, 1), layers_)
    assert quantize.range_owners(network) == {INPUT: INPUT, "p": INPUT, "q": INPUT}
    ranges = {"activation": {INPUT: {"min": -1.0, "max": 1.55}}, "weight": {}}
    quantized = quantize.integers(network, {}, ranges)
    x = np.asarray([5], np.int8).reshape(1, 1, 1, 1)
    np.testing.assert_array_equal(quantize.run(quantized, x).ravel(), [5, -28, -28, -28])


@pytest.mark.slow
def test_sums_are_simulated_and_their_ranges_learn():
    folded, ranges = trained(RESIDUAL)
    quantized = quantize.integers(RESIDUAL, folded, ranges)
    x = inputs(RESIDUAL, 32)
    steps = x / quantized.scales[INPUT] + quantized.zero_points[INPUT]
    levels = np.clip(np.floor(steps + 0.5), -128, 127).astype(np.int8)

    def loss(ranges):
        logits = quantize.apply(RESIDUAL, folded, ranges, x)
        return jnp.mean(logits**2), logits

    slopes, logits = jax.jit(jax.grad(loss, has_aux=True))(ranges)
    simulated = logits / quantized.scales["logits"] + quantized.zero_points["logits"]
    difference = np.abs(np.round(simulated) - quantize.run(quantized, levels))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.05  # 0.031 was seen
    calibrated = quantize.calibrate(RESIDUAL, folded, [x])
    chex.assert_trees_all_equal_shapes_and_dtypes(calibrated, ranges)
    for name in ("block3_add", "block4_add", "block5_add"):
        assert all(abs(v) > 0 for v in slopes["activation"][name].values())


def test_a_collapsed_range_of_a_sum_is_named():
    folded, ranges = trained(RESIDUAL)
    ranges["activation"]["block3_add"] = {"min": jnp.float32(0), "max": jnp.float32(1e-7)}
    with pytest.raises(ValueError, match="range of 'block3_add' is 1,048,576 times narrower"):
        quantize.integers(RESIDUAL, folded, ranges)


def test_the_batch_size_changes_nothing(model):
    quantized = quantize.integers(NETWORK, *model)
    x = np.random.default_rng(3).integers(-128, 128, (7, *NETWORK.input_shape)).astype(np.int8)
    whole = quantize.run(quantized, x)
    np.testing.assert_array_equal(whole, quantize.run(quantized, x, batch=3))
    assert quantize.run(quantized, x[:0]).shape == (0, 12)


# ---------------------------------------------------------------- bad input


def test_errors_say_what_to_do(model):
    folded, ranges = model
    with pytest.raises(ValueError, match="batches is empty"):
        quantize.calibrate(NETWORK, folded, [])
    with pytest.raises(ValueError, match=r"float32 \(1, 13, 7, 1\); give int8"):
        quantize.run(quantize.integers(NETWORK, folded, ranges), inputs(NETWORK, 1))
    broken = {**folded, "stem": {**folded["stem"], "bias": folded["stem"]["bias"] * jnp.nan}}
    with pytest.raises(ValueError, match="weights of 'stem' are not finite"):
        quantize.integers(NETWORK, broken, ranges)
    with pytest.raises(ValueError, match="prune the network"):
        quantize.integers(SMALL.supernetwork(), folded, ranges)
