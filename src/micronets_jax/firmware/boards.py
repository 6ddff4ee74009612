"""The files that depend on the board: ``board.h``, ``link.ld``, flags of compiler and linker.

Invariant: every fact of a board comes from its row in ``devices``; nothing here names one.
"""

from __future__ import annotations

from micronets_jax.devices import DEVICES, Device, Startup
from micronets_jax.reserves import HANDLER_STACK_BYTES


class FirmwareError(ValueError):
    """What the user asked for cannot be built or run; the sentence says why and what to do."""


CORE_FLAGS = {
    "cortex-m4": "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16",
    "cortex-m7": "-mcpu=cortex-m7 -mthumb -mfloat-abi=hard -mfpu=fpv5-d16",
    "cortex-m33": "-mcpu=cortex-m33 -mthumb -mfloat-abi=hard -mfpu=fpv5-sp-d16",
    "cortex-m55": "-mcpu=cortex-m55 -mthumb -mfloat-abi=hard -mfpu=auto",
    "cortex-m3": "-mcpu=cortex-m3 -mthumb -mfloat-abi=soft",
    "cortex-m0plus": "-mcpu=cortex-m0plus -mthumb -mfloat-abi=soft",
}
"""Flags of the compiler by core."""

VECTOR_CORES, PORTABLE_CORES = ("cortex-m55",), ("cortex-m3", "cortex-m0plus")
"""Of these, cores with the vector extension (MVE), and cores without the DSP extension."""

OTHER_CORES = (*VECTOR_CORES, *PORTABLE_CORES)
"""Cores whose kernels are not those of the DSP extension."""


def startup(of: Device) -> Startup:
    """How firmware starts on a board.

    Raises:
        FirmwareError: there is no start-up code for it.
    """
    if of.startup is None:
        known = ", ".join(on.name for on in DEVICES.values() if on.startup)
        raise FirmwareError(
            f"there is no start-up code for {of.name}: build the C that `micronets compile` writes "
            f"into a project of your own; firmware can be made for {known}"
        )
    return of.startup


def header(of: Device) -> str:
    """``board.h``: the row of the board for the C sources."""
    values = {
        "TICKS_HZ": of.clock_hz,
        "RAM_ORIGIN": of.ram.origin,
        "RAM_BYTES": of.ram.bytes,
        "BAUD": 115_200,
        **startup(of).numbers,
    }
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


def linker_script(of: Device, stack_bytes: int) -> str:
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
