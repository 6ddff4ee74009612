"""The operators: what each one of the file means, checked, as nodes of the graph.

Invariant: an operator that compiles is one row of :data:`registry.ROWS`: its name, what of it is
supported, and its reader. A reader adds nodes that compute what TensorFlow Lite Micro computes, or
refuses in words.
"""

from micronets_jax.compile import constants
from micronets_jax.compile.graph import Graph, rewrite
from micronets_jax.compile.operators import (  # noqa: F401  (readers register their rows)
    convolution,
    elementwise,
    move,
    reduction,
    state,
)
from micronets_jax.compile.operators.builder import Builder
from micronets_jax.compile.operators.registry import ROWS
from micronets_jax.tflite import Model


def build(model: Model) -> Graph:
    """Reads operators into nodes, in the file's order, then rewrites and folds constants.

    Raises:
        TFLiteError: what the file is instead of an int8 model, or all operators that are in the
            way, by name and index, with what would help.
    """
    return constants.fold(rewrite(Builder(model).build()))


def table() -> str:
    """The supported operators with their limits, as a table in Markdown."""
    lines = ["| operator | limits |", "|---|---|"]
    lines += [f"| {name} | {ROWS[name].limits} |" for name in sorted(ROWS)]
    return "\n".join(lines)
