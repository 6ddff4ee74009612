"""From a supernet to a stand-alone network: sliced weights, recalibrated batch-norm moments.

Invariant: slices keep the first channels and the centre of a kernel, as the supernet's masks do.
Moments are those of the weights as they are.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from micronets_jax import recipes, supernet, training
from micronets_jax.network import Network, consumers
from micronets_jax.spaces.mobilenet_v2 import without_kernel
from micronets_jax.training import Variables

MOMENT_EXAMPLES = 4096
"""Training examples, augmented, of which a trained network's batch-norm moments are taken."""


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
    """The right inverse of :func:`weights`: a member's variables padded to its supernet's shapes.

    The supernet, masked to the member, computes what the member does, and trains as it does.

    Args:
        variables: of the member; layers that it lacks become zeros.
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
    compute = jax.jit(functools.partial(moments, supernet.Supernet(network)))
    seen = [compute(variables["params"], variables["batch_stats"], x) for x in batches]
    if not seen:
        raise ValueError("batches is empty: give at least one batch to take moments from")
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *seen)
    return {"params": variables["params"], "batch_stats": mean}


def settled(
    network: Network,
    variables: Variables,
    examples: training.Examples,
    inputs: training.Inputs,
    recipe: recipes.Training,
    *,
    seed: int,
) -> Variables:
    """Trained weights with batch-norm moments of many batches of training inputs.

    Running moments remember the last ten batches or so, while the weights still moved (Wu and
    Johnson, 2021, "Rethinking 'Batch' in BatchNorm", section 3). The inputs are augmented, as those
    are that the weights were trained with: moments of plain examples are worse (docs/recipes.md).

    Args:
        network: concrete.
        variables: as trained.
        examples: raw training examples.
        inputs: front end and augmentation.
        recipe: of the training; batches are of its size.
        seed: of the order of examples and of augmentation.

    Returns:
        The same weights, and moments of :data:`MOMENT_EXAMPLES` examples, or of all that the recipe
        sees.
    """
    count = -(-MOMENT_EXAMPLES // recipe.batch_size)
    with contextlib.closing(training.batches(examples, inputs, recipe, seed)) as drawn:
        return recalibrate(network, variables, (x for x, _ in itertools.islice(drawn, count)))


def moments(
    model: supernet.Supernet,
    params: Variables,
    batch_stats: Variables,
    x: Float[Array, "batch rows columns channels"],
    architecture: supernet.Architecture | None = None,
) -> Variables:
    """Batch-norm moments of one batch, each normalised by those before it.

    Args:
        model: a supernet, or a stand-alone network.
        params: its weights.
        batch_stats: moments of any values; only their shapes matter.
        x: inputs.
        architecture: masks of a supernet; None for a stand-alone network.

    Returns:
        Mean and variance [channels] of each batch norm, a tree like ``batch_stats``.
    """
    zeros = jax.tree.map(jnp.zeros_like, batch_stats)
    _, changed = model.apply(
        {"params": params, "batch_stats": zeros},
        x,
        architecture,
        train=True,
        mutable=["batch_stats"],
    )
    # One step from zero is the batch's own moment times what a step takes of it.
    return jax.tree.map(lambda m: m / (1 - supernet.MOMENTUM), changed["batch_stats"])


# ---------------------------------------------------------------- which channels come first


def importance(network: Network, params: Variables) -> dict[str, Int[Array, " channels"]]:
    """For each inverted bottleneck the order of its expanded channels, the most important first.

    A channel is as important as the sum of the absolute weights by which the projection reads it
    (Cai et al., "Once-for-All", ICLR 2020, section 3.3).

    Returns:
        Channels by the name of the expansion.
    """
    return {
        expand: jnp.argsort(-jnp.sum(jnp.abs(params[project]["kernel"]), axis=(0, 1, 3)))
        for expand, _, project in _bottlenecks(network)
    }


def reorder(
    network: Network, order: dict[str, Int[Array, " channels"]], tree: Variables
) -> Variables:
    """Weights, or moments, with expanded channels permuted; the network computes the same function.

    Args:
        network: the largest network of the supernet.
        order: of :func:`importance`.
        tree: by layer, then by name; layers that are not in it are passed over.
    """
    moved = dict(tree)
    for expand, depthwise, project in _bottlenecks(network):
        for name in (expand, depthwise):
            if name in moved:
                made = jax.tree.map(lambda leaf, e=expand: leaf[..., order[e]], moved[name])
                moved[name] = made
        if "kernel" in moved.get(project, {}):
            kernel = moved[project]["kernel"][:, :, order[expand]]
            moved[project] = {**moved[project], "kernel": kernel}
    return moved


def _bottlenecks(network: Network) -> list[tuple[str, str, str]]:
    """Convolutions that nothing reads but a depthwise one that nothing reads but a third."""
    readers, found = consumers(network), []
    for layer in network:
        if layer.kind != "conv" or len(readers[layer.name]) != 1:
            continue
        depthwise = network[readers[layer.name][0]]
        if depthwise.kind != "depthwise" or len(readers[depthwise.name]) != 1:
            continue
        project = network[readers[depthwise.name][0]]
        if project.kind == "conv":
            found.append((layer.name, depthwise.name, project.name))
    return found
