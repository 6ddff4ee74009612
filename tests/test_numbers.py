"""A run whose network gives numbers: refused options, and the whole path."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from micronets_jax import (
    budgets,
    data,
    devices,
    experiment_cli,
    export,
    losses,
    metrics,
    pipeline,
    quantize,
    recipes,
    supernet,
)
from micronets_jax import compile as compiler
from micronets_jax.network import prune
from micronets_jax.spaces import DSCNN, Dense
from micronets_jax.targets.compiled.rows import least_arena_bytes

SIDE = 12


def spots(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of a bright spot, and where it is: row and column as shares of the side."""
    rng = np.random.default_rng(seed)
    where = rng.uniform(0.2, 0.8, (count, 2)).astype(np.float32)
    places = np.arange(SIDE) / (SIDE - 1)
    far = np.square(places[None] - where[:, :1])[:, :, None]
    far = far + np.square(places[None] - where[:, 1:])[:, None]
    noise = rng.uniform(0, 30, far.shape)
    return np.clip(225 * np.exp(-far * 30) + noise, 0, 255).astype(np.uint8)[..., None], where


def dataset(count: int = 512) -> data.Dataset:
    arrays = {}
    for seed, (split, share) in enumerate((("train", 1), ("validation", 4), ("test", 4))):
        examples, where = spots(count // share, seed)
        arrays |= {f"{split}_examples": examples, f"{split}_labels": where}
    return data.Dataset.from_arrays("spots", f"{count:08x}", (), arrays)


def task(**changes) -> pipeline.Task:
    given = pipeline.Task(
        dataset=dataset(),
        frontend=data.Pixels(SIDE, SIDE),
        augmentation=data.augment.Unchanged(),
        space=DSCNN((SIDE, SIDE, 1), 2, 24, (3, 3), strides=(2, 1)),
        metric=metrics.r2,
        loss=losses.SQUARED_ERROR,
    )
    return dataclasses.replace(given, **changes)


def plan(train=None, **changes) -> pipeline.Plan:
    device = devices.device("STM32F446RE")
    return pipeline.Plan(
        **vars(task(**changes)),
        budget=budgets.Budget.of(device, recipes.Limits(mops=0.1)),
        device=device,
        search=recipes.DNAS(batch_size=64),
        train=train or recipes.FloatTraining(),
        quantize=recipes.Training(),
        seed=0,
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train": recipes.FloatTraining(label_smoothing=0.1)}, "train.label_smoothing=0.1: the"),
        ({"train": recipes.FloatTraining(distillation=0.5)}, "train.distillation=0.5: the loss is"),
        ({"metric": metrics.accuracy}, "metric=accuracy needs classes"),
        ({"augmentation": data.augment.Mixup(0.3)}, "mixup=0.3: the data have no classes"),
        ({"listening": recipes.Listening()}, "listening needs words"),
        ({"loss": losses.CROSS_ENTROPY}, "the data have 0 classes and networks 2 outputs"),
        ({"loss": losses.RECONSTRUCTION}, r"outputs of the network are \[2, 2\], targets \[2, 144"),
        (
            {"space": DSCNN((SIDE, SIDE, 1), 3, 24, (3, 3), strides=(2, 1))},
            r"outputs of the network are \[2, 3\], targets \[2, 2\]",
        ),
    ],
)
def test_what_does_not_go_with_a_loss_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        pipeline.check(plan(**changes))


def test_numbers_and_features_as_targets_pass():
    pipeline.check(plan())
    space = Dense((SIDE, SIDE, 1), SIDE * SIDE, 24, depth=1, bottleneck=4)
    changes = {"loss": losses.RECONSTRUCTION, "space": space}
    pipeline.check(plan(**changes, metric=metrics.reconstruction_auc(data.Pixels(SIDE, SIDE))))


def test_examples_without_classes_are_halved_evenly():
    first, second = dataset(100).train.halves(0)
    assert (len(first), len(second)) == (50, 50)
    assert not set(first.rows) & set(second.rows)
    assert first.labels.shape == (50, 2)
    look = data.look.at(dataset(100))
    assert look.examples == ((100,), (25,), (25,))
    assert look.lines() == ["spots: 100 train, 25 validation, 25 test examples"]


def test_r2_by_hand():
    split = data.Split.whole(np.zeros((3, 1)), np.array([[0.0], [1.0], [2.0]], np.float32))
    result = metrics.r2(np.array([[0.0], [1.0], [1.0]], np.float32), split)
    assert result == {"r2": 0.5, "mean_absolute_error": pytest.approx(1 / 3)}
    assert next(iter(result)) == "r2"


def test_reconstruction_auc_by_hand():
    # Errors of two machines' recordings, the first of two patches: 1, 9 and 4; 0 and 1.
    errors = np.array([0.0, 2.0, 9.0, 4.0, 0.0, 1.0])
    facts = {
        "group": np.array([0, 0, 1, 2, 3, 4]),
        "anomalous": np.array([False, False, True, False, False, True]),
    }
    x = np.ones((6, 2, 2, 1), np.float32)
    split = data.Split.whole(x, np.array([0, 0, 0, 0, 1, 1], np.int32), facts)
    outputs = (x.reshape(6, 4) + np.sqrt(errors)[:, None]).astype(np.float32)
    metric = metrics.reconstruction_auc(Doubled())
    result = metric(outputs * 2, split)
    assert [row["auc"] for row in result["machines"]] == [1.0, 1.0]
    worse = metric(2 * (x.reshape(6, 4) + np.sqrt(errors[::-1])[:, None]), split)
    assert [row["auc"] for row in worse["machines"]] == [0.5, 0.0]


@dataclasses.dataclass(frozen=True)
class Doubled:
    shape = (2, 2, 1)

    def read(self, path):
        raise NotImplementedError

    def __call__(self, raw):
        return 2 * jnp.asarray(raw)


def test_a_network_of_dense_layers_is_the_same_in_every_arithmetic():
    space = Dense((6, 4, 1), 10, 24, depth=2, bottleneck=4)
    network = space.decode(space.choice([20, 14, 6, 24], 2))
    variables = supernet.init(jax.random.key(0), network)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 6, 4, 1)), jnp.float32)
    stats = jax.tree.map(lambda leaf: leaf + 0.25, variables["batch_stats"])
    floats = supernet.Supernet(network).apply(
        {"params": variables["params"], "batch_stats": stats}, x
    )
    folded = quantize.fold(network, variables["params"], stats)
    ranges = quantize.calibrate(network, folded, [x])
    simulated = quantize.apply(network, folded, ranges, x)
    scale = float(jnp.max(jnp.abs(floats)))
    assert float(jnp.max(jnp.abs(simulated - floats))) < 0.1 * scale
    integers = quantize.integers(network, folded, ranges)
    q, zero = integers.scales["input"], integers.zero_points["input"]
    inputs = np.clip(np.round(np.asarray(x) / q) + zero, -128, 127).astype(np.int8)
    last = network.layers[-1].name
    levels = np.asarray(simulated) / integers.scales[last] + integers.zero_points[last]
    assert np.max(np.abs(quantize.run(integers, inputs) - np.round(levels))) <= 1
    built = compiler.compile_model(export.assemble(network, folded, ranges), plan="balanced")
    assert built.arena_bytes == least_arena_bytes(network)


def test_where_time_is_limited_the_fastest_plan_is_delivered():
    free = plan()
    board = free.device
    timed = dataclasses.replace(
        free, budget=budgets.Budget.of(board, recipes.Limits(latency_ms=50.0))
    )
    found = prune(free.space.supernetwork())
    one, other = (pipeline._delivered(p, found) for p in (free, timed))
    assert (one["plan"], other["plan"]) == ("balanced", "speed")
    assert one["ram"] == other["ram"] > 100_000


def test_what_the_compiler_predicts_is_brought_to_the_core():
    """By the steps of either core: the Cortex-M33 has the M4's kernels, the M0+ some in C."""
    found = prune(plan().space.supernetwork())
    brought = {
        core: pipeline._on_core(1_000_000, found, core)
        for core in ("cortex-m4", "cortex-m33", "cortex-m0plus")
    }
    assert brought["cortex-m4"] == 1_000_000
    assert brought["cortex-m33"] == pytest.approx(1_000_000, rel=0.01)
    assert 5_000_000 < brought["cortex-m0plus"] < 9_000_000


# ---------------------------------------------------------------- the whole path


PRESETS = {
    "quick": experiment_cli.Options(
        budget=recipes.Limits(mops=0.1),
        search=recipes.DNAS(epochs=2, batch_size=64, trials=2, trial_epochs=2),
        train=recipes.FloatTraining(epochs=25),
        quantize=recipes.Training(epochs=2, learning_rate=0.0005),
    )
}


@pytest.mark.slow
def test_a_regression_from_the_search_to_the_firmware(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MICRONETS_CACHE", str(tmp_path / "cache"))
    home = experiment_cli.Experiment("spots", PRESETS, lambda options: task())
    out = tmp_path / "out"
    home.main(["--workdir", str(out), "--accelerator", "cpu"])
    said = capsys.readouterr().out
    assert "R²" in said and "accuracy" not in said
    summary = json.loads((out / "summary.json").read_text())
    assert summary["metric"] == "r2" and summary["r2"]["tflm"] > 0.7
    assert abs(summary["r2"]["float"] - summary["r2"]["int8"]) < 0.1
    assert summary["mean_absolute_error"]["int8"] < 0.1
    assert summary["firmware"]["differing_outputs"] == 0
    assert not (out / "labels.txt").exists()
    assert "Validation loss" in (out / "report.html").read_text()
    picture, where = spots(1, 7)
    Image.fromarray(picture[0, ..., 0]).save(tmp_path / "spot.png")
    home.main(["--predict", str(tmp_path / "spot.png"), "--workdir", str(out)])
    numbers = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose(numbers, where[0], atol=0.2)
