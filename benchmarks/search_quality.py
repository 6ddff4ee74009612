"""Do the searches find better networks than simpler ways, at the same limits and training?

    python -m benchmarks.search_quality --data SPEECH_COMMANDS --mops 1.2
    python -m benchmarks.search_quality --task vww --data PERSON --seeds 0
    python -m benchmarks.search_quality --data SPEECH_COMMANDS --mops 1.2 --pit
    python -m benchmarks.search_quality --data SPEECH_COMMANDS --table-only

For each budget and seed, all trained from scratch by the preset's recipe on the same examples in
the same order, from initial weights of that seed:

* dnas, and of pictures tinynas: what the search returns;
* plain: the task's plain network (DS-CNN, for pictures MobileNetV2), as wide as fits;
* balanced, rising, narrow, even: the search space's own layout, all its blocks, in proportions that
  nobody learned (``search.proposals.unlearned``): what the layout is worth without a search;
* pit, where asked for and of words and machines: the widths that another search learns
  (``benchmarks.pit``), from as many examples as dnas sees.

Beside these, once for each budget, random members of the space that fit and use at least 80 % of
the tightest limit. A way is reported with the share of them that are better on the test part, which
the noise of single trainings cannot hide; and the search beside the best of as many as its time
pays for. Examples are computed once for a seed, and each network's seconds, of processor time,
count as if it had computed them itself. The test part judges; the best of several is chosen by
validation.

Trainings are kept in ``benchmarks/tables``, so an interrupted run goes on, and what is measured
need not be measured again: a change to a search needs its own rows alone, found and trained anew
after they are deleted. One process at a time writes a table.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import scipy.special
import tyro

from experiments import ad, images, kws, vww
from micronets_jax import (
    accelerators,
    budgets,
    data,
    derive,
    files,
    pipeline,
    spaces,
    supernet,
    training,
    zoo,
)
from micronets_jax import search as searches
from micronets_jax.budgets import Budget
from micronets_jax.experiment_cli import Experiment
from micronets_jax.network import Network
from micronets_jax.search import proposals
from micronets_jax.search.random import draw

LAYOUTS = ("balanced", "rising", "narrow", "even")
TABLES = pathlib.Path(__file__).parent / "tables"

Row = dict[str, Any]
"""Of one network: what it ``used`` of the limits, ``seconds`` of search and training, the
``layers``, and for each training the score by split."""


class Subject(NamedTuple):
    """A task as it is compared.

    Attributes:
        experiment: its command line.
        mops: budgets by default.
        plain: networks of the task at growing widths.
        methods: searches that its spaces have.
        chosen_by: the split by which the best of several is chosen.
    """

    experiment: Experiment
    mops: tuple[float, ...]
    plain: Callable[[pipeline.Plan], Iterator[Network]]
    methods: tuple[str, ...] = ("dnas",)
    chosen_by: str = "validation"


def plain_dscnn(plan: pipeline.Plan) -> Iterator[Network]:
    """DS-CNN (Zhang et al., 2017), one width for all layers; behind its own stem, or behind that of
    a search space which has no stride there."""
    assert isinstance(plan.space, spaces.DSCNN)
    own = (10, 4) if plan.space.stem_stride != (1, 1) else plan.space.stem_kernel
    for width in range(4, 400):
        yield zoo.dscnn(
            [width] * 5,
            (2, 1, 1, 1),
            input_shape=plan.space.input_shape,
            stem_kernel=own,
            num_classes=plan.dataset.num_classes,
        )


def plain_pictures(plan: pipeline.Plan) -> Iterator[Network]:
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
    "kws": Subject(kws.KWS, (0.8, 1.2, 1.8), plain_dscnn),
    # No recording of a failing machine is in the validation part, so nothing can be chosen by it.
    "ad": Subject(ad.AD, (0.5, 0.7, 1.0), plain_dscnn, chosen_by="test"),
    "vww": Subject(vww.VWW, (1.5, 2.0, 3.0), plain_pictures, ("dnas", "tinynas")),
    "images": Subject(images.IMAGES, (6.0, 12.0, 25.0), plain_pictures),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare the searches with simpler ways at the same limits."""

    task: Literal["kws", "ad", "vww", "images"] = "kws"
    """What is learned."""
    mops: tuple[float, ...] = ()
    """Budgets: millions of operations; the board's memory limits hold besides."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of data order, initial weights and search."""
    members: int = 60
    """Random members of the space that are trained, with seed 0."""
    data: str = "embedded"
    """As the experiment of the task has it."""
    steps: int | None = None
    """Of each training; the preset's if not given."""
    pit: bool = False
    """Compare with PIT too, which needs PyTorch and PLiNIO."""
    table_only: bool = False
    """Print the table of what has been measured so far."""
    folder: pathlib.Path = TABLES
    """Where finished trainings are kept, a file for each task, data and budget."""


class Table:
    """Rows of a task, some data and a budget, written after each training.

    Attributes:
        rows: by name and seed, such as ``dnas 0``; random members are ``member 0`` and so on.
    """

    def __init__(self, options: Options, mops: float) -> None:
        parts = [options.task, pathlib.Path(options.data).name, f"{mops:g}"]
        parts += [f"{options.steps}-steps"] * (options.steps is not None)
        self.path = options.folder / f"{'-'.join(parts)}.json"
        self.rows: dict[str, Row] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def keep(self, name: str, row: Row) -> None:
        """Adds a row and writes the file, a line for each row."""
        self.rows[name] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in self.rows.items()]
        files.write(self.path, "{\n" + ",\n".join(lines) + "\n}\n")
        print(f"{self.path.stem}, {name}: {row['scores']}, {row['seconds']:.0f} s", flush=True)

    def named(self, name: str) -> list[Row]:
        """Rows of a name, one for each seed, or each member."""
        return [row for key, row in self.rows.items() if key.rsplit(" ", 1)[0] == name]


def main() -> None:
    """Train what is missing, then print the tables."""
    options = tyro.cli(Options, description=__doc__)
    accelerators.keep_memory()
    if options.pit and (said := without_pit(options)):
        sys.exit(f"error: --pit: {said}")
    if not options.mops:
        options = dataclasses.replace(options, mops=TASKS[options.task].mops)
    if not options.table_only:
        for seed in options.seeds:
            # One seed's examples serve all budgets, and are made only if something is missing.
            prepared = functools.cache(
                lambda seed=seed: prepare(plan(options, options.mops[0], seed))
            )
            for mops in options.mops:
                measure(options, mops, seed, prepared)
    subject = TASKS[options.task]
    compare(subject, [show(subject, Table(options, mops), mops) for mops in options.mops])


def without_pit(options: Options) -> str:
    """What keeps PIT from being compared with, a sentence; empty if nothing does."""
    if options.task not in ("kws", "ad"):
        return f"it prunes the spaces of kws and ad, not of {options.task}"
    missing = [name for name in ("torch", "plinio") if importlib.util.find_spec(name) is None]
    if missing:
        return f"Python finds no {' and no '.join(missing)}; see the head of benchmarks/pit.py"
    return ""


def prepare(plan: pipeline.Plan) -> tuple[training.Prepared, float]:
    """The augmented examples of every epoch, in the order of the plan's seed; and its seconds."""
    start = time.process_time()
    inputs = pipeline.inputs(plan)
    prepared = training.prepare(plan.dataset.train, inputs, plan.train, seed=plan.seed)
    return prepared, time.process_time() - start


def plan(options: Options, mops: float, seed: int, method: str = "dnas") -> pipeline.Plan:
    """What the task's preset quick does under this budget."""
    experiment = TASKS[options.task].experiment
    words = ["--data", options.data, "--seed", f"{seed}", "--budget.mops", f"{mops}"]
    words += ["--method", method, "--workdir", str(options.folder / "none")]
    words += [] if options.steps is None else ["--train.steps", f"{options.steps}"]
    return experiment.prepare(experiment.parse(words))


def measure(
    options: Options,
    mops: float,
    seed: int,
    prepared: Callable[[], tuple[training.Prepared, float]],
) -> None:
    """All networks of one budget and seed, each kept as soon as it is known."""
    subject, table, this = TASKS[options.task], Table(options, mops), plan(options, mops, seed)

    def keep(name: str, make: Callable[[], tuple[Network, float]]) -> None:
        if name in table.rows:
            return
        found, seconds = make()
        examples, preparation = prepared()
        start = time.process_time()
        scores = train(this, found, examples, sorted({subject.chosen_by, "test"}))
        used = {key: round(float(count), 3) for key, count in this.budget.used(found).items()}
        row = {
            "scores": {split: round(score, 5) for split, score in scores.items()},
            "seconds": round(seconds + preparation + time.process_time() - start, 1),
            "used": used,
            "layers": layers(found),
        }
        table.keep(name, row)

    for method in subject.methods:
        keep(f"{method} {seed}", lambda method=method: search(plan(options, mops, seed, method)))
    keep(f"plain {seed}", lambda: (widest(subject.plain(this), this.budget), 0.0))
    for name, layout in layouts(this).items():
        keep(f"{name} {seed}", lambda layout=layout: (layout, 0.0))
    if options.pit:
        keep(f"pit {seed}", lambda: pit(this, prepared()[0]))
    if seed:
        return
    drawn = draw(np.random.default_rng(seed), this.space, this.budget)
    for i, choice in zip(range(options.members), drawn, strict=False):
        keep(f"member {i}", lambda choice=choice: (this.space.decode(choice), 0.0))


def layers(found: Network) -> str:
    """The channels of every convolution that has weights, its kernel where that is no 1 x 1."""
    return " ".join(
        f"{layer.out_channels}"
        + (f"/{'x'.join(map(str, layer.kernel))}" * (layer.kernel != (1, 1)))
        for layer in found
        if layer.kind in ("conv", "depthwise")
    )


def train(
    plan: pipeline.Plan,
    subject: Network,
    examples: training.Prepared,
    splits: Sequence[str],
) -> dict[str, float]:
    """The task's headline number by split, after the recipe from scratch."""
    recipe = plan.train
    fresh = supernet.init(jax.random.key(plan.seed), subject)
    total = recipe.num_steps(examples.num_batches(recipe.batch_size))
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
    variables = derive.settled(
        subject, variables, examples, training.as_prepared, recipe, seed=plan.seed
    )
    apply: Any = supernet.Supernet(subject).apply
    scores = {}
    for split in splits:
        features = data.split_features(plan.dataset, split, plan.frontend)
        outputs = training.predict(apply, variables, features)
        scores[split] = float(
            next(iter(plan.metric(outputs, getattr(plan.dataset, split)).values()))
        )
    return scores


def search(plan: pipeline.Plan) -> tuple[Network, float]:
    """What the search finds, and its seconds."""
    start = time.process_time()
    made, problem = pipeline.searching(plan), pipeline.problem(plan)
    first = made.init(jax.random.key(plan.seed))
    *_, (state, _) = [(first, {}), *searches.run(made, first, plan.search, problem)]
    witness = budgets.feasible(plan.space, plan.budget)
    choice, _ = searches.decide(made.proposals(state), plan.search, problem, witness)
    return plan.space.decode(choice), time.process_time() - start


def pit(plan: pipeline.Plan, examples: training.Prepared) -> tuple[Network, float]:
    """What PIT finds, and its seconds."""
    from benchmarks import pit  # PyTorch and PLiNIO are asked for by no one else

    assert isinstance(plan.space, spaces.DSCNN)
    start, recipe = time.process_time(), plan.search
    steps = recipe.epochs * plan.dataset.train.num_batches(recipe.batch_size)
    network = pit.found(
        plan.space, plan.budget, examples.steps[:steps], recipe.learning_rate, plan.seed
    )
    return network, time.process_time() - start


def layouts(plan: pipeline.Plan) -> dict[str, Network]:
    """Of all blocks, in proportions that were not learned."""
    unlearned = {one.name: one for one in proposals.unlearned(plan.space, plan.budget)}
    fitting = proposals.fitting(plan.space, plan.budget, [unlearned[name] for name in LAYOUTS])
    return {one.name: plan.space.decode(one.choice) for one in fitting}


def widest(family: Iterator[Network], budget: Budget) -> Network:
    """The last of a family that fits."""
    return list(itertools.takewhile(budget.fits, family))[-1]


def best_of(count: int, members: Sequence[Row], chosen_by: str) -> float:
    """The test score to expect of the best of ``count`` random members, chosen by another split.

    The mean over all sets of that size, without drawing any: of members in falling order, the i-th
    is the best of a set with the probability that the others are among those after it.
    """
    ordered = sorted(members, key=lambda row: -row["scores"][chosen_by])
    after = len(ordered) - 1 - np.arange(len(ordered))
    odds = scipy.special.comb(after, count - 1) / scipy.special.comb(len(ordered), count)
    return float(np.dot(odds, [row["scores"]["test"] for row in ordered]))


def show(subject: Subject, table: Table, mops: float) -> dict[str, np.ndarray]:
    """Prints means over seeds, and the share of random members that are better.

    Returns:
        For each way the test scores of its seeds, or one score where there are none.
    """
    members = table.named("member")
    scores: dict[str, np.ndarray] = {}
    print(f"\n{mops:g} million operations")
    print(
        f"{'':18}{'seeds':>6}{subject.chosen_by:>12}{'test':>8}{'error':>7}{'  better members':>17}"
    )

    def line(name: str, seeds: int, chosen: float, found: np.ndarray, error: float) -> None:
        scores[name] = found
        rank = np.mean([row["scores"]["test"] > found.mean() for row in members or [{}]])
        said = f"{rank:>16.0%}" if members else ""
        print(f"{name:18}{seeds:>6}{chosen:>12.1%}{found.mean():>8.1%}{error:>7.1%}{said}")

    for name in (*subject.methods, "plain", *LAYOUTS, "pit"):
        if rows := table.named(name):
            test = np.array([row["scores"]["test"] for row in rows])
            chosen = np.mean([row["scores"][subject.chosen_by] for row in rows])
            error = test.std(ddof=1) / np.sqrt(len(test)) if len(test) > 1 else np.nan
            line(name, len(test), float(chosen), test, float(error))
    if members:
        test = np.array([row["scores"]["test"] for row in members])
        chosen = float(np.mean([row["scores"][subject.chosen_by] for row in members]))
        line("random", len(test), chosen, test.mean(keepdims=True), test.std() / len(test) ** 0.5)
        for method in subject.methods:
            if rows := table.named(method):
                seconds = np.mean([row["seconds"] for row in rows])
                each = np.mean([row["seconds"] for row in members])
                count = int(np.clip(seconds // each, 1, len(members)))
                expected = best_of(count, members, subject.chosen_by)
                print(f"best of {count}, which take as long as {method}: {expected:.1%}")
                scores[f"best of {count}"] = np.array([expected])
    return scores


def compare(subject: Subject, tables: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Prints how much better each search is than everything else, over budgets and seeds."""
    for method in subject.methods:
        gaps: dict[str, list[float]] = {}
        for scores in tables:
            for other, theirs in scores.items():
                if method not in scores or other in subject.methods:
                    continue
                ours = scores[method]
                paired = theirs if len(theirs) == len(ours) else theirs.mean()
                gaps.setdefault(other.split(" ")[0], []).extend(100 * (ours - paired))
        for other, values in gaps.items():
            error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            print(
                f"{method} less {other:9}{np.mean(values):+6.2f} points, standard error "
                f"{error:.2f}, {len(values)} pairs"
            )


if __name__ == "__main__":
    main()
