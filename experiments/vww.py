"""Visual wake words: find a MobileNetV2 that sees whether a person is there, and fits a board.

Paper: MicroNets (Banbury et al., MLSys 2021), section 5.2.1, on Visual Wake Words (COCO 2014).

    python -m experiments.vww                                 # embedded data, this machine
    python -m experiments.vww --data ./coco --input.size 160 160 --device STM32F746ZG
    python -m experiments.vww --method tinynas --data ./photos   # a folder with person, not_person
    python -m experiments.vww --preset paper --data ./coco --accelerator tpu
    python -m experiments.vww --predict photo.jpg --workdir runs/vww-quick

Expected (paper, COCO): MicroNet-VWW-2 78.1 % on 50x50x1, MicroNet-VWW-3 86.4 % on 128x128x1; not
measured here, for the data cannot be had on the machine that this was written on.
Measured (embedded data, preset quick, seed 0): 86.9 % float, 86.8 % int8 (2,000 scenes), on 1,000
of them 88.1 % int8 and 88.0 % in TensorFlow Lite Micro; 2.79 million operations of 3.0 allowed, the
largest network has 7.1; 358 s on two cores.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from micronets_jax import experiment_cli
from micronets_jax.recipes import DNAS, Family, FloatTraining, ImageAugmentation, Limits, Training

if TYPE_CHECKING:
    from micronets_jax.pipeline import Task
    from micronets_jax.spaces import MobileNetV2
    from micronets_jax.spaces.survey import Survey


@dataclasses.dataclass(frozen=True)
class Input:
    """What the network reads."""

    size: tuple[int, int] = (50, 50)
    """Rows and columns; the paper's medium board takes 160 160. TinyNAS chooses its own."""
    colour: bool = False
    """Red, green and blue instead of grey."""


@dataclasses.dataclass(frozen=True)
class Space:
    """Largest member of the search space."""

    width: float | None = None
    """Multiplies the widths of MobileNetV2; those of a member are 10 % to 100 % of these. None
    takes 0.35, or so much up to 1.4 that the largest has twice the operations of budget.mops."""
    blocks: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
    """Inverted bottlenecks in each stage of MobileNetV2; fewer numbers are fewer stages."""
    last_width: int = 1280
    """Of the last convolution, before it is multiplied."""

    def build(
        self, input_shape: tuple[int, int, int], num_classes: int, mops: float | None
    ) -> MobileNetV2:
        """The space for these inputs, classes and millions of operations."""
        from micronets_jax import spaces
        from micronets_jax.spaces.mobilenet_v2 import STAGES

        if not 1 <= len(self.blocks) <= len(STAGES) or min(self.blocks) < 1:
            raise ValueError(
                f"space.blocks={self.blocks}: give up to {len(STAGES)} numbers of at least 1"
            )
        stages = [s._replace(blocks=n) for s, n in zip(STAGES, self.blocks, strict=False)]

        def of(width: float) -> MobileNetV2:
            return spaces.MobileNetV2(
                input_shape, num_classes, width, tuple(stages), last_width=self.last_width
            )

        if self.width is not None:
            return of(self.width)
        return experiment_cli.first_with([of(width) for width in WIDTHS], ROOM * 1e6 * (mops or 0))


WIDTHS, ROOM = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4), 2.0
"""Of the largest network where none is given, those that MobileNetV2 was published with: the first
with which it has this multiple of the operations that are allowed, or the last."""


@dataclasses.dataclass(frozen=True)
class Options(experiment_cli.Options):
    """Find a person detector that fits a board: search, train, quantise, export, check."""

    data: str = "embedded"
    """embedded (rendered scenes), tfds (COCO 2014), a folder with person/ and not_person/, or one
    with COCO's archives."""
    input: Input = Input()
    augmentation: ImageAugmentation = ImageAugmentation()
    space: Space = Space()
    family: Family = Family()


PAPER = FloatTraining(
    epochs=200,
    batch_size=768,
    learning_rate=0.36,
    final_learning_rate=0.0008,
    weight_decay=0.00004,
    optimizer="sgd",
    distillation=0.5,
    distillation_temperature=4.0,
)

PRESETS = {
    "tiny": Options(
        preset="tiny",
        budget=Limits(mops=1.0),
        input=Input(size=(32, 32)),
        space=Space(width=0.25, blocks=(1, 2, 2), last_width=320),
        family=Family((0.2,), (32,), depths=(1, 2), kernels=(3, 5), expansions=(2, 3)),
        search=DNAS(epochs=2, trials=1, batch_size=32),
        train=FloatTraining(epochs=3, batch_size=32),
        quantize=Training(epochs=1, batch_size=32, learning_rate=0.0005),
    ),
    "quick": Options(
        preset="quick",
        budget=Limits(mops=3.0),
        space=Space(blocks=(1, 2, 2, 2, 1), last_width=320),
        family=Family((0.2, 0.3, 0.4, 0.5), (32, 48, 64), depths=(1, 2), kernels=(3, 5)),
        search=DNAS(epochs=3, batch_size=64, start="even", trials=2, trial_epochs=4),
        train=FloatTraining(steps=5620, batch_size=32),
        quantize=Training(steps=281, learning_rate=0.0005),
    ),
    "paper": Options(
        preset="paper",
        space=Space(width=1.0),
        teacher=1.0,
        search=DNAS(epochs=200, batch_size=768),
        train=PAPER,
        quantize=dataclasses.replace(PAPER, epochs=20, learning_rate=0.002),
    ),
}
"""Defaults; epochs, batches and rates of ``paper`` are the paper's (appendix A.1), but for the
search's rates, which suit its own optimiser."""


def task(options: Options) -> Task:
    """Scenes, pixels, inverted bottlenecks."""
    from micronets_jax import data, metrics, pipeline, zoo

    channels = 3 if options.input.colour else 1
    surveys = surveyed(options, channels) if options.method == "tinynas" else []
    rows, columns = surveys[0].space.input_shape[:2] if surveys else options.input.size
    frontend = data.Pixels(rows, columns, channels=channels)
    dataset = data.visual_wake_words.load(
        options.data, frontend, size=options.preset, seed=options.seed
    )
    space = options.space.build(frontend.shape, dataset.num_classes, options.budget.mops)
    return pipeline.Task(
        dataset=dataset,
        frontend=frontend,
        augmentation=data.augment.Images(options.augmentation),
        space=surveys[0].space if surveys else space,
        metric=metrics.accuracy,
        published=zoo.SCORES["vww"],
        surveys=surveys,
    )


def surveyed(options: Options, channels: int) -> list[Survey]:
    """The spaces that TinyNAS may choose from, the chosen one first."""
    from micronets_jax import data
    from micronets_jax.spaces import survey

    num_classes = len(data.visual_wake_words.CLASS_NAMES)
    offered = survey.family(options.family, channels, num_classes)
    found = survey.survey(offered, experiment_cli.budget(options).fits, seed=options.seed)
    chosen = survey.best(found)
    print(survey.table(found))
    print(f"space: {chosen}")
    return [chosen, *(one for one in found if one is not chosen)]


VWW = experiment_cli.Experiment("vww", PRESETS, task)

if __name__ == "__main__":
    VWW.main()
