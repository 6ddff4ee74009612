"""Files that are whole or absent: written under another name first, then renamed.

Invariant: under its final name a file holds all that was to be written, or what it held before.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO, Any

TEMPORARY = ".partial-"
"""What the name of an unfinished file begins with; a killed process may leave one behind."""

CONFIGURATION, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
"""What tells of a run in its folder: what decides it, one line an epoch, and what came out."""


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the name ``path`` when the block ends without an exception."""
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def write(path: pathlib.Path, content: str | bytes) -> pathlib.Path:
    """Write all of a file; returns its path."""
    with whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, without a last line cut short."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
