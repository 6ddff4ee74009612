"""Published networks: everything that the paper lists of them."""

import json

import pytest

from micronets_jax import cost, zoo


@pytest.mark.parametrize("name", zoo.names())
def test_as_published(name, reference):
    listed = json.loads((reference / "reference/micronets.json").read_text())["architectures"][name]
    network = zoo.network(name)
    assert list(network.input_shape) == listed["input"]
    assert cost.weights(network) == listed["weights"]
    assert network["logits"].out_channels == listed["classes"]
    channels = [n.out_channels for n in network if n.kind in ("conv", "depthwise", "dense")]
    assert sum(channels) == listed["sum_out_channels"]


def test_scaling_keeps_ends_and_rounds_to_fours():
    half = zoo.scaled(zoo.network("MicroNet-KWS-M"), 0.5)
    assert half == zoo.dscnn((72, 72, 72, 72, 56, 100), (2, 1, 1, 1, 1))
    assert zoo.scaled(half, 1e-3) == zoo.dscnn((4,) * 6, (2, 1, 1, 1, 1))


def test_unknown_names_and_widths_are_refused():
    with pytest.raises(ValueError, match="'KWS-S' is unknown; known are MicroNet-KWS-L"):
        zoo.network("KWS-S")
    with pytest.raises(ValueError, match="one width for the stem"):
        zoo.dscnn((8, 8), (1, 1))
