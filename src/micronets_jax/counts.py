"""Arithmetic on counts: channels, bytes, operations.

Invariant: every function takes Python ints, int32 arrays and floats alike; ints give Python ints,
arrays arrays, and floats have the gradient of the exact arithmetic without its roundings. JAX is
loaded by the first count that is not an int: the compiler counts with ints alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

Count = Any  # a Python int, or a traced int32 or float32 scalar
Counts = Any  # an array of them, NumPy's or JAX's
Condition = Any  # a Python bool, or a traced one
Tree = TypeVar("Tree")


def total(values: Iterable[Count]) -> Count:
    """The sum; 0 of nothing."""
    return functools.reduce(lambda a, b: a + b, values, 0)


def summed(formula: Callable[..., Count], rows: Iterable[tuple[Count, ...]]) -> Count:
    """The sum of ``formula(*row)`` over rows of counts, all alike; 0 of none.

    Floats go through the formula by column, all rows at once. Row by row a cost would be thousands
    of scalars, which XLA computes again in every fusion that reads one: where the cost is part of a
    loss, once for each decision's gradient, which takes minutes to compile.
    """
    rows = list(rows)
    if any(is_float(count) for row in rows for count in row):
        import jax.numpy as jnp

        return jnp.sum(formula(*(stacked(column) for column in zip(*rows, strict=True))))
    return total(formula(*row) for row in rows)


def stacked(counts: Sequence[Count]) -> Count:
    """Counts as one array of the type that holds them all."""
    import jax.numpy as jnp

    dtype = jnp.result_type(*counts)
    return jnp.stack([jnp.asarray(count, dtype) for count in counts])


# ---------------------------------------------------------------- multiples


def align(x: Count, multiple: Count) -> Count:
    """``x`` rounded up to a multiple of a power of 2; the gradient passes straight through."""
    if is_float(x):
        import jax.numpy as jnp

        return straight(x, jnp.ceil(jnp.round(x) / multiple) * multiple)
    return (x + multiple - 1) & -multiple


def parts(x: Count, size: int) -> Count:
    """``x / size`` rounded up, for ``size`` a power of 2; the gradient is that of ``x / size``."""
    return align(x, size) * (1 / size) if is_float(x) else (x + size - 1) // size


def quotient(x: Count, size: int) -> Count:
    """``x / size`` rounded down; the gradient is that of ``x / size``."""
    if is_float(x):
        import jax.numpy as jnp

        return straight(x / size, jnp.floor(jnp.round(x) / size))
    return x // size


def remainder(x: Count, size: int) -> Count:
    """``x`` modulo ``size``."""
    return x - size * quotient(x, size)


def ragged(x: Count, size: int) -> Condition:
    """Whether ``x`` is no multiple of ``size``; False for floats between whole numbers."""
    if is_float(x):
        import jax.numpy as jnp

        return (x == jnp.round(x)) & (jnp.round(x) % size != 0)
    return x % size != 0


def straight(slope: Count, value: Count) -> Count:
    """``value`` with the gradient of ``slope`` (straight-through)."""
    import jax

    return slope + jax.lax.stop_gradient(value - slope)


# ---------------------------------------------------------------- choices


def where(condition: Condition, a: Count, b: Count) -> Count:
    """``a`` where the condition holds, else ``b``."""
    if isinstance(condition, bool):
        return a if condition else b
    import jax.numpy as jnp

    return jnp.where(condition, a, b)


def maximum(values: Iterable[Count]) -> Count:
    """The largest of at least one value."""
    values = list(values)
    known = [v for v in values if isinstance(v, int)]
    traced = [v for v in values if not isinstance(v, int)]
    if not traced:
        return max(known)
    import jax.numpy as jnp

    return functools.reduce(jnp.maximum, [*traced, max(known)] if known else traced)


def minimum(a: Count, b: Count) -> Count:
    """The smaller one."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    import jax.numpy as jnp

    return jnp.minimum(a, b)


def folded(step: Callable[[Any, Any], Any], state: tuple[Count, ...], rows: Sequence[Any]) -> Any:
    """The state after ``step(state, row)`` for each row, named tuples of counts alike, last first.

    Many rows of traced counts become one compiled loop: written out, XLA would compute what each
    step reads again and again.
    """
    known = all(isinstance(count, int) for row in rows for count in row)
    if known or len(rows) <= _WRITTEN_OUT:
        return functools.reduce(step, reversed(rows), state)
    import jax
    import jax.numpy as jnp

    columns = type(rows[0])(*(stacked(column) for column in zip(*rows, strict=True)))
    start = tuple(jnp.asarray(count, jnp.int32) for count in state)
    return jax.lax.scan(lambda s, row: (step(s, row), None), start, columns, reverse=True)[0]


_WRITTEN_OUT = 32
"""Rows; a million architectures of the space of words a second need it."""


# ---------------------------------------------------------------- kinds of counts


def is_float(x: Any) -> bool:
    """Whether ``x`` is a float, in Python or an array."""
    if not hasattr(x, "dtype"):
        return isinstance(x, float)
    import jax.numpy as jnp

    return jnp.issubdtype(x.dtype, jnp.floating)


def is_soft(network: Any) -> bool:
    """Whether any count of the network is a float: an expectation."""
    import jax

    return any(is_float(leaf) for leaf in jax.tree.leaves(network))


def rounded(network: Tree) -> Tree:
    """The network with its floats rounded to int32; no gradient passes."""
    import jax
    import jax.numpy as jnp

    return jax.tree.map(
        lambda x: jax.lax.stop_gradient(jnp.round(x)).astype(jnp.int32) if is_float(x) else x,
        network,
    )
