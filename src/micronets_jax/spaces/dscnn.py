"""Depthwise-separable networks (DS-CNN): stem, blocks that may be left out, pooling, dense.

Invariant: one builder makes every member, from Python ints (a concrete network), from int32 (exact
inside ``jit``) or from float weights (expectations), so that no cost can tell them apart.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import numpy as np

from micronets_jax.decisions import Choice, Decision, Decisions
from micronets_jax.network import INPUT, Count, Layer, Network, prune
from micronets_jax.spaces.widths import Grid, fine_grid, index_of, mask_of, one_hot, width_grid


@dataclasses.dataclass(frozen=True)
class DSCNN:
    """The enlarged DS-CNN of MicroNets (Banbury et al., 2021, section 5.2.2).

    Decisions: ``width``, the output channels of the stem and of each block, and ``keep``, whether
    a block stays (option 0) or its parallel skip takes its place (option 1). The skip averages
    where the block downsamples.

    Attributes:
        input_shape: rows, columns, channels of one input.
        num_classes: outputs of the dense layer.
        max_width: no layer has more channels.
        stem_kernel: rows and columns of the first convolution.
        strides: one stride per block; their number is the depth. Maps of one column keep it.
        grid: the widths there are: fine, or the paper's tenths of the largest.
        stem_stride: rows and columns of the first convolution's.
        kernel: rows and columns of the depthwise convolutions. With a stem as wide as the input and
            one column, all convolve along time alone (Choi et al., "Temporal Convolution for
            Real-time Keyword Spotting on Mobile Devices", Interspeech 2019).
    """

    input_shape: tuple[int, int, int] = (49, 10, 1)
    num_classes: int = 12
    max_width: int = 276
    stem_kernel: tuple[int, int] = (10, 4)
    strides: tuple[int, ...] = (2, 1, 1, 1, 1, 1, 1, 1, 1)
    grid: Grid = "fine"
    stem_stride: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (3, 3)

    def __post_init__(self) -> None:
        assert self.widths  # raises where there is no such grid
        if self.num_classes < 1:
            raise ValueError(f"num_classes={self.num_classes}: give at least 1 output")
        if not self.strides or any(s not in (1, 2) for s in self.strides):
            raise ValueError(
                f"strides={self.strides}: give one 1 or 2 per block, at least one block"
            )
        if min(self.input_shape) < 1:
            raise ValueError(f"input_shape={self.input_shape}: every side must be at least 1")
        if min(*self.stem_kernel, *self.stem_stride, *self.kernel) < 1:
            raise ValueError(
                f"stem_kernel={self.stem_kernel}, stem_stride={self.stem_stride}, "
                f"kernel={self.kernel}: give at least 1"
            )

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """The channel counts that every width decision chooses from."""
        return {"fine": fine_grid, "tenths": width_grid}[self.grid](self.max_width)

    @property
    def num_blocks(self) -> int:
        """Blocks before any is left out."""
        return len(self.strides)

    def decisions(self) -> Decisions:
        """Widths of the stem and of each block, then which blocks stay."""
        blocks = tuple(range(1, self.num_blocks + 1))
        return {
            "width": Decision("width", (self.widths,) * (self.num_blocks + 1), (0, *blocks)),
            "keep": Decision("binary", ((1, 0),) * self.num_blocks, blocks),
        }

    def network(self, choice: Choice) -> Network:
        """The network a choice stands for, skips included.

        Args:
            choice: ``width`` [blocks + 1, widths] and ``keep`` [blocks, 2]. Integer one-hot
                weights give exact int32 counts, float weights give expectations.
        """
        width, keep = (decision.value(choice[name]) for name, decision in self.decisions().items())
        return self._build(list(width), list(keep))

    def masks(self, choice: Choice) -> dict[str, jax.Array]:
        """For each convolution with a width decision, which of its channels exist.

        Float weights give the probability that a channel exists.
        """
        names = ["stem", *(f"block{i}_pointwise" for i in range(1, self.num_blocks + 1))]
        return {name: mask_of(choice["width"][i], self.widths) for i, name in enumerate(names)}

    def decode(self, choice: Choice) -> Network:
        """The concrete network of the likeliest options: Python ints, no mixes, nothing absent."""
        width = np.argmax(np.asarray(choice["width"]), axis=-1)
        keep = np.argmax(np.asarray(choice["keep"]), axis=-1) == 0
        return prune(self._build([self.widths[i] for i in width], [int(k) for k in keep]))

    def member(self, widths: Sequence[int], keep: Sequence[bool]) -> Network:
        """The concrete network with these widths (stem first) and these blocks kept."""
        return self.decode(self.choice(widths, keep))

    def choice(self, widths: Sequence[int], keep: Sequence[bool]) -> Choice:
        """The int32 one-hot choice with these widths (stem first) and these blocks kept.

        Raises:
            ValueError: a width that is not in :attr:`widths`, or the wrong number of decisions.
        """
        if len(widths) != self.num_blocks + 1 or len(keep) != self.num_blocks:
            raise ValueError(
                f"got {len(widths)} widths and {len(keep)} keeps; "
                f"this space needs {self.num_blocks + 1} and {self.num_blocks}"
            )
        return {
            "width": one_hot([index_of(w, self.widths) for w in widths], len(self.widths)),
            "keep": one_hot([0 if k else 1 for k in keep], 2),
        }

    def largest(self) -> Network:
        """Every width at its maximum, every block kept."""
        return self.member([self.widths[-1]] * (self.num_blocks + 1), [True] * self.num_blocks)

    def lightest(self) -> list[Choice]:
        """Every combination of blocks at the smallest widths.

        For each combination the smallest widths make every cost least, so the least of each cost in
        the space is among these, and if none of them meets a set of limits, nothing does.
        """
        widths = [self.widths[0]] * (self.num_blocks + 1)
        combinations = itertools.product([True, False], repeat=self.num_blocks)
        return [self.choice(widths, keep) for keep in combinations]

    def supernetwork(self) -> Network:
        """The largest network with its skips and mixes still in it: what a supernet computes."""
        return self._build([self.widths[-1]] * (self.num_blocks + 1), [1] * self.num_blocks)

    def _build(self, widths: list[Count], keeps: list[Count]) -> Network:
        layers = [
            Layer(
                "stem",
                "conv",
                (INPUT,),
                self.input_shape[2],
                widths[0],
                self.stem_kernel,
                self.stem_stride,
                activation="relu",
            )
        ]
        rows, columns = _strided(self.input_shape[:2], self.stem_stride)
        tensor, channels = "stem", widths[0]
        for i, (stride, width, keep) in enumerate(
            zip(self.strides, widths[1:], keeps, strict=True), 1
        ):
            block, steps = f"block{i}", (stride, stride if columns > 1 else 1)
            depthwise = Layer(
                f"{block}_depthwise",
                "depthwise",
                (tensor,),
                channels,
                channels,
                self.kernel,
                steps,
                activation="relu",
                presence=keep,
            )
            pointwise = Layer(
                f"{block}_pointwise",
                "conv",
                (depthwise.name,),
                channels,
                width,
                activation="relu",
                presence=keep,
            )
            layers += [depthwise, pointwise]
            skip = tensor
            if stride > 1:
                skip = f"{block}_skip"
                layers.append(
                    Layer(
                        skip,
                        "avg_pool",
                        (tensor,),
                        channels,
                        channels,
                        steps,
                        steps,
                        presence=1 - keep,
                    )
                )
            mixed = keep * width + (1 - keep) * channels
            layers.append(Layer(f"{block}_mix", "mix", (pointwise.name, skip), mixed, mixed))
            tensor, channels = f"{block}_mix", mixed
            rows, columns = _strided((rows, columns), steps)
        pool = (rows, columns)
        layers += [
            Layer("pool", "avg_pool", (tensor,), channels, channels, pool, pool, "VALID"),
            Layer("flatten", "reshape", ("pool",), channels, channels),
            Layer("logits", "dense", ("flatten",), channels, self.num_classes),
        ]
        return Network(self.input_shape, tuple(layers))


def _strided(size: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of what a padded kernel makes."""
    return -(-size[0] // stride[0]), -(-size[1] // stride[1])
