"""Anomaly detection: find a DS-CNN that hears a machine fail and fits a board.

Paper: MicroNets (Banbury et al., MLSys 2021), section 5.2.3, on DCASE 2020 task 2. The network
learns to tell machines of one make apart; a recording is anomalous where it is not taken for its
own machine. No failing machine is ever trained on.

    python -m experiments.ad                                  # embedded data, this machine
    python -m experiments.ad --data ./slider --device STM32F446RE
    python -m experiments.ad --preset paper --data ./slider --accelerator tpu
    python -m experiments.ad --predict test/anomaly_id_00_00000000.wav --workdir runs/ad-paper

Expected (paper, slide rails): MicroNet-AD-S AUC 0.9535, 37.5 million operations; not measured here,
for the data cannot be had on the machine that this was written on.
Measured (embedded data, preset quick, seed 0): mean AUC 0.944 float, 0.945 int8 and in TensorFlow
Lite Micro; 0.66 million operations of 0.7 allowed, the largest network has 5.5; 185 s on two cores.

A prediction is the share that each machine gets of a recording: minus the share of its own machine
is the anomaly score.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from micronets_jax import experiment_cli
from micronets_jax.recipes import DNAS, FloatTraining, Limits, Training

if TYPE_CHECKING:
    from micronets_jax.pipeline import Task


@dataclasses.dataclass(frozen=True)
class Space:
    """Largest member of the search space."""

    max_width: int = 48
    """Most channels of any layer."""
    blocks: int = 5
    """Depthwise-separable blocks before any is left out; the first and the last two halve sides."""


@dataclasses.dataclass(frozen=True)
class Options(experiment_cli.Options):
    """Find an anomaly detector that fits a board: search, train, quantise, export, check."""

    data: str = "embedded"
    """embedded (synthesised machines), tfds (micronets_dcase), or a folder in DCASE's layout."""
    mixup: float = 0.3
    """Of the Beta distribution by which training examples are blended; 0 blends nothing."""
    space: Space = Space()


PRESETS = {
    "tiny": Options(
        preset="tiny",
        budget=Limits(mops=0.8),
        space=Space(max_width=40, blocks=3),
        search=DNAS(epochs=4, trials=2, trial_epochs=1, batch_size=32),
        train=FloatTraining(epochs=10, batch_size=32),
        quantize=Training(epochs=1, batch_size=32, learning_rate=0.0005),
    ),
    "quick": Options(
        preset="quick",
        budget=Limits(mops=0.7),
        search=DNAS(epochs=15, batch_size=64, warmup=0.4, trials=4, trial_epochs=10),
        train=FloatTraining(steps=1600),
        quantize=Training(steps=320, learning_rate=0.0005),
    ),
    "paper": Options(
        preset="paper",
        device="STM32F746ZG",
        space=Space(max_width=276),
        search=DNAS(epochs=50, batch_size=512),
        train=FloatTraining(
            epochs=50,
            batch_size=128,
            learning_rate=0.01,
            final_learning_rate=0.00001,
            weight_decay=0.002,
        ),
        quantize=Training(epochs=10, batch_size=128, learning_rate=0.0005),
    ),
}
"""Defaults; what the paper says of rates and epochs is in ``paper`` (appendix A.1)."""


def task(options: Options) -> Task:
    """Machines, log-mel patches, a DS-CNN with a 3x3 stem, the area under the ROC curve."""
    from micronets_jax import data, metrics, pipeline, zoo
    from micronets_jax.spaces import DSCNN

    frontend = data.LogMelPatches()
    dataset = data.machine_sounds.load(
        options.data, frontend, size=options.preset, seed=options.seed
    )
    if options.space.blocks < 3:
        raise ValueError(f"space.blocks={options.space.blocks}: give at least 3, three halve sides")
    return pipeline.Task(
        dataset=dataset,
        frontend=frontend,
        augmentation=data.augment.Mixup(options.mixup),
        space=DSCNN(
            frontend.shape,
            dataset.num_classes,
            options.space.max_width,
            stem_kernel=(3, 3),
            strides=(2, *[1] * (options.space.blocks - 3), 2, 2),
        ),
        metric=metrics.auc,
        published=zoo.SCORES["ad"],
        num_tflm=25_000,
    )


AD = experiment_cli.Experiment("ad", PRESETS, task)

if __name__ == "__main__":
    AD.main()
