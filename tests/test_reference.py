"""Training a published network: no search, the paper's widths, mistakes in one sentence."""

import json
import re
import subprocess
import sys

import pytest

from micronets_jax import devices, network, zoo
from micronets_jax.budgets import Budget


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "experiments.reference", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_an_unknown_network_and_one_too_large_are_named(tmp_path):
    unknown = run("--model", "MicroNet-KWS-XL", "--workdir", tmp_path / "a")
    assert unknown.returncode == 2
    assert "MicroNet-KWS-XL" in unknown.stderr and "DSCNN-S" in unknown.stderr
    words = ("--model", "MicroNet-KWS-L", "--device", "STM32F446RE", "--preset", "tiny")
    large = run(*words, "--workdir", tmp_path / "b")
    assert large.returncode == 2
    least = re.search(r"flash_bytes=524,288 \(the smallest achievable is ([\d,]+)\)", large.stderr)
    assert least is not None, large.stderr
    assert "sram_bytes" not in large.stderr  # by rows its arena takes 42,868 bytes
    # Model, engine, serial line; front end and listener come on top.
    budget = Budget.of(devices.device("STM32F446RE"), runtime="compiled")
    without = budget.used(zoo.network("MicroNet-KWS-L"))["flash_bytes"]
    assert without + 5_000 < int(least[1].replace(",", "")) < without + 25_000
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in unknown.stderr + large.stderr


@pytest.mark.slow
def test_a_published_network_is_trained_and_nothing_searched(tmp_path):
    folder = tmp_path / "run"
    done = run("--model", "DSCNN-S", "--preset", "tiny", "--workdir", folder)
    assert done.returncode == 0, done.stderr
    assert network.from_json((folder / "network.json").read_text()) == zoo.network("DSCNN-S")
    stages = {json.loads(line)["stage"] for line in (folder / "metrics.jsonl").open()}
    assert stages == {"train", "quantize"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["network"]["weights"] == 22_016
