"""The project's own promises: light imports, and a lock file that fits and names no place."""

import ast
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
LOCKED = re.compile(r"^([\w.-]+)==([\w.]+)", re.MULTILINE)


def imported(*arguments: str) -> set[str]:
    """Top-level modules that ``python`` with these arguments imports."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.parametrize("experiment", ["ad", "images", "kws", "sweep", "vww"])
def test_help_is_light(experiment):
    modules = imported("-m", f"experiments.{experiment}", "--help")
    assert "tyro" in modules
    assert not modules & {"flax", "jax", "matplotlib", "numpy", "ray", "scipy", "tensorflow"}


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "experiments.kws", "--help"),
        ("-m", "experiments.sweep", "--help"),
        ("-c", "import sys; from micronets_jax import cli; sys.exit(cli.main(['zoo']))"),
        ("-c", "import sys; from micronets_jax import cli; sys.exit(cli.main(['--help']))"),
    ],
)
def test_output_that_is_not_read_to_its_end_is_no_error(words):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, *words], stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    os.close(writing)
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_a_wheel_has_the_experiments_and_the_kernels(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, check=True, capture_output=True, cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(place)
    told = "import experiments.kws as e, micronets_jax.kernels as k; print(e.__file__, k.structs())"
    done = subprocess.run(
        [sys.executable, "-c", told],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(place)},
    )
    assert done.stdout.startswith(str(place)) and "mn_conv" in done.stdout, done.stderr


def test_the_package_imports_no_tensorflow():
    modules = imported("-c", "import micronets_jax")
    assert "micronets_jax" in modules and "tensorflow" not in modules


def test_the_lock_pins_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {
        name.lower().replace("_", "-"): version
        for name, version in LOCKED.findall((ROOT / "requirements.lock").read_text())
    }
    extras = project["optional-dependencies"]
    for text in project["dependencies"] + extras["dev"] + extras["phone"] + extras["sweep"]:
        asked = Requirement(text)
        name = asked.name.lower().replace("_", "-")
        assert name in locked, f"{text} is not locked; run make lock"
        assert asked.specifier.contains(locked[name], prereleases=True), f"{text}: run make lock"


def test_the_lock_names_no_place_and_hashes_everything():
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|^\s*-(?!-hash)|@", text, re.MULTILINE)
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert entries and all("--hash=sha256:" in entry for entry in entries)


def public(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Public functions of a module, and public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def of_many_parameters() -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Public functions of more than three parameters: where, what, and their docstring."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in public(ast.parse(path.read_text())):
            named = {a.arg for a in [*node.args.args, *node.args.kwonlyargs]} - {"self", "cls"}
            if len(named) > 3:
                place = path.relative_to(ROOT).as_posix()
                yield f"{place}: {node.name}", node, ast.get_docstring(node) or ""


def given_back(node: ast.FunctionDef) -> str:
    return "None" if node.returns is None else ast.unparse(node.returns)


def test_functions_of_many_parameters_say_what_they_take():
    silent = [
        place
        for place, node, doc in of_many_parameters()
        if "Args:" not in doc and given_back(node) != "Table"  # compile.arithmetic.Table says it
    ]
    assert not silent


def test_functions_of_many_parameters_say_what_they_give_back():
    silent = [
        place
        for place, node, doc in of_many_parameters()
        if not re.search("^(Returns|Yields):$", doc, re.MULTILINE)
        and given_back(node) not in ("None", "Table")
        # The source of a front end names the features that are kept of it, so its words stay.
        and "/data/frontends/" not in place
    ]
    assert not silent


def test_functions_of_many_parameters_say_what_they_raise():
    silent = [
        place
        for place, node, doc in of_many_parameters()
        if "Raises:" not in doc and any(isinstance(n, ast.Raise) for n in ast.walk(node))
    ]
    assert not silent


def test_tests_do_not_import_each_other():
    """What several of them share lies in ``tests/support``."""
    for path in (ROOT / "tests").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) test_", path.read_text(), re.MULTILINE), path


def defined(path: pathlib.Path) -> set[str]:
    """Functions and classes of a module, methods as ``Class.method``; all words of a C file."""
    if path.suffix != ".py":
        return set(re.findall(r"\w+", path.read_text()))
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.ClassDef)
    found = {node.name for node in tree.body if isinstance(node, kinds)}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return found | {f"{c.name}.{f.name}" for c in classes for f in c.body if isinstance(f, kinds)}


def test_what_the_pages_link_to_is_defined_there():
    links = [
        (page, name, (page.parent / target).resolve())
        for page in (ROOT / "docs").glob("*.md")
        for name, target in re.findall(r"\[`([\w.]+)`\]\(([\w./]+\.(?:py|c|h))\)", page.read_text())
    ]
    assert len(links) > 30
    assert not [(page.name, name) for page, name, path in links if name not in defined(path)]


def test_the_page_draws_the_floors_that_are_checked():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    floors = [floor.split(" | ") for floor in contracts["contracts"][0]["layers"]]
    page = (ROOT / "docs" / "architecture.md").read_text()
    picture = page.split("## Rooms and floors")[1].split("```")[1].strip("\n").split("\n")
    drawn = [re.split(r"\s{3,}", line) for line in picture if not line.startswith(" ")]
    assert [[name for name in line if " " not in name] for line in drawn] == floors


def test_every_module_names_its_invariant():
    sources = {path: path.read_text() for path in (ROOT / "src").rglob("*.py")}
    docs = {path: ast.get_docstring(ast.parse(text)) or "" for path, text in sources.items()}
    assert not [str(path) for path, doc in docs.items() if "Invariant: " not in doc]


def test_what_the_glossary_points_to_is_there():
    rows = re.findall(r"^\| (?!room).*\| `([\w.]+)` \|$", GLOSSARY.read_text(), re.MULTILINE)
    assert len(rows) > 20
    for name in rows:
        found = importlib.import_module("micronets_jax")
        for part in name.split("."):
            if hasattr(found, "__path__") and importlib.util.find_spec(f"{found.__name__}.{part}"):
                found = importlib.import_module(f"{found.__name__}.{part}")
            else:
                found = getattr(found, part)
