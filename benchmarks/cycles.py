"""Cortex-M4 cycles of one inference: what the emulator executes, by the core's instruction timing.

    MICRONETS_REFERENCE=DIR TFLM_INCLUDE=A:B:C TFLM_M4=a python -m benchmarks.cycles

Blocks of instructions and how often each was followed by which come from qemu (``transitions.c``),
what an instruction takes from the Technical Reference Manual of the Cortex-M4 (r0p1, 3.3.1 and
3.3.2). Memory without wait states is assumed, and of what the manual leaves open: a taken branch
refills the pipeline in :data:`REFILL` cycles, a division takes the mean, and an instruction that an
IT block skips is counted as if it ran.

The command asks whether that says more than instructions do: networks of the MicroNets paper in
TensorFlow Lite Micro with a library of its target cortex_m_generic (90b983c, CMSIS-NN 99f736a),
against what the paper measured on an STM32F446RE at 180 MHz.

    network          instructions     cycles  on silicon
    MicroNet-KWS-M       36000932   42598890    76680000
    MicroNet-KWS-S       21567198   25651079    45000000
    MicroNet-VWW-2       13068011   15511700    32580000
    MicroNet-VWW-4       63875517   75558463   130680000
    MicroNet-AD-S        41318995   48547321    82260000
    DSCNN-S              10958807   13196217    23580000
    instructions  times 2.108: one network from the others 5.8 % off
    cycles        times 1.771: one network from the others 5.2 % off

So it does, but hardly: what is left, flash and the paper's build, is larger than what the timing
of instructions adds.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from benchmarks.reference import reference_folder
from micronets_jax import devices, export, firmware, latency_fit, zoo
from micronets_jax.devices import Device
from micronets_jax.firmware import execute, link

REFILL = 2
"""Cycles of a taken branch above one: the manual says 1 to 3."""

DIVISION = 7
"""Cycles of a division: the manual says 2 to 12."""

NOT_MODEL = ("firmware_mark", "core_ticks")
"""Functions of the firmware that note the time after each layer."""


class Instruction(NamedTuple):
    """One line of a disassembly.

    Attributes:
        address: in bytes.
        size: 2 or 4 bytes.
        name: as objdump spells it.
        operands: the rest of the line.
        function: in which it stands.
    """

    address: int
    size: int
    name: str
    operands: str
    function: str


Timing = Callable[[Instruction, Instruction | None, bool], int]
"""Cycles of an instruction, from the one before it and whether control went elsewhere."""


class Count(NamedTuple):
    """What an inference takes: executed instructions, and cycles of a Cortex-M4."""

    instructions: int
    cycles: int


def disassembled(elf: pathlib.Path) -> list[Instruction]:
    """The instructions of a program, by address."""
    lines = subprocess.run(
        ["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", str(elf)],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    found, function = [], ""
    for line in lines:
        if match := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            function = match[1]
        elif match := re.match(r" *([0-9a-f]+):\t([^\t ;]+)[\t ]*([^;@]*)", line):
            found.append((int(match[1], 16), match[2], match[3].strip(), function))
    ends = [address for address, *_ in found[1:]] + [found[-1][0] + 4]
    return [
        Instruction(address, end - address, *rest)
        for (address, *rest), end in zip(found, ends, strict=True)
    ]


def executed(elf: pathlib.Path, board: Device, plugin: pathlib.Path) -> dict[tuple[int, ...], int]:
    """How often each block (first and last address) was followed by what address, in one inference.

    Args:
        elf: a firmware.
        board: an emulated one.
        plugin: ``transitions.c``, compiled.
    """
    symbols = subprocess.run(
        ["arm-none-eabi-nm", str(elf)], capture_output=True, text=True, check=True
    ).stdout
    place = {line.split()[-1]: line.split()[0] for line in symbols.splitlines()}
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "blocks"
        ends = f"from={place['engine_run']},to={place['core_stack_used']}"
        with execute.emulated(elf, board, 600.0, ["-plugin", f"{plugin},{ends},out={out}"]) as at:
            at.run()
        counts: dict[tuple[int, ...], int] = collections.Counter()
        for line in out.read_text().splitlines():
            *addresses, count = line.split()
            counts[tuple(int(address, 16) for address in addresses)] += int(count)
    return counts


def _registers(operands: str) -> int:
    """How many registers a list in braces names."""
    count = 0
    for part in operands[operands.index("{") + 1 : operands.index("}")].split(","):
        first, _, last = part.strip().partition("-")
        count += int(last.strip()[1:]) - int(first[1:]) + 1 if last else 1
    return count


def _loads(instruction: Instruction) -> bool:
    """Whether it loads one register, so that what follows may overlap with it."""
    return instruction.name.startswith("ldr") and not instruction.name.startswith("ldrd")


def cycles_of(instruction: Instruction, before: Instruction | None, taken: bool) -> int:
    """Cycles of one instruction.

    Args:
        instruction: which.
        before: the one that was executed before it, None if not known.
        taken: whether control went elsewhere than to the next instruction.
    """
    name, operands = instruction.name.partition(".")[0], instruction.operands
    refill = REFILL if taken else 0
    if name.startswith(("ldm", "stm", "push", "pop", "vldm", "vstm", "vpush", "vpop")):
        return 1 + _registers(operands) + refill
    if name.startswith(("ldrd", "strd")):
        return 3
    if name.startswith(("ldr", "str")):
        where = operands[operands.index("[") :] if "[" in operands else ""
        inner = where[1 : where.index("]")].split(",") if where else []
        indexed = len(inner) > 1 and not inner[1].strip().startswith("#")
        cycles = 1 if name.startswith("str") and not indexed else 2
        if cycles == 2 and before is not None and _loads(before) and not taken:
            made = before.operands.split(",")[0].strip()
            used = {part.strip() for part in inner}
            cycles -= made not in used
        return cycles + refill
    if name.startswith(("vldr", "vstr")):
        return 2
    if name.startswith(("vdiv", "vsqrt")):
        return 14
    if name.startswith(("vmla", "vmls", "vfma", "vfms", "vfnm", "vnml")):
        return 3
    if name.startswith(("udiv", "sdiv")):
        return DIVISION
    if name.startswith(("tbb", "tbh")):
        return 2 + REFILL
    if name.startswith(("msr", "mrs")):
        return 2
    if re.fullmatch(r"it[te]*", name):  # folded into an instruction of 16 bits before it
        return int(before is None or before.size == 4)
    return 1 + refill


def m0plus_cycles_of(instruction: Instruction, before: Instruction | None, taken: bool) -> int:
    """Likewise of a Cortex-M0+ with the fast multiplier, by its Technical Reference Manual (r0p1,
    3.3): memory that answers at once, no instruction waits for the one before it."""
    name, operands = instruction.name.partition(".")[0], instruction.operands
    if name in ("ldm", "ldmia", "stm", "stmia", "push", "pop"):
        return 1 + _registers(operands) + 2 * taken
    if name.startswith(("ldr", "str")):
        return 2
    if name == "bl":
        return 3
    if name in ("mrs", "msr", "dmb", "dsb", "isb"):
        return 3
    return 1 + taken


TIMINGS: Mapping[str, Timing] = {"cortex-m0plus": m0plus_cycles_of}
"""By core; all others are counted by the Cortex-M4's manual."""


def count(elf: pathlib.Path, board: Device, plugin: pathlib.Path) -> dict[str, Count]:
    """What each function takes in one inference of a firmware on its built-in input."""
    timing = TIMINGS.get(board.core, cycles_of)
    listing = disassembled(elf)
    index = {instruction.address: i for i, instruction in enumerate(listing)}
    found: dict[str, Count] = {}
    for (first, last, after), times in executed(elf, board, plugin).items():
        block = listing[index[first] : index[last] + 1]
        taken = after != block[-1].address + block[-1].size
        cycles = sum(
            timing(one, before, taken and one is block[-1])
            for one, before in zip(block, [None, *block[:-1]], strict=True)
        )
        known = found.get(block[0].function, Count(0, 0))
        found[block[0].function] = Count(
            known.instructions + times * len(block), known.cycles + times * cycles
        )
    return {name: each for name, each in found.items() if name not in NOT_MODEL}


def total(functions: dict[str, Count]) -> Count:
    """The sum over functions."""
    return Count(*map(sum, zip(*functions.values(), strict=True)))


def built(folder: str | pathlib.Path) -> pathlib.Path:
    """``transitions.c`` as a plugin in the folder."""
    made = pathlib.Path(folder) / "transitions.so"
    source = pathlib.Path(__file__).with_name("transitions.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    return made


def main() -> None:
    reference = reference_folder()
    paper = json.loads((reference / "reference" / "micronets.json").read_text())
    column = paper["results_columns"].index("latency_s_small")
    core = devices.emulated("cortex-m4")
    hertz = devices.device("STM32F446RE").clock_hz
    counts, measured = [], []
    print(f"{'network':<16} {'instructions':>12} {'cycles':>10} {'on silicon':>11}")
    with tempfile.TemporaryDirectory() as folder:
        plugin = built(folder)
        for row in paper["results"]:
            task, name, seconds = row[0], row[1], row[column]
            if seconds is None or name not in zoo.names():
                continue
            network = zoo.network(name, 8 if task == "ad" else None)
            weights = latency_fit.random_weights(np.random.default_rng(0), network)
            place = pathlib.Path(folder) / name
            firmware.write(
                export.assemble(network, *weights), core.name, place, runtime="tflm",
                tflm_library=os.environ["TFLM_M4"],
            )  # fmt: skip
            counts.append(total(count(link.build(place).elf, core, plugin)))
            measured.append(seconds * hertz)
            print(f"{name:<16} {counts[-1][0]:>12} {counts[-1][1]:>10} {measured[-1]:>11.0f}")
    for what, values in zip(Count._fields, np.array(counts).T, strict=True):
        factor, errors = latency_fit.board_factor(values, np.array(measured))
        error = 100 * np.abs(errors).mean()
        print(f"{what:<13} times {factor:.3f}: one network from the others {error:.1f} % off")


if __name__ == "__main__":
    main()
