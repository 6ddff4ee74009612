"""Keyword spotting: find a DS-CNN that fits a board, train it, quantise it, check it.

Paper: MicroNets (Banbury et al., MLSys 2021), section 5.2, enlarged DS-CNN on Speech Commands V2.

    python -m experiments.kws                                 # embedded data, this machine
    python -m experiments.kws --data ./my_words --device STM32F446RE
    python -m experiments.kws --preset paper --data tfds --accelerator tpu
    python -m experiments.kws --predict yes.wav --workdir runs/kws-quick

Expected (paper, Speech Commands): MicroNet-KWS-S 95.3 %, 16.4 million operations; not measured
here, for the data cannot be had on the machine that this was written on.
Measured (embedded data, preset quick, seed 0, two cores, `make kws`): 90.1 % float at 1.16 million
operations; 88.9 % int8 after three epochs of quantisation, which is why it now has six. Three
epochs made 226 s in all, 2.2 GB of memory at most.

Nothing heavy is imported before the command line has been read.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from micronets_jax.recipes import Limits, Search, Training

if TYPE_CHECKING:
    from micronets_jax.pipeline import Plan


@dataclasses.dataclass(frozen=True)
class Space:
    """Largest member of the search space."""

    max_width: int = 64
    """Most channels of any layer; widths run from 10 % to 100 % of it."""
    blocks: int = 7
    """Depthwise-separable blocks before any is left out; the first has stride 2."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Find a keyword spotter that fits a board: search, train, quantise, export, check."""

    preset: Literal["tiny", "quick", "paper"] = "quick"
    """Defaults of all below: tiny tests the path, quick takes minutes, paper is the paper's."""
    data: str = "embedded"
    """embedded (synthesised words), tfds (Speech Commands), or a folder of <word>/*.wav."""
    words: tuple[str, ...] = ()
    """Words to tell apart in a folder; all other folders become the class unknown."""
    device: str = "STM32F446RE"
    """The board; its memory less what firmware takes is the limit."""
    budget: Limits = Limits()
    """Limits that override the board's."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """What computes the search. Decides nothing but the speed."""
    seed: int = 0
    """Of everything random; the same seed on the same machine gives the same files."""
    workdir: pathlib.Path | None = None
    """Folder of results; runs/kws-PRESET if not given."""
    resume: bool = False
    """Continue the run that the folder holds."""
    predict: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="FILE.wav")] = None
    """Classify this recording with the folder's model, and do nothing else."""
    space: Space = Space()
    search: Search = Search()
    train: Training = Training()
    quantize: Training = Training(epochs=6, learning_rate=0.0005)


PRESETS = {
    "tiny": Options(
        preset="tiny",
        budget=Limits(mops=0.6),
        space=Space(max_width=40, blocks=2),
        search=Search(epochs=6, candidates=4, batch_size=32),
        train=Training(epochs=6, batch_size=32),
        quantize=Training(epochs=1, batch_size=32, learning_rate=0.0005),
    ),
    "quick": Options(
        preset="quick",
        budget=Limits(mops=1.2),
        search=Search(epochs=12, batch_size=64, candidates=16),
        train=Training(epochs=25),
    ),
    "paper": Options(
        preset="paper",
        budget=Limits(latency_ms=250.0),
        space=Space(max_width=276, blocks=9),
        search=Search(epochs=100, batch_size=512),
        train=Training(
            epochs=100,
            batch_size=256,
            learning_rate=0.02,
            final_learning_rate=0.00008,
            weight_decay=0.002,
        ),
        quantize=Training(epochs=10, batch_size=256, learning_rate=0.0005),
    ),
}
"""Defaults; the rates, epochs and batch sizes of ``paper`` are the paper's (appendix A.1)."""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from micronets_jax import console
    from micronets_jax.accelerators import AcceleratorError
    from micronets_jax.data import DataError
    from micronets_jax.workdir import WorkdirError

    with console.errors(AcceleratorError, ValueError, OSError):
        if options.predict is not None:
            return predict(options.predict, folder(options))
        plan = prepare(options, arguments)
    with console.errors(DataError, WorkdirError, OSError):
        run(plan, options)


def parse(arguments: list[str]) -> Options:
    """Options from words; the preset among them decides the defaults of the others."""
    first = dict(itertools.pairwise(arguments))
    single = [word.partition("=")[2] for word in arguments if word.startswith("--preset=")]
    name = (single or [first.get("--preset", "quick")])[-1]
    default = PRESETS.get(name, PRESETS["quick"])
    return tyro.cli(
        Options,
        args=arguments,
        default=default,
        description=Options.__doc__,
        prog="python -m experiments.kws",
    )


def prepare(options: Options, arguments: list[str]) -> Plan:
    """Everything that a run needs, checked before anything is written."""
    from micronets_jax import accelerators, budgets, data, devices, pipeline, workdir
    from micronets_jax.spaces import DSCNN

    workdir.check(folder(options), resume=options.resume)
    device = devices.device(options.device)
    budget = budgets.Budget.of(device, options.budget)
    print(f"computing on {accelerators.select(options.accelerator)}")
    frontend = data.MFCC()
    dataset = data.load(
        options.data, size=options.preset, seed=options.seed, words=options.words or None
    )
    print(dataset)
    strides = (2, *[1] * (options.space.blocks - 1))
    space = DSCNN(frontend.shape, dataset.num_classes, options.space.max_width, strides=strides)
    budgets.feasible(space, budget)
    return pipeline.Plan(
        dataset=dataset,
        frontend=frontend,
        augmentation=data.Augmentation(),
        space=space,
        budget=budget,
        device=device,
        search=options.search,
        train=options.train,
        quantize=options.quantize,
        seed=options.seed,
        facts={
            "experiment": "kws",
            "preset": options.preset,
            "command": " ".join(["python -m experiments.kws", *arguments]),
        },
    )


def run(plan: Plan, options: Options) -> None:
    """The whole path; its results lie in the work folder."""
    from micronets_jax import console, pipeline, workdir

    configuration = dataclasses.asdict(options)
    for name in ("workdir", "resume", "predict", "accelerator"):
        del configuration[name]
    configuration["data_fingerprint"] = plan.dataset.fingerprint
    with workdir.Workdir(folder(options), configuration, options.resume) as place:
        with console.Console() as screen:
            summary = pipeline.run(plan, place, screen)
        console.show(summary, place.path)


def folder(options: Options) -> pathlib.Path:
    """Where results lie."""
    return options.workdir or pathlib.Path("runs") / f"kws-{options.preset}"


def predict(recording: pathlib.Path, run_folder: pathlib.Path) -> None:
    """Say which word a recording holds, by the model of a finished run."""
    from micronets_jax import data, pipeline

    clip = data.read_clip(recording)
    for name, probability in pipeline.classify(run_folder, clip)[:3]:
        print(f"{name:12} {probability:6.1%}")


if __name__ == "__main__":
    main()
