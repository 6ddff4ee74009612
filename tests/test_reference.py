"""Training a published network: no search, the paper's widths, mistakes in one sentence."""

import json
import re
import subprocess
import sys

import pytest

from micronets_jax import network, zoo


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
    least = re.search(r"sram_bytes=131,072 \(the smallest achievable is ([\d,]+)\)", large.stderr)
    assert least is not None, large.stderr
    # The arena of compiled C is 136,428 bytes; front end, listener (a ring of 6.4 kB), stack and
    # serial line come on top.
    assert 136_428 + 12_000 < int(least[1].replace(",", "")) < 136_428 + 16_000
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
