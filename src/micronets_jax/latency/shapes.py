"""What decides how often a kernel repeats its steps: windows, and channels in groups.

Invariant: positions are static Python numbers; only what depends on channels may be traced.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from micronets_jax.counts import align, is_float
from micronets_jax.network import Count, Layer


class Term(NamedTuple):
    """Steps that a layer takes ``count`` times as often as ``steps`` says.

    Attributes:
        count: a product of channels, which may be traced.
        steps: how often by name of the step, Python numbers that follow from the static shape.
    """

    count: Count
    steps: Mapping[str, float]


# ---------------------------------------------------------------- shapes


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel walks over a picture; every figure is static.

    Attributes:
        size: rows and columns of the input.
        out: rows and columns of the output.
        kernel, stride: rows and columns.
        before: rows and columns of padding above and to the left.
    """

    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]

    @staticmethod
    def of(layer: Layer, size: tuple[int, int], out: tuple[int, int]) -> Window:
        """The window of a layer with this input and output."""
        before = (0, 0)
        if layer.padding == "SAME":
            needed = [
                (o - 1) * s + k for o, s, k in zip(out, layer.stride, layer.kernel, strict=True)
            ]
            top, left = (max(0, need - n) // 2 for need, n in zip(needed, size, strict=True))
            before = top, left
        return Window(size, out, layer.kernel, layer.stride, before)

    @property
    def pixels(self) -> int:
        """Positions of the output."""
        return math.prod(self.out)

    def inside(self, axis: int) -> list[int]:
        """For each output row (or column), how many of the kernel's lie inside the picture."""
        starts = [i * self.stride[axis] - self.before[axis] for i in range(self.out[axis])]
        n, k = self.size[axis], self.kernel[axis]
        return [max(0, min(start + k, n) - max(start, 0)) for start in starts]

    def transposed(self) -> Window:
        """Rows and columns exchanged."""
        return Window(*((pair[1], pair[0]) for pair in dataclasses.astuple(self)))


# ---------------------------------------------------------------- channels in groups


def parts(x: Count, size: int) -> Count:
    """How many groups of ``size``, a power of 2, hold x; the last one need not be full."""
    return align(x, size) * (1 / size) if is_float(x) else (x + size - 1) // size


def quotient(x: Count, size: int) -> Count:
    """How many groups of ``size`` x fills; for floats with the slope of a plain division."""
    if is_float(x):
        whole = jnp.floor(jnp.round(x) / size)
        return x / size + jax.lax.stop_gradient(whole - x / size)
    return x // size


def remainder(x: Count, size: int) -> Count:
    """What is left beside the groups that x fills."""
    return x - size * quotient(x, size)


def ragged(x: Count, size: int) -> Any:
    """Whether x does not fill groups of ``size``; an expectation between two widths is not."""
    if is_float(x):
        return (x == jnp.round(x)) & (jnp.round(x) % size != 0)
    return x % size != 0
