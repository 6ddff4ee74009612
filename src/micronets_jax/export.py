"""A trained network as an int8 TFLite file, its scales exactly the trained ones.

Invariant: a file that leaves this room holds, number for number, what ``quantize.integers`` says;
anything else is an error that names the tensor and the channel.

JAX lowers each layer on its own and TensorFlow's fake quantisation stands between, so the converter
takes every range from there and needs no calibration data. Weights come to it already rounded, with
127 in each channel, so that it finds the trained scales again up to the last bit, then set here.
It knows no 4-bit weights: it gets the nearest 8-bit ones, and two to a byte are set here too.
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
from jaxtyping import Int8, UInt8

from micronets_jax import layers
from micronets_jax.memory import operators
from micronets_jax.network import INPUT, Layer, Network, output_sizes, window
from micronets_jax.operators import NAMED
from micronets_jax.quantize import (
    RANGED,
    WEIGHT_MAX,
    Folded,
    QuantizedLayer,
    QuantizedNetwork,
    Ranges,
    integers,
    weight_max,
)

ALIGNMENT = 16
"""Bytes: where each buffer of weights starts in the file, as TFLite's schema demands."""

SOFTMAX = "softmax"
"""Name of the output where a softmax is asked for; its scale is always 1 / 256."""

_TOLERANCE = 1e-5  # relative; of the converter's numbers before they are set to the trained ones


def to_tflite(network: Network, folded: Folded, ranges: Ranges, softmax: bool = False) -> bytes:
    """The TFLite file of a decided network: int8 in, int8 logits (or probabilities) out.

    The same input gives the same bytes. Operators: CONV_2D, DEPTHWISE_CONV_2D, AVERAGE_POOL_2D,
    FULLY_CONNECTED, ADD, PAD, RESHAPE (except of a single pixel before a dense layer, which absorbs
    it), and SOFTMAX if asked. A convolution of one channel, which the converter makes a depthwise
    one, is a CONV_2D again: runtimes compute that faster. Only activations are named, each as its
    layer. What no interpreter reads is left out: metadata, signatures, names of weights, scales of
    biases, empty buffers.

    Args:
        network: decided, without mixes.
        folded: float kernels and biases by layer, batch norm folded.
        ranges: of activations and weights, as trained.
        softmax: whether the output is probabilities.

    Raises:
        ValueError: a weight or range is not finite, the network still has mixes, or TensorFlow Lite
            Micro cannot run the bits of a layer.
        RuntimeError: the file does not hold the trained numbers or has other operators.
    """
    _require_runnable(network)
    quantized = integers(network, folded, ranges)
    widened = _widened(quantized)
    model = _parse(_convert(widened, softmax))
    _restore_convolutions(model, network)
    _compare(model, widened, softmax, exact=False)
    _rewrite(model, quantized, softmax)
    data = _pack(model)
    _compare(_parse(data), quantized, softmax, exact=True)
    return data


def assemble(network: Network, folded: Folded, ranges: Ranges) -> bytes:
    """The file of :func:`to_tflite`, assembled in milliseconds without the converter.

    For characterisation, which needs many untrained networks. It repeats what the converter does,
    so results of runs come from :func:`to_tflite`; tests compare the two byte for byte.
    """
    _require_runnable(network)
    quantized = integers(network, folded, ranges)
    model = _skeleton(quantized)
    _rewrite(model, quantized, softmax=False)
    return _pack(model)


def _require_runnable(network: Network) -> None:
    """Refuse bits that TensorFlow Lite Micro does not run, or would compute otherwise."""
    for layer, kind, *_ in operators(network):
        if kind == "FULLY_CONNECTED" and layer.weight_bits != 8:
            raise ValueError(
                f"layer {layer.name!r} has weight_bits={layer.weight_bits}, but TensorFlow Lite "
                "Micro runs FULLY_CONNECTED with 8-bit weights only: give it 8, or make it a 1x1 "
                "convolution"
            )
        owns = layer.kind in RANGED and layer.activation_bits != 8
        if owns and layer.activation == "linear":
            raise ValueError(
                f"layer {layer.name!r} has activation_bits={layer.activation_bits} and no ReLU, "
                "so nothing would cut its int8 tensor to 16 levels from below: give it 8, or an "
                "activation"
            )


# ---------------------------------------------------------------- four bits


def packed(values: Int8[np.ndarray, ...]) -> UInt8[np.ndarray, " bytes"]:
    """4-bit numbers two to a byte, the first in its lower half, as TensorFlow Lite stores int4."""
    flat = np.append(values.reshape(-1), np.zeros(values.size % 2, np.int8)).view(np.uint8) & 15
    return flat[0::2] | flat[1::2] << 4


def _unpacked(data: np.ndarray, count: int) -> np.ndarray:
    pairs = data.view(np.int8)[:, None] << np.asarray([4, 0], np.int8)
    return (pairs >> 4).reshape(-1)[:count]


def _widened(quantized: QuantizedNetwork) -> QuantizedNetwork:
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


# ---------------------------------------------------------------- conversion


def _convert(quantized: QuantizedNetwork, softmax: bool) -> bytes:
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
                x = tf.pad(x, _paddings(layer))
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


def _restore_convolutions(model: Any, network: Network) -> None:
    """CONV_2D where the converter made a convolution of one channel a depthwise one.

    With a multiplier that is the same arithmetic, but CMSIS-NN has no fast kernel for it.
    """
    schema, graph = _schema(), model.subgraphs[0]
    kinds = [code.builtinCode for code in model.operatorCodes]
    made = [
        operator
        for operator in graph.operators
        if kinds[operator.opcodeIndex] == schema.BuiltinOperator.DEPTHWISE_CONV_2D
        and graph.tensors[operator.inputs[0]].shape[-1] == 1
    ]
    meant = [x for x in network if x.kind in ("conv", "depthwise") and x.in_channels == 1]
    # Where the two differ the graph is another one, which _compare will say.
    restored = [o for o, layer in zip(made, meant, strict=False) if layer.kind == "conv"]
    for operator in restored:
        operator.opcodeIndex = _code(model, "CONV_2D", NAMED["CONV_2D"].version)
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


_ACTIVATIONS: dict[str, Callable[[Any], Callable[[Any], Any]]] = {
    "linear": lambda tf: tf.identity,
    "relu": lambda tf: tf.nn.relu,
    "relu6": lambda tf: tf.nn.relu6,
}


def _paddings(layer: Layer) -> np.ndarray:
    """What PAD reads beside the tensor: places before and after, by axis."""
    paddings = np.zeros((4, 2), np.int32)
    paddings[3, 1] = layer.out_channels - layer.in_channels
    return paddings


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


def _skeleton(quantized: QuantizedNetwork) -> Any:
    """What the converter leaves, without weights: operators with their options, and tensors."""
    schema, network = _schema(), quantized.network
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [], []
    graph.tensors, graph.operators, graph.inputs = [], [], np.zeros(1, np.int32)
    sizes, index = output_sizes(network), {}

    def tensor(name: str, shape: tuple[int, ...]) -> int:
        made = schema.TensorT()
        made.shape = np.asarray(shape, np.int32)
        graph.tensors.append(made)
        index[name] = len(graph.tensors) - 1
        return index[name]

    tensor(INPUT, (1, *network.input_shape))
    for layer, kind, reads, *_ in operators(network):
        operator = schema.OperatorT()
        operator.builtinOptions = options = _options(network, layer, kind, sizes)
        version = NAMED[kind].version + int(getattr(options, "keepNumDims", False))
        operator.opcodeIndex = _code(model, kind, version)
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        # Weights and the like come later; where there will be some, a place is kept.
        places = [0] * NAMED[kind].constants
        operator.inputs = np.asarray([*(index[r] for r in reads), *places], np.int32)
        flat = layer.kind in ("dense", "reshape")
        shape = (1, layer.out_channels) if flat else (1, *sizes[layer.name], layer.out_channels)
        operator.outputs = np.asarray([tensor(layer.name, shape)], np.int32)
        graph.operators.append(operator)
    return model


def _code(model: Any, kind: str, version: int) -> int:
    """Where the model's table of kinds of operators has this one; it is added if it is missing."""
    wanted = getattr(_schema().BuiltinOperator, kind), version
    known = [(each.builtinCode, each.version) for each in model.operatorCodes]
    if wanted not in known:
        made = _schema().OperatorCodeT()
        made.builtinCode = made.deprecatedBuiltinCode = wanted[0]
        made.version = version
        model.operatorCodes.append(made)
    return [*known, wanted].index(wanted)


def _options(network: Network, layer: Layer, kind: str, sizes: dict[str, tuple[int, int]]) -> Any:
    schema = _schema()
    table = NAMED[kind].options
    if not table:
        return None
    fused = {"linear": "NONE", "relu": "RELU", "relu6": "RELU6"}[layer.activation]
    options = getattr(schema, f"{table}OptionsT")()
    if hasattr(options, "fusedActivationFunction"):
        options.fusedActivationFunction = getattr(schema.ActivationFunctionType, fused)
    if kind == "FULLY_CONNECTED":  # a vector stays one; a single pixel becomes one
        source = layer.inputs[0]
        maker = next((each for each in network if each.name == source), None)
        pixel = maker is None or (maker.kind == "reshape" and sizes[maker.inputs[0]] == (1, 1))
        options.keepNumDims = not pixel
    if hasattr(options, "padding"):
        walked = window(layer, sizes)
        needed = max(need - n for need, n in zip(walked.needed, walked.size, strict=True))
        # The converter calls a convolution that needs no padding VALID; pooling keeps its word.
        same = layer.padding == "SAME" and (kind == "AVERAGE_POOL_2D" or needed > 0)
        options.padding = schema.Padding.SAME if same else schema.Padding.VALID
        options.strideH, options.strideW = layer.stride
    if kind == "AVERAGE_POOL_2D":
        options.filterHeight, options.filterWidth = layer.kernel
    if kind == "DEPTHWISE_CONV_2D":
        options.depthMultiplier = 1
    return options


# ---------------------------------------------------------------- the file


def _schema() -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def _parse(data: bytes) -> Any:
    return _schema().ModelT.InitFromPackedBuf(data, 0)


def _operators(quantized: QuantizedNetwork, softmax: bool) -> list[tuple[str, str, list[str]]]:
    """What the file must compute, in order: tensor made, operator, activations read."""
    expected = [(o.layer.name, o.kind, list(o.reads)) for o in operators(quantized.network)]
    return [*expected, (SOFTMAX, "SOFTMAX", [expected[-1][0]])] if softmax else expected


def _matched(model: Any, quantized: QuantizedNetwork, softmax: bool) -> dict[str, Any]:
    """The file's operators by the tensor they make, in the network's order.

    The converter hoists operators that nothing holds back, such as the PAD of a shortcut.

    Raises:
        RuntimeError: the operators, or what they read, are not those of the network.
    """
    schema, graph = _schema(), model.subgraphs[0]
    kinds = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    left = [(kinds[model.operatorCodes[o.opcodeIndex].builtinCode], o) for o in graph.operators]
    found, expected = [kind for kind, _ in left], _operators(quantized, softmax)
    index, matched = {INPUT: graph.inputs[0]}, {}
    for name, kind, reads in expected:
        wanted = [index[source] for source in reads]
        fitting = [o for k, o in left if k == kind and list(o.inputs[: len(reads)]) == wanted]
        if not fitting or len(found) != len(expected):
            raise RuntimeError(
                f"the converter made {found} of the network, expected {[k for _, k, _ in expected]}"
                f", where {name!r} reads {reads}; check the installed TensorFlow against the lock "
                "file"
            )
        matched[name] = fitting[0]
        left = [(k, o) for k, o in left if o is not fitting[0]]
        index[name] = fitting[0].outputs[0]
    return matched


def _tensors(model: Any, quantized: QuantizedNetwork, softmax: bool) -> dict[str, Any]:
    """The file's tensors: activations by layer, weights as ``layer/kernel`` and ``layer/bias``.

    A bias may be ``None``: the converter drops one that is all zeros.
    """
    graph = model.subgraphs[0]
    tensors = {INPUT: graph.tensors[graph.inputs[0]]}
    for name, operator in _matched(model, quantized, softmax).items():
        tensors[name] = graph.tensors[operator.outputs[0]]
        if name in quantized.layers:
            kernel, bias = (*operator.inputs[1:], -1)[:2]
            tensors[f"{name}/kernel"] = graph.tensors[kernel]
            tensors[f"{name}/bias"] = graph.tensors[bias] if bias >= 0 else None
    return tensors


def _kernel_in_file(layer: Layer, kernel: np.ndarray) -> tuple[np.ndarray, int]:
    """A kernel as TFLite orders it, and the axis of its output channels."""
    if layer.kind == "dense":
        return kernel.T, 0
    if layer.kind == "conv":
        return kernel.transpose(3, 0, 1, 2), 0
    return kernel.transpose(2, 0, 1, 3), 3


def _activation(quantized: QuantizedNetwork, name: str) -> tuple[np.float32, int]:
    """Scale and zero point of an activation."""
    if name == SOFTMAX:
        return np.float32(1 / 256), -128
    return quantized.scales[name], quantized.zero_points[name]


def _compare(model: Any, quantized: QuantizedNetwork, softmax: bool, exact: bool) -> None:
    """Every number of the file against the trained one.

    Not ``exact``: as the converter left it, scales up to rounding, biases up to what that entails.
    """
    tensors, int4 = _tensors(model, quantized, softmax), _schema().TensorType.INT4

    def values(tensor: Any, dtype: type) -> np.ndarray:
        data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
        if tensor.type == int4:
            return _unpacked(data, int(np.prod(tensor.shape)))
        return data.view(dtype)

    def close(got: np.ndarray, want: np.ndarray | np.floating) -> np.ndarray:
        return got == want if exact else np.abs(got - want) <= _TOLERANCE * want

    for name, tensor in tensors.items():
        if "/" in name:
            continue
        got, want = tensor.quantization, _activation(quantized, name)
        if not close(got.scale, want[0]).all() or (got.zeroPoint != want[1]).any():
            raise RuntimeError(
                f"tensor {name!r}: the file has scale {got.scale} and zero point {got.zeroPoint}, "
                f"trained were {want[0]!r} and {want[1]}"
            )
    for name, weights in quantized.layers.items():
        kernel, axis = _kernel_in_file(quantized.network[name], weights.kernel)
        tensor, bias = tensors[f"{name}/kernel"], tensors[f"{name}/bias"]
        levels = values(tensor, np.int8).reshape(kernel.shape) == kernel
        bias = np.zeros_like(weights.bias) if bias is None else values(bias, np.int32)
        got = tensor.quantization.scale
        slack = 0 if exact else 1 + np.abs(weights.bias) * _TOLERANCE
        good = {
            "scale": close(got, weights.scales),
            "weights": levels.all(axis=tuple(i for i in range(kernel.ndim) if i != axis)),
            "bias": np.abs(bias.astype(np.int64) - weights.bias) <= slack,
        }
        # Where no weight reaches 127 the converter has no scale to find: there it is only set.
        peaks = np.abs(weights.kernel).reshape(-1, len(weights.scales)).max(axis=0)
        checked = np.ones_like(peaks, bool) if exact else peaks == WEIGHT_MAX
        for what, right in good.items():
            wrong = np.flatnonzero(checked & ~right)
            if wrong.size:
                raise RuntimeError(
                    f"tensor {name!r}, channel {wrong[0]}: the file's {what} differs from what was "
                    f"trained (scale {got[wrong[0]]} against {weights.scales[wrong[0]]})"
                )


def _rewrite(model: Any, quantized: QuantizedNetwork, softmax: bool) -> None:
    """Exact numbers in place of the converter's, and nothing in the file that no interpreter reads.

    Operators run in the network's order, which ``memory`` plans for. Activations come first, in
    order of execution, then each layer's kernel and bias.
    """
    schema, graph = _schema(), model.subgraphs[0]
    matched, old = _matched(model, quantized, softmax), _tensors(model, quantized, softmax)
    tensors, buffers = [], [_buffer(None)]

    def add(name: str | None, shape: Any, kind: int, quantization: Any, values: Any = None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, np.asarray(shape, np.int32), kind
        tensor.quantization, tensor.buffer = quantization, 0
        if values is not None:
            tensor.buffer = len(buffers)
            buffers.append(_buffer(values))
        tensors.append(tensor)
        return len(tensors) - 1

    int8, int32 = schema.TensorType.INT8, schema.TensorType.INT32
    int4 = schema.TensorType.INT4
    index = {
        id(tensor): add(name, tensor.shape, int8, _quantization(*_activation(quantized, name)))
        for name, tensor in old.items()
        if "/" not in name
    }
    for name, kind, reads in _operators(quantized, softmax):
        operator = matched[name]
        inputs = [index[id(old[source])] for source in reads]
        operator.outputs = np.asarray([index[id(graph.tensors[operator.outputs[0]])]], np.int32)
        if name in quantized.layers:
            weights = quantized.layers[name]
            kernel, axis = _kernel_in_file(quantized.network[name], weights.kernel)
            scales = _quantization(weights.scales, np.zeros(len(weights.scales)), axis)
            four = quantized.network[name].weight_bits == 4
            stored = (int4, scales, packed(kernel)) if four else (int8, scales, kernel)
            inputs.append(add(None, kernel.shape, *stored))
            inputs.append(add(None, weights.bias.shape, int32, None, weights.bias))
        elif kind == "PAD":
            paddings = _paddings(quantized.network[name])
            inputs.append(add(None, paddings.shape, int32, None, paddings))
        elif len(operator.inputs) > len(reads):  # RESHAPE: the new shape
            shape = old[name].shape.astype(np.int32)
            inputs.append(add(None, shape.shape, int32, None, shape))
        operator.inputs = np.asarray(inputs, np.int32)
    graph.operators = list(matched.values())
    graph.inputs = np.asarray([0], np.int32)
    graph.outputs = graph.operators[-1].outputs
    graph.tensors, model.buffers = tensors, buffers
    used = list(dict.fromkeys(operator.opcodeIndex for operator in graph.operators))
    model.operatorCodes = [model.operatorCodes[i] for i in used]
    for operator in graph.operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)
    graph.name = model.description = None
    model.metadata = model.metadataBuffer = model.signatureDefs = None


def _quantization(scale: Any, zero_point: Any, axis: int = 0) -> Any:
    quantization = _schema().QuantizationParametersT()
    quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
    quantization.zeroPoint = np.atleast_1d(np.asarray(zero_point, np.int64))
    quantization.quantizedDimension = axis
    return quantization


def _buffer(values: np.ndarray | None) -> Any:
    """A buffer of the file; Python's own packing would not align it."""
    schema = _schema()

    class Aligned(schema.BufferT):
        def Pack(self, builder: Any) -> Any:
            vector = None
            if self.data is not None:
                builder.StartVector(1, len(self.data), ALIGNMENT)
                builder.head -= len(self.data)
                builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
                vector = builder.EndVector()
            schema.BufferStart(builder)
            if vector is not None:
                schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    buffer = Aligned()
    buffer.data = None if values is None else np.ascontiguousarray(values).tobytes()
    return buffer


def _pack(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
