"""The guides to tasks: what they say to write runs as it stands there."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

ROOT = pathlib.Path(__file__).parents[1]


def guide(page: str = "tasks.md") -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.M | re.S)
    return "\n\n".join(blocks)


def test_nothing_heavy_is_loaded_before_the_command_line_has_been_read(tmp_path):
    (tmp_path / "digits.py").write_text(guide())
    program = f"""
import runpy, sys
sys.argv = ["digits", "--help"]
try:
    runpy.run_path({str(tmp_path / "digits.py")!r}, run_name="__main__")
except SystemExit as end:
    print(end.code, sorted({{"jax", "sklearn", "tensorflow"}} & set(sys.modules)))
"""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


@pytest.mark.slow
def test_the_task_of_the_guide_runs_and_predicts(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "digits.py").write_text(guide())
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "MICRONETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": path}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "experiments.digits", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "worst_recall" in run("--workdir", "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metric"] == "worst_recall"
    assert summary["accuracy"]["tflm"] > 0.8
    assert abs(summary["accuracy"]["tflm"] - summary["accuracy"]["float"]) < 0.03
    assert json.loads((tmp_path / "out" / "frontend.json").read_text()) == {
        "kind": "ink",
        "side": 8,
    }
    one = np.full((80, 80), 230, np.uint8)
    one[8:72, 34:46] = 20
    Image.fromarray(one).save(tmp_path / "one.png")
    said = run("--predict", "one.png", "--workdir", "out")
    assert len(said.splitlines()) == 3 and said.split()[0] in "0123456789"


@pytest.mark.slow
def test_the_autoencoder_of_the_guide_runs_and_predicts(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "strange.py").write_text(guide("autoencoder.md"))
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "MICRONETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": path}

    def run(*words: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "experiments.strange", "--preset", "tiny", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    said = run("--train.distillation", "0.5", status=2)
    assert "train.distillation=0.5: the loss is the reconstruction error" in said
    out = run("--workdir", "out")
    assert "mean AUC" in out and "accuracy" not in out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metric"] == "auc" and summary["loss"]["outputs"] == "inputs"
    assert summary["auc"]["tflm"] > 0.6
    assert abs(summary["auc"]["tflm"] - summary["auc"]["float"]) < 0.03
    records = [json.loads(x) for x in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    trained = [x["validation_loss"] for x in records if x["stage"] == "train"]
    assert trained[-1] < trained[0] and not any("accuracy" in x for x in records)
    assert summary["firmware"]["differing_outputs"] == 0
    counted = summary["firmware"]["instructions"]
    assert abs(counted["predicted"] / counted["emulated"] - 1) < 0.02
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Confusion matrix" not in page and "Validation loss" in page
    assert "mean squared error with which the network gives them back" in page
    hum = (8000 * np.sin(np.arange(32_000) * 0.05)).astype(np.int16)
    wavfile.write(tmp_path / "hum.wav", 16_000, hum)
    assert re.fullmatch(
        r"mean squared error +[\d.e+]+\n", run("--predict", "hum.wav", "--workdir", "out")
    )
