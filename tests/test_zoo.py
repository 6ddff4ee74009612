"""Published networks: everything that the paper lists of them, beside ours."""

import json

import pytest

from micronets_jax import cost, operators, tflite, zoo
from micronets_jax import network as networks

VWW = [name for name in zoo.names() if "VWW" in name]
DSCNNS = [name for name in zoo.names() if name not in VWW]


@pytest.fixture(scope="module")
def paper(reference):
    return json.loads((reference / "reference/micronets.json").read_text())


@pytest.mark.parametrize("name", DSCNNS)
def test_as_published(name, paper):
    listed = paper["architectures"][name]
    network = zoo.network(name)
    assert list(network.input_shape) == listed["input"]
    assert cost.weights(network) == listed["weights"]
    assert network["logits"].out_channels == listed["classes"]
    channels = [n.out_channels for n in network if n.kind in ("conv", "depthwise", "dense")]
    assert sum(channels) == listed["sum_out_channels"]


@pytest.mark.parametrize("name", VWW)
def test_visual_wake_words_as_published(name, paper):
    listed = paper["vww_architectures"][name]
    network = zoo.network(name)
    assert list(network.input_shape) == listed["input"]
    assert network["stem"].out_channels == listed["stem"]
    widths = [
        [network[f"block{i}_{part}"].out_channels for part in ("expand", "project")]
        for i in range(1, 18)
    ]
    assert widths == listed["ibn"]
    assert cost.weights(network) == listed["weights"]
    mops = cost.ops(network) / 1e6
    assert f"{mops:.2f}" == (f"{listed['mops']:.2f}" if "mops" in listed else "6.29")


def test_mobilenet_v2_as_published():
    """The paper says 300 million and 3.4 million; torchvision's model has 3,504,872 parameters,
    35,112 of them in batch norms and the bias."""
    network = zoo.network("MobileNetV2-1.0")
    assert network == zoo.mobilenet_v2()
    assert cost.macs(network) == 300_774_272
    assert cost.weights(network) == 3_504_872 - 35_112
    assert not any(layer.kind == "pad" for layer in network)
    assert sum(layer.kind == "add" for layer in network) == 10


@pytest.mark.parametrize(
    ("width", "widths"),
    [  # of the stages, as their authors build them, and of the last convolution
        (0.35, (8, 8, 16, 24, 32, 56, 112, 1280)),
        (0.75, (16, 24, 24, 48, 72, 120, 240, 1280)),
        (1.4, (24, 32, 48, 88, 136, 224, 448, 1792)),
    ],
)
def test_mobilenet_v2_of_other_widths(width, widths):
    network = zoo.mobilenet_v2(width, (96, 96, 1), 2)
    blocks = [f"block{i}_project" for i in (1, 2, 4, 7, 11, 14, 17)]
    assert tuple(network[name].out_channels for name in (*blocks, "last")) == widths


def test_published_file_of_the_same_network(reference):
    """Arm's own MicroNet-KWS-M: layer for layer the same operators, shapes, weights and MACs."""
    model = tflite.read(reference / "models/micronet_kws_m.tflite")
    network = zoo.network("MicroNet-KWS-M")
    in_file, macs = [], 0
    for operator in model.operators:
        row = operators.NAMED.get(operator.kind)
        if row and row.weighted:
            kernel, output = (model.tensors[i] for i in (operator.inputs[1], operator.outputs[0]))
            in_file.append((operator.kind, kernel.size, output.shape[-1]))
            macs += kernel.size * output.size // output.shape[-1]  # each weight at each pixel
    # In that file the classifier of the pooled pixel is a convolution, as is that of one channel.
    kinds = {"conv": "CONV_2D", "depthwise": "DEPTHWISE_CONV_2D", "dense": "CONV_2D"}
    listed = [
        (kinds[layer.kind], cost.kernel_elements(layer), layer.out_channels)
        for layer in network
        if layer.kind in kinds
    ]
    assert in_file == listed
    assert macs == cost.macs(network) == 15_556_352
    assert sum(size for _, size, _ in in_file) == cost.weights(network) == 110_432


def test_scaling_keeps_ends_and_rounds_to_fours():
    half = zoo.scaled(zoo.network("MicroNet-KWS-M"), 0.5)
    assert half == zoo.dscnn((72, 72, 72, 72, 56, 100), (2, 1, 1, 1, 1))
    assert zoo.scaled(half, 1e-3) == zoo.dscnn((4,) * 6, (2, 1, 1, 1, 1))


def test_scaled_residuals_stay_sound():
    wide = zoo.network("MicroNet-VWW-2")
    for multiplier in (0.3, 0.7, 1.6):
        scaled = zoo.scaled(wide, multiplier)
        assert networks.from_json(networks.to_json(scaled)) == scaled
    narrow = zoo.scaled(wide, 1e-3)  # all 4 wide: nothing is left to pad
    assert not any(layer.kind == "pad" for layer in narrow)


def test_the_table_holds_every_network_and_names_what_differs(paper):
    published = {row[1]: row for row in paper["results"]}
    rows = {row.name: row for row in zoo.rows()}
    assert tuple(rows) == zoo.names()
    for name, row in rows.items():
        assert tuple(row.published) == tuple(published[name][i] for i in (3, 4, 5))
        sram_alike = row.paper_sram_bytes == pytest.approx(1000 * row.published.sram_kb, rel=0.002)
        assert sram_alike == (not any("SRAM" in note for note in row.notes)), name
        ops_alike = row.mops == pytest.approx(row.published.mops, rel=0.004)
        assert ops_alike == (not any("operations" in note for note in row.notes)), name
    text = zoo.table()
    assert all(name in text for name in rows)
    papers = ("STM32F446RE", "STM32F746ZG", "STM32F767ZI")
    fitting = {name: tuple(b for b in row.boards if b in papers) for name, row in rows.items()}
    assert fitting["MicroNet-KWS-M"] == papers
    assert fitting["MicroNet-AD-L"] == ("STM32F767ZI",)


def test_unknown_names_and_widths_are_refused():
    with pytest.raises(ValueError, match="'KWS-S' is unknown; known are MicroNet-KWS-L"):
        zoo.network("KWS-S")
    with pytest.raises(ValueError, match="one width for the stem"):
        zoo.dscnn((8, 8), (1, 1))
    for name in ("MobileNetV2-wide", "MobileNetV2--1", "MobileNetV2-nan"):
        with pytest.raises(ValueError, match=f"network '{name}': "):
            zoo.network(name)
