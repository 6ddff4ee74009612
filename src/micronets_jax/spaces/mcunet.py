"""MCUNet's space: inverted bottlenecks whose kernels, expansions and depth are chosen.

Invariant: one width multiplier and one resolution belong to a space, as in TinyNAS (Lin et al.,
"MCUNet: Tiny Deep Learning on IoT Devices", NeurIPS 2020, section 3.1); which of them suit a board
is asked before anything is trained. Every kernel is the centre of the largest one, every expansion
has the first channels of the largest, every depth the first blocks of its stage.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num

from micronets_jax.decisions import Choice, Decision, Decisions
from micronets_jax.network import Count, Network, prune
from micronets_jax.spaces.mobilenet_v2 import Block, Sum, build, depthwise_name
from micronets_jax.spaces.widths import mask_of, one_hot


class Stage(NamedTuple):
    """Blocks of one resolution.

    Attributes:
        channels: that each block makes, before the multiplier.
        stride: of the first one.
    """

    channels: int
    stride: int


ENDS = (32, 16)
"""Channels of the stem and of the first block, which has neither expansion nor a choice."""

STAGES = (
    Stage(24, 2), Stage(40, 2), Stage(80, 2), Stage(96, 1), Stage(192, 2), Stage(320, 1),
)  # fmt: skip
"""ProxylessNAS's (Cai et al., 2019), on which MCUNet builds. The last has one block."""

FIRST = 1
"""Blocks before the stages."""


def rounded(channels: float, multiple: int = 8) -> int:
    """The nearest multiple, the next one where that is less than 90 % (as MobileNets have it)."""
    nearest = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return nearest if nearest >= 0.9 * channels else nearest + multiple


@dataclasses.dataclass(frozen=True)
class MCUNet:
    """Members of one width and resolution.

    Decisions: ``depth``, the blocks of each stage but the last; ``kernel`` and ``expansion``, of
    each block of each stage, also of those that a depth leaves out.

    Attributes:
        input_shape: rows, columns, channels of one input.
        num_classes: outputs of the dense layer.
        width: multiplies all channels, to multiples of 8 and never more than 10 % below.
        stages: in order.
        depths: blocks that a stage but the last may have, rising.
        kernels: odd sizes that a depthwise convolution may have, rising.
        expansions: channels between for each channel that a block reads, rising.
    """

    input_shape: tuple[int, int, int] = (144, 144, 3)
    num_classes: int = 1000
    width: float = 0.5
    stages: tuple[Stage, ...] = STAGES
    depths: tuple[int, ...] = (2, 3, 4)
    kernels: tuple[int, ...] = (3, 5, 7)
    expansions: tuple[int, ...] = (3, 4, 5, 6)

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes={self.num_classes}: give at least 1 output")
        if min(self.input_shape) < 1:
            raise ValueError(f"input_shape={self.input_shape}: every side must be at least 1")
        if not 0 < self.width < float("inf"):
            raise ValueError(f"width={self.width}: give a multiplier above 0")
        if not self.stages:
            raise ValueError("stages=(): give at least one stage")
        for stage in self.stages:
            if stage.channels < 1 or stage.stride not in (1, 2):
                raise ValueError(f"{stage}: give channels of at least 1, and a stride of 1 or 2")
        for name in ("depths", "kernels", "expansions"):
            values = getattr(self, name)
            if not values or min(values) < 1 or list(values) != sorted(set(values)):
                raise ValueError(f"{name}={values}: give rising numbers of at least 1")
        if any(size % 2 == 0 for size in self.kernels):
            raise ValueError(f"kernels={self.kernels}: give odd sizes, which have a centre")

    # What is chosen among.

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Channels of the stem, of the first block, and of the blocks of each stage."""
        channels = (*ENDS, *(stage.channels for stage in self.stages))
        return tuple(rounded(c * self.width) for c in channels)

    @property
    def most_blocks(self) -> tuple[int, ...]:
        """Blocks of each stage at its deepest."""
        return (*[self.depths[-1]] * (len(self.stages) - 1), 1)

    @property
    def num_blocks(self) -> int:
        """Blocks with a choice."""
        return sum(self.most_blocks)

    def decisions(self) -> Decisions:
        """Depths of the stages, kernel and expansion of each block, where there is a choice."""
        places = list(enumerate(self._places(), FIRST + 1))
        blocks = tuple(block for block, _ in places)
        firsts = tuple(block for block, (_, j) in places if j == 0)
        taken = {
            "depth": (self.depths, firsts[:-1]),
            "kernel": (self.kernels, blocks),
            "expansion": (self.expansions, blocks),
        }
        return {
            name: Decision("categorical", (values,) * len(places), places)
            for name, (values, places) in taken.items()
            if places and len(values) > 1
        }

    # From choices to networks.

    def network(self, choice: Choice, widths: Num[Array, " widths"] | None = None) -> Network:
        """The network a choice stands for; blocks and kernels that are not chosen are absent.

        Args:
            choice: ``depth`` [stages - 1, depths], ``kernel`` [blocks, kernels], ``expansion``
                [blocks, expansions]. Integer one-hot weights give exact int32 counts, float weights
                expectations; of decisions with one option nothing is given.
            widths: as of :attr:`widths`, in their place: traced, where spaces that differ in
                nothing else share a program.
        """
        given = self.widths if widths is None else tuple(widths)
        depth, kernel, expansion = (
            self._weights(choice, name) for name in ("depth", "kernel", "expansion")
        )
        blocks = []
        for i, (stage, j) in enumerate(self._places()):
            kept = 1
            if j >= self.depths[0]:
                deep = [d for d, most in enumerate(self.depths) if most > j]
                kept = jnp.sum(depth[stage, jnp.asarray(deep)])
            blocks.append(
                (
                    expansion[i] @ jnp.asarray(self.expansions, expansion.dtype),
                    tuple(zip(self.kernels, kernel[i], strict=True)),
                    kept,
                )
            )
        return self._build(given, blocks)

    def masks(self, choice: Choice) -> dict[str, jax.Array]:
        """For each expansion, which of its channels exist; for each depthwise convolution, which
        [rows, columns] of its kernel. Float weights give probabilities."""
        kernel, expansion = (self._weights(choice, name) for name in ("kernel", "expansion"))
        largest = self.kernels[-1]
        distance = np.abs(np.arange(largest) - largest // 2)
        ring = np.maximum.outer(distance, distance)  # of each position about the centre
        inside = ring <= np.asarray(self.kernels)[:, None, None] // 2
        found = {}
        for i, read in enumerate(self._reads()):
            block = f"block{i + 1 + FIRST}"
            grid = tuple(read * e for e in self.expansions)
            found[f"{block}_expand"] = mask_of(expansion[i], grid)
            found[depthwise_name(block, largest)] = jnp.tensordot(
                kernel[i], jnp.asarray(inside, kernel.dtype), 1
            )
        return found

    def decode(self, choice: Choice) -> Network:
        """The concrete network of the likeliest options: nothing in it is absent."""
        depth, kernel, expansion = (
            np.argmax(self._weights(choice, name), axis=-1)
            for name in ("depth", "kernel", "expansion")
        )
        return self._concrete(
            [*(self.depths[i] for i in depth), 1],
            [self.kernels[i] for i in kernel],
            [self.expansions[i] for i in expansion],
        )

    def member(
        self, depths: Sequence[int], kernels: Sequence[int], expansions: Sequence[int]
    ) -> Network:
        """The concrete network with these blocks; see :meth:`choice`."""
        return self.decode(self.choice(depths, kernels, expansions))

    def choice(
        self, depths: Sequence[int], kernels: Sequence[int], expansions: Sequence[int]
    ) -> Choice:
        """The int32 one-hot choice of these.

        Args:
            depths: blocks of each stage but the last.
            kernels: of each block that the depths keep, in order; those left out get the first.
            expansions: likewise.

        Raises:
            ValueError: what is not among the options, or the wrong number of it.
        """
        stages = len(self.stages) - 1
        if len(depths) != stages:
            raise ValueError(f"depths={tuple(depths)}: this space needs {stages}")
        kept = [j < (*depths, 1)[stage] for stage, j in self._places()]
        indices: dict[str, list[int]] = {
            "depth": [_index(depth, "depth", self.depths) for depth in depths]
        }
        for name, values, options in (
            ("kernel", kernels, self.kernels),
            ("expansion", expansions, self.expansions),
        ):
            if len(values) != sum(kept):
                raise ValueError(
                    f"{name}s={tuple(values)}: these depths need {sum(kept)}, one for each block"
                )
            rest = iter(values)
            indices[name] = [_index(next(rest), name, options) if k else 0 for k in kept]
        return {
            name: one_hot(indices[name], decision.shape[1])
            for name, decision in self.decisions().items()
        }

    def largest(self) -> Network:
        """Every depth, kernel and expansion at its maximum."""
        return self.decode(self.lightest()[-1])

    def lightest(self) -> list[Choice]:
        """The smallest of everything, which makes every cost least; then larger ones, all decisions
        alike, up to the largest.

        If the first does not meet a set of limits nothing does; the others make the best of limits
        that leave room.
        """
        shapes = {name: decision.shape for name, decision in self.decisions().items()}
        steps = max((options for _, options in shapes.values()), default=1)
        return [
            {
                name: one_hot([step * (options - 1) // max(steps - 1, 1)] * taken, options)
                for name, (taken, options) in shapes.items()
            }
            for step in range(steps)
        ]

    def supernetwork(self) -> Network:
        """The largest network with mixes of the blocks that may be left out: what a supernet
        computes, one depthwise convolution of the largest kernel in each block."""
        kernels = ((self.kernels[-1], 1),)
        blocks = [
            (self.expansions[-1], kernels, 1 if j < self.depths[0] else jnp.ones((), jnp.int32))
            for _, j in self._places()
        ]
        made = self._build(self.widths, blocks)
        return dataclasses.replace(
            made, layers=tuple(dataclasses.replace(layer, presence=1) for layer in made)
        )

    # Parts of these.

    def _places(self) -> list[tuple[int, int]]:
        """Of each block with a choice its stage and its number there, from 0."""
        return [(stage, j) for stage, most in enumerate(self.most_blocks) for j in range(most)]

    def _reads(self) -> list[int]:
        """Channels that each block with a choice reads."""
        return [self.widths[stage + (1 if j == 0 else 2)] for stage, j in self._places()]

    def _weights(self, choice: Choice, name: str) -> Array | np.ndarray:
        """Of a decision, also of one with a single option."""
        if name in choice:
            return choice[name]
        dtype = next((leaf.dtype for leaf in choice.values()), np.dtype(np.int32))
        count = len(self.stages) - 1 if name == "depth" else self.num_blocks
        return np.ones((count, 1), dtype)

    def _concrete(self, depths: list[int], kernels: list[int], expansions: list[int]) -> Network:
        kept = [int(j < depths[stage]) for stage, j in self._places()]
        rows = zip(expansions, kernels, kept, strict=True)
        return prune(self._build(self.widths, [(e, ((k, 1),), b) for e, k, b in rows]))

    def _build(
        self,
        widths: Sequence[Count],
        chosen: Sequence[tuple[Count, tuple[tuple[int, Count], ...], Count]],
    ) -> Network:
        """The network of these widths and, by block, expansion, kernels, presence."""
        blocks, read = [Block(None, widths[1])], widths[1]
        for (stage, j), (expansion, kernels, presence) in zip(self._places(), chosen, strict=True):
            made, stride = widths[stage + 2], self.stages[stage].stride if j == 0 else 1
            alike = (
                stride == 1 and self.widths[stage + 2] == self.widths[stage + (1 if j == 0 else 2)]
            )
            total = Sum(made, 0, 0) if alike else None
            blocks.append(Block(read * expansion, made, stride, total, kernels, presence))
            read = made
        return build(self.input_shape, self.num_classes, widths[0], blocks, None)


def _index(value: int, name: str, options: tuple[int, ...]) -> int:
    if value not in options:
        raise ValueError(f"{name} {value} is not one of {options}")
    return options.index(value)
