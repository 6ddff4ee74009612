"""Your own pictures: find a MobileNetV2 that tells their classes apart and fits a board.

    python -m experiments.images --data ./photos --device STM32F746ZG
    python -m experiments.images --data ./photos --input.size 64 96 --input.colour
    python -m experiments.images --predict photo.jpg --workdir runs/images-quick

``./photos`` holds one folder of JPEG or PNG files for each class, or ``train/`` and ``test/`` with
such folders.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiments.vww import Input, Space
from micronets_jax import experiment_cli
from micronets_jax.recipes import DNAS, FloatTraining, ImageAugmentation, Limits, Training

if TYPE_CHECKING:
    from micronets_jax.pipeline import Task


@dataclasses.dataclass(frozen=True)
class Options(experiment_cli.Options):
    """Find a classifier of your pictures that fits a board: search, train, quantise, export."""

    data: str = ""
    """A folder of <class>/*.jpg or *.png, or of train/<class> and test/<class>."""
    input: Input = Input(size=(64, 64), colour=True)
    augmentation: ImageAugmentation = ImageAugmentation()
    space: Space = Space()


PRESETS = {
    "tiny": Options(
        preset="tiny",
        budget=Limits(mops=1.0),
        input=Input(size=(24, 24)),
        space=Space(width=0.25, blocks=(1, 2, 2), last_width=320),
        search=DNAS(epochs=1, trials=1, batch_size=8),
        train=FloatTraining(epochs=2, batch_size=8),
        quantize=Training(epochs=1, batch_size=8, learning_rate=0.0005),
    ),
    "quick": Options(
        preset="quick",
        space=Space(blocks=(1, 2, 2, 2, 1), last_width=320),
        search=DNAS(epochs=10, batch_size=64, trials=2, trial_epochs=3),
        train=FloatTraining(steps=6000, batch_size=32),
        quantize=Training(steps=600, batch_size=32, learning_rate=0.0005),
    ),
    "paper": Options(
        preset="paper",
        space=Space(width=1.0),
        search=DNAS(epochs=100, batch_size=256),
        train=FloatTraining(epochs=200, batch_size=128),
        quantize=Training(epochs=10, batch_size=128, learning_rate=0.0005),
    ),
}
"""Defaults; the paper has no such task, so ``paper`` is a long run of our own making."""


def task(options: Options) -> Task:
    """Pictures in class folders, pixels, inverted bottlenecks."""
    from micronets_jax import data, metrics, pipeline

    if not options.data:
        raise ValueError("data is not given; name a folder with one folder of images per class")
    frontend = data.Pixels(*options.input.size, channels=3 if options.input.colour else 1)
    dataset = data.class_folders.load(options.data, frontend, seed=options.seed)
    return pipeline.Task(
        dataset=dataset,
        frontend=frontend,
        augmentation=data.augment.Images(options.augmentation),
        space=options.space.build(frontend.shape, dataset.num_classes, options.budget.mops),
        metric=metrics.accuracy,
    )


IMAGES = experiment_cli.Experiment("images", PRESETS, task)

if __name__ == "__main__":
    IMAGES.main()
