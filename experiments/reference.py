"""A published network, trained by the paper's recipe, quantised, exported, measured.

Paper: MicroNets (Banbury et al., MLSys 2021), table 1 and appendix A.1. Nothing is searched: the
network is one of `micronets zoo`, and everything else is as in the experiment of its task.

    python -m experiments.reference --model MicroNet-KWS-S --data tfds --accelerator gpu
    python -m experiments.reference --model MicroNet-AD-S --data ./slider
    python -m experiments.reference --model MicroNet-KWS-S --preset quick   # embedded data, minutes

Expected (paper, on its data): MicroNet-KWS-S 95.3 %, MicroNet-AD-S AUC 0.9535. Not measured here,
for the public data cannot be had on the machine that this was written on.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tyro

from experiments import ad, kws, vww
from micronets_jax import experiment_cli, recipes

if TYPE_CHECKING:
    from micronets_jax.pipeline import Task

HOMES = {"KWS": kws, "DSCNN": kws, "AD": ad, "VWW": vww}
"""The experiment of a task, by the word that names it in a model's name."""


@dataclasses.dataclass(frozen=True)
class Options(experiment_cli.Options):
    """Train a published network: quantise, export, check."""

    model: str = "MicroNet-KWS-S"
    """Its name; `micronets zoo` lists all."""
    device: str = "STM32F767ZI"
    """The board that it must fit; the largest by default."""
    search: tyro.conf.Suppress[recipes.Search] = recipes.DNAS()


def home(model: str) -> Any:
    """The experiment of the task that a network was published for; keyword spotting if unknown."""
    return next((HOMES[word] for word in HOMES if word in model.split("-")), kws)


def presets(model: str) -> dict[str, Options]:
    """The trainings of the network's task."""
    return {
        name: Options(
            preset=options.preset,
            model=model,
            workdir=pathlib.Path("runs") / f"{model}-{name}",
            train=options.train,
            quantize=options.quantize,
        )
        for name, options in home(model).PRESETS.items()
    }


def task(options: Options) -> Task:
    """The task that the network was published for, with this network in place of its space."""
    from micronets_jax import spaces, zoo

    rows, columns, _ = zoo.network(options.model).input_shape  # an unknown name is refused here
    theirs = home(options.model)
    own = {"input": vww.Input(size=(rows, columns))} if theirs is vww else {}
    preset = theirs.PRESETS[options.preset]
    like = theirs.task(dataclasses.replace(preset, data=options.data, seed=options.seed, **own))
    network = zoo.network(options.model, like.dataset.num_classes)
    return dataclasses.replace(like, space=spaces.Only(network))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; the model decides the defaults of the training."""
    arguments = sys.argv[1:] if arguments is None else arguments
    model = experiment_cli.value_of("--model", arguments) or Options.model
    experiment_cli.Experiment("reference", presets(model), task).main(arguments)


if __name__ == "__main__":
    main()
