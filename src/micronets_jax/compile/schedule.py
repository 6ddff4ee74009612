"""The order of operations: where the graph branches, the one that keeps least alive at once.

Invariant: an order returned here respects every dependency, and is the file's own unless another is
estimated to need less memory.
"""

from __future__ import annotations

import heapq

from micronets_jax.compile.graph import Graph, Node

# These can lay their output over a dying input.
_SHARING = frozenset(
    [
        "conv",
        "depthwise",
        "average_pool",
        "max_pool",
        "add",
        "mul",
        "table",
        "softmax",
        "quantize",
        "dequantize",
    ]
)


def best_order(graph: Graph, states: int = 3000) -> list[Node]:
    """Nodes in the order of the smallest estimated peak.

    A best-first search over sets of finished nodes (the live tensors depend on nothing else), by
    the largest step so far; it gives up after ``states`` sets and keeps the file's order.
    """
    nodes = graph.nodes
    states = min(states, 10_000_000 // max(1, len(nodes)) ** 2)
    producer = {node.output: i for i, node in enumerate(nodes)}
    runtime = [[t for t in dict.fromkeys(n.inputs) if graph.values[t].data is None] for n in nodes]
    needs = [sum(1 << producer[t] for t in inputs if t in producer) for inputs in runtime]
    readers: dict[int, int] = {}
    for i, inputs in enumerate(runtime):
        for tensor in inputs:
            readers[tensor] = readers.get(tensor, 0) | 1 << i
    kept = set(graph.outputs)
    size = {t: v.bytes for t, v in graph.values.items()}
    everything = (1 << len(nodes)) - 1

    def live(done: int) -> set[int]:
        tensors = [t for i, t in enumerate(n.output for n in nodes) if done >> i & 1]
        return {t for t in [*graph.inputs, *tensors] if t in kept or readers.get(t, 0) & ~done}

    def step_bytes(i: int, done: int, before: set[int]) -> int:
        output = nodes[i].output
        total = sum(size[t] for t in before) + size[output]
        dying = [t for t in runtime[i] if t not in kept and not readers[t] & ~(done | 1 << i)]
        if dying and nodes[i].kind in _SHARING:
            total -= min(max(size[t] for t in dying), size[output])
        return total

    own, done = 0, 0
    for i in range(len(nodes)):
        own = max(own, step_bytes(i, done, live(done)))
        done |= 1 << i
    # at equal peak more finished nodes first, then the file's order: chains cost one state a node
    queue: list[tuple[int, int, tuple[int, ...], int]] = [(0, 0, (), 0)]
    seen: set[int] = set()
    while queue and len(seen) < states:
        peak, _, order, done = heapq.heappop(queue)
        if peak >= own:
            break
        if done == everything:
            return [nodes[i] for i in order]
        if done in seen:
            continue
        seen.add(done)
        before = live(done)
        for i in range(len(nodes)):
            if not done >> i & 1 and not needs[i] & ~done:
                reached = max(peak, step_bytes(i, done, before))
                heapq.heappush(queue, (reached, -len(order) - 1, (*order, i), done | 1 << i))
    return list(nodes)
