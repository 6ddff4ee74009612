"""Bit widths of layers, set for a network or for all members of a space.

Invariant: nothing but bits changes, so choices and weights fit with and without them.
"""

from __future__ import annotations

import dataclasses

from jax import Array

from micronets_jax.decisions import Choice, Decisions
from micronets_jax.network import INPUT, Layer, Network
from micronets_jax.recipes import Bits
from micronets_jax.spaces import Space


def with_bits(network: Network, bits: Bits) -> Network:
    """The network with the bits of each layer set by what it computes.

    Only what TensorFlow Lite Micro runs: dense layers keep 8-bit weights, and layers without a ReLU
    8-bit activations.
    """

    def weight_bits(layer: Layer) -> int:
        first = bits.depthwise if network.input_shape[2] == 1 else bits.weights
        conv = first if layer.inputs == (INPUT,) else bits.weights
        return {"conv": conv, "depthwise": bits.depthwise}.get(layer.kind, 8)

    layers = tuple(
        dataclasses.replace(
            layer,
            weight_bits=weight_bits(layer),
            activation_bits=8 if layer.activation == "linear" else bits.activations,
        )
        for layer in network
    )
    return dataclasses.replace(network, layers=layers)


@dataclasses.dataclass(frozen=True)
class WithBits:
    """A space whose members all have these bits, so that a search prices and simulates them."""

    space: Space
    bits: Bits

    def decisions(self) -> Decisions:
        """Of the space."""
        return self.space.decisions()

    def network(self, choice: Choice) -> Network:
        """Of the space, with bits."""
        return with_bits(self.space.network(choice), self.bits)

    def masks(self, choice: Choice) -> dict[str, Array]:
        """Of the space."""
        return self.space.masks(choice)

    def decode(self, choice: Choice) -> Network:
        """Of the space, with bits."""
        return with_bits(self.space.decode(choice), self.bits)

    def supernetwork(self) -> Network:
        """Of the space, with bits."""
        return with_bits(self.space.supernetwork(), self.bits)

    def lightest(self) -> list[Choice]:
        """Of the space."""
        return self.space.lightest()
