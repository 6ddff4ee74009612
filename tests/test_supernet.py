"""The supernet against networks of their own: a one-hot architecture is that network."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import derive, supernet
from micronets_jax.spaces import DSCNN

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
    else:  # ranges of activations cover the channels that are masked, too
        np.testing.assert_allclose(masked, own, atol=0.1 * float(jnp.std(own)))


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
    running = supernet.Supernet(network).apply(member, x)
    np.testing.assert_allclose(running, trained, atol=1e-3)
    with pytest.raises(ValueError, match="batches is empty"):
        derive.recalibrate(network, member, [])


def test_gradients_reach_every_decision_and_vmap_shares_weights(variables, x):
    soft = {name: jnp.zeros(shape) for name, shape in SPACE.options().items()}

    def loss(logits):
        choice = jax.tree.map(jax.nn.softmax, logits)
        logits_out, _ = forward(
            SPACE.supernetwork(), variables, x, supernet.architecture(SPACE, choice)
        )
        return jnp.sum(logits_out**2)

    gradient = jax.grad(loss)(soft)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert (np.abs(leaf).max(axis=-1) > 0).all()
    samples = jax.vmap(lambda logits: loss(logits))(
        jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + jnp.arange(leaf.shape[-1])]), soft)
    )
    np.testing.assert_allclose(samples[0], loss(soft), rtol=1e-4)
