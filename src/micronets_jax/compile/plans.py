"""Plans: which nodes stream and which compute whole tensors, by memory and instructions.

Invariant: every plan of the front computes the same bytes, and none of them needs both more memory
and more instructions than another.

A plan cuts the nodes, in the order of the graph, into steps: single nodes on whole tensors, and
stretches that go row by row. What is alive at a cut is whole and depends on nothing but the cut, so
the front of (memory, instructions) follows by dynamic programming over cuts.
"""

from __future__ import annotations

import dataclasses

from micronets_jax.compile import instructions, kernels, rows, stream
from micronets_jax.compile.graph import Graph, Node
from micronets_jax.compile.kernels import Call
from micronets_jax.compile.rows import RowNode
from micronets_jax.compile.stream import Stretch
from micronets_jax.tflite import TFLiteError

Step = Call | Stretch

MAX_FRONT = 24
"""Points of the front that are kept at every cut."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Cuts of a plan: (first node, node behind the last, whether it streams); with the largest
    bytes of any step and the predicted instructions of all."""

    cuts: tuple[tuple[int, int, bool], ...]
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
        self.rows = [rows.by_rows(graph, n) if streams else None for n in self.nodes]
        if pushed:
            source = _push(graph, self.rows)
            self.nodes.insert(0, source.node)
            self.rows.insert(0, source)
        self.pushed = pushed
        self.calls = [[] if n.kind == "push" else kernels.lower_node(graph, n) for n in self.nodes]
        self.born = {t: -1 for t in graph.inputs} | {n.output: i for i, n in enumerate(self.nodes)}
        self.dies = dict.fromkeys(self.born, -1)
        for i, node in enumerate(self.nodes):
            self.dies[node.output] = max(self.dies[node.output], i)
            for tensor in node.inputs:
                if graph.values[tensor].in_arena:
                    self.dies[tensor] = i
        for tensor in graph.outputs:
            self.dies[tensor] = len(self.nodes)
        self.size = {t: v.bytes if (v := graph.values[t]).in_arena else 0 for t in self.born}
        self.scratch = [stream.scratch_bytes(graph, n) if n else 0 for n in self.rows]
        self.alive_bytes = [
            sum(self.size[t] for t in self.alive(cut)) for cut in range(len(self.nodes))
        ]
        self.orders: dict[int, tuple[int, rows.Order]] = {}
        self.stretches: dict[tuple[int, int], Stretch] = {}
        self.steps = self._steps()

    def kept(self, end: int) -> set[int]:
        """Tensors that are read behind a cut."""
        return {t for t, last in self.dies.items() if last >= end}

    def alive(self, begin: int) -> set[int]:
        """Tensors that are whole at a cut."""
        return {t for t in self.kept(begin) if self.born[t] < begin}

    def _steps(self) -> dict[int, list[tuple[int, bool, int, int]]]:
        """For each cut: the steps that end there (begin, streams, bytes, instructions)."""
        count = len(self.nodes)
        by_rows = [0]
        for node, calls in zip(self.rows, self.calls, strict=True):
            cost = instructions.of_rows(node, calls[0] if calls else None) if node else 0
            by_rows.append(by_rows[-1] + cost)
        found: dict[int, list[tuple[int, bool, int, int]]] = {}
        for end in range(1, count + 1):
            begin = end - 1
            found[end] = []
            if self.calls[begin]:
                cost = sum(map(instructions.of_call, self.calls[begin]))
                found[end].append((begin, False, self._whole_bytes(begin), cost))
            for begin, total in self._stretches(end):
                if not (self.pushed and begin == 0 and end == 1):
                    found[end].append((begin, True, total, by_rows[end] - by_rows[begin]))
        return found

    def _whole_bytes(self, index: int) -> int:
        worst, alive = 0, self.alive(index) | {self.nodes[index].output}
        for call in self.calls[index]:
            total = sum(self.size[t] for t in alive) + call.scratch
            gain = 0
            for tensor, order in call.orders.items():
                if self.dies[tensor] == index and len(self.calls[index]) == 1:
                    gain = max(gain, order.overlap(self.size[tensor], self.size[call.output]))
            worst = max(worst, total - gain)
        return worst

    def _stretches(self, end: int) -> list[tuple[int, int]]:
        """Begin and bytes of all stretches that end at a cut."""
        start = end
        while start > 0 and self.rows[start - 1] and end - start < rows.MAX_NODES:
            start -= 1
        nodes = [n for n in self.rows[start:end] if n]
        if not nodes:
            return []
        kept = self.kept(end)
        order = rows.Order(self.graph, nodes, kept)
        self.orders[end] = (start, order)
        over = order.taken_over(kept)
        local = scratch = 0  # bytes of rings and sums; of the largest scratch
        through: dict[int, tuple[list[int], int]] = {}  # first tensor of a ring: all, bytes
        external: set[int] = set()
        found = []
        for begin in range(end - 1, start + order.begin - 1, -1):
            node = nodes[begin - start]
            tensor = node.node.output
            chain, before = through.pop(over.get(tensor, -1), ([], 0))
            chain = [tensor, *chain]
            if chain[-1] in kept:
                size = self.size[chain[-1]]
            else:
                first = nodes[order.producer[tensor]]
                size = order.depth(chain) * first.row_bytes
            through[tensor] = chain, size
            local += size - before + stream.sum_bytes(node)
            scratch = max(scratch, self.scratch[begin])
            external = (external | {r.tensor for r in node.reads}) - {tensor}
            last = next(c for c, _ in through.values() if c[-1] == nodes[-1].node.output)
            gain = 0
            for source in external:
                if self.dies[source] < end:
                    a, b = self.size[source], self.size[last[-1]]
                    joint = max(b, a + max(0, order.lead(source, last)))
                    gain = max(gain, min(b, a + b - joint))
            found.append((begin, local + scratch + self.alive_bytes[begin] - gain))
        return found

    def front(self) -> list[Candidate]:
        """Plans by growing memory and falling instructions, as estimated before tensors are laid
        out."""
        fronts: list[list[Candidate]] = [[Candidate((), 0, 0)]]
        for end in range(1, len(self.nodes) + 1):
            reached = [
                Candidate(
                    (*before.cuts, (begin, end, streams)), max(before.ram, total),
                    before.instructions + cost,
                )
                for begin, streams, total, cost in self.steps[end]
                for before in fronts[begin]
            ]  # fmt: skip
            fronts.append(_thin(_best(reached)))
        return fronts[-1]

    def tightest(self, candidate: Candidate) -> str:
        """The layers whose memory is the plan's, in words."""

        def needed(cut: tuple[int, int, bool]) -> int:
            begin, end, streams = cut
            return next(s[2] for s in self.steps[end] if s[:2] == (begin, streams))

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
            start, order = self.orders[end]
            kept = self.kept(end)
            found = stream.stretch(self.graph, order.nodes, order, begin - start, kept)
            self.stretches[begin, end] = found
        return self.stretches[begin, end]


def _best(candidates: list[Candidate]) -> list[Candidate]:
    """Those that no other beats, by growing memory."""
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
    for node, by_rows in zip(graph.nodes, nodes, strict=True):
        if source not in node.inputs:
            continue
        if by_rows is None:
            raise TFLiteError(
                f"--input rows: operator {node.operator} ({node.kind} {node.name}) reads the input "
                f"whole, all {value.bytes} bytes of it; {whole}"
            )
        read = next(r for r in by_rows.reads if r.tensor == source)
        node = Node("push", [], source, {}, -1, value.name)
        return RowNode(node, (), read.rows, read.rows, value.bytes // read.rows)
    raise TFLiteError(f"--input rows: no operator reads the input; {whole}")
