"""The memory of a network over time, as the compiler's planner lays it out.

Invariant: calls are on whole tensors, and addresses those of the compiler's planner.
"""

from __future__ import annotations

from micronets_jax import memory, planner
from micronets_jax.memory import Block, Step
from micronets_jax.network import Network, output_sizes, prune, window
from micronets_jax.targets.compiled.memory import access


def timeline(network: Network) -> tuple[Step, ...]:
    """What lies where while each call of a decided network runs."""
    network = prune(network)
    sizes, listed = output_sizes(network), memory.operators(network, reshapes=False)
    tensors = memory.tensors_of(network, listed)
    place = {tensor.name: i for i, tensor in enumerate(tensors)}
    buffers = [planner.Buffer(t.name, t.bytes, t.first, t.last) for t in tensors]
    sharings = []
    for i, operator in enumerate(listed):
        name = operator.layer.name
        scratch, order = access(operator, window(operator.layer, sizes))
        if scratch:
            buffers.append(planner.Buffer(f"{name} scratch", scratch, i, i))
        for source in dict.fromkeys(operator.reads):
            if order is not None and tensors[place[source]].last == i:
                sharings.append(planner.share(place[source], place[name], i, order))
    plan = planner.plan(buffers, sharings)
    blocks = [
        Block(b.name, at, b.size, b.first, b.last)
        for b, at in zip(plan.buffers, plan.addresses, strict=True)
    ]
    return tuple(
        Step(o.layer.name, o.kind, tuple(b for b in blocks if b.first <= i <= b.last))
        for i, o in enumerate(listed)
    )
