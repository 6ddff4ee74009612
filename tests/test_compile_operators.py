"""Every operator with drawn shapes and scales, against TensorFlow Lite Micro, with sanitizers."""

import pathlib
import re
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from micronets_jax import compile as compiler
from micronets_jax import firmware
from micronets_jax.compile import verify
from micronets_jax.compile.operators import registry
from micronets_jax.tflite import TFLiteError
from support import flatbuffer_models as fm
from support.compiled import check

pytestmark = pytest.mark.slow

drawn = settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
)


sizes = st.integers(1, 9)
kernels = st.integers(1, 5)
strides = st.integers(1, 3)
seeds = st.integers(0, 2**32 - 1)


@drawn
@given(st.data())
def test_convolution(data):
    draw = data.draw
    kernel = (draw(kernels), draw(kernels))
    shape = (1, draw(sizes) + kernel[0], draw(sizes) + kernel[1], draw(st.integers(1, 10)))
    model = fm.convolution(
        np.random.default_rng(draw(seeds)), shape, draw(st.integers(1, 9)), kernel,
        stride=(draw(strides), draw(strides)), padding=draw(st.integers(0, 1)),
        activation=draw(st.sampled_from([0, 1, 3])), per_channel=draw(st.booleans()),
        bias=draw(st.booleans()), gain=draw(st.sampled_from([0.01, 0.5, 1, 4, 1e4])),
        bits=draw(st.sampled_from([8, 8, 4])),
    )  # fmt: skip
    check(model)


@drawn
@given(st.data())
def test_groups_and_batches(data):
    """Grouped, depthwise written as grouped, and several pictures at a time."""
    draw = data.draw
    groups = draw(st.sampled_from([1, 2, 3]))
    depth = groups * draw(st.integers(1, 3))
    kernel = (draw(kernels), draw(kernels))
    shape = (draw(st.integers(1, 3)), draw(sizes) + kernel[0], draw(sizes) + kernel[1], depth)
    depthwise = groups == 1 and draw(st.booleans())
    model = fm.convolution(
        np.random.default_rng(draw(seeds)), shape, groups * draw(st.integers(1, 3)), kernel,
        stride=(draw(strides), draw(strides)), padding=draw(st.integers(0, 1)),
        activation=draw(st.sampled_from([0, 1, 3])), per_channel=draw(st.booleans()),
        gain=draw(st.sampled_from([0.5, 1, 1e4])), groups=groups, depthwise=depthwise,
    )  # fmt: skip
    check(model)


@drawn
@given(st.data())
def test_dilated_convolution(data):
    draw = data.draw
    dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    shape = (1, draw(sizes) + 9, draw(sizes) + 9, draw(st.integers(1, 6)))
    model = fm.convolution(
        np.random.default_rng(draw(seeds)), shape, draw(st.integers(1, 3)), (3, 2),
        padding=draw(st.integers(0, 1)), dilation=dilation, depthwise=draw(st.booleans()),
    )  # fmt: skip
    check(model)


@drawn
@given(st.data())
def test_depthwise_convolution(data):
    draw = data.draw
    kernel = (draw(st.sampled_from([1, 2, 3, 5, 7])), draw(st.sampled_from([1, 2, 3, 5, 7])))
    shape = (1, draw(sizes) + kernel[0], draw(sizes) + kernel[1], draw(st.integers(1, 6)))
    model = fm.convolution(
        np.random.default_rng(draw(seeds)), shape, draw(st.sampled_from([1, 1, 1, 2, 3])), kernel,
        stride=(draw(strides), draw(strides)), padding=draw(st.integers(0, 1)),
        activation=draw(st.sampled_from([0, 1, 3])), per_channel=draw(st.booleans()),
        bias=draw(st.booleans()), gain=draw(st.sampled_from([0.01, 0.5, 1, 4])), depthwise=True,
        bits=draw(st.sampled_from([8, 8, 4])),
    )  # fmt: skip
    check(model)


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [((25, 1), (7, 1), 1), ((13, 4), (5, 1), 1), ((9, 30), (1, 7), 2), ((30, 2), (3, 1), 2)],
)
def test_depthwise_windows_of_one_row_or_column_on_a_core(size, kernel, stride, core, tmp_path):
    """Computed line by line with the weights in registers: lines of odd and even length, every
    rounding."""
    for seed in range(3):
        rng, shape = np.random.default_rng(seed), (1, *size, 3 + 4 * seed)
        model = fm.convolution(
            rng, shape, 1, kernel, stride=(stride, stride), padding=seed % 2, depthwise=True,
            activation=3 * (seed % 2), gain=(1, 0.5, 1e4)[seed],
        )  # fmt: skip
        compiled = compiler.compile_model(model, plan="whole")
        assert "MN_DEPTHWISE_LINE" in compiled.calls[0].template
        compiler.write(compiled, tmp_path / str(seed))
        case = rng.integers(-128, 128, shape, np.int8)
        np.save(tmp_path / "x.npy", case)
        ran = firmware.run(tmp_path / str(seed), str(tmp_path / "x.npy"), core=core)
        want = verify.Reference(model).run([[case]], compiled.interface())
        np.testing.assert_array_equal(ran.outputs[0], want[0][0])


@drawn
@given(st.data())
def test_transposed_convolution(data):
    draw = data.draw
    rng = np.random.default_rng(draw(seeds))
    kernel, stride = (draw(kernels), draw(kernels)), (draw(strides), draw(strides))
    rows, columns, depth, count, padding = (
        draw(sizes), draw(sizes), draw(st.integers(1, 5)), draw(st.integers(1, 5)),
        draw(st.integers(0, 1)),
    )  # fmt: skip
    size = [
        n * s if padding == 0 else (n - 1) * s + k
        for n, s, k in zip((rows, columns), stride, kernel, strict=True)
    ]
    m = fm.Models()
    x = m.tensor([draw(st.integers(1, 2)), rows, columns, depth], **affine(rng))
    shape = [m.tensors[x].shape[0], *size, count]
    w = m.tensor(
        [count, *kernel, depth], "int8", rng.uniform(0.001, 0.02, count), 0,
        rng.integers(-127, 128, (count, *kernel, depth), np.int8),
    )  # fmt: skip
    inputs = [m.tensor([4], "int32", data=np.array(shape, np.int32)), w, x]
    if draw(st.booleans()):
        bias = rng.integers(-999, 999, count).astype(np.int32)
        inputs.append(m.tensor([count], "int32", [0.001] * count, 0, bias))
    y = m.tensor(
        shape, scale=float(rng.uniform(0.05, 0.5)), zero_point=int(rng.integers(-128, 128))
    )
    m.operator(
        "TRANSPOSE_CONV", inputs, [y], "TransposeConvOptions", padding=padding, strideH=stride[0],
        strideW=stride[1],
    )  # fmt: skip
    check(m.build([x], [y]))


@pytest.mark.parametrize("target", ["int32", "float32"])
def test_cast(target):
    m = fm.Models()
    x, y = m.tensor([1, 9], scale=0.1, zero_point=3), m.tensor([1, 9], target)
    types = {"inDataType": 9, "outDataType": fm.TYPES[target]}
    m.operator("CAST", [x], [y], "CastOptions", **types)
    check(m.build([x], [y]))


def affine(rng):
    return {"scale": float(rng.uniform(0.01, 0.2)), "zero_point": int(rng.integers(-128, 128))}


@drawn
@given(
    seeds, st.integers(1, 3), st.integers(1, 40), st.integers(1, 12), st.booleans(), st.booleans()
)
def test_fully_connected(seed, batch, depth, count, bias, per_channel):
    rng = np.random.default_rng(seed)
    m = fm.Models()
    x = m.tensor([batch, depth], scale=0.05, zero_point=int(rng.integers(-128, 128)))
    scales = rng.uniform(0.001, 0.02, count if per_channel and count > 1 else 1)
    w = m.tensor(
        [count, depth], "int8", scales, 0, rng.integers(-127, 128, (count, depth), np.int8)
    )
    inputs = [x, w]
    if bias:
        b = rng.integers(-9999, 9999, count).astype(np.int32)
        inputs.append(m.tensor([count], "int32", 0.05 * scales, 0, b))
    y = m.tensor([batch, count], **affine(rng))
    m.operator(
        "FULLY_CONNECTED", inputs, [y], "FullyConnectedOptions",
        fusedActivationFunction=int(rng.choice([0, 1, 3])),
    )  # fmt: skip
    check(m.build([x], [y]))


@drawn
@given(seeds, st.sampled_from(["AVERAGE_POOL_2D", "MAX_POOL_2D"]), st.data())
def test_pooling(seed, kind, data):
    draw, rng = data.draw, np.random.default_rng(seed)
    kernel, stride, padding = (
        (draw(kernels), draw(kernels)), (draw(strides), draw(strides)), draw(st.integers(0, 1)),
    )  # fmt: skip
    batch = draw(st.integers(1, 2))
    shape = (batch, draw(sizes) + kernel[0], draw(sizes) + kernel[1], draw(st.integers(1, 6)))
    if padding:
        size = [(n - k) // s + 1 for n, k, s in zip(shape[1:3], kernel, stride, strict=True)]
    else:
        size = [-(-n // s) for n, s in zip(shape[1:3], stride, strict=True)]
    m = fm.Models()
    q = affine(rng)
    x, y = m.tensor(shape, **q), m.tensor([batch, *size, shape[3]], **q)
    m.operator(
        kind, [x], [y], "Pool2DOptions", padding=padding, strideH=stride[0], strideW=stride[1],
        filterHeight=kernel[0], filterWidth=kernel[1],
        fusedActivationFunction=draw(st.sampled_from([0, 1, 3])),
    )  # fmt: skip
    check(m.build([x], [y]))


SHAPES = st.sampled_from(
    [
        ((1, 4, 5, 3), (1, 4, 5, 3)), ((1, 4, 5, 3), (1, 1, 1, 3)), ((2, 3, 4), (2, 3, 1)),
        ((1, 4, 5, 3), (1, 1, 1, 1)), ((1, 1, 5, 3), (1, 4, 1, 3)), ((7,), (7,)),
    ]
)  # fmt: skip


@settings(drawn, max_examples=40)
@given(
    seeds,
    st.sampled_from(
        ["ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "PRELU", "SQUARED_DIFFERENCE", "DIV"]
    ),
    SHAPES,
    st.sampled_from(["two", "same", "constant", "single"]),
)
def test_binary(seed, kind, shapes, operands):
    rng = np.random.default_rng(seed)
    m = fm.Models()
    q = [affine(rng) for _ in range(3)]
    plain = kind in ("ADD", "SUB", "MUL", "PRELU")
    if plain and rng.random() < 0.5:
        q[1]["scale"] *= float(2.0 ** rng.integers(-20, 4))
    if plain and rng.random() < 0.3:
        q[2]["scale"] *= float(2.0 ** rng.integers(0, 9))
    a = m.tensor(shapes[0], **q[0])
    if operands == "same":
        shapes = (shapes[0], shapes[0])
        b = a
    else:
        if operands == "single":
            shapes = (shapes[0], ())
        if kind == "DIV":  # away from where the reference's shifts are undefined: see its row
            operands = "constant" if operands == "two" else operands
            q[1]["zero_point"], q[2]["scale"] = -128, q[0]["scale"] / q[1]["scale"] / 200
        low = -127 if kind == "DIV" else -128
        data = None if operands == "two" else rng.integers(low, 128, shapes[1], np.int8)
        b = m.tensor(shapes[1], **q[1], data=data)
    y = m.tensor(np.broadcast_shapes(*shapes), **q[2])
    activation = {"fusedActivationFunction": int(rng.choice([0, 1, 3]))}
    options = {"MAXIMUM": "MaximumMinimum", "MINIMUM": "MaximumMinimum", "PRELU": ""}.get(
        kind, "".join(word.title() for word in kind.split("_"))
    )
    if kind not in ("ADD", "SUB", "MUL", "DIV"):
        activation = {}
    m.operator(kind, [a, b], [y], *([options + "Options"] if options else []), **activation)
    check(m.build([a] if operands != "two" else [a, b], [y]))


COMPARISONS = ["EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"]


def truth(m: fm.Models, rng, kind: str, a: int, shape, operands: str, inputs: list[int]) -> int:
    """A tensor of truth values: ``a`` compared with itself, an input, constants or one constant."""
    if operands == "same":
        b, shape = a, m.tensors[a].shape
    else:
        shape = () if operands == "single" else shape
        close = {**affine(rng), "scale": float(m.tensors[a].quantization.scale[0])}
        q = close if rng.random() < 0.5 else affine(rng)
        data = None if operands == "two" else rng.integers(-128, 128, shape, np.int8)
        b = m.tensor(shape, **q, data=data)
        inputs += [b] * (data is None)
    made = m.tensor(np.broadcast_shapes(tuple(m.tensors[a].shape), tuple(shape)), "bool")
    options = "".join(word.title() for word in kind.split("_")) + "Options"
    m.operator(kind, [a, b] if rng.random() < 0.5 else [b, a], [made], options)
    return made


@settings(drawn, max_examples=20)
@given(
    seeds,
    st.sampled_from(COMPARISONS),
    SHAPES,
    st.sampled_from(["two", "same", "constant", "single"]),
    st.sampled_from(["", "LOGICAL_NOT", "LOGICAL_AND", "LOGICAL_OR"]),
)
def test_comparisons_and_selection(seed, kind, shapes, operands, logical):
    """What is compared is close, or its scales are not alike; conditions, too, broadcast."""
    rng = np.random.default_rng(seed)
    m = fm.Models()
    a = m.tensor(shapes[0], **affine(rng))
    inputs = [a]
    condition = truth(m, rng, kind, a, shapes[1], operands, inputs)
    size = tuple(m.tensors[condition].shape)
    if logical:
        also = [condition]
        if logical != "LOGICAL_NOT":
            other = truth(m, rng, str(rng.choice(COMPARISONS)), a, (), "single", inputs)
            also = [condition, other]
            size = np.broadcast_shapes(size, tuple(m.tensors[other].shape))
        condition = m.tensor(size, "bool")
        options = "".join(word.title() for word in logical.split("_")) + "Options"
        m.operator(logical, also, [condition], options)
    x = m.tensor(shapes[1], **affine(rng))
    inputs.append(x)
    constant = rng.integers(-128, 128, () if rng.random() < 0.5 else shapes[0], np.int8)
    operands_of = [x, m.tensor(constant.shape, **affine(rng), data=constant)]
    if rng.random() < 0.5:
        operands_of.reverse()
    y = m.tensor(np.broadcast_shapes(size, *shapes), **affine(rng))
    m.operator("SELECT_V2", [condition, *operands_of], [y], "SelectV2Options")
    check(m.build(inputs, [y]))


@drawn
@given(seeds, st.sampled_from(["MEAN", "SUM"]), st.sets(st.integers(-4, 3), min_size=1, max_size=3))
def test_reductions(seed, kind, axes):
    rng = np.random.default_rng(seed)
    shape = (1, *(int(n) for n in rng.integers(1, 7, 3)))
    keep = bool(rng.integers(2))
    reduced = {a % 4 for a in axes}
    size = [1 if i in reduced else n for i, n in enumerate(shape) if keep or i not in reduced]
    m = fm.Models()
    x = m.tensor(shape, **affine(rng))
    a = m.tensor([len(axes)], "int32", data=np.array(sorted(axes), np.int32))
    y = m.tensor(size, **affine(rng))
    m.operator(kind, [x, a], [y], "ReducerOptions", keepDims=keep)
    check(m.build([x], [y]))


@drawn
@given(
    seeds, st.sampled_from(["REDUCE_MAX", "REDUCE_MIN"]), st.sets(st.integers(-4, 3), min_size=1)
)
def test_extremes(seed, kind, axes):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 7, 4))
    keep = bool(rng.integers(2))
    reduced = {a % 4 for a in axes}
    size = [1 if i in reduced else n for i, n in enumerate(shape) if keep or i not in reduced]
    m, q = fm.Models(), affine(rng)
    x, y = m.tensor(shape, **q), m.tensor(size, **q)
    a = m.tensor([len(axes)], "int32", data=np.array(sorted(axes), np.int32))
    m.operator(kind, [x, a], [y], "ReducerOptions", keepDims=keep)
    check(m.build([x], [y]))


@drawn
@given(seeds, st.sampled_from(["ARG_MAX", "ARG_MIN"]), st.integers(-3, 2))
def test_positions_of_extremes(seed, kind, axis):
    rng = np.random.default_rng(seed)
    shape = [int(n) for n in rng.integers(1, 9, 3)]
    m = fm.Models()
    x = m.tensor(shape, **affine(rng))
    y = m.tensor([n for i, n in enumerate(shape) if i != axis % 3], "int32")
    a = m.tensor([1], "int32", data=np.array([axis], np.int32))
    m.operator(kind, [x, a], [y], kind.title().replace("_", "") + "Options", outputType=2)
    check(m.build([x], [y]))


@drawn
@given(seeds, st.integers(-3, 2), st.booleans(), st.booleans())
def test_sums_of_all_so_far(seed, axis, exclusive, reverse):
    rng = np.random.default_rng(seed)
    shape = [int(n) for n in rng.integers(1, [9, 9, 40])]
    m = fm.Models()
    x, y = m.tensor(shape, **affine(rng)), m.tensor(shape, **affine(rng))
    a = m.tensor([1], "int32", data=np.array([axis], np.int32))
    m.operator("CUMSUM", [x, a], [y], "CumsumOptions", exclusive=exclusive, reverse=reverse)
    check(m.build([x], [y]))


@drawn
@given(seeds, st.sampled_from(["LOG_SOFTMAX", "L2_NORMALIZATION"]))
def test_rows(seed, kind):
    rng = np.random.default_rng(seed)
    shape = [int(n) for n in rng.integers(1, [3, 3, 40])]
    m = fm.Models()
    x = m.tensor(
        shape, scale=float(rng.uniform(0.01, 0.5)), zero_point=int(rng.integers(-128, 128))
    )
    log = kind == "LOG_SOFTMAX"
    y = m.tensor(shape, scale=1 / 16 if log else 1 / 128, zero_point=127 if log else 0)
    options = "LogSoftmaxOptions" if log else "L2NormOptions"
    m.operator(kind, [x], [y], options)
    check(m.build([x], [y]))


@drawn
@given(seeds, st.booleans(), st.booleans())
def test_bilinear_resizing(seed, align, half):
    rng = np.random.default_rng(seed)
    shape, size = [int(n) for n in rng.integers(1, 8, 4)], rng.integers(1, 15, 2)
    m, q = fm.Models(), affine(rng)
    x, y = m.tensor(shape, **q), m.tensor([shape[0], *size, shape[3]], **q)
    s = m.tensor([2], "int32", data=size.astype(np.int32))
    m.operator(
        "RESIZE_BILINEAR", [x, s], [y], "ResizeBilinearOptions", alignCorners=align,
        halfPixelCenters=half and not align,
    )  # fmt: skip
    check(m.build([x], [y]))


@drawn
@given(seeds, st.booleans(), st.booleans(), st.sampled_from([(), (2,), (1, 3)]), st.booleans())
def test_matrix_products(seed, adj_x, adj_y, batches, constant):
    rng = np.random.default_rng(seed)
    rows, depth, columns = (int(n) for n in rng.integers(1, 9, 3))
    left = (*batches, *((depth, rows) if adj_x else (rows, depth)))
    right = (*(1 for _ in batches), *((columns, depth) if adj_y else (depth, columns)))
    m = fm.Models()
    data = rng.integers(-128, 128, right, np.int8) if constant else None
    a, b = m.tensor(left, **affine(rng)), m.tensor(right, **affine(rng), data=data)
    y = m.tensor((*batches, rows, columns), scale=0.9, zero_point=int(rng.integers(-128, 128)))
    m.operator("BATCH_MATMUL", [a, b], [y], "BatchMatMulOptions", adjX=adj_x, adjY=adj_y)
    check(m.build([a] if constant else [a, b], [y]))


@pytest.mark.parametrize("scale", [0.003, 0.05, 0.4])
@pytest.mark.parametrize(
    "kind",
    [
        "RELU", "RELU6", "LOGISTIC", "HARD_SWISH", "QUANTIZE", "SOFTMAX", "TANH", "ELU", "ABS",
        "LEAKY_RELU", "RSQRT", "RELU6 to another scale", "LEAKY_RELU falling",
    ],
)  # fmt: skip
@pytest.mark.parametrize("zero", [-128, -5, 100])
def test_functions_of_one_byte(kind, scale, zero):
    """All 256 bytes, so the tables are checked whole."""
    kind, _, how = kind.partition(" ")
    if kind == "RSQRT":
        zero = -128  # the interpreter stops at the root of a negative number
    m = fm.Models()
    x = m.tensor([1, 256], scale=scale, zero_point=zero)
    out = {
        "LOGISTIC": {"scale": 1 / 256, "zero_point": -128},
        "SOFTMAX": {"scale": 1 / 256, "zero_point": -128},
        "RELU6": {"scale": scale * (0.9 if how else 1), "zero_point": zero},
        "TANH": {"scale": 1 / 128, "zero_point": 0},
        "LEAKY_RELU": {"scale": scale * 0.8, "zero_point": zero // 2},
        "ELU": {"scale": scale * 0.9, "zero_point": zero // 2},
    }.get(kind, {"scale": scale * 0.7, "zero_point": -128})
    y = m.tensor([1, 256], **out)
    if kind == "SOFTMAX":
        m.operator(kind, [x], [y], "SoftmaxOptions", beta=1.0)
    elif kind == "LEAKY_RELU":
        m.operator(kind, [x], [y], "LeakyReluOptions", alpha=-0.3 if how else 0.2)
    else:
        m.operator(kind, [x], [y], *(["QuantizeOptions"] if kind == "QUANTIZE" else []))
    model = m.build([x], [y])
    compiled = compiler.compile_model(model)
    reference = verify.Reference(model)
    everything = [[np.arange(-128, 128, dtype=np.int8).reshape(1, 256)]]
    with tempfile.TemporaryDirectory() as folder:
        host = verify.Host(compiled, pathlib.Path(folder))
        np.testing.assert_array_equal(
            host.run(everything)[0][0], reference.run(everything, host.entries)[0][0]
        )
    check(model)


@drawn
@given(seeds, st.integers(0, 3))
def test_concatenation(seed, axis):
    rng = np.random.default_rng(seed)
    m, q = fm.Models(), affine(rng)
    shapes = np.tile(rng.integers(1, 5, 4), (3, 1))
    shapes[:, axis] = rng.integers(1, 5, 3)
    parts = [m.tensor(s, **q) for s in shapes]
    total = shapes[0].copy()
    total[axis] = shapes[:, axis].sum()
    y = m.tensor(total, **q)
    m.operator("CONCATENATION", parts, [y], "ConcatenationOptions", axis=int(axis) - 4 * (seed % 2))
    check(m.build(parts, [y]))


@drawn
@given(seeds)
def test_pad_transpose_and_resize(seed):
    rng = np.random.default_rng(seed)
    m, q = fm.Models(), affine(rng)
    shape = (1, *(int(n) for n in rng.integers(1, 6, 3)))
    x = m.tensor(shape, **q)
    pads = np.array([[0, 0], *rng.integers(0, 3, (3, 2))], np.int32)
    padded = [n + a + b for n, (a, b) in zip(shape, pads, strict=True)]
    p = m.tensor(padded, **q)
    m.operator("PAD", [x, m.tensor([4, 2], "int32", data=pads)], [p], "PadOptions")
    order = np.array([0, *(1 + rng.permutation(3))], np.int32)
    t = m.tensor([padded[i] for i in order], **q)
    m.operator("TRANSPOSE", [p, m.tensor([4], "int32", data=order)], [t], "TransposeOptions")
    size = rng.integers(1, 12, 2).astype(np.int32)
    r = m.tensor([1, *size, padded[order[3]]], **q)
    align = bool(rng.integers(2))
    m.operator(
        "RESIZE_NEAREST_NEIGHBOR", [t, m.tensor([2], "int32", data=size)], [r],
        "ResizeNearestNeighborOptions", alignCorners=align,
        halfPixelCenters=bool(rng.integers(2)) and not align,
    )  # fmt: skip
    check(m.build([x], [r, p]))


@drawn
@given(seeds, st.sampled_from(["int8", "int16", "int32"]))
def test_ends_of_16_bits(seed, end):
    """As TensorFlow Lite Micro's keyword spotters have them: from int16, by softmax to int16 or
    int32, or a change of scale."""
    rng = np.random.default_rng(seed)
    shape = [int(n) for n in rng.integers(1, [4, 30])]
    m = fm.Models()
    x = m.tensor(shape, "int16", float(rng.uniform(1e-4, 1e-3)), int(rng.integers(-99, 99)))
    y = m.tensor(shape, **affine(rng))
    m.operator("QUANTIZE", [x], [y], "QuantizeOptions")
    z = m.tensor(shape, "int16", float(rng.uniform(1e-4, 1e-2)), int(rng.integers(-99, 99)))
    m.operator("QUANTIZE", [y], [z], "QuantizeOptions")
    p = m.tensor(shape, "int16", 1 / 65536, -(1 << 15))
    m.operator("SOFTMAX", [y], [p], "SoftmaxOptions", beta=1.0)
    last = {"int8": y, "int16": p}.get(end)
    if last is None:
        last = m.tensor(shape, "int32", float(rng.uniform(1, 3)) / 65536, -(1 << 15))
        m.operator("QUANTIZE", [p], [last], "QuantizeOptions")
    check(m.build([x], [last, z]))


@pytest.mark.parametrize("ends", ["float32", "uint8"])
def test_ends_and_branches(ends):
    """Float or uint8 ends, a tensor with three readers, two outputs, reshape, residual addition."""
    rng = np.random.default_rng(3)
    m = fm.Models()
    q = {"scale": 0.05, "zero_point": 3}
    outer = {} if ends == "float32" else {"scale": 0.05, "zero_point": 131}
    x = m.tensor([1, 6, 6, 8], ends, **outer)
    i = m.tensor([1, 6, 6, 8], **q)
    m.operator("QUANTIZE", [x], [i], "QuantizeOptions")
    w = m.tensor(
        [8, 1, 1, 8], "int8", [0.01] * 8, 0, rng.integers(-127, 128, (8, 1, 1, 8), np.int8)
    )
    c = m.tensor([1, 6, 6, 8], **q)
    m.operator("CONV_2D", [i, w], [c], "Conv2DOptions", padding=0, strideH=1, strideW=1)
    a = m.tensor([1, 6, 6, 8], **q)
    m.operator("ADD", [i, c], [a], "AddOptions")
    flat = m.tensor([1, 288], **q)
    m.operator("RESHAPE", [a, m.tensor([2], "int32", data=np.array([1, -1], np.int32))], [flat])
    o = m.tensor([1, 288], ends, **outer)
    m.operator("DEQUANTIZE" if ends == "float32" else "QUANTIZE", [flat], [o])
    s = m.tensor([1, 6, 6, 8], **q)
    m.operator("SUB", [i, a], [s], "SubOptions")
    check(m.build([x], [o, s]))


@drawn
@given(seeds)
def test_operators_see_their_own_view(seed):
    """A vector seen as a picture, a picture seen as another, an activation behind a reshape."""
    rng = np.random.default_rng(seed)
    m, q = fm.Models(), {"scale": 0.1, "zero_point": int(rng.integers(-128, 100))}
    x = m.tensor([1, 96], **q)

    def reshape(source, *shape):
        y = m.tensor(shape, **q)
        target = m.tensor([len(shape)], "int32", data=np.array(shape, "i4"))
        m.operator("RESHAPE", [source, target], [y])
        return y

    picture = reshape(x, 1, 4, 6, 4)
    depthwise = bool(rng.integers(2))
    shape = (1, 3, 3, 4) if depthwise else (4, 3, 3, 4)
    w = m.tensor(shape, "int8", 0.01, 0, rng.integers(-127, 128, shape, np.int8))
    c = m.tensor([1, 4, 6, 4], **q)
    m.operator(
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [picture, w], [c],
        "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions", padding=0, strideH=1, strideW=1,
        **({"depthMultiplier": 1} if depthwise else {}),
    )  # fmt: skip
    other = reshape(c, 1, 6, 2, 8)
    row = m.tensor([8], **q, data=rng.integers(-128, 128, 8, np.int8))
    a = m.tensor([1, 6, 2, 8], **q)
    m.operator("ADD", [other, row], [a], "AddOptions")
    flat = reshape(a, 2, 48)
    r = m.tensor([2, 48], **q)
    m.operator("RELU", [flat], [r])
    deep = reshape(r, 1, 2, 6, 8)
    p = m.tensor([1, 1, 3, 8], **q)
    m.operator(
        "AVERAGE_POOL_2D", [deep], [p], "Pool2DOptions", padding=0, strideH=2, strideW=2,
        filterHeight=2, filterWidth=2,
    )  # fmt: skip
    check(m.build([x], [p, r]))


def island(*steps, out=None) -> bytes:
    """Functions of float32 between DEQUANTIZE and QUANTIZE, of every byte. A step is an operator
    or, with a number, a function of two."""
    m = fm.Models()
    x = m.tensor([1, 256], scale=0.03, zero_point=-20)
    last = m.tensor([1, 256], "float32")
    m.operator("DEQUANTIZE", [x], [last], "DequantizeOptions")
    for step in steps:
        kind, *more = step if isinstance(step, tuple) else (step,)
        made = m.tensor([1, 256], "float32")
        constants = [m.tensor([], "float32", data=np.array(c, np.float32)) for c in more]
        options = [kind.title() + "Options"] if kind in ("ADD", "SUB", "MUL", "DIV") else []
        m.operator(kind, [last, *constants], [made], *options)
        last = made
    y = m.tensor([1, 256], **(out or {"scale": 0.04, "zero_point": -7}))
    m.operator("QUANTIZE", [last], [y], "QuantizeOptions")
    return m.build([x], [y])


@pytest.mark.parametrize(
    "steps",
    [
        *((kind,) for kind in ("NEG", "SQUARE", "EXP", "SIN", "COS", "ABS", "ELU", "TANH")),
        *((kind,) for kind in ("LOGISTIC", "RELU", "RELU6", "FLOOR", "CEIL", "ROUND")),
        ("ABS", "SQRT"), ("ABS", ("ADD", 0.5), "LOG"), ("ABS", ("ADD", 0.1), "RSQRT"),
        (("MUL", -0.7), ("ADD", 0.3), ("DIV", 1.5), ("SUB", 0.2), "SQUARE"),
        (("MAXIMUM", -0.5), ("MINIMUM", 1.5)),
    ],
)  # fmt: skip
def test_islands_of_float_are_tables(steps):
    model = island(*steps)
    compiled = compiler.compile_model(model)
    assert [call.kind for call in compiled.calls] == ["table"]
    everything = [[np.arange(-128, 128, dtype=np.int8).reshape(1, 256)]]
    want = verify.Reference(model).run(everything, compiled.interface())[0][0]
    table = compiled.calls[0].table
    assert table is not None
    got = table[everything[0][0].view(np.uint8)].view(np.int8)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu_is_litert_s(approximate):
    m = fm.Models()
    x = m.tensor([1, 256], scale=0.04, zero_point=5)
    y = m.tensor([1, 256], scale=0.021, zero_point=-120)
    m.operator("GELU", [x], [y], "GeluOptions", approximate=approximate)
    model = m.build([x], [y])
    everything = np.arange(-128, 128, dtype=np.int8).reshape(1, 256)
    table = compiler.compile_model(model).calls[0].table
    assert table is not None
    np.testing.assert_array_equal(
        table[everything.view(np.uint8)].view(np.int8), fm.litert(model, [everything])[0]
    )


@pytest.mark.parametrize("scale", [0.01, 0.02])
def test_the_operator_of_the_guide_compiles(monkeypatch, scale):
    guide = (pathlib.Path(__file__).parents[1] / "docs" / "compile.md").read_text()
    text = guide.split("## Adding an operator")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    m = fm.Models()
    x = m.tensor([1, 256], scale=0.04, zero_point=5)
    y = m.tensor([1, 256], scale=scale, zero_point=-20)
    m.operator("RELU_N1_TO_1", [x], [y])
    model = m.build([x], [y])
    with pytest.raises(TFLiteError, match="RELU_N1_TO_1"):
        compiler.compile_model(model)
    monkeypatch.setitem(registry.ROWS, "RELU_N1_TO_1", None)  # taken out again at the end
    exec(block, {"__name__": "guide"})
    everything = np.arange(-128, 128, dtype=np.int8).reshape(1, 256)
    table = compiler.compile_model(model).calls[0].table
    assert table is not None
    got = table[everything.view(np.uint8)].view(np.int8)
    np.testing.assert_array_equal(got, fm.litert(model, [everything])[0])
    assert len(np.unique(got)) > 40
