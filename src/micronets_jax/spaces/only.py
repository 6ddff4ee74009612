"""The space of a single network, without decisions.

Invariant: it has no decisions, so a run has nothing to search and begins with training.
"""

from __future__ import annotations

import dataclasses

import jax

from micronets_jax.decisions import Choice, Decisions
from micronets_jax.network import Network


@dataclasses.dataclass(frozen=True)
class Only:
    """A given network, published or found before, where a run wants a space.

    Attributes:
        member: concrete.
    """

    member: Network

    def decisions(self) -> Decisions:
        """None."""
        return {}

    def network(self, choice: Choice) -> Network:
        """The network, whatever the choice."""
        return self.member

    def masks(self, choice: Choice) -> dict[str, jax.Array]:
        """No masks."""
        return {}

    def decode(self, choice: Choice) -> Network:
        """The network, whatever the choice."""
        return self.member

    def supernetwork(self) -> Network:
        """The network is its own supernet."""
        return self.member

    def lightest(self) -> list[Choice]:
        """The one choice there is: none."""
        return [{}]
