"""Spaces: the paper's grid, choices and networks both ways, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micronets_jax import budgets, cost, decisions, zoo
from micronets_jax.network import output_sizes, prune
from micronets_jax.spaces import DSCNN, MCUNet, MobileNetV2, Only, Space
from micronets_jax.spaces.mobilenet_v2 import STAGES, Stage
from micronets_jax.spaces.widths import width_grid
from micronets_jax.targets.tflm import arena as tflm
from support.spaces import choices_of

SPACE = DSCNN(max_width=40, strides=(2, 1, 2))
RESIDUAL = MobileNetV2((20, 17, 1), 3, 0.5, (Stage(1, 16, 1, 1), Stage(6, 24, 4, 2)), 32, 64)
ELASTIC = MCUNet((20, 17, 1), 3, 0.25, depths=(1, 2), kernels=(3, 5), expansions=(2, 3, 4))
SPACES = pytest.mark.parametrize(
    "space", [SPACE, RESIDUAL, ELASTIC], ids=["dscnn", "mobilenet_v2", "mcunet"]
)


# ---------------------------------------------------------------- what every space keeps


@SPACES
@settings(max_examples=10, deadline=None)
@given(st.data())
def test_masks_have_the_chosen_widths(space, data):
    """Of the first channels of the supernetwork's convolutions, which are those of the network; of
    depthwise ones the middle of the kernel."""
    choice = data.draw(choices_of(space))
    assert isinstance(space, Space)
    network, largest = space.decode(choice), space.supernetwork()
    present = {layer.name for layer in network}
    for name, mask in space.masks(choice).items():
        if largest[name].kind == "depthwise":
            assert mask.shape == largest[name].kernel
            block = name.partition("_")[0]
            for layer in network:
                if layer.name.startswith(f"{block}_depthwise"):
                    edge = (len(mask) - layer.kernel[0]) // 2
                    expected = np.pad(np.ones(layer.kernel, int), edge)
                    assert mask.tolist() == expected.tolist()
            continue
        assert mask.shape == (largest[name].out_channels,)
        if name in present:
            width = int(network[name].out_channels)
            assert mask.tolist() == [1] * width + [0] * (len(mask) - width)


@SPACES
@settings(max_examples=10, deadline=None)
@given(st.data())
def test_a_traced_network_is_the_decoded_one(space, data):
    choice = data.draw(choices_of(space))
    traced = jax.tree.map(int, jax.jit(space.network)(choice))
    assert prune(traced) == space.decode(choice)
    assert space.decode(jax.tree.map(lambda leaf: leaf * 0.7, choice)) == space.decode(choice)


@SPACES
def test_no_member_costs_less_than_the_lightest(space):
    light = [space.decode(choice) for choice in space.lightest()]
    rng = np.random.default_rng(0)
    for _ in range(12):
        network = space.decode(decisions.uniform(rng, space.decisions()))
        for measure in (cost.macs, cost.weights, cost.flash_bytes, tflm.arena_bytes):
            assert measure(network) >= min(map(measure, light))


@SPACES
def test_the_supernetwork_is_the_largest(space):
    assert prune(space.supernetwork()) == space.largest()


# ---------------------------------------------------------------- DS-CNN


def test_grid_of_the_paper():
    assert DSCNN(grid="tenths").widths == (28, 56, 84, 112, 140, 164, 192, 220, 248, 276)
    assert DSCNN().num_blocks == 9
    assert width_grid(40) == tuple(range(4, 44, 4))
    assert width_grid(24, (4, 2, 1)) == (2, 4, 8, 10, 12, 14, 16, 20, 22, 24)
    assert width_grid(16, (4, 2, 1)) == (2, 3, 5, 6, 8, 10, 11, 13, 14, 16)
    with pytest.raises(ValueError, match=r"max_width=8 is too small.*at least 10"):
        width_grid(8, (4, 2, 1))


def test_largest_member_by_hand():
    network = DSCNN().largest()
    assert len(network) == 1 + 9 * 2 + 3
    assert output_sizes(network)["block9_pointwise"] == (25, 5)
    assert cost.weights(network) == 40 * 276 + 9 * (9 * 276 + 276 * 276) + 276 * 12


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"max_width": 36, "grid": "tenths"}, "max_width=36 is too small"),
        ({"max_width": 12}, "max_width=12 is too small; use at least 16"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"strides": ()}, "strides="),
        ({"strides": (1, 3)}, "strides="),
        ({"input_shape": (49, 0, 1)}, "input_shape="),
    ],
)
def test_impossible_spaces_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        DSCNN(**arguments)


def test_choices_that_are_not_members_are_refused():
    with pytest.raises(ValueError, match="width 7 is not one of"):
        SPACE.member([4, 8, 7, 4], [True] * 3)
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
    choice = decisions.expected(decisions.undecided(SPACE.decisions()))
    network = SPACE.network(choice)
    np.testing.assert_allclose(network["stem"].out_channels, np.mean(SPACE.widths), rtol=1e-6)
    np.testing.assert_allclose(network["block1_depthwise"].presence, 0.5)


def test_lightest_members_have_the_least_of_each_cost():
    light = [SPACE.decode(choice) for choice in SPACE.lightest()]
    assert len(light) == 2**3
    rng = np.random.default_rng(0)
    for _ in range(12):
        keep = [bool(k) for k in rng.integers(0, 2, 3)]
        network = SPACE.member([int(w) for w in rng.choice(SPACE.widths, 4)], keep)
        same_blocks = SPACE.member([4] * 4, keep)
        for measure in (cost.macs, cost.weights, cost.flash_bytes, tflm.arena_bytes):
            assert measure(network) >= measure(same_blocks) >= min(map(measure, light))


# ---------------------------------------------------------------- MobileNetV2


def test_largest_mobilenet_v2_by_hand():
    space = MobileNetV2()
    network = space.largest()
    assert space.num_blocks == 17
    sizes = output_sizes(network)
    assert [sizes[f"block{i}_project"][0] for i in (1, 2, 4, 7, 11, 14, 17)] == [
        25, 13, 7, 4, 4, 2, 2,
    ]  # fmt: skip
    sums = [layer.name for layer in network if layer.kind == "add"]
    assert sums == [f"block{i}_add" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]
    assert not any(layer.kind == "pad" for layer in network)
    linear = {layer.name for layer in network if layer.activation == "linear"}
    assert {layer.activation for layer in network if layer.name not in linear} == {"relu6"}
    assert {name.split("_")[-1] for name in linear} == {
        "project", "add", "pool", "flatten", "logits",
    }  # fmt: skip
    # Stem, then expansions e of what is read r, 3x3 kernels, projections p; last and classes.
    weights, read = 9 * 32, 32
    for stage in STAGES:
        for _ in range(stage.blocks):
            wide = stage.expansion * read
            weights += read * wide + 9 * wide + wide * stage.channels
            read = stage.channels
    assert cost.weights(network) == weights + 320 * 1280 + 1280 * 2


def test_a_sum_is_as_wide_as_its_wider_side():
    space = MobileNetV2((20, 20, 3), 5, 1.0, (Stage(6, 32, 4, 2),), 32, 64)
    network = space.member([16, 32], [20, 40, 20, 40], [12, 20, 6, 32])
    kinds = {layer.name: (layer.inputs, layer.out_channels) for layer in network}
    assert kinds["block2_add"] == (("block2_shortcut_pad", "block2_project"), 20)
    assert kinds["block3_add"] == (("block2_add", "block3_branch_pad"), 20)
    assert kinds["block4_add"] == (("block4_shortcut_pad", "block4_project"), 32)
    assert network["block3_expand"].in_channels == 20 and network["last"].in_channels == 32
    same = space.member([16, 32], [20, 40, 20, 40], [12] * 4)
    assert not any(layer.kind == "pad" for layer in same)
    assert same["block2_add"].inputs == ("block1_project", "block2_project")


def test_expected_sums_are_means_of_the_larger_width():
    """Over all pairs and triples of widths of one stage, by their probabilities."""
    space = MobileNetV2((8, 8, 1), 2, 1.0, (Stage(1, 16, 3, 1),), 32, 64)
    rng = np.random.default_rng(0)
    choice = {n: rng.dirichlet(np.ones(10), d.shape[0]) for n, d in space.decisions().items()}
    network = space.network(jax.tree.map(jnp.float32, choice))
    first, second, third = choice["projection"]
    grid = np.asarray(space.projections[0])
    pairs, larger = np.outer(first, second), np.maximum.outer(grid, grid)
    np.testing.assert_allclose(network["block2_add"].out_channels, (pairs * larger).sum(), 1e-5)
    np.testing.assert_allclose(
        network["block2_shortcut_pad"].presence, np.triu(pairs, 1).sum(), rtol=1e-5
    )
    np.testing.assert_allclose(
        network["block2_branch_pad"].presence, np.tril(pairs, -1).sum(), rtol=1e-5
    )
    triples = pairs[..., None] * third
    largest = np.maximum(larger[..., None], grid)
    np.testing.assert_allclose(network["last"].in_channels, (triples * largest).sum(), 1e-5)


def test_a_fraction_of_the_widths():
    space = MobileNetV2(width=0.35, stages=STAGES[:3])
    assert [grid[-1] for grid in space.projections] == [16] * 6
    assert [grid[-1] for grid in space.ends] == [16, 448]
    assert [grid[-1] for grid in MobileNetV2(width=1.4).projections[-4:]] == [224, 224, 224, 448]


def test_uniform_members_meet_limits_that_leave_room():
    lightest, *others = [cost.macs(RESIDUAL.decode(c)) for c in RESIDUAL.lightest()]
    assert [lightest, *others] == sorted([lightest, *others])
    assert RESIDUAL.decode(RESIDUAL.lightest()[-1]) == RESIDUAL.largest()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"input_shape": (0, 50, 1)}, "input_shape="),
        ({"width": 0.0}, "width=0.0"),
        ({"width": float("nan")}, "width=nan"),
        ({"stages": ()}, "stages="),
        ({"stages": (Stage(6, 24, 0, 2),)}, "blocks=0"),
        ({"stages": (Stage(6, 24, 1, 3),)}, "a stride of 1 or 2"),
        ({"last_width": 0}, "last_width=0"),
    ],
)
def test_impossible_mobilenets_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        MobileNetV2(**arguments)


def test_mobilenets_that_are_not_members_are_refused():
    widths = [6] * 5
    with pytest.raises(ValueError, match="width 9 is not one of"):
        RESIDUAL.member([8, 12], [9] * 5, widths)
    with pytest.raises(ValueError, match="projection has 4 widths; this space needs 5"):
        RESIDUAL.member([8, 12], [5, 20, 28, 40, 48], widths[:4])


def test_the_space_of_one_network_has_it_and_nothing_to_choose():
    network = DSCNN((13, 6, 1), 4, 40, (3, 3), (2, 1)).largest()
    space = Only(network)
    assert isinstance(space, Space)
    (choice,) = space.lightest()
    assert space.decisions() == {} == space.masks(choice)
    assert space.decode(choice) == network == space.network(choice) == space.supernetwork()
    assert budgets.feasible(space, budgets.Budget(mops=1000.0)) == choice
    with pytest.raises(ValueError, match="smallest achievable"):
        budgets.feasible(space, budgets.Budget(mops=1e-6))
