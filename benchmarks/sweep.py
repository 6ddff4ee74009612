"""What does a sweep add to its trials, and how busy does it keep the cores?

    python -m benchmarks.sweep --trials 200 --seconds 0.5

Trials learn nothing (``benchmarks.sweep_trial``) and take the given processor time, besides what it
takes to start Python. From the first start to the last end, each core is either in a trial, from
the start of its process to its summary, or between two: that is what the sweep adds. Starting Ray
and reading the results comes before and after and is printed by itself. On a machine that others
use too, spans grow with what these take; the processor time of all processes that are no trials,
from the first of them to the last, does so less.

Results: BUILD_NOTES.md, "Sweeps".
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
import threading
import time

import tyro

from experiments import sweep as command
from micronets_jax import files
from micronets_jax.sweep import Folder


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure what a sweep adds to tiny trials."""

    trials: int = 200
    """How many."""
    seconds: float = 0.5
    """Of processor time that each computes."""
    cores: int = 2
    """Of this machine: each trial is given one."""


class Meter(threading.Thread):
    """Looks now and then at the processor time of this process and its descendants, but trials."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.seen: list[tuple[float, float]] = []

    def run(self) -> None:
        """Keep (time, seconds of processor time so far) until ``ended``."""
        most: dict[int, float] = {}
        while not self.ended.wait(2.0):
            most |= _processes(os.getpid())
            self.seen.append((time.time(), sum(most.values())))

    def between(self, first: float, last: float) -> float:
        """Seconds of processor time from one time to another, to two seconds."""
        inside = [seconds for when, seconds in self.seen if first <= when <= last]
        return inside[-1] - inside[0] if inside else 0.0


def _processes(root: int) -> dict[int, float]:
    """Processor seconds by process: the root and its descendants that are no trials."""
    children: dict[int, list[int]] = {}
    seconds = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended in between
            trial = b"sweep_trial" in (entry / "cmdline").read_bytes() and int(entry.name) != root
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            if not trial:
                ticks = int(fields[11]) + int(fields[12])
                seconds[int(entry.name)] = ticks / os.sysconf("SC_CLK_TCK")
    found, left = {}, [root]
    while left:
        pid = left.pop()
        left += children.get(pid, ())
        if pid in seconds:
            found[pid] = seconds[pid]
    return found


def main() -> None:
    """Print shares and seconds."""
    options = tyro.cli(Options, description=Options.__doc__)
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place) / "sweep"
        seeds = ",".join(map(str, range(options.trials)))
        asked = command.Options("benchmarks.sweep_trial", grid=(f"seed={seeds}",), workdir=path)
        fixed = ["--search.epochs=1", "--train.epochs=1"]
        meter = Meter()
        meter.start()
        start = time.time()
        command.run(asked, [*fixed, f"--train.learning-rate={options.seconds / 2}"])
        whole = time.time() - start
        meter.ended.set()
        spans = []
        for seed in range(options.trials):
            summary = (Folder(path).run(f"seed={seed}") / files.SUMMARY).read_text()
            spans.append((json.loads(summary)["from"], json.loads(summary)["to"]))
    first, last = min(a for a, _ in spans), max(b for _, b in spans)
    inside, there = sum(b - a for a, b in spans), options.cores * (last - first)
    print(f"a trial takes {inside / options.trials:.2f} s, of them {options.seconds:g} computing")
    print(f"cores are in a trial {inside / there:.1%} of the time")
    print(f"added between trials: {(there - inside) / options.trials:.2f} s each")
    spent = meter.between(first, last) / options.trials
    print(f"processor time besides trials: {spent:.2f} s each")
    print(f"before and after: {whole - (last - first):.1f} s in all")


if __name__ == "__main__":
    main()
