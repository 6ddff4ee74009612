"""From a supernet to a network of its own: sliced weights, fresh batch-norm moments.

Invariant: where channels are cut, the first ones stay, and of a kernel its centre, as the masks of
the supernet have it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from micronets_jax import supernet
from micronets_jax.network import Network
from micronets_jax.spaces.mobilenet_v2 import without_kernel

Variables = dict[str, Any]


def weights(network: Network, variables: Variables) -> Variables:
    """The variables ``{"params", "batch_stats"}`` of a member, cut from its supernet's.

    Args:
        network: concrete; its layers bear the supernet's names, but for the size of a kernel.
        variables: of the supernet.
    """
    origins = {without_kernel(name): name for name in variables["params"]}
    x = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
    shapes: Any = jax.eval_shape(supernet.Supernet(network).init, jax.random.key(0), x)
    return {
        collection: {
            name: {
                leaf: _cut(variables[collection][origins[without_kernel(name)]][leaf], shape.shape)
                for leaf, shape in leaves.items()
            }
            for name, leaves in layers.items()
        }
        for collection, layers in shapes.items()
    }


def embed(variables: Variables, largest: Network) -> Variables:
    """The opposite of :func:`weights`: a member's variables where its supernet has them, and zeros.

    The supernet, masked to the member, computes what the member does, and trains as it does.

    Args:
        variables: of the member; layers that it does not have are zeros.
        largest: the network of the supernet.
    """
    x = jax.ShapeDtypeStruct((1, *largest.input_shape), jnp.float32)
    shapes: Any = jax.eval_shape(supernet.Supernet(largest).init, jax.random.key(0), x)

    def place(collection: str, name: str, leaf: str, shape: tuple[int, ...]) -> Array:
        zeros = jnp.zeros(shape, supernet.DTYPE)
        own = members[collection].get(without_kernel(name))
        return zeros if own is None else zeros.at[_places(shape, own[leaf].shape)].set(own[leaf])

    members = {
        collection: {without_kernel(name): leaves for name, leaves in layers.items()}
        for collection, layers in variables.items()
    }
    return {
        collection: {
            name: {leaf: place(collection, name, leaf, like.shape) for leaf, like in leaves.items()}
            for name, leaves in layers.items()
        }
        for collection, layers in shapes.items()
    }


def _cut(array: Array, shape: tuple[int, ...]) -> Array:
    return array[_places(array.shape, shape)]


def _places(full: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The first channels; of a kernel [rows, columns, inputs, outputs] the centre."""
    rows_and_columns = 2 if len(shape) == 4 else 0
    return tuple(
        slice((most - n) // 2, (most + n) // 2) if axis < rows_and_columns else slice(n)
        for axis, (most, n) in enumerate(zip(full, shape, strict=True))
    )


def recalibrate(
    network: Network,
    variables: Variables,
    batches: Iterable[Float[Array, "batch rows columns channels"]],
) -> Variables:
    """The same weights with batch-norm moments averaged over these batches.

    A supernet's running moments mix all architectures that it saw; a member needs its own.

    Raises:
        ValueError: ``batches`` is empty.
    """
    model = supernet.Supernet(network)
    before = jax.tree.map(jnp.zeros_like, variables["batch_stats"])

    @jax.jit
    def moments(x: Array) -> Variables:
        changed = model.apply(
            {"params": variables["params"], "batch_stats": before},
            x,
            train=True,
            mutable=["batch_stats"],
        )[1]
        # One step from zero is the batch's own moment times what a step takes of it.
        return jax.tree.map(lambda m: m / (1 - supernet.MOMENTUM), changed["batch_stats"])

    seen = [moments(x) for x in batches]
    if not seen:
        raise ValueError("batches is empty: give at least one batch to take moments from")
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *seen)
    return {"params": variables["params"], "batch_stats": mean}
