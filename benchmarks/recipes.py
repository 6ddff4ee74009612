"""Which changes to a training are worth it on little data? One network, one change at a time.

    python -m benchmarks.recipes --data SPEECH_COMMANDS                       # words
    python -m benchmarks.recipes --task vww --data PERSONS --seeds 0 1 2
    python -m benchmarks.recipes --task images --data PICTURES --changes base mixup

The network is fixed: six blocks of 40 channels behind a stem of 8 for words (1.2 million
operations), for pictures the widest MobileNetV2 of the space's layout under the preset's limit.
``base`` is the preset quick; each other row changes what is named, as on the experiment's command
line. Judged by validation examples alone, in float: accuracy, and cross entropy, which is less
noisy. Rows of one seed share the order of examples and first weights, so differences are paired.

Finished trainings are kept in the folder, and a second call goes on from there.

Results: docs/recipes.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments import images, kws, vww
from micronets_jax import (
    data,
    derive,
    experiment_cli,
    files,
    losses,
    network,
    pipeline,
    spaces,
    supernet,
    training,
    zoo,
)
from micronets_jax.network import Network

EXPERIMENTS = {"kws": kws.KWS, "vww": vww.VWW, "images": images.IMAGES}

TRAINING = {
    "base": "",
    "twice as long": "--train.steps {twice}",
    "half as long": "--train.steps {half}",
    "smoothing 0.1": "--train.label-smoothing 0.1",
    "distilled": "--train.distillation 0.5",
    "weight decay 0.01": "--train.weight-decay 0.01",
}

CHANGES = {
    "kws": TRAINING
    | {
        "no shift": "--augmentation.shift-ms 0",
        "no speed": "--augmentation.speed 0",
        "speed 0.3": "--augmentation.speed 0.3",
        "no warp": "--augmentation.warp 0",
        "warp 0.2": "--augmentation.warp 0.2",
        "loudness 6 dB": "--augmentation.loudness-db 6",
        "no noise": "--augmentation.noise 0",
        "noise at ratios": "--augmentation.noise-volume 0 --augmentation.snr-db 5 30",
        "room 0.3 s": "--augmentation.room-s 0.3",
        "colour 2 dB": "--augmentation.colour-db 2",
        "no time mask": "--augmentation.time-masks 0",
        "mel mask": "--augmentation.mel-masks 1",
        "no mixup": "--augmentation.mixup 0",
    },
    "vww": TRAINING
    | {
        "no shift": "--augmentation.shift 0",
        "no light": "--augmentation.brightness 0 --augmentation.contrast 0",
        "zoom 0.2": "--augmentation.zoom 0.2",
        "rotation 10": "--augmentation.rotation 10",
        "cutout 0.5": "--augmentation.cutout 0.5",
        "mixup 0.2": "--augmentation.mixup 0.2",
    },
}
CHANGES["images"] = CHANGES["vww"] | {"colour 0.3": "--augmentation.colour 0.3"}
"""What each row is called, and the options that it adds to those of the preset."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Train one network with one change at a time."""

    data: str
    """As the experiment of the task has it."""
    task: Literal["kws", "vww", "images"] = "kws"
    """What is learned."""
    changes: tuple[str, ...] = ()
    """Rows; all where none is named."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of first weights, order of examples and augmentation; splits stay those of seed 0."""
    options: tuple[str, ...] = ()
    """Options of the experiment that all rows share, such as train.steps=1000."""
    folder: pathlib.Path = pathlib.Path("runs/recipes")
    """Where finished trainings are kept."""


def main() -> None:
    """Train what is missing, then print the table."""
    options = tyro.cli(Options, description=__doc__)
    rows = options.changes or tuple(CHANGES[options.task])
    for seed, row in itertools.product(options.seeds, rows):
        measured(options, row, seed)
    table(options, rows)


def measured(options: Options, row: str, seed: int) -> dict[str, float]:
    """Validation accuracy and cross entropy, accuracy on training examples, and seconds."""
    words = "-".join([row, *options.options]).replace(" ", "_")
    name = f"{options.task}-{pathlib.Path(options.data).name}-{words}-{seed}"
    path = options.folder / f"{name}.json"
    if not path.exists():
        options.folder.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps(measure(options, row, seed)))
        print(name, path.read_text(), flush=True)
    return json.loads(path.read_text())


def plan(options: Options, row: str) -> pipeline.Plan:
    """What the preset quick does with the options of a row."""
    home: experiment_cli.Experiment = EXPERIMENTS[options.task]
    shared = ["--data", options.data, *(f"--{word}" for word in options.options)]
    steps = home.parse(shared).train.steps
    change = CHANGES[options.task][row].format(twice=2 * steps, half=steps // 2)
    parsed = home.parse([*shared, *change.split()])
    return home.prepare(dataclasses.replace(parsed, workdir=options.folder / "none"))


def subject(this: pipeline.Plan) -> Network:
    """The network that is trained."""
    classes = this.dataset.num_classes
    if isinstance(this.space, spaces.DSCNN):
        return this.space.member([60] * 3 + [64] * 5, [True] * 7)  # 1.14 million operations
    space: Any = this.space
    widths = (percent / 100 for percent in range(1, 200))
    layouts = (
        zoo.mobilenet_v2(
            width, space.input_shape, classes, multiple=1, narrow_last=True,
            stages=space.stages, last_width=space.last_width,
        )
        for width in widths
    )  # fmt: skip
    return list(itertools.takewhile(this.budget.fits, layouts))[-1]


def measure(options: Options, row: str, seed: int) -> dict[str, float]:
    """One training, preceded by its teacher's where it has one."""
    this = plan(options, row)
    start, recipe, loss = time.monotonic(), this.train, this.loss
    if recipe.distillation:
        larger = zoo.scaled(network.prune(this.space.supernetwork()), this.teacher)
        apply = supernet.Supernet(larger).apply
        variables, _ = train(this, larger, seed)
        loss = losses.distilled(
            loss,
            lambda x: apply(variables, x),
            recipe.distillation,
            recipe.distillation_temperature,
        )
    chosen = subject(this)
    variables, accuracy = train(this, chosen, seed, loss)
    features = data.split_features(this.dataset, "validation", this.frontend)
    labels = this.dataset.validation.labels
    apply: Any = supernet.Supernet(chosen).apply
    logits = training.predict(apply, variables, features)
    entropy = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    return {
        "accuracy": training.accuracy(logits, labels),
        "cross entropy": float(entropy),
        "training": accuracy,
        "seconds": round(time.monotonic() - start, 1),
    }


def train(
    this: pipeline.Plan, chosen: Network, seed: int, loss: losses.Loss = losses.CROSS_ENTROPY
) -> tuple[dict[str, Any], float]:
    """Variables at the end, and the accuracy on augmented training examples shortly before."""
    fresh = supernet.init(jax.random.key(seed), chosen)
    examples, recipe = this.dataset.train, this.train
    total = recipe.num_steps(examples.num_batches(recipe.batch_size))
    state = training.init(fresh["params"], fresh["batch_stats"], recipe, total)
    rounds = training.fit(
        training.float_model(chosen),
        state,
        examples,
        pipeline.inputs(this),
        recipe,
        seed=seed,
        loss=loss,
    )
    *_, (state, record) = rounds
    variables = {"params": state.trainable, "batch_stats": state.stats}
    inputs = pipeline.inputs(this)
    settled = derive.settled(chosen, variables, examples, inputs, recipe, seed=seed + 2)
    return settled, record["accuracy"]


def table(options: Options, rows: tuple[str, ...]) -> None:
    """Means over seeds; differences from the first row with their standard errors."""
    found = {row: [measured(options, row, seed) for seed in options.seeds] for row in rows}
    first = found[rows[0]]
    print(
        f"{'change':18}{'valid.':>8}{'difference':>16}{'entropy':>9}{'difference':>16}{'train':>8}"
    )
    for row, scores in found.items():
        line = f"{row:18}"
        for key, scale, digits in (("accuracy", 100, 1), ("cross entropy", 1, 3)):
            values = scale * np.array([score[key] for score in scores])
            gaps = values - scale * np.array([score[key] for score in first])
            error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.nan
            line += f"{values.mean():8.{digits}f}{gaps.mean():+9.{digits}f} ({error:.{digits}f})"
        print(line + f"{100 * np.mean([score['training'] for score in scores]):8.1f}")


if __name__ == "__main__":
    main()
