"""Boards that this user measured: read by every prediction, written by ``micronets calibrate``.

Invariant: the file holds one row for each microcontroller, the last one measured; it is whole or
absent.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib

from micronets_jax import files
from micronets_jax.devices.speeds import DeviceError, Measured

VARIABLE = "MICRONETS_BOARDS"
"""Names another file; empty, there is none."""


def path() -> pathlib.Path | None:
    """The user's file: :data:`VARIABLE`, or ``micronets/boards.json`` where configurations lie."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return pathlib.Path(named) if named else None
    home = os.environ.get("XDG_CONFIG_HOME") or pathlib.Path("~/.config").expanduser()
    return pathlib.Path(home) / "micronets" / "boards.json"


def rows() -> tuple[Measured, ...]:
    """What the file holds; nothing if it is not there.

    Raises:
        DeviceError: it is damaged.
    """
    file = path()
    try:
        return () if file is None else _read(file, file.stat().st_mtime_ns)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise DeviceError(f"cannot read {file}: {error.strerror}") from error


@functools.lru_cache(maxsize=4)
def _read(file: pathlib.Path, changed: int) -> tuple[Measured, ...]:
    try:
        found = tuple(Measured(**row) for row in json.loads(file.read_text())["measured"])
        if not all(isinstance(row.factor, float) and row.factor > 0 for row in found):
            raise ValueError("a factor is no number above 0")
    except (ValueError, TypeError, KeyError) as error:
        raise DeviceError(
            f"{file}, which micronets calibrate writes, is damaged ({error}); delete it"
        ) from error
    return found


def keep(row: Measured) -> pathlib.Path:
    """Write a row in place of an older one of the same microcontroller; returns the file.

    Raises:
        DeviceError: the file is damaged, cannot be written, or there is none.
    """
    file = path()
    if file is None:
        raise DeviceError(f"{VARIABLE} is empty: give the file that is to hold the factor")
    kept = [*(other for other in rows() if other.device != row.device), row]
    text = json.dumps({"measured": [other._asdict() for other in kept]}, indent=1) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return files.write(file, text)
    except OSError as error:
        raise DeviceError(f"cannot write {file}: {error.strerror}") from error
