"""Through TensorFlow's converter: a quantised network as the graph that the converter makes of it.

Invariant: the converter needs no calibration data. JAX lowers each layer on its own and
TensorFlow's fake quantisation stands between, which gives every range; weights come already
rounded, with 127 in each channel, so that it finds the trained scales again up to the last bit.
It knows no 4-bit weights and gets the nearest 8-bit ones.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from micronets_jax import layers
from micronets_jax.export.assembly import code_index
from micronets_jax.export.contents import load_schema, pad_amounts
from micronets_jax.network import INPUT, Layer, Network
from micronets_jax.operators import NAMED
from micronets_jax.quantize import WEIGHT_MAX, QuantizedLayer, QuantizedNetwork, weight_max

_ACTIVATIONS: dict[str, Callable[[Any], Callable[[Any], Any]]] = {
    "linear": lambda tf: tf.identity,
    "relu": lambda tf: tf.nn.relu,
    "relu6": lambda tf: tf.nn.relu6,
}


def convert(quantized: QuantizedNetwork, softmax: bool) -> bytes:
    """The converter's own file of a network whose weights all have 8 bits."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf
    from jax.experimental import jax2tf

    network = quantized.network

    def in_range(x: Any, name: str) -> Any:
        scale, zero_point = (float(v[name]) for v in (quantized.scales, quantized.zero_points))
        ends = (-128 - zero_point) * scale, (127 - zero_point) * scale
        return tf.quantization.fake_quant_with_min_max_vars(x, *ends)

    def forward(x: Any) -> Any:
        tensors = {INPUT: in_range(x, INPUT)}
        for layer in network:
            x = tensors[layer.inputs[0]]
            if layer.kind == "avg_pool":
                x = tf.nn.avg_pool2d(x, layer.kernel, layer.stride, layer.padding)
            elif layer.kind == "reshape":
                x = tf.reshape(x, (1, -1))
            elif layer.kind == "pad":
                x = tf.pad(x, pad_amounts(layer))
            elif layer.kind == "add":
                total = tf.add(x, tensors[layer.inputs[1]])
                x = in_range(_ACTIVATIONS[layer.activation](tf)(total), layer.name)
            else:
                function = _floats(quantized, layer)
                lowered = jax2tf.convert(
                    function, with_gradient=False, native_serialization_platforms=("cpu",)
                )
                x = in_range(lowered(x), layer.name)
            tensors[layer.name] = x
        return tf.nn.softmax(x) if softmax else x

    signature = [tf.TensorSpec((1, *network.input_shape), tf.float32, name=INPUT)]
    function = tf.function(forward, autograph=False, input_signature=signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def widen(quantized: QuantizedNetwork) -> QuantizedNetwork:
    """With the nearest 8-bit weights in place of 4-bit ones: for the converter."""
    network, wide = quantized.network, dict(quantized.layers)
    for name, weights in quantized.layers.items():
        if network[name].weight_bits == 8:
            continue
        finer = np.float32(WEIGHT_MAX / weight_max(network[name].weight_bits))
        wide[name] = QuantizedLayer(
            np.round(weights.kernel * finer).astype(np.int8),
            np.round(weights.bias * np.float64(finer)).astype(np.int32),
            weights.scales / finer,
        )
    return dataclasses.replace(quantized, layers=wide)


def _floats(quantized: QuantizedNetwork, layer: Layer) -> Callable[[Any], Any]:
    """A layer as a function of its input, with the rounded weights.

    Plain convolutions, not those of ``layers``: there a 1x1 layer is a matrix product on a CPU,
    which would be exported as FULLY_CONNECTED.
    """
    weights = quantized.layers[layer.name]
    kernel = weights.kernel * weights.scales
    bias_scales = quantized.scales[layer.inputs[0]].astype(np.float64) * weights.scales
    bias = (weights.bias * bias_scales).astype(np.float32)

    def function(x: Any) -> Any:
        if layer.kind == "dense":
            return layers.activate(x @ kernel + bias, layer.activation)
        y = lax.conv_general_dilated(
            x,
            jnp.asarray(kernel),
            layer.stride,
            layer.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=layer.in_channels if layer.kind == "depthwise" else 1,
        )
        return layers.activate(y + bias, layer.activation)

    return function


def restore_convolutions(model: Any, network: Network) -> None:
    """CONV_2D where the converter made a convolution of one channel a depthwise one.

    With a multiplier that is the same arithmetic, but CMSIS-NN has no fast kernel for it.
    """
    schema, graph = load_schema(), model.subgraphs[0]
    kinds = [code.builtinCode for code in model.operatorCodes]
    made = [
        operator
        for operator in graph.operators
        if kinds[operator.opcodeIndex] == schema.BuiltinOperator.DEPTHWISE_CONV_2D
        and graph.tensors[operator.inputs[0]].shape[-1] == 1
    ]
    meant = [x for x in network if x.kind in ("conv", "depthwise") and x.in_channels == 1]
    # Where the two differ the graph is another one, which check.compare will say.
    restored = [o for o, layer in zip(made, meant, strict=False) if layer.kind == "conv"]
    for operator in restored:
        operator.opcodeIndex = code_index(model, "CONV_2D", NAMED["CONV_2D"].version)
        operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
        old, operator.builtinOptions = operator.builtinOptions, schema.Conv2DOptionsT()
        for name in ("padding", "strideH", "strideW", "fusedActivationFunction"):
            setattr(operator.builtinOptions, name, getattr(old, name))
        kernel = copy.copy(graph.tensors[operator.inputs[1]])
        kernel.quantization = copy.copy(kernel.quantization)
        kernel.quantization.quantizedDimension = 0
        data = np.asarray(model.buffers[kernel.buffer].data, np.uint8).reshape(kernel.shape)
        turned = data.transpose(3, 1, 2, 0)  # [1, rows, columns, out] to [out, rows, columns, 1]
        kernel.shape, kernel.buffer = np.asarray(turned.shape, np.int32), len(model.buffers)
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = turned.reshape(-1)
        x, _, *bias = operator.inputs
        operator.inputs = np.asarray([x, len(graph.tensors), *bias], np.int32)
        graph.tensors.append(kernel)
