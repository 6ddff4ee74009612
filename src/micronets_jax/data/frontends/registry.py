"""The protocol of front ends, and their serialisation beside a model.

Invariant: ``from_json(to_json(frontend)) == frontend``.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Shaped

Record = TypeVar("Record", bound=type)

_KINDS: dict[str, Any] = {}


@runtime_checkable
class FrontEnd(Protocol):
    """A frozen record of parameters, and a pure function from raw examples to features."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and channels of one example's features."""
        ...

    def read(self, path: pathlib.Path) -> Shaped[np.ndarray, "examples ..."]:
        """The raw examples of one file, as a data set stores them: one, or several parts.

        Raises:
            DataError: the file cannot be read.
        """
        ...

    def __call__(
        self, raw: Shaped[Array | np.ndarray, "batch ..."], /
    ) -> Float[Array, "batch rows columns channels"]:
        """Features of a batch of raw examples; jittable."""
        ...


def register(kind: str) -> Callable[[Record], Record]:
    """A decorator that lets a record be written and read under this kind."""

    def remember(record: Record) -> Record:
        _KINDS[kind] = record
        return record

    return remember


def to_json(frontend: FrontEnd) -> str:
    """The front end as readable text; ``from_json`` gives it back.

    Raises:
        ValueError: its class has no kind.
    """
    kinds = [kind for kind, record in _KINDS.items() if record is type(frontend)]
    if not kinds:
        raise ValueError(
            f"{type(frontend).__name__} has no kind; decorate it with frontends.register"
        )
    record: Any = frontend
    return json.dumps({"kind": kinds[0], **dataclasses.asdict(record)}, indent=2) + "\n"


def from_json(text: str) -> FrontEnd:
    """The front end that ``to_json`` wrote.

    Raises:
        ValueError: not a front end, or with an unknown or a missing parameter.
    """
    try:
        values = dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise ValueError(f"not the text of a front end: {error}") from error
    record = _KINDS.get(values.pop("kind", ""))
    if record is None:
        kinds = ", ".join(sorted(_KINDS))
        raise ValueError(f"not a front end of a known kind ({kinds}): {text[:80]!r}")
    known = {field.name for field in dataclasses.fields(record)}
    if set(values) != known:
        wrong = ", ".join(sorted(set(values) ^ known))
        raise ValueError(f"front end with unknown or missing parameters: {wrong}")
    return record(**values)
