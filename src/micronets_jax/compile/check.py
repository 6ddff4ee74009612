"""The checker: what every call of a plan touches in the arena, from the tables that are emitted.

Invariant: it shares no code with the search. It follows addresses alone, call by call, as the C
does, and knows of rows and rings only what their tables say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from micronets_jax.compile.graph import Graph
from micronets_jax.compile.kernels import Call
from micronets_jax.compile.stream import Stretch, sources_of

Range = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Access:
    """One call, as bytes of the arena.

    Attributes:
        layer: its place among the layers, -1 for a row that is pushed.
        reads: (tensor, row or -1 for all rows, first byte, byte behind the last). Sums that wait
            from call to call count as a tensor of their own, a negative one.
        writes: likewise.
        scratch: what it leaves undefined.
        whole: whether it computes a whole tensor; then the planner has proved from the order of its
            reads and writes what they may share.
    """

    layer: int
    reads: list[tuple[int, int, int, int]]
    writes: list[tuple[int, int, int, int]]
    scratch: list[Range]
    whole: bool = False


def accesses(
    graph: Graph, steps: list[Call | Stretch], addresses: dict[int, int], places: list[list[int]]
) -> Iterator[Access]:
    """Every call of every step, in order.

    Args:
        graph: the model.
        steps: of the plan.
        addresses: tensor that is whole at some time -> first byte in the arena.
        places: first bytes of every step's local buffers.

    Yields:
        What each reads, writes and spoils, in bytes of the arena.
    """
    size = {t: v.bytes for t, v in graph.values.items()}
    layer = 0
    for step, local in zip(steps, places, strict=True):
        if isinstance(step, Call):
            reads = [
                (t, -1, addresses[t], addresses[t] + size[t])
                for t in step.inputs
                if graph.values[t].in_arena
            ]
            scratch = [(a, a + n) for a, (_, n) in zip(local, step.local, strict=True)]
            writes = [
                (t, -1, addresses[t], addresses[t] + size[t])
                for t in step.outputs
                if graph.values[t].in_arena
            ]
            yield Access(layer, reads + writes * step.continues, writes, scratch, whole=True)
            layer += 1
            continue
        where = step.places(addresses, local)
        buffers = [(a, a + n) for a, (_, n) in zip(local, step.local, strict=True)]
        sums = dict(
            zip(
                (i for i, n in enumerate(step.nodes) if n.accumulates),
                buffers[len(step.rings) :],
                strict=False,
            )
        )
        scratch = buffers[len(step.rings) + len(sums) :]
        first = layer - int(step.pushed)
        for calls, times in step.loops:
            for time in range(times):
                for op, row, increment in calls:
                    node, call = step.nodes[op], row + time * increment
                    reads = []
                    for source in sources_of(node):
                        if graph.values[source.tensor].data is not None:
                            continue
                        place = where[source.tensor]
                        top = call * source.stride - source.pad
                        wanted = (
                            [source.map[call]]
                            if source.map
                            else [top + k * source.dilation for k in range(source.taps)]
                        )
                        for y in wanted:
                            if 0 <= y < source.rows:
                                at = place.offset + y % place.depth * place.pitch
                                reads.append((source.tensor, y, at, at + place.pitch))
                    place = where[node.node.output]
                    made = 0 if node.accumulates else call
                    at = place.offset + made % place.depth * place.pitch
                    done = not node.accumulates or call == node.calls - 1
                    writes = [(node.node.output, made, at, at + place.pitch)] if done else []
                    if op in sums:
                        waiting = (-2 - op, -1, *sums[op])
                        reads += [waiting] * (call > 0)
                        writes.append(waiting)
                    yield Access(first + op if step.layers[op] else -1, reads, writes, scratch)
        layer += len(step.nodes) - int(step.pushed)


def prove(graph: Graph, calls: list[Access], peak: int, addresses: dict[int, int]) -> None:
    """Every read finds the bytes that were written for it.

    Args:
        graph: the model.
        calls: as :func:`accesses` gives them.
        peak: bytes of the arena.
        addresses: tensor that is whole at some time -> first byte in the arena.

    Raises:
        AssertionError: one does not (a fault of the compiler, never of the model).
    """
    row_bytes = {t: e - b for c in calls for t, row, b, e in (*c.reads, *c.writes) if row >= 0}
    # what lies at each byte: a tensor, and which byte of it
    tensor, byte = np.full(peak, -1), np.zeros(peak, np.int64)

    def bytes_of(t: int, row: int, begin: int, end: int) -> np.ndarray:
        return np.arange(end - begin) + max(row, 0) * row_bytes.get(t, 0)

    def write(t: int, row: int, begin: int, end: int) -> None:
        assert begin >= 0 and end <= peak, f"tensor {t} is written outside of the arena"
        tensor[begin:end], byte[begin:end] = t, bytes_of(t, row, begin, end)

    for t in graph.inputs:
        if t in addresses:
            write(t, -1, addresses[t], addresses[t] + graph.values[t].bytes)
    for index, call in enumerate(calls):
        who = f"call {index}, of layer {call.layer},"
        for read in call.reads:
            t, row, begin, end = read
            there = (tensor[begin:end] == t) & (byte[begin:end] == bytes_of(*read))
            assert there.all(), f"{who} does not find row {row} of tensor {t}"
        touched = [(b, e) for _, _, b, e in call.writes] + call.scratch
        for i, (begin, end) in enumerate(touched):
            for low, high in touched[i + 1 :]:
                assert end <= low or high <= begin, f"{who} writes two things to one place"
            for t, _, low, high in call.reads:
                # element by element, or sums: at one address; else not at all
                safe = end <= low or high <= begin or (begin, end) == (low, high)
                assert safe or call.whole, f"{who} overwrites tensor {t} while it reads"
        for begin, end in call.scratch:
            assert begin >= 0 and end <= peak, f"{who} has scratch outside of the arena"
            tensor[begin:end] = -1
        for written in call.writes:
            write(*written)
    for t in graph.outputs:
        at = addresses[t]
        assert (tensor[at : at + graph.values[t].bytes] == t).all(), f"output {t} is overwritten"


def dead_ranges(calls: list[Access], peak: int, kept: list[Range]) -> list[list[Range]]:
    """Dead bytes before the first call and after each: never read again before they are written.
    ``kept`` are alive after the last."""
    alive = np.zeros(peak, bool)
    for begin, end in kept:
        alive[begin:end] = True
    found = [_ranges(~alive)]
    for call in reversed(calls):
        for _, _, begin, end in call.writes:
            alive[begin:end] = False
        for begin, end in call.scratch:
            alive[begin:end] = False
        for _, _, begin, end in call.reads:
            alive[begin:end] = True
        found.append(_ranges(~alive))
    return found[::-1]


def _ranges(flags: np.ndarray) -> list[Range]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
