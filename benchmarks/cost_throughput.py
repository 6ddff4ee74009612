"""How many architectures a second can be costed exactly?

    python -m benchmarks.cost_throughput

From int32 one-hot choices, jitted and vmapped: what a network takes of SRAM and of flash and its
instructions on a Cortex-M4, for both runtimes that are delivered and for compiled C on whole
tensors alone, in the paper's spaces of words (nine blocks, 276 channels) and of pictures
(MobileNetV2 at 50 x 50). Architectures come in blocks
that stay in a core's cache. A rate is of the median of several calls, by the time that the process
was computing on all its cores: what a machine reaches that does nothing else.
"""

from __future__ import annotations

import dataclasses
import os
import time

import jax
import numpy as np

from micronets_jax import decisions, latency, targets
from micronets_jax.decisions import Choice
from micronets_jax.spaces import DSCNN, MobileNetV2, Space
from micronets_jax.targets.base import Target
from micronets_jax.targets.compiled import flash, memory

SPACES: dict[str, tuple[Space, int]] = {
    "words": (DSCNN(), 1 << 12),
    "pictures": (MobileNetV2((50, 50, 1)), 1 << 10),
}
"""Space, and architectures in a block."""

COUNTED = {name: targets.target(name) for name in targets.TARGETS}
COUNTED["whole tensors"] = dataclasses.replace(
    COUNTED["compiled"], sram=memory.arena_bytes, flash=flash.flash_bytes
)
GOALS = {
    ("words", "compiled"): 100_000,
    ("pictures", "compiled"): 20_000,
    ("words", "whole tensors"): 1_000_000,
    ("pictures", "whole tensors"): 100_000,
}
"""Of architectures a second."""

CALLS = 15


def rate(space: Space, block: int, target: Target) -> tuple[float, float]:
    """Seconds to compile, and architectures a second with all cores at work."""

    @jax.jit
    @jax.vmap
    def costs(choice: Choice) -> tuple:
        network = space.network(choice)
        counted = latency.instructions(network, target.name, "cortex-m4")
        return target.sram(network), target.flash(network), counted

    choices = decisions.uniform(np.random.default_rng(0), space.decisions(), block)
    choices = jax.device_put(choices)
    started = time.perf_counter()
    jax.block_until_ready(costs(choices))
    compiling = time.perf_counter() - started
    seconds = []
    for _ in range(CALLS):
        started = time.process_time()
        jax.block_until_ready(costs(choices))
        seconds.append(time.process_time() - started)
    return compiling, block * (os.cpu_count() or 1) / float(np.median(seconds))


def main() -> None:
    """Print the rates, and whether they reach the goals."""
    print("space     runtime        compiling  thousand architectures a second")
    for name, (space, block) in SPACES.items():
        for runtime, target in COUNTED.items():
            compiling, reached = rate(space, block, target)
            goal = GOALS.get((name, runtime))
            said = (
                f"  goal of {goal:,} {'reached' if reached >= goal else 'MISSED'}" if goal else ""
            )
            row = f"{name:<9} {runtime:<14} {compiling:7.1f} s {reached / 1000:10,.0f}"
            print(row + said, flush=True)


if __name__ == "__main__":
    main()
