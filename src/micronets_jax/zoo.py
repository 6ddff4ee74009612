"""Published networks by name, and plain DS-CNNs of any widths.

Invariant: a network here is what a paper lists, whether or not a space has it as a member.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from micronets_jax.network import INPUT, Layer, Network

KWS_INPUT = (49, 10, 1)
AD_INPUT = (32, 32, 1)

# MicroNets (Banbury et al., MLSys 2021), appendix: widths (stem first) and one stride per block.
_KWS = {
    "MicroNet-KWS-L": ((276, 248, 276, 276, 248, 248, 248, 248), (2, 1, 1, 1, 1, 1, 1)),
    "MicroNet-KWS-M": ((140, 140, 140, 140, 112, 196), (2, 1, 1, 1, 1)),
    "MicroNet-KWS-S": ((84, 112, 84, 84, 84, 196), (2, 1, 1, 1, 1)),
    "DSCNN-L": ((276, 276, 276, 276, 276, 276), (2, 1, 1, 1, 1)),
    "DSCNN-M": ((172, 172, 172, 172, 172), (2, 1, 1, 1)),
    "DSCNN-S": ((64, 64, 64, 64, 64), (2, 1, 1, 1)),
}
_AD = {
    "MicroNet-AD-L": ((276, 248, 276, 276, 248, 248), (2, 1, 1, 2, 2)),
    "MicroNet-AD-M": ((192, 276, 276, 276, 276, 276), (2, 1, 1, 2, 2)),
    "MicroNet-AD-S": ((72, 164, 220, 276, 276), (2, 1, 2, 2)),
}


def names() -> tuple[str, ...]:
    """Every published network there is."""
    return (*_KWS, *_AD)


def network(name: str, num_classes: int | None = None) -> Network:
    """A published network: keyword spotting on 49x10 MFCCs, anomaly detection on 32x32 images.

    ``num_classes`` defaults to the paper's, 12 and 4.

    Raises:
        ValueError: no such network; the message lists all.
    """
    if name in _KWS:
        return dscnn(*_KWS[name], num_classes=num_classes or 12)
    if name in _AD:
        return dscnn(
            *_AD[name], input_shape=AD_INPUT, stem_kernel=(3, 3), num_classes=num_classes or 4
        )
    raise ValueError(f"network {name!r} is unknown; known are {', '.join(names())}")


def dscnn(
    widths: Sequence[int],
    strides: Sequence[int],
    input_shape: tuple[int, int, int] = KWS_INPUT,
    stem_kernel: tuple[int, int] = (10, 4),
    num_classes: int = 12,
) -> Network:
    """A DS-CNN with these output channels (stem first) and one stride per block.

    Layers are named as in ``spaces.DSCNN``, whose members this makes too where all blocks stay.

    Raises:
        ValueError: other than one width more than strides, or a width below 1.
    """
    if len(widths) != len(strides) + 1 or min(widths) < 1:
        raise ValueError(
            f"widths={tuple(widths)}, strides={tuple(strides)}: give one width for the stem and "
            "one per block, all at least 1, and one stride per block"
        )
    layers = [
        Layer("stem", "conv", (INPUT,), input_shape[2], widths[0], stem_kernel, activation="relu")
    ]
    rows, columns = input_shape[:2]
    for i, (stride, width) in enumerate(zip(strides, widths[1:], strict=True), 1):
        depthwise = Layer(
            f"block{i}_depthwise", "depthwise", (layers[-1].name,), widths[i - 1], widths[i - 1],
            (3, 3), (stride, stride), activation="relu",
        )  # fmt: skip
        pointwise = Layer(
            f"block{i}_pointwise", "conv", (depthwise.name,), widths[i - 1], width,
            activation="relu",
        )  # fmt: skip
        layers += [depthwise, pointwise]
        rows, columns = -(-rows // stride), -(-columns // stride)
    last, pool = widths[-1], (rows, columns)
    layers += [
        Layer("pool", "avg_pool", (layers[-1].name,), last, last, pool, pool, "VALID"),
        Layer("flatten", "reshape", ("pool",), last, last),
        Layer("logits", "dense", ("flatten",), last, num_classes),
    ]
    return Network(input_shape, tuple(layers))


def scaled(network: Network, multiplier: float) -> Network:
    """The network with every width times one multiplier, to the nearest multiple of 4, at least 4.

    The input's channels and the classes stay.
    """
    last = network.layers[-1].name
    channels = {INPUT: network.input_shape[2]}
    layers = []
    for layer in network:
        made = layer.out_channels
        if layer.name != last:
            made = max(4, int(made * multiplier / 4 + 0.5) * 4)
        layers.append(
            dataclasses.replace(layer, in_channels=channels[layer.inputs[0]], out_channels=made)
        )
        channels[layer.name] = made
    return Network(network.input_shape, tuple(layers))
