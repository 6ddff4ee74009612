"""Builds small TFLite models operator by operator, for tests of the reader and the compiler."""

from __future__ import annotations

import dataclasses
from typing import Any

import flatbuffers
import numpy as np
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

TYPES = {
    "float32": 0, "int32": 2, "uint8": 3, "int64": 4, "int16": 7, "int8": 9, "int4": 17,
    "resource": 13, "bool": 6,
}  # fmt: skip


@dataclasses.dataclass
class Models:
    """A model under construction; methods return tensor indices."""

    tensors: list[Any] = dataclasses.field(default_factory=list)
    buffers: list[Any] = dataclasses.field(default_factory=lambda: [schema.BufferT()])
    operators: list[Any] = dataclasses.field(default_factory=list)
    codes: list[int] = dataclasses.field(default_factory=list)

    def tensor(self, shape, dtype="int8", scale=None, zero_point=0, data=None, axis=0, name=""):
        t = schema.TensorT()
        t.shape, t.type = [int(n) for n in shape], TYPES[dtype]
        t.name = (name or f"t{len(self.tensors)}").encode()
        t.buffer = 0
        if scale is not None:
            q = schema.QuantizationParametersT()
            q.scale = [float(s) for s in np.atleast_1d(scale)]
            q.zeroPoint = [int(z) for z in np.broadcast_to(zero_point, len(q.scale))]
            q.quantizedDimension = axis
            t.quantization = q
        if data is not None:
            b = schema.BufferT()
            data = np.asarray(data)
            if dtype == "int4":
                flat = np.append(data.reshape(-1), [0] * (data.size % 2)).astype(np.uint8) & 15
                data = (flat[::2] | flat[1::2] << 4).astype(np.uint8)
            b.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(b)
            t.buffer = len(self.buffers) - 1
        self.tensors.append(t)
        return len(self.tensors) - 1

    def operator(self, kind: str, inputs, outputs, options: str = "", **fields) -> None:
        code = getattr(schema.BuiltinOperator, kind)
        if code not in self.codes:
            self.codes.append(code)
        op = schema.OperatorT()
        op.opcodeIndex = self.codes.index(code)
        op.inputs, op.outputs = list(inputs), list(outputs)
        if options:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            op.builtinOptions = getattr(schema, options + "T")()
            for name, value in fields.items():
                assert hasattr(op.builtinOptions, name), name
                setattr(op.builtinOptions, name, value)
        self.operators.append(op)

    def another(self) -> Models:
        """A further subgraph of the same file, to be given to :meth:`build`."""
        return Models(buffers=self.buffers, codes=self.codes)

    def build(self, inputs, outputs, *others: Models, custom: str = "") -> bytes:
        graphs = []
        for part in (self, *others):
            graph = schema.SubGraphT()
            graph.tensors, graph.operators = part.tensors, part.operators
            graph.inputs, graph.outputs = [], []
            graphs.append(graph)
        graphs[0].inputs, graphs[0].outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, graphs, self.buffers
        model.operatorCodes = []
        for code in self.codes:
            c = schema.OperatorCodeT()
            c.builtinCode, c.deprecatedBuiltinCode, c.version = code, min(code, 127), 1
            if code == schema.BuiltinOperator.CUSTOM:
                c.customCode = custom.encode()
            model.operatorCodes.append(c)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def convolution(
    rng, shape, channels, kernel, stride=(1, 1), padding=0, activation=0, dilation=(1, 1),
    depthwise=False, per_channel=True, bias=True, bits=8, gain=1.0, groups=1,
):  # fmt: skip
    """A model of one CONV_2D (``channels`` outputs, in ``groups``) or DEPTHWISE_CONV_2D (of the
    multiplier ``channels``), with scales drawn so that outputs use their range ``gain`` times."""
    m = Models()
    in_scale, in_zero = float(rng.uniform(0.005, 0.1)), int(rng.integers(-128, 128))
    x = m.tensor(shape, scale=in_scale, zero_point=in_zero)
    depth = shape[3] // groups
    count = depth * channels if depthwise else channels
    top = 8 if bits == 4 else 128
    if depthwise:
        w = rng.integers(1 - top, top, (1, *kernel, count))
    else:
        w = rng.integers(1 - top, top, (count, *kernel, depth))
    scales = rng.uniform(0.001, 0.02, count if per_channel else 1) * 128 / top
    axis = 3 if depthwise else 0
    weights = m.tensor(w.shape, "int4" if bits == 4 else "int8", scales, 0, w.astype(np.int8), axis)
    fan_in = kernel[0] * kernel[1] * (1 if depthwise else depth)
    spread = in_scale * float(np.median(scales)) * top / 2 * 74 * np.sqrt(fan_in)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if padding == 0:
        size = [-(-n // s) for n, s in zip(shape[1:3], stride, strict=True)]
    else:
        size = [(n - r) // s + 1 for n, r, s in zip(shape[1:3], reach, stride, strict=True)]
    out_scale = max(spread * gain / 100, 1e-7)
    out_zero = int(rng.integers(-128, 128))
    if activation and rng.random() < 0.7:
        out_zero = -128
    inputs = [x, weights]
    if bias:
        span = int(min(1 << 20, 30 * out_scale / (in_scale * scales.min()) + 1))
        b = rng.integers(-span, span + 1, count).astype(np.int32)
        inputs.append(m.tensor([count], "int32", in_scale * scales, 0, b))
    y = m.tensor([shape[0], *size, count], scale=out_scale, zero_point=out_zero)
    common = {
        "padding": padding,
        "strideH": stride[0],
        "strideW": stride[1],
        "fusedActivationFunction": activation,
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
    }
    if depthwise:
        m.operator(
            "DEPTHWISE_CONV_2D", inputs, [y], "DepthwiseConv2DOptions", depthMultiplier=channels,
            **common,
        )  # fmt: skip
    else:
        m.operator("CONV_2D", inputs, [y], "Conv2DOptions", **common)
    return m.build([x], [y])


def mcunet(resolution, first, blocks, last, classes=1000, seed=0) -> bytes:
    """A network of inverted bottlenecks from its block list (columns as in mcunet.json): stem 3x3
    stride 2, blocks, average pool, dense; ReLU6; scales are plausible, weights are noise."""
    rng = np.random.default_rng(seed)
    m = Models()
    relu = {"scale": 6 / 255, "zero_point": -128}
    linear = {"scale": 0.05, "zero_point": 0}

    def conv(x, size, ins, outs, kernel, stride, activation, depthwise=False):
        shape = (1, kernel, kernel, outs) if depthwise else (outs, kernel, kernel, ins)
        w = rng.integers(-127, 128, shape, np.int8)
        scale = np.full(outs, 0.02 / np.sqrt(kernel * kernel * (1 if depthwise else ins)))
        weights = m.tensor(shape, "int8", scale, 0, w, 3 if depthwise else 0)
        size = -(-size // stride)
        y = m.tensor([1, size, size, outs], **(relu if activation else linear))
        options = {"depthMultiplier": 1} if depthwise else {}
        m.operator(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [x, weights], [y],
            "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions", padding=0, strideH=stride,
            strideW=stride, fusedActivationFunction=3 * activation, dilationHFactor=1,
            dilationWFactor=1, **options,
        )  # fmt: skip
        return y, size

    x = image = m.tensor([1, resolution, resolution, 3], scale=1 / 128, zero_point=0)
    x, size = conv(x, resolution, 3, first, 3, 2, True)
    for ins, expanded, outs, kernel, stride, expansion, residual, _ in blocks:
        y, full = x, size
        if expansion != 1:
            y, _ = conv(y, size, ins, expanded, 1, 1, True)
        y, size = conv(y, size, expanded, expanded, kernel, stride, True, depthwise=True)
        y, _ = conv(y, size, expanded, outs, 1, 1, False)
        if residual:
            assert full == size
            z = m.tensor([1, size, size, outs], **linear)
            m.operator("ADD", [y, x], [z], "AddOptions")
            y = z
        x = y
    if last != outs:
        x, _ = conv(x, size, outs, last, 1, 1, True)
    q = relu if last != outs else linear
    pooled = m.tensor([1, 1, 1, last], **q)
    m.operator(
        "AVERAGE_POOL_2D", [x], [pooled], "Pool2DOptions", padding=1, strideH=size, strideW=size,
        filterHeight=size, filterWidth=size,
    )  # fmt: skip
    w = m.tensor(
        [classes, last], "int8", 0.01, 0, rng.integers(-127, 128, (classes, last), np.int8)
    )
    y = m.tensor([1, classes], scale=0.2, zero_point=0)
    m.operator("FULLY_CONNECTED", [pooled, w], [y], "FullyConnectedOptions")
    return m.build([image], [y])


def litert(model: bytes, case: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs of LiteRT's reference kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    for end, x in zip(interpreter.get_input_details(), case, strict=True):
        interpreter.set_tensor(end["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(end["index"]) for end in interpreter.get_output_details()]
