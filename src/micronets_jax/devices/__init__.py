"""Boards: memories, start-up, speed and power, each with its source.

Invariant: all that this library knows of a board is one row of :data:`DEVICES`, frozen data; what a
user measured of it lies in a file of the user's own (``own``).
Whatever ``latency`` derives from it is an estimate, never a measurement; the JSON files beside this
one hold what was counted, and how.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from micronets_jax.devices import own, speeds
from micronets_jax.devices.speeds import MEASURED, DeviceError, Measured, Speed, measured

__all__ = [
    "DEVICES", "MEASURED", "PROVENANCE", "Device", "DeviceError", "Measured", "Memory", "Speed",
    "Startup", "device", "emulated", "measured", "own", "twin",
]  # fmt: skip

KIB = 1024

SILICON = "never run on silicon"
"""What this library's firmware is for a real board, until somebody reports that it ran."""

NO_STARTUP = "no start-up code here: a model's C, to build into a project of one's own"
"""What there is for a board whose start-up nobody has written."""


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
    """A microcontroller, or the emulation of one.

    Attributes:
        name: of the microcontroller, or of the emulated machine.
        core: Arm's name of the core, in lower case.
        clock_mhz: its highest clock, at which firmware runs it.
        ram: its working memory; where it has several, the largest that one array can fill.
        flash: its storage for code and constants.
        startup: what firmware needs to know; None where nobody has written it, so that a model's C
            is all there is.
        boards: that carry it, by the names their makers give them.
        power_mw: power while it computes, or None where nobody published it.
    """

    name: str
    core: str
    clock_mhz: int
    ram: Memory
    flash: Memory
    startup: Startup | None = None
    boards: tuple[str, ...] = ()
    power_mw: float | None = None

    @property
    def clock_hz(self) -> int:
        """The clock in Hz."""
        return self.clock_mhz * 1_000_000

    @property
    def sram_bytes(self) -> int:
        """All of that memory."""
        return self.ram.bytes

    @property
    def flash_bytes(self) -> int:
        """All of its storage for code and constants."""
        return self.flash.bytes

    @property
    def emulated(self) -> bool:
        """Whether it is a machine of qemu."""
        return self.startup is not None and bool(self.startup.machine)

    @property
    def speed(self) -> Speed:
        """Of our build, memories included."""
        if self.emulated:
            return speeds.EMULATED
        return speeds.estimate(self.name, self.core, (*own.rows(), *MEASURED))

    @property
    def cycles_per_instruction(self) -> float:
        """Of our build, memories included: the factor of :attr:`speed`."""
        return self.speed.factor

    @property
    def ms_per_cycle(self) -> float:
        """Milliseconds."""
        return 0.001 / self.clock_mhz

    @property
    def ms_per_instruction(self) -> float:
        """Milliseconds, an estimate for our build."""
        return self.cycles_per_instruction * self.ms_per_cycle

    @property
    def provenance(self) -> str:
        """One phrase that says how far this library's firmware has been tried on it."""
        return NO_STARTUP if self.startup is None else self.startup.provenance

    def facts(self) -> dict[str, object]:
        """What summaries and ``micronets devices --json`` say of it."""
        return {
            "name": self.name,
            "core": self.core,
            "clock_mhz": self.clock_mhz,
            "sram_bytes": self.sram_bytes,
            "flash_bytes": self.flash_bytes,
            "boards": list(self.boards),
            "cycles_per_instruction": self.cycles_per_instruction,
            "cycles_per_instruction_range": [round(self.speed.low, 3), round(self.speed.high, 3)],
            "cycles_per_instruction_basis": self.speed.basis,
            "power_mw": self.power_mw,
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
_MPS2_SECURE = {**_MPS2, "UART": 0x50200000}  # where TrustZone's secure side, which starts, sees it
_MPS3 = {**_MPS2, "UART": 0x59303000}


def nucleo(numbers: Mapping[str, int], openocd: str) -> Startup:
    """Start-up of a Nucleo board with an STM32F4 or F7."""
    return Startup("stm32.c", numbers, "ST-Link's virtual COM port", openocd=openocd)


def emulation(machine: str, numbers: Mapping[str, int] = _MPS2) -> Startup:
    """Start-up of a machine of qemu's MPS2 and MPS3 families."""
    return Startup("mps2.c", numbers, "qemu's first serial port", machine=machine)


_NUCLEO_F4 = nucleo(_F4, "board/st_nucleo_f4.cfg")
_NUCLEO_F7 = nucleo(_F7, "board/st_nucleo_f7.cfg")

# Core, clock, memories: the makers' data sheets. Power: energy over latency of MicroNets (Banbury
# et al., MLSys 2021), tables 1 to 5. Emulated boards run at the clocks of Arm's AN385, AN386,
# AN500, AN505 and AN547, out of memories that answer at once. qemu has no Cortex-M0+ with room for
# a model: code for one runs on the Cortex-M3, which has all instructions of Armv6-M.
DEVICES = {
    device.name: device
    for device in (
        Device(
            "STM32F446RE", "cortex-m4", 180, Memory(0x20000000, 128 * KIB),
            Memory(0x08000000, 512 * KIB), _NUCLEO_F4, ("NUCLEO-F446RE",), 163.0,
        ),
        Device(
            "STM32F746ZG", "cortex-m7", 216, Memory(0x20000000, 320 * KIB),
            Memory(0x08000000, 1024 * KIB), _NUCLEO_F7, ("NUCLEO-F746ZG",), 445.0,
        ),
        Device(
            "STM32F767ZI", "cortex-m7", 216, Memory(0x20000000, 512 * KIB),
            Memory(0x08000000, 2048 * KIB), _NUCLEO_F7, ("NUCLEO-F767ZI",),
        ),
        Device(
            "STM32L4R5ZI", "cortex-m4", 120, Memory(0x20000000, 640 * KIB),
            Memory(0x08000000, 2048 * KIB), None, ("NUCLEO-L4R5ZI",),
        ),
        Device(
            "STM32H743ZI", "cortex-m7", 480, Memory(0x24000000, 512 * KIB),
            Memory(0x08000000, 2048 * KIB), None, ("NUCLEO-H743ZI",),
        ),
        Device(
            "STM32U575ZI", "cortex-m33", 160, Memory(0x20000000, 768 * KIB),
            Memory(0x08000000, 2048 * KIB), None, ("NUCLEO-U575ZI",),
        ),
        Device(
            "nRF52840", "cortex-m4", 64, Memory(0x20000000, 256 * KIB),
            Memory(0x00000000, 1024 * KIB), None, ("nRF52840-DK", "Arduino Nano 33 BLE Sense"),
        ),
        Device(
            "nRF5340", "cortex-m33", 128, Memory(0x20000000, 512 * KIB),
            Memory(0x00000000, 1024 * KIB), None, ("nRF5340-DK",),
        ),
        Device(
            "RA6M4", "cortex-m33", 200, Memory(0x20000000, 256 * KIB),
            Memory(0x00000000, 1024 * KIB), None, ("EK-RA6M4",),
        ),
        Device(
            "RP2350", "cortex-m33", 150, Memory(0x20000000, 520 * KIB),
            Memory(0x10000000, 4096 * KIB), None, ("Raspberry Pi Pico 2",),
        ),
        Device(
            "RP2040", "cortex-m0plus", 133, Memory(0x20000000, 264 * KIB),
            Memory(0x10000000, 2048 * KIB), None, ("Raspberry Pi Pico",),
        ),
        Device(
            "mps2-an386", "cortex-m4", 25, Memory(0x20000000, 4096 * KIB),
            Memory(0x00000000, 4096 * KIB), emulation("mps2-an386"),
        ),
        Device(
            "mps2-an500", "cortex-m7", 25, Memory(0x20000000, 4096 * KIB),
            Memory(0x00000000, 4096 * KIB), emulation("mps2-an500"),
        ),
        Device(
            "mps2-an505", "cortex-m33", 20, Memory(0x38000000, 4096 * KIB),
            Memory(0x10000000, 4096 * KIB), emulation("mps2-an505", _MPS2_SECURE),
        ),
        Device(
            "mps3-an547", "cortex-m55", 32, Memory(0x31000000, 4096 * KIB),
            Memory(0x10000000, 512 * KIB), emulation("mps3-an547", _MPS3),
        ),
        Device(
            "mps2-an385", "cortex-m3", 25, Memory(0x20000000, 4096 * KIB),
            Memory(0x00000000, 4096 * KIB), emulation("mps2-an385"),
        ),
        Device(
            "mps2-an385-v6m", "cortex-m0plus", 25, Memory(0x20000000, 4096 * KIB),
            Memory(0x00000000, 4096 * KIB), emulation("mps2-an385"),
        ),
    )
}  # fmt: skip
"""Every known microcontroller by name."""

PROVENANCE = {
    "core, clock, SRAM, flash": "the maker's data sheet: the highest clock, and the largest memory"
    " that one array can fill. Emulated boards: Arm's AN385, AN386, AN500, AN505, AN547.",
    "cycles per instruction": "an estimate for our build, -O2, on which nobody has published a"
    " latency: the median of latency * clock / instructions, each layer's times its pace, over the"
    " networks of the nearest published build; nine of ten networks lie in the range. Emulated"
    " boards: 1 by definition.",
    "power": "an estimate: published energy over published latency (Banbury et al., MLSys 2021).",
}
"""Where each figure of a device comes from."""


def device(name: str) -> Device:
    """The microcontroller of this name or on the board of this name, whatever their case.

    Raises:
        DeviceError: no such board; the message lists all microcontrollers.
    """
    known = {each.lower(): on.name for on in DEVICES.values() for each in (on.name, *on.boards)}
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
