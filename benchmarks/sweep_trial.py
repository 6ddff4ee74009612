"""An experiment that learns nothing, in seconds: what sweeps are tested and measured with.

    python -m benchmarks.sweep_trial --search.epochs 3 --train.epochs 5 --workdir runs/nothing

It keeps the promises of a run (configuration, one record and one checkpoint an epoch, a summary,
``--resume``), so that what a sweep does with it, it does with any experiment. An epoch computes for
``--train.learning-rate`` seconds of processor time, and accuracies follow from the options alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import random
import signal
import sys
import time

from micronets_jax import experiment_cli, files
from micronets_jax.recipes import DNAS, FloatTraining


@dataclasses.dataclass(frozen=True)
class Options(experiment_cli.Options):
    """Learn nothing."""

    fail: str = ""
    """End with this sentence, or by this signal, as SIGKILL."""


PRESETS = {
    "quick": Options(
        search=DNAS(epochs=1, trials=1), train=FloatTraining(epochs=4, learning_rate=0.1)
    )
}


def task(options: Options):
    """None: there is nothing to learn."""
    raise NotImplementedError


NOTHING = experiment_cli.Experiment("nothing", PRESETS, task)


def run(options: Options) -> None:
    """Epochs, then a summary; continues from the last epoch kept."""
    folder = options.workdir or pathlib.Path("runs/nothing")
    if (folder / files.CONFIGURATION).exists() and not options.resume:
        sys.exit("error: the folder holds another run; add --resume")
    if options.fail in signal.Signals.__members__:
        os.kill(os.getpid(), signal.Signals[options.fail])
    if options.fail:
        print(f"error: {options.fail}", file=sys.stderr)
        sys.exit(2)
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / files.CONFIGURATION, "{}")
    kept = folder / "checkpoint.json"
    state = json.loads(kept.read_text()) if kept.exists() else {"records": []}
    epochs = [("search", e) for e in range(1, options.search.epochs + 1)]
    epochs += [("train", e) for e in range(1, options.train.epochs + 1)]
    for stage, epoch in epochs[len(state["records"]) :]:
        print(f"{stage}: epoch {epoch}", flush=True)
        end = time.process_time() + options.train.learning_rate
        while time.process_time() < end:
            pass
        chance = random.Random(f"{options.seed} {stage} {epoch}").uniform(0, 0.02)
        accuracy = min(0.9, 0.3 + 0.1 * epoch) + chance + 0.001 * options.seed
        state["records"].append(
            {
                "stage": stage, "epoch": epoch, "loss": 1 - accuracy, "accuracy": accuracy,
                **({"validation_accuracy": accuracy - 0.05} if stage == "train" else {}),
            }
        )  # fmt: skip
        lines = "".join(json.dumps(record) + "\n" for record in state["records"])
        files.write(folder / files.METRICS, lines)
        files.write(kept, json.dumps(state))
    last = state["records"][-1]["accuracy"]
    summary = {
        "metric": "accuracy",
        "accuracy": {"float": last, "int8": last, "tflm": last},
        "limits": {"flash_bytes": {"used": 40_000 + 1000 * options.seed}},
        "network": {"macs": 500_000 + 10_000 * options.seed},
        "seconds": {"train": time.process_time()},
        "from": _began(),
        "to": time.time(),
    }
    files.write(folder / files.SUMMARY, json.dumps(summary))


def _began() -> float:
    """When this process was started, before Python was: seconds since 1970."""
    ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    up = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    run(NOTHING.parse(sys.argv[1:]))
