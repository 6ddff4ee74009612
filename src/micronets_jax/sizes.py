"""Flash and stack of the C kernels and of the firmware around them, as measured.

Invariant: every number lies in one file, which ``python -m experiments.sizes --ship`` measures and
writes; after a change to ``csrc`` no other number changes. JAX is not loaded.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import Any

from micronets_jax.counts import Count, align, maximum, total
from micronets_jax.kernels import CSRC

PATH = CSRC / "sizes.json"


@functools.cache
def table() -> dict[str, Any]:
    """The file's content."""
    return json.loads(PATH.read_text())


# ---------------------------------------------------------------- names


def depthwise(side: int, stride: int, rounding: str = "MN_MIXED") -> str:
    """In the table: a depthwise kernel of squares and this stride of columns, or with ``side`` 0
    one of any other window."""
    name = f"depthwise_{side}_s{stride}" if side else "depthwise"
    return f"{name}_mixed" if rounding == "MN_MIXED" else name


def depthwise_line(columns: int, stride: int, rounding: str) -> str:
    """Likewise a kernel of windows of one row."""
    name = f"depthwise_line_{columns}_s{stride}"
    return f"{name}_mixed" if rounding == "MN_MIXED" else name


def depthwise_fours(rounding: str) -> str:
    """Likewise a kernel that takes four outputs at a time."""
    return "depthwise_fours_mixed" if rounding == "MN_MIXED" else "depthwise_fours"


DEPTHWISE_ROW_THREES = "depthwise_row_threes"
"""A kernel of short rows, all of one at once."""


def depthwise_row(side: int, stride: int) -> str:
    """Likewise a kernel of one row."""
    return f"depthwise_row_{side}_s{stride}" if side else "depthwise_row"


# ---------------------------------------------------------------- kernels


def code_bytes(kernels: Iterable[tuple[str, str, Count]]) -> Count:
    """Flash of kernels, with all that they need and each part of it once.

    Args:
        kernels: of each its name in the table; the function, of which a program can have several
            with one name in the table; and 1 where the program has it, else 0.
    """
    rows = list(kernels)
    users: dict[str, list[int]] = {}  # of each part
    size_of: dict[str, int] = {}
    for i, (name, function, _) in enumerate(rows):
        for part, size in _row(name)["flash"].items():
            key = part.replace(name, function) if part.startswith(f"model {name}") else part
            users.setdefault(key, []).append(i)
            size_of[key] = size
    together: dict[tuple[int, ...], int] = {}  # bytes of all parts that the same kernels need
    for part, using in users.items():
        together[tuple(using)] = together.get(tuple(using), 0) + size_of[part]
    return total(size * _any([rows[i][2] for i in using]) for using, size in together.items())


def _any(present: list[Count]) -> Count:
    """1 where any is, without asking all where one is known to be."""
    known = [there for there in present if isinstance(there, int)]
    return 1 if any(known) else maximum([0, *present])


CALL_BYTES, RUN_BYTES = 26, 24
"""Flash of ``model_run`` in bytes: for each call (its mark, the address of its parameters), and the
rest."""


PUSH_BYTES = 272
"""Bytes by which ``model_begin`` and ``model_push`` exceed ``model_run``: 256 to 272 in four
models."""


def run_bytes(calls: Count, pushed: bool = False) -> Count:
    """Flash of ``model_run``, which calls the kernels, or of what takes rows in its place."""
    return RUN_BYTES + CALL_BYTES * calls + PUSH_BYTES * pushed


def stack_bytes(kernels: Iterable[tuple[str, Count]]) -> Count:
    """Stack of the kernel that takes most, below the function that calls them.

    Args:
        kernels: of each its name in the table, and 1 where the program has it, else 0.
    """
    rows = [(_row(name)["stack"], there) for name, there in kernels]
    known = [taken * there for taken, there in rows if isinstance(there, int)]
    least = max([_firmware()["a mark"], *known])
    rest = [row for row in rows if not isinstance(row[1], int)]
    return maximum([least, *(taken * there for taken, there in rest if taken > least)])


RUN_STACK_BYTES = 48
"""Stack of ``model_run`` in bytes: the most of 96 programs of random networks. It grows with the
number of addresses; for most programs it is 24 or 32."""


STREAM_STACK_BYTES = 24
"""Bytes of a stretch's progress on the stack of its caller."""


def _row(name: str) -> dict[str, Any]:
    if name in _LIBRARY:
        return {"stack": 0, "flash": {}}
    return table()["kernels"][name]


_LIBRARY = ("memcpy", "memmove", "memset")  # which a firmware has anyway


# ---------------------------------------------------------------- the firmware around


KINDS = ("plain", "rows", "audio", "audio rows", "listening")
"""Kinds of firmware: input whole or row by row; with a front end, whose frames are rows or not; and
a spotter on a stream."""


def base_flash(startup: str, core: str, kind: str = "plain") -> int:
    """Flash of vectors, start-up, protocol, main, a front end's code and the compiler's library, by
    start-up file and kind; for a core without a measurement the largest of the others."""
    found = _firmware()["flash"][kind][startup]
    return found.get(core, max(found.values()))


def engine_bytes(kind: str = "plain") -> int:
    """Flash of what runs a compiled model for a firmware of this kind."""
    return _firmware()["engine"][kind]


def hearing_bytes(core: str, kind: str) -> tuple[int, int]:
    """Bytes of stack and of flash by which a firmware of kind ``audio`` or ``listening`` exceeds a
    plain one at most, its tables not counted."""
    more = [
        base_flash(startup, core, kind) - base_flash(startup, core)
        for startup in _firmware()["flash"]["plain"]
    ]
    stack = {kind: row["above the model"] for kind, row in _firmware()["stack"].items()}
    return align(stack[kind] - stack["plain"], 8), max(more)


INTERRUPT_BYTES = 112
"""What a core may save on the stack when the clock interrupts it: 26 words where floats are in use,
and one to align (Armv7-M Architecture Reference Manual, B1.5.7); to a multiple of 8."""


def thread_stack_bytes(model: Count, kind: str = "plain") -> Count:
    """Stack of a firmware's thread.

    Args:
        model: bytes that running the model takes, :data:`RUN_STACK_BYTES` included.
        kind: one of :data:`KINDS`.
    """
    row = _firmware()["stack"][kind]
    deepest = maximum([row["above the model"] + model, row["besides the model"]])
    return align(deepest, 8) + INTERRUPT_BYTES


def more_stack_bytes(core: str) -> int:
    """Most stack that a firmware takes on a core whose kernels are not those of the DSP extension
    more than on others; 0 for these."""
    return align(_firmware()["more stack"].get(core, 0), 8)


def _firmware() -> dict[str, Any]:
    return table()["firmware"]
