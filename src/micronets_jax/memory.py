"""Where tensors lie in the arena, and when.

Invariant: blocks that live at the same time do not overlap, and their highest end is exactly the
activation part that ``cost.arena`` counts.
"""

from __future__ import annotations

import dataclasses

from micronets_jax import cost
from micronets_jax.network import Network, prune


@dataclasses.dataclass(frozen=True)
class Block:
    """A tensor, or a kernel's scratch, in the arena.

    Attributes:
        name: the layer that made the tensor, ``"input"``, or ``"<layer> scratch"``.
        start: first byte.
        bytes: length, padded to 16.
        first: index of the operator that makes it.
        last: index of the last operator that reads it.
    """

    name: str
    start: int
    bytes: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Step:
    """An operator that runs: the layer's name, TFLite's kind, and the blocks alive meanwhile."""

    name: str
    kind: str
    live: tuple[Block, ...]

    @property
    def live_bytes(self) -> int:
        """Bytes of all blocks alive, gaps between them not counted."""
        return sum(block.bytes for block in self.live)


def timeline(network: Network, runtime: str = "tflm_cortex_m") -> tuple[Step, ...]:
    """What lies where while each operator of a decided network runs.

    Raises:
        ValueError: ``runtime`` has no planner.
    """
    model = cost.RUNTIMES.get(runtime)
    if model is None:
        planned = ", ".join(name for name, known in cost.RUNTIMES.items() if known)
        raise ValueError(f"runtime={runtime!r} plans no memory; use one of {planned}")
    network = prune(network)
    buffers = cost.buffers(network, model)
    blocks = [
        Block(b.name, start, b.bytes, b.first, b.last)
        for b, start in zip(buffers, cost.place(buffers), strict=True)
    ]
    return tuple(
        Step(
            operator.layer.name,
            operator.kind,
            tuple(block for block in blocks if block.first <= i <= block.last),
        )
        for i, operator in enumerate(cost.operators(network))
    )
