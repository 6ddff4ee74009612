"""The project's own promises: light imports, and a lock file that fits and names no place."""

import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
LOCKED = re.compile(r"^([\w.-]+)==([\w.]+)", re.MULTILINE)


def modules_after(arguments: list[str]) -> set[str]:
    """Top-level modules that Python has imported at its exit."""
    script = (
        "import atexit, os, runpy, sys\n"
        "atexit.register(lambda: print('\\n'.join({m.split('.')[0] for m in sys.modules})))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_module(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


@pytest.mark.parametrize("arguments", [["experiments.kws", "--help"]], ids=["kws"])
def test_help_is_light(arguments):
    assert not modules_after(arguments) & {"flax", "jax", "matplotlib", "scipy", "tensorflow"}


def test_the_package_imports_no_tensorflow():
    code = "import micronets_jax, sys; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_lock_pins_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {
        name.lower().replace("_", "-"): version
        for name, version in LOCKED.findall((ROOT / "requirements.lock").read_text())
    }
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        asked = Requirement(text)
        name = asked.name.lower().replace("_", "-")
        assert name in locked, f"{text} is not locked; run make lock"
        assert asked.specifier.contains(locked[name], prereleases=True), f"{text}: run make lock"


def test_the_lock_names_no_place_and_hashes_everything():
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|^\s*-(?!-hash)|@", text, re.MULTILINE)
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert entries and all("--hash=sha256:" in entry for entry in entries)
