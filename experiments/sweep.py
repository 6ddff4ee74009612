"""Many runs of one experiment, on this machine or a cluster: what is swept, and where it runs.

    python -m experiments.sweep kws --grid seed=0,1,2 budget.mops=0.8,1.2 --workdir runs/sweep1
    python -m experiments.sweep kws --sample train.learning-rate=log:0.001:0.1 --trials 20 --asha
    python -m experiments.sweep kws --grid seed=0,1 --address ray://head:10001 --gpus 1 \\
        -- --preset paper --data tfds

What follows ``--`` is given to every trial. docs/scale.md says how to run it on a cluster.

Trials are placed and retried by Ray Tune (extra ``sweep``). Ray is imported when all that can be
checked without it has been.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import logging
import os
import pathlib
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro

from micronets_jax import experiment_cli, files, sweep
from micronets_jax.sweep import Folder, SweepError, Trial

METRIC, EPOCH = "train/score", "train/epoch"
"""What ASHA compares trials by, and when."""

PACKAGES = {"mlflow": "mlflow", "wandb": "wandb"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Run an experiment once for each point of a grid and each random draw, side by side."""

    experiment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EXPERIMENT")]
    """ad, images, kws or vww; or a module of yours, as my.frogs. Words after -- go to each run."""
    grid: tuple[str, ...] = ()
    """Options with their values, as seed=0,1,2 budget.mops=0.8,1.2; each with each is tried."""
    sample: tuple[str, ...] = ()
    """Options that are drawn, as train.learning-rate=log:0.001:0.1 search.samples=int:1:8
    train.batch-size=32,64; uniform:LOW:HIGH is there too."""
    trials: int = 1
    """Draws; each is tried at each point of the grid."""
    sample_seed: int = 0
    """Of the draws."""
    workdir: pathlib.Path | None = None
    """Folder of results, runs/EXPERIMENT-sweep if not given; on a cluster one that all share."""
    resume: bool = False
    """Continue the sweep that the folder holds: finished trials stay, begun ones go on."""
    address: str | None = None
    """Of a running cluster, as ray://HOST:10001, HOST:6379 or auto; none starts Ray here."""
    cpus: float = 1.0
    """Cores of a trial."""
    gpus: float = 0.0
    """GPUs of a trial."""
    resources: tuple[str, ...] = ()
    """What else a trial takes of a node, as TPU=4."""
    asha: bool = False
    """Stop trials whose validation accuracy (or loss, without classes) in training is not among
    the best at its epoch."""
    asha_grace: int = 1
    """Epochs that every trial is given."""
    asha_factor: float = 4.0
    """One in so many goes on at each rung, and rungs are so many times further apart."""
    retries: int = 3
    """How often a trial is continued whose process, worker or node died."""
    callbacks: tuple[Literal["mlflow", "wandb"], ...] = ()
    """Where epochs are sent besides, by Ray's own callbacks; their packages must be installed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says; status 1 where trials failed, 2 on a mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    ours, fixed = arguments, []
    if "--" in arguments:
        ours, fixed = (
            arguments[: arguments.index("--")],
            arguments[arguments.index("--") + 1 :],
        )
    from micronets_jax import console

    with console.piped():
        options = tyro.cli(
            Options, args=ours, description=Options.__doc__, prog="python -m experiments.sweep"
        )

    with console.errors(SweepError, OSError):
        unfinished = run(options, fixed)
    if unfinished:
        print(f"{unfinished} trials did not finish; --resume tries them again", file=sys.stderr)
        raise SystemExit(1)


def run(options: Options, fixed: Sequence[str] = ()) -> int:
    """The whole sweep; returns how many trials did neither finish nor were stopped by ASHA.

    Raises:
        SweepError: options, trials, a folder or a cluster that cannot be.
    """
    home, module = find(options.experiment)
    tried = sweep.trials(
        home.parse,
        fixed,
        sweep.grid(options.grid),
        sweep.draws(options.sample, options.trials, options.sample_seed),
    )
    path = (options.workdir or pathlib.Path("runs") / f"{home.name}-sweep").absolute()
    needed = resources(options)
    _check_asha(options)
    sweep.check(path, module, fixed, options.resume)
    callbacks = [_callback(name, home.name) for name in options.callbacks]
    with cluster(options, needed):
        folder = sweep.create(path, module, fixed, tried, options.resume)
        _tune(folder, module, tried, options, needed, callbacks)
    rows = sweep.write(folder)
    print(f"results: {path}  (open {sweep.REPORT})")
    return sum(row["status"] not in ("finished", "stopped") for row in rows)


def find(name: str) -> tuple[experiment_cli.Experiment[Any], str]:
    """An experiment and its module, by the name of either.

    Raises:
        SweepError: there is none.
    """
    module = name if "." in name else f"experiments.{name}"
    try:
        held = vars(importlib.import_module(module)).values()
    except ModuleNotFoundError as error:
        raise SweepError(
            f"experiment={name}: there is no module {error.name}; give ad, images, kws, vww or a "
            "module of yours, as my.frogs"
        ) from error
    homes = [value for value in held if isinstance(value, experiment_cli.Experiment)]
    if len(homes) != 1:
        raise SweepError(
            f"experiment={name}: {module} holds {len(homes)} experiments; name a module of one"
        )
    return homes[0], module


def resources(options: Options) -> dict[str, float]:
    """What a trial takes of a node, as Ray calls it.

    Raises:
        SweepError: numbers below 0, or words that are no resources.
    """
    found = {"CPU": options.cpus, "GPU": options.gpus}
    for text in options.resources:
        name, _, amount = text.partition("=")
        try:
            found[name] = float(amount)
        except ValueError as error:
            raise SweepError(f"resources {text!r}: give NAME=NUMBER, as in TPU=4") from error
    for name, amount in found.items():
        if not 0 <= amount < float("inf"):
            raise SweepError(f"{name}={amount:g} of a trial: give 0 or more")
    if options.retries < 0:
        raise SweepError(f"retries={options.retries}: give 0 or more")
    return {name: amount for name, amount in found.items() if amount}


def _check_asha(options: Options) -> None:
    if options.asha_grace < 1:
        raise SweepError(f"asha-grace={options.asha_grace}: give at least 1 epoch")
    if not options.asha_factor > 1:
        raise SweepError(f"asha-factor={options.asha_factor:g}: give a number above 1")


def _callback(name: str, project: str) -> Any:
    if importlib.util.find_spec(PACKAGES[name]) is None:
        raise SweepError(
            f"callbacks={name}: {name} is not installed; run pip install {PACKAGES[name]}"
        )
    _require_ray()
    if name == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        return MLflowLoggerCallback(experiment_name=f"micronets-{project}")
    from ray.air.integrations.wandb import WandbLoggerCallback

    return WandbLoggerCallback(project=f"micronets-{project}")


# ---------------------------------------------------------------- Ray


SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the sweep says itself how far it is
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # data may be named relative to where the sweep began
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # runs keep their own records
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # other stages do not report what ASHA compares
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

ANSWER_SECONDS = 5.0
"""That a cluster has to accept a connection."""


def judged(record: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch's record with the ``score`` that ASHA compares, where it has one."""
    score = files.score(record)
    return dict(record) if score is None else {**record, "score": score}


def _require_ray() -> None:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if importlib.util.find_spec("ray") is None:
        raise SweepError("sweeps run on Ray, which is not installed; run pip install -e .[sweep]")


@contextlib.contextmanager
def cluster(options: Options, needed: Mapping[str, float]):
    """A cluster to run on: the one that answers at the address, or one of this machine's.

    Raises:
        SweepError: none answers, or no node of it has what a trial takes.
    """
    _require_ray()
    import ray

    if options.address is None:
        started: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 10**8}
    else:
        _reach(options.address)
        started = {"address": options.address}
    try:
        ray.init(**started, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SweepError(
            f"address={options.address}: no cluster answers ({str(error).splitlines()[0]}); start "
            "one by ray start --head, or leave --address out"
        ) from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(n.get(k, 0) >= v for k, v in needed.items()) for n in nodes):
            most = {name: max(node.get(name, 0) for node in nodes) for name in needed}
            wants, has = (" ".join(f"{k}={v:g}" for k, v in d.items()) for d in (needed, most))
            if options.address is None:
                raise SweepError(f"a trial takes {wants}, and this machine has {has}; ask for less")
            # A cluster that grows by demand has such a node later.
            print(f"warning: a trial takes {wants}; the most that a node now has is {has}")
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    place = address.removeprefix("ray://")
    host, _, port = place.rpartition(":")
    if address == "auto" or not port.isdigit():
        return  # Ray knows where to look, or what is wrong with it
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise SweepError(
            f"address={address}: no cluster answers ({error}); start one by ray start --head, or "
            "leave --address out"
        ) from error


def _tune(
    folder: Folder,
    module: str,
    tried: Sequence[Trial],
    options: Options,
    needed: Mapping[str, float],
    callbacks: Sequence[Any],
) -> None:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    left = [trial for trial in tried if folder.ended(trial.name)[0] not in ("finished", "stopped")]
    print(f"{len(tried)} trials, {len(tried) - len(left)} of them finished before")
    if not left:
        return
    book = folder.path / "ray"
    shutil.rmtree(book, ignore_errors=True)  # Ray's own notes; everything is in the folders
    scheduler = None
    if options.asha:
        scheduler = ASHAScheduler(
            time_attr=EPOCH,
            metric=METRIC,
            mode="max",
            max_t=10_000,  # only how many rungs there are: a trial ends by itself
            grace_period=options.asha_grace,
            reduction_factor=options.asha_factor,
            stop_last_trials=False,
        )
    command, place, additions = ("-m", module), os.getcwd(), environment(needed)

    def trial(config: dict[str, Any]) -> None:
        given = config["trial"]
        status = sweep.supervise(
            folder,
            given["name"],
            [sys.executable, *command, *CHECKPOINTS, *given["words"]],
            lambda record: tune.report(
                {f"{record['stage']}/{key}": value for key, value in judged(record).items()}
            ),
            place=place,
            additions=additions,
        )
        tune.report(
            {"finished": int(status == "finished"), **sweep.results(folder.run(given["name"]))}
        )

    tuner = tune.Tuner(
        tune.with_resources(trial, _bundle(needed)),
        param_space={
            "trial": tune.grid_search(
                [{"name": one.name, "words": list(one.words), **dict(one.settings)} for one in left]
            )
        },
        # An actor takes seconds to start, and a trial is a process of its own anyhow.
        tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True),
        run_config=tune.RunConfig(
            name=book.name,
            storage_path=str(folder.path),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=options.retries),
            callbacks=[_teller(folder, len(left)), *callbacks],
        ),
    )
    tuner.fit()
    shutil.rmtree(book, ignore_errors=True)


CHECKPOINTS = ("--checkpoint-seconds=0",)
"""A trial that is continued repeats an epoch at most; words of its own come after and win."""


def environment(needed: Mapping[str, float]) -> dict[str, str]:
    """What a trial's environment says besides, so that it takes what it was given and no more.

    XLA makes as many threads as ``NPROC`` says, and a program that sees a GPU takes its memory.
    """
    added = {"NPROC": str(max(1, int(needed.get("CPU", 1))))}
    if needed.get("GPU", 0) == 0:
        added["CUDA_VISIBLE_DEVICES"] = ""
    return added


def _bundle(needed: Mapping[str, float]) -> Any:
    """All of a trial on one node."""
    from ray import tune

    return tune.PlacementGroupFactory([{"CPU": 0.0, **needed}])


def _teller(folder: Folder, count: int) -> Any:
    """Says how far the sweep is, keeps how trials ended, and the page up to date."""
    from ray import tune

    class Teller(tune.Callback):
        def __init__(self) -> None:
            self.done, self.drawn = 0, time.monotonic()

        def on_trial_recover(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
            print(f"{trial.config['trial']['name']}: died, will be continued", flush=True)

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
            name = trial.config["trial"]["name"]
            # What the trial's keeper saw; it saw nothing where its own process or node died.
            reason = folder.ended(name)[1] or str(trial.get_error() or "no reason")
            last = next(line.strip() for line in reversed(reason.splitlines()) if line.strip())
            folder.end(name, "failed", f"died {trial.num_failures} times, at last: {last}")
            self._tell(name)

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
            name = trial.config["trial"]["name"]
            if folder.ended(name)[0] in ("begun", "waiting"):
                folder.end(name, "stopped")
            self._tell(name)

        def _tell(self, name: str) -> None:
            self.done += 1
            status, said = folder.ended(name)
            print(f"{self.done}/{count}  {name}: {said or status}", flush=True)
            if time.monotonic() - self.drawn > PAGE_SECONDS:
                sweep.write(folder)
                self.drawn = time.monotonic()

    return Teller()


PAGE_SECONDS = 60.0
"""Between two pages that a sweep writes before its end."""


if __name__ == "__main__":
    main()
