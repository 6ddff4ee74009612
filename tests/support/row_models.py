"""Networks whose layers can go row by row, built layer by layer."""

import numpy as np

from support import flatbuffer_models as fm

LINEAR = {"scale": 0.1, "zero_point": 3}


class Net:
    """A network under construction; methods take and give (tensor, shape)."""

    def __init__(self, shape, seed=0, dtype="int8"):
        self.m, self.rng = fm.Models(), np.random.default_rng(seed)
        q = {} if dtype == "float32" else {"scale": 0.1, "zero_point": 3}
        self.input = self.m.tensor(shape, dtype, **q), tuple(shape)

    def conv(self, x, outs, kernel=3, stride=1, padding=0, depthwise=False, dilation=1, relu=0):
        (tensor, (_, *size, ins)) = x
        kr, kc = (kernel, kernel) if isinstance(kernel, int) else kernel
        outs = ins * outs if depthwise else outs
        shape = (1, kr, kc, outs) if depthwise else (outs, kr, kc, ins)
        w = self.rng.integers(-127, 128, shape, np.int8)
        scale = np.full(outs, 0.02 / np.sqrt(kr * kc * (1 if depthwise else ins)))
        weights = self.m.tensor(shape, "int8", scale, 0, w, 3 if depthwise else 0)
        bias = self.m.tensor(
            [outs], "int32", 0.1 * scale, 0, self.rng.integers(-999, 999, outs, np.int32)
        )
        reach = [(k - 1) * dilation + 1 for k in (kr, kc)]
        valid = [(n - r) // stride + 1 for n, r in zip(size, reach, strict=True)]
        size = valid if padding else [-(-n // stride) for n in size]
        out = (1, *size, outs)
        q = {"scale": 6 / 255, "zero_point": -128} if relu else LINEAR
        y = self.m.tensor(out, **q)
        name = "DepthwiseConv2D" if depthwise else "Conv2D"
        self.m.operator(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [tensor, weights, bias], [y],
            name + "Options", padding=padding, strideH=stride, strideW=stride,
            fusedActivationFunction=relu, dilationHFactor=dilation, dilationWFactor=dilation,
            **({"depthMultiplier": outs // ins} if depthwise else {}),
        )  # fmt: skip
        return y, out

    def depthwise(self, x, multiplier=1, **options):
        return self.conv(x, multiplier, depthwise=True, **options)

    def binary(self, kind, a, b):
        shape = np.broadcast_shapes(a[1], b[1])
        y = self.m.tensor(shape, **LINEAR)
        self.m.operator(kind, [a[0], b[0]], [y], kind.title() + "Options")
        return y, shape

    def constant(self, shape):
        data = self.rng.integers(-128, 128, shape, np.int8)
        return self.m.tensor(shape, data=data, **LINEAR), tuple(shape)

    def concat(self, parts, axis=3):
        shape = list(parts[0][1])
        shape[axis] = sum(part[1][axis] for part in parts)
        y = self.m.tensor(shape, **LINEAR)
        tensors = [part[0] for part in parts]
        self.m.operator("CONCATENATION", tensors, [y], "ConcatenationOptions", axis=axis)
        return y, tuple(shape)

    def pool(self, kind, x, kernel: int | tuple[int, int] = 2, stride=2):
        (_, *size, depth) = x[1]
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        out = (1, *((n - k) // stride + 1 for n, k in zip(size, kernel, strict=True)), depth)
        y = self.m.tensor(out, **LINEAR)
        self.m.operator(
            kind, [x[0]], [y], "Pool2DOptions", padding=1, strideH=stride, strideW=stride,
            filterHeight=kernel[0], filterWidth=kernel[1],
        )  # fmt: skip
        return y, out

    def pad(self, x, amounts):
        shape = tuple(n + sum(a) for n, a in zip(x[1], amounts, strict=True))
        y = self.m.tensor(shape, **LINEAR)
        p = self.m.tensor([4, 2], "int32", data=np.array(amounts, np.int32))
        self.m.operator("PAD", [x[0], p], [y], "PadOptions")
        return y, shape

    def resize(self, x, size):
        shape = (1, *size, x[1][3])
        y = self.m.tensor(shape, **LINEAR)
        s = self.m.tensor([2], "int32", data=np.array(size, np.int32))
        self.m.operator("RESIZE_NEAREST_NEIGHBOR", [x[0], s], [y], "ResizeNearestNeighborOptions")
        return y, shape

    def mean(self, x):
        y = self.m.tensor([1, x[1][3]], scale=0.07, zero_point=1)
        axes = self.m.tensor([2], "int32", data=np.array([1, 2], np.int32))
        self.m.operator("MEAN", [x[0], axes], [y], "ReducerOptions")
        return y, (1, x[1][3])

    def reshape(self, x, shape):
        """A view, of a tensor whose scale is that of linear layers."""
        y = self.m.tensor(shape, **LINEAR)
        s = self.m.tensor([len(shape)], "int32", data=np.array(shape, np.int32))
        self.m.operator("RESHAPE", [x[0], s], [y], "ReshapeOptions", newShape=list(shape))
        return y, tuple(shape)

    def dense(self, x, outs, relu=0, gain=1.0, lowest=-127, scales=1, batch=1):
        """A dense layer over all of ``x``, or of each of a batch; ``scales`` of its weights are 1
        or ``outs``."""
        depth = int(np.prod(x[1]))
        w = self.rng.integers(lowest, 128, (outs, depth)).astype(np.int8)
        scale = 0.02 * gain / np.sqrt(depth) * self.rng.uniform(0.5, 1, scales)
        weights = self.m.tensor(w.shape, "int8", scale, 0, w)
        bias = self.rng.integers(-999, 999, outs, np.int32)
        bias = self.m.tensor([outs], "int32", 0.1 * scale, 0, bias)
        y = self.m.tensor([batch, outs], **LINEAR)
        self.m.operator(
            "FULLY_CONNECTED", [x[0], weights, bias], [y], "FullyConnectedOptions",
            fusedActivationFunction=relu,
        )  # fmt: skip
        return y, (batch, outs)

    def flat_dense(self, x, outs, **options):
        """Reshaped to a vector, then :meth:`dense`."""
        return self.dense(self.reshape(x, (1, int(np.prod(x[1])))), outs, **options)

    def softmax(self, x):
        y = self.m.tensor(x[1], scale=1 / 256, zero_point=-128)
        self.m.operator("SOFTMAX", [x[0]], [y], "SoftmaxOptions", beta=1.0)
        return y, x[1]

    def logistic(self, x):
        y = self.m.tensor(x[1], scale=1 / 256, zero_point=-128)
        self.m.operator("LOGISTIC", [x[0]], [y])
        return y, x[1]

    def quantize(self, x, dtype="int8"):
        y = self.m.tensor(x[1], dtype, **({} if dtype == "float32" else LINEAR))
        self.m.operator("DEQUANTIZE" if dtype == "float32" else "QUANTIZE", [x[0]], [y])
        return y, x[1]

    def build(self, *outputs) -> bytes:
        return self.m.build([self.input[0]], [y[0] for y in outputs])


def mixed(seed: int) -> bytes:
    """Every kind of row operation, branches, strides, paddings and a mean at the end."""
    rng = np.random.default_rng(seed)
    pick = lambda *options: options[rng.integers(len(options))]  # noqa: E731
    net = Net((1, int(rng.integers(14, 22)), int(rng.integers(9, 14)), 3), seed)
    wide = int(rng.integers(4, 11))
    x = net.conv(net.input, wide, pick(3, (4, 2)), pick(1, 2), relu=3)
    y = net.depthwise(x, kernel=pick(3, 5, 7), relu=pick(0, 3))
    x = net.binary("ADD", net.conv(y, wide, 1), x)
    x = net.concat([net.conv(x, 5, 3), net.depthwise(x, 2, kernel=3), x], 3)
    x = net.pad(x, [(0, 0), (1, 2), (0, 1), (1, 0)])
    x = net.pool(pick("MAX_POOL_2D", "AVERAGE_POOL_2D"), x)
    x = net.binary(pick("ADD", "MUL"), x, net.constant([x[1][3]]))
    x = net.resize(x, (x[1][1] * 2 - 1, x[1][2] + 1))
    x = net.logistic(net.depthwise(x, kernel=3, stride=pick(1, 2), dilation=1))
    x = net.conv(x, 6, 3, dilation=pick(1, 2))
    return net.build(net.mean(x) if seed % 2 else net.pool("MAX_POOL_2D", x, (x[1][1], x[1][2]), 1))


def speech() -> bytes:
    """A layer over time and frequency, a dense layer over its whole map, a softmax: the shapes of
    micro_speech."""
    net = Net((1, 49, 40, 1))
    return net.build(net.softmax(net.flat_dense(net.conv(net.input, 8, (10, 8), 2), 4)))


def digits() -> bytes:
    """A convolution, pooling and a dense layer over the map: a first network for MNIST."""
    net = Net((1, 28, 28, 1))
    x = net.pool("MAX_POOL_2D", net.conv(net.input, 12, 3, padding=1))
    return net.build(net.softmax(net.flat_dense(x, 10)))


def ended(seed: int) -> bytes:
    """A dense layer over a map, or a convolution as large as it, at the end of a random network:
    rows of any length, any number of outputs, every rounding, weights that do not fit a pair."""
    rng = np.random.default_rng(seed)
    pick = lambda *options: options[rng.integers(len(options))]  # noqa: E731
    shape = (1, int(rng.integers(4, 17)), int(rng.integers(3, 14)), int(rng.integers(1, 5)))
    dtype = pick("int8", "int8", "uint8", "float32")
    net = Net(shape, seed, dtype)
    x = net.input if dtype == "int8" else net.quantize(net.input)
    if seed % 5:
        x = net.conv(x, int(rng.integers(1, 10)), pick(1, 3), pick(1, 2))
    if min(x[1][1:3]) >= 4:
        x = net.pool(pick("MAX_POOL_2D", "AVERAGE_POOL_2D"), x)
    outs = int(pick(1, 2, 3, 4, 5, 7, 10, 64, 129, 130))
    if seed % 4 == 3:
        x = net.conv(x, outs, tuple(x[1][1:3]), padding=1)
    else:
        x = net.flat_dense(
            x, outs, relu=pick(0, 1, 3), gain=pick(1.0, 30.0, 1e4), lowest=pick(-127, -128),
            scales=pick(1, outs),
        )  # fmt: skip
    end = pick("none", "softmax", "uint8", "float32")
    if end == "softmax":
        x = net.softmax(x)
    return net.build(x if end in ("none", "softmax") else net.quantize(x, end))
