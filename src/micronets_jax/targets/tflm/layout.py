"""The memory of a network over time, as TFLM's planner lays it out.

Invariant: the highest end of any block is the arena's head that ``planner`` predicts.
"""

from __future__ import annotations

from micronets_jax.memory import Block, Step, operators
from micronets_jax.network import Network, prune
from micronets_jax.targets.tflm.planner import buffers, place


def timeline(network: Network, scratch: bool = True) -> tuple[Step, ...]:
    """What lies where while each operator of a decided network runs."""
    network = prune(network)
    listed = buffers(network, scratch)
    blocks = [
        Block(b.name, start, b.bytes, b.first, b.last)
        for b, start in zip(listed, place(listed), strict=True)
    ]
    return tuple(
        Step(
            operator.layer.name,
            operator.kind,
            tuple(block for block in blocks if block.first <= i <= block.last),
        )
        for i, operator in enumerate(operators(network))
    )
