"""How little memory do published networks need row by row, and what does that buy?

    python -m benchmarks.rows_memory

First the arenas of published networks, in bytes: TensorFlow Lite Micro with CMSIS-NN, TinyEngine's
rule, and compiled C with whole tensors and with the plan of least memory. Then the widest
MobileNetV2 (two classes, colour pictures of 144 x 144 pixels, widths in steps of 0.05) whose arena
fits in 60 KiB, which leaves 4 KiB of 64 for the stack and the firmware, and whose weights fit in 1
MB. Operations are million multiply-accumulates. Formulas alone, so the numbers are exact.
"""

from __future__ import annotations

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
}
SIDE, SRAM_BYTES, FLASH_BYTES = 144, 60 * 1024, 1_000_000


def main() -> None:
    print(f"{'network':<24}" + "".join(f"{name:>12}" for name in ARENAS) + f"{'mmacs':>8}")
    for name in (*zoo.names(), *zoo.mcunets()):
        network = zoo.network(name)
        row = "".join(f"{arena(network):>12}" for arena in ARENAS.values())
        print(f"{name:<24}{row}{cost.macs(network) / 1e6:>8.1f}", flush=True)
    print(f"\n{'widest that fits':<24}{'width':>12}{'arena':>12}{'mmacs':>8}")
    for name, arena in ARENAS.items():
        width, network = 0.0, None
        for step in range(1, 41):
            wider = zoo.mobilenet_v2(step / 20, (SIDE, SIDE, 3), 2, multiple=4, narrow_last=True)
            if arena(wider) > SRAM_BYTES or cost.weights(wider) > FLASH_BYTES:
                break
            width, network = step / 20, wider
        if network is None:
            print(f"{name:<24}{'none':>12}")
            continue
        macs = cost.macs(network) / 1e6
        print(f"{name:<24}{width:>12.2f}{arena(network):>12}{macs:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
