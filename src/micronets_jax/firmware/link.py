"""Linking a firmware, and its map against the prediction.

Invariant: sizes are those of the linked program, read from the linker's map: in flash everything
that is loaded, in RAM everything that is reserved, stacks included.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import subprocess
from collections.abc import Mapping

from micronets_jax.firmware import tools
from micronets_jax.firmware.boards import FirmwareError

LINK_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Linked:
    """A linked firmware.

    Attributes:
        elf: the program.
        flash: where it comes from -> bytes in flash.
        ram: likewise, in RAM.
    """

    elf: pathlib.Path
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


def build(folder: str | pathlib.Path) -> Linked:
    """Runs the folder's Makefile.

    Raises:
        FirmwareError: a tool is missing, a memory overflows, or the build fails.
    """
    tools.require(tools.COMPILER, "make")
    folder = pathlib.Path(folder)
    jobs = f"-j{os.cpu_count() or 1}"
    try:
        done = subprocess.run(
            ["make", "-s", "-C", str(folder), jobs],
            capture_output=True,
            text=True,
            timeout=LINK_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise FirmwareError(f"building {folder} did not end in {LINK_SECONDS} s") from error
    if done.returncode:
        raise FirmwareError(_reason(folder, done.stderr))
    return read_map(folder / "build" / "firmware.map", folder / "build" / "firmware.elf")


def _reason(folder: pathlib.Path, errors: str) -> str:
    overflows = re.findall(r"region `(\w+)' overflowed by (\d+) bytes", errors)
    if overflows:
        said = ", ".join(f"{name} overflows by {count} bytes" for name, count in overflows)
        return f"{folder} does not fit its board: {said}"
    missing = sorted(set(re.findall(r"undefined reference to `(.*?)'", errors)))
    if missing:
        return f"{folder} does not link: {missing[0]} is missing from the libraries"
    if "VFP register arguments" in errors or "conflicting" in errors:
        return f"{folder} does not link: the library was built for another core or float ABI"
    lines = [line for line in errors.splitlines() if "error" in line.lower()] or [errors[-300:]]
    return f"building {folder} failed: {lines[0].strip()}"


_OUTPUT = re.compile(r"^(\.[\w.]+)\s*(?:\n\s+)?0x([0-9a-f]+)\s+0x([0-9a-f]+)(.*)$", re.M)
_INPUT = re.compile(
    r"^ (\*fill\*|COMMON|\.[\w.$*]+)\s+0x([0-9a-f]+)\s+0x([0-9a-f]+)[ \t]*(\S*)", re.M
)
_IN_FLASH = (".text", ".ARM.exidx", ".ARM.extab", ".data")
_IN_RAM = (".stack", ".data", ".bss")


def read_map(path: pathlib.Path, elf: pathlib.Path) -> Linked:
    """Sizes by object file out of GNU ld's map.

    Raises:
        FirmwareError: there is no such map, or it is not one.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise FirmwareError(f"cannot read {path}: {error.strerror}") from error
    _, mark, text = text.partition("Linker script and memory map")
    if not mark:
        raise FirmwareError(f"{path} is not a map of the GNU linker; build again")
    sections = list(_OUTPUT.finditer(text))
    flash: dict[str, int] = {}
    ram: dict[str, int] = {}
    for here, following in zip(sections, [*sections[1:], None], strict=True):
        name, size = here[1], int(here[3], 16)
        if size == 0 or name not in {*_IN_FLASH, *_IN_RAM}:
            continue
        body = text[here.end() : following.start() if following else len(text)]
        parts: dict[str, int] = {}
        for _, _, length, file in _INPUT.findall(body) if name != ".stack" else ():
            owner = _owner(file)
            parts[owner] = parts.get(owner, 0) + int(length, 16)
        rest = size - sum(parts.values())
        if rest:
            parts["stacks" if name == ".stack" else "padding"] = rest
        for target, names in ((flash, _IN_FLASH), (ram, _IN_RAM)):
            if name in names:
                for owner, length in parts.items():
                    if length:
                        target[owner] = target.get(owner, 0) + length
    return Linked(elf, flash, ram)


def sections(text: str) -> list[tuple[int, int, str, str]]:
    """Address, bytes, file and name of every input section in GNU ld's map that takes bytes."""
    _, _, text = text.partition("Linker script and memory map")
    found = [(int(at, 16), int(n, 16), file, name) for name, at, n, file in _INPUT.findall(text)]
    return [section for section in found if section[1] and section[2]]


def _owner(file: str) -> str:
    """The object that an input section comes from: a file of ours, or a library."""
    if not file:
        return "padding"
    library = re.search(r"([\w.+-]+\.a)\(", file)
    return library[1] if library else pathlib.PurePath(file).name
