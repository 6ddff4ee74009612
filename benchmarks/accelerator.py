"""How many search steps per second on what computes here, and what bounds them?

    python -m benchmarks.accelerator --space paper --precision bfloat16
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.accelerator --samples 8

One row per number of architectures K that a step evaluates side by side. All rows are compiled side
by side first, each in a thread of its own, and then timed in turn. Operations and bytes are
those of the compiled program of one device, as XLA counts them, so a step that is laid over several
devices shows its share. The share of the chip's peak needs a device that the table PEAKS knows; a
step is bound by memory where its operations per byte are fewer than the chip's.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jax
import numpy as np
import tyro

from benchmarks.search_step import SPACES
from micronets_jax import accelerators, search, training
from micronets_jax.budgets import Budget
from micronets_jax.recipes import DNAS, Precision

PEAKS = {
    "NVIDIA H200": {"float32": 494e12, "bfloat16": 989e12, "bytes": 4.8e12},
    "NVIDIA H100 80GB HBM3": {"float32": 494e12, "bfloat16": 989e12, "bytes": 3.35e12},
    "NVIDIA A100-SXM4-80GB": {"float32": 156e12, "bfloat16": 312e12, "bytes": 2.0e12},
    "TPU v4": {"float32": 275e12, "bfloat16": 275e12, "bytes": 1.2e12},
    "TPU v5 lite": {"float32": 197e12, "bfloat16": 197e12, "bytes": 0.82e12},
}
"""Dense operations and bytes per second, from the makers' data sheets. On NVIDIA GPUs XLA rounds
factors of float32 to TF32 unless told otherwise, so that is the peak of float32 there."""

BUDGET = Budget(sram_bytes=100_000, flash_bytes=200_000, mops=10.0)
NUM_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Options:
    """Time search steps for several numbers of architectures side by side."""

    space: Literal["quick", "paper"] = "quick"
    """Of keyword spotting."""
    samples: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Numbers of architectures per step."""
    batch_size: int = 64
    """Examples per step, half for weights and half for decisions."""
    precision: Precision = "float32"
    """Of the factors in convolutions."""
    accelerator: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """What computes."""
    rounds: int = 10
    """Steps timed per row."""


def main() -> None:
    """Print one row per number of architectures."""
    options = tyro.cli(Options, description=__doc__)
    accelerators.keep_memory()
    print(f"computing on {accelerators.select(options.accelerator)}, {options.precision}")
    print(
        f"{'K':>4} {'mesh':>7} {'compile s':>9} {'steps/s':>8} {'arch/s':>8} {'Gop/device':>11} "
        f"{'GB/device':>10} {'of peak':>8} {'op/byte':>8}  bound by"
    )
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        steps = [threads.submit(prepare, options, samples) for samples in options.samples]
    for samples, step in zip(options.samples, steps, strict=True):
        try:
            print(row(options, samples, *step.result()), flush=True)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"{samples:4} does not fit the device's memory")


def settings(options: Options, samples: int) -> DNAS:
    """Of a search whose steps evaluate so many architectures."""
    return DNAS(
        epochs=1,
        batch_size=options.batch_size,
        samples=samples,
        warmup=0.0,
        bits=0,
        precision=options.precision,
    )


def prepare(options: Options, samples: int) -> tuple[Any, tuple[Any, search.Batch], float]:
    """A compiled step that evaluates so many architectures, its arguments, seconds of compiling."""
    space, half = SPACES[options.space], options.batch_size // 2
    mesh = accelerators.mesh(half, samples)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(half, *space.input_shape)).astype(np.float32)
    labels = rng.integers(0, space.num_classes, half)
    halves = (training.Prepared([(x, labels)] * NUM_STEPS, NUM_STEPS),) * 2
    given = search.Problem(space, BUDGET, halves, training.as_prepared, jax.numpy.asarray, 0, mesh)
    made = search.of(settings(options, samples), given)
    batch = accelerators.place(search.Batch(x, labels, x, labels), mesh, "data")
    state = accelerators.place(made.init(jax.random.key(0)), mesh)
    start = time.perf_counter()
    compiled = jax.jit(made.step).lower(state, batch).compile()
    return compiled, (state, batch), time.perf_counter() - start


def row(
    options: Options, samples: int, step: Any, arguments: tuple[Any, ...], compiling: float
) -> str:
    """Time a compiled step."""
    mesh = accelerators.mesh(options.batch_size // 2, samples)
    seconds = timed(lambda: jax.block_until_ready(step(*arguments)), options.rounds)
    counted = step.cost_analysis() or {}
    operations, moved = counted.get("flops", 0.0), counted.get("bytes accessed", 0.0)
    shape = "x".join(map(str, mesh.devices.shape)) if mesh else "1"
    peak = PEAKS.get(jax.devices()[0].device_kind)
    share, bound = "?", "unknown: no peak listed"
    if peak:
        fastest = peak[options.precision]
        share = f"{operations / seconds / fastest:.1%}"
        floor = max(operations / fastest, moved / peak["bytes"])
        limit = "memory" if moved / peak["bytes"] > operations / fastest else "arithmetic"
        idle = f"launches ({limit} alone would take {floor:.2g} s)"
        bound = limit if floor > seconds / 2 else idle
    return (
        f"{samples:4} {shape:>7} {compiling:9.1f} {1 / seconds:8.2f} {samples / seconds:8.1f} "
        f"{operations / 1e9:11.2f} {moved / 1e9:10.2f} {share:>8} "
        f"{operations / max(moved, 1):8.1f}  {bound}"
    )


def timed(call, rounds: int) -> float:
    """Median seconds of a call."""
    call()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
