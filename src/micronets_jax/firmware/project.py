"""A firmware folder: everything that turns a model into a program for a board.

Invariant: the folder is complete in itself (sources, linker script, Makefile, manifest) and a
function of model, board, runtime and front end alone; it is written whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping

from micronets_jax import compile as compiler
from micronets_jax import devices, reserves, sizes
from micronets_jax.devices import Device
from micronets_jax.firmware import boards
from micronets_jax.firmware.boards import FirmwareError
from micronets_jax.firmware.engine import Engine, source
from micronets_jax.firmware.frontend import FrontEnd
from micronets_jax.firmware.listening import Listener

LISTENING = "listening.json"
"""The file of a firmware's listener, under the name that runs give it."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Bytes that a firmware will take, by part, before anything is compiled."""

    flash: Mapping[str, int]
    ram: Mapping[str, int]

    @property
    def flash_bytes(self) -> int:
        """Bytes of flash in all."""
        return sum(self.flash.values())

    @property
    def ram_bytes(self) -> int:
        """Bytes of RAM in all."""
        return sum(self.ram.values())


@dataclasses.dataclass(frozen=True)
class Project:
    """A firmware before it is written.

    Attributes:
        files: path in the folder -> content; ``manifest.json`` is one of them.
    """

    board: Device
    engine: Engine
    prediction: Prediction
    files: Mapping[str, str | bytes]


def plan(
    engine: Engine,
    model: bytes | None,
    board: Device,
    title: str,
    hearing: FrontEnd | None = None,
    frontend_text: str = "",
    listener: Listener | None = None,
) -> Project:
    """A firmware, with the front end that the record describes if there is one.

    Args:
        engine: what computes the model.
        model: its file, which runs are compared with; None where only its C is known.
        board: on which.
        title: names the model.
        hearing: the front end, if there is one.
        frontend_text: of its ``frontend.json``.
        listener: how it listens to a stream, if it does.

    Returns:
        The files, not yet written, and the bytes of flash and RAM they will take.

    Raises:
        FirmwareError: the model is too large for the board: which memory, by how much, and the
            nearest board that has enough.
    """
    prediction = predict(engine, board, hearing, listener)
    _require_room(prediction, board)
    files: dict[str, str | bytes] = {
        name: source(name)
        for name in (
            "core.c", "core.h", "main.c", "protocol.c", "protocol.h", "engine.h", "Makefile",
        )
    }  # fmt: skip
    files |= engine.files
    kind = _kind(engine, hearing, listener)
    stack_bytes = engine.stack_bytes[kind] + sizes.more_stack_bytes(board.core)
    files |= board_files(board, stack_bytes)
    files |= {
        "config.h": _config(engine, title, hearing, listener),
        "engine.mk": engine.makefile
        + ("ENGINE += frontend.o tables.o\n" if hearing else "")
        + ("ENGINE += listening.o hearing.o\n" if listener else ""),
        "README.md": _readme(engine, board, title),
    }
    if model is not None:
        files["model.tflite"] = model
    if hearing:
        files |= {**hearing.files, "frontend.json": frontend_text}
    if listener:
        files |= {**listener.files, LISTENING: listener.text}
    manifest = {
        "format": 1, "kind": "firmware", "title": title, "device": board.name, "core": board.core,
        "runtime": engine.runtime, "arena_bytes": engine.arena_bytes,
        "stack_bytes": stack_bytes, "remembers": engine.remembers,
        "interface": engine.interface, "layers": engine.layers,
        "predicted": {"flash": dict(prediction.flash), "ram": dict(prediction.ram)},
        **engine.facts, "files": sorted([*files, "manifest.json"]),
    }  # fmt: skip
    files["manifest.json"] = json.dumps(manifest, indent=1) + "\n"
    return Project(board, engine, prediction, files)


def board_files(board: Device, stack_bytes: int) -> dict[str, str | bytes]:
    """The files that differ between boards of the same core."""
    return {
        "board.h": boards.header(board),
        "board.c": source(boards.startup(board).source),
        "board.mk": f"# {board.name}\nCORE = {boards.CORE_FLAGS[board.core]}\n",
        "link.ld": boards.linker_script(board, stack_bytes),
    }


def _kind(engine: Engine, hearing: FrontEnd | None, listener: Listener | None) -> str:
    """What kind of firmware it is, as ``sizes`` names them."""
    if listener:
        return "listening"
    if hearing:
        return "audio rows" if engine.rows else "audio"
    return "rows" if engine.rows else "plain"


def predict(
    engine: Engine,
    board: Device,
    hearing: FrontEnd | None = None,
    listener: Listener | None = None,
) -> Prediction:
    """What an engine and everything around it take on a board.

    Args:
        engine: what computes the model.
        board: on which.
        hearing: the front end, if there is one.
        listener: how it listens to a stream, if it does.

    Returns:
        Bytes of flash and of RAM, by part.
    """
    kind = _kind(engine, hearing, listener)
    flash = {
        **engine.flash,
        "start-up, protocol, main": sizes.base_flash(
            boards.startup(board).source, board.core, kind
        ),
    }
    thread = engine.stack_bytes[kind] + sizes.more_stack_bytes(board.core)
    stacks = thread + reserves.HANDLER_STACK_BYTES
    ram = {**engine.ram, "stacks": stacks, "start-up, protocol, main": reserves.STATE_BYTES}
    for name, part in (("front end", hearing), ("listener", listener)):
        if part:
            flash[f"tables of the {name}"] = part.tables_bytes
            ram[name] = part.ram_bytes
    if hearing and engine.rows:
        ram["front end"] += hearing.part_bytes
    ram["alignment"] = -sum(ram.values()) % 8
    ram["clock"] = reserves.CLOCK_BYTES[boards.startup(board).source]
    return Prediction(flash, ram)


def _require_room(prediction: Prediction, board: Device) -> None:
    over = _excess(prediction, board)
    if not over:
        return
    real = [on for on in devices.DEVICES.values() if on.startup and not on.emulated]
    fits = [on for on in real if not _excess(prediction, on)]
    nearest = min(fits, key=lambda b: (b.flash.bytes, b.ram.bytes), default=None)
    advice = (
        f"the nearest board that fits is {nearest.name}"
        if nearest
        else "no board in the table is large enough: take a smaller model"
    )
    raise FirmwareError(f"the model is too large for {board.name}: {'; '.join(over)}; {advice}")


def _excess(prediction: Prediction, board: Device) -> list[str]:
    return [
        f"{name} has {memory.bytes} bytes and {wanted} are needed, {wanted - memory.bytes} too many"
        for name, memory, wanted in (
            ("flash", board.flash, prediction.flash_bytes),
            ("RAM", board.ram, prediction.ram_bytes),
        )
        if wanted > memory.bytes
    ]


def _config(engine: Engine, title: str, hearing: FrontEnd | None, listener: Listener | None) -> str:
    sizes = {
        way: ", ".join(str(e["bytes"]) for e in engine.interface if e["way"] == way)
        for way in ("input", "output")
    }
    floats = ", ".join(
        str(int(e["dtype"] == "float32")) for e in engine.interface if e["way"] == "input"
    )
    text = re.sub(r'[^ -~]|["\\?]', "_", title)[:60]
    return f"""\
/* The model, for main.c and the engine. */
#ifndef CONFIG_H
#define CONFIG_H

#define FIRMWARE_TITLE "{text}"
#define FIRMWARE_RUNTIME "{engine.runtime}"
#define FIRMWARE_INPUT_BYTES {sizes["input"]}
#define FIRMWARE_INPUT_FLOATS {floats}
#define FIRMWARE_OUTPUT_BYTES {sizes["output"]}
#define FIRMWARE_LAYERS {len(engine.layers)}
#define FIRMWARE_ARENA_BYTES {engine.arena_bytes}
#define FIRMWARE_ROWS {int(engine.rows)}
#define FIRMWARE_REMEMBERS {int(engine.remembers)}
#define FIRMWARE_AUDIO {int(hearing is not None)}
#define FIRMWARE_AUDIO_SAMPLES {hearing.samples if hearing else 0}
#define FIRMWARE_LISTENING {int(listener is not None)}

#endif
"""


def _readme(engine: Engine, board: Device, title: str) -> str:
    return f"""\
`{title}` for {board.name} ({board.core}), runtime {engine.runtime}: {board.provenance}.
`make` builds `build/firmware.elf` with gcc-arm-none-eabi; `micronets flash .` flashes it.
`micronets run .` runs it on an emulated {board.core}: instructions per layer, stack, outputs.
On {boards.startup(board).port}, 115200 baud, it runs its built-in input unless a host speaks.
A host speaks as `protocol.h` says; `micronets_jax.protocol` is one.
"""


def write(project: Project, folder: str | pathlib.Path) -> None:
    """Writes the folder as a whole: a new one, or over one that this program wrote before.

    Raises:
        TFLiteError: the folder holds something else, which is never touched.
    """
    compiler.write_files(project.files, folder)
