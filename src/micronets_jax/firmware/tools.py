"""Programs of the system that build and run firmware: their packages and oldest versions.

Invariant: a missing or too old tool is a sentence that names its Debian package.
"""

from __future__ import annotations

import re
import shutil
import subprocess

from micronets_jax.firmware.boards import FirmwareError

COMPILER = "arm-none-eabi-gcc"
EMULATOR = "qemu-system-arm"
DISASSEMBLER = "arm-none-eabi-objdump"

_PACKAGES = {
    COMPILER: "gcc-arm-none-eabi",
    "make": "make",
    EMULATOR: "qemu-system-arm",
    DISASSEMBLER: "binutils-arm-none-eabi",
}
_OLDEST = {EMULATOR: (6, 0)}  # older ones count otherwise


def has_compiler() -> bool:
    """Whether this machine can link a firmware."""
    return shutil.which(COMPILER) is not None and shutil.which("make") is not None


def has_emulator() -> bool:
    """Whether this machine can run a firmware: the emulator is there and not too old."""
    try:
        return bool(version(EMULATOR))
    except FirmwareError:
        return False


def require(*tools: str) -> None:
    """
    Raises:
        FirmwareError: one of them is not installed; the sentence names its Debian package.
    """
    for tool in tools:
        if shutil.which(tool) is None:
            raise FirmwareError(
                f"{tool} is not installed: install the Debian package {_PACKAGES[tool]}"
            )


def version(tool: str) -> str:
    """The version that a tool says it has, such as ``7.2.1``, or ``of unknown version``.

    Raises:
        FirmwareError: it is missing, does not start, or is too old.
    """
    require(tool)
    try:
        done = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FirmwareError(f"{tool} does not start: {error}") from error
    found = re.search(r"(\d+)\.(\d+)(\.\d+)?", done.stdout)
    said = found[0] if found else "of unknown version"
    if tool in _OLDEST and (not found or (int(found[1]), int(found[2])) < _OLDEST[tool]):
        oldest = ".".join(map(str, _OLDEST[tool]))
        raise FirmwareError(f"{tool} is {said}; install {oldest} or newer")
    return said


def versions() -> list[str]:
    """Compiler and emulator with their versions, as ``tool 1.2.3``.

    Raises:
        FirmwareError: as :func:`version`.
    """
    return [f"{tool} {version(tool)}" for tool in (COMPILER, EMULATOR)]
