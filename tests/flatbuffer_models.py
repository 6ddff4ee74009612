"""Builds small TFLite models operator by operator, for tests of the reader and the compiler."""

from __future__ import annotations

import dataclasses
from typing import Any

import flatbuffers
import numpy as np
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

TYPES = {
    "float32": 0, "int32": 2, "uint8": 3, "int64": 4, "int16": 7, "int8": 9, "int4": 17,
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

    def build(self, inputs, outputs) -> bytes:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [graph], self.buffers
        model.operatorCodes = []
        for code in self.codes:
            c = schema.OperatorCodeT()
            c.builtinCode, c.deprecatedBuiltinCode, c.version = code, min(code, 127), 1
            model.operatorCodes.append(c)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def convolution(
    rng, shape, channels, kernel, stride=(1, 1), padding=0, activation=0, dilation=(1, 1),
    depthwise=False, per_channel=True, bias=True, bits=8, gain=1.0,
):  # fmt: skip
    """A model of one CONV_2D (``channels`` outputs) or DEPTHWISE_CONV_2D (``channels`` = its
    multiplier), with scales drawn so that outputs use their range about ``gain`` times."""
    m = Models()
    in_scale, in_zero = float(rng.uniform(0.005, 0.1)), int(rng.integers(-128, 128))
    x = m.tensor(shape, scale=in_scale, zero_point=in_zero)
    depth = shape[3]
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
    y = m.tensor([1, *size, count], scale=out_scale, zero_point=out_zero)
    common = {
        "padding": padding, "strideH": stride[0], "strideW": stride[1],
        "fusedActivationFunction": activation, "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
    }  # fmt: skip
    if depthwise:
        m.operator(
            "DEPTHWISE_CONV_2D", inputs, [y], "DepthwiseConv2DOptions", depthMultiplier=channels,
            **common,
        )  # fmt: skip
    else:
        m.operator("CONV_2D", inputs, [y], "Conv2DOptions", **common)
    return m.build([x], [y])
