"""The weight-shared forward pass: one set of variables serves every architecture of a space.

Invariant: every channel is always computed and normalised by its own moments; an architecture is
only a mask on what the next channel-mixing layer reads. So masks never distort batch norm, and
under ``vmap`` over architectures the weights stay shared.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from micronets_jax import layers, quantize
from micronets_jax.decisions import Choice
from micronets_jax.network import INPUT, Layer, Network
from micronets_jax.spaces import Space

MOMENTUM = 0.9
"""Share of the old running moment that a training step keeps."""


class Architecture(NamedTuple):
    """What a supernet needs to know of a choice.

    Attributes:
        masks: by convolution with a width decision, weights in [0, 1] of its channels.
        presence: by layer, 1 or the weight with which it takes part.
    """

    masks: dict[str, Float[Array, " channels"]]
    presence: dict[str, Float[Array, ""]]


def architecture(space: Space, choice: Choice) -> Architecture:
    """The masks and mixing weights that a choice stands for; differentiable."""
    network = space.network(choice)
    presence = {layer.name: jnp.asarray(layer.presence, jnp.float32) for layer in network}
    return Architecture(space.masks(choice), presence)


class Supernet(nn.Module):
    """A network with batch norm after every convolution, masked where an architecture is given.

    A decided network is its own supernet: leave ``architecture`` out.

    Attributes:
        network: the layers; with mixes and largest widths for a search.
        bits: 8 simulates 8-bit weights and activations, ranges taken from each batch; None does
            not.
    """

    network: Network
    bits: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch rows columns channels"],
        architecture: Architecture | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "batch classes"]:
        """Logits.

        With ``train`` batch norm uses the batch's moments and, where ``batch_stats`` is mutable,
        updates the running ones; otherwise it uses the running ones.
        """
        # A tensor travels with the mask that its next channel-mixing reader applies.
        tensors: dict[str, tuple[Array, Array | None]] = {INPUT: (x, None)}
        for layer in self.network:
            tensors[layer.name] = self._layer(layer, tensors, architecture, train)
        return tensors[self.network.layers[-1].name][0]

    def _layer(
        self,
        layer: Layer,
        tensors: dict[str, tuple[Array, Array | None]],
        architecture: Architecture | None,
        train: bool,
    ) -> tuple[Array, Array | None]:
        x, mask = tensors[layer.inputs[0]]
        match layer.kind:
            case "conv":
                y = self._convolve(layer, _masked(x, mask), train)
                return y, architecture.masks.get(layer.name) if architecture else None
            case "depthwise":
                return self._convolve(layer, x, train), mask
            case "avg_pool":
                return layers.avg_pool(x, layer.kernel, layer.stride, layer.padding), mask
            case "reshape":
                return x.reshape(x.shape[0], -1), mask
            case "dense":
                weights = _Dense(layer, name=layer.name)()
                kernel = self._quantized_kernel(weights["kernel"])
                return _masked(x, mask) @ kernel + weights["bias"], None
            case "mix":
                if architecture is None:
                    return x, mask
                other, other_mask = tensors[layer.inputs[1]]
                weight = architecture.presence[layer.inputs[0]]
                mixed = weight * x + (1 - weight) * other
                if mask is None or other_mask is None:
                    return mixed, None
                return mixed, weight * mask + (1 - weight) * other_mask

    def _convolve(self, layer: Layer, x: Array, train: bool) -> Array:
        block = _Convolution(layer, name=layer.name)
        y = block(x, self._quantized_kernel, train)
        if self.bits is None:
            return y
        low = jnp.min(y) if layer.activation == "linear" else jnp.zeros(())
        low, high = lax.stop_gradient((jnp.minimum(low, 0.0), jnp.maximum(jnp.max(y), 1e-6)))
        return quantize.fake_quant(y, low, high, self.bits)

    def _quantized_kernel(self, kernel: Array) -> Array:
        if self.bits is None:
            return kernel
        largest = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
        scale = lax.stop_gradient(jnp.maximum(largest, 1e-8)) / (2 ** (self.bits - 1) - 1)
        return kernel + lax.stop_gradient(jnp.round(kernel / scale) * scale - kernel)


class _Convolution(nn.Module):
    """Kernel, batch norm, activation of one ``conv`` or ``depthwise`` layer."""

    layer: Layer

    @nn.compact
    def __call__(self, x: Array, quantized, train: bool) -> Array:
        layer, out = self.layer, self.layer.out_channels
        inputs = 1 if layer.kind == "depthwise" else layer.in_channels
        kernel = self.param("kernel", nn.initializers.he_normal(), (*layer.kernel, inputs, out))
        scale = self.param("scale", nn.initializers.ones, (out,))
        offset = self.param("offset", nn.initializers.zeros, (out,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (out,))
        var = self.variable("batch_stats", "var", jnp.ones, (out,))
        convolve = layers.depthwise if layer.kind == "depthwise" else layers.conv
        y = convolve(x, quantized(kernel), layer.stride, layer.padding)
        if not train:
            factor = scale * lax.rsqrt(var.value + layers.BATCH_NORM_EPSILON)
            return layers.activate(y * factor + (offset - mean.value * factor), layer.activation)
        y, batch_mean, batch_var = layers.batch_norm(y, scale, offset, layer.activation)
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * batch_mean
            var.value = MOMENTUM * var.value + (1 - MOMENTUM) * batch_var
        return y


class _Dense(nn.Module):
    """Variables of one ``dense`` layer."""

    layer: Layer

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        shape = (self.layer.in_channels, self.layer.out_channels)
        return {
            "kernel": self.param("kernel", nn.initializers.lecun_normal(), shape),
            "bias": self.param("bias", nn.initializers.zeros, shape[1:]),
        }


def _masked(x: Array, mask: Array | None) -> Array:
    return x if mask is None else x * mask


def init(key: jax.Array, network: Network) -> dict:
    """Variables ``{"params", "batch_stats"}`` of a network, float32."""
    x = jnp.zeros((1, *network.input_shape))
    return jax.jit(Supernet(network).init, static_argnames="train")(key, x, train=True)
