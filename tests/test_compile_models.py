"""Published models on this machine and on emulated cores: bytes, instructions, memory, code."""

import functools
import json
import math
import pathlib
import shutil
import subprocess
import tempfile
from typing import Any

import numpy as np
import pytest

from micronets_jax import compile as compiler
from micronets_jax import firmware, tflite
from micronets_jax.compile import verify
from micronets_jax.firmware.inputs import noise
from support import flatbuffer_models as fm

pytestmark = pytest.mark.slow

CONVOLUTIONAL = ["mlperf_kws_dscnn", "mlperf_ic_resnet8", "micronet_kws_m", "mcunet_10fps_vww"]
MODELS = [*CONVOLUTIONAL, "mlperf_vww", "mlperf_ad"]
# Of TensorFlow Lite Micro's instructions and arena at most these parts, stack counted on our side.
AT_MOST = {
    "mlperf_kws_dscnn": (0.415, 0.389),
    "mlperf_ic_resnet8": (0.428, 0.634),
    "micronet_kws_m": (0.442, 0.696),
    "mcunet_10fps_vww": (0.352, 0.316),
    "mlperf_vww": (0.264, 0.421),
    "mlperf_ad": (0.535, 0.393),
}
CORES = ["cortex-m4", "cortex-m7"]


def load(reference: pathlib.Path, name: str) -> bytes:
    return (reference / "models" / f"{name}.tflite").read_bytes()


@functools.lru_cache
def emulated(reference: pathlib.Path, name: str, core: str, budget: int = 0) -> firmware.Run:
    compiled = compiler.compile_model(load(reference, name), name, budget)
    with tempfile.TemporaryDirectory() as folder:
        compiler.write(compiled, folder)
        return firmware.run(folder, core=core)


def tflm(reference: pathlib.Path) -> dict[str, list]:
    data = json.loads((reference / "reference" / "tflm_cmsisnn.json").read_text())
    return {row[0]: row for row in data["rows"]}


@pytest.mark.parametrize("name", ["mlperf_vww", "mlperf_ad"])
def test_a_cortex_m33_takes_the_instructions_of_an_m4(reference, name):
    """Which is what ``latency`` takes for granted."""
    counted = {
        core: emulated(reference, name, core).instructions for core in (CORES[0], "cortex-m33")
    }
    assert counted["cortex-m33"] == pytest.approx(counted["cortex-m4"], rel=0.003)


VECTORS_AT_MOST = {"mlperf_ic_resnet8": 0.251, "mlperf_vww": 0.381}
"""Instructions of the vector extension's kernels, as parts of those of the DSP extension's."""


@pytest.mark.parametrize("name", VECTORS_AT_MOST)
def test_vector_kernels_compute_the_same_faster(reference, name):
    usual, ran = (emulated(reference, name, core) for core in (CORES[0], "cortex-m55"))
    np.testing.assert_array_equal(ran.outputs[0], usual.outputs[0])
    assert ran.instructions <= VECTORS_AT_MOST[name] * usual.instructions


PORTABLE = {
    ("mlperf_kws_dscnn", "cortex-m3"): (8_837_600, 198_688_400),
    ("mlperf_kws_dscnn", "cortex-m0plus"): (23_278_680, 272_754_120),
    ("mlperf_ad", "cortex-m3"): (680_840, 1_953_360),
    ("mlperf_ad", "cortex-m0plus"): (1_175_760, 3_405_800),
}
"""Instructions by kernels in plain C, and those of TensorFlow Lite Micro's reference kernels at -O2
on the same core; Armv6-M's run on a Cortex-M3."""


@pytest.mark.parametrize(("name", "core"), PORTABLE)
def test_portable_kernels_compute_the_same_with_few_instructions(reference, name, core):
    usual, ran = (emulated(reference, name, on) for on in (CORES[0], core))
    counted, of_tflm = PORTABLE[name, core]
    np.testing.assert_array_equal(ran.outputs[0], usual.outputs[0])
    assert ran.instructions == pytest.approx(counted, rel=0.005)
    assert ran.instructions <= 0.35 * of_tflm


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_bytes_on_this_machine(reference, name, budget):
    model = load(reference, name)
    compiled = compiler.compile_model(model, name, budget)
    verdict = verify.verify(compiled, model, 6, ("-O1", *verify.SANITIZE))
    assert (verdict.cases, verdict.equal_to[0]) == (10, "TensorFlow Lite Micro")


def test_a_wrong_layer_is_named(reference):
    model = load(reference, "mlperf_kws_dscnn")
    compiled = compiler.compile_model(model)
    compiled.calls[3].fields["channels"]["bias"] += 100_000
    with pytest.raises(tflite.TFLiteError, match=r"first layer that differs: 3 \(depthwise"):
        verify.verify(compiled, model)


@pytest.mark.parametrize("cc", ["gcc", "clang"])
def test_no_warnings(reference, cc, tmp_path):
    compiled = compiler.compile_model(load(reference, "mcunet_10fps_vww"))
    verify.Host(compiled, tmp_path, ("-O2",), cc)


@pytest.mark.parametrize("plan", ["whole", "memory"])
@pytest.mark.parametrize(
    "cc",
    [
        "arm-none-eabi-gcc -mcpu=cortex-m4",
        "clang --target=thumbv7em-none-eabi -mcpu=cortex-m4",
        "arm-none-eabi-gcc -mcpu=cortex-m55 -mfloat-abi=hard",
        "clang --target=thumbv8.1m.main-none-eabi -mcpu=cortex-m55 -mfloat-abi=hard",
    ],
)
def test_no_warnings_on_the_core(reference, cc, plan, tmp_path):
    """The assembly, by both compilers that define ``__ARM_FEATURE_DSP`` and ``_MVE``."""
    where = ["arm-none-eabi-gcc", "-print-file-name=libc.a"]
    library = subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
    headers = pathlib.Path(library).parents[1] / "include"
    model = load(reference, "mcunet_10fps_vww")
    compiler.write(compiler.compile_model(model, plan=plan), tmp_path / "out")
    flags = ["-mthumb", "-isystem", headers, "-O2", "-c"]
    for file in (tmp_path / "out").glob("*.c"):
        command = [*cc.split(), *verify.WARNINGS, *flags, file, "-o", tmp_path / "o"]
        subprocess.run(command, check=True)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", MODELS)
def test_core_computes_the_same_faster(reference, name, core):
    row, ran = tflm(reference)[name], emulated(reference, name, core)
    model = verify.Reference(load(reference, name))
    entries = compiler.compile_model(load(reference, name)).interface()
    case = noise(entries[0]["bytes"], 12345).view(entries[0]["dtype"]).reshape(entries[0]["shape"])
    (want,) = model.run([[case]], entries)
    np.testing.assert_array_equal(ran.outputs[0].reshape(-1), want[0].reshape(-1))
    assert row[6] is None or ran.outputs[0].reshape(-1).tolist() == row[6]
    speed, ram = AT_MOST[name]
    assert ran.instructions <= speed * row[2 if core == "cortex-m4" else 3]
    assert ran.arena_bytes + ran.stack_bytes <= ram * row[4]
    assert ran.code_bytes <= 24 * 1024
    assert sum(layer["instructions"] for layer in ran.layers) < 1.02 * ran.instructions + 5000


@pytest.mark.parametrize("core", CORES)
def test_dense_layers_of_one_pixel(reference, core):
    """At most 1.5 instructions for each multiply-accumulate, of the network and of all layers but
    one that has eight inputs and so little to multiply for each output."""
    ran = emulated(reference, "mlperf_ad", core)
    assert ran.instructions <= 1.18 * 264192
    for layer in ran.layers:
        short = layer["name"] == "functional_1/activation_5/Relu"
        assert layer["instructions"] <= (3.4 if short else 1.34) * layer["macs"], layer["name"]


@pytest.mark.parametrize("core", CORES)
def test_means_over_models(reference, core):
    rows = tflm(reference)
    speed = [
        emulated(reference, m, core).instructions / rows[m][2 if core == "cortex-m4" else 3]
        for m in MODELS
    ]
    ram = [
        (emulated(reference, m, core).arena_bytes + emulated(reference, m, core).stack_bytes)
        / rows[m][4]
        for m in MODELS
    ]
    assert math.exp(np.mean(np.log(speed))) <= 0.41
    assert math.exp(np.mean(np.log(ram))) <= 0.48


@pytest.mark.parametrize("core", CORES)
def test_instructions_of_the_default_plan(reference, core, tmp_path):
    """At most 0.42 of TFLM's in the mean of four models; of the fastest plan, depthwise at most
    2.2 for each multiply-accumulate over two of them."""
    rows, speed, spent = tflm(reference), [], np.zeros(2)

    def ran(name, plan):
        folder = tmp_path / f"{name}-{plan}"
        compiler.write(compiler.compile_model(load(reference, name), name, plan=plan), folder)
        return firmware.run(folder, core=core)

    for name in CONVOLUTIONAL:
        row = rows[name]
        speed.append(ran(name, "balanced").instructions / row[2 if core == "cortex-m4" else 3])
    assert math.exp(np.mean(np.log(speed))) <= 0.42
    for name in ("mlperf_kws_dscnn", "mcunet_10fps_vww"):
        for layer in ran(name, "speed").layers:
            if layer["kind"] == "depthwise":
                spent += layer["instructions"], layer["macs"]
    assert spent[0] <= 2.2 * spent[1]


@pytest.mark.parametrize("name", MODELS)
def test_predicted_sizes(reference, name):
    compiled = compiler.compile_model(load(reference, name), name)
    ran = emulated(reference, name, "cortex-m4")
    assert ran.weights_bytes == sum(compiled.constant_bytes)
    assert abs(ran.code_bytes - compiled.code_bytes) <= 0.1 * ran.code_bytes


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_flash_buys_speed(reference, name):
    plain, wide = (emulated(reference, name, "cortex-m4", n) for n in (0, 1 << 20))
    assert wide.outputs[0].tolist() == plain.outputs[0].tolist()
    assert wide.instructions < 0.97 * plain.instructions


SHAPES = [
    ("depthwise", 3, (1, 1), 3), ("depthwise", 3, (2, 2), 0), ("depthwise", 5, (1, 1), 3),
    ("depthwise", 5, (2, 2), 0), ("depthwise", 7, (1, 1), 0), ("depthwise", 7, (2, 2), 3),
    ("depthwise", 4, (1, 1), 0), ("depthwise", 3, (1, 2), 0), ("conv", 1, (1, 1), 0),
    ("conv", 1, (1, 1), 3), ("conv", 3, (2, 2), 3), ("conv", 2, (1, 1), 0),
]  # fmt: skip


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(("kind", "kernel", "stride", "activation"), SHAPES)
def test_kernels_of_the_dsp_extension(kind, kernel, stride, activation, core, tmp_path):
    """Odd and even sizes, tails of pixels and channels, against the portable path on the host."""
    for seed, (rows, columns, depth, channels) in enumerate(
        [(7, 6, 5, 3), (6, 7, 8, 4), (8, 9, 12, 7), (9, 8, 3, 2)]
    ):
        rng = np.random.default_rng(seed)
        model = fm.convolution(
            rng, (1, rows, columns, depth), 1 if kind == "depthwise" else channels,
            (kernel, kernel), stride=stride, activation=activation, depthwise=kind == "depthwise",
        )  # fmt: skip
        compiled = compiler.compile_model(model, f"m{seed}", 10_000 * (seed % 2))
        folder = tmp_path / str(seed)
        compiler.write(compiled, folder)
        case = noise(rows * columns * depth, seed).view(np.int8)
        source = tmp_path / "x.npy"
        np.save(source, case.reshape(1, rows, columns, depth))
        ran = firmware.run(folder, str(source), core=core)
        want = verify.Reference(model).run([[np.load(source)]], compiled.interface())
        np.testing.assert_array_equal(ran.outputs[0], want[0][0])


@pytest.mark.parametrize("core", CORES)
def test_sums_of_very_many_products_are_as_fast(core, tmp_path):
    """Magnitudes of 2,304 weights add up to more than what two channels can sum at once."""
    model = fm.convolution(np.random.default_rng(0), (1, 4, 4, 256), 6, (3, 3))
    compiler.write(compiler.compile_model(model, "many"), tmp_path / "many")
    case = noise(16 * 256, 0).view(np.int8).reshape(1, 4, 4, 256)
    np.save(tmp_path / "x.npy", case)
    ran = firmware.run(tmp_path / "many", str(tmp_path / "x.npy"), core=core)
    want = verify.Reference(model).run([[case]], compiler.compile_model(model).interface())
    np.testing.assert_array_equal(ran.outputs[0], want[0][0])
    assert ran.instructions < 1.5 * 16 * 2304 * 6


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL", "MEAN", "SUM", "SOFTMAX", "LOGISTIC"])
def test_other_kernels_on_cores(kind, core, tmp_path):
    """Whatever has no assembly still uses single instructions of the extension."""
    rng = np.random.default_rng(len(kind))
    m = fm.Models()
    x = m.tensor([1, 5, 6, 7], scale=0.07, zero_point=-9)
    inputs, shape, q = [x], [1, 5, 6, 7], {"scale": 0.09, "zero_point": 4}
    if kind in ("ADD", "SUB", "MUL"):
        data = rng.integers(-128, 128, shape, np.int8)
        inputs.append(m.tensor(shape, scale=0.04, zero_point=3, data=data))
    elif kind in ("MEAN", "SUM"):
        inputs.append(m.tensor([2], "int32", data=np.array([1, 2], np.int32)))
        shape = [1, 7]
    else:
        q = {"scale": 1 / 256, "zero_point": -128}
    y = m.tensor(shape, **q)
    options = {"MEAN": "Reducer", "SUM": "Reducer", "LOGISTIC": ""}.get(kind, kind.title())
    m.operator(
        kind,
        inputs,
        [y],
        *([options + "Options"] if options else []),
        **({"beta": 1.0} if kind == "SOFTMAX" else {}),
    )
    model = m.build([x], [y])
    compiled = compiler.compile_model(model)
    compiler.write(compiled, tmp_path / "out")
    ran = firmware.run(tmp_path / "out", "lcg:5", core=core)
    case = noise(210, 5).view(np.int8).reshape(1, 5, 6, 7)
    want = verify.Reference(model).run([[case]], compiled.interface())
    np.testing.assert_array_equal(ran.outputs[0], want[0][0])


def test_generated_build_files(reference, tmp_path):
    """The Makefile and CMakeLists.txt of the folder, with this machine's tools."""
    folder = tmp_path / "out"
    compiler.write(compiler.compile_model(load(reference, "mlperf_kws_dscnn")), folder)
    subprocess.run(["make", "-s", "-C", folder], check=True)
    plain = subprocess.run([folder / "build" / "example"], check=True, capture_output=True)
    assert len(plain.stdout.split()) == 12
    if shutil.which("cmake"):
        quiet: dict[str, Any] = {"check": True, "capture_output": True}
        subprocess.run(["cmake", "-S", folder, "-B", tmp_path / "cmake"], **quiet)
        subprocess.run(["cmake", "--build", tmp_path / "cmake"], **quiet)
        built = subprocess.run([tmp_path / "cmake" / "example"], **quiet)
        assert built.stdout == plain.stdout
    compiler.write(compiler.compile_model(load(reference, "mlperf_kws_dscnn")), folder)


@pytest.mark.parametrize(
    "name", ["all blocks", "first skipped", "mixed", "convolutional", "residual", "sums"]
)
def test_exported_networks(name):
    """Networks of the house's own space and format, from folded weights to C."""
    from micronets_jax import export
    from support.networks import NETWORKS, trained

    model = export.to_tflite(NETWORKS[name], *trained(NETWORKS[name], seed=len(name)))
    compiled = compiler.compile_model(model)
    verdict = verify.verify(compiled, model, 4, ("-O1", *verify.SANITIZE))
    assert (verdict.cases, verdict.equal_to[0]) == (8, "TensorFlow Lite Micro")


def portable() -> dict[str, bytes]:
    """Models of one kernel each that has no assembly of its own."""
    from support import operator_models

    def rows(kind: str, options: str, scale: float, zero_point: int) -> bytes:
        m = fm.Models()
        x = m.tensor([3, 12], scale=0.1, zero_point=9)
        y = m.tensor([3, 12], scale=scale, zero_point=zero_point)
        m.operator(kind, [x], [y], options)
        return m.build([x], [y])

    shapes = (1, 3, 4, 2), (1, 6, 8, 2)
    return {
        **{kind: operator_models.pair(kind) for kind in ("MAXIMUM", "PRELU", "SQUARED_DIFFERENCE")},
        "BATCH_MATMUL": operator_models.pair("BATCH_MATMUL"),
        "REDUCE_MAX": operator_models.single("REDUCE_MAX", "", (1, 3, 4, 2), (1, 2), [[1, 2]]),
        "RESIZE_BILINEAR": operator_models.single("RESIZE_BILINEAR", "", *shapes, [[6, 8]]),
        "LOG_SOFTMAX": rows("LOG_SOFTMAX", "LogSoftmaxOptions", 1 / 16, 127),
        "L2_NORMALIZATION": rows("L2_NORMALIZATION", "L2NormOptions", 1 / 128, 0),
        "CUMSUM": operator_models.single("CUMSUM", "", (1, 3, 4, 2), (1, 3, 4, 2), [[1]]),
        "CONV_2D in groups": fm.convolution(
            np.random.default_rng(0), (2, 5, 6, 8), 6, (3, 3), groups=2
        ),
    }


@pytest.mark.parametrize("name", portable())
def test_portable_kernels_on_a_core(name, tmp_path):
    model = portable()[name]
    compiled = compiler.compile_model(model)
    compiler.write(compiled, tmp_path / "out")
    ran = firmware.run(tmp_path / "out", "lcg:5", core="cortex-m4")
    inputs = [e for e in compiled.interface() if e["way"] == "input"]
    sizes = [int(np.prod(e["shape"])) for e in inputs]
    parts = np.split(noise(sum(sizes), 5).view(np.int8), np.cumsum(sizes)[:-1])
    case = [part.reshape(e["shape"]) for part, e in zip(parts, inputs, strict=True)]
    want = verify.Reference(model).run([case], compiled.interface())
    np.testing.assert_array_equal(ran.outputs[0], want[0][0])
    predicted = compiled.code_bytes
    assert abs(ran.code_bytes - predicted) <= max(0.1 * ran.code_bytes, 64)
