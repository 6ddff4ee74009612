"""Published networks by name, plain relatives of any widths, and a table of what they cost.

Invariant: a network here is what a paper lists, whether or not a space has it as a member.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from micronets_jax import cost
from micronets_jax.budgets import Budget
from micronets_jax.devices import DEVICES
from micronets_jax.devices.instructions import characterised
from micronets_jax.network import INPUT, Layer, Network, prune
from micronets_jax.spaces.mcunet import STAGES as MCUNET_STAGES
from micronets_jax.spaces.mcunet import MCUNet, rounded
from micronets_jax.spaces.mobilenet_v2 import (
    LAST_WIDTH,
    STAGES,
    STEM_WIDTH,
    Block,
    Stage,
    Sum,
    build,
)
from micronets_jax.targets.tflm.arena import arena_bytes, published

KWS_INPUT = (49, 10, 1)
AD_INPUT = (32, 32, 1)
IMAGENET_INPUT = (224, 224, 3)

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
# Sides of the input, stem, and expansion and projection of each block in MobileNetV2's stages.
_VWW = {
    "MicroNet-VWW-2": (
        50, 12,
        (
            (4, 8), (28, 24), (28, 20), (128, 28), (152, 16), (152, 28), (152, 24), (112, 24),
            (112, 12), (76, 32), (76, 16), (56, 28), (56, 28), (56, 16), (96, 16), (96, 16),
            (96, 32),
        ),
    ),
    "MicroNet-VWW-3": (
        128, 9,
        (
            (3, 6), (9, 14), (28, 16), (28, 32), (115, 25), (115, 32), (172, 51), (307, 51),
            (307, 44), (307, 57), (230, 48), (288, 48), (288, 76), (115, 16), (96, 16), (96, 16),
            (96, 32),
        ),
    ),
    "MicroNet-VWW-4": (
        128, 8,
        (
            (4, 4), (8, 12), (14, 16), (28, 32), (96, 28), (96, 28), (152, 44), (268, 40),
            (268, 52), (268, 44), (192, 68), (172, 68), (172, 48), (288, 16), (96, 16), (96, 32),
            (96, 32),
        ),
    ),
}  # fmt: skip
_VWW_LAST = 128

SCORES = {
    "kws": {
        "MicroNet-KWS-L": 0.965,
        "MicroNet-KWS-M": 0.958,
        "MicroNet-KWS-S": 0.953,
        "DSCNN-L": 0.959,
        "DSCNN-M": 0.950,
        "DSCNN-S": 0.9415,
    },
    "ad": {"MicroNet-AD-L": 0.9728, "MicroNet-AD-M": 0.9605, "MicroNet-AD-S": 0.9535},
    "vww": {"MicroNet-VWW-2": 0.781, "MicroNet-VWW-3": 0.8644, "MicroNet-VWW-4": 0.8249},
}
"""What MicroNets (tables 1 to 5) gives of its networks and of DS-CNN, by task: the share of test
examples that are right, of machines the AUC; on Speech Commands V2, DCASE 2020 and VWW."""

_MOBILENET = "MobileNetV2-"


class _Chosen(NamedTuple):
    """A member of MCUNet's space: width, side of the input, then kernel and expansion of each
    block, stage by stage."""

    width: float
    side: int
    kernels: str
    expansions: str


# MCUNet (Lin et al., NeurIPS 2020), as the repository mcunet publishes them; "int4" for 4-bit
# weights. Not in the paper's space are expansions of 5, which all have, and the width of 1.5.
_MCUNET = {
    "mcunet-10fps": _Chosen(0.6, 48, "533 755 75 353 35 3", "434 545 54 545 64 6"),
    "mcunet-5fps": _Chosen(0.5, 96, "33 73 37 533 755 3", "43 35 54 434 544 6"),
    "mcunet-256kb-1mb": _Chosen(0.5, 160, "5735 375 75 353 5553 5", "3655 566 45 554 6434 5"),
    "mcunet-320kb-1mb": _Chosen(0.5, 176, "7375 555 375 573 373 7", "3554 555 564 555 654 5"),
    "mcunet-512kb-2mb": _Chosen(1.0, 160, "735 737 737 355 775 5", "354 544 333 433 433 4"),
    "mcunet-256kb-1mb-int4": _Chosen(0.9, 160, "7357 757 37 557 35 5", "3653 534 54 643 54 4"),
    "mcunet-320kb-1mb-int4": _Chosen(0.9, 176, "755 7375 775 557 33 7", "366 4444 464 334 53 4"),
    "mcunet-512kb-2mb-int4": _Chosen(1.5, 192, "7333 575 773 537 37 5", "3555 645 544 443 53 4"),
}
# What MCUNet is compared with: width and side. They keep a convolution before pooling.
_PROXYLESS = {"proxyless-w0.25-r112": (0.25, 112), "proxyless-w0.3-r176": (0.3, 176)}
_PROXYLESS_BLOCKS = ("53 7355 7555 5555 7777 7", "33 3333 6333 6333 6633 6")
_NARROW = {"mbv2-w0.35-r144": (0.35, 144), "mbv2-w0.3-r80": (0.3, 80)}


def names() -> tuple[str, ...]:
    """The networks of MicroNets' tables."""
    return (*_KWS, *_AD, *_VWW)


def mcunets() -> tuple[str, ...]:
    """The networks of MCUNet's tables, on colour pictures.

    Those whose name begins with ``mcunet`` are members of its space.
    """
    return (*_MCUNET, *_PROXYLESS, *_NARROW)


def network(name: str, num_classes: int | None = None) -> Network:
    """A published network: keyword spotting on 49x10 MFCCs, anomaly detection on 32x32 images,
    visual wake words on grey ones of 50 or 128 pixels a side; MCUNet's; or ``MobileNetV2-`` and a
    width.

    ``num_classes`` defaults to the paper's: 12, 4, 2 and 1000.

    Raises:
        ValueError: no such network; the message lists all.
    """
    if name in _KWS:
        return dscnn(*_KWS[name], num_classes=num_classes or 12)
    if name in _AD:
        return dscnn(
            *_AD[name], input_shape=AD_INPUT, stem_kernel=(3, 3), num_classes=num_classes or 4
        )
    if name in _VWW:
        side, stem, widths = _VWW[name]
        return build((side, side, 1), num_classes or 2, stem, _blocks(widths), _VWW_LAST)
    if name in mcunets():
        return _mcunet(name, num_classes or 1000)
    if name.startswith(_MOBILENET):
        try:
            return mobilenet_v2(
                float(name.removeprefix(_MOBILENET)), num_classes=num_classes or 1000
            )
        except ValueError as error:
            raise ValueError(f"network {name!r}: {error}") from error
    known = ", ".join((*names(), *mcunets(), f"{_MOBILENET}0.35 (any width)"))
    raise ValueError(f"network {name!r} is unknown; known are {known}")


def _mcunet(name: str, num_classes: int) -> Network:
    if name in _NARROW:
        width, side = _NARROW[name]
        return mobilenet_v2(width, (side, side, 3), num_classes, narrow_last=True)
    if name in _PROXYLESS:
        return _proxyless(*_PROXYLESS[name], num_classes)
    chosen = _MCUNET[name]
    space = MCUNet((chosen.side, chosen.side, 3), num_classes, chosen.width)
    kernels, expansions = chosen.kernels.split(), chosen.expansions.split()
    return space.member(
        [len(stage) for stage in kernels[:-1]],
        [int(size) for size in "".join(kernels)],
        [int(expansion) for expansion in "".join(expansions)],
    )


def _proxyless(width: float, side: int, num_classes: int) -> Network:
    """ProxylessNAS's network for phones (Cai et al., 2019), narrowed: widths rounded up to
    multiples of 8, no sum where two stages happen to be as wide."""

    def wide(channels: int) -> int:
        return -(-int(channels * width * 100) // 800) * 8

    stem, read = wide(32), wide(16)
    blocks = [Block(None, read)]
    of_stages = zip(MCUNET_STAGES, *(text.split() for text in _PROXYLESS_BLOCKS), strict=True)
    for stage, kernels, expansions in of_stages:
        # The second stage of the published network is wider than the space's.
        made = wide(32 if stage.channels == 24 else stage.channels)
        for i, (kernel, expansion) in enumerate(zip(kernels, expansions, strict=True)):
            total = Sum.of(read, made) if i else None
            sizes = ((int(kernel), 1),)
            blocks.append(
                Block(int(expansion) * read, made, 1 if i else stage.stride, total, sizes)
            )
            read = made
    return build((side, side, 3), num_classes, stem, blocks, wide(1280))


def mobilenet_v2(
    width: float = 1.0,
    input_shape: tuple[int, int, int] = IMAGENET_INPUT,
    num_classes: int = 1000,
    *,
    multiple: int = 8,
    narrow_last: bool = False,
    stages: Sequence[Stage] = STAGES,
    last_width: int = LAST_WIDTH,
) -> Network:
    """MobileNetV2 (Sandler et al., 2018, table 2) with every width but the classes times ``width``.

    As its authors build it: widths to multiples of 8 and never more than 10 % below, the last
    convolution never narrower than 1280, no expansion in the first block. For small boards
    ``multiple`` rounds finer, ``narrow_last`` scales the last convolution too, and there may be
    other ``stages`` and another ``last_width``.

    Args:
        width: multiplier of all widths.
        input_shape: rows, columns, channels.
        num_classes: outputs of the dense layer.
        multiple: that widths are rounded to.
        narrow_last: whether the last convolution is scaled below its published width.
        stages: in place of the published ones.
        last_width: of the last convolution, before scaling.

    Returns:
        The network, from pictures to logits [num_classes].

    Raises:
        ValueError: ``width`` is not a number above 0, or ``multiple`` below 1.
    """
    if not 0 < width < float("inf"):
        raise ValueError(f"width={width}: give a multiplier above 0")
    if multiple < 1:
        raise ValueError(f"multiple={multiple}: give a number of channels, at least 1")
    stem = read = rounded(STEM_WIDTH * width, multiple)
    widths: list[tuple[int | None, int]] = []
    for stage in stages:
        made = rounded(stage.channels * width, multiple)
        for _ in range(stage.blocks):
            widths.append((None if stage.expansion == 1 else stage.expansion * read, made))
            read = made
    last = rounded(last_width * (width if narrow_last else max(1.0, width)), multiple)
    return build(input_shape, num_classes, stem, _blocks(widths, stages), last)


def _blocks(
    widths: Sequence[tuple[int | None, int]], stages: Sequence[Stage] = STAGES
) -> list[Block]:
    """Blocks of these expansions and projections in these stages, each after the first of its
    stage with a residual."""
    blocks, read, given = [], 0, iter(widths)
    for stage in stages:
        for i in range(stage.blocks):
            expansion, made = next(given)
            total = Sum.of(read, made) if i else None
            read = total.width if total else made
            blocks.append(Block(expansion, made, 1 if i else stage.stride, total))
    return blocks


def dscnn(
    widths: Sequence[int],
    strides: Sequence[int],
    input_shape: tuple[int, int, int] = KWS_INPUT,
    stem_kernel: tuple[int, int] = (10, 4),
    num_classes: int = 12,
) -> Network:
    """A DS-CNN with these output channels (stem first) and one stride per block.

    Layers are named as in ``spaces.DSCNN``, whose members this makes too where all blocks stay.

    Args:
        widths: output channels, stem first.
        strides: one a block.
        input_shape: rows, columns, channels.
        stem_kernel: rows and columns.
        num_classes: outputs of the dense layer.

    Returns:
        The network, from features to logits [num_classes].

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
            dataclasses.replace(
                layer,
                in_channels=channels[layer.inputs[0]],
                out_channels=made,
                presence=int(layer.kind != "pad" or made > channels[layer.inputs[0]]),
            )
        )
        channels[layer.name] = made
    return prune(Network(network.input_shape, tuple(layers)))


# ---------------------------------------------------------------- beside what was published


class Published(NamedTuple):
    """What MicroNets' tables 2 to 5 say of a network; KB are 1000 bytes."""

    flash_kb: float
    sram_kb: float
    mops: float


_PUBLISHED = {
    "MicroNet-KWS-L": Published(612, 208.8, 129),
    "MicroNet-KWS-M": Published(163, 103.3, 30.6),
    "MicroNet-KWS-S": Published(102, 53.2, 16.4),
    "DSCNN-L": Published(490, 201.3, 107.2),
    "DSCNN-M": Published(181, 123.3, 37.3),
    "DSCNN-S": Published(49, 47.2, 7.1),
    "MicroNet-AD-L": Published(442, 383.7, 129),
    "MicroNet-AD-M": Published(464, 274.5, 124.7),
    "MicroNet-AD-S": Published(253, 114.2, 37.5),
    "MicroNet-VWW-2": Published(230, 69.5, 5.3),
    "MicroNet-VWW-3": Published(458, 133.7, 45.2),
    "MicroNet-VWW-4": Published(416, 118.7, 37.7),
}

_HALVED = "published operations halve 49 rows to 24.5; there are 25"
_WAITING = "published SRAM is not what the rule that fits the other rows gives"
_NOTES = {
    **dict.fromkeys(_KWS, (_HALVED,)),
    **dict.fromkeys(_VWW, (_WAITING,)),
    "MicroNet-KWS-S": (_HALVED, "published SRAM is without the interpreter's own structures"),
    "MicroNet-VWW-2": ("published operations are not those of the published layers", _WAITING),
}
"""Where published and true values differ for a known reason, or for none that is known."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A network and what it costs.

    Attributes:
        name: as :func:`network` knows it.
        mops: millions of operations.
        weights: elements of all kernels.
        flash_bytes: of the file that ``export`` writes.
        sram_bytes: TFLM's arena on a Cortex-M.
        paper_sram_bytes: by the rule of the paper's tables.
        boards: real ones that hold it under TFLM, firmware and stack included.
        published: what the paper says.
        notes: why that differs.
    """

    name: str
    mops: float
    weights: int
    flash_bytes: int
    sram_bytes: int
    paper_sram_bytes: int
    boards: tuple[str, ...]
    published: Published
    notes: tuple[str, ...]


def rows() -> list[Row]:
    """Every published network with its costs and the published ones.

    Memory by the paper's rule is that of 8 classes in anomaly detection, as the paper's is.
    """
    result = []
    boards = [d for d in DEVICES.values() if not d.emulated and characterised("tflm", d.core)]
    for name in names():
        net = network(name)
        as_measured = network(name, 8) if name in _AD else net
        result.append(
            Row(
                name,
                cost.ops(net) / 1e6,
                cost.weights(net),
                cost.flash_bytes(net),
                arena_bytes(net),
                published(as_measured).total,
                tuple(board.name for board in boards if Budget.of(board, runtime="tflm").fits(net)),
                _PUBLISHED[name],
                _NOTES.get(name, ()),
            )
        )
    return result


def table(listed: Sequence[Row] | None = None) -> str:
    """:func:`rows` as text: ours, then what the paper says, in its units; notes below.

    Flash and SRAM in KB of 1000 bytes. ``SRAM`` is TFLM's arena on a Cortex-M, ``rule`` that of the
    paper's tables. Files of ``export`` leave out what no interpreter reads, published ones do not.
    """
    listed = rows() if listed is None else listed
    notes = list(dict.fromkeys(note for row in listed for note in row.notes))
    lines = [
        f"{'':16}{'ours':^47}{'published':^24}",
        f"{'model':<16}{'Mops':>8}{'weights':>9}{'flash':>8}{'SRAM':>8}{'rule':>8}      "
        f"{'Mops':>8}{'flash':>8}{'SRAM':>8}  boards",
    ]
    for row in listed:
        marks = "".join(f"[{notes.index(note) + 1}]" for note in row.notes)
        lines.append(
            f"{row.name:<16}{row.mops:>8.2f}{row.weights:>9}{row.flash_bytes / 1000:>8.1f}"
            f"{row.sram_bytes / 1000:>8.1f}{row.paper_sram_bytes / 1000:>8.1f}      "
            f"{row.published.mops:>8.1f}{row.published.flash_kb:>8.0f}{row.published.sram_kb:>8.1f}"
            f"  {' '.join(row.boards) or 'none'} {marks}".rstrip()
        )
    return "\n".join([*lines, *(f"[{i}] {note}" for i, note in enumerate(notes, 1))])
