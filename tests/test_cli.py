"""The command line: one object with --json, one sentence and status 2 for bad input."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from micronets_jax import cli
from micronets_jax.compile import operators
from support import flatbuffer_models as fm


def test_the_version_is_the_newest_that_the_changelog_lists(capsys):
    changelog = (pathlib.Path(__file__).parents[1] / "CHANGELOG.md").read_text()
    newest = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)[0]
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"micronets {newest}\n"


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "small.tflite"
    path.write_bytes(fm.convolution(np.random.default_rng(0), (1, 6, 5, 4), 8, (3, 3)))
    return path


def test_compile_and_inspect_as_json(model, tmp_path, capsys):
    assert cli.main(["compile", str(model), "-o", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["macs"] == 6 * 5 * 8 * 36
    assert result["arena_bytes"] >= 6 * 5 * 8
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["arena_bytes"] == result["arena_bytes"]
    assert cli.main(["inspect", str(model), "--json"]) == 0
    assert [layer["kind"] for layer in json.loads(capsys.readouterr().out)["layers"]] == ["conv"]
    assert cli.main(["inspect", str(model)]) == 0
    assert "bound" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "cannot read"),
        (lambda p: p.mkdir(), "cannot read"),
        (lambda p: p.write_bytes(b""), "empty file"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "not a TFLite model"),
    ],
)
@pytest.mark.parametrize("command", ["compile", "inspect"])
def test_bad_models(make, says, command, tmp_path, capsys):
    path = tmp_path / "x.tflite"
    make(path)
    more = ["-o", str(tmp_path / "out")] if command == "compile" else []
    assert cli.main([command, str(path), *more, "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_missing_tools_are_named(model, tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "out")
    assert cli.main(["compile", str(model), "-o", out]) == 0
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["run", out]) == 2
    assert "install the Debian package qemu-system-arm" in capsys.readouterr().err
    assert cli.main(["compile", str(model), "-o", str(tmp_path / "new"), "--verify"]) == 2
    assert "install the Debian package gcc" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_bad_folders_and_inputs(model, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["run", str(tmp_path)]) == 2
    assert "not a compiled model" in capsys.readouterr().err
    assert cli.main(["compile", str(model), "-o", str(out)]) == 0
    for source, says in (
        ("lcg:x", "not an integer"),
        ("none.npy", "no such file"),
        (str(model), "NumPy"),
    ):
        assert cli.main(["run", str(out), "--input", source]) == 2
        assert says in capsys.readouterr().err
    np.save(tmp_path / "x.npy", np.zeros(3, np.int8))
    assert cli.main(["run", str(out), "--input", str(tmp_path / "x.npy")]) == 2
    assert "input 0 (t0) is int8" in capsys.readouterr().err
    assert cli.main(["run", str(out), "--core", "z80"]) == 2
    assert "cortex-m4, cortex-m7" in capsys.readouterr().err
    (out / "manifest.json").write_text("{")
    assert cli.main(["run", str(out)]) == 2
    assert "damaged" in capsys.readouterr().err


def test_the_compile_path_stays_light():
    code = (
        "import sys, micronets_jax.cli, micronets_jax.compile;"
        "print([m for m in ('jax', 'tensorflow', 'flax', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_run_on_a_core(model, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert cli.main(["compile", str(model), "-o", out, "--verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verified_cases"] == 12
    assert cli.main(["run", out, "--core", "cortex-m7", "--input", "lcg:1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {
        "core", "instructions", "arena_bytes", "stack_bytes", "code_bytes", "weights_bytes",
        "output", "layers",
    }  # fmt: skip
    assert len(result["output"]) == 240
    assert result["layers"][0].keys() == {"name", "kind", "macs", "instructions"}


def test_the_zoo_as_table_and_json(capsys):
    assert cli.main(["zoo"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[2].split()[:2] == ["MicroNet-KWS-L", "131.43"]
    assert cli.main(["zoo", "--json"]) == 0
    networks = {row["name"]: row for row in json.loads(capsys.readouterr().out)["networks"]}
    row = networks["MicroNet-VWW-2"]
    assert row["weights"] == 85840 and row["published"]["mops"] == 5.3 and row["notes"]


def test_operators_are_listed(capsys):
    """`micronets operators` and the table of docs/compile.md come from the same rows."""
    assert cli.main(["operators", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["operators"]
    assert {"CONV_2D", "RESHAPE", "SOFTMAX"} <= {row["name"] for row in rows}
    assert cli.main(["operators"]) == 0
    assert capsys.readouterr().out.count("\n") == len(rows)
    page = (pathlib.Path(__file__).parent.parent / "docs" / "compile.md").read_text()
    written = page.partition("<!-- operators -->\n")[2].partition("\n<!-- end -->")[0]
    assert written == operators.table()
