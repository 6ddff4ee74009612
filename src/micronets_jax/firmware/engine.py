"""Engines: a model as sources behind ``csrc/firmware/engine.h``, and the memory that they take.

Invariant: an engine's sources do not depend on the board, only on its core and the model.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from micronets_jax.devices import Device
from micronets_jax.firmware.boards import FirmwareError

CSRC = pathlib.Path(__file__).parent.parent / "csrc" / "firmware"


OBJECTS = "model_"
"""What the names of a compiled model's object files begin with."""


Interface = list[dict[str, Any]]
"""Inputs, then outputs, as in the manifest of a compiled folder."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """A model ready to be linked.

    Attributes:
        runtime: a name in ``targets.TARGETS``.
        files: path in the folder -> content.
        interface: what it reads and gives.
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
    interface: Interface
    layers: list[dict[str, Any]]
    arena_bytes: int
    flash: Mapping[str, int]
    ram: Mapping[str, int]
    stack_bytes: Mapping[str, int]
    makefile: str
    rows: bool = False
    remembers: bool = False
    facts: Mapping[str, object] = dataclasses.field(default_factory=dict)


def source(name: str) -> str:
    """The text of a hand-written file.

    Raises:
        FirmwareError: it is not installed.
    """
    try:
        return (CSRC / name).read_text()
    except OSError as error:
        raise FirmwareError(f"the firmware's sources are not installed: {error}") from error


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of engines; each engine reads those that concern it.

    Attributes:
        title: names the model.
        flash_budget, plan, ram, rows: of the compiled runtime, see :func:`compile.compile_model`.
        tflm_include, tflm_library: of the runtime tflm, else TFLM_INCLUDE and TFLM_LIBRARY.
    """

    title: str = "model"
    flash_budget: int = 0
    plan: str = "whole"
    ram: int | None = None
    rows: bool = False
    tflm_include: Sequence[str] = ()
    tflm_library: str | None = None


class Maker(Protocol):
    """The upper half of a runtime: the module ``engine`` of its folder in ``targets``."""

    def build(self, model: bytes, board: Device, options: Options) -> Engine:
        """The model, ready to be linked.

        Raises:
            TFLiteError: the file cannot be read, or the model is not supported.
            FirmwareError: it cannot be built so for this board.
        """
        ...

    def missing(self, board: Device) -> str:
        """What this machine lacks to build it, in words; nothing if it lacks nothing.

        Raises:
            FirmwareError: what the environment names does not serve.
        """
        ...
