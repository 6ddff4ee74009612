"""Spaces: the paper's grid, choices and networks both ways, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micronets_jax import cost, zoo
from micronets_jax.network import output_sizes
from micronets_jax.spaces import DSCNN
from micronets_jax.spaces.dscnn import width_grid

SPACE = DSCNN(max_width=40, strides=(2, 1, 2))


def test_grid_of_the_paper():
    assert DSCNN().widths == (28, 56, 84, 112, 140, 164, 192, 220, 248, 276)
    assert DSCNN().num_blocks == 9
    assert width_grid(40) == tuple(range(4, 44, 4))


def test_largest_member_by_hand():
    network = DSCNN().largest()
    assert len(network) == 1 + 9 * 2 + 3
    assert output_sizes(network)["block9_pointwise"] == (25, 5)
    assert cost.weights(network) == 40 * 276 + 9 * (9 * 276 + 276 * 276) + 276 * 12


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"max_width": 36}, "max_width=36 is too small"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"strides": ()}, "strides="),
        ({"strides": (1, 3)}, "strides="),
        ({"input_shape": (49, 0, 1)}, "input_shape="),
    ],
)
def test_impossible_spaces_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        DSCNN(**arguments)


def test_choices_that_are_not_members_are_refused():
    with pytest.raises(ValueError, match="width 6 is not one of"):
        SPACE.member([4, 8, 6, 4], [True] * 3)
    with pytest.raises(ValueError, match="needs 4 and 3"):
        SPACE.member([4, 8, 4], [True] * 3)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.sampled_from(SPACE.widths), min_size=4, max_size=4),
    st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_decoding_gives_what_was_chosen(widths, keep):
    choice = SPACE.choice(widths, keep)
    network = SPACE.decode(choice)
    assert network == SPACE.decode(jax.tree.map(lambda leaf: leaf * 0.7, choice))
    kept = [i for i, stays in enumerate(keep, 1) if stays]
    names = [f"block{i}_pointwise" for i in kept]
    assert [layer.name for layer in network if layer.name.endswith("pointwise")] == names
    assert [network[name].out_channels for name in names] == [widths[i] for i in kept]
    assert network["logits"].in_channels == [widths[i] for i in [0, *kept]][-1]
    if all(keep):
        assert network == zoo.dscnn(widths, SPACE.strides)


def test_expected_widths_are_means():
    choice = {name: jnp.full(shape, 1 / shape[1]) for name, shape in SPACE.options().items()}
    network = SPACE.network(choice)
    np.testing.assert_allclose(network["stem"].out_channels, np.mean(SPACE.widths), rtol=1e-6)
    np.testing.assert_allclose(network["block1_depthwise"].presence, 0.5)


def test_masks_have_the_chosen_widths():
    masks = SPACE.masks(SPACE.choice([4, 40, 20, 8], [True] * 3))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "stem": 4, "block1_pointwise": 40, "block2_pointwise": 20, "block3_pointwise": 8,
    }  # fmt: skip
    assert masks["stem"][:4].all() and not masks["stem"][4:].any()


def test_lightest_members_have_the_least_of_each_cost():
    light = [SPACE.decode(choice) for choice in SPACE.lightest()]
    assert len(light) == 2**3
    rng = np.random.default_rng(0)
    for _ in range(12):
        keep = [bool(k) for k in rng.integers(0, 2, 3)]
        network = SPACE.member([int(w) for w in rng.choice(SPACE.widths, 4)], keep)
        same_blocks = SPACE.member([4] * 4, keep)
        for measure in (cost.macs, cost.weights, cost.flash_bytes, cost.sram_bytes):
            assert measure(network) >= measure(same_blocks) >= min(map(measure, light))
