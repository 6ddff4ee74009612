"""Which space does TinyNAS choose, and is it the one that its paper chose?

Of 108 spaces (9 widths, 12 resolutions) 1,000 members each are planned by TinyEngine's rule in
320 KiB of memory and 1 MiB of flash; the ten spaces that MCUNet (Lin et al., NeurIPS 2020, figure
3) lists are ranked by what fits. With ``--board`` the same for a board's own limits.

    python -m benchmarks.tinynas_spaces --published mcunet.json --plot spaces.png
    python -m benchmarks.tinynas_spaces --board STM32F746ZG
    python -m benchmarks.tinynas_spaces --rule rows --members 100

The first took 87.8 s of processor time on a machine busy with other work, twelve programs. The best
of the spaces of which 200 members fit, and the published ten:

    space          fit    mean  top 20 %        published      mmacs    mean  top 20 %   fit
    w0.5-r192      28%   72.15     82.01        w0.3-r160       32.5    26.0      29.1   67%
    w0.5-r176      56%   64.57     73.54        w0.4-r112       32.4    22.0      25.3  100%
    w0.4-r192      28%   57.97     66.58        w0.4-r128       39.3    27.7      31.8  100%
    w0.5-r160      67%   52.25     59.57        w0.4-r144       46.9    36.1      41.4  100%
    w0.4-r176      56%   52.05     60.49        w0.5-r112       38.3    27.3      30.8  100%
                                                w0.5-r128       46.9    34.0      38.6  100%
                                                w0.5-r144       52.0    44.6      50.5  100%
                                                w0.6-r112       41.3    35.4      39.5   65%
                                                w0.7-r96        31.4    29.2      32.3   48%
                                                w0.7-r112       38.4    40.4      44.8   32%

Of these ten the first is the published one, w0.5-r144; the rank correlation is 0.72, by the mean
and by what the top 20 % reach (0.8 was hoped for). Of w0.4 and w0.5 every member fits at 112 and
128 pixels, so no limit of memory moves their means, yet the published figures are 1.38 to 1.47
times ours: whatever the paper drew, they were not uniform members of this space. And w0.5-r192,
which the paper does not list, comes before all ten: TinyEngine's rule, with depthwise convolutions
in place, has room for larger pictures.

The second, by TensorFlow Lite Micro's arena, whole tensors, on the same memory of a board less what
firmware takes (132.8 s of processor time), chooses w0.5-r144, the paper's best space:

    space          fit    mean  top 20 %
    w0.5-r160      16%   45.30     49.84
    w0.5-r144      33%   40.64     46.11
    w0.7-r112      12%   37.73     41.13
    w0.4-r160      21%   36.51     40.70
    best: w0.5-r144

In the same 320 KiB and 1 MiB by rows (``--rule rows --members 100``, 151.6 s of processor time),
memory limits none of the best spaces: of each width as many members fit at 224 pixels as at 112, by
their weights. The best space of which 20 of 100 members fit has 2.2 times the operations of
TinyEngine's:

    space          fit    mean  top 20 %
    w0.8-r224       8%  184.71    209.48
    w0.8-r208       8%  162.58    183.80
    w0.7-r224      44%  157.13    174.41
    w0.6-r224      96%  140.16    152.61
    w0.7-r208      44%  138.98    153.88
    best: w0.7-r224

On an STM32F446RE, 128 KiB and 512 KiB, by rows (``--board STM32F446RE --runtime compiled --members
100``, 2026-12-01, 347.2 s of processor time), a width of 0.4 is the largest of which the flash
holds 20 of 100, and a picture of 192 pixels the largest that its memory holds:

    space          fit    mean  top 20 %
    w0.5-r192       6%   60.61     73.44
    w0.4-r192      62%   59.23     67.57
    w0.5-r176       6%   52.11     62.78
    w0.4-r176      62%   50.96     57.97
    best: w0.4-r192

On an STM32F746ZG, 320 KiB and 1 MiB, likewise (383.6 s), a width of 0.7 at 224 pixels, the largest
pictures there are: 3.8 times the operations of the members of the space that TensorFlow Lite Micro
has room for on the same board (above):

    space          fit    mean  top 20 %
    w0.8-r224       3%  178.79    193.45
    w0.7-r224      33%  155.46    172.35
    w0.6-r224      88%  137.77    151.01
    w0.7-r208      33%  137.37    151.87
    best: w0.7-r224

On an STM32F767ZI, 512 KiB and 2 MiB, likewise (416.8 s), the largest of the 108:

    space          fit    mean  top 20 %
    w1-r224        52%  271.49    301.58
    w0.9-r224      79%  259.89    285.79
    w0.8-r224     100%  226.07    252.73
    best: w1-r224
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import scipy.stats
import tyro

from micronets_jax import budgets, cost, decisions, devices, tinyengine
from micronets_jax.network import Network
from micronets_jax.recipes import Family
from micronets_jax.spaces import MCUNet
from micronets_jax.spaces.survey import FEWEST, SAMPLES, Survey, best, family, survey, table
from micronets_jax.targets import Runtime
from micronets_jax.targets.compiled.memory import arena_bytes
from micronets_jax.targets.compiled.rows import least_arena_bytes

SRAM_BYTES, FLASH_BYTES = 320 * 1024, 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Options:
    """Survey TinyNAS's spaces."""

    board: str | None = None
    """Use this board's limits and our runtime; TinyEngine's rule and 320 KiB / 1 MiB otherwise."""
    runtime: Runtime = "tflm"
    """Of the board."""
    rule: Literal["tinyengine", "whole", "rows"] = "tinyengine"
    """Without a board: whose memory has to fit in 320 KiB, TinyEngine's, or that of compiled C on
    whole tensors or by rows."""
    members: int | None = None
    """Decide so many members of each space and count them one by one, which compiles nothing;
    1,000 at once otherwise."""
    classes: int = 100
    """Of the task; the paper's survey is of 100 classes of ImageNet."""
    published: pathlib.Path | None = None
    """A JSON file with the paper's ten best spaces, to be compared with."""
    plot: pathlib.Path | None = None
    """Where to draw the cumulative distributions of operations."""


MEMORY = {
    "tinyengine": tinyengine.sram_bytes,
    "whole": arena_bytes,
    "rows": least_arena_bytes,
}


def within(rule: str, network: Network) -> Any:
    """Whether this rule holds the network in 320 KiB, and 1 MiB has room for its weights."""
    stored = tinyengine.flash_bytes(network) <= FLASH_BYTES
    if stored is False:  # known without the memory
        return False
    return stored & (MEMORY[rule](network) <= SRAM_BYTES)


def one_by_one(spaces: Sequence[MCUNet], fits: Callable[[Network], Any], count: int):
    """Surveys of the first members that a generator of seed 0 draws, decided."""
    for space in spaces:
        drawn = decisions.uniform(np.random.default_rng(0), space.decisions(), count)
        members = [space.decode({k: v[i] for k, v in drawn.items()}) for i in range(count)]
        macs = np.asarray([cost.macs(network) for network in members])
        yield Survey(space, macs, np.asarray([bool(fits(network)) for network in members]))


def main(options: Options) -> None:
    """Print the best spaces, how they agree with the published ones, and the time it took."""
    spaces = family(Family(), 3, options.classes)
    fits: Callable[[Network], Any] = functools.partial(within, options.rule)
    if options.board:
        device = devices.device(options.board)
        fits = budgets.Budget.of(device, runtime=options.runtime).fits
    began, busy = time.monotonic(), time.process_time()
    count = options.members or SAMPLES
    found = list(one_by_one(spaces, fits, count)) if options.members else survey(spaces, fits)
    seconds, busy = time.monotonic() - began, time.process_time() - busy
    print(table(found))
    print(f"best: {best(found, FEWEST * count // SAMPLES)}")
    print(f"{len(found)} spaces x {count:,} members: {seconds:.1f} s ({busy:.1f} s of processor)")
    if options.published:
        compare(found, json.loads(options.published.read_text()))
    if options.plot:
        draw(found, options.plot)


def compare(found: Sequence[Survey], paper: dict[str, Any]) -> None:
    """Print the published spaces beside ours."""
    listed = paper["tinynas"]["published_top10_imagenet100_320kB_1MB_mean_mmacs"]
    ours = {str(one): one for one in found}
    print(f"\n{'published':<12}{'mmacs':>8}{'mean':>8}{'top 20 %':>10}{'fit':>6}")
    for name, mmacs in listed.items():
        one = ours[name]
        print(
            f"{name:<12}{mmacs:>8.1f}{one.mean / 1e6:>8.1f}{one.reached_by(0.2) / 1e6:>10.1f}"
            f"{one.share:>6.0%}"
        )
    for name, statistic in (
        ("mean", lambda one: one.mean),
        ("top 20 %", lambda one: one.reached_by(0.2)),
    ):
        values = [statistic(ours[name]) for name in listed]
        order, _ = scipy.stats.spearmanr(values, list(listed.values()))
        first = list(listed)[int(np.argmax(values))]
        print(f"by {name}: first {first}, rank correlation {order:.2f}")


def draw(found: Sequence[Survey], path: pathlib.Path) -> None:
    """The cumulative distributions of the ten best spaces, as in the paper's figure 3."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for one in sorted(found, key=lambda one: -one.mean)[:10]:
        kept = one.kept / 1e6
        axes.step(
            kept, np.arange(1, len(kept) + 1) / len(kept), label=f"{one}  {one.mean / 1e6:.1f}"
        )
    axes.set(xlabel="million multiply-accumulates", ylabel="share of members that fit", ylim=(0, 1))
    axes.legend(title="space, mean", fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
