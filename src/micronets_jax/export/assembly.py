"""A file put together: the graph without the converter, and the numbers and order of every file.

Invariant: the same network gives the same bytes. What no interpreter reads is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from micronets_jax.export.contents import (
    activation_scale,
    expected_operators,
    kernel_in_file,
    load_schema,
    match_operators,
    packed,
    pad_amounts,
    tensors_by_name,
)
from micronets_jax.memory import operators
from micronets_jax.network import INPUT, Layer, Network, output_sizes, window
from micronets_jax.operators import NAMED
from micronets_jax.quantize import QuantizedNetwork

ALIGNMENT = 16
"""Bytes: where each buffer of weights starts in the file, as TFLite's schema demands."""


def skeleton(quantized: QuantizedNetwork) -> Any:
    """What the converter leaves, without weights: operators with their options, and tensors."""
    schema, network = load_schema(), quantized.network
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
        operator.opcodeIndex = code_index(model, kind, version)
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


def code_index(model: Any, kind: str, version: int) -> int:
    """Where the model's table of kinds of operators has this one; it is added if it is missing."""
    wanted = getattr(load_schema().BuiltinOperator, kind), version
    known = [(each.builtinCode, each.version) for each in model.operatorCodes]
    if wanted not in known:
        made = load_schema().OperatorCodeT()
        made.builtinCode = made.deprecatedBuiltinCode = wanted[0]
        made.version = version
        model.operatorCodes.append(made)
    return [*known, wanted].index(wanted)


def _options(network: Network, layer: Layer, kind: str, sizes: dict[str, tuple[int, int]]) -> Any:
    schema = load_schema()
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


def rewrite(model: Any, quantized: QuantizedNetwork, softmax: bool) -> None:
    """Exact numbers in place of the converter's, and nothing in the file that no interpreter reads.

    Operators run in the network's order, which ``memory`` plans for. Activations come first, in
    order of execution, then each layer's kernel and bias.
    """
    schema, graph = load_schema(), model.subgraphs[0]
    matched, old = (
        match_operators(model, quantized, softmax),
        tensors_by_name(model, quantized, softmax),
    )
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
        id(tensor): add(name, tensor.shape, int8, _quantization(*activation_scale(quantized, name)))
        for name, tensor in old.items()
        if "/" not in name
    }
    for name, kind, reads in expected_operators(quantized, softmax):
        operator = matched[name]
        inputs = [index[id(old[source])] for source in reads]
        operator.outputs = np.asarray([index[id(graph.tensors[operator.outputs[0]])]], np.int32)
        if name in quantized.layers:
            weights = quantized.layers[name]
            kernel, axis = kernel_in_file(quantized.network[name], weights.kernel)
            scales = _quantization(weights.scales, np.zeros(len(weights.scales)), axis)
            four = quantized.network[name].weight_bits == 4
            stored = (int4, scales, packed(kernel)) if four else (int8, scales, kernel)
            inputs.append(add(None, kernel.shape, *stored))
            inputs.append(add(None, weights.bias.shape, int32, None, weights.bias))
        elif kind == "PAD":
            paddings = pad_amounts(quantized.network[name])
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
    quantization = load_schema().QuantizationParametersT()
    quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
    quantization.zeroPoint = np.atleast_1d(np.asarray(zero_point, np.int64))
    quantization.quantizedDimension = axis
    return quantization


def _buffer(values: np.ndarray | None) -> Any:
    """A buffer of the file; Python's own packing would not align it."""
    schema = load_schema()

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


def pack(model: Any) -> bytes:
    """The bytes of a file."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
