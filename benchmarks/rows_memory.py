"""How little memory do published networks need row by row, and what does that buy?

    python -m benchmarks.rows_memory

First the arenas of published networks, in bytes: TensorFlow Lite Micro with CMSIS-NN, TinyEngine's
rule, and compiled C: whole tensors, the plan of least memory, and that with rows pushed. Then the
widest MobileNetV2 (two classes, pictures of 144 x 144 pixels, widths in steps of 0.05) whose arena
fits in 60 KiB, which leaves 4 KiB of 64 for the stack and the firmware, and whose weights fit in 1
MB; a colour picture alone takes 60.75 KiB. Operations are million multiply-accumulates. Formulas
alone, so the numbers are exact.

    network                         TFLM  TinyEngine       whole        rows rows pushed   mmacs
    MicroNet-KWS-L                204020      159036      136428       42868       42980    65.7
    MicroNet-KWS-M                100948       81516       69788       19052       18732    15.6
    MicroNet-KWS-S                 62932       49596       42348       13508       13188     8.3
    DSCNN-L                       196564      159036      136428       37140       36820    54.6
    DSCNN-M                       120372       99756       85468       19888       19548    18.9
    DSCNN-S                        46164       38196       32548        7684        7344     3.6
    MicroNet-AD-L                 378900      290928      284868       92032       91396    64.5
    MicroNet-AD-M                 271156      203400      198852       72864       72876    62.3
    MicroNet-AD-S                 114356      101912       75972       40800       40812    18.7
    MicroNet-VWW-2                 66516       27362       22172       10968       10980     3.1
    MicroNet-VWW-3                134356       82602       47104       19200       19212    22.6
    MicroNet-VWW-4                119612       74392       45056       17992       17292    18.8
    mcunet-10fps                  120724       50064       38376       17096       14396     6.4
    mcunet-5fps                   156416       98024       78628       30972       19180    12.8
    mcunet-256kb-1mb              422736      219776      183432       82172       57740    67.3
    mcunet-320kb-1mb              451792      266344      203340       98812       60492    81.8
    mcunet-512kb-2mb              526012      426120      321820      115592       80564   125.9
    mcunet-256kb-1mb-int4         594024      426120      321820      115592       80564   134.5
    mcunet-320kb-1mb-int4         748668      515016      389196      135560       92804   170.0
    mcunet-512kb-2mb-int4        1254332      908136      684156      183744      167052   466.8
    proxyless-w0.25-r112          157720      107984       82344       37988       17176    10.7
    proxyless-w0.3-r176           329624      265600      202600       98812       50776    38.3
    mbv2-w0.35-r144               378844      302120      259636       67068       29340    23.5
    mbv2-w0.3-r80                 160668       93992       80244       22012       13916     7.3
    mcunet-5fps, 80 x 80          128256       68392       54644       22012       14748     9.9

    widest that fits            channels       width       arena   mmacs
    TFLM                               1        0.00           0     0.0
    TinyEngine                         1        0.00           0     0.0
    whole                              1        0.00           0     0.0
    rows                               1        0.65       46080    58.1
    rows pushed                        1        0.65       46524    58.1
    TFLM                               3        0.00           0     0.0
    TinyEngine                         3        0.00           0     0.0
    whole                              3        0.00           0     0.0
    rows                               3        0.00           0     0.0
    rows pushed                        3        0.65       47388    59.9
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable

from micronets_jax import cost, tinyengine, zoo
from micronets_jax.network import Network, output_sizes
from micronets_jax.targets.compiled.memory import arena_bytes
from micronets_jax.targets.compiled.rows import least_arena_bytes
from micronets_jax.targets.tflm import arena as tflm

ARENAS: dict[str, Callable[[Network], int]] = {
    "TFLM": tflm.arena_bytes,
    "TinyEngine": tinyengine.sram_bytes,
    "whole": arena_bytes,
    "rows": least_arena_bytes,
    "rows pushed": functools.partial(least_arena_bytes, pushed=True),
}
SIDE, SRAM_BYTES, FLASH_BYTES = 144, 60 * 1024, 1_000_000


def main() -> None:
    print(f"{'network':<24}" + "".join(f"{name:>12}" for name in ARENAS) + f"{'mmacs':>8}")
    networks = {name: zoo.network(name) for name in (*zoo.names(), *zoo.mcunets())}
    networks["mcunet-5fps, 80 x 80"] = smaller(networks["mcunet-5fps"], 80)
    for name, network in networks.items():
        row = "".join(f"{arena(network):>12}" for arena in ARENAS.values())
        print(f"{name:<24}{row}{cost.macs(network) / 1e6:>8.1f}", flush=True)
    print(f"\n{'widest that fits':<24}{'channels':>12}{'width':>12}{'arena':>12}{'mmacs':>8}")
    for channels, name in itertools.product((1, 3), ARENAS):
        width, arena = widest(ARENAS[name], channels)
        macs = cost.macs(of_width(width, channels)) / 1e6 if width else 0
        print(f"{name:<24}{channels:>12}{width:>12.2f}{arena:>12}{macs:>8.1f}", flush=True)


def smaller(network: Network, side: int) -> Network:
    """The network on square pictures of another side, pooled to one pixel as before."""
    shape = side, side, network.input_shape[2]
    body = tuple(layer for layer in network if layer.kind not in ("avg_pool", "reshape", "dense"))
    map_size = output_sizes(Network(shape, body))[body[-1].name]
    pool = {"kernel": map_size, "stride": map_size}
    layers = (
        dataclasses.replace(layer, **pool) if layer.kind == "avg_pool" else layer
        for layer in network
    )
    return Network(shape, tuple(layers))


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
