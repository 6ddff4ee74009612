"""Listening on the board: the C against the Python, on this machine and on emulated cores."""

import dataclasses
import json
import pathlib
import subprocess

import numpy as np
import pytest
import scipy.io.wavfile

from micronets_jax import cli, data, firmware, sizes, spotting
from micronets_jax.compile import verify
from micronets_jax.data import frontends
from micronets_jax.firmware import listening
from micronets_jax.firmware.frontend import build as front_end
from micronets_jax.spotting import ONE, Settings
from support import flatbuffer_models as fm

slow = pytest.mark.slow

CLASSES = ("yes", "no", "silence", "unknown")
HOW = Settings(CLASSES, hop_ms=200, window=3, threshold=ONE * 2 // 5, refractory=2)
FRONTEND = frontends.to_json(data.MFCC())


def ends(classes: int = 4, scale: float = 0.05) -> list[dict]:
    shapes = {"input": [1, 49, 10, 1], "output": [1, classes]}
    return [
        {
            "way": way, "dtype": "int8", "shape": shape, "bytes": int(np.prod(shape)),
            "scale": scale, "zero_point": 0,
        }
        for way, shape in shapes.items()
    ]  # fmt: skip


def spotter() -> bytes:
    """A model of one convolution over all features: weights are noise, logits take their range."""
    rng = np.random.default_rng(1)
    return fm.convolution(rng, [1, 49, 10, 1], 4, (49, 10), padding=1, gain=6.0)


def sound(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    n = np.arange(int(16_000 * seconds))
    swept = 8000 * np.sin(2 * np.pi * (300 + 200 * np.sin(n / 9000)) * n / 16_000)
    return (swept * (1 + np.sin(n / 4000)) / 2 + rng.normal(0, 300, len(n))).astype(np.int16)


# ---------------------------------------------------------------- on this machine

HARNESS = """
#include "listening.h"
#include "hearing.h"
#include "tables.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
unsigned long long core_ticks(void) { return 0; }
void core_restart_clock(void) { }
static signed char logits[HEARING_CLASSES];
static signed char input[TABLES_FRAMES * TABLES_FRAME_STEP];
void *engine_input(int i) { (void)i; return input; }
const void *engine_output(int i) { (void)i; return logits; }
int engine_run(void) { return fread(logits, 1, sizeof logits, stdin) != sizeof logits; }
int main(int argc, char **argv)
{
    const int part = atoi(argv[1]), steps = atoi(argv[2]);
    static int16_t samples[100000];
    struct listening_word word;
    (void)argc;
    for (int round = 0; round < 2; round++) { /* the second must not know of the first */
        listening_restart();
        while (listening_steps < (unsigned)steps) {
            int left;
            listening_hear(samples, (unsigned)part);
            while ((left = listening_work(&word)) != 0)
                if (left == 2)
                    printf("%u %u %u\\n", word.step, word.label, word.confidence);
        }
        printf("lost %u status %d\\n", (unsigned)listening_lost, (int)listening_status);
    }
    return 0;
}
"""


def build_on_host(settings: Settings, scale: float, folder: pathlib.Path) -> pathlib.Path:
    interface = ends(len(settings.classes), scale)
    hearing = front_end(FRONTEND, interface)
    listener = listening.build(spotting.to_json(settings), hearing, interface)
    for name, text in {**hearing.files, **listener.files, "harness.c": HARNESS}.items():
        (folder / name).write_text(text)
    (folder / "core.h").write_text(
        "unsigned long long core_ticks(void);\nvoid core_restart_clock(void);\n"
    )
    (folder / "engine.h").write_text(
        "void *engine_input(int);\nconst void *engine_output(int);\nint engine_run(void);\n"
    )
    sources = ("harness.c", "frontend.c", "tables.c", "listening.c", "hearing.c")
    subprocess.run(
        ["cc", "-std=c99", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *verify.SANITIZE,
         f"-I{folder}", *(folder / name for name in sources), "-o", folder / "harness"],
        check=True,
    )  # fmt: skip
    return folder / "harness"


@slow
@pytest.mark.parametrize(
    ("change", "scale", "part"),
    [
        ({}, 0.02, 300),
        ({"window": 1, "refractory": 0, "threshold": 1}, 0.3, 3199),
        ({"window": 64, "threshold": ONE // 5, "hop_ms": 20}, 0.001, 77),
        ({"window": 5, "classes": (*"abcdefghijk", "silence")}, 0.05, 1600),
    ],
)
def test_words_are_those_of_python(change, scale, part, tmp_path):
    """Random logits, to the bit: in one stream, and in another after it."""
    settings = dataclasses.replace(HOW, **change)
    harness = build_on_host(settings, scale, tmp_path)
    rng = np.random.default_rng(0)
    steps, classes = 100, len(settings.classes)
    drawn = rng.integers(-128, 128, (2, steps, classes)).astype(np.int8)
    drawn[:, 10:30] = drawn[:, 10:11]  # a stretch that is sure of one class
    ran = subprocess.run(
        [harness, str(part), str(steps)], input=drawn.tobytes(), capture_output=True, check=True
    )
    wanted = []
    for logits in drawn:
        words = spotting.events(spotting.posteriors(logits, scale), settings)
        assert words
        wanted += [f"{w.step} {w.label} {w.confidence}" for w in words] + ["lost 0 status 0"]
    assert ran.stdout.decode().splitlines() == wanted


@slow
def test_what_the_ring_cannot_hold_is_counted(tmp_path):
    """A ring of 3,200 places holds one sample less."""
    harness = build_on_host(HOW, 0.05, tmp_path)
    ran = subprocess.run([harness, "4000", "1"], input=bytes(8), capture_output=True, check=True)
    # A second takes six parts, of each of which 801 samples are lost.
    assert ran.stdout.decode().splitlines() == [f"lost {6 * 801} status 0"] * 2


@slow
@pytest.mark.parametrize("cc", ["gcc", "clang"])
def test_no_warnings(cc, tmp_path):
    firmware.write(
        spotter(), "mps2-an386", tmp_path, frontend=FRONTEND, listening=spotting.to_json(HOW)
    )
    for name in ("listening.c", "hearing.c", "frontend.c", "main.c"):
        subprocess.run(
            [cc, *verify.WARNINGS, "-O2", "-fsyntax-only", f"-I{tmp_path}", tmp_path / name],
            check=True,
        )


# ---------------------------------------------------------------- on emulated cores


@slow
@pytest.mark.parametrize("device", ["mps2-an386", "mps2-an500", "STM32F446RE"])
def test_a_stream_on_a_core(device, tmp_path, capsys):
    """Outputs, words and features are this machine's; counts repeat; sizes are as predicted."""
    model, wav, out = (str(tmp_path / name) for name in ("m.tflite", "long.wav", "fw"))
    pathlib.Path(model).write_bytes(spotter())
    samples = sound(4.0)
    scipy.io.wavfile.write(wav, 16_000, samples)
    (tmp_path / "f.json").write_text(FRONTEND)
    (tmp_path / "l.json").write_text(spotting.to_json(HOW))
    write = ["firmware", model, "--device", device, "-o", out, "--frontend"]
    write += [str(tmp_path / "f.json"), "--listening", str(tmp_path / "l.json"), "--json"]
    assert cli.main(write) == 0
    sizes = json.loads(capsys.readouterr().out)
    assert sizes["linked"]["ram"] == sizes["predicted"]["ram"]
    assert sizes["linked"]["flash"] == pytest.approx(sizes["predicted"]["flash"], rel=0.01)
    assert cli.main(["run", out, "--input", wav, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    heard = firmware.listen(out, np.split(samples, [5, 4000]))
    assert json.loads(json.dumps(dataclasses.asdict(heard))).items() <= said.items()
    assert heard.steps == 16 and len(heard.words) > 1
    assert (heard.differing_outputs, heard.differing_words) == (0, 0)
    assert heard.feature_steps in (0, 1)
    per_inference = heard.instructions / heard.steps
    alone = firmware.run(out, "lcg:1")
    assert alone.instructions < per_inference < alone.instructions + 3000  # smoothing is little
    assert heard.frontend_instructions / heard.seconds == pytest.approx(4.5e6, rel=0.1)
    assert 0.001 < heard.core_share < 1
    assert cli.main(["run", out, "--input", wav]) == 0
    text = capsys.readouterr().out
    assert f"{len(heard.words)} words" in text and "of the core" in text
    # A clip is still one inference, and after a stream too.
    short = str(tmp_path / "short.wav")
    scipy.io.wavfile.write(short, 16_000, samples[:16_000])
    assert firmware.run(out, short).differing_outputs == 0


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("text", "frontend", "says"),
    [
        ("{", FRONTEND, "the listener cannot be read"),
        (spotting.to_json(HOW), None, "needs the front end"),
        (spotting.to_json(HOW), frontends.to_json(frontends.LogMelPatches()), "needs the front"),
        (
            spotting.to_json(dataclasses.replace(HOW, classes=("yes", "no"))),
            FRONTEND,
            "the listener knows 2 classes, the model gives int8 [1, 4]",
        ),
        (
            spotting.to_json(dataclasses.replace(HOW, hop_ms=50)),
            FRONTEND,
            "hop_ms=50: give a multiple of the front end's frames, 20 ms",
        ),
    ],
)
def test_listeners_that_do_not_belong(text, frontend, says):
    shape = [1, 32, 32, 1] if frontend and "log_mel" in frontend else [1, 49, 10, 1]
    interface = ends()
    interface[0] |= {"shape": shape, "bytes": int(np.prod(shape))}
    hearing = front_end(frontend, interface) if frontend else None
    with pytest.raises(firmware.FirmwareError, match="listener") as caught:
        listening.build(text, hearing, interface)
    assert says in str(caught.value)


def test_streams_need_a_listener(tmp_path, capsys):
    firmware.write(spotter(), "mps2-an386", tmp_path / "fw", frontend=FRONTEND)
    wav = tmp_path / "x.wav"
    scipy.io.wavfile.write(wav, 16_000, sound(3.0))
    assert not firmware.listens(tmp_path / "fw", str(wav))
    with pytest.raises(firmware.FirmwareError, match="does not listen to streams"):
        firmware.listen(tmp_path / "fw", [sound(2.0)])
    firmware.write(
        spotter(),
        "mps2-an386",
        tmp_path / "fw",
        frontend=FRONTEND,
        listening=spotting.to_json(HOW),
    )
    assert firmware.listens(tmp_path / "fw", str(wav))
    assert not firmware.listens(tmp_path / "fw", "lcg:1")
    (tmp_path / "bad.wav").write_text("text")
    assert cli.main(["run", str(tmp_path / "fw"), "--input", str(tmp_path / "bad.wav")]) == 2
    assert "bad.wav" in capsys.readouterr().err
    (tmp_path / "fw" / "listening.json").write_text("{}")
    assert cli.main(["run", str(tmp_path / "fw"), "--input", str(wav)]) == 2
    assert "write the firmware again" in capsys.readouterr().err


def test_a_budget_counts_as_much_as_any_choice_can_take():
    classes = (*"abcdefghij", "silence", "unknown")
    alone = firmware.front_end_bytes(FRONTEND, "cortex-m4")
    heard = firmware.front_end_bytes(FRONTEND, "cortex-m4", classes, 200)
    hearing = front_end(FRONTEND, ends(12))
    stack = {kind: sizes.hearing_bytes("cortex-m4", kind)[0] for kind in ("audio", "listening")}
    buffers = heard[0] - alone[0] - (stack["listening"] - stack["audio"])
    for window in (1, 5):
        how = Settings(classes, 200, window, ONE, 3)
        chosen = listening.build(spotting.to_json(how), hearing, ends(12))
        assert chosen.ram_bytes <= buffers
    assert chosen.ram_bytes == buffers
