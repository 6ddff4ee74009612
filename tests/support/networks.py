"""Small networks, with weights and ranges about as a training leaves them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from micronets_jax import quantize
from micronets_jax.network import INPUT, Layer, Network
from micronets_jax.spaces import DSCNN, MobileNetV2
from micronets_jax.spaces.mobilenet_v2 import Stage

SPACE = DSCNN(max_width=40, strides=(2, 1, 1))
SMALL = dataclasses.replace(SPACE, input_shape=(13, 7, 1), stem_kernel=(3, 2), strides=(2, 1))
NETWORK = SMALL.member([8, 12, 12], [False, True])
RESIDUAL_SPACE = MobileNetV2(
    (20, 17, 1), width=0.5, stages=(Stage(1, 16, 1, 1), Stage(6, 24, 4, 2)), last_width=64
)
# Zeros for the shortcut of block 3, for the output of block 4, for none in block 5.
RESIDUAL = RESIDUAL_SPACE.member([8, 12], [5, 20, 28, 40, 48], [5, 6, 10, 2, 10])


def variables(network, seed=0):
    """Random params and batch statistics; channel 1 of a convolution is dead, channel 2 almost."""
    rng = np.random.default_rng(seed)
    params, stats = {}, {}
    for layer in network:
        n = layer.out_channels
        if layer.kind in ("conv", "depthwise"):
            shape = (*layer.kernel, layer.in_channels if layer.kind == "conv" else 1, n)
            kernel = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:3]))
            kernel[..., 1:2] = 0
            scale = rng.uniform(0.5, 1.5, n)
            scale[2:3] = 1e-9
            params[layer.name] = {
                "kernel": kernel,
                "scale": scale,
                "offset": rng.normal(size=n) / 3,
            }
            stats[layer.name] = {"mean": rng.normal(size=n) / 9, "var": rng.uniform(0.5, 2, n)}
        elif layer.kind == "dense":
            kernel = rng.normal(size=(layer.in_channels, n)) / np.sqrt(layer.in_channels)
            params[layer.name] = {"kernel": kernel, "bias": rng.normal(size=n)}
    return jax.tree.map(jnp.float32, (params, stats))


def inputs(network, n=16, seed=1):
    return np.random.default_rng(seed).normal(size=(n, *network.input_shape)).astype(np.float32)


def trained(network, seed=0):
    """Folded weights, and ranges about as a training would leave them."""
    folded = jax.jit(quantize.fold, static_argnums=0)(network, *variables(network, seed))
    rng = np.random.default_rng(seed)
    activation = {INPUT: {"min": -rng.uniform(2, 4), "max": rng.uniform(2, 4)}}
    weight = {}
    for layer in network:
        if layer.kind in quantize.RANGED:
            activation[layer.name] = {"max": rng.uniform(1, 4)}
            if layer.activation == "linear":
                activation[layer.name]["min"] = -rng.uniform(1, 4)
        if layer.kind in quantize.WEIGHTED:
            kernel = np.abs(folded[layer.name]["kernel"]).reshape(-1, layer.out_channels)
            weight[layer.name] = kernel.max(0) * rng.uniform(0.7, 1.05, layer.out_channels)
    return folded, jax.tree.map(jnp.float32, {"activation": activation, "weight": weight})


# Everything that a layer may be and the space does not use: VALID, relu6, linear, colour, 5x5, odd
# strides, pooling at the edge, a reshape of several pixels, two dense layers.
MIXED = Network(
    (31, 17, 3),
    (
        Layer("first", "conv", (INPUT,), 3, 8, (3, 3), (2, 2), "VALID", "relu6"),
        Layer("second", "depthwise", ("first",), 8, 8, (5, 5), (1, 1), "SAME"),
        Layer("halved", "avg_pool", ("second",), 8, 8, (2, 2), (2, 2)),
        Layer("third", "conv", ("halved",), 8, 12, (3, 3), (2, 1), activation="relu"),
        Layer("pooled", "avg_pool", ("third",), 12, 12, (2, 4), (2, 4), "VALID"),
        Layer("vector", "reshape", ("pooled",), 12, 24),
        Layer("hidden", "dense", ("vector",), 24, 16, activation="relu"),
        Layer("logits", "dense", ("hidden",), 16, 5),
    ),
)
# A classifier that is a convolution, and layers of one channel.
CONVOLUTIONAL = Network(
    (20, 20, 1),
    (
        Layer("blur", "depthwise", (INPUT,), 1, 1, (3, 3), (2, 2), "SAME", "relu6"),
        Layer("wide", "conv", ("blur",), 1, 6, (1, 1), (2, 2), activation="relu"),
        Layer("classes", "conv", ("wide",), 6, 7, (5, 5), (1, 1), "VALID"),
        Layer("logits", "reshape", ("classes",), 7, 7),
    ),
)
# Sums with activations, of a tensor and itself, of two that each another layer reads.
SUMS = Network(
    (9, 8, 4),
    (
        Layer("twice", "add", (INPUT, INPUT), 4, 4),
        Layer("wide", "conv", ("twice",), 4, 12, activation="relu6"),
        Layer("more", "pad", ("twice",), 4, 12),
        Layer("clipped", "add", ("wide", "more"), 12, 12, activation="relu6"),
        Layer("positive", "add", ("more", "clipped"), 12, 12, activation="relu"),
        Layer("pooled", "avg_pool", ("positive",), 12, 12, (9, 8), (9, 8), "VALID"),
        Layer("vector", "reshape", ("pooled",), 12, 12),
        Layer("logits", "dense", ("vector",), 12, 5),
    ),
)
NETWORKS = {
    "residual": RESIDUAL,
    "sums": SUMS,
    "all blocks": SPACE.member([8, 12, 16, 4], [True, True, True]),
    "first skipped": SPACE.member([40, 12, 20, 16], [False, True, True]),
    "last skipped": SPACE.member([4, 40, 8, 24], [True, True, False]),
    "stem only": SPACE.member([12, 4, 4, 4], [False, False, False]),
    "mixed": MIXED,
    "convolutional": CONVOLUTIONAL,
}


def random_inputs(network, n=20):
    """Random int8 inputs, among them the extremes."""
    x = np.random.default_rng(7).integers(-128, 128, (n, *network.input_shape)).astype(np.int8)
    x[0], x[1] = -128, 127
    return x
