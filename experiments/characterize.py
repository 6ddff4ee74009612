"""Characterisation: what networks of a search space take on a core, and how far a line goes.

Paper: MicroNets (Banbury et al., MLSys 2021), section 4: within a search space latency is linear in
operations, r^2 0.95 to 0.99.

    python -m experiments.characterize --space kws --device mps2-an386 --samples 200
    python -m experiments.characterize --space layers --device mps2-an386 --samples 200 --ship

Draws networks, gives them random weights, exports, compiles and runs each in the emulator, and
fits latency against operations. ``layers`` is no search space: its networks are there to fit the
steps of the per-layer model (``latency``), so that every search space is new to it.

Nothing heavy is imported before the command line has been read.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Literal

import tyro

from micronets_jax.targets import Runtime

if TYPE_CHECKING:
    from micronets_jax.devices import Device
    from micronets_jax.latency_fit import Sample
    from micronets_jax.workdir import Workdir

SAMPLES = "samples.jsonl"
FAILURES = 5
"""Networks that may fail on a real board in a row: more, and nobody is there."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure random networks of a search space and fit what they take."""

    space: Literal["kws", "vww", "ad", "layers"] = "kws"
    """Where networks are drawn; layers fits the per-layer model instead of a line."""
    device: str = "mps2-an386"
    """The board: mps2-an386 is an emulated Cortex-M4, mps2-an500 a Cortex-M7."""
    runtime: Runtime = "compiled"
    """What runs the networks; tflm links the library that TFLM_INCLUDE and TFLM_LIBRARY name."""
    samples: int = 200
    """Networks to draw."""
    seed: int = 0
    """Of the draws; the same seed gives the same networks and counts."""
    jobs: int = os.cpu_count() or 1
    """Networks at a time."""
    workdir: pathlib.Path | None = None
    """Folder of results; runs/characterize-SPACE-DEVICE-RUNTIME if not given."""
    resume: bool = False
    """Continue the run that the folder holds."""
    ship: bool = False
    """Write the result into the library as well, where latency and its tests find it."""
    calibrate: str | None = None
    """Measure on a real board instead, behind this port, for example serial:/dev/ttyACM0; each
    network is flashed with OpenOCD or st-flash."""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    from micronets_jax import console

    with console.piped():
        options = tyro.cli(
            Options, args=arguments, description=Options.__doc__,
            prog="python -m experiments.characterize",
        )  # fmt: skip

    console.quiet()
    from micronets_jax.protocol import ProtocolError
    from micronets_jax.workdir import WorkdirError

    with console.errors(ProtocolError, WorkdirError, ValueError, OSError):
        run(options)


def run(options: Options) -> dict[str, Any]:
    """Measure what is not measured yet, fit, print, write ``result.json`` and the plot."""
    from micronets_jax import devices, firmware, protocol, targets
    from micronets_jax.workdir import Workdir

    for name in ("samples", "jobs"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name}={getattr(options, name)}: must be at least 1")
    on = devices.device(options.device)
    if not on.emulated and options.calibrate is None:
        emulated = ", ".join(d.name for d in devices.DEVICES.values() if d.emulated)
        raise ValueError(
            f"device {on.name} cannot be emulated; use one of {emulated}, or --calibrate with the "
            "port of a board"
        )
    if options.calibrate is not None:
        if on.emulated or options.ship or options.space == "layers":
            raise ValueError(
                "calibrate is for a real board and a search space, and its result is not shipped"
            )
        with protocol.open_port(options.calibrate):
            pass  # absent or busy: said before anything is written
    if lacks := targets.engine(options.runtime).missing(on):
        raise ValueError(f"runtime {options.runtime}: {lacks}")
    made = " and ".join(firmware.versions())
    name = f"characterize-{options.space}-{on.name}-{options.runtime}"
    identity = {k: getattr(options, k) for k in ("space", "runtime", "seed", "calibrate")}
    with Workdir(
        options.workdir or pathlib.Path("runs") / name,
        {**identity, "device": on.name, "tools": made}, options.resume,
    ) as workdir:  # fmt: skip
        started = time.monotonic()
        samples = measured(options, on.core, workdir)
        seconds = time.monotonic() - started
        command = " ".join(
            f"--{k} {getattr(options, k)}"
            for k in ("space", "device", "runtime", "samples", "seed")
        )
        result = {
            "made": f"python -m experiments.characterize {command}; {made}",
            **fitted(options, on, samples),
        }
        workdir.write("result.json", json.dumps(result, indent=1) + "\n")
        if options.space != "layers":
            workdir.write("latency.svg", plot(options, on, samples, result))
        print(f"{len(samples)} networks, {options.samples - len(samples)} skipped, {seconds:.0f} s")
        print(f"results: {workdir.path}")
    if options.ship:
        print(f"shipped: {ship(options, on, result)}")
    return result


# ---------------------------------------------------------------- measuring


def measured(options: Options, core: str, workdir: Workdir) -> list[Sample]:
    """All samples by index; those of an earlier run are read, bad ones reported and left out."""
    from micronets_jax.files import read_records
    from micronets_jax.latency_fit import Sample

    path = workdir.path / SAMPLES
    known = {row["index"]: row for row in read_records(path)} if path.exists() else {}
    # Without a last line that was cut short.
    workdir.write(SAMPLES, "".join(json.dumps(row) + "\n" for row in known.values()))
    wanted = range(options.samples)
    left = [i for i in wanted if i not in known]
    with open(path, "a") as file:
        for index, found in (
            _ask(left, options, workdir.path / "firmware")
            if options.calibrate
            else _measure(left, options, core)
        ):
            if isinstance(found, str):
                print(f"skipped network {index}: {found}", file=sys.stderr)
                continue
            known[index] = dataclasses.asdict(found)
            file.write(json.dumps(known[index]) + "\n")
            file.flush()
    return [Sample(**known[i]) for i in wanted if i in known]


def _measure(indices: list[int], options: Options, core: str) -> Iterator[tuple[int, Sample | str]]:
    """Each index with its sample, or with the reason why there is none, as they come."""
    from micronets_jax import latency_fit

    context = multiprocessing.get_context("spawn")
    left = set(indices)
    while left:
        with concurrent.futures.ProcessPoolExecutor(min(options.jobs, len(left)), context) as pool:
            running = {
                pool.submit(
                    latency_fit.attempt, options.space, options.seed, i, core, options.runtime
                ): i
                for i in sorted(left)
            }
            try:
                for future in concurrent.futures.as_completed(running):
                    found = future.result()
                    left.discard(running[future])
                    yield running[future], found
                    if sys.stderr.isatty():
                        print(f"\r{len(left)} networks left ", end="", file=sys.stderr)
            except BrokenProcessPool:
                # Nobody knows which network killed its process: the first that were running go.
                for index in sorted(left)[: options.jobs]:
                    left.discard(index)
                    yield index, "its process was killed"
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _ask(
    indices: list[int], options: Options, folder: pathlib.Path
) -> Iterator[tuple[int, Sample | str]]:
    """Each index with what the board says, or with the reason why it says nothing.

    Raises:
        ProtocolError: it failed several times in a row.
    """
    from micronets_jax import latency_fit
    from micronets_jax.protocol import ProtocolError

    failed = 0
    for index in indices:
        try:
            found = latency_fit.calibrate(
                options.space, options.seed, index, options.device, str(options.calibrate), folder,
                latency_fit.flash, options.runtime,
            )  # fmt: skip
            failed = 0
        except (RuntimeError, ValueError) as error:
            found, failed = " ".join(str(error).split()), failed + 1
            if failed == FAILURES:
                raise ProtocolError(
                    f"{FAILURES} networks failed in a row, the last: {error}"
                ) from error
        yield index, found


# ---------------------------------------------------------------- fitting


def fitted(options: Options, on: Device, samples: list[Sample]) -> dict[str, Any]:
    """The fit as JSON data; also printed."""
    import numpy as np

    from micronets_jax import latency_fit

    networks = [latency_fit.draw(options.space, options.seed, s.index) for s in samples]
    if not samples:
        raise ValueError("no network could be measured")
    if options.space == latency_fit.LAYERS:
        steps = latency_fit.steps(networks, samples, options.runtime)
        errors = latency_fit.layer_errors(networks, samples, options.runtime, steps)
        print(
            f"{len(steps)} steps fitted to {len(errors)} layers on {on.name}: mean error "
            f"{errors.mean():.2%}, largest {errors.max():.1%}"
        )
        return {
            "layers": len(errors), "mean_error": round(float(errors.mean()), 5),
            "largest_error": round(float(errors.max()), 5), "steps": steps,
        }  # fmt: skip
    ops = np.array([2e-6 * s.macs for s in samples])
    ms = np.array([s.instructions for s in samples]) * _ms_per_count(options, on)
    line = latency_fit.line(ops, ms)
    extra = {}
    if options.calibrate:
        factor, errors = latency_fit.sampled_factor(networks, samples, options.runtime, on)
        extra = {"cycles_per_instruction": round(factor, 4)}
        print(f"{factor:.4f} cycles per instruction; the library has {on.cycles_per_instruction}")
    else:
        errors = latency_fit.step_errors(networks, samples, options.runtime, on.core)
    errors = np.abs(errors)
    print(
        f"{options.space} on {on.name}, {options.runtime}: "
        f"{line.slope:.3f} ms per million operations and {line.intercept:.2f} ms\n"
        f"r^2 {line.r2:.4f}, mean error {line.mean_error:.1%}, "
        f"largest {line.largest_error:.1%}\n"
        f"per-layer model: mean error {errors.mean():.2%}, largest {errors.max():.2%}"
    )
    return {
        "line": {k: round(v, 6) for k, v in dataclasses.asdict(line).items()},
        "model": {
            "mean_error": round(float(errors.mean()), 5),
            "largest_error": round(float(errors.max()), 5),
        },
        **extra,
        "columns": ["index", "macs", "cycles" if options.calibrate else "instructions"],
        "rows": [[s.index, s.macs, s.instructions] for s in samples],
    }


def _ms_per_count(options: Options, on: Device) -> float:
    """Milliseconds that what a sample counts takes: a cycle of a board, or an instruction."""
    return on.ms_per_cycle if options.calibrate else on.ms_per_instruction


def plot(options: Options, on: Device, samples: list[Sample], result: dict[str, Any]) -> str:
    """Scatter plot of latency over operations with the fitted line, as SVG."""
    import io

    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.hashsalt"] = "micronets"  # the same samples give the same file
    ops = [2e-6 * s.macs for s in samples]
    ms = [s.instructions * _ms_per_count(options, on) for s in samples]
    line = result["line"]
    figure = Figure((6, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(ops, ms, s=9, linewidths=0, alpha=0.7)
    ends = [0, max(ops)]
    axes.plot(ends, [line["intercept"] + line["slope"] * x for x in ends], linewidth=1)
    axes.set(
        xlabel="million operations", ylabel="ms", xlim=(0, None), ylim=(0, None),
        title=f"{options.space}, {options.runtime}, {on.name}: r² = {line['r2']:.4f}",
    )  # fmt: skip
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def ship(options: Options, on: Device, result: dict[str, Any]) -> pathlib.Path:
    """Write a result where the library keeps it, steps of other cores left as they are."""
    from micronets_jax import devices, files, latency

    folder = pathlib.Path(devices.__file__).parent
    if options.space != "layers":
        path = folder / f"{options.space}-{on.name}-{options.runtime}.json"
        rows = ",\n  ".join(json.dumps(row) for row in result["rows"])
        head = json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1)
        return files.write(path, head.removesuffix("\n}") + f',\n "rows": [\n  {rows}\n ]\n}}\n')
    path = folder / f"{options.runtime}.json"
    cores = json.loads(path.read_text())["cores"] if path.exists() else {}
    latency.fitted.cache_clear()
    return files.write(path, json.dumps({"cores": {**cores, on.core: result}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
