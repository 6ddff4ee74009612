"""The reader: what it reads, what it refuses and how, and that no bytes break it."""

import random

import numpy as np
import pytest

from micronets_jax import compile as compiler
from micronets_jax import tflite
from support import flatbuffer_models as fm
from support import move_models, state_models
from support.operator_models import pair, single


def small(seed=0, **kw) -> bytes:
    return fm.convolution(np.random.default_rng(seed), (1, 6, 5, 4), 8, (3, 3), **kw)


def test_reads_what_was_written():
    model = tflite.read(small())
    (operator,) = model.operators
    assert operator.kind == "CONV_2D"
    assert operator.options["stride_h"] == 1
    assert [model.tensors[i].shape for i in operator.inputs] == [(1, 6, 5, 4), (8, 3, 3, 4), (8,)]
    weights = model.tensors[operator.inputs[1]].data
    assert weights is not None and weights.dtype == np.int8
    assert model.inputs == (0,)
    assert model.outputs == (3,)


def test_int4_is_unpacked():
    m = fm.Models()
    data = np.array([[-8, 7, -1], [0, 3, -5]], np.int8)
    x = m.tensor([1, 3], scale=0.1)
    w = m.tensor([2, 3], "int4", 0.1, 0, data)
    y = m.tensor([1, 2], scale=0.1)
    m.operator("FULLY_CONNECTED", [x, w], [y], "FullyConnectedOptions")
    np.testing.assert_array_equal(tflite.read(m.build([x], [y])).tensors[w].data, data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "an empty file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
        (b"\x10\0\0\0TFL3", "offset"),
        (small()[:-700], "TFLite file"),
        (small()[:100], "TFLite file"),
    ],
    ids=["empty", "png", "header", "cut", "stump"],
)
def test_not_a_model(data, says):
    with pytest.raises(tflite.TFLiteError, match=says):
        compiler.compile_model(data)


def test_directory_and_missing_file(tmp_path):
    with pytest.raises(tflite.TFLiteError, match="cannot read"):
        tflite.read(tmp_path)
    with pytest.raises(tflite.TFLiteError, match="cannot read"):
        tflite.read(tmp_path / "none.tflite")


def test_float_model_is_refused():
    m = fm.Models()
    x = m.tensor([1, 4], "float32")
    w = m.tensor([2, 4], "float32", data=np.ones((2, 4), np.float32))
    y = m.tensor([1, 2], "float32")
    m.operator("FULLY_CONNECTED", [x, w], [y], "FullyConnectedOptions")
    with pytest.raises(tflite.TFLiteError, match=r"full integer.*operator 0 .FULLY_CONNECTED"):
        compiler.compile_model(m.build([x], [y]))


def test_unsupported_operator_is_named():
    m = fm.Models()
    x, y = m.tensor([1, 4], scale=0.1), m.tensor([1, 4], scale=0.1)
    m.operator("POW", [x], [y])
    with pytest.raises(tflite.TFLiteError, match=r"operator 0 .POW. is not supported: write x"):
        compiler.compile_model(m.build([x], [y]))


def test_dynamic_shapes_are_refused_but_an_open_batch_is_not():
    m = fm.Models()
    x, y = m.tensor([1, 4], scale=0.1), m.tensor([1, 4], scale=0.1)
    m.operator("RELU", [x], [y])
    m.tensors[x].shapeSignature = [-1, 4]
    assert tflite.read(m.build([x], [y]))
    m.tensors[x].shapeSignature = [1, -1]
    with pytest.raises(tflite.TFLiteError, match="dynamic shape"):
        compiler.compile_model(m.build([x], [y]))


@pytest.mark.parametrize("shape", [[1 << 20, 1 << 20], [1 << 30], [1] * 9, [0, 4]])
def test_absurd_shapes(shape):
    m = fm.Models()
    x, y = m.tensor(shape, scale=0.1), m.tensor(shape, scale=0.1)
    m.operator("RELU", [x], [y])
    with pytest.raises(tflite.TFLiteError):
        compiler.compile_model(m.build([x], [y]))


def mutate(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(len(out))
        kind = chance.randrange(3)
        if kind == 0:
            out[at] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        elif kind == 1:
            out[at] ^= 1 << chance.randrange(8)
        else:
            word = chance.choice([0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, len(out), at])
            out[at & ~3 : (at & ~3) + 4] = word.to_bytes(4, "little")
    return bytes(out[: chance.randrange(len(out))]) if chance.random() < 0.05 else bytes(out)


def fuzz(models: list[bytes], rounds: int) -> int:
    """Compiles mutated models; whatever comes must compile or be refused in words."""
    chance, compiled = random.Random(7), 0
    for _ in range(rounds):
        data = mutate(chance.choice(models), chance)
        try:
            result = compiler.compile_model(data)
            if chance.random() < 0.1:
                result.files()
            compiled += 1
        except tflite.TFLiteError as error:
            assert str(error)
    return compiled


def folded_shape() -> bytes:
    """RESHAPE to a shape that SHAPE, STRIDED_SLICE and PACK compute."""
    m = fm.Models()
    x, y = (m.tensor([1, 4], scale=0.1) for _ in range(2))
    shape, first, target = (m.tensor(s, "int32") for s in ([2], [], [2]))
    zero, one = (m.tensor([1], "int32", data=np.array([n], "i4")) for n in (0, 1))
    four = m.tensor([], "int32", data=np.array(4, "i4"))
    m.operator("SHAPE", [x], [shape], "ShapeOptions")
    m.operator(
        "STRIDED_SLICE", [shape, zero, one, one], [first], "StridedSliceOptions", shrinkAxisMask=1
    )
    m.operator("PACK", [first, four], [target], "PackOptions", valuesCount=2)
    m.operator("RESHAPE", [x, target], [y])
    return m.build([x], [y])


def small_models() -> list[bytes]:
    window = {"strideH": 1, "strideW": 1, "filterHeight": 2, "filterWidth": 2}
    return [
        small(),
        small(depthwise=True),
        small(bits=4),
        single("AVERAGE_POOL_2D", "Pool2DOptions", (1, 4, 4, 2), (1, 4, 4, 2), **window),
        single("PAD", "PadOptions", (1, 3, 3, 2), (1, 5, 4, 2), [[[0, 0], [1, 1], [0, 1], [0, 0]]]),
        single("TRANSPOSE", "", (1, 3, 4, 2), (1, 4, 3, 2), [[0, 2, 1, 3]]),
        single("MEAN", "ReducerOptions", (1, 3, 4, 2), (1, 2), [[1, 2]]),
        single("RESIZE_NEAREST_NEIGHBOR", "", (1, 3, 4, 2), (1, 6, 8, 2), [[6, 8]]),
        single("SOFTMAX", "SoftmaxOptions", (1, 9), (1, 9), beta=1.0),
        *(single(kind, "", (1, 9), (1, 9)) for kind in ("LOGISTIC", "HARD_SWISH", "RELU")),
        single("CONCATENATION", "ConcatenationOptions", (1, 4), (1, 4), axis=1),
        folded_shape(),
        *(single(kind, "", (1, 9), (1, 9)) for kind in ("ELU", "ABS", "RSQRT")),
        single("LEAKY_RELU", "LeakyReluOptions", (1, 9), (1, 9), alpha=0.1),
        single("REDUCE_MAX", "ReducerOptions", (1, 3, 4, 2), (1, 2), [[1, 2]]),
        single("CUMSUM", "CumsumOptions", (1, 3, 4, 2), (1, 3, 4, 2), [[2]], reverse=True),
        single("RESIZE_BILINEAR", "ResizeBilinearOptions", (1, 3, 4, 2), (1, 6, 8, 2), [[6, 8]]),
        *(pair(kind) for kind in ("MAXIMUM", "PRELU", "SQUARED_DIFFERENCE", "DIV", "BATCH_MATMUL")),
        *(model for _, model in move_models.moves(np.random.default_rng(0))),
        move_models.dilated(False, True, True),
        *(make() for make in state_models.MODELS.values()),
    ]


def test_small_models_compile():
    for model in small_models():
        assert compiler.compile_model(model).arena_bytes


def test_mutations_of_small_models():
    assert fuzz(small_models(), 500) > 40


@pytest.mark.slow
def test_many_mutations_of_small_models():
    assert fuzz(small_models(), 2500) > 200


@pytest.mark.slow
def test_mutations_of_published_models(reference):
    models = [path.read_bytes() for path in sorted((reference / "models").glob("*.tflite"))]
    assert fuzz(models, 400) > 50
