"""Firmware: a model as a complete program for a board.

Invariant: predicted bytes of each memory are compared with the linker's map, outputs with those of
an interpreter on this machine.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from micronets_jax import devices, sizes, targets
from micronets_jax.firmware import execute, link, project
from micronets_jax.firmware import frontend as front_ends
from micronets_jax.firmware import listening as listeners
from micronets_jax.firmware.boards import FirmwareError
from micronets_jax.firmware.engine import Options
from micronets_jax.firmware.execute import Heard, Run, is_firmware, listen, listens, run
from micronets_jax.firmware.flash import Flashing, flash
from micronets_jax.firmware.frontend import can_hear
from micronets_jax.firmware.project import Prediction
from micronets_jax.firmware.tools import has_compiler, has_emulator, versions

__all__ = [
    "FirmwareError",
    "Fit",
    "Flashing",
    "Heard",
    "Prediction",
    "Run",
    "can_hear",
    "check",
    "flash",
    "front_end_bytes",
    "has_compiler",
    "has_emulator",
    "is_firmware",
    "listen",
    "listens",
    "run",
    "versions",
    "write",
]


@dataclasses.dataclass(frozen=True)
class Fit:
    """A linked firmware beside its prediction and its board, in bytes.

    Attributes:
        flash_parts, ram_parts: object file or library -> bytes, as linked.
    """

    device: str
    flash_predicted: int
    flash_linked: int
    flash_bytes: int
    ram_predicted: int
    ram_linked: int
    ram_bytes: int
    flash_parts: dict[str, int]
    ram_parts: dict[str, int]

    @property
    def table(self) -> str:
        """A table of each memory: its size, the predicted and the linked bytes."""
        lines = [
            f"{'':<6} {'predicted':>10} {'linked':>10} {'error':>8} {'board has':>10} {'used':>6}"
        ]
        for name, predicted, linked, has in (
            ("flash", self.flash_predicted, self.flash_linked, self.flash_bytes),
            ("RAM", self.ram_predicted, self.ram_linked, self.ram_bytes),
        ):
            error = f"{100 * (predicted - linked) / linked:+.2f} %"
            lines.append(
                f"{name:<6} {predicted:>10} {linked:>10} {error:>8} {has:>10} "
                f"{100 * linked / has:>4.1f} %"
            )
        return "\n".join(lines)


def write(
    model: bytes,
    device: str,
    folder: str | pathlib.Path,
    *,
    runtime: str = "compiled",
    title: str = "model",
    frontend: str | None = None,
    listening: str | None = None,
    flash_budget: int = 0,
    plan: str = "whole",
    ram: int | None = None,
    rows: bool = False,
    tflm_include: Sequence[str] = (),
    tflm_library: str | None = None,
) -> Prediction:
    """Writes the project of a model for a board.

    Args:
        model: an int8 TFLite file.
        device: of ``devices.DEVICES``.
        folder: a new or empty one, or one that was written here before.
        runtime: of ``targets.TARGETS``.
        title: names the model on the line and in the README.
        frontend: text of the model's ``frontend.json``; with it the firmware takes audio as well
            as features.
        listening: text of the model's ``listening.json``; with it the firmware listens to a stream
            and tells words.
        flash_budget: see ``compile.compile_model``, as of the three that follow.
        plan: which layers go by rows.
        ram: bytes that the arena may take.
        rows: whether the input comes row by row.
        tflm_include: see ``engine.Options``.
        tflm_library: see ``engine.Options``.

    Returns:
        Bytes of flash and of RAM that the firmware will take, by part.

    Raises:
        DeviceError: no such board.
        FirmwareError: unknown runtime, a front end that does not belong to the model, or a model
            that is too large for the board.
        TFLiteError: the model is not supported, or the folder holds something else.
    """
    on = devices.device(device)
    if runtime not in targets.TARGETS:
        raise FirmwareError(f"unknown runtime {runtime!r}; there are: {', '.join(targets.TARGETS)}")
    if rows and listening:
        raise FirmwareError(
            "--input rows: a listener, which reads frames again, needs the input whole"
        )
    options = Options(title, flash_budget, plan, ram, rows, tflm_include, tflm_library)
    made = targets.engine(runtime).build(model, on, options)
    hearing = front_ends.build(frontend, made.interface) if frontend is not None else None
    if rows and hearing and not hearing.part_bytes:
        raise FirmwareError(
            "--input rows: a frame of this front end is a column of the input, which is complete "
            "when the last frame has come; leave --input out"
        )
    if listening and made.remembers:
        raise FirmwareError(
            "a listener gives the model a second of sound every hop, and this one remembers what "
            "it heard: leave out --listening, it hears a stream as it is"
        )
    listener = listeners.build(listening, hearing, made.interface) if listening else None
    planned = project.plan(made, model, on, title, hearing, frontend or "", listener)
    project.write(planned, folder)
    return planned.prediction


def front_end_bytes(
    frontend: str, core: str, classes: tuple[str, ...] = (), hop_ms: int = 0
) -> tuple[int, int]:
    """What a front end takes on a board.

    Args:
        frontend: text of ``frontend.json``.
        core: of the board.
        classes: of a spotter that listens to a stream, else empty; then the most that its listener
            takes under any choice of smoothing is added.
        hop_ms: milliseconds between two inferences of such a spotter.

    Returns:
        Bytes of RAM and of flash; 0 and 0 where no board computes it.
    """
    from micronets_jax.data import frontends

    if not can_hear(frontend):
        return 0, 0
    shape = frontends.from_json(frontend).shape
    ends = [
        {"way": way, "dtype": "int8", "shape": [size], "bytes": size, "scale": 1.0, "zero_point": 0}
        for way, size in (("input", math.prod(shape)), ("output", len(classes)))
    ]
    hearing = front_ends.build(frontend, ends)
    parts: list[front_ends.FrontEnd | listeners.Listener] = [hearing]
    if classes:
        parts.append(listeners.build(listeners.most(classes, hop_ms), hearing, ends))
    stack, code = sizes.hearing_bytes(core, "listening" if classes else "audio")
    return (
        stack + sum(part.ram_bytes for part in parts),
        code + sum(part.tables_bytes for part in parts),
    )


def check(folder: str | pathlib.Path) -> Fit:
    """Links a firmware and compares its map with the prediction.

    Raises:
        FirmwareError: no cross compiler, or it does not link, or a memory overflows; the sentence
            says which and by how much.
    """
    manifest = execute.read_manifest(folder)
    on = devices.device(manifest["device"])
    linked = link.build(folder)
    predicted: dict[str, Any] = manifest["predicted"]
    return Fit(
        on.name, sum(predicted["flash"].values()), linked.flash_bytes, on.flash.bytes,
        sum(predicted["ram"].values()), linked.ram_bytes, on.ram.bytes,
        dict(linked.flash), dict(linked.ram),
    )  # fmt: skip
