"""Boards: what they hold, how a program starts on them, how fast they compute, and who says so.

Invariant: all that this library knows of a board is one row of :data:`DEVICES`, frozen data.
Whatever ``latency`` derives from it is an estimate, never a measurement; the JSON files beside this
one hold what was counted, and how.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

KIB = 1024

SILICON = "never run on silicon"
"""What this library's firmware is for a real board, until somebody reports that it ran."""


class DeviceError(ValueError):
    """A board or a core that is not in the table; the message lists what is."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """A stretch of addresses."""

    origin: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Startup:
    """How a program starts on a board, and how it is reached.

    Attributes:
        source: the file of ``csrc/firmware`` that starts it.
        numbers: what that file needs to know; names of C without ``BOARD_``.
        port: where its serial port comes out.
        machine: of qemu, if it is an emulated board.
        openocd: configuration of OpenOCD, empty if it cannot be flashed.
        seen_to_run: who saw this firmware run on the board; empty for "never run on silicon".
    """

    source: str
    numbers: Mapping[str, int] = dataclasses.field(hash=False)
    port: str
    machine: str = ""
    openocd: str = ""
    seen_to_run: str = ""

    @property
    def provenance(self) -> str:
        """One phrase that says how far this start-up has been tried."""
        if self.machine:
            return f"emulated (qemu {self.machine})"
        return self.seen_to_run or SILICON


@dataclasses.dataclass(frozen=True)
class Device:
    """A board, or the emulation of one.

    Attributes:
        name: of its microcontroller, or of the emulated machine.
        core: Arm's name of the core, in lower case.
        clock_mhz: highest clock of the board, at which firmware runs it.
        ram: its working memory.
        flash: its storage for code and constants.
        startup: what firmware needs to know.
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
    ram: Memory
    flash: Memory
    startup: Startup
    cycles_per_instruction: float
    power_mw: float | None = None
    latency_rows: int = 0
    latency_error: float = 0.0
    largest_latency_error: float = 0.0

    @property
    def clock_hz(self) -> int:
        return self.clock_mhz * 1_000_000

    @property
    def sram_bytes(self) -> int:
        """All of its working memory."""
        return self.ram.bytes

    @property
    def flash_bytes(self) -> int:
        """All of its storage for code and constants."""
        return self.flash.bytes

    @property
    def emulated(self) -> bool:
        """Whether it is a machine of qemu."""
        return bool(self.startup.machine)

    def facts(self) -> dict[str, Any]:
        """What summaries and ``micronets devices --json`` say of it."""
        return {
            "name": self.name,
            "core": self.core,
            "clock_mhz": self.clock_mhz,
            "sram_bytes": self.sram_bytes,
            "flash_bytes": self.flash_bytes,
            "cycles_per_instruction": self.cycles_per_instruction,
            "power_mw": self.power_mw,
            "latency_rows": self.latency_rows,
            "latency_error": self.latency_error,
            "largest_latency_error": self.largest_latency_error,
        }


# Nucleo-64 and Nucleo-144 boards (UM1724, UM1974): 8 MHz from the ST-Link on the pin of the
# external clock; its virtual COM port on USART2 (PA2, PA3) or USART3 (PD8, PD9).
# Clock trees, overdrive and wait states at 3.3 V: the chapters PWR, FLASH and RCC of RM0390, RM0385
# and RM0410. FLASH_ACR: wait states, prefetch (bit 8), then instruction and data cache (9, 10) on
# the F4; prefetch and the accelerator (9) on the F7, whose flash is read here through the caches of
# the core. Both serial ports hang on APB1, a quarter of the core's clock.
_NUCLEO = {"HSE_HZ": 8_000_000, "PLL_M": 4, "PLL_P": 2, "WAIT": 200_000}
_F4 = {
    **_NUCLEO, "PLL_N": 180, "PLL_Q": 8, "FLASH_ACR": 0x705, "CACHES": 0, "USART": 0x40004400,
    "USART_GENERATION": 1, "USART_ENABLE": 17, "GPIO_PORT": 0, "TX_PIN": 2, "RX_PIN": 3,
}  # fmt: skip
_F7 = {
    **_NUCLEO, "PLL_N": 216, "PLL_Q": 9, "FLASH_ACR": 0x307, "CACHES": 1, "USART": 0x40004800,
    "USART_GENERATION": 2, "USART_ENABLE": 18, "GPIO_PORT": 3, "TX_PIN": 8, "RX_PIN": 9,
}  # fmt: skip
_MPS2 = {"UART": 0x40004000, "WAIT": 200_000}


def nucleo(numbers: Mapping[str, int], openocd: str) -> Startup:
    """Start-up of a Nucleo board with an STM32F4 or F7."""
    return Startup("stm32.c", numbers, "ST-Link's virtual COM port", openocd=openocd)


def emulation(machine: str) -> Startup:
    """Start-up of a machine of qemu's MPS2 family."""
    return Startup("mps2.c", _MPS2, "qemu's first serial port", machine=machine)


_NUCLEO_F4 = nucleo(_F4, "board/st_nucleo_f4.cfg")
_NUCLEO_F7 = nucleo(_F7, "board/st_nucleo_f7.cfg")

# Memory, power: MicroNets (Banbury et al., MLSys 2021), tables 1 to 5; power is energy over latency
# there, the clock is the boards' highest. Cycles per instruction: the median over that paper's rows
# of published latency * clock / instructions (characterize.board_factor); tests/test_devices.py
# fits them again. The instructions are those that latency predicts for the CMSIS-NN of that time.
# An emulated board takes a cycle for each instruction by definition, at the clock of Arm's AN386
# and AN500, out of memories that answer at once.
DEVICES = {
    device.name: device
    for device in (
        Device(
            "STM32F446RE", "cortex-m4", 180, Memory(0x20000000, 128 * KIB),
            Memory(0x08000000, 512 * KIB), _NUCLEO_F4, 1.99, 163.0, 6, 0.039, 0.132,
        ),
        Device(
            "STM32F746ZG", "cortex-m7", 216, Memory(0x20000000, 320 * KIB),
            Memory(0x08000000, 1024 * KIB), _NUCLEO_F7, 1.051, 445.0, 10, 0.041, 0.118,
        ),
        Device(
            "STM32F767ZI", "cortex-m7", 216, Memory(0x20000000, 512 * KIB),
            Memory(0x08000000, 2048 * KIB), _NUCLEO_F7, 1.005, None, 12, 0.052, 0.192,
        ),
        Device(
            "mps2-an386", "cortex-m4", 25, Memory(0x20000000, 4096 * KIB),
            Memory(0x00000000, 4096 * KIB), emulation("mps2-an386"), 1.0,
        ),
        Device(
            "mps2-an500", "cortex-m7", 25, Memory(0x20000000, 4096 * KIB),
            Memory(0x00000000, 4096 * KIB), emulation("mps2-an500"), 1.0,
        ),
    )
}  # fmt: skip
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


def device(name: str) -> Device:
    """The board of this name, whatever its case.

    Raises:
        DeviceError: no such board; the message lists all.
    """
    known = {each.lower(): each for each in DEVICES}
    if name.lower() not in known:
        raise DeviceError(f"device {name!r} is unknown; known are {', '.join(DEVICES)}")
    return DEVICES[known[name.lower()]]


def emulated(core: str) -> Device:
    """The emulated board with this core.

    Raises:
        DeviceError: there is none; the message lists all cores that can be emulated.
    """
    machines = {on.core: on for on in DEVICES.values() if on.emulated}
    if core not in machines:
        raise DeviceError(f"core {core!r} cannot be emulated; use one of {', '.join(machines)}")
    return machines[core]


def twin(of: Device) -> Device:
    """The emulated board with the same core; ``of`` itself if it is emulated.

    Raises:
        DeviceError: no emulated board has its core.
    """
    return of if of.emulated else emulated(of.core)
