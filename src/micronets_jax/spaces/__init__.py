"""Search spaces: each maps a choice to the network it stands for.

Invariant: a space is frozen data; the searches know it by :class:`Space` alone.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jax import Array

from micronets_jax.decisions import Choice, Decisions
from micronets_jax.network import Network
from micronets_jax.spaces.dense import Dense
from micronets_jax.spaces.dscnn import DSCNN
from micronets_jax.spaces.mcunet import MCUNet
from micronets_jax.spaces.mobilenet_v2 import MobileNetV2
from micronets_jax.spaces.only import Only

__all__ = ["DSCNN", "Dense", "MCUNet", "MobileNetV2", "Only", "Space"]


@runtime_checkable
class Space(Protocol):
    """What the searches ask of a search space.

    Hashable: what is compiled for a space is kept under it.
    """

    def decisions(self) -> Decisions:
        """What there is to decide. ``micronets_jax.decisions`` draws, mutates, crosses and counts
        members by this alone."""
        ...

    def network(self, choice: Choice) -> Network:
        """The expected or exact network of a choice, all that may be absent included."""
        ...

    def masks(self, choice: Choice) -> dict[str, Array]:
        """For each layer with a width decision, which of its channels exist; for each
        depthwise one with a kernel decision, which [rows, columns] of the largest kernel."""
        ...

    def decode(self, choice: Choice) -> Network:
        """The concrete network of a choice's likeliest options."""
        ...

    def supernetwork(self) -> Network:
        """The largest network, its skips and mixes included: what a supernet computes."""
        ...

    def lightest(self) -> list[Choice]:
        """Choices among which each cost is least, and all limits are met if any can."""
        ...
