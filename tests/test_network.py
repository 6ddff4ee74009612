"""Networks: shapes by hand, text and back, what pruning keeps, what is refused."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micronets_jax import network as networks
from micronets_jax import zoo
from micronets_jax.network import INPUT, Layer, Network
from micronets_jax.spaces import DSCNN, MobileNetV2
from micronets_jax.spaces.mobilenet_v2 import Stage
from support.spaces import choices_of

SPACE = DSCNN(max_width=40, strides=(2, 1, 2))
RESIDUAL = MobileNetV2((20, 17, 3), 3, 0.5, (Stage(1, 16, 1, 1), Stage(6, 24, 3, 2)))


def test_sizes_by_hand():
    sizes = networks.output_sizes(zoo.network("DSCNN-S"))
    assert sizes[INPUT] == sizes["stem"] == (49, 10)
    assert sizes["block1_depthwise"] == sizes["block4_pointwise"] == (25, 5)
    assert sizes["pool"] == sizes["flatten"] == sizes["logits"] == (1, 1)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "expected"),
    [
        ((49, 10), (10, 4), (2, 2), "SAME", (25, 5)),
        ((49, 10), (10, 4), (2, 2), "VALID", (20, 4)),
        ((5, 5), (5, 5), (1, 1), "VALID", (1, 1)),
        ((7, 6), (1, 1), (3, 2), "SAME", (3, 3)),
    ],
)
def test_padding_as_in_tensorflow(size, kernel, stride, padding, expected):
    layer = Layer("a", "conv", (INPUT,), 1, 1, kernel, stride, padding)
    assert networks.output_sizes(Network((*size, 1), (layer,)))["a"] == expected


@pytest.mark.parametrize("space", [SPACE, RESIDUAL], ids=["dscnn", "mobilenet_v2"])
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_json_round_trip(space, data):
    network = space.decode(data.draw(choices_of(space)))
    assert networks.from_json(networks.to_json(network)) == network
    assert networks.prune(network) == network


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not a network"),
        ("{}", "layers"),
        ('{"input_shape": [1, 1, 1], "layers": [{"nome": "a"}]}', "nome"),
    ],
)
def test_other_text_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        networks.from_json(text)


def test_wrong_wiring_is_refused():
    layer = Layer("a", "conv", (INPUT,), 1, 4)
    with pytest.raises(ValueError, match="'a' is used twice"):
        networks.output_sizes(Network((4, 4, 1), (layer, layer)))
    with pytest.raises(ValueError, match="reads 'b', which no earlier layer makes"):
        networks.output_sizes(Network((4, 4, 1), (dataclasses.replace(layer, inputs=("b",)),)))
    large = dataclasses.replace(layer, kernel=(5, 5), padding="VALID")
    with pytest.raises(ValueError, match="does not fit its input"):
        networks.output_sizes(Network((4, 4, 1), (large,)))
    alone = Layer("sum", "add", ("a",), 4, 4)
    with pytest.raises(ValueError, match="'sum' reads 1 tensors; 'add' reads 2"):
        networks.output_sizes(Network((4, 4, 1), (layer, alone)))
    unlike = dataclasses.replace(alone, inputs=(INPUT, "a"))
    with pytest.raises(ValueError, match=r"'input' of \(4, 4, 1\) and 'a' of \(4, 4, 4\).*pad"):
        networks.output_sizes(Network((4, 4, 1), (layer, unlike)))


def test_pruning_a_residual_whose_sides_may_need_zeros():
    """Of a pad and the tensor that it pads the mix takes one; an absent sum is its shortcut."""

    def residual(pad, add):
        return Network(
            (4, 4, 4),
            (
                Layer("a", "conv", (INPUT,), 4, 8),
                Layer("a_pad", "pad", ("a",), 8, 12, presence=pad),
                Layer("a_mix", "mix", ("a_pad", "a"), 12, 12),
                Layer("b", "conv", ("a",), 8, 12 if pad else 8),
                Layer("sum", "add", ("a_mix", "b"), 12, 12, presence=add),
                Layer("c", "conv", ("sum",), 12, 4),
            ),
        )

    def wiring(network):
        return {layer.name: layer.inputs for layer in networks.prune(network)}

    assert wiring(residual(1, 1))["sum"] == ("a_pad", "b")
    assert wiring(residual(0, 1)) == {
        "a": (INPUT,),
        "b": ("a",),
        "sum": ("a", "b"),
        "c": ("sum",),
    }
    assert wiring(residual(0, 0))["c"] == ("a",)
    assert networks.consumers(residual(1, 1))["a"] == ["a_pad", "a_mix", "b"]


def test_pruning_removes_absent_layers_and_mixes():
    widths = [4, 8, 12, 16]
    network = SPACE.member(widths, [True, False, False])
    assert [layer.name for layer in network] == [
        "stem", "block1_depthwise", "block1_pointwise", "block3_skip", "pool", "flatten", "logits",
    ]  # fmt: skip
    assert network["block3_skip"].inputs == ("block1_pointwise",)
    assert network["logits"].in_channels == 8
    assert networks.prune(network) == network


def test_layers_by_name_and_their_readers():
    network = SPACE.supernetwork()
    assert network["stem"].out_channels == 40
    assert networks.consumers(network)["stem"] == ["block1_depthwise", "block1_skip"]
    with pytest.raises(KeyError, match="no layer named 'head'; the network has: stem"):
        network["head"]
