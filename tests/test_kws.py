"""The keyword-spotting experiment as a person uses it: results, mistakes, interruptions."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy.io import wavfile

from micronets_jax import data, listening, pipeline, spotting

ROOT = pathlib.Path(__file__).parent.parent
TINY = ("--preset", "tiny")


def command(*words):
    return [sys.executable, "-m", "experiments.kws", *map(str, words)]


def start(folder, *words):
    environment = {**os.environ, "MICRONETS_CACHE": str(folder / "cache")}
    return subprocess.Popen(
        command(*words),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder, *words):
    process = start(folder, *words)
    out, error = process.communicate(timeout=900)
    return process.returncode, out, error


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return tmp_path_factory.mktemp("kws")


@pytest.fixture(scope="module")
def finished(space):
    status, out, error = run(space, *TINY, "--workdir", space / "whole")
    assert status == 0, error
    assert "absl" not in error and "oneDNN" not in error  # TensorFlow keeps quiet
    return out


# ---------------------------------------------------------------- the main job


@pytest.mark.slow
def test_a_run_leaves_every_result(space, finished):
    folder = space / "whole"
    assert "accuracy" in finished and "report.html" in finished
    for name in (
        "network.json", "model.tflite", "labels.txt", "frontend.json", "samples.npz", "weights",
        "listening.json",
        "metrics.jsonl", "summary.json", "report.html", "firmware",
    ):  # fmt: skip
        assert (folder / name).exists(), name
    assert list(folder.glob("events.out.tfevents.*"))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["accuracy"]["tflm"] > 0.3  # of twelve words; 0.08 is chance
    for row in summary["limits"].values():
        assert row["used"] <= row["limit"]
    assert max(row["largest"] / row["limit"] for row in summary["limits"].values()) >= 2
    for row in summary["prediction"].values():
        assert row["measured"] == pytest.approx(row["predicted"], rel=0.05)
    made = summary["firmware"]
    assert made["linking"] == "checked" and made["differing_outputs"] == 0
    assert made["ram_bytes"]["linked"] == made["ram_bytes"]["predicted"]
    assert made["flash_bytes"]["linked"] == pytest.approx(
        made["flash_bytes"]["predicted"], rel=0.02
    )
    assert made["instructions"]["emulated"] == pytest.approx(
        made["instructions"]["predicted"], rel=0.05
    )
    assert (folder / "firmware" / "build" / "firmware.elf").is_file()
    stream = made["listening"]
    assert stream["differing"] == 0 and 0.005 < stream["core_share"] < 0.5
    # Five inferences a second, and the front end.
    assert stream["instructions_per_second"] == pytest.approx(
        5 * made["instructions"]["emulated"] + 4.5e6, rel=0.15
    )
    page = (folder / "report.html").read_text()
    assert "Firmware" in page and "Listening" in page
    heard = summary["listening"]["validation"]
    assert heard["words"] > 50 and 0 < heard["hits"] <= heard["words"]
    assert min(misses for _, _, misses in heard["curve"]) < 0.8
    with np.load(folder / "samples.npz") as samples:
        assert samples["inputs"].shape == (64, 49, 10, 1)
        assert samples["inputs"].dtype == samples["outputs"].dtype == np.int8
        assert samples["outputs"].shape == (64, 12)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_files_and_a_killed_run_ends_alike(space, finished):
    words = (*TINY, "--workdir", space / "killed", "--checkpoint-seconds", "0")
    process = start(space, *words)
    metrics = space / "killed" / "metrics.jsonl"
    seen = 0
    for stop_after in (2, 8):  # once in the search, once in the training
        while process.poll() is None:
            seen = len(metrics.read_text().splitlines()) if metrics.exists() else 0
            if seen >= stop_after:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.05)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        process = start(space, *words, "--resume")
    _, error = process.communicate(timeout=900)
    assert process.returncode == 0, error
    for name in ("network.json", "model.tflite", "samples.npz", "metrics.jsonl", "listening.json"):
        whole, killed = ((space / run / name).read_bytes() for run in ("whole", "killed"))
        assert whole == killed, name


@pytest.mark.slow
def test_a_recording_is_classified_by_a_run(space, finished, reference):
    recording = reference / "data" / "speech" / "yes.wav"
    status, out, error = run(space, "--predict", recording, "--workdir", space / "whole")
    assert status == 0, error
    labels = (space / "whole" / "labels.txt").read_text().split()
    assert [line.split()[0] in labels for line in out.splitlines()] == [True] * 3


@pytest.mark.slow
def test_a_long_recording_is_a_timeline_and_its_seconds_are_clips(space, finished, tmp_path):
    """Of words that the run was tested with some are told when they are said; a file of each kind
    may be named, and each is answered as if it stood alone."""
    folder = space / "whole"
    dataset = data.speech_commands.load(size="tiny", cache_folder=space / "cache")
    stream = listening.streams.of_split(dataset, "test", 1.0, 0)
    wavfile.write(tmp_path / "long.wav", 16_000, stream.samples)
    wavfile.write(tmp_path / "short.wav", 16_000, stream.samples[:16_000])
    # A threshold that the tiny network reaches, whatever it chose.
    settings = json.loads((folder / "listening.json").read_text())["settings"]
    how = spotting.Settings(**{**settings, "classes": tuple(settings["classes"])})
    low = dataclasses.replace(how, threshold=spotting.ONE // 3)
    copied = tmp_path / "run"
    shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("checkpoints", "firmware"))
    (copied / "listening.json").write_text(spotting.to_json(low))
    told = {}
    for name in ("long", "short"):
        status, out, error = run(space, "--predict", tmp_path / f"{name}.wav", "--workdir", copied)
        assert status == 0, error
        told[name] = out.splitlines()
    assert len(told["short"]) == 3 and told["short"][0].split()[0] in dataset.class_names
    *lines, last = told["long"]
    assert len(lines) > 3 and last.startswith(f"{len(lines)} words")
    words = list(pipeline.listen(copied, tmp_path / "long.wav", low))
    for line, (second, word, confidence) in zip(lines, words, strict=True):
        assert line.split() == [
            f"0:{int(second // 60):02}:{second % 60:04.1f}",
            word,
            f"{confidence:.1%}",
        ]
        assert word in dataset.class_names and confidence >= 0.33
    status, out, _ = run(
        space, "--predict", tmp_path / "short.wav", tmp_path / "long.wav", "--workdir", copied
    )
    assert status == 0
    assert out.splitlines() == [
        str(tmp_path / "short.wav"),
        *told["short"],
        str(tmp_path / "long.wav"),
        *told["long"],
    ]
    (copied / "listening.json").write_text("{")
    status, _, error = run(space, "--predict", tmp_path / "long.wav", "--workdir", copied)
    assert status == 2 and "listening.json is damaged" in error


# ---------------------------------------------------------------- several limits


@pytest.mark.slow
def test_a_front_that_is_killed_in_its_second_training_goes_on_there(space):
    """Two limits, one search; what is finished is not made again."""
    folder = space / "front"
    words = (*TINY, "--budget.mops", "0.3", "0.6", "--no-firmware", "--checkpoint-seconds", "0")
    short = ("--search.epochs", "2", "--train.steps", "60", "--quantize.steps", "15")
    words = (*words, *short, "--workdir", folder)
    process, second = start(space, *words), folder / "mops-0.6" / "metrics.jsonl"
    while process.poll() is None and not second.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finished = folder / "mops-0.3" / "summary.json"
    before = [(path, path.read_bytes()) for path in (finished, folder / "metrics.jsonl")]
    when = finished.stat().st_mtime_ns
    status, out, error = run(space, *words, "--resume")
    assert status == 0, error
    assert "2 networks from one search" in out and "mops-0.3 train" not in out
    assert finished.stat().st_mtime_ns == when
    assert all(path.read_bytes() == content for path, content in before)
    said = json.loads((folder / "front.json").read_text())
    assert said["networks"] == ["mops-0.3", "mops-0.6"] and "search" in said["seconds"]
    page = (folder / "report.html").read_text()
    assert "MicroNet-KWS-S" in page and "mops-0.6/report.html" in page
    macs = []
    for name, limit in (("mops-0.3", 0.3), ("mops-0.6", 0.6)):
        summary = json.loads((folder / name / "summary.json").read_text())
        assert summary["limits"]["mops"]["limit"] == limit
        assert summary["limits"]["mops"]["used"] <= limit
        macs.append(summary["network"]["macs"])
        contest = json.loads((folder / name / "contest.json").read_text())
        assert min(row["held_out_loss"] for row in contest) == contest[0]["held_out_loss"]
    assert macs[0] <= macs[1]  # the best for the tighter limit may be the best of all
    wavfile.write(space / "tone.wav", 16_000, np.zeros(16_000, np.int16))
    asked = ("--predict", space / "tone.wav", "--workdir")
    status, out, error = run(space, *asked, folder / "mops-0.3")
    assert status == 0 and len(out.splitlines()) == 3, error
    status, _, error = run(space, *asked, folder)
    assert status == 2 and "holds a front of 2 networks: give one of" in error
    # Neither the front nor a network of it is a run of one limit.
    for place in (folder, folder / "mops-0.6"):
        status, _, error = run(
            space, *TINY, "--no-firmware", *short, "--workdir", place, "--resume"
        )
        assert status == 2 and "holds a run of another configuration" in error, error


# ---------------------------------------------------------------- mistakes


def mistake(folder, *words):
    before = sorted(folder.rglob("*"))
    status, _, error = run(folder, *words)
    assert status == 2, error
    assert "Traceback" not in error
    assert [path for path in sorted(folder.rglob("*")) if "cache" not in path.parts] == [
        path for path in before if "cache" not in path.parts
    ]
    return " ".join(error.replace("│", " ").split())


@pytest.mark.slow
def test_mistakes_end_in_one_sentence(tmp_path):
    out = ("--workdir", tmp_path / "out")
    assert "tiny" in mistake(tmp_path, "--preset", "huge", *out)
    assert "STM32F446RE" in mistake(tmp_path, *TINY, "--device", "STM32F999", *out)
    assert "nowhere" in mistake(tmp_path, *TINY, "--data", tmp_path / "nowhere", *out)
    least = mistake(tmp_path, *TINY, "--budget.mops", "0.001", *out)
    assert "mops" in least and "smallest achievable" in least
    sram = mistake(tmp_path, *TINY, "--budget.sram-bytes", "100", *out)
    assert "sram_bytes=100: compiled C takes" in sram and "front end" in sram  # the reserve's parts
    for accelerator, extra in (("gpu", "micronets_jax[cuda]"), ("tpu", "micronets_jax[tpu]")):
        absent = mistake(tmp_path, *TINY, "--accelerator", accelerator, *out)
        assert extra in absent and "offers 1 x cpu" in absent
    hop = mistake(tmp_path, *TINY, "--listening.hop-ms", "30", *out)
    assert "hop_ms=30: give a multiple of the front end's frames, 20 ms" in hop
    seldom = mistake(tmp_path, *TINY, "--checkpoint-seconds", "-1", *out)
    assert "checkpoint-seconds=-1: give 0" in seldom


@pytest.mark.slow
def test_damaged_recordings_are_named(tmp_path):
    data = tmp_path / "words"
    for word in ("ja", "nein"):
        (data / word).mkdir(parents=True)
        for k in range(6):
            tone = np.sin(np.arange(16000) * 0.05 * (k + 1)) * 9000
            wavfile.write(data / word / f"{k}.wav", 16000, tone.astype(np.int16))
    (data / "ja" / "broken.wav").write_bytes(b"RIFF????WAVE")
    out = ("--workdir", tmp_path / "out")
    assert "broken.wav" in mistake(tmp_path, *TINY, "--data", data, *out)


@pytest.mark.slow
def test_another_runs_results_are_never_overwritten(space, finished):
    folder = space / "whole"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    status, _, error = run(space, *TINY, "--workdir", folder)
    assert status == 2 and "--resume" in error
    status, _, error = run(space, *TINY, "--workdir", folder, "--resume", "--train.steps", "9")
    assert status == 2 and "train.steps was 400, now 9" in error
    (space / "text.wav").write_text("no sound " * 9)
    (space / "empty.wav").write_bytes(b"")
    for name, says in (
        ("none.wav", "does not exist"),
        (space / "text.wav", "cannot be read"),
        (space / "empty.wav", "is an empty file"),
    ):
        status, out, error = run(space, "--predict", name, "--workdir", folder)
        assert (status, out) == (2, "") and f"{name} {says}" in error and "Traceback" not in error
    assert before == {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
