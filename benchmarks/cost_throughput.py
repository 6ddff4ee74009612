"""How many architectures a second can be costed exactly?

One jitted, vmapped call gives MACs, weights, flash and SRAM (``tflm_cortex_m``) of a batch of the
paper's keyword-spotting space (nine blocks, 276 channels) from int32 one-hot choices.

    python -m benchmarks.cost_throughput

Two cores of an x86 server, jax 0.10.2:

    first call (compilation)      1.8 s
    131,072 architectures         9.4 ms (median of 16)
    architectures a second       13.9 million, slowest call 8.9 million
    goal of 1,000,000 a second    reached
"""

import time

import jax
import numpy as np

from micronets_jax import cost, decisions
from micronets_jax.decisions import Choice
from micronets_jax.spaces import DSCNN

BATCH = 1 << 17
CALLS = 16
GOAL = 1_000_000


def random_choices(space: DSCNN, count: int) -> Choice:
    """Int32 one-hot choices [count, ...] on the device."""
    return jax.device_put(decisions.uniform(np.random.default_rng(0), space.decisions(), count))


def main() -> None:
    """Print the throughput, and whether it reaches the goal."""
    space = DSCNN()

    @jax.jit
    @jax.vmap
    def costs(choice: Choice) -> tuple:
        network = space.network(choice)
        return (
            cost.macs(network),
            cost.weights(network),
            cost.flash_bytes(network),
            cost.sram_bytes(network),
        )

    choices = random_choices(space, BATCH)
    started = time.perf_counter()
    jax.block_until_ready(costs(choices))
    compiling = time.perf_counter() - started
    seconds = []
    for _ in range(CALLS):
        started = time.perf_counter()
        jax.block_until_ready(costs(choices))
        seconds.append(time.perf_counter() - started)
    median, slowest = np.median(seconds), max(seconds)
    print(f"first call (compilation)   {compiling:6.1f} s")
    print(f"{BATCH:,} architectures      {1000 * median:6.1f} ms (median of {CALLS})")
    print(
        f"architectures a second     {BATCH / median / 1e6:6.1f} million, "
        f"slowest call {BATCH / slowest / 1e6:.1f} million"
    )
    print(f"goal of {GOAL:,} a second    {'reached' if BATCH / median >= GOAL else 'MISSED'}")


if __name__ == "__main__":
    main()
