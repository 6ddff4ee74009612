"""The table of operators: one row for each operator of TensorFlow Lite that compiles.

Invariant: everything that knows which operators there are asks this table: the builder, the
refusals, ``micronets operators`` and the documentation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from micronets_jax.compile.operators.builder import Builder
    from micronets_jax.tflite import Operator

Reader = Callable[["Builder", "Operator"], None]


@dataclasses.dataclass(frozen=True)
class Row:
    """One operator.

    Attributes:
        name: as TensorFlow Lite spells it.
        family: the module it is read in.
        limits: what of it compiles, in words.
        read: adds what the operator computes to the builder's graph.
        inputs: how many inputs, counted from the first, must be there.
        outputs: how many outputs it has; -1 for any number.
    """

    name: str
    family: str
    limits: str
    read: Reader
    inputs: int
    outputs: int


ROWS: dict[str, Row] = {}


FloatFunction = Callable[..., np.ndarray]
"""Of the arrays of the operator's inputs and, by name, its options; float32 in and out."""

FLOAT_FUNCTIONS: dict[str, FloatFunction] = {}
"""What operators compute, element by element, where a model computes in float32."""


def reads(
    name: str, limits: str = "", inputs: int = 1, outputs: int = 1
) -> Callable[[Reader], Reader]:
    """Adds a reader to :data:`ROWS` under the name of its operator.

    Args:
        name: as TensorFlow Lite spells it.
        limits: what of it compiles, in words.
        inputs: how many inputs must be there, counted from the first.
        outputs: how many outputs it has; -1 for any number.

    Returns:
        A decorator, which gives the reader back as it is.
    """

    def register(read: Reader) -> Reader:
        family = read.__module__.rsplit(".", 1)[-1]
        ROWS[name] = Row(name, family, limits, read, inputs, outputs)
        return read

    return register
