"""MCUNet's space and networks, and the memory of the runtime they were made for."""

import json

import jax
import numpy as np
import pytest

from micronets_jax import cost, decisions, tinyengine, zoo
from micronets_jax.network import output_sizes
from micronets_jax.spaces import MCUNet

SMALL = MCUNet((40, 24, 3), 5, 0.3, depths=(1, 2), kernels=(3, 5), expansions=(2, 3, 4))


@pytest.fixture(scope="module")
def paper(reference):
    return json.loads((reference / "reference/mcunet.json").read_text())


def choices(space, count, seed=0):
    """Int32 one-hot choices [count, ...]."""
    return decisions.uniform(np.random.default_rng(seed), space.decisions(), count)


# ---------------------------------------------------------------- as published


@pytest.mark.parametrize("name", zoo.mcunets())
def test_layers_as_published(name, paper):
    listed = paper["architectures"][name]
    network, sizes = zoo.network(name), output_sizes(zoo.network(name))
    assert network.input_shape == (listed["resolution"], listed["resolution"], 3)
    assert network["stem"].out_channels == listed["first"]
    assert network["logits"].in_channels == listed["last"]
    present = {layer.name for layer in network}
    assert ("last" in present) == (not name.startswith("mcunet"))
    rows = []
    for layer in network:
        if layer.kind == "depthwise":
            block = layer.name.partition("_")[0]
            expanded = f"{block}_expand" in present
            read = network[f"{block}_expand"].in_channels if expanded else layer.in_channels
            made = network[f"{block}_project"].out_channels
            residual, size = int(f"{block}_add" in present), sizes[layer.inputs[0]][0]
            kernel, stride = layer.kernel[0], layer.stride[0]
            wide = layer.in_channels
            rows.append([read, wide, made, kernel, stride, wide // read, residual, size])
    assert rows == listed["blocks"]


def test_operations_as_published(paper):
    published = {row[0]: row[1] for row in paper["zoo"]}
    found = {name: round(cost.macs(zoo.network(name)) / 1e6, 2) for name in published}
    assert found == published


def test_memory_and_flash_of_tiny_engine_as_published(paper):
    for name, parts in paper["peak_rule"]["checks"].items():
        assert list(tinyengine.peak(zoo.network(name))) == parts
    for name, _, peak, flash, *_ in paper["zoo"]:
        network = zoo.network(name)
        assert round(tinyengine.sram_bytes(network) / 1024, 1) == pytest.approx(peak, abs=0.11)
        # Their proxyless file is smaller than its weights; all others are as the rule has them.
        if name.startswith("mcunet"):
            assert tinyengine.flash_bytes(network) / 1024 == pytest.approx(flash, abs=3)


def test_networks_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match=r"'mcunet-1fps' is unknown.*mcunet-10fps"):
        zoo.network("mcunet-1fps")


# ---------------------------------------------------------------- the space


def test_a_member_by_hand():
    """Stem of 32 x 0.3 = 9.6, where 8 would be more than 10 % down; two blocks of one stage."""
    member = SMALL.member([1, 2, 1, 1, 1], [3, 5, 3, 5, 3, 3, 3], [2, 3, 4, 2, 2, 2, 3])
    assert SMALL.widths == (16, 8, 8, 16, 24, 32, 56, 96)
    names = [layer.name for layer in member if layer.kind == "depthwise"]
    assert names == [
        "block1_depthwise", "block2_depthwise", "block4_depthwise5x5", "block5_depthwise",
        "block6_depthwise5x5", "block8_depthwise", "block10_depthwise", "block12_depthwise",
    ]  # fmt: skip
    assert [layer.name for layer in member if layer.kind == "add"] == ["block5_add"]
    assert member["block4_expand"].out_channels == 8 * 3
    assert member["block5_expand"].out_channels == 16 * 4
    assert output_sizes(member)["block12_project"] == (2, 1)
    weights = 27 * 16 + 9 * 16 + 16 * 8 + 96 * 5
    read = 8
    for made, kernel, expansion in (
        (8, 3, 2), (16, 5, 3), (16, 3, 4), (24, 5, 2), (32, 3, 2), (56, 3, 2), (96, 3, 3),
    ):  # fmt: skip
        wide = read * expansion
        weights += read * wide + kernel * kernel * wide + wide * made
        read = made
    assert cost.weights(member) == weights


def test_stages_that_are_as_wide_are_joined():
    """As MCUNet's supernet has it, of stride 1: at 0.25 the widths of 80 and 96 are both 24."""
    names = {layer.name for layer in MCUNet(width=0.25).largest()}
    assert "block14_add" in names and "block10_add" not in names


def test_what_is_left_out_needs_no_choice():
    fixed = MCUNet((32, 32, 1), 3, 0.2, depths=(2,), kernels=(5,), expansions=(3, 6))
    assert set(fixed.decisions()) == {"expansion"}
    (one,) = MCUNet((32, 32, 1), 3, 0.2, depths=(2,), kernels=(5,), expansions=(3,)).lightest()
    assert one == {}
    assert cost.macs(fixed.decode(fixed.lightest()[0])) < cost.macs(fixed.largest())


def test_other_widths_share_a_program():
    """Widths may be traced, so spaces that differ in nothing else are one compiled program."""
    wide = MCUNet(SMALL.input_shape, 5, 0.6, depths=(1, 2), kernels=(3, 5), expansions=(2, 3, 4))
    some = choices(SMALL, 4)
    costs = jax.jit(
        jax.vmap(lambda c, widths: cost.macs(SMALL.network(c, widths)), in_axes=(0, None))
    )
    for space in (SMALL, wide):
        found = costs(some, np.asarray(space.widths))
        for i, macs in enumerate(found):
            member = space.decode(jax.tree.map(lambda leaf, i=i: leaf[i], some))
            assert int(macs) == cost.macs(member)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"input_shape": (0, 8, 1)}, "input_shape="),
        ({"width": -0.5}, "width=-0.5"),
        ({"stages": ()}, "stages="),
        ({"depths": (2, 2)}, "depths=.*rising"),
        ({"kernels": (2, 3)}, "kernels=.*odd"),
        ({"expansions": ()}, "expansions="),
    ],
)
def test_impossible_spaces_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        MCUNet(**arguments)


def test_what_is_no_member_is_refused():
    with pytest.raises(ValueError, match="kernel 7 is not one of"):
        SMALL.member([1] * 5, [7] * 6, [2] * 6)
    with pytest.raises(ValueError, match="these depths need 6"):
        SMALL.member([1] * 5, [3] * 7, [2] * 6)
    with pytest.raises(ValueError, match="this space needs 5"):
        SMALL.member([1] * 4, [3] * 6, [2] * 6)


# ---------------------------------------------------------------- TinyEngine's memory


def test_traced_memory_is_that_of_the_member():
    some = choices(SMALL, 12, seed=1)
    traced = jax.jit(jax.vmap(lambda c: tinyengine.peak(SMALL.network(c))))(some)
    for i in range(12):
        member = SMALL.decode(jax.tree.map(lambda leaf, i=i: leaf[i], some))
        assert [int(part[i]) for part in traced] == list(tinyengine.peak(member))


def test_in_place_by_hand():
    """16 x 16 pixels of 8 channels, a depthwise convolution in place with stride 2, 8 x 8 of 24.

    The input needs 3 x 32 x 32 bytes, the stem 2,048. What follows fits where the input was, but
    the projection lies beside the quarter that the depthwise convolution left.
    """
    space = MCUNet((32, 32, 3), 2, 0.25, depths=(1,), kernels=(3,), expansions=(3,))
    found = tinyengine.peak(space.largest())
    assert found.scratch == max(4 * 9 * 3, 4 * 48 * 3, 2 * 18 * 18)
    assert found.kernel == 2 * 9 * 3 * 8
    # Block 2 reads 16 x 16 x 8 beside its expansion of 16 x 16 x 24.
    assert found.activations == 16 * 16 * 8 + 16 * 16 * 24
