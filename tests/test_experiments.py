"""Every experiment as a person uses it: presets, tiny runs to the end, mistakes in one sentence."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import recipes
from experiments import ad, images, kws, vww
from micronets_jax import budgets, cost, devices, experiment_cli, pipeline
from micronets_jax.recipes import Random
from support import flatbuffer_models as fm

ROOT = pathlib.Path(__file__).parents[1]
HOMES = {"ad": ad.AD, "images": images.IMAGES, "kws": kws.KWS, "vww": vww.VWW}


def command(name: str, folder: pathlib.Path, *words) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "MICRONETS_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    return done.returncode, done.stdout, done.stderr


def photos(folder: pathlib.Path, count: int = 30) -> pathlib.Path:
    """Two classes told apart by where it is bright."""
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            pixels = rng.integers(0, 60, (30, 40, 3), np.uint8)
            pixels[:, slice(0, 20) if name == "left" else slice(20, 40)] += 150
            Image.fromarray(pixels).save(folder / name / f"{k}.png")
    return folder


@pytest.mark.parametrize("name", HOMES)
def test_presets_are_named_and_options_override_them(name):
    home = HOMES[name]
    assert set(home.presets) == {"tiny", "quick", "paper"}
    for preset, options in home.presets.items():
        assert options.preset == preset
        assert home.parse(["--preset", preset]) == home.parse([f"--preset={preset}"]) == options
        assert home.folder(options) == pathlib.Path("runs") / f"{name}-{preset}"
    changed = home.parse(["--preset", "tiny", "--train.epochs", "3", "--seed", "5"])
    assert (changed.train.epochs, changed.seed) == (3, 5)
    assert changed.search == home.presets["tiny"].search


def test_a_run_of_another_experiment_is_not_asked(tmp_path):
    (tmp_path / "summary.json").write_text('{"experiment": "vww"}')
    with pytest.raises(ValueError, match="holds a run of vww: give one of kws, or say python -m"):
        kws.KWS.predict([tmp_path / "x.wav"], tmp_path)


@pytest.mark.parametrize("task", recipes.EXPERIMENTS)
def test_each_row_of_the_benchmark_of_recipes_changes_options_of_its_experiment(task):
    home = recipes.EXPERIMENTS[task]
    base = home.parse([])
    for row, words in recipes.CHANGES[task].items():
        changed = home.parse(words.format(twice=9, half=3).split())
        parts = [part for part in ("train", "augmentation") if f"--{part}." in words]
        assert [p for p in vars(base) if getattr(base, p) != getattr(changed, p)] == sorted(
            parts, key=list(vars(base)).index
        ), row


@pytest.mark.parametrize("name", HOMES)
def test_deciding_takes_at_most_as_long_as_searching(name):
    """A trial's step trains on one half of the data in float; a search's step on both, quantised,
    and counts costs: as long as three."""
    for options in HOMES[name].presets.values():
        search = options.search
        assert search.trials == 1 or search.trials * search.trial_epochs <= 3 * search.epochs


@pytest.mark.parametrize("name", HOMES)
def test_a_method_brings_its_own_options_and_keeps_the_steps_of_the_preset(name, tmp_path):
    home = HOMES[name]
    options = home.parse(["--method", "random", "--preset", "quick"])
    learned, drawn = home.presets["quick"].search, options.search
    assert isinstance(drawn, Random) and options.method == "random"
    assert drawn.trials == 2 * learned.trials and drawn.batch_size == learned.batch_size
    assert home.parse(["--method=random", "--search.trials", "3"]).search.trials == 3
    with pytest.raises(ValueError, match="method='magic' is not known; choose from dnas"):
        home.prepare(dataclasses.replace(options, method="magic", workdir=tmp_path / "run"))


@pytest.mark.parametrize("option", ["precision", "from-supernet"])
def test_what_only_training_in_float_knows_is_no_option_of_quantisation(option, capsys):
    value = ["bfloat16"] if option == "precision" else []
    assert kws.KWS.parse([f"--train.{option}", *value]) != kws.KWS.parse([])
    with pytest.raises(SystemExit) as ended:
        kws.KWS.parse([f"--quantize.{option}", *value])
    assert ended.value.code == 2 and option in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ad", "vww"])
def test_limits_of_the_presets_bind(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MICRONETS_CACHE", str(tmp_path))
    home = HOMES[name]
    for preset in ("tiny", "quick"):
        given = home.presets[preset]
        task = home.task(home.presets["tiny"])
        if preset == "quick":  # the space of quick, without its data
            shape = getattr(given, "input", None)
            shape = (*shape.size, 1) if shape else task.frontend.shape
            if name == "vww":
                space = given.space.build(shape, task.dataset.num_classes, given.budget.mops)
            else:
                space = type(task.space)(
                    shape, task.dataset.num_classes, given.space.max_width, strides=(2, 1, 1, 2, 2)
                )
        else:
            space = task.space
        budget = budgets.Budget.of(devices.device(given.device), given.budget)
        budgets.feasible(space, budget)
        assert max(budget.usage(space.largest()).values()) >= 2


@pytest.mark.parametrize(
    ("words", "width"),
    [
        ((), 112),
        (("--space.convolutions", "planar", "--space.halvings", "1", "2"), 48),
        (("--budget.mops", "6"), 256),
        (("--budget.mops", "1000"), 272),
        (("--budget.mops", "None"), 272),
        (("--budget.mops", "6", "--space.max-width", "64"), 64),
        (("--preset", "paper"), 276),
    ],
)
def test_a_space_of_words_is_as_wide_as_its_limit_asks(words, width):
    options = kws.KWS.parse(list(words))
    space = options.space.build((49, 10, 1), 12, options.budget.mops)
    assert space.max_width == width
    if not options.space.max_width and width < 272:
        assert cost.ops(space.largest()) >= 2.5e6 * options.budget.mops


@pytest.mark.parametrize(
    ("home", "words", "width"),
    [
        (vww.VWW, (), 0.35),
        (vww.VWW, ("--budget.mops", "None"), 0.35),
        (vww.VWW, ("--budget.mops", "5"), 0.75),
        (images.IMAGES, (), 0.35),
        (images.IMAGES, ("--budget.mops", "12"), 1.0),
        (images.IMAGES, ("--budget.mops", "25"), 1.4),
        (images.IMAGES, ("--budget.mops", "25", "--space.width", "0.5"), 0.5),
        (images.IMAGES, ("--preset", "paper"), 1.0),
    ],
)
def test_a_space_of_pictures_is_as_wide_as_its_limit_asks(home, words, width):
    options = home.parse(list(words))
    shape = (*options.input.size, 3 if options.input.colour else 1)
    space = options.space.build(shape, 2, options.budget.mops)
    assert space.width == width
    if options.space.width is None and options.budget.mops and width < vww.WIDTHS[-1]:
        assert cost.ops(space.largest()) >= 2e6 * options.budget.mops


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--budget.mops 0.8 1.2", ["mops-0.8", "mops-1.2"]),
        ("--budget.sram_bytes=16384 32768 --seed 1", ["sram-bytes-16384", "sram-bytes-32768"]),
        ("--device stm32f446re STM32F767ZI", ["STM32F446RE", "STM32F767ZI"]),
        ("--budget.mops 1.5 None", ["mops-1.5", "mops-None"]),
        (
            "--device STM32F446RE STM32F767ZI --budget.mops 1 2",
            [f"STM32F{board}-mops-{x}" for board in ("446RE", "767ZI") for x in ("1.0", "2.0")],
        ),
        ("--budget.mops 1 --device STM32F767ZI", [""]),
        ("--budget.mops -1", None),
    ],
)
def test_several_values_are_several_networks(words, named):
    lines = experiment_cli.several(words.split())
    if named is None:  # a mistake is left to the parser, as it was written
        assert lines == [words.split()]
        return
    each = [kws.KWS.parse(line) for line in lines]
    assert experiment_cli.names(each) == named
    if len(each) == 1:
        assert lines == [words.split()] and experiment_cli.widest(each) is each[0]
    widest = experiment_cli.widest(each)
    limits = [one.budget.mops for one in each]
    assert widest.budget.mops == (None if None in limits else max(limits))
    assert devices.device(widest.device).sram_bytes == max(
        devices.device(one.device).sram_bytes for one in each
    )
    assert {one.seed for one in each} == {widest.seed}


@pytest.mark.parametrize("words", ["--budget.mops 1.2 1.20", "--device STM32F446RE stm32f446re"])
def test_a_value_that_is_given_twice_is_named(words):
    each = [kws.KWS.parse(line) for line in experiment_cli.several(words.split())]
    said = r"^device=STM32F446RE, budget\.mops=1\.2 is asked for twice; give each board"
    with pytest.raises(ValueError, match=said):
        experiment_cli.names(each)


TINYNAS = ("--method", "tinynas", "--preset", "tiny")


@pytest.mark.parametrize(
    ("name", "words", "part"),
    [
        ("images", (), "data is not given"),
        ("images", ("--data", "nowhere"), "nowhere is not there"),
        ("images", ("--data", "nowhere", "--input.size", "0", "3"), "rows=0"),
        ("vww", ("--data", "nowhere"), "nowhere is not there"),
        ("vww", ("--preset", "tiny", "--space.blocks", "1", "0"), "space.blocks=(1, 0)"),
        ("ad", ("--data", "nowhere"), "nowhere has no folder train"),
        ("ad", ("--preset", "tiny", "--space.blocks", "2"), "space.blocks=2"),
        ("ad", ("--preset", "tiny", "--mixup", "-1"), "alpha=-1"),
        ("kws", ("--space.halvings", "9"), "space.halvings=(9,)"),
        ("vww", ("--predict", "none.jpg"), "holds no finished run"),
        ("vww", (*TINYNAS, "--budget.mops", "0.01"), "too few members of every space"),
        ("kws", ("--preset", "tiny", "--budget.mops", "0.5", "0.001"), "mops-0.001: no network"),
        ("kws", ("--budget.mops", "0.5", "0.5"), "budget.mops=0.5 is asked for twice"),
    ],
)
@pytest.mark.slow
def test_mistakes_end_in_one_sentence(name, words, part, tmp_path):
    status, _, error = command(name, tmp_path, *words, "--workdir", tmp_path / "out")
    assert status == 2 and part in error and "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_library_that_is_named_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TFLM_INCLUDE", ".")
    monkeypatch.setenv("TFLM_LIBRARY", "none.a")
    words = ("--preset", "tiny", "--runtime", "tflm", "--workdir", tmp_path / "out")
    status, _, error = command("kws", tmp_path, *words)
    assert status == 2 and "there is no TFLM library none.a" in error
    assert not (tmp_path / "out").exists()


def finished(folder: pathlib.Path) -> dict:
    summary = json.loads((folder / "summary.json").read_text())
    for row in summary["limits"].values():
        assert row["used"] <= row["limit"]
    for row in summary["prediction"].values():
        assert row["measured"] == pytest.approx(row["predicted"], rel=0.05)
    assert (folder / "report.html").exists()
    return summary


@pytest.mark.slow
def test_anomaly_detection_to_the_end(tmp_path):
    out = tmp_path / "out"
    status, said, error = command("ad", tmp_path, "--preset", "tiny", "--workdir", out)
    assert status == 0, error
    assert "mean AUC" in said
    summary = finished(out)
    assert summary["metric"] == "auc" and len(summary["machines"]) == 8
    assert summary["auc"]["float"] > 0.85
    assert abs(summary["auc"]["tflm"] - summary["auc"]["float"]) < 0.02
    assert "Confusion matrix" not in (out / "report.html").read_text()


@pytest.mark.slow
def test_visual_wake_words_to_the_end_with_a_teacher(tmp_path):
    out = tmp_path / "out"
    words = ("--preset", "tiny", "--train.epochs", "1", "--search.epochs", "1")
    teacher = ("--train.distillation", "0.5", "--train.optimizer", "sgd", "--teacher", "0.5")
    status, _, error = command("vww", tmp_path, *words, *teacher, "--workdir", out)
    assert status == 0, error
    summary = finished(out)
    assert summary["seconds"]["teacher"] > 0 and len(summary["confusion"]) == 2
    stages = {json.loads(row)["stage"] for row in (out / "metrics.jsonl").read_text().splitlines()}
    assert stages == {"search", "teacher", "train", "quantize"}


@pytest.mark.slow
def test_tinynas_to_the_end(tmp_path):
    """A space is chosen, a supernet trained, members evolve, the best goes on with its weights."""
    out = tmp_path / "out"
    status, said, error = command("vww", tmp_path, *TINYNAS, "--workdir", out)
    assert status == 0, error
    assert "space: w0.2-r32" in said
    finished(out)
    (space,) = json.loads((out / "spaces.json").read_text())
    assert space["chosen"] and space["fit"] == 1.0
    losses = [row["held_out_loss"] for row in json.loads((out / "proposals.json").read_text())]
    assert len(losses) > 100 and losses == sorted(losses)
    page = (out / "report.html").read_text()
    assert "w0.2-r32, chosen" in page and "Population" in page


@pytest.mark.slow
def test_own_images_to_the_end_and_one_predicted(tmp_path):
    folder, out = photos(tmp_path / "photos"), tmp_path / "out"
    words = ("--preset", "tiny", "--data", folder, "--augmentation.no-mirror", "--workdir", out)
    status, _, error = command("images", tmp_path, *words)
    assert status == 0, error
    summary = finished(out)
    assert summary["data"]["classes"] == ["left", "right"]
    assert (out / "labels.txt").read_text() == "left\nright\n"
    picture = folder / "right" / "0.png"
    status, said, error = command("images", tmp_path, "--predict", picture, "--workdir", out)
    assert status == 0, error
    assert {line.split()[0] for line in said.splitlines()} == {"left", "right"}


@pytest.mark.slow
def test_a_device_without_start_up_code_gets_the_model_s_c(tmp_path):
    """Counted on an emulated core of its kind, and what the folder is for is said."""
    on = devices.device("nRF5340-DK")
    model = fm.convolution(np.random.default_rng(0), (1, 6, 5, 4), 8, (3, 3))
    alone = pipeline._model_c(
        pipeline.compiler.compile_model(model, "small"), on.core, tmp_path / "firmware"
    )
    assert (tmp_path / "firmware" / "model.c").is_file()
    assert alone["linking"] == "left to your project" and alone["emulated"] > 1000
    assert "no start-up code" in on.provenance
