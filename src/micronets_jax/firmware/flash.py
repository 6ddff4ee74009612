"""Putting a firmware onto a board with OpenOCD or st-flash.

Invariant: the command that is run is the one that is printed.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import shutil
import subprocess

from micronets_jax import devices
from micronets_jax.firmware import boards, execute, link
from micronets_jax.firmware.boards import FirmwareError

FLASH_SECONDS = 180


@dataclasses.dataclass(frozen=True)
class Flashing:
    """Commands that flash a firmware, and the one that was run, if a tool for it is here."""

    commands: tuple[str, ...]
    ran: str | None


def flash(folder: str | pathlib.Path) -> Flashing:
    """Links a firmware and flashes it with the first tool that this machine has.

    Raises:
        FirmwareError: the board is an emulated one, the build fails, or the tool does.
    """
    manifest = execute.read_manifest(folder)
    board = devices.device(manifest["device"])
    if board.emulated:
        raise FirmwareError(f"{board.name} is an emulated board: use `micronets run {folder}`")
    build = pathlib.Path(folder) / "build"
    program = f"program {build / 'firmware.elf'} verify reset exit"
    commands = (
        ["openocd", "-f", boards.startup(board).openocd, "-c", program],
        ["st-flash", "--reset", "write", str(build / "firmware.bin"), hex(board.flash.origin)],
    )
    printed = tuple(shlex.join(command) for command in commands)
    tool = next((command for command in commands if shutil.which(command[0])), None)
    if tool is None:
        return Flashing(printed, None)
    link.build(folder)
    try:
        done = subprocess.run(tool, capture_output=True, text=True, timeout=FLASH_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise FirmwareError(f"{tool[0]} did not end in {FLASH_SECONDS} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        last = next((line for line in said if "rror" in line), said[-1] if said else "no reason")
        raise FirmwareError(f"{tool[0]} failed: {last.strip()}; is the board plugged in?")
    return Flashing(printed, shlex.join(tool))
