"""The command line of all experiments: options, presets, checks before a run, run, prediction.

Invariant: nothing heavy is imported before the command line has been read, and nothing is written
before all that can be checked has been.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Generic, Literal, Protocol, TypeVar, runtime_checkable

import tyro

from micronets_jax.recipes import (
    DNAS,
    METHODS,
    Bits,
    FloatTraining,
    Limits,
    Search,
    TinyNAS,
    Training,
)
from micronets_jax.targets import Runtime

if TYPE_CHECKING:
    from micronets_jax.budgets import Budget
    from micronets_jax.network import Network
    from micronets_jax.pipeline import Plan, Task


@dataclasses.dataclass(frozen=True)
class Options:
    """What every experiment can be told; a subclass adds its own and says what it is for."""

    preset: Literal["tiny", "quick", "paper"] = "quick"
    """Defaults of all below: tiny tests the path, quick takes minutes, paper is the paper's."""
    data: str = "embedded"
    """embedded, or what else the experiment reads."""
    device: str = "STM32F446RE"
    """The board; its memory is the limit, of the network and the rest of the firmware."""
    runtime: Runtime = "compiled"
    """What runs the model on the board: its memory, code and instructions are counted. tflm's
    firmware needs a library, named by TFLM_INCLUDE and TFLM_LIBRARY; without one the firmware is
    compiled C."""
    budget: Limits = Limits()
    """Limits that override the board's."""
    bits: Bits = Bits()
    """Of the exported numbers; the search knows what fewer of them save."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """What computes the search. Decides nothing but the speed."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Compute on several hosts, the same command on each: the address of process 0, or auto, which
    asks the TPU pod, SLURM, Open MPI or Kubernetes that started this one for all three."""
    num_processes: int | None = None
    """How many processes compute together, as a rule one a host."""
    process_id: int | None = None
    """Which of them this is, from 0; that one writes the results."""
    join_seconds: float = 300.0
    """How long processes wait for each other at the start."""
    seed: int = 0
    """Of everything random; the same seed on the same machine gives the same files."""
    workdir: pathlib.Path | None = None
    """Folder of results; runs/EXPERIMENT-PRESET if not given."""
    resume: bool = False
    """Continue the run that the folder holds."""
    checkpoint_seconds: float = 10.0
    """Least time between two checkpoints: a killed run repeats that and an epoch; 0 keeps each."""
    firmware: bool = True
    """End with the firmware for the device, linked and emulated where the tools are installed."""
    predict: Annotated[tuple[pathlib.Path, ...], tyro.conf.arg(metavar="FILE [FILE ...]")] = ()
    """Say what these files hold by the folder's model, and do nothing else."""
    teacher: float = 2.0
    """Widths of the teacher, as multiples of those of the largest network of the space; it is
    trained first, where train.distillation or quantize.distillation is above 0."""
    method: Annotated[str, tyro.conf.arg(metavar=f"{{{','.join(METHODS)}}}")] = "dnas"
    """What finds the network; it decides which options the search has."""
    search: Search = DNAS()
    train: FloatTraining = FloatTraining()
    quantize: Training = Training(steps=500, learning_rate=0.0005)


LIMITS_ON_MEMORY = "all that the firmware takes, its reserve included"
"""What a limit on memory covers; recorded, so that a run with another meaning is not resumed."""

OF_PROCESSES = ("coordinator", "num_processes", "process_id", "join_seconds")
"""Options that may differ between the processes of one run."""

UNRECORDED = (
    *("workdir", "resume", "predict", "accelerator", "checkpoint_seconds", "firmware"),
    *OF_PROCESSES,
)
"""Options that do not affect results."""

Given = TypeVar("Given", bound=Options)


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[Given]):
    """A task on the command line.

    Attributes:
        name: ``python -m experiments.NAME`` runs it.
        presets: options by preset; ``quick`` must be among them.
        task: data, front end, augmentation, space and metric for options; imports what it needs.
        frontends: registers front ends of one's own, which files of finished runs name; called once
            the command line has been read, so it may import what it needs.
    """

    name: str
    presets: Mapping[str, Given]
    task: Callable[[Given], Task]
    frontends: Callable[[], object] = lambda: None

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """Do what the command line says; ends the process with status 2 on a mistake."""
        arguments = sys.argv[1:] if arguments is None else arguments
        from micronets_jax import console

        with console.piped():
            options = self.parse(arguments)
        from micronets_jax import accelerators, hosts

        console.quiet()
        from micronets_jax.accelerators import AcceleratorError
        from micronets_jax.data import DataError
        from micronets_jax.firmware import FirmwareError
        from micronets_jax.hosts import HostError
        from micronets_jax.workdir import WorkdirError

        accelerators.keep_memory()
        self.frontends()
        mistakes = AcceleratorError, ValueError, OSError
        with hosts.abandoned(), console.sentences(), console.errors(HostError, *mistakes):
            if options.predict:
                return self.predict(options.predict, self.folder(options))
            self.join(options)
            with hosts.together(*mistakes):
                plan = self.prepare(options, arguments)
            with hosts.together():
                self.agree(plan, options)
        troubles = DataError, FirmwareError, WorkdirError, OSError
        told = hosts.together(*troubles)
        with hosts.abandoned(), console.errors(HostError, *troubles), told:
            self.run(plan, options)

    def parse(self, arguments: Sequence[str]) -> Given:
        """Options from words; the preset among them decides the defaults of the others."""
        default = self.presets.get(
            value_of("--preset", arguments) or "quick", self.presets["quick"]
        )
        method = METHODS.get(value_of("--method", arguments) or default.method)
        if method and not isinstance(default.search, method):
            default = dataclasses.replace(default, search=method.instead_of(default.search))
            # The weights that an evolution judged its members by are theirs to go on with.
            inherited = dataclasses.replace(default.train, from_supernet=method is TinyNAS)
            default = dataclasses.replace(default, train=inherited)
        return tyro.cli(
            type(default),
            args=arguments,
            default=default,
            description=type(default).__doc__,
            prog=f"python -m experiments.{self.name}",
        )

    def prepare(self, options: Given, arguments: Sequence[str] = ()) -> Plan:
        """Everything that a run needs, checked before anything is written.

        Raises:
            ValueError: options, data or limits that cannot be; the message says which.
        """
        from micronets_jax import (
            accelerators,
            budgets,
            data,
            devices,
            firmware,
            pipeline,
            targets,
            workdir,
        )
        from micronets_jax.spaces.bits import WithBits

        workdir.check(self.folder(options), resume=options.resume)
        if not options.checkpoint_seconds >= 0:
            raise ValueError(
                f"checkpoint-seconds={options.checkpoint_seconds:g}: give 0, which keeps every "
                "epoch, or more"
            )
        if not options.teacher > 0:
            raise ValueError(f"teacher={options.teacher:g}: give multiples of widths, above 0")
        if options.method not in METHODS:
            raise ValueError(
                f"method={options.method!r} is not known; choose from {', '.join(METHODS)}"
            )
        limits = budget(options)
        assert limits.device is not None
        device = limits.device
        if options.firmware and device.startup is None:
            print(f"{device.name}: {devices.NO_STARTUP}")
        elif options.firmware and (lacks := targets.engine(options.runtime).missing(device)):
            print(f"{lacks}: the firmware will be compiled C")
        print(f"computing on {accelerators.select(options.accelerator)}")
        task = self.task(options)
        if options.bits != Bits():
            task = dataclasses.replace(task, space=WithBits(task.space, options.bits))
        look = data.look.at(task.dataset)
        print(*look.lines(), sep="\n")
        if options.firmware and device.startup is not None:
            text = data.frontends.to_json(task.frontend)
            hears = task.listening
            besides = firmware.front_end_bytes(
                text,
                device.core,
                task.dataset.class_names if hears else (),
                hears.hop_ms if hears else 0,
            )
            limits = dataclasses.replace(limits, besides=besides)
        budgets.feasible(task.space, limits)
        for line in budgets.account(task.space, limits):
            print(line)
        plan = pipeline.Plan(
            **vars(task),
            budget=limits,
            device=device,
            search=options.search,
            train=options.train,
            quantize=options.quantize,
            seed=options.seed,
            teacher=options.teacher,
            firmware=options.firmware,
            facts={
                "experiment": self.name,
                "preset": options.preset,
                "bits": dataclasses.asdict(options.bits),
                "look": dataclasses.asdict(look),
                "command": " ".join([f"python -m experiments.{self.name}", *arguments]),
            },
        )
        pipeline.check(plan)
        for option, examples, samples in (
            ("half of search.batch-size", plan.search.batch_size // 2, plan.search.side_by_side),
            ("train.batch-size", plan.train.batch_size, 1),
            ("quantize.batch-size", plan.quantize.batch_size, 1),
        ):
            try:
                accelerators.mesh(examples, samples)
            except ValueError as error:
                raise ValueError(f"{option}: {error}") from error
        pipeline.searching(plan)  # says if this search cannot search this space
        return plan

    def join(self, options: Given) -> None:
        """Join the other processes of the run, if there are any; the first one alone speaks.

        Raises:
            HostError: they cannot be joined.
        """
        from micronets_jax import console, hosts

        hosts.join(
            options.coordinator, options.num_processes, options.process_id, options.join_seconds
        )
        if not hosts.first():
            console.mute()

    def agree(self, plan: Plan, options: Given) -> None:
        """Compare options and data of all processes, before the first step.

        Raises:
            HostError: they differ.
        """
        from micronets_jax import hosts, workdir

        given = dataclasses.asdict(options)
        facts = {
            "options": {name: given[name] for name in given if name not in OF_PROCESSES},
            "data": plan.dataset.fingerprint,
        }
        first, *others = map(json.loads, hosts.exchange(json.dumps(facts, default=str)))
        for host, other in enumerate(others, 1):
            for name, its, here in workdir.differences(first["options"], other["options"]):
                raise hosts.HostError(
                    f"hosts have different options: {name} is {its} on host 0, {here} on host "
                    f"{host}; start all of them by the same command"
                )
            if first["data"] != other["data"]:
                raise hosts.HostError(
                    f"hosts have different data: the fingerprint is {first['data']} on host 0, "
                    f"{other['data']} on host {host}; give all of them the same"
                )

    def run(self, plan: Plan, options: Given) -> None:
        """The whole path; its results lie in the work folder."""
        from micronets_jax import console, hosts, pipeline, workdir

        configuration = dataclasses.asdict(options)
        for name in UNRECORDED:
            del configuration[name]
        configuration["data_fingerprint"] = plan.dataset.fingerprint
        configuration["limits_on_memory"] = LIMITS_ON_MEMORY
        opened = workdir.Workdir(
            self.folder(options), configuration, options.resume, options.checkpoint_seconds
        )
        with opened as place:
            with console.Console() as screen:
                summary = pipeline.run(plan, place, screen)
            if hosts.first():
                console.show(summary, place.path)

    def folder(self, options: Given) -> pathlib.Path:
        """Where results lie."""
        return options.workdir or pathlib.Path("runs") / f"{self.name}-{options.preset}"

    def predict(self, paths: Sequence[pathlib.Path], folder: pathlib.Path) -> None:
        """Say what files hold, by the model of a finished run: classes, or where that is a spotter
        and a recording longer than it needs for a word, words with their times; numbers, or how
        much of it an autoencoder does not give back."""
        from micronets_jax import console, data, pipeline

        made = pipeline.experiment_of(folder)
        if made not in (None, self.name):
            raise ValueError(
                f"workdir={folder} holds a run of {made}: give one of {self.name}, or say "
                f"python -m experiments.{made} --predict"
            )
        settings, outputs = pipeline.listens(folder), pipeline.outputs(folder)
        for path in paths:
            if len(paths) > 1:
                print(path)
            if settings and data.recordings.lasts(path, settings.shortest_ms / 1000):
                console.timeline(pipeline.listen(folder, path, settings))
                continue
            if outputs == "classes":
                for name, probability in pipeline.classify(folder, path)[:3]:
                    print(f"{name:12} {probability:6.1%}")
                continue
            x, y = pipeline.predict(folder, path)
            if outputs == "inputs":
                print(f"{'mean squared error':20} {((y - x.reshape(y.shape)) ** 2).mean():.4g}")
            else:
                for number, value in enumerate(y.mean(axis=0), 1):
                    print(f"output {number:<5} {value:.4g}")


def budget(options: Options) -> Budget:
    """The limits that these options stand for: the board's, where none is given.

    Raises:
        ValueError: no such board, or limits that cannot be.
    """
    from micronets_jax import budgets, devices

    device = devices.device(options.device)
    return budgets.Budget.of(device, options.budget, runtime=options.runtime)


@runtime_checkable
class Wide(Protocol):
    """A space of some width."""

    def largest(self) -> Network:
        """The network with every width at its maximum."""
        ...


Offered = TypeVar("Offered", bound=Wide)


def first_with(offered: Sequence[Offered], operations: float) -> Offered:
    """The first of at least one space whose largest network has so many operations; the last one
    if none has. A limit on operations cannot bind in a space that never reaches it."""
    from micronets_jax import cost

    enough = (space for space in offered if cost.ops(space.largest()) >= operations)
    return next(enough, offered[-1])


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """What the words of a command line give an option that decides the defaults of others."""
    joined = [word.partition("=")[2] for word in arguments if word.startswith(f"{option}=")]
    return joined[-1] if joined else dict(itertools.pairwise(arguments)).get(option)
