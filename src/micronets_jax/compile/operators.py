"""The operators: what each one of the file means, checked, as nodes of the graph.

Invariant: a node is added only when shapes, types and scales are such that TensorFlow Lite Micro
would compute it, and would compute what the node says; everything else is refused by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from micronets_jax.compile import arithmetic
from micronets_jax.compile.graph import Graph, Node, Value, rewrite
from micronets_jax.tflite import Model, Operator, Tensor, TFLiteError
from micronets_jax.windows import Padding, output_size, pads


def build(model: Model) -> Graph:
    """Reads operators into nodes, in the file's order, then rewrites.

    Raises:
        TFLiteError: an operator, type or combination that is not supported, by name and index, with
            what would help.
    """
    return rewrite(_Builder(model).build())


SUPPORTED = [
    "ADD",
    "AVERAGE_POOL_2D",
    "CONCATENATION",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "DEQUANTIZE",
    "FULLY_CONNECTED",
    "HARD_SWISH",
    "LOGISTIC",
    "MAX_POOL_2D",
    "MEAN",
    "MUL",
    "PACK",
    "PAD",
    "QUANTIZE",
    "RELU",
    "RELU6",
    "RESHAPE",
    "RESIZE_NEAREST_NEIGHBOR",
    "SHAPE",
    "SOFTMAX",
    "SQUEEZE",
    "STRIDED_SLICE",
    "SUB",
    "SUM",
    "TRANSPOSE",
]

_ADVICE = {
    "TANH": "use LOGISTIC, RELU or HARD_SWISH",
    "LEAKY_RELU": "use RELU or RELU6",
    "PRELU": "use RELU or RELU6",
    "RESIZE_BILINEAR": "use nearest-neighbour resizing",
    "PADV2": "pad with zero, so that it becomes PAD",
    "EXPAND_DIMS": "use a reshape",
    "LOG_SOFTMAX": "leave it out, or use SOFTMAX",
    "BATCH_MATMUL": "use a dense layer with constant weights",
}

# What bounds the compiler's own time and memory on files made to exhaust them.
MAX_TOTAL = 1 << 26
MAX_FOLDED = 1 << 16
MAX_PARTS = 256
MAX_SIDE = (1 << 15) - 1  # of pictures, rows, columns and channels


class _Builder:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.constants = {t.index: t.data for t in model.tensors if t.data is not None}
        self.values: dict[int, Value] = {}
        self.roots: dict[int, int] = {}
        self.nodes: list[Node] = []

    def build(self) -> Graph:
        model = self.model
        for operator in model.operators:
            if operator.kind not in SUPPORTED:
                advice = _ADVICE.get(operator.kind, "replace it by supported operators")
                raise TFLiteError(
                    f"{operator.label} is not supported: {advice} (supported: "
                    f"{', '.join(SUPPORTED)})"
                )
        for index in model.inputs:
            if index in self.constants:
                raise TFLiteError(f"input {model.tensors[index].label} is a constant")
            if index in self.values:
                raise TFLiteError(f"{model.tensors[index].label} is an input twice")
            self.define(model.tensors[index])
        for operator in model.operators:
            self.arity(operator)
            try:
                with np.errstate(over="ignore"):
                    getattr(self, "read_" + operator.kind.lower())(operator)
            except OverflowError as error:
                raise TFLiteError(
                    f"{operator.label}: its scales are out of proportion ({error})"
                ) from error
        for index in model.outputs:
            if index not in self.values:
                raise TFLiteError(
                    f"output {model.tensors[index].label} is not computed by any operator"
                )
        if sum(self.values[node.output].elements for node in self.nodes) > MAX_TOTAL:
            raise TFLiteError(f"the tensors of the model have more than {MAX_TOTAL} elements")
        roots = {index: self.root(index) for index in self.values}
        outputs = [roots[index] for index in model.outputs]
        return Graph(self.values, self.nodes, list(model.inputs), outputs, roots, model)

    def root(self, index: int) -> int:
        while index in self.roots:
            index = self.roots[index]
        return index

    def define(self, tensor: Tensor, operator: Operator | None = None) -> Value:
        if tensor.index in self.values or tensor.index in self.constants:
            raise TFLiteError(f"{tensor.label} is written twice")
        who = operator.label if operator else "the model's interface"
        if tensor.dtype == "float32":
            value = Value(tensor.index, tensor.name, tensor.shape, "float32", 0.0, 0)
        elif tensor.dtype in ("int8", "uint8"):
            scale, zero_point = self.affine(tensor, who)
            value = Value(tensor.index, tensor.name, tensor.shape, tensor.dtype, scale, zero_point)
        else:
            raise TFLiteError(
                f"{who}: {tensor.label} is {tensor.dtype}; activations must be int8 (uint8 and "
                "float32 at the ends): convert with full integer quantisation"
            )
        self.values[tensor.index] = value
        return value

    def affine(self, tensor: Tensor, who: str) -> tuple[float, int]:
        q = tensor.quantization
        if q is None or len(q.scales) != 1:
            raise TFLiteError(
                f"{who}: {tensor.label} has no single scale and zero point; convert the model with "
                "full integer quantisation"
            )
        low, high = (0, 255) if tensor.dtype == "uint8" else (-128, 127)
        if not low <= q.zero_point <= high:
            raise TFLiteError(
                f"{who}: {tensor.label} has zero point {q.zero_point}, outside of its type"
            )
        return q.scale, q.zero_point

    def arity(self, operator: Operator) -> None:
        least = {
            "CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "ADD": 2, "SUB": 2,
            "MUL": 2, "PAD": 2, "MEAN": 2, "SUM": 2, "TRANSPOSE": 2, "STRIDED_SLICE": 4,
            "RESIZE_NEAREST_NEIGHBOR": 2,
        }.get(operator.kind, 1)  # fmt: skip
        if len(operator.inputs) < least or -1 in operator.inputs[:least]:
            raise TFLiteError(f"{operator.label} needs {least} inputs; it has {operator.inputs}")
        if len(operator.outputs) != 1:
            raise TFLiteError(f"{operator.label} has {len(operator.outputs)} outputs, not one")

    def input(self, operator: Operator, position: int = 0, dtype: str = "int8") -> Value:
        """A run-time input of the given type."""
        tensor = self.model.tensors[operator.inputs[position]]
        value = self.values.get(tensor.index)
        if value is None:
            state = "a constant" if tensor.index in self.constants else "not computed before it"
            raise TFLiteError(f"{operator.label}: its input {tensor.label} is {state}")
        if value.dtype != dtype:
            raise TFLiteError(
                f"{operator.label}: its input {tensor.label} is {value.dtype}, not {dtype}; "
                "convert with full integer quantisation"
            )
        return value

    def output(self, operator: Operator, dtype: str = "int8") -> Value:
        value = self.define(self.model.tensors[operator.outputs[0]], operator)
        if value.dtype != dtype:
            raise TFLiteError(
                f"{operator.label}: its output is {value.dtype}, not {dtype}; convert with full "
                "integer quantisation"
            )
        return value

    def constant(self, operator: Operator, position: int, what: str, dtypes: tuple[str, ...]):
        tensor = self.model.tensors[operator.inputs[position]]
        data = self.constants.get(tensor.index)
        if data is None:
            raise TFLiteError(f"{operator.label}: its {what} ({tensor.label}) is not constant")
        if tensor.dtype not in dtypes:
            raise TFLiteError(
                f"{operator.label}: its {what} is {tensor.dtype}, not {' or '.join(dtypes)}"
            )
        return tensor, data

    def integers(self, operator: Operator, position: int, what: str) -> list[int]:
        _, data = self.constant(operator, position, what, ("int32", "int64"))
        return [int(n) for n in np.asarray(data).reshape(-1)]

    def add(
        self, operator: Operator, kind: str, inputs: list[Value], output: Value, macs: int = 0, **kw
    ) -> None:
        roots = [v.tensor if v.data is not None else self.root(v.tensor) for v in inputs]
        name = (output.name.split(";")[0] or f"{kind}_{operator.index}")[:80]
        shapes = [value.shape for value in inputs]
        self.nodes.append(
            Node(kind, roots, output.tensor, kw, operator.index, name, macs, shapes, output.shape)
        )

    def check_shape(self, operator: Operator, came: tuple[int, ...], want: tuple[int, ...]) -> None:
        if tuple(came) != tuple(want):
            raise TFLiteError(
                f"{operator.label}: the output has shape {list(came)}; it should be {list(want)}"
            )

    def same_quantization(self, operator: Operator, a: Value, b: Value) -> None:
        if (a.scale, a.zero_point) != (b.scale, b.zero_point):
            raise TFLiteError(
                f"{operator.label}: input and output differ in scale or zero point, which it cannot"
                " change; put a QUANTIZE behind it"
            )

    def picture(self, operator: Operator, value: Value) -> tuple[int, int, int]:
        if len(value.shape) != 4 or value.shape[0] != 1:
            raise TFLiteError(
                f"{operator.label}: {value.name[:60]!r} has shape {list(value.shape)}; one picture "
                "[1, rows, columns, channels] at a time is supported"
            )
        if max(value.shape) > MAX_SIDE:
            raise TFLiteError(f"{operator.label}: {list(value.shape)} has a side beyond {MAX_SIDE}")
        return value.shape[1], value.shape[2], value.shape[3]

    # Convolutions -------------------------------------------------------------------------------

    def window(
        self, operator: Operator, value: Value, kernel: tuple[int, int], dilation: tuple[int, int]
    ) -> dict[str, Any]:
        """Stride, padding at the top and left, and output size."""
        rows, columns, _ = self.picture(operator, value)
        o = operator.options
        stride = (o["stride_h"], o["stride_w"])
        if min(*stride, *dilation, *kernel) < 1 or max(*stride, *dilation, *kernel) > 1 << 14:
            raise TFLiteError(f"{operator.label}: stride {stride}, kernel {kernel}, {dilation=}")
        if o["padding"] not in (0, 1):
            raise TFLiteError(f"{operator.label}: unknown padding {o['padding']}")
        padding: Padding = "SAME" if o["padding"] == 0 else "VALID"
        out, before = [], []
        for n, k, s, d in zip((rows, columns), kernel, stride, dilation, strict=True):
            out.append(output_size(n, k, s, padding, d))
            before.append(pads(n, k, s, padding, d)[0])
        if min(out) < 1:
            raise TFLiteError(f"{operator.label}: its kernel does not fit its input")
        return {"stride": stride, "pads": tuple(before), "size": tuple(out)}

    def activation(self, operator: Operator, output: Value) -> dict[str, int]:
        code = operator.options["activation"]
        if code not in (0, 1, 2, 3):
            raise TFLiteError(f"{operator.label}: fused activation {code} is not supported")
        low, high = arithmetic.activation_range(code, output.scale, output.zero_point)
        return {"min": low, "max": high}

    def weights(self, operator: Operator, axis: int, ndim: int) -> tuple[Tensor, np.ndarray]:
        tensor, data = self.constant(operator, 1, "weights", ("int8", "int4"))
        if data.ndim != ndim:
            raise TFLiteError(f"{operator.label}: its weights have shape {list(data.shape)}")
        q = tensor.quantization
        if q is None:
            raise TFLiteError(f"{operator.label}: its weights have no scale")
        if q.zero_points.any():
            raise TFLiteError(f"{operator.label}: its weights have a zero point other than 0")
        if len(q.scales) > 1 and q.axis != axis:
            raise TFLiteError(f"{operator.label}: its weights have scales along axis {q.axis}")
        return tensor, data

    def bias(self, operator: Operator, channels: int) -> np.ndarray:
        if len(operator.inputs) < 3 or operator.inputs[2] == -1:
            return np.zeros(channels, np.int64)
        _, data = self.constant(operator, 2, "bias", ("int32",))
        if data.size != channels:
            raise TFLiteError(f"{operator.label}: {data.size} biases for {channels} channels")
        return data.reshape(-1).astype(np.int64)

    def scales(
        self, operator: Operator, value: Value, weights: Tensor, output: Value, channels: int
    ) -> dict[str, np.ndarray]:
        assert weights.quantization is not None
        scales = weights.quantization.scales.astype(np.float64)
        product = value.scale * scales
        has_bias = len(operator.inputs) > 2 and operator.inputs[2] != -1
        if operator.kind == "FULLY_CONNECTED" and len(scales) == 1 and not has_bias:
            # only here the reference multiplies the two scales in single precision
            product = (np.float32(value.scale) * scales.astype(np.float32)).astype(np.float64)
        pairs = [arithmetic.quantize_multiplier(float(p / output.scale)) for p in product]
        pairs = pairs if len(pairs) > 1 else pairs * channels
        return {
            "multiplier": np.array([m for m, _ in pairs], np.int64),
            "exponent": np.array([e for _, e in pairs], np.int64),
        }

    def read_conv_2d(self, operator: Operator) -> None:
        value = self.input(operator)
        tensor, weights = self.weights(operator, 0, 4)
        _, _, channels = self.picture(operator, value)
        count, kr, kc, depth = weights.shape
        if depth != channels:
            raise TFLiteError(
                f"{operator.label}: {channels} input channels for weights of {depth}; grouped "
                "convolution is not supported: split it"
            )
        dilation = (operator.options["dilation_h"], operator.options["dilation_w"])
        output = self.output(operator)
        window = self.window(operator, value, (kr, kc), dilation)
        self.check_shape(operator, output.shape, (1, *window["size"], count))
        macs = window["size"][0] * window["size"][1] * weights.size
        self.add(
            operator, "conv", [value], output, macs, weights=weights,
            bias=self.bias(operator, count), kernel=(kr, kc), dilation=dilation, **window,
            **self.scales(operator, value, tensor, output, count),
            **self.activation(operator, output),
        )  # fmt: skip

    def read_depthwise_conv_2d(self, operator: Operator) -> None:
        value = self.input(operator)
        tensor, weights = self.weights(operator, 3, 4)
        _, _, channels = self.picture(operator, value)
        one, kr, kc, count = weights.shape
        if one != 1 or count % channels:
            raise TFLiteError(
                f"{operator.label}: weights {list(weights.shape)} for {channels} input channels"
            )
        dilation = (operator.options["dilation_h"], operator.options["dilation_w"])
        output = self.output(operator)
        window = self.window(operator, value, (kr, kc), dilation)
        self.check_shape(operator, output.shape, (1, *window["size"], count))
        macs = window["size"][0] * window["size"][1] * weights.size
        kind = "depthwise"
        if channels == 1:  # a stem with one input channel: an ordinary convolution
            kind, weights = "conv", weights.transpose(3, 1, 2, 0)
        self.add(
            operator, kind, [value], output, macs, weights=weights,
            bias=self.bias(operator, count), kernel=(kr, kc), dilation=dilation, **window,
            **self.scales(operator, value, tensor, output, count),
            **self.activation(operator, output),
        )  # fmt: skip

    def read_fully_connected(self, operator: Operator) -> None:
        value = self.input(operator)
        tensor, weights = self.weights(operator, 0, 2)
        if operator.options["weights_format"]:
            raise TFLiteError(f"{operator.label}: shuffled weights are not supported")
        count, depth = weights.shape
        output = self.output(operator)
        if value.elements % depth or output.elements != value.elements // depth * count:
            raise TFLiteError(
                f"{operator.label}: weights {list(weights.shape)} do not lead from "
                f"{list(value.shape)} to {list(output.shape)}"
            )
        batch = value.elements // depth
        self.add(
            operator, "conv", [value], output, batch * weights.size,
            weights=weights.reshape(count, 1, 1, depth), bias=self.bias(operator, count),
            kernel=(1, 1), stride=(1, 1), dilation=(1, 1), pads=(0, 0), size=(1, batch), dense=True,
            **self.scales(operator, value, tensor, output, count),
            **self.activation(operator, output),
        )  # fmt: skip

    # Pooling, elementwise, reductions -----------------------------------------------------------

    def pool(self, operator: Operator, kind: str) -> None:
        value = self.input(operator)
        kernel = (operator.options["filter_h"], operator.options["filter_w"])
        window = self.window(operator, value, kernel, (1, 1))
        output = self.output(operator)
        self.check_shape(operator, output.shape, (1, *window["size"], value.shape[3]))
        self.same_quantization(operator, value, output)
        self.add(
            operator, kind, [value], output, kernel=kernel, **window,
            **self.activation(operator, output),
        )  # fmt: skip

    def read_average_pool_2d(self, operator: Operator) -> None:
        self.pool(operator, "average_pool")

    def read_max_pool_2d(self, operator: Operator) -> None:
        self.pool(operator, "max_pool")

    def operand(self, operator: Operator, position: int) -> Value:
        tensor = self.model.tensors[operator.inputs[position]]
        if tensor.index not in self.constants:
            return self.input(operator, position)
        if tensor.dtype != "int8":
            raise TFLiteError(f"{operator.label}: its constant operand is {tensor.dtype}, not int8")
        scale, zero_point = self.affine(tensor, operator.label)
        data = self.constants[tensor.index]
        value = Value(tensor.index, tensor.name, tensor.shape, "int8", scale, zero_point, data)
        self.values[tensor.index] = value
        return value

    def binary(self, operator: Operator) -> tuple[Value, Value, Value]:
        left, right = self.operand(operator, 0), self.operand(operator, 1)
        output = self.output(operator)
        if left.data is not None and right.data is not None:
            raise TFLiteError(f"{operator.label}: both operands are constant; fold it")
        try:
            shape = np.broadcast_shapes(left.shape, right.shape)
        except ValueError as error:
            raise TFLiteError(f"{operator.label}: {error}") from error
        self.check_shape(operator, output.shape, shape)
        return left, right, output

    def read_add(self, operator: Operator) -> None:
        left, right, output = self.binary(operator)
        subtract = operator.kind == "SUB"
        # the reference computes SUB's scales in single precision and ADD's in double
        real = np.float32 if subtract else np.float64
        twice = real(2) * real(max(left.scale, right.scale))
        scales = {
            "left": arithmetic.quantize_multiplier(float(real(left.scale) / twice)),
            "right": arithmetic.quantize_multiplier(float(real(right.scale) / twice)),
            "result": arithmetic.quantize_multiplier(
                float(twice / (real(1 << 20) * real(output.scale)))
            ),
        }
        if scales["result"][1] >= 0:
            raise TFLiteError(f"{operator.label}: its scales are out of proportion")
        self.add(
            operator, "add", [left, right], output, subtract=subtract, **scales,
            **self.activation(operator, output),
        )  # fmt: skip

    read_sub = read_add

    def read_mul(self, operator: Operator) -> None:
        left, right, output = self.binary(operator)
        multiplier = arithmetic.quantize_multiplier(left.scale * right.scale / output.scale)
        self.add(
            operator, "mul", [left, right], output, result=multiplier,
            **self.activation(operator, output),
        )  # fmt: skip

    def reduce(self, operator: Operator) -> None:
        value = self.input(operator)
        rank = len(value.shape)
        axes = self.integers(operator, 1, "axes")
        if any(not -rank <= axis < rank for axis in axes):
            raise TFLiteError(f"{operator.label}: axes {axes} of a tensor of rank {rank}")
        axes = sorted({axis % rank for axis in axes})
        output = self.output(operator)
        kept = [n for i, n in enumerate(value.shape) if i not in axes]
        squeezed = [n for n in output.shape if n != 1]
        if squeezed != [n for n in kept if n != 1]:
            self.check_shape(operator, output.shape, tuple(kept))
        count = int(np.prod([value.shape[i] for i in axes], dtype=np.int64))
        multiplier, exponent = arithmetic.quantize_multiplier(value.scale / output.scale)
        if operator.kind == "MEAN":
            shift = min(count.bit_length() - 1, 32, 31 + exponent)
            multiplier, exponent = (multiplier << shift) // count, exponent - shift
        self.add(
            operator, "reduce", [value], output, axes=axes, multiplier=multiplier,
            exponent=exponent, count=count,
        )  # fmt: skip

    read_mean = read_sum = reduce

    def read_softmax(self, operator: Operator) -> None:
        value, output = self.input(operator), self.output(operator)
        self.check_shape(operator, output.shape, value.shape)
        if output.scale != 1 / 256 or output.zero_point != -128:
            raise TFLiteError(f"{operator.label}: its output needs scale 1/256, zero point -128")
        try:
            table = arithmetic.softmax_exponentials(value.scale, operator.options["beta"])
        except ValueError as error:
            raise TFLiteError(f"{operator.label}: {error}") from error
        self.add(operator, "softmax", [value], output, exponentials=table)

    # Tables -------------------------------------------------------------------------------------

    def table(self, operator: Operator, value: Value, output: Value, table) -> None:
        self.check_shape(operator, output.shape, value.shape)
        self.add(operator, "table", [value], output, table=table)

    def read_relu(self, operator: Operator) -> None:
        x, y = self.input(operator), self.output(operator)
        table = arithmetic.relu_table(x.scale, x.zero_point, y.scale, y.zero_point)
        self.table(operator, x, y, table)

    def read_relu6(self, operator: Operator) -> None:
        x, y = self.input(operator), self.output(operator)
        self.same_quantization(operator, x, y)
        self.table(operator, x, y, arithmetic.relu6_table(x.scale, x.zero_point))

    def read_logistic(self, operator: Operator) -> None:
        x, y = self.input(operator), self.output(operator)
        if y.scale != 1 / 256 or y.zero_point != -128:
            raise TFLiteError(f"{operator.label}: its output needs scale 1/256, zero point -128")
        self.table(operator, x, y, arithmetic.logistic_table(x.scale, x.zero_point))

    def read_hard_swish(self, operator: Operator) -> None:
        x, y = self.input(operator), self.output(operator)
        try:
            table = arithmetic.hard_swish_table(x.scale, x.zero_point, y.scale, y.zero_point)
        except ValueError as error:
            raise TFLiteError(f"{operator.label}: {error}") from error
        self.table(operator, x, y, table)

    def read_quantize(self, operator: Operator) -> None:
        source = self.model.tensors[operator.inputs[0]]
        target = self.model.tensors[operator.outputs[0]]
        pair = (source.dtype, target.dtype)
        if pair == ("float32", "int8"):
            x, y = self.input(operator, 0, "float32"), self.output(operator)
            self.check_shape(operator, y.shape, x.shape)
            self.add(operator, "quantize", [x], y)
        elif pair in (("int8", "int8"), ("int8", "uint8"), ("uint8", "int8")):
            x, y = self.input(operator, 0, pair[0]), self.output(operator, pair[1])
            table = arithmetic.requantize_table(x.scale, x.zero_point, y.scale, y.zero_point, *pair)
            self.table(operator, x, y, table)
        else:
            raise TFLiteError(
                f"{operator.label}: from {pair[0]} to {pair[1]} is not supported; ends may be "
                "int8, uint8 or float32"
            )

    def read_dequantize(self, operator: Operator) -> None:
        source = self.model.tensors[operator.inputs[0]]
        if source.dtype not in ("int8", "uint8"):
            raise TFLiteError(
                f"{operator.label}: from {source.dtype}; convert with full integer quantisation"
            )
        x, y = self.input(operator, 0, source.dtype), self.output(operator, "float32")
        self.check_shape(operator, y.shape, x.shape)
        self.add(operator, "dequantize", [x], y)

    # Shapes and moves ---------------------------------------------------------------------------

    def alias(self, operator: Operator) -> None:
        source = self.values.get(operator.inputs[0]) or self.input(operator)
        value = self.output(operator, source.dtype)
        if value.elements != source.elements:
            raise TFLiteError(
                f"{operator.label}: {list(source.shape)} and {list(value.shape)} differ in size"
            )
        if source.dtype != "float32":
            self.same_quantization(operator, source, value)
        self.roots[value.tensor] = source.tensor

    read_reshape = read_squeeze = alias

    def read_pad(self, operator: Operator) -> None:
        value = self.input(operator)
        _, pads = self.constant(operator, 1, "paddings", ("int32", "int64"))
        if pads.shape != (len(value.shape), 2) or (pads < 0).any() or (pads > 1 << 14).any():
            raise TFLiteError(f"{operator.label}: paddings {pads.tolist()}")
        if not pads.any():
            self.alias(operator)
            return
        output = self.output(operator)
        self.same_quantization(operator, value, output)
        shape = [n + int(a) + int(b) for n, (a, b) in zip(value.shape, pads, strict=True)]
        self.check_shape(operator, output.shape, tuple(shape))
        before = [int(a) for a in pads[:, 0]]
        self.add(operator, "pad", [value], output, before=before)

    def read_transpose(self, operator: Operator) -> None:
        value = self.input(operator)
        order = self.integers(operator, 1, "permutation")
        if sorted(order) != list(range(len(value.shape))):
            raise TFLiteError(f"{operator.label}: {order} is not a permutation")
        # axes of size 1 may go anywhere without moving a byte
        moved = [axis for axis in order if value.shape[axis] != 1]
        shape = tuple(value.shape[axis] for axis in order)
        self.check_shape(operator, self.model.tensors[operator.outputs[0]].shape, shape)
        if moved == sorted(moved):
            self.alias(operator)
            return
        output = self.output(operator)
        self.same_quantization(operator, value, output)
        self.add(operator, "transpose", [value], output, order=order)

    def read_concatenation(self, operator: Operator) -> None:
        if len(operator.inputs) > MAX_PARTS:
            raise TFLiteError(f"{operator.label}: more than {MAX_PARTS} inputs")
        values = [self.operand(operator, i) for i in range(len(operator.inputs))]
        output = self.output(operator)
        rank = len(output.shape)
        axis = operator.options["axis"]
        if not -rank <= axis < rank:
            raise TFLiteError(f"{operator.label}: axis {axis} of a tensor of rank {rank}")
        axis %= rank
        if operator.options["activation"]:
            raise TFLiteError(f"{operator.label}: a fused activation is not supported")
        for value in values:
            self.same_quantization(operator, value, output)
            if len(value.shape) != rank or any(
                a != b
                for i, (a, b) in enumerate(zip(value.shape, output.shape, strict=True))
                if i != axis
            ):
                raise TFLiteError(f"{operator.label}: inputs do not fit together along axis {axis}")
        if sum(value.shape[axis] for value in values) != output.shape[axis]:
            raise TFLiteError(f"{operator.label}: sizes along axis {axis} do not add up")
        self.add(operator, "concatenation", values, output, axis=axis)

    def read_resize_nearest_neighbor(self, operator: Operator) -> None:
        value = self.input(operator)
        rows, columns, channels = self.picture(operator, value)
        size = self.integers(operator, 1, "size")
        if len(size) != 2 or min(size) < 1 or max(size) > 1 << 14:
            raise TFLiteError(f"{operator.label}: size {size}")
        output = self.output(operator)
        self.same_quantization(operator, value, output)
        self.check_shape(operator, output.shape, (1, *size, channels))
        flags = [bool(operator.options[n]) for n in ("align_corners", "half_pixel_centers")]
        self.add(
            operator, "resize", [value], output,
            rows=_nearest(rows, size[0], *flags), columns=_nearest(columns, size[1], *flags),
        )  # fmt: skip

    # Constants ----------------------------------------------------------------------------------

    def fold(self, operator: Operator, data: np.ndarray) -> None:
        target = self.model.tensors[operator.outputs[0]]
        if target.index in self.values or target.index in self.constants:
            raise TFLiteError(f"{target.label} is written twice")
        if data.size != target.size:
            self.check_shape(operator, target.shape, data.shape)
        self.constants[target.index] = data.astype(np.int32).reshape(target.shape)

    def known(self, operator: Operator, position: int) -> np.ndarray:
        data = self.constants.get(operator.inputs[position])
        if data is None or data.dtype.kind != "i":
            raise TFLiteError(
                f"{operator.label} is supported only where its inputs are constant integers; fix "
                "the shapes before converting"
            )
        return data

    def read_shape(self, operator: Operator) -> None:
        shape = self.model.tensors[operator.inputs[0]].shape
        self.fold(operator, np.array(shape, np.int32))

    def read_pack(self, operator: Operator) -> None:
        parts = [self.known(operator, i) for i in range(len(operator.inputs))]
        if sum(part.size for part in parts) > MAX_FOLDED:
            raise TFLiteError(f"{operator.label}: more than {MAX_FOLDED} constants")
        axis = operator.options["axis"]
        rank = parts[0].ndim
        if len({part.shape for part in parts}) > 1 or not -rank - 1 <= axis <= rank:
            raise TFLiteError(f"{operator.label}: inputs do not fit together along axis {axis}")
        self.fold(operator, np.stack(parts, axis=axis))

    def read_strided_slice(self, operator: Operator) -> None:
        data = self.known(operator, 0)
        begin, end, step = (
            [int(n) for n in self.known(operator, i).reshape(-1)] for i in (1, 2, 3)
        )
        o = operator.options
        if not len(begin) == len(end) == len(step) <= data.ndim or 0 in step:
            raise TFLiteError(f"{operator.label}: begin {begin}, end {end}, strides {step}")
        if o["ellipsis_mask"] or o["new_axis_mask"]:
            raise TFLiteError(f"{operator.label}: ellipsis and new axes are not supported")
        index: list[Any] = []
        for i, (a, b, s) in enumerate(zip(begin, end, step, strict=True)):
            if o["shrink_axis_mask"] >> i & 1:
                if not -data.shape[i] <= a < data.shape[i]:
                    raise TFLiteError(f"{operator.label}: begin {begin} lies outside of its input")
                index.append(a)
            else:
                index.append(
                    slice(
                        None if o["begin_mask"] >> i & 1 else a,
                        None if o["end_mask"] >> i & 1 else b,
                        s,
                    )
                )
        self.fold(operator, np.asarray(data[tuple(index)]))


def _nearest(size: int, out_size: int, align: bool, half: bool) -> list[int]:
    """Source index of every output index, in the reference's single precision."""
    f = np.float32
    ratio = f(size - 1) / f(out_size - 1) if align and out_size > 1 else f(size) / f(out_size)
    offset = f(0.5) if half else f(0)
    sources = []
    for i in range(out_size):
        x = (f(i) + offset) * ratio
        source = arithmetic.round_away(float(x)) if align else int(np.floor(x))
        sources.append(max(0, min(source, size - 1)))
    return sources
