"""Arithmetic, graph, planner, emitter: what can be checked without a C compiler."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micronets_jax import compile as compiler
from micronets_jax import planner, tflite
from micronets_jax.compile import arithmetic, emit, kernels, operators, plans
from micronets_jax.kernels import Order, Spans, Steps
from support import flatbuffer_models as fm

# Arithmetic -------------------------------------------------------------------------------------


def test_multiplier_by_hand():
    assert arithmetic.quantize_multiplier(0.5) == (1 << 30, 0)
    assert arithmetic.quantize_multiplier(1.0) == (1 << 30, 1)
    assert arithmetic.quantize_multiplier(0.003) == (1649267442, -8)  # 0.768 * 2^31
    assert arithmetic.quantize_multiplier(1e-12) == (0, 0)


def test_both_roundings_by_hand():
    # the product rounds halves upwards, the shift rounds halves away from zero
    assert arithmetic.high_multiply(1, 1 << 30) == 1
    assert arithmetic.high_multiply(-1, 1 << 30) == 0
    assert [arithmetic.divide_by_power(x, 1) for x in (-3, -1, 1, 3)] == [-2, -1, 1, 2]


@given(st.integers(-(1 << 29), 1 << 29), st.floats(1e-6, 0.49), st.integers(-128, 127))
def test_folded_rounding_is_the_references(acc, real, zero):
    """What the kernels compute (zero point and half folded into one addition) is the reference."""
    multiplier, exponent = arithmetic.quantize_multiplier(real)
    shift = -exponent
    offset = (1 << (shift - 1)) + zero * (1 << shift)
    folded = ((2 * acc * multiplier + (1 << 31)) >> 32) + offset + (-1 if acc < 0 else 0) >> shift
    assert folded == arithmetic.scale(acc, multiplier, exponent) + zero


def test_exponential_is_close_to_the_real_one():
    table = arithmetic.softmax_exponentials(0.1, 1.0)
    for k, value in enumerate(table[:100]):
        assert abs(value / (1 << 31) - math.exp(-0.1 * k)) < 2e-6


def test_logistic_is_close_to_the_real_one():
    for byte, y in enumerate(arithmetic.logistic_table(0.05, 0)):
        x = 0.05 * (byte - 256 if byte > 127 else byte)
        level = (y - 256 if y > 127 else y) + 128
        assert abs(level / 256 - min(255 / 256, 1 / (1 + math.exp(-x)))) < 0.003


# Graph ------------------------------------------------------------------------------------------


def chain(*kinds: str) -> bytes:
    """A convolution, then operators that keep the scale."""
    rng = np.random.default_rng(1)
    m, q = fm.Models(), {"scale": 0.05, "zero_point": -128}
    x = first = m.tensor([1, 4, 4, 4], **q)
    for kind in kinds:
        y = m.tensor([1, 6, 6, 4] if kind == "PAD" else m.tensors[x].shape, **q)
        if kind == "CONV_2D":
            w = m.tensor([4, 3, 3, 4], "int8", 0.01, 0, rng.integers(-9, 9, (4, 3, 3, 4), np.int8))
            size = m.tensors[x].shape[1]
            padding = int(size == 6)
            m.tensors[y].shape = [1, 4, 4, 4]
            m.operator(kind, [x, w], [y], "Conv2DOptions", padding=padding, strideH=1, strideW=1)
        elif kind == "PAD":
            pads = m.tensor([4, 2], "int32", data=np.array([[0, 0], [1, 1], [1, 1], [0, 0]], "i4"))
            m.operator(kind, [x, pads], [y])
        else:
            m.operator(kind, [x], [y])
        x = y
    return m.build([first], [x])


@pytest.mark.parametrize(
    ("kinds", "left"),
    [
        (("CONV_2D", "RELU6"), ["conv"]),
        (("CONV_2D", "RELU", "QUANTIZE", "QUANTIZE"), ["conv"]),
        (("PAD", "CONV_2D"), ["conv"]),
        (("PAD",), ["pad", "pad"]),
        (("CONV_2D", "RESHAPE", "RESHAPE", "CONV_2D"), ["conv", "conv"]),
        (("RELU6", "RELU"), ["table"]),
    ],
)
def test_rewrites(kinds, left):
    assert [call.kind for call in compiler.compile_model(chain(*kinds)).calls] == left


@pytest.mark.parametrize(
    "kinds", [("CONV_2D", "RELU6", "QUANTIZE"), ("PAD", "CONV_2D"), ("RELU6", "RELU", "PAD")]
)
def test_depths_of_rewrites_keep_the_interface(kinds):
    compiled = compiler.compile_model(chain(*kinds))
    assert [e["way"] for e in compiled.interface()] == ["input", "output"]


def test_shape_arithmetic_is_folded(reference):
    calls = compiler.compile_model(reference / "models" / "mcunet_10fps_vww.tflite").calls
    kinds = {call.kind for call in calls}
    assert kinds == {"table", "conv", "depthwise", "add", "average_pool"}


# Planner ----------------------------------------------------------------------------------------


@st.composite
def tasks(draw):
    steps = draw(st.integers(1, 10))
    buffers = []
    for i in range(draw(st.integers(1, 12))):
        first = draw(st.integers(0, steps))
        size = draw(st.integers(1, 60))
        buffers.append(planner.Buffer(f"b{i}", size, first, first + draw(st.integers(0, 3))))
    return buffers


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(tasks())
def test_no_byte_holds_two_buffers(buffers):
    plan = planner.plan(buffers)
    for step in range(20):
        used = set()
        for b, at in zip(plan.buffers, plan.addresses, strict=True):
            if b.first <= step <= b.last:
                mine = set(range(at, at + b.size))
                assert not used & mine
                used |= mine
    assert plan.bound <= plan.peak
    assert plan == planner.plan(buffers)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 30),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(0, 3),
)
def test_sharing_survives_execution(steps, reads, writes, ahead):
    """Runs a made-up kernel byte by byte on the planned addresses: per step it reads ``reads``
    bytes, looks back ``ahead`` steps, then writes ``writes``."""
    i = np.arange(steps)
    spans = Spans(np.maximum(0, i - ahead) * reads, (i + 1) * reads, i * writes, (i + 1) * writes)
    order = Order(Steps(lambda: spans))
    buffers = [
        planner.Buffer("in", steps * reads, 0, 1),
        planner.Buffer("out", steps * writes, 1, 2),
    ]
    plan = planner.plan(buffers, [planner.share(0, 1, 1, order)])
    source, target = plan.addresses
    memory = np.full(plan.peak, -1)
    memory[source : source + steps * reads] = np.arange(steps * reads)
    for s in range(steps):
        low, high = int(spans.read_low[s]), int(spans.read_high[s])
        np.testing.assert_array_equal(memory[source + low : source + high], np.arange(low, high))
        memory[target + s * writes : target + (s + 1) * writes] = -2
    assert plan.peak <= steps * (reads + writes) + 8


def test_the_checker_refuses_wrong_plans():
    spans = Spans(*(np.arange(4) + k for k in (0, 1, 0, 1)))
    order = Order(Steps(lambda: spans))
    buffers = (planner.Buffer("in", 4, 0, 1), planner.Buffer("out", 4, 1, 2))
    good = planner.plan(buffers, [planner.share(0, 1, 1, order)])
    assert good.peak == 4
    for wrong in ((0, 4, 4), (2, 0, 8), (0, -4, 8)):
        with pytest.raises(AssertionError):
            planner.prove(dataclasses.replace(good, addresses=wrong[:2], peak=wrong[2]))
    backwards = spans._replace(write_low=np.arange(4)[::-1], write_high=np.arange(4, 0, -1))
    sharing = dataclasses.replace(good.sharings[0], order=Order(Steps(lambda: backwards)))
    with pytest.raises(AssertionError, match="overwrites"):
        planner.prove(dataclasses.replace(good, sharings=(sharing,)))


def mcunets(reference):
    data = json.loads((reference / "reference" / "mcunet.json").read_text())
    peaks = {row[0]: round(row[2] * 1024) for row in data["zoo"]}
    for name, a in data["architectures"].items():
        model = fm.mcunet(a["resolution"], a["first"], a["blocks"], a["last"])
        yield name, tflite.read(model), peaks.get(name), data["peak_rule"]


def test_peaks_of_published_networks(reference):
    """At or below TinyEngine's arena, scratch included, for every network with a published peak."""
    compared = 0
    for name, model, peak, rule in mcunets(reference):
        room = plans.Plans(operators.build(model), streams=False)
        cuts = [(i, i + 1, False) for i in range(len(room.nodes))]
        _, buffers, sharings = room.steps.arena(cuts)
        plan = planner.plan(buffers, sharings)
        if peak is not None:
            compared += 1
            assert plan.peak <= peak, name
            assert plan.peak <= sum(rule["checks"][name]), name
        tensors = [b for b in buffers if not b.name.startswith("scratch")]
        bare = planner.plan(tensors)
        assert bare.peak == bare.bound, name
        assert bare.peak <= rule["without_in_place_activations"].get(name, bare.peak)
    assert compared == 6


# Emitter and folder -----------------------------------------------------------------------------


def test_struct_sizes_by_hand():
    table = emit.structs()
    assert emit.struct_bytes("mn_channel", table) == (16, 4)
    assert emit.struct_bytes("mn_pool", table) == (24, 2)
    assert emit.struct_bytes("mn_softmax", table) == (16, 4)


def test_two_bytes_of_weights_are_a_word_of_both_channels():
    weights = np.array([[1, 2, -3, 4], [5, 6, 7, -8]], np.int8)
    packed, odd = kernels.pack_pairs(weights)
    assert packed.tolist() == [1, 5, -3, 6, 2, 6, 4, -8]
    words = packed.view(np.int16).tolist()
    assert words == [1 + 256 * 5, -3 + 256 * 7, 2 + 256 * 6, 4 - 256 * 8]
    assert not odd.any()
    packed, odd = kernels.pack_pairs(np.array([[-1], [-128]], np.int8))
    assert packed[:2].tolist() == [-1, 127] and odd.tolist() == [False, True]
    packed, odd = kernels.pack_pairs(np.ones((3, 5), np.int8))
    assert packed.size == 4 * 8
    assert packed.sum() == 15


def test_text_is_a_function_of_the_model():
    model = chain("CONV_2D", "RELU6")
    files = compiler.compile_model(model).files()
    assert files == compiler.compile_model(model).files()
    assert "kernels.h" in files and "conv.c" in files
    assert "softmax.c" not in files
    manifest = json.loads(files["manifest.json"])
    assert sorted(files) == manifest["files"]
    assert f"#define MODEL_ARENA_BYTES {manifest['arena_bytes']}" in files["model.h"]


def test_folder_is_written_whole_or_not_at_all(tmp_path):
    compiled = compiler.compile_model(chain("CONV_2D"))
    folder = tmp_path / "deep" / "out"
    compiler.write(compiled, folder)
    (folder / "softmax.c").write_text("left by hand")
    with pytest.raises(tflite.TFLiteError, match=r"softmax\.c"):
        compiler.write(compiled, folder)
    (folder / "softmax.c").unlink()
    compiler.write(compiled, folder)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["out"]
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(tflite.TFLiteError, match=r"thesis\.tex"):
        compiler.write(compiled, other)
    assert (other / "thesis.tex").read_text() == "x"
    with pytest.raises(tflite.TFLiteError, match="is a file"):
        compiler.write(compiled, other / "thesis.tex")


def test_flash_budget_is_kept():
    model = fm.convolution(np.random.default_rng(0), (1, 4, 4, 8), 8, (1, 1))
    plain, wide = (compiler.compile_model(model, "m", budget) for budget in (63, 64))
    assert plain.constant_bytes[0] + 64 == wide.constant_bytes[0]


def test_dead_ranges_complement_the_living():
    compiled = compiler.compile_model(chain("CONV_2D", "RELU6", "PAD"))
    for step, dead in enumerate(compiled.dead_ranges(), -1):
        for buffer, at in zip(compiled.plan.buffers, compiled.plan.addresses, strict=True):
            if buffer.first <= step < buffer.last:
                assert all(high <= at or at + buffer.size <= low for low, high in dead)


def test_branches_are_reordered_for_memory():
    """Two branches blow a small tensor up and down; one after the other needs half the memory."""
    rng = np.random.default_rng(0)
    m, q = fm.Models(), {"scale": 0.1, "zero_point": 0}
    x = m.tensor([1, 4, 4, 2], **q)

    def conv(source, ins, outs):
        w = m.tensor(
            [outs, 1, 1, ins], "int8", 0.1, 0, rng.integers(-9, 9, (outs, 1, 1, ins), np.int8)
        )
        y = m.tensor([1, 4, 4, outs], **q)
        m.operator("CONV_2D", [source, w], [y], "Conv2DOptions", strideH=1, strideW=1)
        return y

    wide = [conv(x, 2, 64), conv(x, 2, 64)]
    narrow = [conv(t, 64, 2) for t in wide]
    y = m.tensor([1, 4, 4, 2], **q)
    m.operator("ADD", narrow, [y], "AddOptions")
    compiled = compiler.compile_model(m.build([x], [y]))
    assert [call.operator for call in compiled.calls] in ([0, 2, 1, 3, 4], [1, 3, 0, 2, 4])
    assert compiled.arena_bytes < 1700  # 2080 in the order of the file
