"""What a run looks like in a terminal: progress bars, the table at the end, errors as a sentence.

Invariant: on a terminal one line per stage is redrawn; elsewhere one line per epoch is printed.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

SHARES = ("sram_bytes", "flash_bytes", "mops", "latency_ms", "energy_mj")
"""Metrics that are shares of a limit, shown in percent, beside what people call them."""

LABELS = {
    "sram_bytes": "SRAM",
    "flash_bytes": "flash",
    "mops": "ops",
    "latency_ms": "latency (estimate)",
    "energy_mj": "energy (estimate)",
}
METRICS = {"auc": "mean AUC", "r2": "R²"}
"""What people call the headlines of metrics that have a name of their own."""
UNITS = {
    "sram_bytes": "bytes",
    "flash_bytes": "bytes",
    "mops": "million ops",
    "latency_ms": "ms",
    "energy_mj": "mJ",
}


def quiet() -> None:
    """Silence TensorFlow's log when it is loaded; call it before JAX is imported, which sets a
    level of its own.

    Environment variables that are set already stay. oneDNN is switched off because its notice
    ignores the level; TensorFlow only converts and loads data here, so results do not depend on it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def mute() -> None:
    """Nothing more goes to the standard output, from here or from libraries."""
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Console:
    """Shows the stages of a run; use as a context manager."""

    def __init__(self) -> None:
        self.terminal = Terminal(highlight=False)
        self._bars = Progress(
            TextColumn("{task.description:9}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[metrics]}"),
            console=self.terminal,
            disable=not self.terminal.is_terminal,
        )

    def __enter__(self) -> Console:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Prints one line."""
        self.terminal.print(text, soft_wrap=True)

    def stage(self, name: str):
        """A new bar; returns what moves it."""
        task = self._bars.add_task(name, total=None, metrics="")

        def progress(done: int, total: int, metrics: dict[str, int | float]) -> None:
            self._bars.update(task, completed=done, total=total, metrics=_line(metrics))

        return progress

    def epoch(self, stage: str, record: Mapping[str, int | float]) -> None:
        """One line per epoch where bars cannot be drawn."""
        if not self.terminal.is_terminal:
            self.say(f"{stage} {int(record['epoch']):3d}  {_line(record)}")


_MEMORIES = ("flash_bytes", "ram_bytes")


def show(summary: Mapping[str, Any], folder: object) -> None:
    """The table that ends a run."""
    terminal = Terminal(highlight=False)
    metric = summary["metric"]
    score = summary[metric]
    table = Table(title=f"{summary['experiment']} for {summary['device']['name']}")
    table.add_column("limit")
    for name in ("allowed", "used", "", "largest network"):
        table.add_column(name, justify="right")
    for name, row in summary["limits"].items():
        share = f"{row['used'] / row['limit']:.0%}"
        numbers = (_number(name, row[key]) for key in ("limit", "used", "largest"))
        limit, used, largest = numbers
        table.add_row(f"{LABELS[name]}, {UNITS[name]}", limit, used, share, largest)
    terminal.print(table)
    seen, tested = summary["tflm_examples"], summary["data"]["test"]
    part = f"{seen} of {tested} test examples, int8 there {score['int8_there']:.1%}"
    terminal.print(
        f"{METRICS.get(metric, metric)}: {score['float']:.1%}{_error(summary)} float, "
        f"{score['int8']:.1%} int8, "
        f"{score['tflm']:.1%} in TensorFlow Lite Micro "
        f"({part if seen < tested else f'{seen} test examples'})"
    )
    if "latency" in summary:
        terminal.print(_times(summary["latency"], summary["device"]["name"]))
        terminal.print(*_late(summary), end="")
    made = summary.get("firmware")
    if made and "error" not in made:
        size = {name: made[name]["linked"] or made[name]["predicted"] for name in _MEMORIES}
        terminal.print(
            f"firmware: {made['folder']}/ for {made['device']}, {made['provenance']}; flash "
            f"{size['flash_bytes']}, RAM {size['ram_bytes']} bytes, linking {made['linking']}"
            + (
                f"; a stream of sound takes {made['listening']['core_share']:.1%} of the core"
                if "listening" in made
                else ""
            ),
            soft_wrap=True,
        )
        if "plan" in made:
            terminal.print(_plan(made["plan"]), soft_wrap=True)
    if "listening" in summary:
        terminal.print(_stream(summary["listening"]), soft_wrap=True)
    terminal.print(f"results: {folder}  (open report.html)", soft_wrap=True)


def show_front(
    summaries: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, float], folder: object
) -> None:
    """The table that ends a run of several networks.

    Args:
        summaries: what each network's ``summary.json`` says, by its name.
        seconds: how long what they share took, by stage.
        folder: of the run.
    """
    terminal = Terminal(highlight=False)
    first = next(iter(summaries.values()))
    metric = first["metric"]
    table = Table(title=f"{first['experiment']}, {len(summaries)} networks from one search")
    table.add_column("network")
    limits = [name for name in SHARES if any(name in one["limits"] for one in summaries.values())]
    for name in ("float", "int8", *(f"{LABELS[limit]}, {UNITS[limit]}" for limit in limits)):
        table.add_column(name, justify="right")
    for name, summary in summaries.items():
        rows = summary["limits"]
        used = [_number(n, rows[n]["used"]) if n in rows else "" for n in limits]
        score = summary[metric]
        table.add_row(name, f"{score['float']:.1%}", f"{score['int8']:.1%}", *used)
    terminal.print(table)
    shared = ", ".join(f"{stage} {count:.0f} s" for stage, count in seconds.items())
    terminal.print(
        f"{METRICS.get(metric, metric)} of {first['data']['test']} test examples; shared: {shared}",
        soft_wrap=True,
    )
    terminal.print(
        f"results: {folder}  (open report.html; each network has a folder of its own there)",
        soft_wrap=True,
    )


def _plan(plan: Mapping[str, Any]) -> str:
    """Which layers of the program go row by row, and what that comes to, in one line."""
    names = {layer["name"]: layer["rows"] for layer in plan["layers"]}
    arena, fast = plan["front"][-1]
    line = (
        f"plan: {sum(names.values())} of {len(names)} layers go row by row; arena "
        f"{plan['arena_bytes']:,} bytes, {plan['instructions']:,} instructions predicted"
    )
    if arena == plan["arena_bytes"]:
        return line
    return f"{line} (the fastest plan: {arena:,} bytes, {fast:,} instructions)"


def _stream(listening: Mapping[str, Any]) -> str:
    """A spotter's misses and false alarms in one line."""
    seen = listening["validation"]
    missed = 1 - seen["hits"] / max(1, seen["words"])
    return (
        f"listening: {missed:.1%} of {seen['words']} words missed at "
        f"{seen['alarms'] / seen['hours']:.3g} false alarms an hour, in {60 * seen['hours']:.0f} "
        "minutes of validation clips among noises"
    )


def timeline(words: Iterable[tuple[float, str, float]]) -> None:
    """Words that a spotter tells, each with the second at which it does, and how sure it is."""
    count = 0
    for second, word, confidence in words:
        minutes, seconds = divmod(round(10 * second), 600)
        hours, minutes = divmod(minutes, 60)
        time = f"{hours}:{minutes:02}:{seconds / 10:04.1f}"
        print(f"{time:>10}  {word:12} {confidence:6.1%}", flush=True)
        count += 1
    print(f"{count} {'word' if count == 1 else 'words'}, each told within a second of its end")


def _error(summary: Mapping[str, Any]) -> str:
    """The standard error of an accuracy, by the number of test examples."""
    share, tested = summary[summary["metric"]]["float"], summary["data"]["test"]
    if summary["metric"] != "accuracy" or not tested:
        return ""
    return f" \u00b1 {100 * math.sqrt(share * (1 - share) / tested):.1f}"


def _times(latency: Mapping[str, Any], board: str) -> str:
    """Estimated latency and energy in one line."""
    line = f"{board}, {latency['runtime']}: {latency['predicted_ms']:.1f} ms"
    if latency["predicted_mj"] is not None:
        line += f" and {latency['predicted_mj']:.2f} mJ"
    line += " an inference (estimates)"
    if latency["emulated_ms"] is not None:
        line += f"; {latency['emulated_ms']:.1f} ms by an emulated run"
    return line


def _late(summary: Mapping[str, Any]) -> Iterator[str]:
    """A line for each limit on time that the delivered program exceeds: a search times whole
    tensors, and where memory is short layers go by rows."""
    for name, key in (("latency_ms", "predicted_ms"), ("energy_mj", "predicted_mj")):
        limit, found = summary["limits"].get(name), summary["latency"][key]
        if limit and found > limit["limit"]:
            yield (
                f"warning: {found:.2f} {UNITS[name]} is more than the {limit['limit']:g} allowed, "
                "for layers go by rows to fit the memory; allow more memory, or ask for less time\n"
            )


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Warnings as sentences, without a place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}")
        yield


@contextlib.contextmanager
def errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds, a full disk, an interruption into a sentence and a status."""
    try:
        yield
    except KeyboardInterrupt:
        _end("stopped; the same command with --resume continues", 130)
    except Exception as error:
        if "No space left on device" in str(error):
            _end("the disk is full; make room, then continue with --resume", 2)
        if not isinstance(error, kinds):
            raise
        _end(f"error: {error}", 2)


@contextlib.contextmanager
def piped(status: int = 0) -> Iterator[None]:
    """End with ``status``, silently, where the reader of the output has closed the pipe."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(status) from None


def _end(message: str, status: int) -> NoReturn:
    print(" ".join(message.split()), file=sys.stderr)
    raise SystemExit(status)


def _line(metrics: Mapping[str, int | float]) -> str:
    parts = [f"loss {_loss(metrics['loss'])}"]
    if "accuracy" in metrics:
        parts.append(f"accuracy {metrics['accuracy']:.1%}")
    if "validation_accuracy" in metrics:
        parts.append(f"validation {metrics['validation_accuracy']:.1%}")
    if "validation_loss" in metrics:
        parts.append(f"validation {_loss(metrics['validation_loss'])}")
    parts += [
        f"{LABELS[name].split()[0]} {metrics[name]:.0%}" for name in SHARES if name in metrics
    ]
    return "  ".join(parts)


def _loss(value: int | float) -> str:
    return f"{value:.2g}" if 0 < value < 0.01 else f"{value:.3f}"


def _number(name: str, value: int | float) -> str:
    return f"{value:,}" if name.endswith("bytes") else f"{value:.2f}"
