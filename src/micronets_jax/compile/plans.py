"""Plans: which nodes stream and which compute whole tensors, by memory and instructions.

Invariant: every plan of the front computes the same bytes, and none is dominated: no other needs
both less memory and fewer instructions.

A plan cuts the nodes, in the order of the graph, into steps: single nodes on whole tensors, and
stretches that go row by row. What is alive at a cut is whole and depends on nothing but the cut, so
the front of (memory, instructions) follows by dynamic programming over cuts.
"""

from __future__ import annotations

import dataclasses
import functools

from micronets_jax import rows
from micronets_jax.compile import instructions, kernels, stream
from micronets_jax.compile.graph import Graph, Node
from micronets_jax.compile.kernels import Call
from micronets_jax.compile.rows import RowNode, by_rows
from micronets_jax.compile.stream import Stretch
from micronets_jax.rows import Cut, Operation, Steps
from micronets_jax.tflite import TFLiteError

Step = Call | Stretch

MAX_FRONT = 24
"""Most points of the Pareto front that are kept at every cut."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Cuts of a plan: (first node, node behind the last, whether it streams); with the largest
    bytes of any step and the predicted instructions of all."""

    cuts: tuple[Cut, ...]
    ram: int
    instructions: int


class Plans:
    """The plans of a graph.

    Args:
        pushed: the input comes row by row and is never whole.
        streams: whether anything may go row by row.

    Raises:
        TFLiteError: ``pushed`` of a graph that cannot take rows.
    """

    def __init__(self, graph: Graph, pushed: bool = False, streams: bool = True) -> None:
        self.graph = graph
        self.nodes = list(graph.nodes)
        self.rows = [by_rows(graph, n) if streams else None for n in self.nodes]
        if pushed:
            source = _push(graph, self.rows)
            self.nodes.insert(0, source.node)
            self.rows.insert(0, source)
        self.pushed = pushed
        self.calls = [[] if n.kind == "push" else kernels.lower_node(graph, n) for n in self.nodes]

        def in_arena(reader: Node | Call) -> tuple[int, ...]:
            return tuple(t for t in reader.inputs if graph.values[t].in_arena)

        operations = [
            Operation(
                n.output,
                in_arena(n),
                tuple(rows.Call(c.scratch, in_arena(c), c.output, c.orders) for c in calls),
                node,
                stream.scratch_bytes(graph, node) if node else 0,
                stream.sum_bytes(node) if node else 0,
            )
            for n, calls, node in zip(self.nodes, self.calls, self.rows, strict=True)
        ]
        arena = {*graph.inputs, *(n.output for n in self.nodes)}
        sizes = {t: graph.values[t].bytes for t in sorted(arena) if graph.values[t].in_arena}
        names = {t: graph.values[t].name for t in sizes}
        self.steps = Steps(operations, sizes, set(graph.outputs), names)
        self.stretches: dict[tuple[int, int], Stretch] = {}

    @functools.cached_property
    def _instructions(self) -> tuple[list[int], list[int]]:
        """Of every node on whole tensors; of all nodes before each by rows."""
        whole = [sum(map(instructions.of_call, calls)) for calls in self.calls]
        by_rows = [0]
        for node, calls in zip(self.rows, self.calls, strict=True):
            cost = instructions.of_rows(node, calls[0] if calls else None) if node else 0
            by_rows.append(by_rows[-1] + cost)
        return whole, by_rows

    def _cost(self, step: rows.Step) -> int:
        whole, by_rows = self._instructions
        return by_rows[step.end] - by_rows[step.begin] if step.streams else whole[step.begin]

    def front(self) -> list[Candidate]:
        """Plans by growing memory and falling instructions, as estimated before tensors are laid
        out."""
        fronts: list[list[Candidate]] = [[Candidate((), 0, 0)]]
        for end in range(1, len(self.nodes) + 1):
            reached = [
                Candidate(
                    (*before.cuts, step[:3]),
                    max(before.ram, step.bytes),
                    before.instructions + self._cost(step),
                )
                for step in self.steps.ending[end]
                for before in fronts[step.begin]
            ]
            fronts.append(_thin(_best(reached)))
        return fronts[-1]

    def least(self) -> list[Candidate]:
        """Plans of least memory, including the offsets of outputs that overwrite inputs."""
        ram, choices = self.steps.least()
        return [
            Candidate(tuple(s[:3] for s in steps), ram, sum(map(self._cost, steps)))
            for steps in choices
        ]

    def tightest(self, candidate: Candidate) -> str:
        """The layers whose memory is the plan's, in words."""

        def needed(cut: Cut) -> int:
            return next(s.bytes for s in self.steps.ending[cut[1]] if s[:3] == cut)

        begin, end, _ = max(candidate.cuts, key=needed)
        first, last = self.nodes[begin], self.nodes[end - 1]
        text = f"{first.kind} {first.name}"
        return text if begin == end - 1 else f"the rows from {text} to {last.kind} {last.name}"

    def build(self, candidate: Candidate) -> tuple[list[Step], list[Call]]:
        """The steps of a plan and the calls of all layers, in order."""
        steps: list[Step] = []
        layers: list[Call] = []
        for begin, end, streams in candidate.cuts:
            if streams:
                step = self._stretch(begin, end)
                steps.append(step)
                layers += [call for call in step.layers if call is not None]
            else:
                steps += self.calls[begin]
                layers += self.calls[begin]
        return steps, layers

    def _stretch(self, begin: int, end: int) -> Stretch:
        if (begin, end) not in self.stretches:
            _, order = self.steps.orders[end]
            nodes = [n for n in self.rows[begin:end] if n]
            lines = self.steps.lines(begin, end)
            self.stretches[begin, end] = stream.stretch(self.graph, nodes, order, lines)
        return self.stretches[begin, end]


def _best(candidates: list[Candidate]) -> list[Candidate]:
    """The Pareto-optimal ones, by growing memory."""
    found: list[Candidate] = []
    for c in sorted(candidates, key=lambda c: (c.ram, c.instructions, len(c.cuts))):
        if not found or c.instructions < found[-1].instructions:
            found.append(c)
    return found


def _thin(front: list[Candidate]) -> list[Candidate]:
    """At most MAX_FRONT points: both ends, and between them those nearest to even steps."""
    if len(front) <= MAX_FRONT:
        return front
    wanted = [round(i * (len(front) - 1) / (MAX_FRONT - 1)) for i in range(MAX_FRONT)]
    return [front[i] for i in sorted(set(wanted))]


def _push(graph: Graph, nodes: list[RowNode | None]) -> RowNode:
    """Rows of the input as a node that makes them."""
    if graph.states:
        raise TFLiteError("--input rows takes models without state; compile it with --input whole")
    if len(graph.inputs) != 1:
        raise TFLiteError(f"--input rows takes models of one input; this has {len(graph.inputs)}")
    source = graph.inputs[0]
    value, whole = graph.values[source], "compile it with --input whole"
    for node, node_rows in zip(graph.nodes, nodes, strict=True):
        if source not in node.inputs:
            continue
        if node_rows is None:
            raise TFLiteError(
                f"--input rows: operator {node.operator} ({node.kind} {node.name}) reads the input "
                f"whole, all {value.bytes} bytes of it; {whole}"
            )
        read = next(r for r in node_rows.reads if r.tensor == source)
        node = Node("push", [], source, {}, -1, value.name)
        row = value.bytes // read.rows
        return RowNode(source, (), read.rows, read.rows, row, node=node)
    raise TFLiteError(f"--input rows: no operator reads the input; {whole}")
