"""The table of boards: all that start-up, linker script and emulator need to know, as data.

Invariant: nothing outside this table names a board. A new board of a family that is here is a new
entry; ``docs/firmware.md`` shows one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from micronets_jax import devices

KIB = 1024


class FirmwareError(ValueError):
    """What the user asked for cannot be built or run; the sentence says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """A stretch of addresses."""

    origin: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Board:
    """A board, or the emulation of one.

    Attributes:
        name: of its microcontroller, or of the emulated machine.
        core: Arm's name of the core, in lower case.
        clock_hz: of the core, and of the ticks that are counted.
        flash: where code and constants are.
        ram: where everything else is.
        source: the file of ``csrc/firmware`` that starts it.
        startup: what that file needs to know; names of C without ``BOARD_``.
        port: where its serial port comes out.
        machine: of qemu, if it is an emulated board.
        openocd: configuration of OpenOCD, empty if it cannot be flashed.
        seen_to_run: who saw this firmware run on the board; empty for "never run on silicon".
    """

    name: str
    core: str
    clock_hz: int
    flash: Memory
    ram: Memory
    source: str
    startup: Mapping[str, int]
    port: str
    machine: str = ""
    openocd: str = ""
    seen_to_run: str = ""

    @property
    def provenance(self) -> str:
        """One phrase that says how far the start-up code of this board has been tried."""
        if self.machine:
            return f"emulated (qemu {self.machine})"
        return self.seen_to_run or devices.SILICON


# Nucleo-64 and Nucleo-144 boards (UM1724, UM1974): 8 MHz from the ST-Link on the pin of the
# external clock; its virtual COM port on USART2 (PA2, PA3) or USART3 (PD8, PD9).
# Clock trees, overdrive and wait states at 3.3 V: the chapters PWR, FLASH and RCC of RM0390, RM0385
# and RM0410. FLASH_ACR: wait states, prefetch (bit 8), then instruction and data cache (9, 10) on
# the F4; prefetch and the accelerator (9) on the F7, whose flash is read here through the caches of
# the core. Both serial ports hang on APB1, a quarter of the core's clock.
_NUCLEO = {
    "HSE_HZ": 8_000_000, "PLL_M": 4, "PLL_P": 2, "WAIT": 200_000,
}  # fmt: skip
_F4 = {
    **_NUCLEO, "PLL_N": 180, "PLL_Q": 8, "FLASH_ACR": 0x705, "CACHES": 0, "USART": 0x40004400,
    "USART_GENERATION": 1, "USART_ENABLE": 17, "GPIO_PORT": 0, "TX_PIN": 2, "RX_PIN": 3,
}  # fmt: skip
_F7 = {
    **_NUCLEO, "PLL_N": 216, "PLL_Q": 9, "FLASH_ACR": 0x307, "CACHES": 1, "USART": 0x40004800,
    "USART_GENERATION": 2, "USART_ENABLE": 18, "GPIO_PORT": 3, "TX_PIN": 8, "RX_PIN": 9,
}  # fmt: skip
_MPS2 = {"UART": 0x40004000, "WAIT": 200_000}

BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        Board(
            "STM32F446RE", "cortex-m4", 180_000_000, Memory(0x08000000, 512 * KIB),
            Memory(0x20000000, 128 * KIB), "stm32.c", _F4, "ST-Link's virtual COM port",
            openocd="board/st_nucleo_f4.cfg",
        ),
        Board(
            "STM32F746ZG", "cortex-m7", 216_000_000, Memory(0x08000000, 1024 * KIB),
            Memory(0x20000000, 320 * KIB), "stm32.c", _F7, "ST-Link's virtual COM port",
            openocd="board/st_nucleo_f7.cfg",
        ),
        Board(
            "STM32F767ZI", "cortex-m7", 216_000_000, Memory(0x08000000, 2048 * KIB),
            Memory(0x20000000, 512 * KIB), "stm32.c", _F7, "ST-Link's virtual COM port",
            openocd="board/st_nucleo_f7.cfg",
        ),
        Board(
            "mps2-an386", "cortex-m4", 25_000_000, Memory(0x00000000, 4096 * KIB),
            Memory(0x20000000, 4096 * KIB), "mps2.c", _MPS2, "qemu's first serial port",
            machine="mps2-an386",
        ),
        Board(
            "mps2-an500", "cortex-m7", 25_000_000, Memory(0x00000000, 4096 * KIB),
            Memory(0x20000000, 4096 * KIB), "mps2.c", _MPS2, "qemu's first serial port",
            machine="mps2-an500",
        ),
    )
}  # fmt: skip
"""Every board by name."""

CORE_FLAGS = {
    "cortex-m4": "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16",
    "cortex-m7": "-mcpu=cortex-m7 -mthumb -mfloat-abi=hard -mfpu=fpv5-d16",
}
"""What tells a compiler of the core."""


def board(name: str) -> Board:
    """The board of this name, whatever its case.

    Raises:
        FirmwareError: no such board; the sentence lists all.
    """
    known = {each.lower(): each for each in BOARDS}
    if name.lower() not in known:
        raise FirmwareError(f"unknown device {name!r}; there are: {', '.join(BOARDS)}")
    return BOARDS[known[name.lower()]]


def emulated_twin(of: Board) -> Board:
    """The emulated board with the same core; ``of`` itself if it is emulated."""
    if of.machine:
        return of
    return next(b for b in BOARDS.values() if b.machine and b.core == of.core)


def header(of: Board) -> str:
    """``board.h``: the entry of the table for the C sources."""
    values = {
        "TICKS_HZ": of.clock_hz, "RAM_ORIGIN": of.ram.origin, "RAM_BYTES": of.ram.bytes,
        "BAUD": 115_200, **of.startup,
    }  # fmt: skip
    lines = [
        f"/* {of.name}, {of.core}: {of.provenance}. */",
        "#ifndef BOARD_H",
        "#define BOARD_H",
        "",
        "#include <stdint.h>",
        "",
        f'#define BOARD_NAME "{of.name}"',
        *(f"#define BOARD_{name} {_number(value)}" for name, value in values.items()),
        "",
        "void board_start(void);         /* clock, flash, serial port; every wait is bounded */",
        "uint32_t board_ticks_hz(void);  /* of the core, as it came out */",
        "const char *board_clock(void);  /* where the clock comes from */",
        "int board_get(void);            /* a byte that has come, or -1 */",
        "void board_put(uint8_t byte);",
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _number(value: int) -> str:
    return f"0x{value:08X}u" if value >= 1 << 24 and value % 1000 else f"{value}u"


HANDLER_STACK_BYTES = 512


def linker_script(of: Board, stack_bytes: int) -> str:
    """``link.ld``. The stack lies lowest, where running over its end is a fault."""
    return f"""\
/* {of.name}: code and constants in FLASH, the rest in RAM. */
MEMORY
{{
    FLASH (rx) : ORIGIN = 0x{of.flash.origin:08X}, LENGTH = {of.flash.bytes}
    RAM (rwx) : ORIGIN = 0x{of.ram.origin:08X}, LENGTH = {of.ram.bytes}
}}
ENTRY(core_start)
SECTIONS
{{
    .text : {{
        KEEP(*(.vectors))
        *(.text .text.*)
        *(.rodata .rodata.*)
        . = ALIGN(4);
        link_init_array = .;
        KEEP(*(SORT(.init_array.*)))
        KEEP(*(.init_array))
        link_init_array_end = .;
        . = ALIGN(8);
    }} > FLASH
    .ARM.exidx : {{ *(.ARM.exidx* .gnu.linkonce.armexidx.*) . = ALIGN(8); }} > FLASH
    .ARM.extab : {{ *(.ARM.extab* .gnu.linkonce.armextab.*) . = ALIGN(8); }} > FLASH
    .stack (NOLOAD) : {{
        link_stack_limit = .;
        . += {stack_bytes};
        link_stack_top = .;
        . += {HANDLER_STACK_BYTES};
        link_handler_stack_top = .;
    }} > RAM AT > RAM
    .data : {{
        link_data = .;
        *(SORT_BY_ALIGNMENT(.data) SORT_BY_ALIGNMENT(.data.*))
        . = ALIGN(8);
        link_data_end = .;
    }} > RAM AT > FLASH
    link_data_load = LOADADDR(.data);
    .bss (NOLOAD) : {{
        link_bss = .;
        *(SORT_BY_ALIGNMENT(.bss) SORT_BY_ALIGNMENT(.bss.*) COMMON)
        . = ALIGN(8);
        link_bss_end = .;
        end = .;
    }} > RAM AT > RAM
    /DISCARD/ : {{ *(.comment) *(.ARM.attributes.*) }}
}}
"""
