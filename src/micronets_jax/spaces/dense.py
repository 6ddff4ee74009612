"""Networks of dense layers: perceptrons, and autoencoders with a narrow layer in the middle.

Invariant: one builder makes every member, from Python ints (a concrete network), from int32 (exact
inside ``jit``) or from float weights (expectations), so that no cost can tell them apart.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import numpy as np

from micronets_jax.decisions import Choice, Decision, Decisions
from micronets_jax.network import INPUT, Count, Layer, Network
from micronets_jax.spaces.widths import fine_grid, index_of, mask_of, one_hot


@dataclasses.dataclass(frozen=True)
class Dense:
    """Dense layers with batch norm and ReLU, and a last one that is linear.

    The defaults are the autoencoder of the anomaly detector of MLPerf Tiny (Banbury et al., 2021):
    640 inputs, four layers of 128, one of 8, four of 128, 640 outputs.

    Decisions: ``width``, of each layer but the last and the narrow one; ``bottleneck``, the width
    of the narrow one, where there is one.

    Attributes:
        input_shape: rows, columns, channels of one input, which is read as one vector.
        outputs: of the last layer.
        max_width: no layer but the last has more channels.
        depth: layers before the narrow one, and as many after it; all but the last without one.
        bottleneck: most channels of the narrow layer; 0 leaves it out.
    """

    input_shape: tuple[int, int, int] = (128, 5, 1)
    outputs: int = 640
    max_width: int = 128
    depth: int = 4
    bottleneck: int = 8

    def __post_init__(self) -> None:
        assert self.widths  # raises where there is no such grid
        if self.outputs < 1 or min(self.input_shape) < 1 or self.depth < 1:
            raise ValueError(
                f"outputs={self.outputs}, input_shape={self.input_shape}, depth={self.depth}: "
                "give at least 1 of each"
            )
        if self.bottleneck and self.bottleneck < 2:
            raise ValueError(f"bottleneck={self.bottleneck}: give at least 2, or 0 for none")

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """The channel counts that every width decision chooses from."""
        return fine_grid(self.max_width)

    @functools.cached_property
    def narrow(self) -> tuple[int, ...]:
        """The channel counts of the narrow layer: even ones; none without one."""
        return tuple(range(2, self.bottleneck + 1, 2))

    @property
    def num_widths(self) -> int:
        """Layers whose width is decided, but for the narrow one."""
        return 2 * self.depth if self.bottleneck else self.depth

    def decisions(self) -> Decisions:
        """Widths in order of depth, then that of the narrow layer."""
        behind = self.depth + bool(self.bottleneck)
        places = (*range(self.depth), *range(behind, behind + self.num_widths - self.depth))
        taken = {"width": Decision("width", (self.widths,) * self.num_widths, places)}
        if self.bottleneck:
            taken["bottleneck"] = Decision("width", (self.narrow,), (self.depth,))
        return taken

    def network(self, choice: Choice) -> Network:
        """The network a choice stands for.

        Args:
            choice: ``width`` [layers, widths] and ``bottleneck`` [1, widths]. Integer one-hot
                weights give exact int32 counts, float weights give expectations.
        """
        decisions = self.decisions()
        values = {name: list(decisions[name].value(choice[name])) for name in decisions}
        return self._build(values["width"], values.get("bottleneck", []))

    def masks(self, choice: Choice) -> dict[str, jax.Array]:
        """For each layer with a width decision, which of its channels exist.

        Float weights give the probability that a channel exists.
        """
        rows = [(choice["width"][i], self.widths) for i in range(self.num_widths)]
        if self.bottleneck:
            rows.insert(self.depth, (choice["bottleneck"][0], self.narrow))
        return {f"dense{i}": mask_of(row, grid) for i, (row, grid) in enumerate(rows, 1)}

    def decode(self, choice: Choice) -> Network:
        """The concrete network of the likeliest options, in Python ints."""
        at = {name: np.argmax(np.asarray(leaf), axis=-1) for name, leaf in choice.items()}
        narrow = [self.narrow[i] for i in at["bottleneck"]] if self.bottleneck else []
        return self._build([self.widths[i] for i in at["width"]], narrow)

    def choice(self, widths: Sequence[int], bottleneck: int | None = None) -> Choice:
        """The int32 one-hot choice with these widths, and this one of the narrow layer.

        Raises:
            ValueError: a width that is not offered, or the wrong number of them.
        """
        if len(widths) != self.num_widths:
            raise ValueError(f"got {len(widths)} widths; this space needs {self.num_widths}")
        found = {"width": one_hot([index_of(w, self.widths) for w in widths], len(self.widths))}
        if self.bottleneck:
            narrow = self.narrow[-1] if bottleneck is None else bottleneck
            found["bottleneck"] = one_hot([index_of(narrow, self.narrow)], len(self.narrow))
        return found

    def largest(self) -> Network:
        """Every width at its maximum."""
        return self.decode(self.choice([self.widths[-1]] * self.num_widths))

    def lightest(self) -> list[Choice]:
        """Every width at its minimum: the least of every cost."""
        narrow = self.narrow[0] if self.bottleneck else None
        return [self.choice([self.widths[0]] * self.num_widths, narrow)]

    def supernetwork(self) -> Network:
        """The largest network."""
        return self.largest()

    def _build(self, widths: Sequence[Count], narrow: Sequence[Count]) -> Network:
        hidden = [*widths[: self.depth], *narrow, *widths[self.depth :]]
        channels: Count = math.prod(self.input_shape)
        layers = [Layer("flatten", "reshape", (INPUT,), self.input_shape[2], channels)]
        for i, width in enumerate(hidden, 1):
            reads = layers[-1].name
            layers.append(Layer(f"dense{i}", "dense", (reads,), channels, width, activation="relu"))
            channels = width
        layers.append(Layer("outputs", "dense", (layers[-1].name,), channels, self.outputs))
        return Network(self.input_shape, tuple(layers))
