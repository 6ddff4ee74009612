"""What does it bring to search for the program that is delivered? One limit, two runtimes.

    python -m benchmarks.runtime_gain                                 # embedded data, three seeds
    python -m benchmarks.runtime_gain --cells words-16 --data SPEECH_COMMANDS --seeds 0
    python -m benchmarks.runtime_gain --largest                       # no training, a minute

A cell is a task and a limit on memory, of which all that the firmware takes counts; operations are
limited of pictures alone, to 12 million. For each seed the search of the task's preset quick runs
once under TensorFlow Lite Micro (``tflm``) and once for compiled C (``compiled``), and what each
finds is trained from scratch by the same recipe on the same examples in the same order. Scores are
of the network in float, on validation and test examples, none of which anything was chosen by.

Finished measurements are kept in the folder, and a second call goes on from there. ``--steps`` and
``--epochs`` shorten trainings and searches alike under both.

``--largest`` says, of pictures of 144 x 144 pixels in 64 KiB, how many multiply-accumulates the
widest MobileNetV2 has under TFLM, as compiled C of whole tensors, and of rows where that is less.

Words on Warden's Speech Commands (2026-12-01, a subset of 2,397, 490 and 453 clips of twelve
classes, ``--steps 1500``), means over the seeds 0, 1 and 2 in 16 KiB, and seed 0 in 32. Compiled C
by rows has room for the largest network of the space; the contest took a smaller one for seed 2:

======  ========  ====  ======  =======  =====================  ======
limit   runtime   Mops  SRAM    flash    score, each            mean
======  ========  ====  ======  =======  =====================  ======
16 KiB  compiled  8.21  10,353   94,010  88.1, 88.4 and 87.4 %  88.0 %
16 KiB  tflm      0.87  16,139  125,901  84.3, 83.0 and 82.3 %  83.2 %
32 KiB  compiled  9.43  11,204   97,314  88.3 %                 88.3 %
32 KiB  tflm      4.60  30,880  169,106  87.7 %                 87.7 %
======  ========  ====  ======  =======  =====================  ======

In 16 KiB compiled C is 4.8 points better, standard error 0.5. TFLM's flash was counted 640 bytes
lower then than it is now.

Pictures of 144 x 144, persons, in 64 KiB and at most 12 million operations (2026-12-01, ``--cells
large-64 --data PERSON --seeds 0 --steps 2000``; pictures of that set are smaller, so they are
enlarged; 1,346 s of processor time): compiled C by rows finds 11.49 million operations in 36,316
bytes of memory and 54,542 of flash, right on 97.3 % of 1,617 validation and test pictures (standard
error 0.4). Under TFLM no network of that space fits: its least one takes 65,748 bytes.

``--largest`` (2026-11-30), millions of multiply-accumulates: tflm 0.79 (width 0.04, 62,572 bytes),
whole tensors 1.19 (width 0.06, 44,188 bytes), rows 116.03 (width 0.95, 65,316 bytes).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tyro

from benchmarks import search_quality
from experiments import kws, vww
from micronets_jax import (
    accelerators,
    budgets,
    console,
    cost,
    devices,
    files,
    network,
    pipeline,
    targets,
    zoo,
)
from micronets_jax.experiment_cli import Experiment
from micronets_jax.experiment_cli import Options as Settings
from micronets_jax.network import Network
from micronets_jax.recipes import Limits
from micronets_jax.targets.compiled.memory import arena_bytes
from micronets_jax.targets.compiled.rows import least_arena_bytes

KIB = 1024


class Cell(NamedTuple):
    """A task and a limit on its memory.

    Attributes:
        experiment: its command line.
        settings: the preset quick with a space in which memory binds.
        sram_bytes: the limit.
        mops: limit of millions of operations, of pictures: on a CPU a network that fills the
            memory by rows would train for hours.
    """

    experiment: Experiment
    settings: Settings
    sram_bytes: int
    mops: float | None = None


# Maps of time and coefficients, which memory limits, and wide enough that late layers, which it
# hardly limits, are not what limits a network.
WORDS = dataclasses.replace(
    kws.PRESETS["quick"], space=kws.Space("planar", max_width=96, blocks=6, halvings=(1, 2))
)
PICTURES = dataclasses.replace(
    vww.PRESETS["quick"],
    input=vww.Input(size=(96, 96)),
    space=dataclasses.replace(vww.PRESETS["quick"].space, width=0.5),
)
LARGE = dataclasses.replace(PICTURES, input=vww.Input(size=(144, 144)))
CELLS = {
    "words-16": Cell(kws.KWS, WORDS, 16 * KIB),
    "words-32": Cell(kws.KWS, WORDS, 32 * KIB),
    "pictures-64": Cell(vww.VWW, PICTURES, 64 * KIB, mops=12.0),
    "large-64": Cell(vww.VWW, LARGE, 64 * KIB, mops=12.0),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Search at the same limit of memory under each runtime."""

    cells: tuple[str, ...] = ("words-16", "words-32", "pictures-64")
    """Of CELLS: a task, and its limit in KiB."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of data order, initial weights and search."""
    data: str = "embedded"
    """As the experiment of the task has it."""
    steps: int | None = None
    """Of each training; the preset's if not given."""
    epochs: int | None = None
    """Of each search, warm-up included; the preset's if not given."""
    largest: bool = False
    """Count the largest networks, and train none."""
    folder: pathlib.Path = pathlib.Path("runs/runtime_gain")
    """Where finished measurements are kept."""


def main() -> None:
    """Measure what is missing, then print the table."""
    options = tyro.cli(Options, description=__doc__)
    if options.largest:
        return largest()
    with console.errors(ValueError, OSError):
        if unknown := set(options.cells) - set(CELLS):
            raise ValueError(f"cells={min(unknown)!r} is unknown; give some of {', '.join(CELLS)}")
        accelerators.keep_memory()
        return trained(options)


def trained(options: Options) -> None:
    """What is missing, then the table."""
    options.folder.mkdir(parents=True, exist_ok=True)
    for cell, seed in itertools.product(options.cells, options.seeds):
        # Of a task, all runtimes train on the same examples.
        examples = functools.cache(
            lambda cell=cell, seed=seed: search_quality.prepare(
                plan(options, cell, seed, "compiled")
            )
        )
        for runtime in targets.TARGETS:
            try:
                measure(options, cell, seed, runtime, examples)
            except ValueError as error:  # nothing of the space fits
                print(f"{cell}, seed {seed}, {runtime}: {error}", flush=True)
    table(options)


def plan(options: Options, cell: str, seed: int, runtime: str) -> pipeline.Plan:
    """What the task's preset does at the cell's limit."""
    experiment, settings, sram_bytes, mops = CELLS[cell]
    train, search = settings.train, settings.search
    if options.steps is not None:
        train = dataclasses.replace(train, steps=options.steps)
    if options.epochs is not None:
        search = dataclasses.replace(search, epochs=options.epochs)
    return experiment.prepare(
        dataclasses.replace(
            settings, data=options.data, seed=seed, runtime=runtime, train=train, search=search,
            budget=Limits(sram_bytes=sram_bytes, mops=mops), firmware=False,
            workdir=options.folder / "none",
        )
    )  # fmt: skip


def path(options: Options, cell: str, seed: int, runtime: str) -> pathlib.Path:
    """Where a measurement is kept."""
    short = [f"{v}" for v in (options.steps, options.epochs) if v is not None]
    parts = (cell, pathlib.Path(options.data).name, *short, str(seed), runtime)
    return options.folder / f"{'-'.join(parts)}.json"


def measure(
    options: Options, cell: str, seed: int, runtime: str, examples: Callable[[], tuple[Any, float]]
) -> None:
    """Searches and trains, unless that is known."""
    kept = path(options, cell, seed, runtime)
    if kept.exists():
        return
    this, started = plan(options, cell, seed, runtime), time.process_time()
    found, _ = search_quality.search(this)
    scores = search_quality.train(this, found, examples()[0], ("validation", "test"))
    sizes = [len(getattr(this.dataset, split)) for split in scores]
    score = float(np.average(list(scores.values()), weights=sizes))
    used = {name: int(count) for name, count in this.budget.used(found).items()}
    row = {
        "ops": cost.ops(found),
        **used,
        "score": score,
        "seconds": time.process_time() - started,
        "network": json.loads(network.to_json(found)),
    }
    files.write(kept, json.dumps(row))
    print(
        f"{cell}, seed {seed}, {runtime}: {row['ops'] / 1e6:.2f} Mops, {used}, {score:.1%}, "
        f"{row['seconds']:.0f} s of processor",
        flush=True,
    )


def table(options: Options) -> None:
    """Means over the seeds that are known, and what compiled C has more of."""
    gaps = []
    print("cell         seeds runtime     Mops    SRAM    flash   score")
    for cell in options.cells:
        rows = [
            {r: json.loads(path(options, cell, seed, r).read_text()) for r in targets.TARGETS}
            for seed in options.seeds
            if all(path(options, cell, seed, r).exists() for r in targets.TARGETS)
        ]
        for runtime in targets.TARGETS if rows else ():
            ops, sram, flash, score = (
                float(np.mean([row[runtime][key] for row in rows]))
                for key in ("ops", "sram_bytes", "flash_bytes", "score")
            )
            print(
                f"{cell:<12} {len(rows):>5} {runtime:<9} {ops / 1e6:>6.2f} {sram:>7.0f} "
                f"{flash:>8.0f} {score:>7.1%}"
            )
        gaps += [100 * (row["compiled"]["score"] - row["tflm"]["score"]) for row in rows]
    if gaps:
        error = np.std(gaps, ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.nan
        print(
            f"compiled less tflm: {np.mean(gaps):+.2f} points, standard error {error:.2f}, "
            f"{len(gaps)} pairs"
        )


# ---------------------------------------------------------------- without training


def largest() -> None:
    """Prints the multiply-accumulates of the widest MobileNetV2 that fits in each way."""
    board = devices.device("STM32F446RE")
    used = {
        name: functools.partial(taken, budgets.Budget.of(board, runtime=name))
        for name in targets.TARGETS
    }

    def whole(network: Network) -> int:
        return used["compiled"](network) - least_arena_bytes(network) + arena_bytes(network)

    ways = {"tflm": used["tflm"], "whole tensors": whole, "rows": used["compiled"]}
    for way, sram in ways.items():
        best = None
        for percent in range(1, 101):
            one = zoo.mobilenet_v2(percent / 100, (144, 144, 1), 2, multiple=1, narrow_last=True)
            if sram(one) > 64 * KIB:
                break
            best = percent, one
        said = "none fits"
        if best is not None:
            percent, one = best
            said = (
                f"{cost.macs(one) / 1e6:7.2f} million at width {percent / 100}, {sram(one):,} bytes"
            )
        print(f"{way:<15} {said}", flush=True)


def taken(budget: budgets.Budget, network: Network) -> int:
    """Bytes of memory of a firmware with this network."""
    return int(budget.used(network)["sram_bytes"])


if __name__ == "__main__":
    main()
