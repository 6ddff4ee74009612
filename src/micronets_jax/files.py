"""Files that are whole or absent: written under another name first, then renamed.

Invariant: under its final name a file holds all that was to be written, or what it held before.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO

TEMPORARY = ".partial-"
"""What the name of an unfinished file begins with; a killed process may leave one behind."""


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
