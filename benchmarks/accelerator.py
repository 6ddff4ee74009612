"""How many search steps per second on what computes here, and what bounds them?

    python -m benchmarks.accelerator --space paper --precision bfloat16
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m benchmarks.accelerator --samples 8
    python -m benchmarks.accelerator --aot v5e --devices 16 --samples 1 8 64
    python -m benchmarks.accelerator --aot gpu --target h200.txtpb --samples 1 8 64

One row per number of architectures K that a step evaluates side by side. All rows are compiled side
by side first, each in a thread of its own, and then timed in turn. Operations and bytes are
those of the compiled program of one device, as XLA counts them, so a step that is laid over several
devices shows its share. The share of the chip's peak needs a device that the table PEAKS knows; a
step is bound by memory where its operations per byte are fewer than the chip's.

With ``--aot`` the step is compiled for a chip that is not here, and nothing runs: XLA's compilers
for TPUs and GPUs need no device (the extra ``aot`` brings them, ``make aot`` puts them where
nothing else finds them). Rows then say how long compiling keeps processors busy, what a step takes
of the chip's memory, the least time that it can take there, and its collectives.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tyro
from jax.experimental import topologies

from benchmarks.search_step import SPACES
from micronets_jax import accelerators, search, training
from micronets_jax.budgets import Budget
from micronets_jax.recipes import DNAS, Precision, TinyNAS

PEAKS = {
    "NVIDIA H200": {"float32": 494e12, "bfloat16": 989e12, "bytes": 4.8e12},
    "NVIDIA H100 80GB HBM3": {"float32": 494e12, "bfloat16": 989e12, "bytes": 3.35e12},
    "NVIDIA A100-SXM4-80GB": {"float32": 156e12, "bfloat16": 312e12, "bytes": 2.0e12},
    "TPU v4": {"float32": 275e12, "bfloat16": 275e12, "bytes": 1.2e12},
    "TPU v5 lite": {"float32": 197e12, "bfloat16": 197e12, "bytes": 0.82e12},
    "TPU v6 lite": {"float32": 918e12, "bfloat16": 918e12, "bytes": 1.64e12},
}
"""Dense operations and bytes per second, from the makers' data sheets. On NVIDIA GPUs XLA rounds
factors of float32 to TF32 unless told otherwise, so that is the peak of float32 there."""

TOPOLOGIES = {
    "v5e": ("v5e:2x2", "v5e:4x4"),
    "v6e": ("v6e:2x2", "v6e:4x4"),
    "v4": ("v4:2x2x1", "v4:2x2x4"),
}
"""Slices of TPUs by their names in libtpu, of each kind the smaller first."""

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")

BUDGET = Budget(sram_bytes=100_000, flash_bytes=200_000, mops=10.0)
NUM_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Options:
    """Time search steps for several numbers of architectures side by side."""

    space: Literal["quick", "paper", "vww quick", "vww", "ad"] = "quick"
    """Of keyword spotting, or of the task that is named."""
    method: Literal["dnas", "tinynas"] = "dnas"
    """Which search."""
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
    aot: Literal["", "v5e", "v6e", "v4", "gpu"] = ""
    """Compile for these chips, ahead of time."""
    devices: int = 1
    """How many of them."""
    target: pathlib.Path | None = None
    """XLA's description of the GPU (a gpu_target_config in text form)."""


def main() -> None:
    """Print one row per number of architectures."""
    options = tyro.cli(Options, description=__doc__)
    accelerators.keep_memory()
    if options.aot:
        return ahead_of_time(options)
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


def settings(options: Options, samples: int) -> DNAS | TinyNAS:
    """Of a search whose steps evaluate so many architectures."""
    shared = {
        "epochs": 1,
        "batch_size": options.batch_size,
        "samples": samples,
        "warmup": 0.0,
        "precision": options.precision,
    }
    return TinyNAS(**shared) if options.method == "tinynas" else DNAS(bits=0, **shared)


class Subject(NamedTuple):
    """A search's step before it is compiled: the function, its state and its batch on this host."""

    step: Callable[[Any, search.Batch], tuple[Any, search.Metrics]]
    state: Any
    batch: search.Batch
    mesh: jax.sharding.Mesh | None


def subject(options: Options, samples: int, devices: Sequence[Any] | None = None) -> Subject:
    """A step that evaluates so many architectures on the local devices, or on others."""
    space, half = SPACES[options.space], options.batch_size // 2
    mesh = accelerators.mesh(half, settings(options, samples).side_by_side, devices)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(half, *space.input_shape)).astype(np.float32)
    labels = rng.integers(0, space.num_classes, half)
    half_of_data = training.Prepared([(x, labels)] * NUM_STEPS, NUM_STEPS)
    halves = half_of_data, half_of_data
    given = search.Problem(space, BUDGET, halves, training.as_prepared, jax.numpy.asarray, 0, mesh)
    made = search.of(settings(options, samples), given)
    state = made.init(jax.random.key(0))
    batch = search.Batch(*map(jax.numpy.asarray, (x, labels, x, labels)))
    return Subject(made.step, state, batch, mesh)


def prepare(options: Options, samples: int) -> tuple[Any, tuple[Any, search.Batch], float]:
    """A compiled step that evaluates so many architectures, its arguments, seconds of compiling."""
    step, state, batch, mesh = subject(options, samples)
    placed = accelerators.place(state, mesh), accelerators.place(batch, mesh, "data")
    start = time.perf_counter()
    compiled = jax.jit(step).lower(*placed).compile()
    return compiled, placed, time.perf_counter() - start


# ---------------------------------------------------------------- chips that are not here


def chips(options: Options) -> list[Any]:
    """So many chips to compile for.

    Raises:
        SystemExit: there are no such, or their compiler is not installed; a sentence.
    """
    if options.aot == "gpu":
        if options.target is None or not options.target.is_file():
            sys.exit(
                f"error: --target {options.target}: give XLA's description of the GPU, a "
                "gpu_target_config in text form"
            )
        described = {"target_config": options.target.read_text()}
        names, platform = [f"1x1x{options.devices}"], "cuda"
    else:
        # Else libtpu asks the machine's metadata server what it is, and waits for an answer.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is taken
        described, names, platform = {}, TOPOLOGIES[options.aot], "tpu"
    for name in names:
        keyword = "topology" if platform == "cuda" else "topology_name"
        try:
            found = topologies.get_topology_desc(
                platform=platform, **{keyword: name}, **described
            ).devices
        except (RuntimeError, ValueError) as error:
            said = str(error).strip().splitlines()[0]
            sys.exit(
                f"error: no compiler for {options.aot}: {said}; run make aot, and this with "
                "PYTHONPATH=.venv/aot"
            )
        if len(found) >= options.devices:
            return found[: options.devices]
    sys.exit(f"error: --devices {options.devices}: no known slice of {options.aot} has so many")


class Compiled(NamedTuple):
    """What a compiler says of a step on a chip that is not here.

    Attributes:
        chip: its kind.
        mesh: devices along examples and along architectures.
        seconds: that processors were busy compiling.
        operations, moved: of one device and step, the latter in bytes of memory; 0 of GPUs, for
            whose programs XLA counts only on one.
        memory: bytes of a device: arguments, results and what lies between.
        collectives: how many of each kind.
    """

    chip: str
    mesh: tuple[int, ...]
    seconds: float
    operations: float
    moved: float
    memory: int
    collectives: dict[str, int]


def compiled_for(options: Options, samples: int, devices: Sequence[Any]) -> Compiled:
    """A step compiled for these devices."""
    step, state, batch, mesh = subject(options, samples, devices)
    if mesh is None:
        whole = split = jax.sharding.SingleDeviceSharding(devices[0])
    else:
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    start = time.process_time()
    made = jax.jit(step).lower(_shapes(state, whole), _shapes(batch, split)).compile()
    seconds = time.process_time() - start
    counted = made.cost_analysis() or {}
    used = made.memory_analysis()
    assert used is not None  # the compilers of TPUs and GPUs know it
    memory = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
    text = made.as_text() or ""
    found = {name: len(re.findall(rf" {name}(?:-start)?\(", text)) for name in COLLECTIVES}
    shape = mesh.devices.shape if mesh else (1, 1)
    return Compiled(
        devices[0].device_kind, shape, seconds, counted.get("flops", 0.0),
        counted.get("bytes accessed", 0.0), memory, found,
    )  # fmt: skip


def _shapes(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    def one(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.result_type(leaf), sharding=sharding)

    return jax.tree.map(one, tree)


def ahead_of_time(options: Options) -> None:
    """Print one row per number of architectures, of steps that are compiled and not run."""
    accelerators.select("cpu")
    devices = chips(options)
    print(f"compiling for {len(devices)} x {devices[0].device_kind}, {options.precision}")
    print(
        f"{'K':>4} {'mesh':>7} {'compile s':>9} {'Gop/device':>11} {'GB/device':>10} "
        f"{'memory MB':>10} {'least ms':>9}  bound by    collectives"
    )
    for samples in options.samples:
        made = compiled_for(options, samples, devices)
        floor, bound = "?", "not counted"
        peak = next((p for name, p in PEAKS.items() if made.chip.startswith(name)), None)
        if peak and made.operations:
            times = {
                "arithmetic": made.operations / peak[options.precision],
                "memory": made.moved / peak["bytes"],
            }
            bound = max(times, key=lambda name: times[name])
            floor = f"{times[bound] * 1e3:.3f}"
        shape = "x".join(map(str, made.mesh))
        said = ", ".join(f"{n} {name}" for name, n in made.collectives.items() if n) or "none"
        print(
            f"{samples:4} {shape:>7} {made.seconds:9.1f} {made.operations / 1e9:11.2f} "
            f"{made.moved / 1e9:10.2f} {made.memory / 1e6:10.1f} {floor:>9}  {bound:<11} {said}",
            flush=True,
        )


# ---------------------------------------------------------------- what computes here


def row(
    options: Options, samples: int, step: Any, arguments: tuple[Any, ...], compiling: float
) -> str:
    """Time a compiled step."""
    mesh = accelerators.mesh(options.batch_size // 2, settings(options, samples).side_by_side)
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
