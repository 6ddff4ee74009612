"""From a model to the files of its folder, and onto the disk.

Invariant: the same model and options give the same files; a folder that holds anything else is not
touched.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from micronets_jax import planner, tflite
from micronets_jax.compile import (
    check,
    emit,
    graph,
    kernels,
    operators,
    plans,
    report,
    schedule,
    stream,
)
from micronets_jax.kernels import ALIGNMENT, PROGRESS_BYTES
from micronets_jax.rows import SKETCH
from micronets_jax.tflite import TFLiteError


@dataclasses.dataclass
class Compiled:
    """A model, planned and written as text.

    Attributes:
        calls: the layers in order, on whole tensors or by rows.
        steps: of the plan: calls on whole tensors, and stretches of calls by rows.
        addresses: tensor that is whole at some time -> first byte in the arena.
        places: first bytes of every step's local buffers.
        candidate: the plan before it was laid out.
        room: all plans.
        front: the Pareto front of plans in memory and instructions, this one among them.
    """

    title: str
    graph: graph.Graph
    calls: list[kernels.Call]
    steps: list[plans.Step]
    plan: planner.Plan
    addresses: dict[int, int]
    places: list[list[int]]
    candidate: plans.Candidate
    room: plans.Plans
    front: list[Point] = dataclasses.field(default_factory=list)

    @property
    def instructions(self) -> int:
        """Predicted instructions of one inference on a Cortex-M4."""
        return self.candidate.instructions

    @property
    def pushed(self) -> bool:
        """Whether the input is pushed row by row."""
        return self.room.pushed

    @property
    def step_of_layer(self) -> list[int]:
        """Of every layer: the step of the plan that computes it."""
        return [
            index
            for index, step in enumerate(self.steps)
            for _ in ([step] if isinstance(step, kernels.Call) else filter(None, step.layers))
        ]

    @functools.cached_property
    def accesses(self) -> list[check.Access]:
        """What every call touches, in the order in which they run."""
        return list(check.accesses(self.graph, self.steps, self.addresses, self.places))

    def dead_ranges(self) -> list[list[check.Range]]:
        """Dead bytes before the first call and after each, see :func:`check.dead_ranges`."""
        kept = [
            (at := self.addresses[t], at + self.graph.values[t].bytes) for t in self.graph.outputs
        ]
        if self.pushed:
            kept.append((self.progress, self.progress + PROGRESS_BYTES))
        return check.dead_ranges(self.accesses, self.arena_bytes, kept)

    @property
    def progress(self) -> int:
        """First byte of what is kept between two pushes."""
        return self.plan.addresses[-1]

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena: the largest end of any buffer."""
        return self.plan.peak

    @property
    def code_bytes(self) -> int:
        """Predicted bytes of code, see ``sizes``."""
        return emit.code_bytes(self.steps, self.calls)

    @property
    def stack_bytes(self) -> int:
        """Predicted bytes of stack that a run takes at most, its caller's not counted."""
        return emit.stack_bytes(self.steps, self.calls)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(call.macs for call in self.calls if not call.continues)

    @functools.cached_property
    def states(self) -> list[tuple[graph.Value, int]]:
        """What is kept from one run to the next, and where it lies in the state's memory."""
        placed, at = [], 0
        for value in self.graph.states:
            placed.append((value, at))
            at += -(-value.bytes // ALIGNMENT) * ALIGNMENT
        return placed

    @property
    def state_bytes(self) -> int:
        """Bytes of the state's memory; 0 for a model without state."""
        if not self.states:
            return 0
        value, at = self.states[-1]
        return at + -(-value.bytes // ALIGNMENT) * ALIGNMENT

    @functools.cached_property
    def constant_bytes(self) -> tuple[int, int]:
        """Bytes of weights with their biases and scales, and of tables, on a 32-bit core."""
        return emit.constant_bytes(self.steps, self.calls, self._operands())

    def interface(self) -> list[dict[str, Any]]:
        """Inputs, then outputs, in the order of the file."""
        entries = []
        model = self.graph.model
        for way, tensors, roots in (
            ("input", model.inputs, self.graph.inputs),
            ("output", model.outputs, self.graph.outputs),
        ):
            for index, (tensor, root) in enumerate(zip(tensors, roots, strict=True)):
                value = self.graph.values[tensor]
                entries.append(
                    {
                        "way": way, "index": index, "name": value.name,
                        "shape": list(value.shape), "dtype": value.dtype, "scale": value.scale,
                        "zero_point": value.zero_point, "bytes": value.bytes, "tensor": tensor,
                        "offset": self.addresses.get(root),  # None: it is never whole
                    }
                )  # fmt: skip
        return entries

    def files(self) -> dict[str, str]:
        """Path in the folder -> text."""
        emitter = emit.Emitter(
            self.steps, self.addresses, self.places, self._operands(), self.states, self.title
        )
        entries = self.interface()
        arena = [(entry["way"], entry["offset"]) for entry in entries]
        rows = self.input_rows if self.pushed else None
        files = {
            "model.c": emitter.model_c(arena, self.progress),
            "model.h": report.model_h(
                self.title, self.arena_bytes, self.state_bytes, entries, rows
            ),
            "weights.c": emitter.weights_c(),
            "weights.h": emitter.weights_h(),
            **emit.kernel_files(self.calls),
            "Makefile": report.makefile(),
            "CMakeLists.txt": report.cmake(),
            "example/main.c": report.example(self.pushed),
            "memory.json": json.dumps(report.memory(self), indent=1) + "\n",
            "memory.svg": report.memory_svg(self),
        }
        manifest = {**self.manifest(), "files": sorted([*files, "manifest.json"])}
        return {**files, "manifest.json": json.dumps(manifest, indent=1) + "\n"}

    def manifest(self) -> dict[str, Any]:
        """What ``manifest.json`` says: interface, layers, memory, code and plan."""
        weights, tables = self.constant_bytes
        return {
            "format": 1,
            "title": self.title,
            "arena_bytes": self.arena_bytes,
            "arena_align": ALIGNMENT,
            "state_bytes": self.state_bytes,
            "arena_bound_bytes": self.plan.bound,
            "weights_bytes": weights,
            "tables_bytes": tables,
            "code_bytes_predicted": self.code_bytes,
            "stack_bytes_predicted": self.stack_bytes,
            "macs": self.macs,
            "folding": report.folding(self.graph.foldings),
            "instructions_predicted": self.instructions,
            "input": "rows" if self.pushed else "whole",
            "input_row_bytes": self.input_rows[1] if self.pushed else 0,
            "interface": self.interface(),
            "layers": [
                {
                    "name": call.name,
                    "kind": call.kind,
                    "operator": call.operator,
                    "macs": 0 if call.continues else call.macs,
                    "rows": isinstance(self.steps[step], stream.Stretch),
                }
                for call, step in zip(self.calls, self.step_of_layer, strict=True)
            ],
        }

    @property
    def input_rows(self) -> tuple[int, int]:
        """Rows of the input, and bytes of each, where they are pushed."""
        step = self.steps[0]
        assert isinstance(step, stream.Stretch)
        return step.nodes[0].rows, step.nodes[0].row_bytes

    def _operands(self) -> dict[int, np.ndarray]:
        """Constants that calls read as they read tensors."""
        values = {tensor: self.graph.values[tensor] for c in self.calls for tensor in c.inputs}
        return {tensor: v.data for tensor, v in values.items() if v.data is not None}


@dataclasses.dataclass(frozen=True)
class Point:
    """A plan of the front.

    Attributes:
        ram_bytes: of the arena.
        instructions: predicted, of one inference on a Cortex-M4.
        streams: names of the first and last layers of its stretches of several layers.
        singles: layers between whole tensors that go row by row.
    """

    ram_bytes: int
    instructions: int
    streams: tuple[tuple[str, str], ...]
    singles: int


PLANS = ("balanced", "speed", "memory", "whole")

SLOWER = 1.03
"""The default plan is the least memory that takes at most this many times the instructions of the
fastest plan."""


def compile_model(
    source: str | pathlib.Path | bytes,
    title: str = "model",
    flash_budget: int = 0,
    *,
    plan: str = "whole",
    ram: int | None = None,
    rows: bool = False,
) -> Compiled:
    """Reads, rewrites, lowers and plans a model.

    Args:
        source: a TFLite file, or its bytes.
        title: names the model in the files.
        flash_budget: bytes of flash that may go to weights widened to int16.
        plan: of :data:`PLANS`: ``balanced`` (least memory for at most 3 % more instructions than
            the fastest), ``speed`` (fewest instructions), ``memory`` (least memory), or ``whole``
            (no layer goes row by row).
        ram: bytes that the arena may take: of the plans that fit, ``speed`` takes the fastest,
            and so does ``balanced`` where no plan at most 3 % slower than the fastest of all fits.
        rows: the input is pushed row by row and never whole; ``plan`` must not be ``whole``.

    Returns:
        The plan chosen, with an address for every buffer and the front that it was chosen from.

    Raises:
        TFLiteError: the model cannot be read or is not supported, or no plan fits; the sentence
            says what and why.
    """
    built = operators.build(tflite.read(source))
    if plan not in PLANS:
        raise TFLiteError(f"--plan {plan}: give one of {', '.join(PLANS)}")
    streams = plan != "whole"
    if rows and not streams:
        raise TFLiteError(
            "--plan whole: an input that comes row by row needs layers that go so too"
        )
    found = _front(built, title, rows, streams, [])
    # state is read and written in the file's order
    reordered = built.nodes if built.states else schedule.best_order(built)
    if reordered != built.nodes:
        again = dataclasses.replace(built, nodes=reordered)
        found = _front(again, title, rows, streams, found)
    found.sort(key=lambda c: (c.arena_bytes, c.instructions))
    front: list[Compiled] = []
    for c in found:
        if not front or c.instructions < front[-1].instructions:
            front.append(c)
    chosen = _choose(front, plan, ram)
    better = lay_out(chosen.room, chosen.candidate, title)
    if better.arena_bytes < chosen.arena_bytes:
        front = [better if c is chosen else c for c in front]
        chosen = better
    kernels.widen_weights(chosen.calls, flash_budget)
    check.prove(chosen.graph, chosen.accesses, chosen.arena_bytes, chosen.addresses)
    chosen.front = [_point(c) for c in front]
    return chosen


def _choose(front: list[Compiled], plan: str, ram: int | None) -> Compiled:
    """One of the front, which goes from least memory to fewest instructions."""
    if ram is not None:
        fitting = [c for c in front if c.arena_bytes <= ram]
        if not fitting:
            least = front[0]
            raise TFLiteError(
                f"--ram {ram} is below the least plan: {least.arena_bytes} bytes, set by "
                f"{least.room.tightest(least.candidate)}"
            )
        quick = [c for c in fitting if c.instructions <= SLOWER * front[-1].instructions]
        return quick[0] if quick and plan == "balanced" else fitting[-1]
    if plan == "memory":
        return front[0]
    if plan in ("speed", "whole"):
        return front[-1]
    return next(c for c in front if c.instructions <= SLOWER * front[-1].instructions)


def _point(c: Compiled) -> Point:
    stretches = [step.nodes for step in c.steps if isinstance(step, stream.Stretch)]
    streams = tuple((n[0].node.name, n[-1].node.name) for n in stretches if len(n) > 1)
    return Point(c.arena_bytes, c.instructions, streams, len(stretches) - len(streams))


def _front(
    built: graph.Graph, title: str, rows: bool, streams: bool, found: list[Compiled]
) -> list[Compiled]:
    """The Pareto front, laid out, appended to the plans found before. A candidate is left out if
    one of these takes at most its memory, whatever its layout, and at most its instructions."""
    room = plans.Plans(built, rows, streams)
    least, front = room.least(), room.front()
    effort = SKETCH * MANY**2 // max(MANY, len(front)) ** 2
    laid = list(found)
    # The least memory is what a search counts, which lays it out with as much effort.
    tries = [*((c, SKETCH) for c in least), *((c, effort) for c in front)]
    for c, tried in tries:
        if not any(f.arena_bytes <= c.ram and f.instructions <= c.instructions for f in found):
            laid.append(lay_out(room, c, title, tried))
    return laid


MANY = 8
"""Plans of a front from which on fewer placements are tried for each."""


def lay_out(
    room: plans.Plans, candidate: plans.Candidate, title: str, effort: int = 40_000
) -> Compiled:
    """A plan with an address for every buffer.

    Args:
        room: all plans of the model.
        candidate: the plan.
        title: names the model.
        effort: placements that are tried, see :func:`planner.plan`.

    Returns:
        The model by that plan, addresses in bytes from the arena's first.
    """
    steps, layers = room.build(candidate)
    tensors, buffers, sharings = room.steps.arena(candidate.cuts)
    laid = planner.plan(buffers, sharings, effort)
    addresses = dict(zip(tensors, laid.addresses, strict=False))
    places, at = [], len(tensors)
    for step in steps:
        places.append(list(laid.addresses[at : at + len(step.local)]))
        at += len(step.local)
    return Compiled(title, room.graph, layers, steps, laid, addresses, places, candidate, room)


def write(compiled: Compiled, folder: str | pathlib.Path) -> None:
    """Writes the folder as a whole: a new one, or over one that this program wrote before.

    Raises:
        TFLiteError: the folder holds something else, which is never touched.
    """
    write_files(compiled.files(), folder)


def write_files(files: Mapping[str, str | bytes], folder: str | pathlib.Path) -> None:
    """:func:`write` for any files whose ``manifest.json`` names them all under ``files``."""
    target = pathlib.Path(folder).resolve()
    if target.exists():
        if not target.is_dir():
            raise TFLiteError(f"{target} is a file; name a folder to write to")
        present = {str(path.relative_to(target)) for path in target.rglob("*") if not path.is_dir()}
        if present and not (target / "manifest.json").is_file():
            raise TFLiteError(
                f"{target} holds other files ({sorted(present)[0]}, ...); name an empty folder"
            )
        known = {str(p) for p in _written(target)} | {"manifest.json"}
        strangers = sorted(p for p in present - known if not p.startswith("build/"))
        if strangers:
            raise TFLiteError(
                f"{target} holds files that were not written here ({strangers[0]}); name an empty "
                "folder"
            )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise TFLiteError(f"cannot write to {target}: {error.strerror or error}") from error
    try:
        staging.chmod(0o755)
        for name, content in files.items():
            path = staging / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        before = staging.with_name(staging.name + "-before")
        if target.is_dir():
            os.replace(target, before)
        os.replace(staging, target)
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        raise TFLiteError(f"cannot write to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _written(folder: pathlib.Path) -> list[str]:
    """Files that the manifest of an earlier run names."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return [str(name) for name in manifest["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
