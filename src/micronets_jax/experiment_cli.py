"""The command line of all experiments: options, presets, checks before a run, run, prediction.

Invariant: nothing heavy is imported before the command line has been read, and nothing is written
before all that can be checked has been.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    Protocol,
    TypeVar,
    runtime_checkable,
)

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
    from micronets_jax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Options:
    """What every experiment can be told; a subclass adds its own and says what it is for."""

    preset: Literal["tiny", "quick", "paper"] = "quick"
    """Defaults of all below: tiny tests the path, quick takes minutes, paper is the paper's."""
    data: str = "embedded"
    """embedded, or what else the experiment reads."""
    device: str = "STM32F446RE"
    """The board; its memory is the limit, of the network and the rest of the firmware. Several
    boards, or several values of any limit, get a network each from one search."""
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
            each = [self.parse(words) for words in several(arguments)]
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
            options, *others = each
            if options.predict:
                return self.predict(options.predict, self.folder(options))
            self.join(options)
            with hosts.together(*mistakes):
                named = dict(zip(names(each), each, strict=True))
                plans = self.prepare_front(named, arguments)
            with hosts.together():
                self.agree(plans, named)
        troubles = DataError, FirmwareError, WorkdirError, OSError
        told = hosts.together(*troubles)
        with hosts.abandoned(), console.errors(HostError, *troubles), told:
            if others:
                return self.run_front(plans, named)
            self.run(plans[""], options)

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
        (plan,) = self.prepare_front({"": options}, arguments).values()
        return plan

    def prepare_front(
        self, each: Mapping[str, Given], arguments: Sequence[str] = ()
    ) -> dict[str, Plan]:
        """:meth:`prepare` for one network or several.

        Args:
            each: options by the name of the network; they differ in device and budget alone. Data
                and space are made once, for the widest of the limits.
            arguments: the words of the command line.
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

        options = widest(list(each.values()))
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
        on = {name: devices.device(one.device) for name, one in each.items()}
        limits = {name: budget(one) for name, one in each.items()}
        for device in dict.fromkeys(on.values()):
            if options.firmware and device.startup is None:
                print(f"{device.name}: {devices.NO_STARTUP}")
            elif options.firmware and (lacks := targets.engine(options.runtime).missing(device)):
                print(f"{lacks}: the firmware will be compiled C")
        print(f"computing on {accelerators.select(options.accelerator)}")
        accelerators.keep_programs(data.cache.default_folder() / "programs")
        task = self.task(options)
        if options.bits != Bits():
            task = dataclasses.replace(task, space=WithBits(task.space, options.bits))
        look = data.look.at(task.dataset)
        print(*look.lines(), sep="\n")
        for name, device in on.items():
            if options.firmware and device.startup is not None:
                text = data.frontends.to_json(task.frontend)
                hears = task.listening
                besides = firmware.front_end_bytes(
                    text,
                    device.core,
                    task.dataset.class_names if hears else (),
                    hears.hop_ms if hears else 0,
                )
                limits[name] = dataclasses.replace(limits[name], besides=besides)
            try:
                budgets.feasible(task.space, limits[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}" if name else str(error)) from error
            for line in budgets.account(task.space, limits[name]):
                print(f"{name}: {line}" if name else line)
        plan = pipeline.Plan(
            **vars(task),
            budget=limits[next(iter(each))],
            device=on[next(iter(each))],
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
        # Says if this search cannot search this space, or not for so many limits.
        pipeline.searching(plan, list(limits.values()) if len(limits) > 1 else ())
        return {
            name: dataclasses.replace(plan, budget=limits[name], device=on[name]) for name in each
        }

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

    def agree(self, plans: Mapping[str, Plan], each: Mapping[str, Given]) -> None:
        """Compare networks asked for, options and data of all processes, before the first step.

        Raises:
            HostError: they differ.
        """
        from micronets_jax import hosts

        facts = {
            name: {
                "options": {
                    option: value
                    for option, value in dataclasses.asdict(options).items()
                    if option not in OF_PROCESSES
                },
                "data": plans[name].dataset.fingerprint,
            }
            for name, options in each.items()
        }
        first, *others = map(json.loads, hosts.exchange(json.dumps(facts, default=str)))
        for host, other in enumerate(others, 1):
            if list(first) != list(other):
                here, there = (
                    ", ".join(x) if len(x) > 1 else "a single one" for x in (other, first)
                )
                raise hosts.HostError(
                    f"hosts look for different networks: {there} on host 0, {here} on host {host}; "
                    "start all of them by the same command"
                )
            for network in first:
                self._compare(first[network], other[network], host)

    def _compare(self, first: Mapping[str, Any], other: Mapping[str, Any], host: int) -> None:
        from micronets_jax import hosts, workdir

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
        from micronets_jax import console, hosts, pipeline

        with self._opened(self.folder(options), options, _recorded(options, plan)) as place:
            with console.Console() as screen:
                summary = pipeline.run(plan, place, screen)
            if hosts.first():
                console.show(summary, place.path)

    def run_front(self, plans: Mapping[str, Plan], each: Mapping[str, Given]) -> None:
        """The whole path of several networks, each in a folder of its own in the work folder."""
        from micronets_jax import console, hosts, pipeline, report

        first, top = next(iter(each.values())), self.folder(next(iter(each.values())))
        records = {name: _recorded(one, plans[name]) for name, one in each.items()}
        differing = {name: {key: row[key] for key in DIFFERING} for name, row in records.items()}
        alike = {key: x for key, x in next(iter(records.values())).items() if key not in DIFFERING}
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(self._opened(top, first, {**alike, "front": differing}))
            places = {
                name: stack.enter_context(
                    self._opened(top / name, first, {**row, "front": list(each)})
                )
                for name, row in records.items()
            }
            with console.Console() as screen:
                pipeline.front(plans, places, place, screen)
            if hosts.first():
                said, summaries = report.read_front(top)
                console.show_front(summaries, said["seconds"], top)

    def _opened(
        self, folder: pathlib.Path, options: Given, record: Mapping[str, object]
    ) -> Workdir:
        from micronets_jax import workdir

        return workdir.Workdir(folder, record, options.resume, options.checkpoint_seconds)

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


def _recorded(options: Options, plan: Plan) -> dict[str, Any]:
    """What decides the result of a run, as its folder keeps it."""
    record = dataclasses.asdict(options)
    for name in UNRECORDED:
        del record[name]
    record["data_fingerprint"] = plan.dataset.fingerprint
    record["limits_on_memory"] = LIMITS_ON_MEMORY
    return record


# ---------------------------------------------------------------- several limits


DIFFERING = ("device", "budget")
"""Options in which the networks of a front differ."""


def several(arguments: Sequence[str]) -> list[list[str]]:
    """The words of a command line, once for each network that it asks for.

    The device and each limit may have several values; each is taken with each. A command line
    with one value of each comes back as it is.
    """
    options = ["--device", *(f"--budget.{field.name}" for field in dataclasses.fields(Limits))]
    values, rest = dict[str, list[str]](), list[str]()
    into = rest
    for word in arguments:
        if word.startswith("-") and not word.lstrip("-")[:1].isdigit():
            name, equals, value = word.partition("=")
            option = name.replace("-", "_").replace("__", "--", 1)
            into = rest
            if option in options:
                into = values[option] = [value] if equals else []
                continue
        into.append(word)
    if max(map(len, values.values()), default=0) < 2:
        return [list(arguments)]
    chosen = itertools.product(*values.values())
    return [
        [*rest, *(word for pair in zip(values, some, strict=True) for word in pair)]
        for some in chosen
    ]


def names(each: Sequence[Options]) -> list[str]:
    """What tells the options of a front apart, in words that a folder may be named by; of a single
    network an empty name.

    Raises:
        ValueError: no such board, or a value was given twice.
    """
    if len(each) == 1:
        return [""]
    from micronets_jax import devices

    rows = [
        {"device": devices.device(one.device).name, **dataclasses.asdict(one.budget)}
        for one in each
    ]
    differing = [name for name in rows[0] if len({row[name] for row in rows}) > 1]
    found = [
        "-".join(
            row[name] if name == "device" else f"{name.replace('_', '-')}-{row[name]}"
            for name in differing
        )
        for row in rows
    ]
    for name, row in zip(found, rows, strict=True):
        if found.count(name) > 1:
            said = {k if k == "device" else f"budget.{k}": x for k, x in row.items()}
            words = ", ".join(f"{k}={x}" for k, x in said.items() if x is not None)
            raise ValueError(
                f"{words} is asked for twice; give each board and each value of a limit once"
            )
    return found


def widest(each: Sequence[Given]) -> Given:
    """The options with the board of most memory and the widest value of each limit."""
    from micronets_jax import devices

    first = each[0]
    if len(each) == 1:
        return first
    limits = {
        field.name: [getattr(one.budget, field.name) for one in each]
        for field in dataclasses.fields(Limits)
    }
    boards = [devices.device(one.device) for one in each]
    largest = max(boards, key=lambda board: (board.sram_bytes, board.flash_bytes))
    return dataclasses.replace(
        first,
        device=largest.name,
        budget=Limits(**{name: None if None in x else max(x) for name, x in limits.items()}),
    )


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
