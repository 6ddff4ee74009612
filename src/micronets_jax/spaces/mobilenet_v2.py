"""MobileNetV2 for small inputs: stem, stages of inverted bottlenecks, last convolution, dense.

Invariant: one builder makes every member and every published relative, from Python ints (a concrete
network), from int32 (exact inside ``jit``) or from float weights (expectations).

Residuals join tensors of any two widths: zeros are appended to the narrower one, so a sum is as
wide as the wider. In a network whose widths are traced each side has its ``pad``, present where
that side is the narrower one, and a ``mix`` of it and the tensor itself.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from micronets_jax.decisions import Choice, Decision, Decisions
from micronets_jax.network import INPUT, Activation, Count, Layer, Network
from micronets_jax.spaces.widths import (
    NUM_WIDTHS,
    index_of,
    mask_of,
    one_hot,
    width_grid,
    width_of,
)


class Stage(NamedTuple):
    """Blocks of one resolution, the columns t, c, n, s of MobileNetV2's table 2.

    Attributes:
        expansion: channels of an expansion for each channel that the block reads.
        channels: that each block makes.
        blocks: their number.
        stride: of the first one.
    """

    expansion: int
    channels: int
    blocks: int
    stride: int


STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
"""MobileNetV2's (Sandler et al., 2018, table 2)."""

STEM_WIDTH = 32
LAST_WIDTH = 1280
"""Channels before and after the stack, the same source."""

_MULTIPLES = (4, 2, 1)
_LEAST_LARGEST = 16  # its tenth is 2: what reads one channel becomes another operator in TFLite


# ---------------------------------------------------------------- the builder


class Sum(NamedTuple):
    """Where a residual joins its block's output.

    Attributes:
        width: channels of the sum, those of the wider side.
        pad_shortcut: presence of zeros appended to the shortcut, 1 where it is the narrower side.
        pad_branch: likewise of the block's output.
    """

    width: Count
    pad_shortcut: Count
    pad_branch: Count

    @staticmethod
    def of(shortcut: int, branch: int) -> Sum:
        """The sum of two tensors of these widths."""
        return Sum(max(shortcut, branch), int(shortcut < branch), int(branch < shortcut))


class Block(NamedTuple):
    """An inverted bottleneck.

    Attributes:
        expansion: channels between, None where no convolution expands.
        projection: channels that the block makes.
        stride: of its depthwise convolution.
        sum: how what the block reads is added to what it makes, None where it is not.
        kernels: rows and columns that its depthwise convolution may have, each with 1 if it has
            them or with their probability.
        presence: of the block; where it may be absent it must have a sum.
    """

    expansion: Count | None
    projection: Count
    stride: int = 1
    sum: Sum | None = None
    kernels: tuple[tuple[int, Count], ...] = ((3, 1),)
    presence: Count = 1


def build(
    input_shape: tuple[int, int, int],
    num_classes: int,
    stem: Count,
    blocks: Sequence[Block],
    last: Count | None,
    activation: Activation = "relu6",
) -> Network:
    """The network of these widths; projections and sums are linear.

    The classifier is a dense layer on the pooled vector, the arithmetic of a 1x1 convolution there.

    Args:
        input_shape: rows, columns, channels.
        num_classes: outputs.
        stem: channels of the first convolution.
        blocks: in order.
        last: channels of the convolution before pooling, None where blocks are pooled.
        activation: after stem, expansions, depthwise convolutions and the last one.

    Returns:
        The network, from pictures to logits [num_classes].
    """
    halved = (2, 2)
    layers = [
        Layer("stem", "conv", (INPUT,), input_shape[2], stem, (3, 3), halved, activation=activation)
    ]
    rows, columns = (-(-n // 2) for n in input_shape[:2])
    tensor, channels = "stem", stem
    for i, block in enumerate(blocks, 1):
        made = _block(f"block{i}", tensor, channels, block, activation)
        layers += made
        tensor, channels = made[-1].name, made[-1].out_channels
        rows, columns = -(-rows // block.stride), -(-columns // block.stride)
    if last is not None:
        layers.append(Layer("last", "conv", (tensor,), channels, last, activation=activation))
        tensor, channels = "last", last
    pool = (rows, columns)
    layers += [
        Layer("pool", "avg_pool", (tensor,), channels, channels, pool, pool, "VALID"),
        Layer("flatten", "reshape", ("pool",), channels, channels),
        Layer("logits", "dense", ("flatten",), channels, num_classes),
    ]
    return Network(input_shape, tuple(layers))


def _block(
    name: str, tensor: str, channels: Count, block: Block, activation: Activation
) -> list[Layer]:
    layers, source, wide, presence = [], tensor, channels, block.presence
    if block.expansion is not None:
        source, wide = f"{name}_expand", block.expansion
        layers.append(
            Layer(
                source, "conv", (tensor,), channels, wide, activation=activation, presence=presence
            )
        )
    made = _depthwise(name, source, wide, block, activation)
    project = f"{name}_project"
    layers += [
        *made,
        Layer(project, "conv", (made[-1].name,), wide, block.projection, presence=presence),
    ]
    if block.sum is None:
        return layers
    total = block.sum.width
    sides = []
    for side, what, width, pad in (
        ("shortcut", tensor, channels, block.sum.pad_shortcut),
        ("branch", project, block.projection, block.sum.pad_branch),
    ):
        padded, kept = _padded(f"{name}_{side}", what, width, total, pad)
        layers += padded
        sides.append(kept)
    layers.append(Layer(f"{name}_add", "add", tuple(sides), total, total, presence=presence))
    if not isinstance(presence, int):
        layers.append(Layer(f"{name}_mix", "mix", (f"{name}_add", tensor), total, total))
    return layers


def depthwise_name(block: str, kernel: int) -> str:
    """Of a block's depthwise convolution; the name says a kernel that is not 3x3."""
    return f"{block}_depthwise" if kernel == 3 else f"{block}_depthwise{kernel}x{kernel}"


def without_kernel(name: str) -> str:
    """The name that layers share which differ in their kernel alone; see :func:`depthwise_name`."""
    return re.sub(r"_depthwise\d+x\d+$", "_depthwise", name)


def _depthwise(
    name: str, source: str, wide: Count, block: Block, activation: Activation
) -> list[Layer]:
    """A depthwise convolution for each kernel it may have, and mixes that take the one it has."""
    layers, steps = [], (block.stride, block.stride)
    for size, chosen in block.kernels:
        presence = block.presence * chosen
        one = depthwise_name(name, size)
        made = Layer(
            one, "depthwise", (source,), wide, wide, (size, size), steps,
            activation=activation, presence=presence,
        )  # fmt: skip
        if layers:
            mix = f"{one}_mix"
            layers += [made, Layer(mix, "mix", (one, layers[-1].name), wide, wide)]
        else:
            layers.append(made)
    return layers


def _padded(
    name: str, tensor: str, channels: Count, total: Count, presence: Count
) -> tuple[list[Layer], str]:
    """The layers that make a side of a sum as wide as it, and the name of that side."""
    pad = Layer(f"{name}_pad", "pad", (tensor,), channels, total, presence=presence)
    if isinstance(presence, int):
        return ([pad], pad.name) if presence else ([], tensor)
    return [pad, Layer(f"{name}_mix", "mix", (pad.name, tensor), total, total)], f"{name}_mix"


# ---------------------------------------------------------------- the space


@dataclasses.dataclass(frozen=True)
class MobileNetV2:
    """The space of MicroNets' visual wake words (Banbury et al., 2021, section 5.2.1).

    Decisions, each a width in ten steps: ``ends``, stem and last convolution; ``expansion`` and
    ``projection``, two in each block. The first block, too, has an expansion. Inside a stage
    every block after the first has a residual.

    Attributes:
        input_shape: rows, columns, channels of one input.
        num_classes: outputs of the dense layer.
        width: multiplies every largest width, to multiples of 4, at least 16.
        stages: as MobileNetV2 has them, or fewer.
        stem_width: largest, before ``width``.
        last_width: likewise of the last convolution.
    """

    input_shape: tuple[int, int, int] = (50, 50, 1)
    num_classes: int = 2
    width: float = 1.0
    stages: tuple[Stage, ...] = STAGES
    stem_width: int = STEM_WIDTH
    last_width: int = LAST_WIDTH

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes={self.num_classes}: give at least 1 output")
        if min(self.input_shape) < 1:
            raise ValueError(f"input_shape={self.input_shape}: every side must be at least 1")
        if not self.stages:
            raise ValueError("stages=(): give at least one stage")
        for stage in self.stages:
            if min(stage) < 1 or stage.stride > 2:
                raise ValueError(f"{stage}: give numbers of at least 1, and a stride of 1 or 2")
        if not 0 < self.width < float("inf"):
            raise ValueError(f"width={self.width}: give a multiplier above 0")
        if min(self.stem_width, self.last_width) < 1:
            raise ValueError(
                f"stem_width={self.stem_width}, last_width={self.last_width}: give at least 1"
            )

    # What each decision chooses from.

    @functools.cached_property
    def ends(self) -> tuple[tuple[int, ...], ...]:
        """Widths of the stem, and of the last convolution."""
        return self._grid(self.stem_width), self._grid(self.last_width)

    @functools.cached_property
    def expansions(self) -> tuple[tuple[int, ...], ...]:
        """Widths of each block's expansion."""
        largest, reads = [], self.ends[0][-1]
        for stage in self.stages:
            made = self._grid(stage.channels)[-1]
            largest += [stage.expansion * reads] + [stage.expansion * made] * (stage.blocks - 1)
            reads = made
        return tuple(width_grid(n, _MULTIPLES) for n in largest)

    @functools.cached_property
    def projections(self) -> tuple[tuple[int, ...], ...]:
        """Widths of each block's output before any sum; the same all through a stage."""
        return tuple(
            self._grid(stage.channels) for stage in self.stages for _ in range(stage.blocks)
        )

    def _grid(self, channels: int) -> tuple[int, ...]:
        largest = max(_LEAST_LARGEST, int(channels * self.width / 4 + 0.5) * 4)
        return width_grid(largest, _MULTIPLES)

    @property
    def num_blocks(self) -> int:
        """Inverted bottlenecks."""
        return sum(stage.blocks for stage in self.stages)

    def decisions(self) -> Decisions:
        """Widths of stem and last convolution, then of each block's expansion and projection."""
        blocks = tuple(range(1, self.num_blocks + 1))
        places = {"ends": (0, self.num_blocks + 1), "expansion": blocks, "projection": blocks}
        return {
            name: Decision("width", grids, places[name]) for name, grids in self._grids().items()
        }

    # From choices to networks.

    def network(self, choice: Choice) -> Network:
        """The network a choice stands for.

        Integer one-hot weights give exact int32 counts. Float weights give expectations: the widths
        of sums and the presence of pads are exact ones, taken from the distribution of the largest
        of all widths that a sum joins. As every product of two widths in a cost is one of
        independent decisions, operations and weights of this network are the expected ones, and so
        is the size of its file up to paddings; its memory, a maximum, is not.

        Args:
            choice: ``ends`` [2, 10], ``expansion`` and ``projection`` [blocks, 10].
        """
        ends, expansion, projection = (
            list(decision.value(choice[name])) for name, decision in self.decisions().items()
        )
        sums: list[Sum | None] = []
        joined = jnp.asarray(choice["projection"][0])  # which width the next block reads
        for i, (grid, has_sum) in enumerate(zip(self.projections, self._has_sum(), strict=True)):
            own = jnp.asarray(choice["projection"][i])
            if has_sum:
                joined, narrower, wider = _larger(joined, own)
                sums.append(Sum(width_of(joined, grid), narrower, wider))
            else:
                joined = own
                sums.append(None)
        return self._build(ends, expansion, projection, sums)

    def masks(self, choice: Choice) -> dict[str, jax.Array]:
        """For each convolution with a width decision, which of its channels exist.

        Float weights give the probability that a channel exists.
        """
        names = {
            "ends": ["stem", "last"],
            "expansion": [f"block{i}_expand" for i in range(1, self.num_blocks + 1)],
            "projection": [f"block{i}_project" for i in range(1, self.num_blocks + 1)],
        }
        return {
            layer: mask_of(choice[name][i], grid)
            for name, grids in self._grids().items()
            for i, (layer, grid) in enumerate(zip(names[name], grids, strict=True))
        }

    def decode(self, choice: Choice) -> Network:
        """The concrete network of the likeliest options: Python ints, pads only where needed."""
        indices = {name: np.argmax(np.asarray(choice[name]), axis=-1) for name in self._grids()}
        widths = (
            [grid[i] for grid, i in zip(grids, indices[name], strict=True)]
            for name, grids in self._grids().items()
        )
        return self._concrete(*widths)

    def member(
        self, ends: Sequence[int], expansion: Sequence[int], projection: Sequence[int]
    ) -> Network:
        """The concrete network with these widths; see :meth:`choice`."""
        return self.decode(self.choice(ends, expansion, projection))

    def choice(
        self, ends: Sequence[int], expansion: Sequence[int], projection: Sequence[int]
    ) -> Choice:
        """The int32 one-hot choice of these widths: stem and last convolution, then by block.

        Raises:
            ValueError: a width that is not among the decision's, or the wrong number of them.
        """
        widths = {"ends": ends, "expansion": expansion, "projection": projection}
        for name, grids in self._grids().items():
            if len(widths[name]) != len(grids):
                raise ValueError(
                    f"{name} has {len(widths[name])} widths; this space needs {len(grids)}"
                )
        return {
            name: one_hot(
                [index_of(w, g) for w, g in zip(widths[name], grids, strict=True)], NUM_WIDTHS
            )
            for name, grids in self._grids().items()
        }

    def uniform(self, step: int) -> Choice:
        """Every width at ``step`` (1 to 10) tenths of its largest, as an int32 one-hot choice."""
        return {
            name: one_hot([step - 1] * len(grids), NUM_WIDTHS)
            for name, grids in self._grids().items()
        }

    def largest(self) -> Network:
        """Every width at its maximum."""
        return self.decode(self.uniform(NUM_WIDTHS))

    def lightest(self) -> list[Choice]:
        """The smallest widths everywhere, which make every cost least; then the uniform members.

        If the first does not meet a set of limits nothing does; the others make the best of limits
        that leave room.
        """
        return [self.uniform(step) for step in range(1, NUM_WIDTHS + 1)]

    def supernetwork(self) -> Network:
        """The largest network: what a supernet computes. Its sums need no pads."""
        return self.largest()

    def _grids(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        return {
            "ends": self.ends,
            "expansion": self.expansions,
            "projection": self.projections,
        }

    def _has_sum(self) -> list[bool]:
        return [i > 0 for stage in self.stages for i in range(stage.blocks)]

    def _concrete(self, ends: list[int], expansion: list[int], projection: list[int]) -> Network:
        sums, joined = [], 0
        for width, has_sum in zip(projection, self._has_sum(), strict=True):
            sums.append(Sum.of(joined, width) if has_sum else None)
            joined = max(joined, width) if has_sum else width
        return self._build(ends, expansion, projection, sums)

    def _build(
        self,
        ends: list[Count],
        expansion: list[Count],
        projection: list[Count],
        sums: list[Sum | None],
    ) -> Network:
        strides = [
            stage.stride if i == 0 else 1 for stage in self.stages for i in range(stage.blocks)
        ]
        blocks = [Block(*row) for row in zip(expansion, projection, strides, sums, strict=True)]
        return build(self.input_shape, self.num_classes, ends[0], blocks, ends[1])


def _larger(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of two independent choices among the same rising options: the distribution of the maximum,
    the probability that the first is the smaller, and that the second is."""
    one, other = jnp.cumsum(first, dtype=first.dtype), jnp.cumsum(second, dtype=second.dtype)
    both = one * other
    larger = jnp.concatenate([both[:1], both[1:] - both[:-1]])
    return larger, jnp.sum(second[1:] * one[:-1]), jnp.sum(first[1:] * other[:-1])
