"""From a model to the files of its folder, and onto the disk."""

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

from micronets_jax import tflite
from micronets_jax.compile import emit, graph, kernels, operators, planner, report, schedule
from micronets_jax.tflite import TFLiteError


@dataclasses.dataclass
class Compiled:
    """A model, planned and written as text.

    Attributes:
        addresses: tensor -> first byte in the arena.
        scratch: first byte of every call's scratch (0 where it has none).
    """

    title: str
    graph: graph.Graph
    calls: list[kernels.Call]
    plan: planner.Plan
    addresses: dict[int, int]
    scratch: list[int]

    @property
    def arena_bytes(self) -> int:
        return self.plan.peak

    @property
    def code_bytes(self) -> int:
        """Predicted bytes of code: arm-none-eabi-gcc 12.2 -O2 for a Cortex-M4."""
        return emit.code_bytes(self.calls)

    @property
    def macs(self) -> int:
        return sum(call.macs for call in self.calls if not call.continues)

    @functools.cached_property
    def states(self) -> list[tuple[graph.Value, int]]:
        """What is kept from one run to the next, and where it lies in the state's memory."""
        placed, at = [], 0
        for value in self.graph.states:
            placed.append((value, at))
            at += -(-value.bytes // planner.ALIGN) * planner.ALIGN
        return placed

    @property
    def state_bytes(self) -> int:
        """Bytes of the state's memory; 0 for a model without state."""
        if not self.states:
            return 0
        value, at = self.states[-1]
        return at + -(-value.bytes // planner.ALIGN) * planner.ALIGN

    @functools.cached_property
    def constant_bytes(self) -> tuple[int, int]:
        """Bytes of weights with their biases and scales, and of tables, on a 32-bit core."""
        return emit.constant_bytes(self.calls, self._operands())

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
                        "offset": self.addresses[root],
                    }
                )  # fmt: skip
        return entries

    def files(self) -> dict[str, str]:
        """Path in the folder -> text."""
        emitter = emit.Emitter(
            self.calls, self.addresses, self.scratch, self._operands(), self.states, self.title
        )
        entries = self.interface()
        arena = [(entry["way"], entry["offset"]) for entry in entries]
        files = {
            "model.c": emitter.model_c(arena),
            "model.h": report.model_h(self.title, self.arena_bytes, self.state_bytes, entries),
            "weights.c": emitter.weights_c(),
            "weights.h": emitter.weights_h(),
            **emit.kernel_files(self.calls),
            "Makefile": report.makefile(),
            "CMakeLists.txt": report.cmake(),
            "example/main.c": report.example(),
            "memory.json": json.dumps(report.memory(self), indent=1) + "\n",
            "memory.svg": report.memory_svg(self),
        }
        manifest = {**self.manifest(), "files": sorted([*files, "manifest.json"])}
        return {**files, "manifest.json": json.dumps(manifest, indent=1) + "\n"}

    def manifest(self) -> dict[str, Any]:
        weights, tables = self.constant_bytes
        return {
            "format": 1,
            "title": self.title,
            "arena_bytes": self.arena_bytes,
            "arena_align": planner.ALIGN,
            "state_bytes": self.state_bytes,
            "arena_bound_bytes": self.plan.bound,
            "weights_bytes": weights,
            "tables_bytes": tables,
            "code_bytes_predicted": self.code_bytes,
            "macs": self.macs,
            "folding": report.folding(self.graph.foldings),
            "interface": self.interface(),
            "layers": [
                {
                    "name": call.name, "kind": call.kind, "operator": call.operator,
                    "macs": 0 if call.continues else call.macs,
                }
                for call in self.calls
            ],
        }  # fmt: skip

    def _operands(self) -> dict[int, np.ndarray]:
        """Constants that calls read as they read tensors."""
        values = {tensor: self.graph.values[tensor] for c in self.calls for tensor in c.inputs}
        return {tensor: v.data for tensor, v in values.items() if v.data is not None}


def compile_model(
    source: str | pathlib.Path | bytes, title: str = "model", flash_budget: int = 0
) -> Compiled:
    """Reads, rewrites, lowers and plans a model.

    Args:
        flash_budget: bytes of flash that may go to weights widened to int16.

    Raises:
        TFLiteError: the model cannot be read or is not supported; the sentence says what and why.
    """
    built = operators.build(tflite.read(source))
    candidates = [_plan(built)]
    # state is read and written in the file's order
    reordered = built.nodes if built.states else schedule.best_order(built)
    if reordered != built.nodes:
        candidates.append(_plan(dataclasses.replace(built, nodes=reordered)))
    built, calls, plan, tensors, owners = min(candidates, key=lambda found: found[2].peak)
    kernels.widen_weights(calls, flash_budget)
    addresses = dict(zip(tensors, plan.addresses, strict=False))
    scratch = [0] * len(calls)
    for owner, address in zip(owners, plan.addresses[len(tensors) :], strict=True):
        scratch[owner] = address
    return Compiled(title, built, calls, plan, addresses, scratch)


def _plan(built: graph.Graph):
    calls = kernels.lower(built)
    buffers, sharings, tensors, owners = arena(built, calls)
    return built, calls, planner.plan(buffers, sharings), tensors, owners


def arena(built: graph.Graph, calls: list[kernels.Call]):
    """Buffers (tensors, then scratch), what may share, the tensors, and the calls with scratch."""
    first: dict[int, int] = {tensor: -1 for tensor in built.inputs}
    last: dict[int, int] = {tensor: -1 for tensor in built.inputs}
    for step, call in enumerate(calls):
        for tensor in call.inputs:
            if built.values[tensor].in_arena:
                last[tensor] = step
        if built.values[call.output].in_arena:
            first.setdefault(call.output, step)
            last[call.output] = step
    for tensor in built.outputs:
        last[tensor] = len(calls)
    tensors = list(first)
    place = {tensor: i for i, tensor in enumerate(tensors)}
    buffers = [
        planner.Buffer(built.values[t].name, built.values[t].bytes, first[t], last[t])
        for t in tensors
    ]
    owners = [step for step, call in enumerate(calls) if call.scratch]
    buffers += [
        planner.Buffer(f"scratch of {calls[s].name}", calls[s].scratch, s, s) for s in owners
    ]
    sharings = [
        planner.share(place[tensor], place[call.output], step, order)
        for step, call in enumerate(calls)
        for tensor, order in call.orders.items()
        if last.get(tensor) == step == first.get(call.output)
    ]
    return buffers, sharings, tensors, owners


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
