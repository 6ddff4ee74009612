"""A sweep: many runs of one experiment, each an ordinary run in a folder of its own.

Invariant: the state of a trial is in files alone, in the folder of its run or beside it. So a sweep
is continued from its folder, and this room does not know the scheduler.

A folder of a sweep holds ``sweep.json`` (what is tried), ``trials/NAME`` (a run each),
``logs/NAME.log`` (what it said), ``logs/NAME.json`` (how it ended, where it did not finish),
``sweep.parquet`` and ``report.html``.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import difflib
import fcntl
import hashlib
import io
import itertools
import json
import math
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, Literal

from micronets_jax import files

SWEEP, TABLE, REPORT = "sweep.json", "sweep.parquet", "report.html"

RESERVED = ("workdir", "resume", "predict")
"""Options that a sweep gives its trials itself, or that make no run."""

POLL_SECONDS = 0.2
"""Between two looks at what a trial has written."""

LONGEST_NAME = 180
"""Characters of a trial's name, which most file systems allow with an ending to spare."""

Parse = Callable[[Sequence[str]], Any]
"""From the words of a command line to an experiment's options; SystemExit where that fails."""

Plain = bool | int | float | str | None
"""What a table can hold."""

Status = Literal["finished", "failed", "stopped", "begun", "waiting"]
"""Of a trial: stopped by a scheduler; failed and will not get further by itself; begun, and
waiting to be continued."""


class SweepError(ValueError):
    """A sweep that cannot be as asked; the message says why and what to do."""


class WorkerError(RuntimeError):
    """A trial that something else ended: it can be continued."""


# ---------------------------------------------------------------- what is tried


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        name: of its folder: the options that differ between trials.
        settings: the same, as values.
        words: its command line, without its folder.
    """

    name: str
    settings: Mapping[str, Plain]
    words: tuple[str, ...]


def grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """Values by option, from texts as ``search.samples=1,4``.

    A value of several words is written with blanks: ``input.size=32 32,64 64``.

    Raises:
        SweepError: a text is none of these, or an option is there twice.
    """
    found: dict[str, list[str]] = {}
    for option, values in _assignments("grid", texts):
        found[option] = [value.strip() for value in values.split(",")]
        if not all(found[option]):
            raise SweepError(f"grid {option}={values}: a value is empty; leave no comma over")
    return found


def draws(texts: Sequence[str], count: int, seed: int) -> list[dict[str, str]]:
    """Options drawn at random, from texts as ``train.learning-rate=log:0.001:0.1``.

    ``uniform:LOW:HIGH`` and ``log:LOW:HIGH`` draw numbers, rounded to four digits, ``int:LOW:HIGH``
    whole ones, both ends included, and ``A,B,C`` one of these. A draw depends on nothing but the
    seed, its option and its number, so more draws of the same seed begin with the same ones.

    Raises:
        SweepError: a text is none of these, or there is nothing to draw.
    """
    if texts and count < 1:
        raise SweepError(f"trials={count}: give how many draws --sample makes, at least 1")
    if not texts and count != 1:
        raise SweepError(f"trials={count}: only --sample draws; name an option to draw there")
    kinds = dict(_assignments("sample", texts))
    return [
        {
            option: _draw(option, kind, random.Random(f"{seed}/{option}/{number}"))
            for option, kind in kinds.items()
        }
        for number in range(count)
    ]


def _assignments(argument: str, texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    seen = set()
    for text in texts:
        option, sign, value = text.partition("=")
        option = option.strip().lstrip("-").replace("_", "-")
        if not (option and sign and value.strip()):
            raise SweepError(f"{argument} {text!r}: give OPTION=VALUES, as in seed=0,1,2")
        if option in seen:
            raise SweepError(f"{argument}: {option} is there twice; join its values")
        seen.add(option)
        yield option, value


def _draw(option: str, text: str, rng: random.Random) -> str:
    kind, *ends = text.split(":")
    if not ends:
        return rng.choice([value.strip() for value in text.split(",")])
    wrong = SweepError(
        f"sample {option}={text}: give log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH, LOW below "
        "HIGH and for log above 0, or values to choose from, as in 16,32,64"
    )
    try:
        low, high = map(int if kind == "int" else float, ends)
    except ValueError as error:
        raise wrong from error
    if not (math.isfinite(low) and low < high < math.inf) or (kind == "log" and low <= 0):
        raise wrong
    match kind:
        case "int":
            return str(rng.randint(int(low), int(high)))
        case "uniform":
            return f"{rng.uniform(low, high):.4g}"
        case "log":
            return f"{math.exp(rng.uniform(math.log(low), math.log(high))):.4g}"
    raise wrong


def trials(
    parse: Parse,
    fixed: Sequence[str],
    axes: Mapping[str, Sequence[str]],
    drawn: Sequence[Mapping[str, str]] = ({},),
) -> list[Trial]:
    """Every draw at every point of the grid, each checked as its command line will be.

    Args:
        parse: an experiment's command line.
        fixed: words that all trials begin with.
        axes: values by option.
        drawn: options by draw.

    Returns:
        The trials draw by draw, each in the order of the grid.

    Raises:
        SweepError: an option does not exist or is not to be swept, a value is none of it, or two
            trials are the same run or have the same folder.
    """
    if clash := sorted(set(axes) & {option for draw in drawn for option in draw}):
        raise SweepError(f"{clash[0]} is in --grid and in --sample; leave it in one of them")
    for word in fixed:
        if _option(word) in RESERVED:
            raise SweepError(f"{word}: a sweep gives each trial its own; leave it out")
    known: dict[tuple[str, ...], Any] = {}
    found: dict[str, Trial] = {}
    same: dict[str, str] = {}
    for draw in drawn:
        for point in itertools.product(*axes.values()):
            chosen = {**dict(zip(axes, point, strict=True)), **draw}
            trial, options = _trial(parse, fixed, chosen, known)
            if trial.name in found:
                raise SweepError(
                    f"two trials with one folder: {_said(found[trial.name].settings)} and "
                    f"{_said(trial.settings)} would both lie in trials/{trial.name}; leave one out"
                )
            if (before := same.setdefault(repr(options), trial.name)) != trial.name:
                raise SweepError(
                    f"two trials are the same run: {before} and {trial.name}; leave one out"
                )
            found[trial.name] = trial
    return list(found.values())


def _trial(
    parse: Parse, fixed: Sequence[str], chosen: Mapping[str, str], known: dict[tuple[str, ...], Any]
) -> tuple[Trial, Any]:
    """A trial and its options; ``known`` keeps defaults, which few options decide."""
    deciding = tuple(f"--{o}={chosen[o]}" for o in ("preset", "method") if o in chosen)
    if deciding not in known:
        known[deciding] = _parsed(parse, [*fixed, *deciding], " ".join(deciding) or "the options")
    words = [*fixed]
    for option, value in chosen.items():
        words += _words(known[deciding], option, value)
    name = _name(chosen)
    options = _parsed(parse, words, name)
    settings = {option: _plain(_value(options, option)) for option in chosen}
    return Trial(name, settings, tuple(words)), options


def _parsed(parse: Parse, words: Sequence[str], what: str) -> Any:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return parse(words)
    except SystemExit as error:
        raise SweepError(f"{what}: {_sentence(said.getvalue())}") from error


def _sentence(box: str) -> str:
    """The first part of a box as tyro draws it: after its title, up to a rule or the next one."""
    plain = re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯]", " ", box)
    lines = [line.strip() for line in plain.splitlines()[1:]]
    parts = itertools.groupby(lines, lambda line: bool(line.strip("─-")))
    said = next((part for words, part in parts if words), ())
    return " ".join(" ".join(said).split())


def _value(options: Any, option: str) -> Any:
    for part in option.split("."):
        options = getattr(options, part.replace("-", "_"))
    return options


def _words(options: Any, option: str, value: str) -> list[str]:
    """An option and its value as words of a command line.

    Raises:
        SweepError: there is no such option, or it is none to sweep.
    """
    if option in RESERVED:
        raise SweepError(f"{option} cannot be swept: a sweep gives each trial its own")
    names = list(_names(options))
    if option not in names:
        group = [name for name in names if name.startswith(f"{option}.")]
        near = group[:3] or difflib.get_close_matches(option, names, 3, 0.5)
        raise SweepError(
            f"there is no option {option}"
            + (f"; did you mean {' or '.join(near)}?" if near else "; --help shows those there are")
        )
    if isinstance(_value(options, option), bool):
        if value not in ("true", "false"):
            raise SweepError(f"{option}={value}: give true or false")
        group, _, last = option.rpartition(".")
        no = "no-" if value == "false" else ""
        return [f"--{group}.{no}{last}" if group else f"--{no}{last}"]
    head, *rest = value.split()
    return [f"--{option}", head, *rest] if rest else [f"--{option}={head}"]


def _names(options: Any) -> Iterator[str]:
    for field in dataclasses.fields(options):
        name, value = field.name.replace("_", "-"), getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from (f"{name}.{inner}" for inner in _names(value))
        else:
            yield name


def _option(word: str) -> str:
    return word.removeprefix("--").partition("=")[0].replace("_", "-") if word[:2] == "--" else ""


def _name(chosen: Mapping[str, str]) -> str:
    name = ",".join(f"{option}={value}" for option, value in chosen.items()) or "only"
    name = re.sub(r"[^\w.,=+-]", "-", name)
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _plain(value: object) -> Plain:
    """The value as a table can hold it."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _said(settings: Mapping[str, Plain]) -> str:
    return " ".join(f"{option}={value}" for option, value in settings.items())


# ---------------------------------------------------------------- the folder


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where a sweep lies."""

    path: pathlib.Path

    def run(self, name: str) -> pathlib.Path:
        """The folder of a trial's run."""
        return self.path / "trials" / name

    def log(self, name: str) -> pathlib.Path:
        """What a trial said."""
        return self.path / "logs" / f"{name}.log"

    def end(self, name: str, status: Status, said: str = "") -> None:
        """Keep how a trial ended that did not finish."""
        files.write(self._ending(name), json.dumps({"status": status, "said": said}) + "\n")

    def begin(self, name: str) -> None:
        """Forget how a trial ended before, for it goes on."""
        self._ending(name).unlink(missing_ok=True)

    def ended(self, name: str) -> tuple[Status, str]:
        """Where a trial stands, and what it said last if it failed."""
        if self._ending(name).is_file():
            ending = json.loads(self._ending(name).read_text())
            return ending["status"], ending["said"]
        if (self.run(name) / files.SUMMARY).is_file():
            return "finished", ""
        return ("begun" if (self.run(name) / files.CONFIGURATION).is_file() else "waiting"), ""

    def _ending(self, name: str) -> pathlib.Path:
        return self.path / "logs" / f"{name}.json"


def check(path: pathlib.Path, module: str, words: Sequence[str], resume: bool) -> dict[str, Any]:
    """What a sweep's folder says is tried there; nothing is written.

    Args:
        path: the sweep's folder.
        module: of the experiment.
        words: of the sweep's command line.
        resume: whether the sweep is to be continued.

    Returns:
        Options by trial; empty of a new or an empty folder.

    Raises:
        SweepError: it holds something else, or a sweep while ``resume`` is False, or another one.
    """
    before = files.held(path, SWEEP, "sweep", resume, SweepError)
    if before is None:
        return {}
    for name, now in (("experiment", module), ("words", list(words))):
        if before[name] != now:
            raise SweepError(
                f"workdir={path} holds a sweep of another configuration: its {name} were "
                f"{before[name]}, now {now}; continue with the same, or give another --workdir"
            )
    return before["trials"]


def create(
    path: pathlib.Path, module: str, words: Sequence[str], tried: Iterable[Trial], resume: bool
) -> Folder:
    """A sweep's folder with what is tried; trials that it holds already stay.

    Args:
        path: the sweep's folder.
        module: of the experiment.
        words: of the sweep's command line.
        tried: trials.
        resume: whether the sweep is to be continued.

    Returns:
        The folder, in which all of them are listed.

    Raises:
        SweepError: as :func:`check`.
    """
    listed = check(path, module, words, resume)
    listed |= {trial.name: dict(trial.settings) for trial in tried}
    for part in ("trials", "logs"):
        (path / part).mkdir(parents=True, exist_ok=True)
    said = {"experiment": module, "words": list(words), "trials": listed}
    files.write(path / SWEEP, json.dumps(said, indent=2) + "\n")
    return Folder(path)


# ---------------------------------------------------------------- one trial


Record = Mapping[str, Any]


def supervise(
    folder: Folder,
    name: str,
    command: Sequence[str],
    report: Callable[[Record], None],
    *,
    place: str | None = None,
    additions: Mapping[str, str] | None = None,
    patience: float = 300.0,
) -> Status:
    """Run a trial in a process of its own, or continue it, to its end.

    The process does not outlive the thread that called this, and a trial whose former process
    still lives (its machine was given up, but is not dead) waits for its end: two never write to
    one folder. The trial's log is the lock, held by whatever may still write to it.

    Args:
        folder: of the sweep.
        name: of the trial.
        command: what runs it; ``--workdir`` and ``--resume`` are added.
        report: called with each epoch's record, once, those of before a continuation included.
        place: folder that relative names in the command start from.
        additions: to the environment.
        patience: seconds to wait for a former process.

    Returns:
        ``finished``, or ``failed`` where the run ended by itself with a mistake or without results;
        the folder knows what it said.

    Raises:
        WorkerError: the process was killed, or a former one does not end; worth another attempt.
    """
    path = folder.run(name)
    with open(folder.log(name), "ab") as log:
        _lock(log, patience)
        folder.begin(name)
        resume = ["--resume"] if (path / files.CONFIGURATION).is_file() else []
        process = subprocess.Popen(
            [*command, f"--workdir={path}", *resume],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=place,
            env={**os.environ, **(additions or {})},
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        try:
            _follow(process, path / files.METRICS, report)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if process.returncode < 0:
        said = f"ended by {signal.Signals(-process.returncode).name}"
        folder.end(name, "failed", said)  # until it is continued, if it is
        raise WorkerError(f"{name}: {said}")
    if folder.ended(name)[0] == "finished" and not process.returncode:
        return "finished"
    lines = folder.log(name).read_text(errors="replace").splitlines()
    said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    folder.end(name, "failed", f"status {process.returncode}: {said}")
    return "failed"


def _lock(log: IO[bytes], patience: float) -> None:
    last = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > last:
                raise WorkerError(f"{log.name} is held by a process that does not end") from None
            time.sleep(POLL_SECONDS)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    if _LIBC is not None:  # elsewhere the lock alone keeps two processes apart
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _follow(
    process: subprocess.Popen[bytes], path: pathlib.Path, report: Callable[[Record], None]
) -> None:
    """Report each epoch once until the process ends."""
    seen: set[tuple[str, int]] = set()
    changed = None
    running = True
    while running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
            running = False
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            if changed == (changed := (stat.st_ino, stat.st_size)):
                continue
            for record in files.read_records(path):
                key = record["stage"], record["epoch"]
                if key not in seen:
                    seen.add(key)
                    report(record)


# ---------------------------------------------------------------- what came out


def rows(folder: Folder) -> list[dict[str, Any]]:
    """One row a trial: its settings, how it ended, and of a finished one its scores and costs.

    ``validation_accuracy``, or ``validation_loss`` of a task without classes, is the last of all,
    of the quantised network; scores and costs are those
    of ``summary.json``: ``float``, ``int8`` and ``tflm`` shares of the test examples or areas under
    the curve, multiply-accumulates, bytes, estimated ms and mJ, seconds of all stages. ``epochs``
    holds the records of all epochs.
    """
    tried = json.loads((folder.path / SWEEP).read_text())["trials"]
    return [_row(folder, name, settings) for name, settings in tried.items()]


VALIDATED = ("validation_accuracy", "validation_loss")
"""What an epoch's record may say of the validation examples."""


def _row(folder: Folder, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    status, said = folder.ended(name)
    path = folder.run(name)
    metrics = path / files.METRICS
    epochs = files.read_records(metrics) if metrics.is_file() else []
    row: dict[str, Any] = {"trial": name, "status": status, "said": said, **settings}
    for record in epochs:
        row |= {name: record[name] for name in VALIDATED if name in record}
    return row | results(path) | {"epochs": epochs}


def results(run: pathlib.Path) -> dict[str, Any]:
    """Scores and costs by the names of :func:`rows`; none where a run has not finished."""
    if not (run / files.SUMMARY).is_file():
        return {}
    summary = json.loads((run / files.SUMMARY).read_text())
    metric = summary["metric"]
    scores = summary[metric]
    used = {name: limit["used"] for name, limit in summary["limits"].items()}
    latency = summary.get("latency", {})
    return {
        "metric": metric,
        **{kind: scores[kind] for kind in ("float", "int8", "tflm")},
        "macs": summary["network"]["macs"],
        "latency_ms": latency.get("predicted_ms"),
        "energy_mj": latency.get("predicted_mj"),
        **used,
        "seconds": sum(summary["seconds"].values()),
    }


def write(folder: Folder) -> list[dict[str, Any]]:
    """Write ``sweep.parquet`` and ``report.html``, each whole or not at all; returns the rows."""
    import pyarrow as pa
    from pyarrow import parquet

    from micronets_jax.report import sweep as page

    found = rows(folder)
    columns = dict.fromkeys(name for row in found for name in row)
    table = pa.table({name: [row.get(name) for row in found] for name in columns})
    with files.whole(folder.path / TABLE) as file:
        parquet.write_table(table, file)
    said = json.loads((folder.path / SWEEP).read_text())
    files.write(folder.path / REPORT, page.render(said, found))
    return found
