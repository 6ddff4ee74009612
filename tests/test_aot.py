"""Steps of searches compiled for chips that are not here: they compile, and split their work."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
COMPILERS = pathlib.Path(sys.prefix) / "aot"

PROGRAM = """
import json, pathlib, sys
from benchmarks import accelerator
from micronets_jax import accelerators

accelerators.select("cpu")
words = json.loads(sys.argv[1])
target = pathlib.Path(words.pop("target")) if "target" in words else None
options = accelerator.Options(target=target, **words)
(samples,) = options.samples
made = accelerator.compiled_for(options, samples, accelerator.chips(options))
print(json.dumps(made._asdict()))
"""


def compiled(**words):
    if not (COMPILERS / "installed").exists():
        pytest.skip("compilers for chips that are not here: make aot installs them")
    path = os.pathsep.join([str(COMPILERS), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(words)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(made, memory):
    assert made["memory"] < memory
    # Sums over examples and over architectures, and nothing that is sent as it is.
    assert set(name for name, n in made["collectives"].items() if n) == {"all-reduce"}
    # 30 to 60 s of a processor; more than 400 where XLA fuses the decisions with the layers.
    assert made["seconds"] < 200


def test_sixteen_tpus():
    made = compiled(aot="v5e", devices=16, samples=[8])
    assert made["chip"] == "TPU v5 lite" and made["mesh"] == [2, 8]
    check(made, 16e9)


def test_one_supernet_of_tinynas_on_four_tpus():
    """Its networks take turns, so the devices share the examples."""
    made = compiled(aot="v5e", devices=4, samples=[4], space="vww quick", method="tinynas")
    assert made["mesh"] == [4, 1]
    check(made, 16e9)


def test_four_gpus(reference):
    target = str(reference / "reference" / "h200_target.txtpb")
    made = compiled(aot="gpu", devices=4, samples=[8], target=target)
    assert made["chip"].startswith("NVIDIA H200") and made["mesh"] == [1, 4]
    check(made, 141e9)
