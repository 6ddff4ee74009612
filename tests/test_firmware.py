"""Firmware: the table of boards, folders, sizes against the linker, runs on emulated cores."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from micronets_jax import cli, devices, firmware, protocol
from micronets_jax import compile as compiler
from micronets_jax.compile import verify
from micronets_jax.firmware import boards, execute, inputs, link
from support import flatbuffer_models as fm
from support.lines import NoisyLine

MODELS = ["mlperf_kws_dscnn", "mlperf_ic_resnet8", "micronet_kws_m", "mcunet_10fps_vww"]
STARTED = [on.name for on in devices.DEVICES.values() if on.startup]
EMULATED = [name for name in STARTED if devices.device(name).emulated]
SRC = pathlib.Path(firmware.__file__).parents[2]


@pytest.fixture
def small() -> bytes:
    return fm.convolution(np.random.default_rng(0), (1, 6, 5, 4), 8, (3, 3))


def load(reference: pathlib.Path, name: str) -> bytes:
    return (reference / "models" / f"{name}.tflite").read_bytes()


# ---------------------------------------------------------------- boards


def test_clocks_and_memories_of_the_data_sheets():
    """f = f_in / M * N / P of the reference manuals' RCC chapter, and the sizes of the parts."""
    for name, mhz, flash, ram in (
        ("STM32F446RE", 180, 512, 128),
        ("STM32F746ZG", 216, 1024, 320),
        ("STM32F767ZI", 216, 2048, 512),
    ):
        board = devices.device(name)
        start = board.startup.numbers
        assert start["HSE_HZ"] // start["PLL_M"] == 2_000_000  # what the manuals recommend
        hz = start["HSE_HZ"] // start["PLL_M"] * start["PLL_N"] // start["PLL_P"]
        assert hz == board.clock_hz == mhz * 1_000_000
        assert (board.flash.bytes, board.ram.bytes) == (flash * 1024, ram * 1024)
        # Wait states at 2.7 to 3.6 V: one per 30 MHz begun, less one; 5 at 180 MHz, 7 at 216 MHz.
        assert start["FLASH_ACR"] & 15 == -(-mhz // 30) - 1
        assert board.startup.provenance == "never run on silicon"
        # 2 % is what the serial line forgives.
        divisor = round(hz / 4 / 115_200)
        assert abs(hz / 4 / divisor / 115_200 - 1) < 0.005


def test_twins_have_the_same_core():
    for board in devices.DEVICES.values():
        twin = devices.twin(board)
        assert twin.emulated and twin.core == board.core


# ---------------------------------------------------------------- folders


def test_a_folder_is_complete_and_the_same_every_time(small, tmp_path):
    for out in ("a", "b"):
        firmware.write(small, "STM32F746ZG", tmp_path / out)
    written = [p for p in (tmp_path / "a").rglob("*") if p.is_file()]
    files = {str(p.relative_to(tmp_path / "a")): p.read_bytes() for p in written}
    assert {"Makefile", "README.md", "link.ld", "main.c", "core.c", "manifest.json"} <= set(files)
    assert all((tmp_path / "b" / name).read_bytes() == data for name, data in files.items())
    manifest = json.loads(files["manifest.json"])
    assert sorted(files) == manifest["files"]
    assert files["model.tflite"] == small
    readme = files["README.md"].decode()
    assert readme.count("\n") == 5
    assert "never run on silicon" in readme
    firmware.write(small, "STM32F446RE", tmp_path / "a")  # over what was written here
    assert "STM32F446RE" in (tmp_path / "a" / "board.h").read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"--device": "STM32F999"}, "device 'STM32F999' is unknown; known are STM32F446RE,"),
        (
            {"--device": "nrf5340-dk"},
            "no start-up code for nRF5340: build the C that `micronets compile` writes",
        ),
        ({"--runtime": "onnx"}, "unknown runtime 'onnx'; there are: compiled, tflm"),
        ({"-o": "full"}, "holds other files"),
        ({"-o": "file"}, "is a file"),
    ],
)
def test_bad_arguments(change, says, small, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("m.tflite").write_bytes(small)
    pathlib.Path("full").mkdir()
    pathlib.Path("full/mine.txt").write_text("precious")
    pathlib.Path("file").write_text("precious")
    words = {"--device": "mps2-an386", "--runtime": "compiled", "-o": "out"} | change
    assert cli.main(["firmware", "m.tflite", *(w for pair in words.items() for w in pair)]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""
    assert not pathlib.Path("out").exists()
    assert [p.name for p in pathlib.Path("full").iterdir()] == ["mine.txt"]


def test_too_large_for_the_board(tmp_path):
    """600 KiB of weights: more than the small board's flash, not more than the next one's."""
    m = fm.Models()
    rng = np.random.default_rng(0)
    x = m.tensor([1, 1, 1, 800], scale=0.1)
    weights = rng.integers(-127, 128, (768, 1, 1, 800), np.int8)
    w = m.tensor([768, 1, 1, 800], scale=0.01, data=weights)
    b = m.tensor([768], "int32", scale=0.001, data=np.zeros(768, np.int32))
    y = m.tensor([1, 1, 1, 768], scale=1.0)
    m.operator("CONV_2D", [x, w, b], [y], "Conv2DOptions", padding=0, strideW=1, strideH=1)
    model = m.build([x], [y])
    with pytest.raises(firmware.FirmwareError) as caught:
        firmware.write(model, "STM32F446RE", tmp_path / "out")
    said = str(caught.value)
    needed = int(re.search(r"and (\d+) are needed", said)[1])
    assert f"flash has 524288 bytes and {needed} are needed, {needed - 524288} too many" in said
    assert said.endswith("the nearest board that fits is STM32F746ZG")
    assert not (tmp_path / "out").exists()
    assert firmware.write(model, "STM32F746ZG", tmp_path / "out").flash_bytes == pytest.approx(
        needed, abs=500
    )


def test_without_tools(small, tmp_path, capsys, monkeypatch):
    (tmp_path / "m.tflite").write_bytes(small)
    out = str(tmp_path / "out")
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["firmware", str(tmp_path / "m.tflite"), "--device", "mps2-an386", "-o", out]
    assert cli.main(words) == 0
    assert "linking was not checked" in capsys.readouterr().out
    assert cli.main(["run", out]) == 2
    assert "qemu-system-arm is not installed" in capsys.readouterr().err
    old = tmp_path / "qemu-system-arm"
    old.write_text("#!/bin/sh\necho QEMU emulator version 4.2.1\n")
    old.chmod(0o755)
    assert cli.main(["run", out]) == 2
    assert "qemu-system-arm is 4.2.1; install 6.0 or newer" in capsys.readouterr().err
    old.write_text("#!/bin/sh\necho QEMU emulator version 7.2.1\n")
    assert cli.main(["run", out]) == 2
    assert "install the Debian package gcc-arm-none-eabi" in capsys.readouterr().err


def test_damaged_folders(small, tmp_path, capsys):
    out = tmp_path / "out"
    firmware.write(small, "mps2-an386", out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert cli.main(["run", str(out), "--core", "cortex-m7"]) == 2
    assert "a firmware has its board's" in capsys.readouterr().err
    for change, says in (
        ({"layers": None}, "damaged"),
        ({"device": "Z80"}, "is unknown"),
        ({"interface": 3}, "damaged"),
    ):
        wrong = {k: v for k, v in {**manifest, **change}.items() if v is not None}
        (out / "manifest.json").write_text(json.dumps(wrong))
        assert cli.main(["run", str(out)]) == 2
        assert says in capsys.readouterr().err
    with pytest.raises(firmware.FirmwareError, match="not a firmware folder"):
        firmware.check(tmp_path)


def test_flashing_says_how(small, tmp_path, capsys, monkeypatch):
    out = tmp_path / "fw"
    firmware.write(small, "STM32F767ZI", out)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["flash", str(out)]) == 0
    said = capsys.readouterr().out
    elf, image = out / "build" / "firmware.elf", out / "build" / "firmware.bin"
    assert f"openocd -f board/st_nucleo_f7.cfg -c 'program {elf} verify reset exit'" in said
    assert f"st-flash --reset write {image} 0x8000000" in said
    assert "not run" in said
    firmware.write(small, "mps2-an386", out)
    assert cli.main(["flash", str(out)]) == 2
    assert "emulated board: use `micronets run" in capsys.readouterr().err


def test_reading_a_map(tmp_path):
    """Sections with names of any length, libraries, fill and stacks, as GNU ld lays them out."""
    path = tmp_path / "firmware.map"
    path.write_text("""\
Discarded input sections

 .text          0x00000000        0x0 build/core.o

Linker script and memory map

.text           0x08000000       0x60
 *(.vectors)
 .vectors       0x08000000       0x40 build/core.o
 .text.a_function_of_a_long_name
                0x08000040       0x10 build/main.o
 *fill*         0x08000050        0x4
 .text          0x08000054        0xc /usr/lib/thumb/libc.a(memcpy.o)

.stack          0x20000000      0x100
 *fill*         0x20000000       0x80
                0x20000080                link_stack_top = .

.data           0x20000100        0x8 load address 0x08000060
 .data.hz       0x20000100        0x8 build/board.o

.bss            0x20000108       0x20
 .bss.frame     0x20000108       0x1d build/protocol.o
                0x20000128                . = ALIGN (0x8)
 *fill*         0x20000125        0x3

.debug_info     0x00000000     0x9999
""")
    linked = link.read_map(path, tmp_path / "x")
    assert linked.flash == {"core.o": 64, "main.o": 16, "padding": 4, "libc.a": 12, "board.o": 8}
    assert linked.ram == {"stacks": 256, "board.o": 8, "protocol.o": 29, "padding": 3}
    path.write_text("nothing")
    with pytest.raises(firmware.FirmwareError, match="not a map"):
        link.read_map(path, tmp_path / "x")


@pytest.mark.parametrize(
    ("errors", "says"),
    [
        (
            "ld: region `RAM' overflowed by 4096 bytes\nld: region `FLASH' overflowed by 8 bytes",
            "RAM overflows by 4096 bytes, FLASH overflows by 8 bytes",
        ),
        ("x.o: in function `f':\nundefined reference to `g'\n", "g is missing from the libraries"),
        ("ld: error: x.a uses VFP register arguments, y does not", "another core or float ABI"),
        ("main.c:3:1: error: unknown type name 'u'", "main.c:3:1: error: unknown type name 'u'"),
    ],
)
def test_what_the_linker_says_becomes_a_sentence(errors, says, tmp_path):
    assert says in link._reason(tmp_path, errors)


# ---------------------------------------------------------------- with the cross compiler


slow = pytest.mark.slow


def on_each(names: list[str]) -> list[tuple[str, str]]:
    """All models on each board; one where kernels are others, which have tests of their own."""
    others = [name for name in names if devices.device(name).core in boards.OTHER_CORES]
    return [(m, on) for on in names for m in (MODELS[:1] if on in others else MODELS)]


@slow
@pytest.mark.parametrize(("name", "device"), on_each(STARTED))
def test_predicted_against_linked(reference, name, device, tmp_path):
    firmware.write(load(reference, name), device, tmp_path, title=name)
    fit = firmware.check(tmp_path)
    assert fit.ram_predicted == fit.ram_linked
    # All kernels are predicted from those of the DSP extension.
    others = 0.12 if devices.device(device).core in boards.OTHER_CORES else 0.01
    assert abs(fit.flash_predicted - fit.flash_linked) < others * fit.flash_linked
    assert (tmp_path / "build" / "firmware.bin").stat().st_size == fit.flash_linked


@slow
def test_an_overflow_is_named(small, tmp_path, capsys):
    """The linker has the last word: here the board's memory shrinks after the prediction."""
    firmware.write(small, "STM32F446RE", tmp_path)
    script = (tmp_path / "link.ld").read_text()
    (tmp_path / "link.ld").write_text(script.replace("LENGTH = 131072", "LENGTH = 1000"))
    used = json.loads((tmp_path / "manifest.json").read_text())["predicted"]["ram"]
    with pytest.raises(firmware.FirmwareError) as caught:
        firmware.check(tmp_path)
    assert f"RAM overflows by {sum(used.values()) - 1000} bytes" in str(caught.value)


@slow
@pytest.mark.parametrize(("name", "device"), on_each(EMULATED))
def test_emulated_runs(reference, name, device, tmp_path):
    """Bytes of the reference, instructions that repeat, and the same of the compiled folder."""
    rows = json.loads((reference / "reference" / "tflm_cmsisnn.json").read_text())["rows"]
    head = {row[0]: row[6] for row in rows}[name]
    firmware.write(load(reference, name), device, tmp_path / "fw", title=name)
    ran = firmware.run(tmp_path / "fw")
    assert ran.outputs[0].reshape(-1)[: len(head)].tolist() == head
    assert ran.differing_outputs == 0
    assert 100 < ran.stack_bytes < 1000
    again = firmware.run(tmp_path / "fw", compare=False)
    assert (again.instructions, again.layers) == (ran.instructions, ran.layers)
    assert sum(layer["instructions"] for layer in ran.layers) == pytest.approx(
        ran.instructions, abs=2000
    )

    compiler.write(compiler.compile_model(load(reference, name), name), tmp_path / "c")
    folder = firmware.run(tmp_path / "c", core=devices.device(device).core)
    assert (folder.instructions, folder.layers) == (ran.instructions, ran.layers)
    assert (folder.stack_bytes, folder.differing_outputs) == (ran.stack_bytes, None)


@slow
def test_a_real_board_runs_on_its_twin(reference, tmp_path, capsys):
    out = str(tmp_path / "fw")
    model = str(reference / "models" / "micronet_kws_m.tflite")
    assert cli.main(["firmware", model, "--device", "STM32F767ZI", "-o", out, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["provenance"] == "never run on silicon"
    assert result["linked"]["ram"] == result["predicted"]["ram"]
    x = np.random.default_rng(0).integers(-128, 128, (1, 49, 10, 1), np.int8)
    np.save(tmp_path / "x.npy", x)
    assert cli.main(["run", out, "--input", str(tmp_path / "x.npy"), "--json"]) == 0
    ran = json.loads(capsys.readouterr().out)
    assert (ran["device"], ran["machine"]) == ("STM32F767ZI", "mps2-an500")
    reference_run = verify.Reference(pathlib.Path(model).read_bytes())
    interface = json.loads((tmp_path / "fw" / "manifest.json").read_text())["interface"]
    assert ran["output"] == reference_run.run([[x]], interface)[0][0].reshape(-1).tolist()
    assert cli.main(["run", out]) == 0
    assert "equal to TensorFlow Lite Micro" in capsys.readouterr().out


def break_model(folder: pathlib.Path, statement: str, before: str = "") -> None:
    """Puts a statement into the model's run, as a defect would."""
    path = folder / "model" / "model.c"
    text = path.read_text().replace("int model_run(", before + "int model_run(", 1)
    path.write_text(
        text.replace(
            "    int8_t *const a = arena;", f"{statement}\n    int8_t *const a = arena;", 1
        )
    )


@slow
@pytest.mark.parametrize("device", EMULATED)
@pytest.mark.parametrize(
    ("statement", "before", "says"),
    [
        ("*(volatile int *)0xNOWHERE = 1;", "", "bus error at address 0xNOWHERE"),
        ("((void (*)(void))(0xNOWHERE + 1))();", "", "address 0xNOWHERE"),
        ('__asm__ volatile("udf #0");', "", r"undefined instruction \(pc 0x"),
        (
            "deep(1);",
            "int deep(int n); int deep(int n) { volatile int x[64]; x[n & 63] = n; "
            "return deep(n + 1) + x[n & 63]; }\n",
            r"the stack overflowed at address 0x(1fff|3800|3100)",
        ),
    ],
)
def test_faults_in_a_model(statement, before, says, device, small, tmp_path):
    nowhere = "1f000000" if device == "mps3-an547" else "70000000"  # this is DRAM there
    statement, says = (text.replace("NOWHERE", nowhere) for text in (statement, says))
    firmware.write(small, device, tmp_path)
    break_model(tmp_path, statement, before)
    with pytest.raises(firmware.FirmwareError) as caught:
        firmware.run(tmp_path, compare=False)
    assert re.search(says, str(caught.value))
    assert "\n" not in str(caught.value)


@slow
@pytest.mark.parametrize(
    ("script", "status", "says"),
    [
        ("exit 0", 0, "flashed and verified"),
        ("echo Error: open failed >&2; exit 1", 2, "openocd failed: Error: open failed"),
    ],
)
def test_flashing_runs_the_tool(script, status, says, small, tmp_path, capsys, monkeypatch):
    """With a stand-in for OpenOCD that notes how it was called."""
    tool = tmp_path / "bin" / "openocd"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n{script}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    firmware.write(small, "STM32F446RE", tmp_path / "fw")
    assert cli.main(["flash", str(tmp_path / "fw")]) == status
    captured = capsys.readouterr()
    assert says in captured.out + captured.err
    elf = tmp_path / "fw" / "build" / "firmware.elf"
    assert elf.is_file()
    called = (tmp_path / "called").read_text()
    assert called == f"-f board/st_nucleo_f4.cfg -c program {elf} verify reset exit\n"


@slow
def test_a_hang_ends(small, tmp_path):
    firmware.write(small, "mps2-an386", tmp_path)
    break_model(tmp_path, "for (;;) { }")
    with pytest.raises(firmware.FirmwareError, match=r"mps2-an386: no answer"):
        firmware.run(tmp_path, seconds=2.0, compare=False)


@slow
def test_other_bytes_are_status_1(small, tmp_path, capsys):
    firmware.write(small, "mps2-an386", tmp_path)
    break_model(tmp_path, "for (int i = 0; i < MODEL_ARENA_BYTES; i++) ((int8_t *)arena)[i] = 0;")
    assert cli.main(["run", str(tmp_path), "--json"]) == 1
    ran = json.loads(capsys.readouterr().out)
    assert ran["differing_outputs"] > 0
    assert "bytes differ from TensorFlow Lite Micro on this machine: output 0" in ran["notes"][0]


def with_float_ends() -> bytes:
    m = fm.Models()
    x, y = (m.tensor([1, 40], "float32") for _ in range(2))
    q, r = m.tensor([1, 40], scale=0.03, zero_point=5), m.tensor([1, 40], scale=0.05)
    m.operator("QUANTIZE", [x], [q], "QuantizeOptions")
    m.operator("QUANTIZE", [q], [r], "QuantizeOptions")
    m.operator("DEQUANTIZE", [r], [y], "DequantizeOptions")
    return m.build([x], [y])


@slow
@pytest.mark.parametrize("floats", [False, True])
def test_speaks_to_people_when_nobody_asks(floats, small, tmp_path):
    """Without a host it runs the built-in input, which is that of ``lcg:12345``."""
    model = with_float_ends() if floats else small
    firmware.write(model, "mps2-an386", tmp_path, title="a model")
    ran = firmware.run(tmp_path)
    assert ran.differing_outputs == 0 and np.isfinite(ran.outputs[0]).all()
    board = devices.device("mps2-an386")
    process = subprocess.Popen(
        execute.command(tmp_path / "build" / "firmware.elf", board),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    lines = {}
    for raw in process.stdout:
        name, _, value = raw.decode().strip().partition(" ")
        lines[name] = value
        if name == "output":
            break
    process.kill()
    process.wait()
    assert lines["model"] == "a model"
    assert int(lines["ticks"]) * 40 == ran.instructions
    said = np.array([int(v) for v in lines["output"].split()], np.int8)
    np.testing.assert_array_equal(said, ran.outputs[0].reshape(-1).view(np.int8)[: len(said)])


@slow
def test_over_a_pseudo_terminal_with_noise(reference, tmp_path):
    """The line that ``--calibrate`` uses: garbage in both directions and a reset in between."""
    firmware.write(load(reference, "mlperf_kws_dscnn"), "mps2-an386", tmp_path)
    linked = link.build(tmp_path)
    want = firmware.run(tmp_path, "lcg:7", compare=False)
    board = devices.device("mps2-an386")
    process = subprocess.Popen(
        execute.command(linked.elf, board), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        line = NoisyLine(process, every=1201)
        with protocol.open_port(f"serial:{line.path}") as port:
            spoken = protocol.Board(port, seconds=2.0, run_seconds=5.0, tries=10)
            data = inputs.noise(490, 7).tobytes()
            first = spoken.run(data)
            spoken.reset()
            second = spoken.run(data)
    finally:
        process.kill()
        process.wait()
    assert first.output == second.output == want.outputs[0].tobytes()
    assert first.ticks == second.ticks == want.instructions // 40
    assert first.layer_ticks == tuple(x["instructions"] // 40 for x in want.layers)


@slow
def test_start_up_of_the_f4_falls_through_its_waits(reference, tmp_path):
    """qemu's STM32F405 has this board's memories and serial port and no clocks: every wait for one
    ends, the firmware says that the loop did not lock, and the model runs."""
    firmware.write(load(reference, "micronet_kws_m"), "STM32F446RE", tmp_path)
    linked = link.build(tmp_path)
    board = devices.device("STM32F446RE")
    board = dataclasses.replace(
        board, startup=dataclasses.replace(board.startup, machine="netduinoplus2")
    )
    command = execute.command(linked.elf, board)
    at = command.index("-serial")
    process = subprocess.Popen(
        [*command[:at], "-serial", "null", *command[at:]],  # its USART2 is the second port
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        pipe = execute._Pipe(process)
        spoken = protocol.Board(pipe, seconds=2.0, run_seconds=60.0, tries=15)
        assert spoken.hello()["clock"] == "internal 16 MHz, the loop did not lock"
        output = spoken.run().output
    finally:
        process.kill()
        process.wait()
    assert np.frombuffer(output, np.int8).tolist() == [
        -33, -39, -63, -61, -76, -56, -29, -64, -53, -63, -102, -11,
    ]  # fmt: skip


@slow
def test_a_board_of_one_s_own(small, tmp_path, monkeypatch):
    """The entry that the guide shows, as it stands there: it links."""
    guide = (SRC.parent / "docs" / "firmware.md").read_text()
    entry = re.search(r"```python\n(Device\(.*?\n\))\n```", guide, re.S)[1]
    made = eval(entry, vars(devices))
    monkeypatch.setitem(devices.DEVICES, made.name, made)
    firmware.write(small, "stm32f429zi", tmp_path)
    assert firmware.check(tmp_path).flash_bytes == 2 << 20
    assert firmware.run(tmp_path).machine == "mps2-an386"


@slow
@pytest.mark.parametrize("cc", ["gcc", "clang"])
def test_no_warnings(cc, small, tmp_path):
    """Everything that does not speak to registers, by this machine's compilers."""
    firmware.write(small, "mps2-an386", tmp_path)
    for name in ("main.c", "protocol.c", "compiled.c"):
        subprocess.run(
            [cc, *verify.WARNINGS, "-O2", "-fsyntax-only", f"-I{tmp_path}", tmp_path / name],
            check=True,
        )


@slow
def test_no_warnings_on_the_core(small, tmp_path):
    for device in STARTED:
        firmware.write(small, device, tmp_path / device)
        subprocess.run(
            ["make", "-s", "-C", tmp_path / device, "CC=arm-none-eabi-gcc -Werror"], check=True
        )


def test_the_command_line_stays_light():
    code = (
        "import sys, micronets_jax.cli, micronets_jax.firmware, micronets_jax.protocol;"
        "print([m for m in ('jax', 'tensorflow', 'flax', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )
    assert done.stdout.strip() == "[]"
