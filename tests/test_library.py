"""The page about the library: what it says to write runs as it stands there."""

import pathlib
import re
import subprocess
import sys

import pytest

import micronets_jax as mn

ROOT = pathlib.Path(__file__).parents[1]


def test_importing_the_package_loads_nothing_heavy():
    program = (
        "import sys, micronets_jax as mn; mn.recipes; mn.devices; "
        "print({'jax', 'tensorflow', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_every_name_is_a_room():
    for name in mn.__all__:
        assert getattr(mn, name).__name__ == f"micronets_jax.{name}"
    with pytest.raises(AttributeError, match="has no attribute 'spacse'"):
        mn.spacse  # noqa: B018


@pytest.mark.slow
def test_the_page_runs(reference, tmp_path):
    text = (ROOT / "docs" / "library.md").read_text()
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
    model = (reference / "models" / "mlperf_kws_dscnn.tflite").read_bytes()
    (tmp_path / "model.tflite").write_bytes(model)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert re.fullmatch(r"[\d,]+ of 1,000,000 fit; the largest of these has [\d,]+ MACs", first)
    assert (tmp_path / "out" / "model.c").is_file() and re.fullmatch(r"\d+ \d+", last)
