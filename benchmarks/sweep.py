"""What does a sweep add to its trials, and how busy does it keep the cores?

    python -m benchmarks.sweep --trials 200 --seconds 0.5

Trials learn nothing (``benchmarks.sweep_trial``) and take the given processor time, besides what it
takes to start Python. From the first start to the last end, each core is either in a trial, from
the start of its process to its summary, or between two: that is what the sweep adds. Starting Ray
and reading the results comes before and after and is printed by itself.

Results: BUILD_NOTES.md, "Sweeps".
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
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


def main() -> None:
    """Print shares and seconds."""
    options = tyro.cli(Options, description=Options.__doc__)
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place) / "sweep"
        seeds = ",".join(map(str, range(options.trials)))
        asked = command.Options("benchmarks.sweep_trial", grid=(f"seed={seeds}",), workdir=path)
        fixed = ["--search.epochs=1", "--train.epochs=1"]
        start = time.time()
        command.run(asked, [*fixed, f"--train.learning-rate={options.seconds / 2}"])
        whole = time.time() - start
        spans = []
        for seed in range(options.trials):
            summary = (Folder(path).run(f"seed={seed}") / files.SUMMARY).read_text()
            spans.append((json.loads(summary)["from"], json.loads(summary)["to"]))
    first, last = min(a for a, _ in spans), max(b for _, b in spans)
    inside, there = sum(b - a for a, b in spans), options.cores * (last - first)
    print(f"a trial takes {inside / options.trials:.2f} s, of them {options.seconds:g} computing")
    print(f"cores are in a trial {inside / there:.1%} of the time")
    print(f"added between trials: {(there - inside) / options.trials:.2f} s each")
    print(f"before and after: {whole - (last - first):.1f} s in all")


if __name__ == "__main__":
    main()
