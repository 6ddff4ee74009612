"""Engines: a model as sources behind ``csrc/firmware/engine.h``, and what they take of a board.

Invariant: an engine's sources do not depend on the board, only on its core and the model.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from micronets_jax import compile as compiler
from micronets_jax import reserves, sizes
from micronets_jax.firmware.boards import FirmwareError

CSRC = pathlib.Path(__file__).parent.parent / "csrc" / "firmware"


@dataclasses.dataclass(frozen=True)
class Engine:
    """A model ready to be linked.

    Attributes:
        runtime: ``compiled`` or ``tflm``.
        files: path in the folder -> content.
        interface: inputs, then outputs, as in the manifest of a compiled folder.
        layers: name, kind and MACs of each layer, in the order in which they run.
        arena_bytes: of memory for tensors, as it will be reserved.
        flash: part -> predicted bytes.
        ram: part -> predicted bytes.
        stack_bytes: reserved for the thread, by what kind of firmware it is, see ``sizes.KINDS``.
        rows: whether the input comes row by row and is never whole.
        remembers: whether the model has state, which stays from run to run.
        makefile: its objects and libraries for the folder's Makefile (``engine.mk``).
        facts: what else the manifest says.
    """

    runtime: str
    files: Mapping[str, str | bytes]
    interface: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    arena_bytes: int
    flash: Mapping[str, int]
    ram: Mapping[str, int]
    stack_bytes: Mapping[str, int]
    makefile: str
    rows: bool = False
    remembers: bool = False
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def source(name: str) -> str:
    """The text of a hand-written file.

    Raises:
        FirmwareError: it is not installed.
    """
    try:
        return (CSRC / name).read_text()
    except OSError as error:
        raise FirmwareError(f"the firmware's sources are not installed: {error}") from error


OBJECTS = "model_"
"""What the names of a compiled model's object files begin with."""

_ROWS_BYTES = 16
"""Counters of an engine that takes rows, besides the row."""


def compiled(
    model: bytes, title: str, flash_budget: int = 0, plan: str = "whole", rows: bool = False
) -> Engine:
    """The model compiled to C, see :func:`compile.compile_model`.

    Raises:
        TFLiteError: the model is not supported.
    """
    built = compiler.compile_model(model, title, flash_budget, plan=plan, rows=rows)
    return _of_c(built.files(), built.manifest())


def written(folder: str | pathlib.Path) -> Engine:
    """The C of a folder that ``micronets compile`` wrote, as it is there now.

    Raises:
        FirmwareError: the folder holds no compiled model, or its manifest is damaged.
    """
    path = pathlib.Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != 1:
            raise KeyError(f"format {manifest['format']}, not 1")
        sources = {p.name: p.read_text() for p in path.parent.iterdir() if p.suffix in (".c", ".h")}
        return _of_c(sources, manifest)
    except OSError as error:
        raise FirmwareError(
            f"{folder} is not a compiled model: cannot read {path.name} ({error.strerror})"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise FirmwareError(f"{path} is damaged: {error}; compile the model again") from error


def _of_c(sources: Mapping[str, str], manifest: Mapping[str, Any]) -> Engine:
    """An engine of compiled sources by name, the rest of the folder left out, and its manifest."""
    files = {
        f"model/{name}": text
        for name, text in sources.items()
        if name.endswith((".c", ".h")) and not name.startswith("example/")
    }
    files |= {"compiled.c": source("compiled.c"), "marks.h": source("marks.h")}
    arena, layers = manifest["arena_bytes"], manifest["layers"]
    state, row = manifest.get("state_bytes", 0), manifest.get("input_row_bytes", 0)
    stack = manifest["stack_bytes_predicted"]
    constants = manifest["weights_bytes"] + manifest["tables_bytes"]
    objects = [
        name.replace("/", "_").removesuffix(".c") + ".o" for name in files if name.endswith(".c")
    ]
    return Engine(
        runtime="compiled",
        files=files,
        interface=manifest["interface"],
        layers=layers,
        arena_bytes=arena,
        flash={
            "engine": sizes.engine_bytes("rows" if row else "plain"),
            "kernels": manifest["code_bytes_predicted"],
            "weights and tables": constants,
        },
        ram={
            "arena": -(-arena // 8) * 8,
            **({"state": -(-state // 8) * 8} if state else {}),
            **({"a row of the input": -(-row // 8) * 8 + _ROWS_BYTES} if row else {}),
            "layer times": reserves.LAYER_BYTES * (1 + len(layers)),
        },
        stack_bytes={kind: sizes.thread_stack_bytes(stack, kind) for kind in sizes.KINDS},
        makefile=f"ENGINE = {' '.join(sorted(objects))}\n",
        rows=row > 0,
        remembers=state > 0,
    )
