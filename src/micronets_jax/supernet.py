"""The weight-shared forward pass: one set of variables serves every architecture of a space.

Invariant: every channel is always computed and normalised by its own batch-norm moments; an
architecture is only a mask on the input of the next layer that mixes channels. So masks do not
change batch norm, and under ``vmap`` over architectures the weights are not batched.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core.scope import LazyRng
from jax import lax
from jaxtyping import Array, Float

from micronets_jax import accelerators, layers, quantize
from micronets_jax.decisions import Choice
from micronets_jax.network import INPUT, Layer, Network, consumers
from micronets_jax.spaces import Space

DTYPE = np.float32
"""Of all variables."""

MOMENTUM = 0.9
"""Share of the old running moment that a training step keeps."""


class Architecture(NamedTuple):
    """A choice as the supernet uses it.

    Attributes:
        masks: by name of a layer with a width decision, weights in [0, 1] of its channels;
            of a depthwise one with a kernel decision, of its kernel's positions [rows, columns].
        presence: by layer, its mixing weight in [0, 1].
    """

    masks: dict[str, Float[Array, ...]]
    presence: dict[str, Float[Array, ""]]


def architecture(space: Space, choice: Choice) -> Architecture:
    """The masks and mixing weights that a choice stands for; differentiable."""
    network = space.network(choice)
    presence = {layer.name: jnp.asarray(layer.presence, jnp.float32) for layer in network}
    return Architecture(space.masks(choice), presence)


class _Tensor(NamedTuple):
    """What flows between layers.

    Attributes:
        value: [batch, rows, columns, channels], or [batch, features].
        mask: weights of its channels, applied by the next layer that mixes them; None if all are 1.
        masked: whether the value is multiplied by its mask already.
    """

    value: Array
    mask: Array | None = None
    masked: bool = False

    def read(self) -> Array:
        """The value as a layer that mixes channels reads it."""
        return self.value if self.mask is None or self.masked else self.value * self.mask


class Supernet(nn.Module):
    """A network with batch norm after every convolution, and every dense layer with an activation,
    masked where an architecture is given.

    A decided network is its own supernet: leave ``architecture`` out.

    Attributes:
        network: the layers; with mixes and largest widths for a search.
        bits: 8 simulates weights and activations of 8 bits, or of the layer's own where these are
            fewer, ranges taken from each batch; None does not.
        precision: of the factors in convolutions and dense layers, ``float32`` or ``bfloat16``;
            what a convolution gives is rounded to it once. Batch norm, activations, residual sums
            and variables are float32 either way.
    """

    network: Network
    bits: int | None = None
    precision: str = "float32"

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
        tensors = {INPUT: _Tensor(x)}
        for layer in self.network:
            tensors[layer.name] = self._layer(layer, tensors, architecture, train)
        return tensors[self.network.layers[-1].name].value

    def _layer(
        self,
        layer: Layer,
        tensors: dict[str, _Tensor],
        architecture: Architecture | None,
        train: bool,
    ) -> _Tensor:
        x = tensors[layer.inputs[0]]
        mask = architecture.masks.get(layer.name) if architecture else None
        match layer.kind:
            case "conv":
                return _Tensor(self._convolve(layer, x.read(), train), mask)
            case "depthwise":
                return _Tensor(self._convolve(layer, x.value, train, mask), x.mask)
            case "avg_pool":
                y = layers.avg_pool(x.value, layer.kernel, layer.stride, layer.padding)
                return x._replace(value=y)
            case "reshape":
                return x._replace(value=x.value.reshape(x.value.shape[0], -1))
            case "dense" if normalised(layer):
                return _Tensor(self._convolve(layer, x.read(), train)[:, 0, 0], mask)
            case "dense":
                weights = _Dense(layer, name=layer.name)()
                kernel = self._quantized_kernel(layer, weights["kernel"])
                factors = x.read().astype(self.precision), kernel.astype(self.precision)
                y = jnp.matmul(*factors, preferred_element_type=jnp.float32)
                return _Tensor(y + weights["bias"])
            case "pad":
                return _Tensor(layers.pad_channels(x.read(), layer.out_channels))
            case "add":
                return self._add(layer, x, tensors[layer.inputs[1]])
            case "mix":
                other = tensors[layer.inputs[1]]
                return x if architecture is None else _mixed(layer, x, other, architecture)

    def _add(self, layer: Layer, x: _Tensor, other: _Tensor) -> _Tensor:
        # A sum joins channels of two layers with different masks, so each side is masked before it.
        y = self._quantized(layer, layers.activate(x.read() + other.read(), layer.activation))
        return _Tensor(y, either(x.mask, other.mask), masked=True)

    def _convolve(
        self, layer: Layer, x: Array, train: bool, positions: Array | None = None
    ) -> Array:
        block = _Convolution(layer, name=layer.name)
        kernel = functools.partial(self._kernel, layer, positions)
        return self._quantized(layer, block(x.astype(self.precision), kernel, train))

    def _kernel(self, layer: Layer, positions: Array | None, kernel: Array) -> Array:
        if positions is not None:
            kernel = kernel * positions[:, :, None, None]
        return self._quantized_kernel(layer, kernel).astype(self.precision)

    def _quantized(self, layer: Layer, y: Array) -> Array:
        if self.bits is None:
            return y
        low = jnp.min(y) if layer.activation == "linear" else jnp.zeros(())
        low, high = lax.stop_gradient((jnp.minimum(low, 0.0), jnp.maximum(jnp.max(y), 1e-6)))
        return quantize.fake_quant(y, low, high, min(self.bits, layer.activation_bits))

    def _quantized_kernel(self, layer: Layer, kernel: Array) -> Array:
        if self.bits is None:
            return kernel
        largest = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
        levels = quantize.weight_max(min(self.bits, layer.weight_bits))
        scale = lax.stop_gradient(jnp.maximum(largest, 1e-8)) / levels
        return kernel + lax.stop_gradient(jnp.round(kernel / scale) * scale - kernel)


class _Convolution(nn.Module):
    """Kernel, batch norm, activation of one ``conv``, ``depthwise`` or ``dense`` layer."""

    layer: Layer

    @nn.compact
    def __call__(self, x: Array, quantized, train: bool) -> Array:
        layer, out = self.layer, self.layer.out_channels
        kernel = self.param("kernel", nn.initializers.he_normal(), _kernel_shape(layer))
        scale = self.param("scale", nn.initializers.ones, (out,))
        offset = self.param("offset", nn.initializers.zeros, (out,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (out,))
        var = self.variable("batch_stats", "var", jnp.ones, (out,))
        y = _multiplied(layer, x, quantized(kernel)).astype(jnp.float32)
        if not train:
            factor = scale * lax.rsqrt(var.value + layers.BATCH_NORM_EPSILON)
            return layers.activate(y * factor + (offset - mean.value * factor), layer.activation)
        y, batch_mean, batch_var = layers.batch_norm(y, scale, offset, layer.activation)
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * batch_mean
            var.value = MOMENTUM * var.value + (1 - MOMENTUM) * batch_var
        return y


def normalised(layer: Layer) -> bool:
    """Whether batch norm follows a layer: convolutions, and dense layers with an activation."""
    return layer.kind in ("conv", "depthwise") or (
        layer.kind == "dense" and layer.activation != "linear"
    )


def _kernel_shape(layer: Layer) -> tuple[int, ...]:
    inputs = 1 if layer.kind == "depthwise" else layer.in_channels
    taps = () if layer.kind == "dense" else layer.kernel
    return (*taps, inputs, layer.out_channels)


def _multiplied(layer: Layer, x: Array, kernel: Array) -> Array:
    match layer.kind:
        case "depthwise":
            return layers.depthwise(x, kernel, layer.stride, layer.padding)
        case "dense":  # a single pixel, as batch norm reads images
            return jnp.matmul(x, kernel)[:, None, None]
        case _:
            return layers.conv(x, kernel, layer.stride, layer.padding)


class _Dense(nn.Module):
    """Variables of one ``dense`` layer without batch norm."""

    layer: Layer

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        shape = (self.layer.in_channels, self.layer.out_channels)
        return {
            "kernel": self.param("kernel", nn.initializers.lecun_normal(), shape),
            "bias": self.param("bias", nn.initializers.zeros, shape[1:]),
        }


def _mixed(layer: Layer, x: _Tensor, other: _Tensor, architecture: Architecture) -> _Tensor:
    weight = architecture.presence[layer.inputs[0]]
    mixed = weight * x.value + (1 - weight) * other.value
    if x.mask is None or other.mask is None:
        return _Tensor(mixed)
    mask = weight * x.mask + (1 - weight) * other.mask
    return _Tensor(mixed, mask, x.masked and other.masked)


def either(x: Float[Array, " n"] | None, other: Float[Array, " n"] | None) -> Array | None:
    """The mask of a sum: a channel exists if it exists on either side.

    ``1 - (1 - a) (1 - b)``: the union of masks of zeros and ones, and of independent probabilities.
    """
    return None if x is None or other is None else x + other - x * other


def _ends_of_branches(network: Network) -> list[str]:
    """Convolutions whose output goes nowhere but into a sum, as its second side."""
    readers, ends = consumers(network), []
    for layer in network:
        if layer.kind != "add":
            continue
        end = network[layer.inputs[1]]
        if end.kind == "pad":
            end = network[end.inputs[0]]
        if end.kind in ("conv", "depthwise") and len(readers[end.name]) == 1:
            ends.append(end.name)
    return ends


def init(key: jax.Array, network: Network) -> dict:
    """Variables ``{"params", "batch_stats"}`` of a network, float32.

    The batch norm that ends the branch of a residual begins at 0, so a deep network begins as a
    shallow one (Goyal et al., 2017, "Accurate, Large Minibatch SGD", section 5.1). All else is what
    ``Supernet(network).init`` gives, which compiles a program of its own for every network.
    """
    params, batch_stats = {}, {}
    ends = _ends_of_branches(network)
    for layer in network:
        name, out = layer.name, layer.out_channels
        zeros = np.zeros(out, DTYPE)
        first = LazyRng.create(key, name, 1)  # as Flax has it for the first draw of a module
        if normalised(layer):
            kernel = _kernel(first.as_jax_rng(), _kernel_shape(layer), gain=2)
            scale = np.full(out, name not in ends, DTYPE)
            params[name] = {"kernel": kernel, "scale": scale, "offset": zeros}
            batch_stats[name] = {"mean": zeros, "var": zeros + 1}
        elif layer.kind == "dense":
            kernel = _kernel(first.as_jax_rng(), _kernel_shape(layer), gain=1)
            params[name] = {"kernel": kernel, "bias": zeros}
    return jax.tree.map(jnp.asarray, {"params": params, "batch_stats": batch_stats})


def _kernel(key: jax.Array, shape: tuple[int, ...], gain: int) -> np.ndarray:
    """Normal numbers, cut off at two deviations, of variance ``gain`` over the inputs of a sum (He
    et al., 2015, for 2; LeCun et al., 1998, for 1)."""
    # The first numbers of a longer draw are those of a shorter one: few lengths, few programs.
    count, length = math.prod(shape), 256
    while length < count:
        length *= 4
    drawn = np.asarray(accelerators.once(_truncated_normal, key, length, static=(1,)))
    deviation = np.sqrt(DTYPE(gain / math.prod(shape[:-1]))) / DTYPE(0.87962566103423978)
    return drawn[:count].reshape(shape) * deviation


def _truncated_normal(key: jax.Array, length: int) -> Array:
    return jax.random.truncated_normal(key, -2, 2, (length,), DTYPE)
