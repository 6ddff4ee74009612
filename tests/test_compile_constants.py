"""Constant channels: what is reachable, what is folded, and that no byte changes."""

import itertools
import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from micronets_jax import compile as compiler
from micronets_jax import firmware, tflite
from micronets_jax.compile import arithmetic, operators, report, verify
from micronets_jax.firmware.inputs import noise
from support import flatbuffer_models as fm

RELU6 = {"scale": 6 / 255, "zero_point": -128}


class Net:
    """Layers of one network, each on the tensor before; ``dead`` channels have no weights."""

    def __init__(self, shape, seed=0, **q):
        self.m, self.rng = fm.Models(), np.random.default_rng(seed)
        self.x = self.first = self.m.tensor(shape, **(q or RELU6))

    @property
    def shape(self):
        return self.m.tensors[self.x].shape

    def conv(
        self, count=None, kernel=1, padding=0, dead=(), level=0.0, scales=None, q=RELU6, unread=()
    ):
        """CONV_2D, or DEPTHWISE_CONV_2D without ``count``. Dead channels output ``level``, channels
        of a tiny scale have biases near 2^30, and all others can be more than zero."""
        depthwise, depth = count is None, self.shape[3]
        count = count or depth
        shape = (1, kernel, kernel, count) if depthwise else (count, kernel, kernel, depth)
        w = self.rng.integers(-127, 128, shape).astype(np.int8)
        w[:, 0, 0] = np.maximum(w[:, 0, 0], 50)
        w[..., list(unread)] = 0
        fan_in = kernel * kernel * (1 if depthwise else depth)
        usual = np.full(count, 0.02 / np.sqrt(fan_in))
        scales = usual if scales is None else np.where(np.isnan(scales), usual, scales)
        bias = self.rng.integers(-500, 500, count)
        tiny = (scales > 0) & (scales < 1e-6)
        bias[tiny] = self.rng.integers(-(1 << 30), 1 << 30, tiny.sum())
        for c in dead:
            w[(..., c) if depthwise else c] = 0
            bias[c] = round(level / (self.m.tensors[self.x].quantization.scale[0] * scales[c]))
        inputs = [
            self.x,
            self.m.tensor(shape, "int8", scales, 0, w, 3 if depthwise else 0),
            self.m.tensor([count], "int32", np.abs(scales) + 1e-30, 0, bias.astype(np.int32)),
        ]
        rows, columns = (n if padding == 0 else n - kernel + 1 for n in self.shape[1:3])
        self.x = self.m.tensor([1, rows, columns, count], **q)
        self.m.operator(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", inputs, [self.x],
            "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions", padding=padding, strideH=1,
            strideW=1, fusedActivationFunction=3 if q is RELU6 else 0,
            **({"depthMultiplier": 1} if depthwise else {}),
        )  # fmt: skip
        return self

    def op(self, kind, shape, inputs=(), options="", q=RELU6, **fields):
        y = self.m.tensor(shape, **q)
        self.m.operator(kind, [self.x, *inputs], [y], options, **fields)
        self.x = y
        return self

    def build(self, *outputs):
        return self.m.build([self.first], [self.x, *outputs])


def shapes(model: bytes) -> list[tuple[int, ...]]:
    return [n.options["weights"].shape for n in operators.build(tflite.read(model)).nodes]


# Arithmetic and reach ---------------------------------------------------------------------------


@given(
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.integers(-31, 0),
)
def test_arrays_are_scaled_like_numbers(x, multiplier, exponent):
    got = arithmetic.scale_array(np.array([x]), np.array([multiplier]), np.array([exponent]))
    if not x == multiplier == -(1 << 31):
        assert got.tolist() == [arithmetic.scale(x, multiplier, exponent)]


def test_reachable_sums_are_exact():
    """Against all inputs of two channels of which one is a rectified one."""
    net = Net([1, 1, 1, 3], seed=4).conv(2).conv(3, q={"scale": 0.03, "zero_point": 5})
    _, last = operators.build(tflite.read(net.build())).nodes
    o, values = last.options, np.arange(-128, 128)
    first = operators.build(tflite.read(net.build())).nodes[0].options["reach"]
    pixels = np.array(
        [
            p
            for p in itertools.product(values, values)
            if (p >= first.low).all() and (p <= first.high).all()
        ]
    )
    weights = o["weights"].reshape(3, 2).astype(int)
    sums = (pixels + 128) @ weights.T + o["bias"]
    assert o["sums"].low.tolist() == sums.min(axis=0).tolist()
    assert o["sums"].high.tolist() == sums.max(axis=0).tolist()


def test_padding_counts_among_the_reachable():
    """A window of 3 x 3 on a picture of 1 x 2 always sees seven zero points."""
    net = Net([1, 1, 2, 1], scale=0.1, zero_point=-128).conv(1, kernel=3)
    (node,) = operators.build(tflite.read(net.build())).nodes
    w = node.options["weights"][0, 1, :, 0].astype(int)
    windows = [w[1:], w[:2]]  # of the left and the right output
    bias = int(node.options["bias"][0])
    assert node.options["sums"].low[0] == bias + min(np.minimum(0, 255 * v).sum() for v in windows)
    assert node.options["sums"].high[0] == bias + max(np.maximum(0, 255 * v).sum() for v in windows)


# Folding ----------------------------------------------------------------------------------------


def test_constants_go_into_biases():
    net = Net([1, 4, 4, 3]).conv(6, dead=[1, 4], level=2.0).conv(5)
    graph = operators.build(tflite.read(net.build()))
    assert [n.options["weights"].shape for n in graph.nodes] == [(4, 1, 1, 3), (5, 1, 1, 4)]
    plain = tflite.read(net.build())
    weights, bias = (plain.tensors[i].data for i in plain.operators[1].inputs[1:])
    level = 85  # of 2.0, in steps of 6 / 255
    assert (
        graph.nodes[1].options["bias"].tolist()
        == (bias + level * weights[:, 0, 0, [1, 4]].astype(int).sum(axis=1)).tolist()
    )
    (kept,) = graph.kept.values()
    assert kept.tolist() == [0, 2, 3, 5]


@pytest.mark.parametrize(("level", "padding", "left"), [(1.0, 0, 6), (0.0, 0, 4), (1.0, 1, 4)])
def test_only_zero_points_go_through_padding(level, padding, left):
    net = Net([1, 5, 5, 3]).conv(6, dead=[1, 4], level=level).conv(5, kernel=3, padding=padding)
    assert shapes(net.build()) == [(left, 1, 1, 3), (5, 3, 3, left)]


def test_chains_of_constants_and_what_nobody_reads():
    """Two channels die in the first layer, one in the second; the third reads four of them."""
    net = Net([1, 5, 5, 3]).conv(8, dead=[0, 5]).conv(kernel=3, dead=[2])
    net = net.op("MAX_POOL_2D", [1, 2, 2, 8], (), "Pool2DOptions", padding=1, strideH=2, strideW=2,
                 filterHeight=2, filterWidth=2)  # fmt: skip
    net.conv(4, unread=[7])
    found = operators.build(tflite.read(net.build()))
    assert [n.out_shape[-1] for n in found.nodes] == [4, 4, 4, 4]
    first, second, last = found.foldings
    assert (first.constant, first.unread, first.weights, first.weights_left) == (2, 2, 24, 12)
    assert (second.constant, second.unread) == (3, 1)
    assert (last.constant, last.unread, last.weights_left) == (0, 0, 16)
    lines = report.folding_lines(found.foldings)
    assert (
        "2 of 8 channels of this layer are constant and 2 more are read by nobody; 50.0 %"
        in (lines[0])
    )
    macs = (600 + 9 * 8 * 25 + 4 * 32, 300 + 9 * 4 * 25 + 4 * 16)
    assert lines[-1].startswith(
        f"constants are folded: {100 * macs[1] / macs[0]:.1f} % of the operations"
    )


def test_sides_of_a_sum_keep_the_same_channels():
    """A channel goes only if both sides are constant; a third reader holds another one."""
    net = Net([1, 4, 4, 3])
    left = net.conv(6, dead=[0, 1, 2]).x
    net.x = net.first
    right = net.conv(6, dead=[0, 1, 3]).x
    net.op("ADD", [1, 4, 4, 6], [left], "AddOptions")
    end = net.conv(2).x
    assert shapes_of(net, end) == [4, 4, 2]
    net.x = right
    net.conv(2, kernel=3)  # reads all but constants, which are zero points
    assert shapes_of(net, end) == [4, 4, 2, 2]


def test_a_part_that_is_constant_as_a_whole_goes_from_a_concatenation():
    net = Net([1, 4, 4, 3])
    left = net.conv(2, dead=[0, 1]).x
    net.x = net.first
    net.conv(3, dead=[1])
    net.op("CONCATENATION", [1, 4, 4, 5], [left], "ConcatenationOptions", axis=3)
    compiled = compiler.compile_model(net.conv(2, kernel=3).build())
    assert [n.kind for n in compiled.graph.nodes] == ["conv", "concatenation", "conv"]
    assert [len(n.inputs) for n in compiled.graph.nodes] == [1, 1, 1]
    assert compiled.graph.nodes[2].options["weights"].shape == (2, 3, 3, 2)


def shapes_of(net, *more):
    graph = operators.build(tflite.read(net.build(*(t for t in more if t != net.x))))
    return [n.out_shape[-1] for n in graph.nodes if n.kind == "conv"]


def test_interfaces_keep_their_shapes():
    """A dead channel of an output is computed from nothing but its value."""
    net = Net([1, 3, 3, 2]).conv(4, dead=[1], level=2.0)
    compiled = compiler.compile_model(net.build())
    assert compiled.interface()[1]["shape"] == [1, 3, 3, 4]
    row = compiled.calls[0].fields["channels"][1]
    assert (row["multiplier"], row["offset"] >> row["shift"]) == (0, round(2 / (6 / 255)) - 128)
    (folding,) = compiled.graph.foldings
    assert (folding.weights, folding.weights_left, folding.macs_left) == (8, 6, folding.macs)


def test_a_wide_channel_leaves_its_neighbours_alone():
    scales = np.array([np.nan, 3.0, np.nan])
    net = Net([1, 3, 3, 2]).conv(3, scales=scales)
    (call,) = compiler.compile_model(net.build()).calls
    assert call.fields["channels"]["wide"].tolist()[:3] == [0, 1, 0]
    assert call.fields["rounding"] == "MN_MIXED"
    tiny = Net([1, 3, 3, 2]).conv(3, scales=np.array([np.nan, 1e-12, np.nan])).conv(3)
    assert [c.fields["rounding"] for c in compiler.compile_model(tiny.build()).calls] == [
        "MN_POSITIVE"
    ] * 2


def test_a_model_of_the_world_with_dead_channels(reference):
    """At most what the issue of dead channels names as left: 51.7 % and 16.9 %."""
    compiled = compiler.compile_model(reference / "models" / "mlperf_vww.tflite")
    total = compiled.manifest()["folding"]
    assert (total["macs"], total["macs_left"]) == (7489664, 3727313)
    assert (total["weights"], total["weights_left"]) == (208112, 29066)
    layer = next(f for f in total["layers"] if f["operator"] == 24)
    assert (layer["constant"], layer["channels"], layer["unread"]) == (224, 256, 1)


# Against TensorFlow Lite Micro ------------------------------------------------------------------


def network(seed: int) -> bytes:
    """Layers in a random order, with dead, nearly dead, wide, zero and negative channels."""
    rng = np.random.default_rng(seed)
    shape, zero_point = [1, 6, 5, int(rng.integers(1, 5))], int(rng.integers(-99, 99))
    net = Net(shape, seed, scale=0.05, zero_point=zero_point)
    linear = {"scale": 0.05, "zero_point": int(rng.integers(-128, 128))}

    def layer(count=None, kernel=1, padding=0):
        channels = count or net.shape[3]
        dead = np.flatnonzero(rng.random(channels) < 0.4)
        odd = rng.choice([np.nan, 1e-12, 1e-9, 0.0, -0.01, 3.0], channels, p=[0.7, *[0.06] * 5])
        level = float(rng.choice([0.0, 1.0, 9.0]))
        scales = np.where(np.isin(np.arange(channels), dead), np.nan, odd)
        net.conv(
            count, kernel, padding, dead, level, scales, RELU6 if rng.random() < 0.6 else linear
        )

    layer(int(rng.integers(2, 9)), int(rng.integers(1, 4)))
    for _ in range(int(rng.integers(2, 6))):
        kind = rng.choice(
            ["conv", "depthwise", "pool", "add", "mean", "concat", "resize", "pad", "slice", "turn"]
        )
        q = {
            "scale": net.m.tensors[net.x].quantization.scale[0],
            "zero_point": net.m.tensors[net.x].quantization.zeroPoint[0],
        }
        _, rows, columns, channels = net.shape
        if kind == "conv":
            layer(int(rng.integers(2, 9)), int(rng.choice([1, 3])))
        elif kind == "depthwise":
            layer(kernel=3, padding=int(min(rows, columns) > 3 and rng.integers(2)))
        elif kind == "pool":
            net.op(str(rng.choice(["AVERAGE_POOL_2D", "MAX_POOL_2D"])),
                   [1, -(-rows // 2), -(-columns // 2), channels], (), "Pool2DOptions", q,
                   padding=0, strideH=2, strideW=2, filterHeight=2, filterWidth=2)  # fmt: skip
        elif kind == "add":
            side = net.x
            layer(channels, 3)
            net.op(str(rng.choice(["ADD", "SUB", "MUL"])), net.shape, [side],
                   "", {"scale": 0.1, "zero_point": 7})  # fmt: skip
        elif kind == "mean":
            axes = net.m.tensor([1], "int32", data=np.array([1], np.int32))
            net.op("MEAN", [1, 1, columns, channels], [axes], "ReducerOptions", q, keepDims=True)
        elif kind == "concat":
            side = net.x
            constant = net.m.tensor(
                [1, rows, columns, 2], **q, data=np.full([1, rows, columns, 2], 5, np.int8)
            )
            net.op("CONCATENATION", [1, rows, columns, 2 * channels + 2], [constant, side],
                   "ConcatenationOptions", q, axis=3)  # fmt: skip
        elif kind == "pad":
            pads = np.array([[0, 0], [1, 0], [0, 0], rng.integers(0, 3, 2)], np.int32)
            net.op("PAD", [1, rows + 1, columns, channels + pads[3].sum()],
                   [net.m.tensor([4, 2], "int32", data=pads)], "PadOptions", q)  # fmt: skip
        elif kind == "slice":
            low = int(rng.integers(0, channels))
            ends = [[0, 0, 0, low], [1, rows, columns, channels - low]]
            net.op("SLICE", ends[1], [net.m.tensor([4], "int32", data=np.array(e, np.int32))
                                      for e in ends], "SliceOptions", q)  # fmt: skip
        elif kind == "turn":
            order = net.m.tensor([4], "int32", data=np.array([0, 2, 1, 3], np.int32))
            net.op("TRANSPOSE", [1, columns, rows, channels], [order], "TransposeOptions", q)
        else:
            size = net.m.tensor([2], "int32", data=np.array([rows, columns + 1], np.int32))
            net.op("RESIZE_NEAREST_NEIGHBOR", [1, rows, columns + 1, channels], [size],
                   "ResizeNearestNeighborOptions", q)  # fmt: skip
    layer(int(rng.integers(1, 4)))
    flat = int(np.prod(net.shape))
    w = net.m.tensor([3, flat], "int8", 0.01, 0, rng.integers(-127, 128, (3, flat), np.int8))
    return net.op("FULLY_CONNECTED", [1, 3], [w], "FullyConnectedOptions", linear).build()


drawn = settings(
    deadline=None,
    phases=[Phase.generate],
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
@settings(drawn, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_no_byte_changes(seed):
    model = network(seed)
    with tempfile.TemporaryDirectory() as folder:
        host = verify.Host(
            compiler.compile_model(model), pathlib.Path(folder), ("-O1", *verify.SANITIZE)
        )
        batch = verify.cases(host.entries, 4)
        want = verify.Reference(model).run(batch, host.entries)
        for got in (host.run(batch), host.run_poisoned(batch)):
            np.testing.assert_array_equal(got, want)


@pytest.mark.slow
@settings(drawn, max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_no_byte_changes_on_a_core(seed):
    model = network(seed)
    compiled = compiler.compile_model(model)
    entry = compiled.interface()[0]
    case = noise(entry["bytes"], 5).view(np.int8).reshape(entry["shape"])
    with tempfile.TemporaryDirectory() as folder:
        compiler.write(compiled, folder)
        ran = firmware.run(folder, "lcg:5", core="cortex-m4")
    want = verify.Reference(model).run([[case]], compiled.interface())
    np.testing.assert_array_equal(ran.outputs[0].reshape(-1), want[0][0].reshape(-1))
