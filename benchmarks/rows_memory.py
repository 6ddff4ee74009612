"""How little memory do published networks need row by row, and what does that buy?

    python -m benchmarks.rows_memory

First the arenas of published networks, in bytes: TensorFlow Lite Micro with CMSIS-NN, TinyEngine's
rule, and compiled C: whole tensors, the plan of least memory, and that with rows pushed. Then the
widest MobileNetV2 (two classes, pictures of 144 x 144 pixels, widths in steps of 0.05) whose arena
fits in 60 KiB, which leaves 4 KiB of 64 for the stack and the firmware, and whose weights fit in 1
MB; a colour picture alone takes 60.75 KiB. Operations are million multiply-accumulates. Formulas
alone, so the numbers are exact.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

from micronets_jax import cost, tinyengine, zoo
from micronets_jax.network import Network
from micronets_jax.targets.compiled.memory import arena_bytes
from micronets_jax.targets.compiled.rows import least_arena_bytes

ARENAS: dict[str, Callable[[Network], int]] = {
    "TFLM": cost.sram_bytes,
    "TinyEngine": tinyengine.sram_bytes,
    "whole": arena_bytes,
    "rows": least_arena_bytes,
    "rows pushed": functools.partial(least_arena_bytes, pushed=True),
}
SIDE, SRAM_BYTES, FLASH_BYTES = 144, 60 * 1024, 1_000_000


def main() -> None:
    print(f"{'network':<24}" + "".join(f"{name:>12}" for name in ARENAS) + f"{'mmacs':>8}")
    for name in (*zoo.names(), *zoo.mcunets()):
        network = zoo.network(name)
        row = "".join(f"{arena(network):>12}" for arena in ARENAS.values())
        print(f"{name:<24}{row}{cost.macs(network) / 1e6:>8.1f}", flush=True)
    print(f"\n{'widest that fits':<24}{'channels':>12}{'width':>12}{'arena':>12}{'mmacs':>8}")
    for channels, name in itertools.product((1, 3), ARENAS):
        width, arena = widest(ARENAS[name], channels)
        macs = cost.macs(of_width(width, channels)) / 1e6 if width else 0
        print(f"{name:<24}{channels:>12}{width:>12.2f}{arena:>12}{macs:>8.1f}", flush=True)


def of_width(width: float, channels: int) -> Network:
    shape = SIDE, SIDE, channels
    return zoo.mobilenet_v2(width, shape, 2, multiple=4, narrow_last=True)


def widest(arena: Callable[[Network], int], channels: int) -> tuple[float, int]:
    """The largest width and its arena, before the first that does not fit; 0, 0 if none does."""
    found = 0.0, 0
    for step in range(1, 41):
        network = of_width(step / 20, channels)
        needed = arena(network)
        if needed > SRAM_BYTES or cost.weights(network) > FLASH_BYTES:
            break
        found = step / 20, needed
    return found


if __name__ == "__main__":
    main()
