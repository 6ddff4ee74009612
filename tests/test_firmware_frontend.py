"""Front ends on the board: the C against the Python, on this machine and on emulated cores."""

import json
import pathlib
import re
import subprocess

import numpy as np
import pytest

from micronets_jax import cli, data, devices, firmware
from micronets_jax.compile import verify
from micronets_jax.data import frontends
from micronets_jax.data.frontends import log_mel, mfcc
from micronets_jax.firmware import execute, frontend
from support import flatbuffer_models as fm

slow = pytest.mark.slow

HARNESS = """
#include "frontend.h"
#include <stdio.h>
#include <string.h>
unsigned long long core_ticks(void) { return 0; }
void core_restart_clock(void) { }
int main(int argc, char **argv)
{
    static int8_t features[FEATURES];
    int16_t part[257];
    size_t count;
    (void)argc; (void)argv;
    frontend_restart();
    while ((count = fread(part, 2, 257, stdin)) > 0)
        frontend_feed(part, (uint32_t)count, features);
    return fwrite(features, 1, sizeof features, stdout) != sizeof features;
}
"""

RECORDS = {
    "published MFCC": data.MFCC(),
    "13 coefficients of short frames": data.MFCC(
        frame_length=480, hop_length=160, fft_length=512, num_coefficients=13, high_hz=8000.0
    ),
    "few bands, odd hop": data.MFCC(
        num_samples=9000, frame_length=1024, hop_length=333, num_mels=20, low_hz=100.0
    ),
    "log-mel patches": frontends.LogMelPatches(),
    "short patches, every third": frontends.LogMelPatches(
        frame_length=512, hop_length=200, num_mels=30, num_frames=20, thinning=3, low_hz=50.0
    ),
}


def spectator(shape: tuple[int, ...], scale: float, zero_point: int) -> bytes:
    """A model that reads features of this shape."""
    m = fm.Models()
    x = m.tensor([1, *shape], scale=scale, zero_point=zero_point)
    y = m.tensor([1, *shape], scale=scale, zero_point=zero_point)
    m.operator("RELU", [x], [y])
    return m.build([x], [y])


def interface(record, scale: float, zero_point: int) -> list[dict]:
    size = int(np.prod(record.shape))
    return [
        {
            "way": "input", "index": 0, "dtype": "int8", "bytes": size,
            "shape": [1, *record.shape], "scale": scale, "zero_point": zero_point,
        },
    ]  # fmt: skip


def build_on_host(front_end: frontend.FrontEnd, folder: pathlib.Path) -> None:
    for name, text in front_end.files.items():
        (folder / name).write_text(text)
    (folder / "core.h").write_text(
        "unsigned long long core_ticks(void);\nvoid core_restart_clock(void);\n"
    )
    (folder / "harness.c").write_text(HARNESS)
    size = int(np.prod(front_end.record.shape))
    subprocess.run(
        ["cc", "-std=c99", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *verify.SANITIZE,
         f"-DFEATURES={size}", f"-I{folder}", *(folder / n for n in
         ("harness.c", "frontend.c", "tables.c")), "-o", folder / "harness"],
        check=True,
    )  # fmt: skip


def sounds(count: int) -> dict[str, np.ndarray]:
    """Silence, noise of three levels, a tone, clicks, full scale, an offset, a sweep.

    Not a constant alone: all its bands but one hold nothing but what floats round, here and there.
    """
    rng = np.random.default_rng(0)
    n = np.arange(count)
    clicks = np.zeros(count)
    clicks[::1234] = 30000
    made = {
        "silence": np.zeros(count),
        "one bit": rng.integers(-1, 2, count),
        "noise": rng.normal(0, 1000, count),
        "loud noise": rng.normal(0, 20000, count),
        "tone": 12000 * np.sin(2 * np.pi * 997 / 16000 * n),
        "clicks": clicks,
        "square at full scale": np.where(n // 20 % 2, 32767, -32768),
        "offset": 20000 + rng.normal(0, 3, count),
        "sweep": 20000 * np.sin(2 * np.pi * (50 + 3000 * n / count) / 16000 * n),
    }
    return {k: np.clip(np.rint(v), -32768, 32767).astype(np.int16) for k, v in made.items()}


@slow
@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize(("scale", "zero_point"), [(0.20109497, -5), (0.5847029, 83), (0.05, 0)])
def test_within_one_step_of_python(name, scale, zero_point, tmp_path):
    """Under sanitizers; samples come in parts that divide neither frames nor hops."""
    record = RECORDS[name]
    text = frontends.to_json(record)
    built = frontend.build(text, interface(record, scale, zero_point))
    build_on_host(built, tmp_path)
    worst, equal, total = 0, 0, 0
    for clip in sounds(built.samples).values():
        ran = subprocess.run(
            [tmp_path / "harness"],
            input=clip.astype("<i2").tobytes(),
            capture_output=True,
            check=True,
        )
        got = np.frombuffer(ran.stdout, np.int8).astype(int)
        want = frontend.features_of(clip, built, scale, zero_point).reshape(-1).astype(int)
        worst = max(worst, int(np.abs(got - want).max()))
        equal, total = equal + int((got == want).sum()), total + got.size
    assert worst <= 1
    assert equal > 0.97 * total


@slow
@pytest.mark.parametrize("cc", ["gcc", "clang"])
def test_no_warnings(cc, tmp_path):
    record = data.MFCC()
    model = spectator(record.shape, 0.2, 0)
    firmware.write(model, "mps2-an386", tmp_path, frontend=frontends.to_json(record))
    for name in ("frontend.c", "tables.c", "main.c"):
        subprocess.run(
            [cc, *verify.WARNINGS, "-O2", "-fsyntax-only", f"-I{tmp_path}", tmp_path / name],
            check=True,
        )


@pytest.mark.parametrize("name", RECORDS)
def test_tables_hold_the_triangles(name):
    """Every triangle's weights come back out of the pairs that are stored per bin."""
    record = RECORDS[name]
    built = frontend.build(frontends.to_json(record), interface(record, 0.2, 0))
    text = built.files["tables.c"]

    def array(name: str) -> np.ndarray:
        body = re.search(rf"{name}\[\d+\] = {{\n(.*?)}};", text, re.S)[1]
        return np.array([float(v.rstrip("f")) for v in body.replace("\n", "").split(",")])

    first_bin = int(re.search(r"FIRST_BIN \((\d+)\)", built.files["tables.h"])[1])
    weights, firsts = array("tables_weights").reshape(-1, 2), array("tables_first").astype(int)
    fft_length = int(re.search(r"FFT \((\d+)\)", built.files["tables.h"])[1])
    rebuilt = np.zeros((fft_length // 2 + 1, record.num_mels + 1))
    for k, (pair, first) in enumerate(zip(weights, firsts, strict=True)):
        rebuilt[first_bin + k, first : first + 2] = pair
    make = mfcc.mel_triangles if isinstance(record, data.MFCC) else log_mel.slaney_triangles
    want = make(record.num_mels, fft_length, record.sample_rate, record.low_hz, record.high_hz)
    np.testing.assert_allclose(rebuilt[:, :-1], want, atol=1e-6)
    assert not rebuilt[:, -1].any()
    assert built.tables_bytes == sum(
        array(n).size * (1 if n == "tables_first" else 4)
        for n in re.findall(r"const \w+ (\w+)\[", text)
    )
    np.testing.assert_allclose(array("tables_sine")[fft_length // 4], 1.0)


@slow
@pytest.mark.parametrize("device", ["mps2-an386", "mps2-an500"])
def test_a_spoken_word_on_a_core(reference, device, tmp_path, capsys):
    """Recordings of "yes" and "down" through front end and model, as the reference's README says:
    0.997 and 0.987 of the probability."""
    model = str(reference / "models" / "micronet_kws_m.tflite")
    (tmp_path / "frontend.json").write_text(frontends.to_json(data.MFCC()))
    out = str(tmp_path / "fw")
    assert (
        cli.main(
            ["firmware", model, "--device", device, "-o", out, "--frontend",
             str(tmp_path / "frontend.json"), "--json"]
        )
        == 0
    )  # fmt: skip
    sizes = json.loads(capsys.readouterr().out)
    assert sizes["linked"]["ram"] == sizes["predicted"]["ram"]
    assert abs(sizes["linked"]["flash"] / sizes["predicted"]["flash"] - 1) < 0.02
    output = {
        e["way"]: e
        for e in json.loads((tmp_path / "fw" / "manifest.json").read_text())["interface"]
    }["output"]
    for word, probability in (("yes", 0.997), ("down", 0.987)):
        wav = str(reference / "data" / "speech" / f"{word}.wav")
        assert cli.main(["run", out, "--input", wav, "--json"]) == 0
        ran = json.loads(capsys.readouterr().out)
        assert ran["feature_steps"] <= 1
        assert ran["differing_outputs"] == 0
        assert 1_000_000 < ran["frontend_instructions"] < 6_000_000
        logits = output["scale"] * (np.array(ran["output"]) - output["zero_point"])
        share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert share.max() == pytest.approx(probability, abs=0.005)
    assert cli.main(["run", out, "--input", wav]) == 0
    assert "steps of the one in Python" in capsys.readouterr().out


@slow
@pytest.mark.parametrize("device", ["mps2-an386", "mps2-an500"])
def test_frames_go_to_the_model_as_they_are_made(reference, device, tmp_path):
    """The input is never whole, features and outputs are those of a firmware that holds it."""
    model = (reference / "models" / "micronet_kws_m.tflite").read_bytes()
    wav = str(reference / "data" / "speech" / "yes.wav")
    text, ran, built_in = frontends.to_json(data.MFCC()), {}, {}
    for rows in (False, True):
        folder = tmp_path / f"rows-{rows}"
        firmware.write(model, device, folder, frontend=text, plan="memory", rows=rows)
        fit = firmware.check(folder)
        assert fit.ram_predicted - fit.ram_linked in (0, 8)  # a row with its alignment
        assert fit.flash_linked <= fit.flash_predicted <= 1.01 * fit.flash_linked
        ran[rows] = firmware.run(folder, wav)
        assert ran[rows].differing_outputs == 0 and ran[rows].feature_steps <= 1
        assert ran[rows].stack_bytes <= ran[rows].stack_reserved
        plain = firmware.run(folder, "lcg:1")  # features are taken as well
        assert (plain.frontend_instructions, plain.differing_outputs) == (0, 0)
        elf = folder / "build" / "firmware.elf"
        with execute.emulated(elf, devices.device(device), 60.0) as board:
            built_in[rows] = board.run()
            assert built_in[rows].frontend_ticks > 0
    assert ran[True].arena_bytes < ran[False].arena_bytes
    np.testing.assert_array_equal(ran[True].outputs[0], ran[False].outputs[0])
    assert built_in[True].output == built_in[False].output


def test_frames_that_are_columns_cannot_be_pushed():
    record = frontends.LogMelPatches()
    model, text = spectator(record.shape, 0.5, 3), frontends.to_json(record)
    with pytest.raises(firmware.FirmwareError, match="a frame of this front end is a column"):
        firmware.write(model, "mps2-an386", "nowhere", frontend=text, plan="memory", rows=True)


@slow
@pytest.mark.parametrize("name", ["few bands, odd hop", "log-mel patches"])
def test_front_ends_repeat_and_take_features_too(name, tmp_path):
    record = RECORDS[name]
    model = spectator(record.shape, 0.5, 3)
    firmware.write(model, "mps2-an386", tmp_path / "fw", frontend=frontends.to_json(record))
    fit = firmware.check(tmp_path / "fw")
    assert fit.ram_predicted == fit.ram_linked
    wav = tmp_path / "x.wav"
    import scipy.io.wavfile

    scipy.io.wavfile.write(wav, 16_000, sounds(40_000)["sweep"])
    first, second = (firmware.run(tmp_path / "fw", str(wav)) for _ in range(2))
    assert first.frontend_instructions == second.frontend_instructions > 0
    assert first.feature_steps == 0 or first.feature_steps == 1
    plain = firmware.run(tmp_path / "fw", "lcg:1")
    assert (plain.frontend_instructions, plain.feature_steps) == (0, None)
    assert plain.differing_outputs == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ('{"kind": "ears"}', "cannot be read"),
        (frontends.to_json(data.MFCC(num_coefficients=12)), "the front end makes int8 [49, 12, 1]"),
        (frontends.to_json(data.MFCC(fft_length=1000)), "powers of two"),
    ],
)
def test_front_ends_that_do_not_belong(text, says, tmp_path, capsys):
    model = spectator((49, 10, 1), 0.2, 0)
    (tmp_path / "m.tflite").write_bytes(model)
    (tmp_path / "f.json").write_text(text)
    assert (
        cli.main(
            ["firmware", str(tmp_path / "m.tflite"), "--device", "mps2-an386", "-o",
             str(tmp_path / "out"), "--frontend", str(tmp_path / "f.json")]
        )
        == 2
    )  # fmt: skip
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_recordings_that_cannot_be_heard(tmp_path, capsys):
    model = spectator((49, 10, 1), 0.2, 0)
    firmware.write(model, "mps2-an386", tmp_path / "deaf")
    firmware.write(model, "mps2-an386", tmp_path / "fw", frontend=frontends.to_json(data.MFCC()))
    (tmp_path / "empty.wav").write_bytes(b"")
    for folder, name, says in (
        ("deaf", "empty.wav", "has no front end"),
        ("fw", "empty.wav", "empty file"),
        ("fw", "none.wav", "does not exist"),
    ):
        assert cli.main(["run", str(tmp_path / folder), "--input", str(tmp_path / name)]) == 2
        assert says in capsys.readouterr().err
