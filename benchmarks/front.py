"""How long do search and contest take for several limits at once, and for one?

    python -m benchmarks.front --mops 1.2
    python -m benchmarks.front --mops 0.8 1.2 1.8
    python -m benchmarks.front --mops 0.8 1.2 1.8 --data FOLDER

Processor seconds of one process, everything that is compiled included, for keyword spotting with
its quick preset; what the contest chose for each limit is printed too, with the held-out loss that
it reached.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import jax
import tyro

from experiments import kws
from micronets_jax import accelerators, budgets, experiment_cli, pipeline, search


@dataclasses.dataclass(frozen=True)
class Options:
    """Time one search and its contest."""

    mops: tuple[float, ...] = (0.8, 1.2, 1.8)
    """Limits, in millions of operations."""
    data: str = "embedded"
    """What the experiment reads."""
    preset: str = "quick"
    seed: int = 0


def plans(options: Options) -> Iterator[pipeline.Plan]:
    """One for each limit, as the command line would make them."""
    words = ["--preset", options.preset, "--data", options.data, "--seed", str(options.seed)]
    words += ["--no-firmware", "--workdir", "runs/never", "--budget.mops", *map(str, options.mops)]
    each = [kws.KWS.parse(line) for line in experiment_cli.several(words)]
    names = experiment_cli.names(each)
    yield from kws.KWS.prepare_front(dict(zip(names, each, strict=True))).values()


def main() -> None:
    """Search, decide, and say how long each took."""
    options = tyro.cli(Options, description=__doc__)
    accelerators.keep_memory()
    each = list(plans(options))
    plan, front = each[0], [one.budget for one in each] if len(each) > 1 else ()
    given, settings = pipeline.problem(plan, front), plan.search
    begin = time.process_time()
    made = search.of(settings, given)
    first = made.init(jax.random.key(options.seed))
    *_, (state, _) = search.run(made, first, settings, given)
    searched = time.process_time()
    proposed = [search.of(settings, one).proposals(state) for one in given.each()]
    fallbacks = [budgets.feasible(one.space, one.budget) for one in each]
    verdicts = search.decide_front(proposed, settings, given, fallbacks)
    decided = time.process_time()
    for one, (choice, trials) in zip(each, verdicts, strict=True):
        used = one.budget.used(one.space.decode(choice))["mops"]
        said = ", ".join(f"{trial.proposal.name} {trial.loss:.3f}" for trial in trials)
        print(f"{one.budget.mops:g} million operations: {used:.3f}; {said}")
    print(
        f"search {searched - begin:.0f} s, contest {decided - searched:.0f} s, together "
        f"{decided - begin:.0f} s"
    )


if __name__ == "__main__":
    main()
