"""Does the search find better networks than simpler ways, at the same limits and training?

    python -m benchmarks.search_quality                      # 3 budgets x 3 seeds
    python -m benchmarks.search_quality --task kws --mops 1.2 --seeds 0

For each budget and seed, all trained from scratch by the same recipe on the same data:

* found: what the search returns;
* scaled: the task's plain network (DS-CNN, for pictures MobileNetV2), as wide as fits;
* random: five networks drawn from the space that fit and use at least 80 % of the tightest limit,
  their mean, and the best of as many as search plus training pays for in time.

The augmented examples of a seed are computed once, and every network is trained on them in the
same order; each network's seconds count as if it had computed them itself. Every finished network
is kept in ``runs/search_quality``, so an interrupted run goes on; two processes with different
seeds may share the work. Scores are of the network in float.

Random networks have not been measured whole. Of words, largest width 40 (2026-11-27):

======  ====  ======  ======  =====================================
Mops    seed  found   scaled  five random networks
======  ====  ======  ======  =====================================
0.8     0     83.5 %  83.8 %  79.5 % (70.7 to 86.1 %)
0.8     1     85.5 %  83.0 %  not measured
0.8     2     82.8 %  82.1 %  not measured
1.2     0     88.1 %  86.5 %  82.3 % (75.2 to 87.4 %)
1.2     1     83.6 %  83.6 %  not measured
1.2     2     83.8 %  86.2 %  not measured
1.8     0     89.2 %  88.9 %  three of them: 81.9 % (79.7 to 85.2 %)
1.8     1     86.3 %  88.2 %  not measured
1.8     2     86.8 %  87.7 %  not measured
======  ====  ======  ======  =====================================

Found less scaled: -0.04 points in the mean, standard error 0.52: no better. One architecture,
trained twice from other initial weights, ended at 83.5 and 86.3 %.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tyro

from experiments import ad, kws, vww
from micronets_jax import budgets, data, dnas, files, network, pipeline, supernet, training, zoo
from micronets_jax.experiment import Experiment
from micronets_jax.network import Network
from micronets_jax.recipes import Limits

NUM_RANDOM = 5


class Subject(NamedTuple):
    """A task as it is compared.

    Attributes:
        experiment: its command line.
        mops: budgets by default.
        splits: what scores are taken on; nothing here was chosen or trained by any of them.
        family: the plain network of a task at growing widths.
    """

    experiment: Experiment
    mops: tuple[float, ...]
    splits: tuple[str, ...]
    family: Callable[[pipeline.Plan], Iterator[Network]]


def plain_kws(plan: pipeline.Plan) -> Iterator[Network]:
    """DS-CNN (Zhang et al., 2017), stem and four blocks, one width for all layers."""
    for width in range(4, 400):
        yield zoo.dscnn([width] * 5, (2, 1, 1, 1), num_classes=plan.dataset.num_classes)


def plain_ad(plan: pipeline.Plan) -> Iterator[Network]:
    """DS-CNN with the stem and the strides of MicroNet-AD-L, one width for all layers."""
    for width in range(4, 400):
        yield zoo.dscnn(
            [width] * 6,
            (2, 1, 1, 2, 2),
            input_shape=plan.frontend.shape,
            stem_kernel=(3, 3),
            num_classes=plan.dataset.num_classes,
        )


def plain_vww(plan: pipeline.Plan) -> Iterator[Network]:
    """MobileNetV2, all its widths times one multiplier, to whole channels."""
    for percent in range(1, 200):
        yield zoo.mobilenet_v2(
            percent / 100,
            plan.frontend.shape,
            plan.dataset.num_classes,
            multiple=1,
            narrow_last=True,
        )


TASKS = {
    "kws": Subject(kws.KWS, (0.8, 1.2, 1.8), ("validation", "test"), plain_kws),
    "ad": Subject(ad.AD, (1.2, 2.0, 3.0), ("test",), plain_ad),
    "vww": Subject(vww.VWW, (3.0, 4.0, 5.0), ("validation", "test"), plain_vww),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare the search with simpler ways at the same limits."""

    task: Literal["kws", "ad", "vww"] = "kws"
    """What is learned."""
    mops: tuple[float, ...] = ()
    """Budgets: millions of operations; the board's memory limits hold besides."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of data order, initial weights, search and random networks."""
    data: str = "embedded"
    """As the experiment of the task has it."""
    table_only: bool = False
    """Print the table of what has been measured so far."""
    folder: pathlib.Path = pathlib.Path("runs/search_quality")
    """Where finished measurements are kept."""


def main() -> None:
    """Measure what is missing, then print the table."""
    options = tyro.cli(Options, description=__doc__)
    if not options.mops:
        options = dataclasses.replace(options, mops=TASKS[options.task].mops)
    options.folder.mkdir(parents=True, exist_ok=True)
    if not options.table_only:
        for seed in options.seeds:
            # One seed's examples serve all budgets, and are made only if something is missing.
            prepared = functools.cache(
                lambda seed=seed: prepare(plan(options, options.mops[0], seed))
            )
            for mops in options.mops:
                measure(options, mops, seed, prepared)
    table(options)


def prepare(plan: pipeline.Plan) -> tuple[training.Prepared, float]:
    """The augmented examples of every epoch, in the order of the plan's seed; and its seconds."""
    start = time.monotonic()
    inputs = pipeline.inputs(plan)
    prepared = training.prepare(plan.dataset.train, inputs, plan.train, seed=plan.seed)
    return prepared, time.monotonic() - start


def plan(options: Options, mops: float, seed: int) -> pipeline.Plan:
    """What the task's preset quick does under this budget."""
    experiment = TASKS[options.task].experiment
    settings = dataclasses.replace(
        experiment.presets["quick"],
        data=options.data,
        seed=seed,
        budget=Limits(mops=mops),
        workdir=options.folder / "none",
    )
    return experiment.prepare(settings)


def measure(
    options: Options,
    mops: float,
    seed: int,
    prepared: Callable[[], tuple[training.Prepared, float]],
) -> None:
    """All networks of one budget and seed, each kept as soon as it is known."""
    this = plan(options, mops, seed)
    rng = np.random.default_rng(seed)

    def keep(name: str, make: Callable[[], tuple[Network, float]]) -> dict:
        path = options.folder / f"{prefix(options)}-{mops}-{seed}-{name}.json"
        if path.exists():
            return json.loads(path.read_text())
        subject, seconds = make()
        examples, preparation = prepared()
        start = time.monotonic()
        score = train(this, subject, examples, TASKS[options.task].splits)
        row = {
            "score": score,
            "seconds": seconds + preparation + time.monotonic() - start,
            "usage": {k: float(v) for k, v in this.budget.usage(subject).items()},
            "network": json.loads(network.to_json(subject)),
        }
        files.write(path, json.dumps(row))
        print(f"{mops} Mops, seed {seed}, {name}: {score:.1%}, {row['seconds']:.0f} s", flush=True)
        return row

    keep("found", lambda: search(this))
    keep("scaled", lambda: (widest(options, this), 0.0))
    for i in range(NUM_RANDOM):
        drawn = random_member(this, rng)
        keep(f"random{i}", lambda drawn=drawn: (drawn, 0.0))


def prefix(options: Options) -> str:
    """What the files of a task on some data begin with."""
    return f"{options.task}-{pathlib.Path(options.data).name}"


def train(
    plan: pipeline.Plan, subject: Network, examples: training.Prepared, splits: Sequence[str]
) -> float:
    """The task's headline number on these splits after the recipe, from scratch."""
    recipe = plan.train
    fresh = supernet.init(jax.random.key(plan.seed), subject)
    total = examples.num_batches(recipe.batch_size) * recipe.epochs
    state = training.init(fresh["params"], fresh["batch_stats"], recipe, total)
    epochs = training.fit(
        training.float_model(subject),
        state,
        examples,
        training.as_prepared,
        recipe,
        seed=plan.seed,
    )
    *_, (state, _) = epochs
    variables = {"params": state.trainable, "batch_stats": state.stats}
    scores, sizes = [], []
    for split in splits:
        features = data.split_features(plan.dataset, split, plan.frontend)
        outputs = training.predict(
            lambda x: supernet.Supernet(subject).apply(variables, x), features
        )
        numbers = plan.metric(outputs, getattr(plan.dataset, split))
        scores.append(next(iter(numbers.values())))
        sizes.append(len(outputs))
    return float(np.average(scores, weights=sizes))


def search(plan: pipeline.Plan) -> tuple[Network, float]:
    """What the search finds, and its seconds."""
    start = time.monotonic()
    halves = plan.dataset.train.halves(plan.seed)
    total = dnas.steps_per_epoch(plan.search, halves) * plan.search.epochs
    state = dnas.init(jax.random.key(plan.seed), plan.space, plan.search, plan.budget, total)
    epochs = dnas.search(
        state, plan.space, plan.search, plan.budget, halves, pipeline.inputs(plan), seed=plan.seed
    )
    *_, (state, _) = epochs
    found = pipeline.decide(plan, state, halves, budgets.feasible(plan.space, plan.budget))
    return found, time.monotonic() - start


def widest(options: Options, plan: pipeline.Plan) -> Network:
    """The widest of the task's plain networks that fits."""
    family = TASKS[options.task].family(plan)
    return list(itertools.takewhile(plan.budget.fits, family))[-1]


def random_member(plan: pipeline.Plan, rng: np.random.Generator) -> Network:
    """A uniform draw from the space that fits and uses 80 % of the tightest limit or more."""
    while True:
        choice = {
            name: np.eye(options, dtype=np.int32)[rng.integers(0, options, decisions)]
            for name, (decisions, options) in plan.space.options().items()
        }
        member = plan.space.decode(choice)
        if plan.budget.fits(member) and max(plan.budget.usage(member).values()) >= 0.8:
            return member


def table(options: Options) -> None:
    """Scores by budget, mean over seeds, and the differences with their standard errors."""
    cells: list[dict[str, Any]] = []
    print(f"{'Mops':>6} {'seeds':>5} {'found':>7} {'scaled':>7} {'random':>7} {'best of n':>12}")
    for mops in options.mops:
        here = []
        for seed in options.seeds:
            paths = {
                p.stem.rsplit("-", 1)[1]: p
                for p in options.folder.glob(f"{prefix(options)}-{mops}-{seed}-*")
            }
            if len(paths) < NUM_RANDOM + 2:
                continue
            rows = {key: json.loads(path.read_text()) for key, path in paths.items()}
            randoms = [rows[f"random{i}"] for i in range(NUM_RANDOM)]
            cost = np.mean([row["seconds"] for row in randoms])
            count = int(min(max(rows["found"]["seconds"] // cost, 1), NUM_RANDOM))
            here.append(
                {
                    "found": rows["found"]["score"],
                    "scaled": rows["scaled"]["score"],
                    "random": np.mean([row["score"] for row in randoms]),
                    "best": max(row["score"] for row in randoms[:count]),
                    "count": count,
                }
            )
        if here:
            mean = {key: np.mean([cell[key] for cell in here]) for key in here[0]}
            print(
                f"{mops:6} {len(here):5} {mean['found']:7.1%} {mean['scaled']:7.1%} "
                f"{mean['random']:7.1%} {mean['best']:7.1%} ({mean['count']:.0f})"
            )
        cells += here
    if len(cells) > 1:
        for other in ("scaled", "random", "best"):
            gaps = np.array([100 * (cell["found"] - cell[other]) for cell in cells])
            error = gaps.std(ddof=1) / np.sqrt(len(gaps))
            print(
                f"found - {other:7} {gaps.mean():+5.2f} points, standard error {error:.2f}, "
                f"{len(gaps)} pairs"
            )


if __name__ == "__main__":
    main()
