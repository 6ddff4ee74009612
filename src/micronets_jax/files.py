"""Files that are whole or absent: written under another name first, then renamed.

Invariant: under its final name a file holds all that was to be written, or what it held before.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

TEMPORARY = ".partial-"
"""What the name of an unfinished file begins with; a killed process may leave one behind."""

CONFIGURATION, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
"""Files of a run's folder: its configuration, metrics of each epoch, and the summary."""


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


def score(record: Mapping[str, Any]) -> float | None:
    """What tells trainings apart, the higher the better: the validation accuracy of an epoch's
    record, minus the validation loss where there are no classes; None where neither is there."""
    if (loss := record.get("validation_loss")) is not None:
        return -loss
    return record.get("validation_accuracy")


def held(
    path: pathlib.Path, name: str, what: str, resume: bool, error: type[Exception]
) -> Any | None:
    """The JSON that says in a work folder what is kept there.

    Args:
        path: the folder.
        name: of the file.
        what: is kept, for the sentences: "run".
        resume: whether it is to be continued.
        error: of what kind errors are.

    Returns:
        The JSON, parsed; None of a new or an empty folder.

    Raises:
        error: the folder is a file, holds something else, is damaged, or is not to be continued.
    """
    if path.exists() and not path.is_dir():
        raise error(f"workdir={path} is a file; give the name of a folder")
    inside = list(path.iterdir()) if path.exists() else []
    others = [one for one in inside if not one.name.startswith(TEMPORARY)]
    if not others:
        return None
    if not (path / name).exists():
        raise error(
            f"workdir={path} holds files that are not a {what}'s, such as {others[0].name}; "
            "give an empty or a new folder"
        )
    if not resume:
        raise error(
            f"workdir={path} holds another {what}; add --resume to continue it, "
            "or give another --workdir"
        )
    try:
        return json.loads((path / name).read_text())
    except json.JSONDecodeError as wrong:
        raise error(f"{path / name} is damaged ({wrong}); give another --workdir") from wrong
