"""Characterisation: draws, fits recovered from known steps, the command as a person uses it."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from experiments import characterize as command
from micronets_jax import budgets, cli, cost, devices, firmware, latency, latency_fit, protocol
from micronets_jax.devices.instructions import STEPS
from micronets_jax.network import output_sizes
from support.lines import NoisyLine

ROOT = pathlib.Path(__file__).parent.parent


def sample(space, index, runtime="compiled", core="cortex-m4", scale=1):
    """What a run would say if ``latency`` were right; ``scale`` spoils it."""
    net = latency_fit.draw(space, 0, index)
    layers = latency.layer_instructions(net, runtime, core)
    once = latency.instructions(net, runtime, core) - sum(layers.values())
    return latency_fit.Sample(
        index,
        cost.macs(net),
        scale * (once + sum(layers.values())),
        {name: scale * n for name, n in layers.items() if n},
    )


# ---------------------------------------------------------------- drawing


@pytest.mark.parametrize("space", [*latency_fit.SPACES, latency_fit.LAYERS])
def test_draws_are_decided_by_seed_and_index(space):
    first, again = (latency_fit.draw(space, 3, 7) for _ in range(2))
    assert first == again
    assert len({latency_fit.draw(space, 3, i) for i in range(8)}) == 8
    assert latency_fit.draw(space, 4, 7) != first
    output_sizes(first)


def test_members_are_drawn_uniformly():
    space: Any = latency_fit.SPACES["kws"]
    stems = [latency_fit.draw("kws", 0, i)["stem"].out_channels for i in range(300)]
    counts = [stems.count(width) for width in space.widths]
    # 30 each; the chance of one outside is below 1 in 10,000.
    assert min(counts) >= 10 and max(counts) <= 55


def test_layers_come_in_all_sorts():
    drawn = [layer for i in range(60) for layer in latency_fit.draw("layers", 0, i)]
    kinds = {layer.kind for layer in drawn}
    assert kinds >= {"conv", "depthwise", "avg_pool", "dense", "reshape", "add", "pad"}
    for kind, kernels in (
        ("conv", {(1, 1), (3, 3), (5, 5)}),
        ("depthwise", {(3, 3), (5, 5), (7, 7)}),
    ):
        seen = {layer.kernel for layer in drawn if layer.kind == kind}
        assert seen >= kernels
    widths = {layer.out_channels % 4 for layer in drawn if layer.kind == "conv"}
    assert widths == {0, 1, 2, 3}


def test_unknown_spaces_are_listed():
    with pytest.raises(ValueError, match="space='cifar' is unknown; use one of kws, ad, vww"):
        latency_fit.draw("cifar", 0, 0)


# ---------------------------------------------------------------- fitting


def test_line_by_hand():
    fit = latency_fit.line(np.array([1.0, 2.0, 3.0]), np.array([3.0, 5.0, 7.0]))
    assert (fit.slope, fit.intercept, fit.r2) == pytest.approx((2, 1, 1))
    # The line 2 + 0.5 x leaves 1/4, -1/2 and 1/4, whose squares add up to 3/8.
    y = np.array([2.75, 2.5, 3.75])
    fit = latency_fit.line(np.array([1.0, 2.0, 3.0]), y)
    assert (fit.slope, fit.intercept) == pytest.approx((0.5, 2.0))
    assert fit.r2 == pytest.approx(1 - 0.375 / ((y - 3) ** 2).sum())
    assert fit.mean_error == pytest.approx(np.mean([0.25 / 2.75, 0.5 / 2.5, 0.25 / 3.75]))
    assert fit.largest_error == pytest.approx(0.2)
    with pytest.raises(ValueError, match="1 samples are too few"):
        latency_fit.line(np.array([1.0]), np.array([1.0]))


def test_board_factor_by_hand():
    factor, errors = latency_fit.board_factor(np.array([10, 20, 10]), np.array([11.0, 24.0, 20.0]))
    # Ratios 1.1, 1.2, 2.0; the median of the others is 1.6, 1.55, 1.15.
    assert factor == pytest.approx(1.2)
    assert errors.tolist() == pytest.approx([1.6 / 1.1 - 1, 1.55 / 1.2 - 1, 1.15 / 2 - 1])


@pytest.mark.parametrize("runtime", STEPS)
def test_steps_are_found_again(runtime):
    samples = [sample("layers", i, runtime) for i in range(40)]
    networks = [latency_fit.draw("layers", 0, i) for i in range(40)]
    steps = latency_fit.steps(networks, samples, runtime)
    # Several steps may share what a few layers took, so it is the sums that have to agree.
    errors = latency_fit.layer_errors(networks, samples, runtime, steps)
    assert errors.mean() < 0.002 and errors.max() < 0.06
    assert min(steps.values()) >= 0
    assert steps[latency.INFERENCE] == round(latency.fitted(runtime, "cortex-m4")["inference"])


def test_errors_are_those_of_a_spoiled_sample():
    nets = [latency_fit.draw("kws", 0, i) for i in range(2)]
    samples = [sample("kws", 0), sample("kws", 1, scale=2)]
    errors = latency_fit.step_errors(nets, samples, "compiled", "cortex-m4")
    assert errors.tolist() == pytest.approx([0, -0.5])


# ---------------------------------------------------------------- what the library ships

SHIPPED = sorted(pathlib.Path(latency.devices.__file__).parent.glob("*-mps2-*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_samples_lie_on_a_line_and_the_model_predicts_them(path):
    shipped = json.loads(path.read_text())
    space, _, runtime = path.stem.split("-mps2-")[0], "", path.stem.rsplit("-", 1)[1]
    core = {"an386": "cortex-m4", "an500": "cortex-m7"}[path.stem.split("-")[2]]
    assert f"--space {space}" in shipped["made"] and "qemu-system-arm" in shipped["made"]
    rows = shipped["rows"]
    assert len(rows) >= 95
    # docs/boards.md says why the others have less than the paper.
    assert shipped["line"]["r2"] > (0.95 if space == "kws" else 0.9)
    errors = []
    for index, macs, instructions in rows[::4]:
        net = latency_fit.draw(space, 0, index)
        assert cost.macs(net) == macs
        errors.append(latency.instructions(net, runtime, core) / instructions - 1)
    assert np.abs(errors).mean() <= 0.005 and np.abs(errors).max() <= 0.01


# ---------------------------------------------------------------- the command


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """The command with samples that cost nothing; network 2 is a bad one."""
    asked = []

    def measure(indices, options, core):
        for i in indices:
            asked.append(i)
            yield i, "no room" if i == 2 else sample(options.space, i, "compiled", core)

    monkeypatch.setattr(command, "_measure", measure)
    monkeypatch.setattr(firmware, "versions", lambda: ["qemu-system-arm 7.2"])
    return asked, ("--device", "mps2-an386", "--samples", "5", "--workdir", str(tmp_path / "run"))


def test_a_run_is_fitted_kept_and_drawn(quick, tmp_path, capsys):
    _, words = quick
    command.main([*words])
    out, error = capsys.readouterr()
    assert "r^2 " in out and "4 networks, 1 skipped" in out
    assert "skipped network 2: no room" in error
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["made"].startswith("python -m experiments.characterize --space kws")
    assert [row[0] for row in result["rows"]] == [0, 1, 3, 4]
    assert result["model"]["largest_error"] == 0
    plot = (tmp_path / "run/latency.svg").read_text()
    assert plot.count("<use") >= 4 and "million operations" in plot


def test_a_killed_run_goes_on(quick, tmp_path, capsys):
    asked, words = quick
    command.main([*words, "--space", "layers"])
    path = tmp_path / "run/samples.jsonl"
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:2]) + "\n" + whole[2][:40])  # cut in the middle of a line
    asked.clear()
    with pytest.raises(SystemExit):
        command.main([*words, "--space", "layers"])
    assert "add --resume" in capsys.readouterr().err
    command.main([*words, "--space", "layers", "--resume"])
    assert asked == [2, 3, 4]
    assert path.read_text().splitlines() == whole
    assert "steps" in json.loads((tmp_path / "run/result.json").read_text())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--device", "esp32"), "device 'esp32' is unknown; known are STM32F446RE"),
        (("--device", "STM32F446RE"), "cannot be emulated; use one of mps2-an386, mps2-an500"),
        (("--samples", "0"), "samples=0: must be at least 1"),
    ],
)
def test_mistakes_are_one_sentence(quick, tmp_path, capsys, words, reason):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--workdir", str(tmp_path / "run"), *words])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and reason in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("QEMU emulator version 5.2.0", "qemu-system-arm is 5.2.0; install 6.0 or newer"),
        ("nonsense", "qemu-system-arm is of unknown version; install 6.0 or newer"),
        (None, "is not installed: install the Debian package"),
    ],
)
def test_a_missing_or_old_emulator_is_named(monkeypatch, tmp_path, version, reason):
    if version is not None:
        for tool in ("qemu-system-arm", "arm-none-eabi-gcc"):
            script = tmp_path / tool
            script.write_text(f"#!/bin/sh\necho '{version}'\n")
            script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if version else str(tmp_path))
    with pytest.raises(firmware.FirmwareError, match=reason):
        firmware.versions()
    assert not firmware.has_emulator()


@pytest.mark.slow
def test_networks_are_measured_in_the_emulator(tmp_path):
    words = ("--space", "ad", "--device", "mps2-an500", "--samples", "3", "--jobs", "2")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.characterize", *words, "--workdir", tmp_path / "run"],
        cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert len(result["rows"]) == 3 and result["model"]["largest_error"] < 0.05
    for index, _, instructions in result["rows"]:
        again = dataclasses.asdict(latency_fit.measure("ad", 0, index, "cortex-m7"))
        assert again["instructions"] == instructions
        break


# ---------------------------------------------------------------- a board behind a serial port


class Desk:
    """What stands in for a board: the emulator behind a pseudo-terminal with a noisy line."""

    def __init__(self, folder):
        self.port, self.process, self.lines = folder / "tty", None, []

    def flash(self, folder):
        """Ends what runs, starts the new firmware, and resets it once it is there."""
        self.unplug()
        linked = firmware.link.build(folder)
        command = firmware.execute.command(linked.elf, devices.device("mps2-an386"))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lines.append(NoisyLine(self.process, every=1201))
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(self.lines[-1].path)
        with protocol.open_port(str(self.port)) as port:
            protocol.Board(port).reset()

    def unplug(self):
        if self.process:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    desk.unplug()


@pytest.mark.slow
def test_a_board_is_asked_over_a_noisy_line(desk, tmp_path, monkeypatch):
    def ask(index, flash):
        return latency_fit.calibrate(
            "layers", 0, index, "mps2-an386", f"serial:{desk.port}", tmp_path / "fw", flash
        )

    small = 5
    told = ask(small, desk.flash)
    counted = latency_fit.measure("layers", 0, small, "cortex-m4")
    # A tick of the emulated board is 40 instructions.
    assert 40 * told.instructions == pytest.approx(counted.instructions, rel=0.01)
    assert told.macs == counted.macs and told.layers.keys() == counted.layers.keys()
    with pytest.raises(protocol.ProtocolError, match="runs 'layers-0-5' instead of 'layers-0-6'"):
        ask(6, lambda folder: None)
    desk.process.send_signal(signal.SIGSTOP)  # silence
    monkeypatch.setattr(latency_fit, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(protocol.ProtocolError, match="no answer"):
        ask(small, lambda folder: None)
    desk.process.send_signal(signal.SIGCONT)


def test_boards_that_do_not_answer_end_a_run(monkeypatch, tmp_path, capsys):
    """Each network is named; after a few in a row nobody is there."""

    def silent(*arguments):
        raise protocol.ProtocolError("no answer: 10 requests in 20 s")

    master, slave = os.openpty()
    monkeypatch.setattr(latency_fit, "calibrate", silent)
    monkeypatch.setattr(firmware, "versions", lambda: ["qemu-system-arm 7.2.22"])
    words = ("--device", "STM32F446RE", "--calibrate", f"serial:{os.ttyname(slave)}")
    with pytest.raises(SystemExit) as stopped:
        command.main([*words, "--workdir", str(tmp_path / "run")])
    error = capsys.readouterr().err
    os.close(master), os.close(slave)
    assert stopped.value.code == 2 and "skipped network 0: no answer" in error
    assert "5 networks failed in a row, the last: no answer" in error


def test_what_a_board_says_is_fitted(monkeypatch, tmp_path, capsys):
    """A board of 2.5 cycles per instruction."""

    def told(space, seed, index, *rest):
        counted = sample(space, index)
        return dataclasses.replace(counted, instructions=int(2.5 * counted.instructions))

    master, slave = os.openpty()
    monkeypatch.setattr(latency_fit, "calibrate", told)
    monkeypatch.setattr(firmware, "versions", lambda: ["qemu-system-arm 7.2.22"])
    words = ("--device", "STM32F446RE", "--calibrate", f"serial:{os.ttyname(slave)}")
    command.main([*words, "--samples", "4", "--workdir", str(tmp_path / "run")])
    os.close(master), os.close(slave)
    assert "2.5000 cycles per instruction; the library has 1.423" in capsys.readouterr().out
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["cycles_per_instruction"] == 2.5 and result["columns"][2] == "cycles"


@pytest.fixture
def port():
    master, slave = os.openpty()
    yield f"serial:{os.ttyname(slave)}"
    os.close(master), os.close(slave)


def fast_board(factor):
    """``latency_fit.calibrate`` of a board with so many cycles per predicted instruction, whose
    last network is off by a tenth."""

    def told(space, seed, index, device, *rest):
        core = devices.device(device).core
        counted = latency.instructions(latency_fit.draw(space, seed, index), "compiled", core)
        cycles = factor * counted * (1.1 if space == "layers" else 1)
        return latency_fit.Sample(index, 0, round(cycles), {})

    return told


def test_a_calibrated_board_is_predicted_by_what_it_said(monkeypatch, tmp_path, capsys, port):
    kept = tmp_path / "config" / "boards.json"
    monkeypatch.setenv("MICRONETS_BOARDS", str(kept))
    before = devices.device("STM32F446RE").speed
    for factor in (2.5, 1.25):  # the last one holds
        monkeypatch.setattr(latency_fit, "calibrate", fast_board(factor))
        assert cli.main(["calibrate", "NUCLEO-F446RE", "--port", port]) == 0
        said = capsys.readouterr().out
        assert f"STM32F446RE: {factor:.3f} cycles per instruction, error of one network" in said
        assert "error of one network from the others 2.3%, at most 9%" in said and str(kept) in said
        speed = devices.device("STM32F446RE").speed
        assert speed.factor == factor and speed.high == pytest.approx(1.21 * factor)
        assert "4 networks on STM32F446RE, compiled C" in speed.basis
    assert len(json.loads(kept.read_text())["measured"]) == 1
    network = latency_fit.draw("kws", 0, 0)
    on = devices.device("STM32F446RE")
    counted = latency.instructions(network, "compiled", on.core)
    assert latency.latency_ms(network, on, "compiled") == pytest.approx(counted * 1.25 / 180e3)
    # Other boards of the core go by it before they go by published builds; other cores do not.
    assert devices.device("nRF52840").speed.factor == 1.25
    assert devices.device("nRF5340").speed.factor == 1.166
    assert cli.main(["devices"]) == 0 and f"boards of {kept}:" in capsys.readouterr().out
    kept.unlink()
    assert devices.device("STM32F446RE").speed == before


def test_probes_fit_every_board_that_can_be_flashed():
    for on in devices.DEVICES.values():
        if on.startup is not None and not on.emulated:
            budget = budgets.Budget.of(on)
            for space, index in latency_fit.PROBES:
                assert budget.fits(latency_fit.draw(space, 0, index)), (on.name, space, index)


@pytest.mark.parametrize(
    ("words", "content", "reason"),
    [
        (("mps2-an386",), "", "is emulated and takes a cycle for each instruction"),
        (("STM32F446",), "", "device 'STM32F446' is unknown"),
        (("STM32F446RE",), "{", "is damaged"),
        (("STM32F446RE",), '{"measured": [{"device": 3}]}', "is damaged"),
        (("STM32F446RE", "--port", "serial:/dev/absent"), "", "serial port /dev/absent"),
    ],
)
def test_a_calibration_that_cannot_be_is_one_sentence(
    monkeypatch, tmp_path, capsys, port, words, content, reason
):
    file = tmp_path / "boards.json"
    if content:
        file.write_text(content)
    monkeypatch.setenv("MICRONETS_BOARDS", str(file))
    assert cli.main(["calibrate", "--port", port, *words]) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
    assert not file.exists() if not content else file.read_text() == content


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--calibrate", "serial:/dev/absent"), "/dev/absent"),
        (("--calibrate", "serial:/dev/null", "--device", "mps2-an386"), "is for a real board"),
    ],
)
def test_a_port_that_is_not_there_is_said_first(tmp_path, capsys, words, reason):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--device", "STM32F446RE", "--workdir", str(tmp_path / "run"), *words])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and reason in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
