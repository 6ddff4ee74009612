"""The runtime tflm: predicted arenas, sources against the interface they use, bad libraries."""

import json
import pathlib
import subprocess
from typing import Any

import numpy as np
import pytest

from micronets_jax import cli, devices, export, firmware, latency_fit, recipes, tflite, zoo
from micronets_jax.firmware import execute
from micronets_jax.spaces.bits import with_bits
from micronets_jax.targets.tflm import arena as tflm
from micronets_jax.targets.tflm import engine, interpreter
from micronets_jax.targets.tflm.engine import files
from support import flatbuffer_models as fm
from support import state_models, tflm_library

slow = pytest.mark.slow
INTERFACE = pathlib.Path(__file__).parent / "tflm_interface"
MODELS = ["mlperf_kws_dscnn", "mlperf_ic_resnet8", "micronet_kws_m", "mcunet_10fps_vww"]


def relu(kind: str = "RELU") -> bytes:
    """One operator that changes nothing: its zero point is the lowest number."""
    m = fm.Models()
    x = m.tensor([1, 96], scale=0.1, zero_point=-128)
    y = m.tensor([1, 96], scale=0.1, zero_point=-128)
    m.operator(kind, [x], [y])
    return m.build([x], [y])


@pytest.mark.parametrize("name", MODELS)
def test_arenas_of_published_models(reference, name):
    """The head exactly, all within 0.2 % (the interpreter of the reference takes 96 for itself)."""
    rows = json.loads((reference / "reference" / "tflm_cmsisnn.json").read_text())["rows"]
    used, head = next(row[4:6] for row in rows if row[0] == name)
    predicted = files.predict(tflite.read(reference / "models" / f"{name}.tflite"))
    assert predicted.activations == head
    assert predicted.total == pytest.approx(used - 96, rel=0.002)


def test_a_planner_that_works_with_more_than_the_model_is_counted(reference):
    """On the emulated M4 the interpreter starts with 3,024 bytes and not with 2,992 (TFLM of August
    2026)."""
    predicted = files.predict(tflite.read(reference / "models" / "mlperf_ad.tflite"))
    assert predicted.planning > predicted.activations
    assert 2992 < predicted.total <= 3024


def test_arenas_agree_with_the_costs_of_networks():
    """One network, counted from its layers and from its file."""
    from micronets_jax import export, network
    from support.networks import NETWORKS, trained

    for name in ("all blocks", "convolutional"):
        decided = NETWORKS[name]
        model = export.to_tflite(decided, *trained(decided, seed=1))
        from_file = files.predict(tflite.read(model))
        from_layers = tflm.arena(network.prune(decided))
        assert from_file.activations == from_layers.activations
        assert abs(from_file.persistent + 96 - from_layers.persistent) < 16  # alignment


def test_the_margin():
    assert interpreter.arena_reserved(100_000) == 101_264  # 1 % and 256, in sixteens
    assert interpreter.arena_reserved(0) == 256


def test_names_of_operators():
    """As TFLM's resolver spells them."""
    for kind, method in (
        ("CONV_2D", "AddConv2D"), ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"), ("ADD", "AddAdd"),
        ("FULLY_CONNECTED", "AddFullyConnected"), ("AVERAGE_POOL_2D", "AddAveragePool2D"),
        ("RESIZE_NEAREST_NEIGHBOR", "AddResizeNearestNeighbor"), ("RELU6", "AddRelu6"),
        ("HARD_SWISH", "AddHardSwish"),
    ):  # fmt: skip
        assert engine.method(kind) == method


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "needs --tflm-library (or TFLM_LIBRARY)"),
        ({"tflm_library": "none.a", "tflm_include": ["."]}, "there is no TFLM library none.a"),
        ({"tflm_library": __file__}, "needs --tflm-include (or TFLM_INCLUDE)"),
        (
            {"tflm_library": __file__, "tflm_include": ["."]},
            "holds tensorflow/lite/micro/micro_interpreter.h",
        ),
    ],
)
def test_without_a_library(given, says, tmp_path, monkeypatch):
    monkeypatch.delenv("TFLM_LIBRARY", raising=False)
    monkeypatch.delenv("TFLM_INCLUDE", raising=False)
    with pytest.raises(firmware.FirmwareError) as caught:
        firmware.write(relu(), "mps2-an386", tmp_path / "fw", runtime="tflm", **given)
    assert says in str(caught.value)
    assert "cortex_m_generic/README.md in github.com/tensorflow/tflite-micro" in str(caught.value)
    assert not (tmp_path / "fw").exists()


# ---------------------------------------------------------------- with a library that is none


CORTEX_M4 = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")
CORTEX_M7 = ("-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv5-d16")
CORTEX_M3 = ("-mcpu=cortex-m3", "-mthumb", "-mfloat-abi=soft")


def library(folder: pathlib.Path, *flags: str, tools: str = "arm-none-eabi-") -> str:
    done = folder / "libtensorflow-microlite.a"
    flags = flags or CORTEX_M4
    command = [f"{tools}g++", *flags, "-Os", "-fno-rtti", "-fno-exceptions", f"-I{INTERFACE}"]
    subprocess.run([*command, "-c", INTERFACE / "library.cc", "-o", folder / "l.o"], check=True)
    subprocess.run([f"{tools}ar", "rcs", done, folder / "l.o"], check=True)
    return str(done)


@slow
@pytest.mark.parametrize(
    ("device", "flags"),
    [("mps2-an386", CORTEX_M4), ("STM32F767ZI", CORTEX_M7), ("mps2-an385", CORTEX_M3)],
)
def test_the_whole_path(device, flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TFLM_LIBRARY", "/dev/null")  # the one that is given goes before it
    (tmp_path / "m.tflite").write_bytes(relu())
    out = str(tmp_path / "fw")
    words = [
        "firmware", str(tmp_path / "m.tflite"), "--device", device, "--runtime", "tflm", "-o", out,
        "--tflm-library", library(tmp_path, *flags), "--tflm-include", str(INTERFACE), "--json",
    ]  # fmt: skip
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["runtime"] == "tflm"
    ran = firmware.run(out)
    assert ran.differing_outputs == 0
    assert ran.outputs[0].any()
    assert [layer["kind"] for layer in ran.layers] == ["RELU"]
    assert 0 < ran.layers[0]["instructions"] <= ran.instructions
    assert ran.arena_used == 192
    assert "resolver.AddRelu();" in (tmp_path / "fw" / "operators.h").read_text()
    assert "#define FIRMWARE_OPERATORS 1\n" in (tmp_path / "fw" / "operators.h").read_text()


@slow
def test_state_is_forgotten_when_told_to(tmp_path):
    """The interpreter's own state (SVDF, LSTM); its variables have no memory here."""
    words: dict[str, Any] = {
        "runtime": "tflm", "tflm_include": [str(INTERFACE)], "tflm_library": library(tmp_path),
    }  # fmt: skip
    firmware.write(relu(), "mps2-an386", tmp_path / "fw", **words)
    config = tmp_path / "fw" / "config.h"
    told = config.read_text().replace("FIRMWARE_REMEMBERS 0", "FIRMWARE_REMEMBERS 1")
    config.write_text(told)
    firmware.check(tmp_path / "fw")
    elf = tmp_path / "fw" / "build" / "firmware.elf"
    with execute.emulated(elf, devices.device("mps2-an386"), 60.0) as board:
        board.forget()
    with pytest.raises(firmware.FirmwareError, match="keeps variables"):
        firmware.write(state_models.streaming(False), "mps2-an386", tmp_path / "v", **words)


@slow
@pytest.mark.parametrize(("flags", "silent"), [((), True), (("-DWITH_MESSAGES",), False)])
def test_headers_print_as_the_library_does(flags, silent, tmp_path):
    firmware.write(
        relu(), "mps2-an386", tmp_path / "fw", runtime="tflm", tflm_include=[str(INTERFACE)],
        tflm_library=library(tmp_path, *CORTEX_M4, *flags),
    )  # fmt: skip
    makefile = (tmp_path / "fw" / "engine.mk").read_text()
    assert ("-DTF_LITE_STRIP_ERROR_STRINGS" in makefile) == silent


@slow
@pytest.mark.parametrize("padding", [0, 20_000])
def test_flash_is_predicted_from_the_library_that_is_given(padding, tmp_path):
    """What the operator reaches counts, however much it is; the table knows other libraries."""
    flags = (f"-DPADDING={padding}", "-ffunction-sections", "-fdata-sections")
    prediction = firmware.write(
        relu(), "mps2-an386", tmp_path / "fw", runtime="tflm", tflm_include=[str(INTERFACE)],
        tflm_library=library(tmp_path, *CORTEX_M4, *flags),
    )  # fmt: skip
    linked = firmware.check(tmp_path / "fw").flash_linked
    assert prediction.flash_bytes == pytest.approx(linked, abs=600)
    assert linked > padding


@slow
def test_an_arena_that_is_too_small_is_said_at_start(tmp_path):
    firmware.write(
        relu(), "mps2-an386", tmp_path / "fw", runtime="tflm", tflm_include=[str(INTERFACE)],
        tflm_library=library(tmp_path),
    )  # fmt: skip
    config = tmp_path / "fw" / "config.h"
    reserved = json.loads((tmp_path / "fw" / "manifest.json").read_text())["arena_bytes"]
    assert reserved > 192
    text = config.read_text()
    config.write_text(text.replace(f"ARENA_BYTES {reserved}", "ARENA_BYTES 128"))
    with pytest.raises(firmware.FirmwareError, match=r"refuses: Failed to allocate 192 bytes$"):
        firmware.run(tmp_path / "fw")


@slow
@pytest.mark.parametrize(
    ("flags", "tools", "says"),
    [
        (("-mcpu=cortex-m3", "-mthumb"), "arm-none-eabi-", "was built for v7; mps2-an386 has"),
        (("-mcpu=cortex-m4", "-mthumb"), "arm-none-eabi-", "without hard floats"),
        (CORTEX_M7, "arm-none-eabi-", "built for a cortex-m7; mps2-an386 has a cortex-m4"),
        (("-O1",), "", "was built for no Arm core"),
    ],
)  # fmt: skip
def test_libraries_for_another_core(flags, tools, says, tmp_path):
    with pytest.raises(firmware.FirmwareError) as caught:
        firmware.write(
            relu(), "mps2-an386", tmp_path / "fw", runtime="tflm",
            tflm_include=[str(INTERFACE)], tflm_library=library(tmp_path, *flags, tools=tools),
        )  # fmt: skip
    assert says in str(caught.value)
    assert not (tmp_path / "fw").exists()


@slow
def test_a_library_that_is_named_must_be_for_the_board(tmp_path, monkeypatch):
    monkeypatch.setenv("TFLM_INCLUDE", str(INTERFACE))
    monkeypatch.setenv("TFLM_LIBRARY", library(tmp_path, *CORTEX_M7))
    assert not engine.missing(devices.device("STM32F746ZG"))
    with pytest.raises(firmware.FirmwareError, match="built for a cortex-m7; STM32F446RE has a"):
        engine.missing(devices.device("STM32F446RE"))
    monkeypatch.setenv("TFLM_LIBRARY", library(tmp_path))
    with pytest.raises(
        firmware.FirmwareError, match=r"built for a cortex-m4; .*-m7: build it with"
    ):
        engine.missing(devices.device("STM32F746ZG"))


@slow
def test_a_library_without_an_operator(tmp_path):
    with pytest.raises(firmware.FirmwareError, match="lacks the operator RELU6"):
        firmware.write(
            relu("RELU6"), "mps2-an386", tmp_path / "fw", runtime="tflm",
            tflm_include=[str(INTERFACE)], tflm_library=library(tmp_path),
        )  # fmt: skip


# ---------------------------------------------------------------- with a library that is one


CORES = tflm_library.cores()
if CORES:  # without one there is nothing to skip

    @slow
    @pytest.mark.parametrize("core", CORES)
    @pytest.mark.parametrize("name", ["MicroNet-KWS-S", "MicroNet-VWW-2", "MicroNet-AD-S"])
    @pytest.mark.parametrize("bits", [(8, 8), (4, 8), (4, 4)])
    def test_arena_and_flash_of_published_networks(name, bits, core, tmp_path):
        """What the interpreter takes and what is linked. Kernels for 4-bit depthwise weights ask
        for scratch where those for 8 bits ask for none (3 x 3)."""
        network = with_bits(zoo.network(name), recipes.Bits(weights=bits[0], depthwise=bits[1]))
        folded, ranges = latency_fit.random_weights(np.random.default_rng(0), network)
        model = export.assemble(network, folded, ranges)
        predicted = files.predict(tflite.read(model))
        firmware.write(model, devices.emulated(core).name, tmp_path / "fw", runtime="tflm")
        fit, ran = firmware.check(tmp_path / "fw"), firmware.run(tmp_path / "fw")
        assert ran.differing_outputs == 0
        assert predicted.total == pytest.approx(ran.arena_used, rel=1e-3)
        assert tflm.arena_bytes(network) == pytest.approx(ran.arena_used, rel=0.01)
        assert fit.flash_predicted == pytest.approx(fit.flash_linked, rel=0.002)
        assert fit.ram_predicted == fit.ram_linked
