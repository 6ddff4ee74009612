"""The engine of compiled C: what ``compile`` writes, behind ``csrc/firmware/engine.h``.

Invariant: sources and sizes are the compiler's, unchanged.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from micronets_jax import compile as compiler
from micronets_jax import reserves, sizes
from micronets_jax.devices import Device
from micronets_jax.firmware.boards import FirmwareError
from micronets_jax.firmware.engine import Engine, Options, source

_ROWS_BYTES = 16
"""Counters of an engine that takes rows, besides the row."""


def build(model: bytes, board: Device, options: Options) -> Engine:
    """The model compiled to C, see :func:`compile.compile_model`.

    Raises:
        TFLiteError: the model is not supported.
    """
    built = compiler.compile_model(
        model,
        options.title,
        options.flash_budget,
        plan=options.plan,
        ram=options.ram,
        rows=options.rows,
    )
    return _of_c(built.files(), built.manifest())


def missing(board: Device) -> str:
    """Nothing: the compiler is this library."""
    return ""


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
