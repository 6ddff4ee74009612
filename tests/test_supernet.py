"""The supernet against networks of their own: a one-hot architecture is that network."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import decisions, derive, supernet
from micronets_jax.spaces import DSCNN, MCUNet, MobileNetV2
from micronets_jax.spaces.mobilenet_v2 import Stage
from support.derivatives import check_gradient

RESIDUAL = MobileNetV2((20, 17, 1), 4, 0.5, (Stage(1, 16, 1, 1), Stage(6, 24, 4, 2)), 32, 64)
ELASTIC = MCUNet((20, 17, 1), 4, 0.25, depths=(1, 2), kernels=(3, 5, 7), expansions=(2, 3))
SPACE = DSCNN((13, 6, 1), num_classes=4, max_width=40, stem_kernel=(3, 3), strides=(2, 1, 2))
MEMBERS = [
    ((40, 40, 40, 40), (True, True, True)),
    ((8, 20, 4, 32), (True, True, True)),
    ((12, 20, 4, 32), (False, True, True)),
    ((12, 20, 4, 32), (True, False, False)),
    ((16, 4, 4, 4), (False, False, False)),
]


@pytest.fixture(scope="module")
def variables():
    return supernet.init(jax.random.key(0), SPACE.supernetwork())


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (8, *SPACE.input_shape))


@functools.partial(jax.jit, static_argnums=(0, 4))
def forward(network, variables, x, architecture=None, bits=None):
    model = supernet.Supernet(network, bits)
    return model.apply(variables, x, architecture, train=True, mutable=["batch_stats"])


def floats(choice):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), choice)


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize(("widths", "keep"), MEMBERS)
def test_a_decided_architecture_is_the_network_cut_from_it(variables, x, widths, keep, bits):
    choice = SPACE.choice(widths, keep)
    network = SPACE.decode(choice)
    masked, _ = forward(
        SPACE.supernetwork(), variables, x, supernet.architecture(SPACE, floats(choice)), bits
    )
    own, _ = forward(network, derive.weights(network, variables), x, None, bits)
    if bits is None:
        np.testing.assert_allclose(masked, own, atol=1e-4)
    elif network == SPACE.largest():  # nothing is masked
        np.testing.assert_array_equal(masked, own)
    else:  # ranges of activations cover the channels that are masked, too: up to 0.021 was seen
        assert jnp.sqrt(jnp.mean((masked - own) ** 2)) < 0.025 * jnp.std(own)


@pytest.fixture(scope="module")
def residual():
    variables = supernet.init(jax.random.key(0), RESIDUAL.supernetwork())
    for name, params in variables["params"].items():  # branches speak
        if name.endswith("_project"):
            params["scale"] = jnp.ones_like(params["scale"])
    return variables, jax.random.normal(jax.random.key(1), (8, *RESIDUAL.input_shape))


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_a_decided_residual_network_is_the_one_cut_from_it(residual, seed):
    """Projections of all widths, so that either side of a sum may be the narrower one."""
    variables, x = residual
    rng = np.random.default_rng(seed)
    choice = jax.tree.map(np.float32, decisions.uniform(rng, RESIDUAL.decisions()))
    network = RESIDUAL.decode(choice)
    assert any(layer.kind == "pad" for layer in network)
    masked, _ = forward(
        RESIDUAL.supernetwork(), variables, x, supernet.architecture(RESIDUAL, choice)
    )
    own, _ = forward(network, derive.weights(network, variables), x)
    np.testing.assert_allclose(masked, own, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_elastic_kernels_expansions_and_depth_are_the_network_cut_from_them(seed):
    """Kernels are the centre of the largest, expansions its first channels, depth first blocks."""
    rng = np.random.default_rng(seed)
    variables = supernet.init(jax.random.key(seed), ELASTIC.supernetwork())
    for name, params in variables["params"].items():
        if name.endswith("_project"):
            params["scale"] = jnp.ones_like(params["scale"])
    x = jax.random.normal(jax.random.key(1), (8, *ELASTIC.input_shape))
    choice = jax.tree.map(np.float32, decisions.uniform(rng, ELASTIC.decisions()))
    network = ELASTIC.decode(choice)
    assert len({layer.kernel for layer in network if layer.kind == "depthwise"}) == 3
    architecture = supernet.architecture(ELASTIC, choice)
    masked, _ = forward(ELASTIC.supernetwork(), variables, x, architecture)
    own, _ = forward(network, derive.weights(network, variables), x)
    np.testing.assert_allclose(masked, own, atol=1e-4)


@pytest.mark.parametrize("space", [SPACE, RESIDUAL, ELASTIC])
def test_fresh_variables_are_those_that_flax_would_draw(space):
    network, key = space.supernetwork(), jax.random.key(7)
    fresh = supernet.init(key, network)
    flax = jax.jit(supernet.Supernet(network).init)(key, jnp.zeros((1, *network.input_shape)))
    for params in fresh["params"].values():
        if not params.get("scale", jnp.ones(())).any():
            params["scale"] += 1  # the end of a residual's branch
    same = functools.partial(np.testing.assert_allclose, rtol=1e-6)
    jax.tree.map(same, fresh, flax)


def test_residuals_begin_without_their_branches():
    network = RESIDUAL.member((8, 20), (8, 76, 40, 48, 8), (8, 8, 13, 3, 11))
    params = supernet.init(jax.random.key(0), network)["params"]
    scales = {name: p["scale"] for name, p in params.items() if name.endswith("_project")}
    means = {name: float(scale.mean()) for name, scale in scales.items()}
    assert means == {
        "block1_project": 1,
        "block2_project": 1,  # no sum
        "block3_project": 0,
        "block4_project": 0,
        "block5_project": 0,
    }


def test_a_sum_has_the_channels_of_either_side():
    narrow, wide = jnp.asarray([1.0, 0, 0, 0]), jnp.asarray([1.0, 1, 1, 0])
    np.testing.assert_array_equal(supernet.either(narrow, wide), wide)
    np.testing.assert_allclose(supernet.either(narrow / 2, wide / 2), [0.75, 0.5, 0.5, 0])
    assert supernet.either(narrow, None) is None


def test_gradients_reach_every_decision_of_a_residual_network(residual):
    variables, x = residual

    def loss(logits):
        masks = supernet.architecture(RESIDUAL, jax.tree.map(jax.nn.softmax, logits))
        return jnp.sum(forward(RESIDUAL.supernetwork(), variables, x, masks)[0] ** 2)

    even = decisions.undecided(RESIDUAL.decisions())
    gradient = jax.jit(jax.grad(loss))(even)
    assert all((np.abs(leaf).max(axis=-1) > 0).all() for leaf in jax.tree.leaves(gradient))
    check_gradient(jax.jit(loss), even, gradient, step=0.002, rel=0.02)


def test_batch_norm_of_a_channel_does_not_see_masks_of_its_own_width(variables, x):
    wide = supernet.architecture(SPACE, floats(SPACE.choice((40,) * 4, (True,) * 3)))
    narrow = supernet.architecture(SPACE, floats(SPACE.choice((4, 40, 40, 40), (True,) * 3)))
    _, first = forward(SPACE.supernetwork(), variables, x, wide)
    _, second = forward(SPACE.supernetwork(), variables, x, narrow)
    name = "block1_depthwise"
    chex.assert_trees_all_close(first["batch_stats"][name], second["batch_stats"][name])


def test_recalibrated_moments_are_the_members_own(variables, x):
    network = SPACE.member(*MEMBERS[1])
    member = derive.recalibrate(network, derive.weights(network, variables), [x, x])
    trained, _ = forward(network, member, x)
    running = jax.jit(supernet.Supernet(network).apply)(member, x)
    np.testing.assert_allclose(running, trained, atol=1e-3)
    with pytest.raises(ValueError, match="batches is empty"):
        derive.recalibrate(network, member, [])


def test_gradients_reach_every_decision_and_vmap_shares_weights(variables, x):
    soft = decisions.undecided(SPACE.decisions())

    def loss(logits):
        choice = jax.tree.map(jax.nn.softmax, logits)
        logits_out, _ = forward(
            SPACE.supernetwork(), variables, x, supernet.architecture(SPACE, choice)
        )
        return jnp.sum(logits_out**2)

    value, gradient = jax.jit(jax.value_and_grad(loss))(soft)
    assert all((np.abs(leaf).max(axis=-1) > 0).all() for leaf in jax.tree.leaves(gradient))
    check_gradient(jax.jit(loss), soft, gradient, step=0.002, rel=0.02)
    samples = jax.jit(jax.vmap(loss))(
        jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + jnp.arange(leaf.shape[-1])]), soft)
    )
    np.testing.assert_allclose(samples[0], value, rtol=1e-4)


def test_bfloat16_rounds_factors_and_nothing_else(variables, x):
    exact, _ = forward(SPACE.supernetwork(), variables, x)
    model = supernet.Supernet(SPACE.supernetwork(), precision="bfloat16")

    def loss(params):
        logits, changed = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(logits**2), (logits, changed)

    gradient, (rounded, changed) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    for leaf in jax.tree.leaves((gradient, rounded, changed)):
        assert leaf.dtype == jnp.float32
    error = float(jnp.std(rounded - exact) / jnp.std(exact))
    assert 1e-4 < error < 0.05
