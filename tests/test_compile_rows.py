"""Stretches that go row by row: order, rings, plans, their checker, and bytes on this machine."""

import dataclasses
import json

import numpy as np
import pytest

from micronets_jax import compile as compiler
from micronets_jax import firmware, tflite
from micronets_jax.compile import check, instructions, kernels, operators, plans, stream, verify
from micronets_jax.compile import compiler as inner
from micronets_jax.compile.rows import by_rows
from micronets_jax.firmware.inputs import noise
from micronets_jax.rows import Order
from support import flatbuffer_models as fm
from support.row_models import LINEAR, Net, digits, ended, mixed, speech


def graph_of(model: bytes):
    return operators.build(tflite.read(model))


def order_of(graph, kept=()):
    nodes = [n for node in graph.nodes if (n := by_rows(graph, node))]
    assert len(nodes) == len(graph.nodes)
    sizes = {tensor: value.bytes for tensor, value in graph.values.items()}
    return Order(sizes, nodes, {*graph.outputs, *kept})


def streamed(model: bytes, pushed: bool = False) -> compiler.Compiled:
    """The plan in which everything goes row by row that can."""
    room = plans.Plans(graph_of(model), pushed)
    cuts, end = [], len(room.nodes)
    while end:
        begin = min((s.begin for s in room.steps.ending[end] if s.streams), default=end - 1)
        cuts.insert(0, (begin, end, begin < end - 1 or room.rows[begin] is not None))
        end = begin
    return inner.lay_out(room, plans.Candidate(tuple(cuts), 0, 0), "model")


def verified(model: bytes, pushed: bool = False) -> compiler.Compiled:
    compiled = streamed(model, pushed)
    check.prove(compiled.graph, compiled.accesses, compiled.arena_bytes, compiled.addresses)
    assert verify.verify(compiled, model, 2, ("-O1", *verify.SANITIZE)).cases == 6
    return compiled


# Order and rings, by hand ------------------------------------------------------------------------


def test_demand_pulls_rows():
    """Two 3 x 3 layers over six rows: the second needs one row of the first on each side."""
    net = Net((1, 6, 4, 2))
    order = order_of(graph_of(net.build(net.conv(net.conv(net.input, 2), 2))))
    assert order.calls[:6] == [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (0, 3)]
    assert [call for op, call in order.calls if op == 1] == list(range(6))
    assert order.depth([order.nodes[0].output]) == 3


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "depth"),
    [(1, 1, 1, 1), (3, 1, 1, 3), (3, 2, 1, 3), (5, 1, 1, 5), (5, 2, 1, 5), (1, 2, 1, 1),
     (3, 1, 2, 5), (7, 1, 1, 7)],
)  # fmt: skip
def test_a_ring_holds_the_rows_of_a_window(kernel, stride, dilation, depth):
    net = Net((1, 16, 16, 4))
    x = net.conv(net.input, 4, 1)
    graph = graph_of(net.build(net.depthwise(x, kernel=kernel, stride=stride, dilation=dilation)))
    order = order_of(graph)
    assert order.depth([graph.nodes[0].output]) == depth


def test_a_residual_waits_as_long_as_its_block_lags():
    """A block of two 3 x 3 layers lags by two rows, so what is added to it holds three; its sum is
    written over its last row."""
    net = Net((1, 8, 4, 4))
    x = net.conv(net.input, 4, 1)
    y = net.binary("ADD", net.conv(net.conv(x, 4), 4), x)
    graph = graph_of(net.build(net.conv(y, 4)))
    order = order_of(graph)
    stem, first, second, added, _ = (node.output for node in graph.nodes)
    assert order.depth([stem]) == 3
    assert order.taken_over(set(graph.outputs)) == {second: added}
    assert order.depth([first]) == 3
    assert order.depth([second, added]) == 3


def test_pooling_accumulates():
    net = Net((1, 8, 4, 4))
    x = net.conv(net.input, 6)
    graph = graph_of(net.build(net.pool("AVERAGE_POOL_2D", x, (8, 4), 1)))
    order, pool = order_of(graph), by_rows(graph, graph.nodes[1])
    assert order.depth([graph.nodes[0].output]) == 1
    assert pool and stream.sum_bytes(pool) == 24


def test_a_dense_layer_over_a_map_accumulates():
    """It sees its input flat, and takes it in the rows in which it was made: one of them is kept,
    and four bytes for each output, in pairs."""
    net = Net((1, 8, 5, 4))
    graph = graph_of(net.build(net.flat_dense(net.conv(net.input, 6), 7)))
    order, dense = order_of(graph), by_rows(graph, graph.nodes[1])
    assert graph.nodes[1].in_shapes == [(1, 240)]
    assert dense and (dense.calls, dense.rows, stream.sum_bytes(dense)) == (8, 1, 32)
    assert order.depth([graph.nodes[0].output]) == 1


def test_a_convolution_as_large_as_its_input_accumulates():
    """Of more rows than a call may read, too."""
    net = Net((1, 20, 5, 4))
    x = net.conv(net.input, 6)
    graph = graph_of(net.build(net.conv(x, 8, (20, 5), padding=1), net.conv(x, 8, (15, 5), 9)))
    nodes = [by_rows(graph, node) for node in graph.nodes]
    assert [n and (n.accumulates, n.calls) for n in nodes] == [(False, 20), (True, 20), (False, 3)]


@pytest.mark.parametrize(
    ("shape", "flat"),
    [
        ((1, 1, 6, 4), (1, 24)),  # a single row
        ((1, 4, 6, 4), (2, 48)),  # a batch
        ((4, 24), (1, 96)),  # no rows of a picture
    ],
)
def test_dense_layers_that_see_their_input_whole(shape, flat):
    net = Net(shape)
    x = net.reshape(net.input, flat)
    y = net.dense(x, 3) if flat[0] == 1 else net.dense((x[0], flat[1:]), 3, batch=flat[0])
    graph = graph_of(net.build(y))
    assert by_rows(graph, graph.nodes[-1]) is None


def test_weights_of_a_row_are_a_layer_of_their_own():
    net = Net((1, 3, 5, 1))
    graph = graph_of(net.build(net.flat_dense(net.input, 6)))
    (node,) = graph.nodes
    call = kernels.dense_rows(graph, node, 3)
    weights = node.options["weights"].reshape(6, 3, 5)
    rows = [kernels.pack_dense(np.ascontiguousarray(weights[:, row]))[0] for row in range(3)]
    assert call.fields["weights"].tolist() == [w for row in rows for w in row]
    assert (call.fields["inputs"], call.fields["pixels"]) == (5, 3)


def test_loops_unroll_to_the_sequence():
    rng = np.random.default_rng(0)
    for seed in range(30):
        period = [(int(op), int(step)) for op, step in rng.integers(0, [5, 3], (1 + seed % 7, 2))]
        sequence = [(int(o), int(r)) for o, r in rng.integers(0, 5, (seed % 4, 2))]
        sequence += [(op, i * step) for i in range(seed) for op, step in period]
        sequence += [(int(o), int(r)) for o, r in rng.integers(0, 5, (seed % 3, 2))]
        loops = stream.phases(sequence)
        unrolled = [
            (op, row + i * step) for calls, n in loops for i in range(n) for op, row, step in calls
        ]
        assert unrolled == sequence
        if seed > 20:
            assert sum(len(calls) for calls, _ in loops) <= 3 * len(period) + 9


# Plans --------------------------------------------------------------------------------------------


def test_front_of_a_network_by_hand():
    """Two pointwise layers over 8 x 8: 512 bytes between them, or a row of 64; a row of the output
    is written after that row of the input has been read, so they lie on each other."""
    net = Net((1, 8, 8, 2))
    x = net.conv(net.input, 8, 1)
    compiled = streamed(net.build(net.conv(x, 2, 1)))
    assert compiled.arena_bytes == 128 + 64 + 64  # input and output, the row, patches of 4 pixels


@pytest.mark.parametrize(
    ("model", "arenas"),
    [
        # 1960 bytes of input, patches of 720, the sums; whole a map of 4000 in their place
        (speech, {"whole": 4860, "balanced": 2860, "memory": 2860, "pushed": 1312}),
        # a map of 2028 bytes, or a row of 156
        (digits, {"whole": 8236, "balanced": 2760, "memory": 1712, "pushed": 1036}),
    ],
)
def test_the_map_before_a_dense_layer_is_never_held(model, arenas):
    for name, arena in arenas.items():
        plan, pushed = ("memory", True) if name == "pushed" else (name, False)
        compiled = compiler.compile_model(model(), plan=plan, rows=pushed)
        assert compiled.arena_bytes == arena, name
        functions = [call.function for call in compiled.calls]
        assert ("mn_dense_row" in functions) == (arena != 2760 and name != "whole"), name


def test_every_plan_of_the_front_is_worth_having(reference):
    path = reference / "models" / "mcunet_10fps_vww.tflite"
    memory = compiler.compile_model(path, plan="memory")
    front = memory.front
    assert [p.ram_bytes for p in front] == sorted({p.ram_bytes for p in front})
    taken = [p.instructions for p in front]
    assert taken == sorted(set(taken), reverse=True)
    chosen = compiler.compile_model(path, plan="balanced")
    assert chosen.front == front
    assert chosen.instructions <= 1.03 * front[-1].instructions
    roomy, tight = (compiler.compile_model(path, plan="balanced", ram=n) for n in (1 << 20, 20_000))
    assert roomy.arena_bytes == compiler.compile_model(path, plan="balanced").arena_bytes
    assert tight.arena_bytes <= min(20_000, roomy.arena_bytes)
    fits = compiler.compile_model(path, plan="speed", ram=20_000)
    assert fits.arena_bytes <= 20_000
    assert fits.instructions == min(p.instructions for p in front if p.ram_bytes <= 20_000)


CONVOLUTIONAL = ["mcunet_10fps_vww", "micronet_kws_m", "mlperf_ic_resnet8", "mlperf_kws_dscnn"]
ESTIMATES = [*CONVOLUTIONAL, "mlperf_vww"]


@pytest.mark.parametrize("name", ESTIMATES)
def test_least_memory_beside_the_estimate(reference, name):
    """Arena of the least plan, and of the least with rows pushed; RAM with stack is a slow test."""
    data = json.loads((reference / "reference" / "engines.json").read_text())
    row = next(r for r in data["rows_streamed_estimate"]["rows"] if r[0] == name)
    path = reference / "models" / f"{name}.tflite"
    for pushed, estimate in ((False, row[2]), (True, row[3])):
        compiled = compiler.compile_model(path, plan="memory", rows=pushed)
        assert compiled.arena_bytes <= 1.01 * estimate


def test_the_checker_refuses_a_ring_that_is_too_small():
    net = Net((1, 8, 4, 4))
    compiled = streamed(net.build(net.conv(net.conv(net.input, 4), 4)))
    (step,) = compiled.steps
    assert isinstance(step, stream.Stretch)
    (ring,) = step.rings
    smaller = dataclasses.replace(ring, depth=ring.depth - 1)
    compiled.steps = [dataclasses.replace(step, lines=step.lines._replace(rings=[smaller]))]
    with pytest.raises(AssertionError, match="does not find row 0 of tensor"):
        check.prove(compiled.graph, compiled.accesses, compiled.arena_bytes, compiled.addresses)


def test_the_checker_refuses_rows_over_living_rows():
    net = Net((1, 8, 4, 4))
    compiled = streamed(net.build(net.conv(net.input, 4)))
    output = compiled.graph.outputs[0]
    for shift in (0, 16, 32, 48):
        addresses = {**compiled.addresses, output: compiled.addresses[compiled.graph.inputs[0]]}
        moved = dataclasses.replace(compiled, addresses=addresses)
        moved.addresses[output] += shift
        with pytest.raises(AssertionError):
            check.prove(moved.graph, moved.accesses, moved.arena_bytes + 64, addresses)


def test_words_of_refusals(reference, tmp_path):
    path = reference / "models" / "mcunet_10fps_vww.tflite"
    with pytest.raises(tflite.TFLiteError, match=r"--ram 100 is below the least plan: \d+ bytes, "):
        compiler.compile_model(path, plan="speed", ram=100)
    with pytest.raises(tflite.TFLiteError, match=r"operator 0 \(conv .*whole, all 640 bytes"):
        compiler.compile_model(reference / "models" / "mlperf_ad.tflite", plan="memory", rows=True)
    net = Net((1, 4, 4, 4))
    second = net.m.tensor([1, 4, 4, 4], **LINEAR), (1, 4, 4, 4)
    y = net.binary("ADD", net.input, second)
    two = net.m.build([net.input[0], second[0]], [y[0]])
    with pytest.raises(tflite.TFLiteError, match="one input; this has 2"):
        compiler.compile_model(two, plan="memory", rows=True)


# Bytes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pushed", [False, True])
def test_bytes_of_a_mixed_network(pushed):
    compiled = verified(mixed(1), pushed)
    (step,) = compiled.steps
    assert isinstance(step, stream.Stretch)
    assert len(step.nodes) >= 14


@pytest.mark.slow
@pytest.mark.parametrize("pushed", [False, True])
@pytest.mark.parametrize("seed", range(2, 12))
def test_bytes_of_mixed_networks(seed, pushed):
    verified(mixed(seed), pushed)


@pytest.mark.parametrize("seed", [3, 6])
def test_bytes_of_an_end_over_a_map(seed):
    assert "mn_dense_row" in [call.function for call in verified(ended(seed)).calls]


@pytest.mark.slow
@pytest.mark.parametrize("pushed", [False, True])
@pytest.mark.parametrize("seed", range(20, 44))
def test_bytes_of_ends_over_a_map(seed, pushed):
    compiled = verified(ended(seed), pushed)
    assert "mn_dense_row" in [call.function for call in compiled.calls]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_ends_convert_row_by_row(dtype):
    net = Net((1, 9, 7, 4), dtype=dtype)
    x = net.conv(net.quantize(net.input), 8, 3, 2)
    if dtype == "float32":
        x = net.quantize(x, "float32")
    compiled = verified(net.build(x), pushed=True)
    assert compiled.pushed


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["memory", "balanced", "speed"])
@pytest.mark.parametrize("pushed", [False, True])
@pytest.mark.parametrize("name", ESTIMATES)
def test_bytes_of_published_models(reference, name, pushed, plan):
    model = (reference / "models" / f"{name}.tflite").read_bytes()
    compiled = compiler.compile_model(model, name, plan=plan, rows=pushed)
    assert verify.verify(compiled, model, 2, ("-O1", *verify.SANITIZE)).cases == 6


# On a core ----------------------------------------------------------------------------------------

KERNELS = [
    ("depthwise", 3, 1), ("depthwise", 3, 2), ("depthwise", 5, 1), ("depthwise", 5, 2),
    ("depthwise", 7, 1), ("depthwise", 7, 2), ("depthwise", 4, 1), ("depthwise", 2, 3),
    ("conv", 1, 1), ("conv", 3, 1), ("conv", 3, 2), ("conv", 2, 1),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
@pytest.mark.parametrize(("kind", "kernel", "stride"), KERNELS)
def test_row_kernels_of_the_dsp_extension(kind, kernel, stride, core, tmp_path):
    """Short and long rows, tails of pixels and channels, every rounding, against TFLM."""
    shapes = [(7, 5, 5, 3), (9, 6, 8, 4), (8, 15, 12, 7), (11, 22, 6, 2), (7, 7, 4, 5)]
    for seed, (height, width, depth, channels) in enumerate(shapes):
        model = fm.convolution(
            np.random.default_rng(seed), (1, height, width, depth),
            1 if kind == "depthwise" else channels, (kernel, kernel), stride=(stride, stride),
            activation=3 * (seed % 2), depthwise=kind == "depthwise", gain=(1, 0.5, 1e4)[seed % 3],
        )  # fmt: skip
        compiled = streamed(model)
        assert isinstance(compiled.steps[0], stream.Stretch)
        folder = tmp_path / str(seed)
        compiler.write(compiled, folder)
        case = np.random.default_rng(seed).integers(-128, 128, (1, height, width, depth), np.int8)
        source = tmp_path / "x.npy"
        np.save(source, case)
        ran = firmware.run(folder, str(source), core=core)
        want = verify.Reference(model).run([[case]], compiled.interface())
        np.testing.assert_array_equal(ran.outputs[0], want[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7", "cortex-m3", "cortex-m0plus"])
@pytest.mark.parametrize("outs", [1, 2, 3, 8, 13])
def test_dense_rows_on_a_core(outs, core, tmp_path):
    """Rows of a few bytes and of more than are summed at once, every rounding, weights of -128
    beside negative ones, the least inputs there are."""
    rows = [(3, 1, 3), (5, 7, 4), (2, 21, 25), (4, 1, 1010)]
    for seed, (height, width, depth) in enumerate(rows):
        net = Net((1, height, width, depth), seed)
        options = {"gain": (1.0, 60.0, 1e4, 1.0)[seed], "lowest": -127 - (outs + seed) % 2}
        model = net.build(net.flat_dense(net.input, outs, relu=seed % 2, scales=outs, **options))
        compiled = streamed(model)
        assert [call.function for call in compiled.calls] == ["mn_dense_row"]
        folder = tmp_path / str(seed)
        compiler.write(compiled, folder)
        shape = (1, height, width, depth)
        some = np.random.default_rng(seed).integers(-128, 128, shape, np.int8)
        for case in (some, np.full(shape, -128, np.int8)):
            np.save(tmp_path / "x.npy", case)
            ran = firmware.run(folder, str(tmp_path / "x.npy"), core=core)
            want = verify.Reference(model).run([[case]], compiled.interface())
            np.testing.assert_array_equal(ran.outputs[0], want[0][0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "outs", "lowest"),
    [((25, 20, 8), 4, -127), ((10, 12, 16), 64, -127), ((7, 5, 9), 10, -127), ((9, 3, 7), 3, -127),
     ((4, 126, 4), 2, -127), ((10, 12, 16), 5, -128)],
)  # fmt: skip
def test_instructions_of_dense_rows(shape, outs, lowest, tmp_path):
    net = Net((1, *shape))
    compiled = streamed(net.build(net.flat_dense(net.input, outs, lowest=lowest)))
    (step,) = compiled.steps
    assert isinstance(step, stream.Stretch)
    (node,) = step.nodes
    (whole,) = kernels.lower_node(compiled.graph, node.node)
    compiler.write(compiled, tmp_path / "m")
    ran = firmware.run(tmp_path / "m")
    assert instructions.of_rows(node, whole) == pytest.approx(ran.instructions, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("pushed", [False, True])
@pytest.mark.parametrize("model", [speech, digits])
def test_a_dense_end_on_a_core(model, pushed, tmp_path):
    """Bytes of TensorFlow Lite Micro; instructions, code and weights as they were predicted."""
    compiled = compiler.compile_model(model(), plan="memory", rows=pushed)
    compiler.write(compiled, tmp_path / "m")
    ran = firmware.run(tmp_path / "m", "lcg:5")
    case = noise(compiled.graph.values[compiled.graph.inputs[0]].bytes, 5).view(np.int8)
    case = case.reshape(compiled.interface()[0]["shape"])
    want = verify.Reference(model()).run([[case]], compiled.interface())
    np.testing.assert_array_equal(ran.outputs[0], want[0][0])
    assert ran.arena_bytes == compiled.arena_bytes
    assert ran.weights_bytes == sum(compiled.constant_bytes)
    assert abs(ran.code_bytes - compiled.code_bytes) <= 0.1 * ran.code_bytes
    assert ran.instructions == pytest.approx(compiled.instructions, rel=0.04)


def emulated(model, folder, **options) -> firmware.Run:
    compiler.write(compiler.compile_model(model, "model", **options), folder)
    return firmware.run(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATES)
def test_memory_and_instructions(reference, name, tmp_path):
    """RAM with stack beside the estimate in both modes; instructions beside whole tensors, the
    output of TFLM, code and what was predicted of them."""
    data = json.loads((reference / "reference" / "engines.json").read_text())
    row = next(r for r in data["rows_streamed_estimate"]["rows"] if r[0] == name)
    want = json.loads((reference / "reference" / "tflm_cmsisnn.json").read_text())
    output = next(r for r in want["rows"] if r[0] == name)[6]
    model = (reference / "models" / f"{name}.tflite").read_bytes()
    whole = emulated(model, tmp_path / "whole")
    balanced = emulated(model, tmp_path / "balanced", plan="balanced")
    assert balanced.instructions <= 1.03 * whole.instructions
    fastest = emulated(model, tmp_path / "speed", plan="speed")
    for pushed, estimate in ((False, row[2]), (True, row[3])):
        compiled = compiler.compile_model(model, "model", plan="memory", rows=pushed)
        folder = tmp_path / f"memory-{pushed}"
        compiler.write(compiled, folder)
        ran = firmware.run(folder)
        assert output is None or ran.outputs[0].reshape(-1).tolist() == output
        assert ran.arena_bytes + ran.stack_bytes <= 1.05 * estimate
        assert ran.instructions <= 1.15 * fastest.instructions
        assert ran.code_bytes <= 24 * 1024
        assert abs(ran.code_bytes - compiled.code_bytes) <= 0.1 * ran.code_bytes
        assert ran.weights_bytes == sum(compiled.constant_bytes)
        assert abs(ran.instructions - compiled.instructions) <= 0.02 * ran.instructions


@pytest.mark.slow
def test_mean_memory_of_published_models(reference, tmp_path):
    """A quarter of TFLM's arena, stack included, for least memory with the input whole."""
    rows_of = json.loads((reference / "reference" / "tflm_cmsisnn.json").read_text())["rows"]
    shares = []
    for row in rows_of:
        model = (reference / "models" / f"{row[0]}.tflite").read_bytes()
        ran = emulated(model, tmp_path / row[0], plan="memory")
        shares.append((ran.arena_bytes + ran.stack_bytes) / row[4])
    assert len(shares) == 6
    assert np.exp(np.mean(np.log(shares))) <= 0.26


@pytest.mark.slow
def test_rows_over_the_serial_port(reference, tmp_path):
    """A picture that the board never holds, on a firmware that computes its rows as they come."""
    model = (reference / "models" / "mlperf_vww.tflite").read_bytes()
    firmware.write(model, "mps2-an386", tmp_path / "f", plan="memory", rows=True)
    ran = firmware.run(tmp_path / "f", "lcg:7")
    assert ran.differing_outputs == 0
    assert ran.arena_bytes < 96 * 96 * 3
    firmware.check(tmp_path / "f")


def test_rows_need_the_compiled_runtime(reference, tmp_path):
    model = (reference / "models" / "mlperf_kws_dscnn.tflite").read_bytes()
    with pytest.raises(firmware.FirmwareError, match="--input rows: the runtime tflm needs"):
        firmware.write(model, "STM32F746ZG", tmp_path / "f", runtime="tflm", rows=True)
