"""Boards: what they hold, how fast they compute, how much power they take, and who says so.

Invariant: a device is frozen data. Whatever ``latency`` derives from it is an estimate, never a
measurement; the JSON files beside this one hold what was counted, and how.
"""

from __future__ import annotations

import dataclasses

KIB = 1024


@dataclasses.dataclass(frozen=True)
class Device:
    """A board, or the emulation of one.

    Attributes:
        name: of its microcontroller, or of the emulated machine.
        core: Arm's name of the core, in lower case.
        clock_mhz: highest clock of the board.
        sram_bytes: all of its working memory.
        flash_bytes: all of its storage for code and constants.
        cycles_per_instruction: of its core at that clock, memories included.
        power_mw: power while it computes, or None where nobody published it.
        latency_rows: published latencies that ``cycles_per_instruction`` was fitted to; 0 where it
            holds by definition.
        latency_error: mean relative error of each of them, predicted from the others.
        largest_latency_error: the largest of these errors.
    """

    name: str
    core: str
    clock_mhz: int
    sram_bytes: int
    flash_bytes: int
    cycles_per_instruction: float
    power_mw: float | None = None
    latency_rows: int = 0
    latency_error: float = 0.0
    largest_latency_error: float = 0.0

    @property
    def emulated(self) -> bool:
        """Whether it is a machine of qemu."""
        return self.name.startswith("mps2-")


# Memory, power: MicroNets (Banbury et al., MLSys 2021), tables 1 to 5; power is energy over latency
# there, the clock is the boards' highest. Cycles per instruction: the median over that paper's rows
# of published latency * clock / instructions (characterize.board_factor); tests/test_devices.py
# fits them again. The instructions are those that latency predicts for the CMSIS-NN of that time.
# An emulated board takes a cycle for each instruction by definition, at the clock of Arm's AN386
# and AN500; their memories are as csrc/board/mps2.ld uses them.
DEVICES = {
    device.name: device
    for device in (
        Device("STM32F446RE", "cortex-m4", 180, 128 * KIB, 512 * KIB, 1.99, 163.0, 6, 0.039, 0.132),
        Device(
            "STM32F746ZG", "cortex-m7", 216, 320 * KIB, 1024 * KIB, 1.051, 445.0, 10, 0.041, 0.118
        ),
        Device(
            "STM32F767ZI", "cortex-m7", 216, 512 * KIB, 2048 * KIB, 1.005, None, 12, 0.052, 0.192
        ),
        Device("mps2-an386", "cortex-m4", 25, 4096 * KIB, 4096 * KIB, 1.0),
        Device("mps2-an500", "cortex-m7", 25, 4096 * KIB, 4096 * KIB, 1.0),
    )
}
"""Every known board by name."""

PROVENANCE = {
    "core, clock": "the maker's data sheet: the highest clock. Emulated boards: Arm's AN386 and"
    " AN500.",
    "SRAM, flash": "the maker's data sheet, as MicroNets lists them (Banbury et al., MLSys 2021).",
    "cycles per instruction": "an estimate: the median of published latency * clock / instructions"
    " over the networks of MicroNets that were run on the board (rows); the error is that of each"
    " row predicted from the others, mean and largest. Instructions are those of the CMSIS-NN of"
    " that time (October 2020), predicted per layer. Emulated boards: 1 by definition.",
    "power": "an estimate: published energy over published latency (the same paper).",
}
"""Where each figure of a device comes from."""

SILICON = "never run on silicon"
"""What this library's firmware is for a real board, until somebody reports that it ran."""


def device(name: str) -> Device:
    """The board of this name, whatever its case.

    Raises:
        ValueError: no such board; the message lists all.
    """
    known = {each.lower(): each for each in DEVICES}
    if name.lower() not in known:
        raise ValueError(f"device {name!r} is unknown; known are {', '.join(DEVICES)}")
    return DEVICES[known[name.lower()]]
