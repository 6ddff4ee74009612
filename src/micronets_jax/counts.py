"""Arithmetic on counts: channels, bytes, operations.

Invariant: every function takes Python ints, int32 arrays and floats alike; ints give Python ints,
arrays arrays, and floats have the gradient of the exact arithmetic without its roundings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from micronets_jax.network import Count, Network


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
        return jnp.sum(formula(*(stacked(column) for column in zip(*rows, strict=True))))
    return total(formula(*row) for row in rows)


def stacked(counts: Sequence[Count]) -> jax.Array:
    """Counts as one array of the type that holds them all."""
    dtype = jnp.result_type(*counts)
    return jnp.stack([jnp.asarray(count, dtype) for count in counts])


def align(x: Count, multiple: Count) -> Count:
    """``x`` rounded up to a multiple of a power of 2; the gradient passes straight through."""
    if is_float(x):
        aligned = jnp.ceil(jnp.round(x) / multiple) * multiple
        return x + jax.lax.stop_gradient(aligned - x)
    return (x + multiple - 1) & -multiple


def where(condition: Any, a: Count, b: Count) -> Count:
    """``a`` where the condition holds, else ``b``."""
    if isinstance(condition, bool):
        return a if condition else b
    return jnp.where(condition, a, b)


def maximum(values: Iterable[Count]) -> Count:
    """The largest of at least one value."""
    values = list(values)
    known = [v for v in values if isinstance(v, int)]
    traced = [v for v in values if not isinstance(v, int)]
    return functools.reduce(jnp.maximum, [*traced, max(known)] if known else traced)


def minimum(a: Count, b: Count) -> Count:
    """The smaller one."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else jnp.minimum(a, b)


def is_float(x: Any) -> bool:
    """Whether ``x`` is a float, in Python or an array."""
    return isinstance(x, float) or (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating))


def is_soft(network: Network) -> bool:
    """Whether any count of the network is a float: an expectation."""
    return any(is_float(leaf) for leaf in jax.tree.leaves(network))


def rounded(network: Network) -> Network:
    """The network with its floats rounded to int32; no gradient passes."""
    return jax.tree.map(
        lambda x: jax.lax.stop_gradient(jnp.round(x)).astype(jnp.int32) if is_float(x) else x,
        network,
    )
