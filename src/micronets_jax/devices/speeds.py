"""Cycles per instruction: measured by laboratories, by board and build, and estimated for ours.

Invariant: a factor belongs to a core, a board and a build. Nobody has measured a firmware of this
library on silicon, so its factor is taken from the published build that is nearest to it, and the
interval says how far such builds and boards lie apart.

Instructions are those that ``latency`` predicts for CMSIS-NN of October 2020 (``tflm_2020``), each
layer's times its pace: with them networks of one build differ least. A factor is the median over
networks of latency * clock / instructions; its errors are those of each network predicted from the
others of the same build.
tests/test_devices.py fits all of them again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

Build = Literal["own", "-O2", "fast", "paper"]
"""This library's firmware, measured by its user; -O2, as that is built; other builds for speed, -O3
or not stated; and that of MicroNets' paper, whose factor on the Cortex-M4 is what a build for size
has."""


class DeviceError(ValueError):
    """A board or a core that is not known, or a file of measured boards that cannot be read or
    written; the message lists what is, or names the file."""


class Measured(NamedTuple):
    """Networks that a laboratory ran on a board, all from one build.

    Attributes:
        device: the microcontroller.
        core: Arm's name of its core, in lower case.
        build: which kind.
        what: runtime and flags, as published.
        source: who published it.
        rows: networks.
        factor: cycles per instruction.
        error, largest: of a row from the others, relative, mean and largest.
    """

    device: str
    core: str
    build: Build
    what: str
    source: str
    rows: int
    factor: float
    error: float
    largest: float


_MICRONETS = "TFLM, October 2020", "MicroNets (Banbury et al., MLSys 2021)"
_MICROTVM = "microTVM with CMSIS-NN, -O2", "OctoML, MLPerf Tiny v1.0"
_ONNC = "ONNC with CMSIS-NN"

MEASURED = (
    Measured("STM32F446RE", "cortex-m4", "paper", *_MICRONETS, 6, 1.989, 0.032, 0.141),
    Measured("STM32F746ZG", "cortex-m7", "paper", *_MICRONETS, 10, 1.053, 0.038, 0.124),
    Measured("STM32F767ZI", "cortex-m7", "paper", *_MICRONETS, 12, 1.018, 0.038, 0.186),
    Measured("STM32L4R5ZI", "cortex-m4", "-O2", *_MICROTVM, 4, 1.423, 0.025, 0.059),
    Measured("nRF5340", "cortex-m33", "-O2", *_MICROTVM, 4, 1.166, 0.018, 0.052),
    Measured(
        "RA6M4", "cortex-m33", "fast", "TFLM, flags not stated", "Renesas, MLPerf Tiny v0.7",
        4, 1.275, 0.036, 0.103,
    ),
    Measured(
        "STM32L4R5ZI", "cortex-m4", "fast", f"{_ONNC}, -O3", "Skymizer, MLPerf Tiny v1.1",
        3, 1.195, 0.134, 0.226,
    ),
    Measured(
        "M467", "cortex-m4", "fast", f"{_ONNC}, flags not stated", "Nuvoton, MLPerf Tiny v1.1",
        3, 1.122, 0.171, 0.251,
    ),
)  # fmt: skip
"""All published builds with CMSIS-NN's kernels whose networks are known."""

SAME_BUILD, OTHER = 1.21, 1.40
"""Nine of ten networks lie within this factor either way: of a build and board that were measured,
and of boards or builds that were not; found on :data:`MEASURED`."""


class Speed(NamedTuple):
    """Cycles per instruction of a board, for firmware as this library builds it.

    Attributes:
        factor: cycles per instruction.
        low, high: nine of ten networks lie between.
        basis: whose silicon it was fitted to.
    """

    factor: float
    low: float
    high: float
    basis: str


MANUAL = {
    "cortex-m0plus": Speed(
        1.262, 1.15, 2.524,
        "no silicon: instructions timed by the Cortex-M0+'s manual, memories that answer at once;"
        " flash behind a cache may double it",
    )
}  # fmt: skip
"""Cores of which nobody has published a latency: the median of seven networks of compiled C, timed
by benchmarks/cycles.py, no less than the least of them, and at most twice as much."""

EMULATED = Speed(1.0, 1.0, 1.0, "by definition")
"""An emulated core takes a cycle for each instruction."""


def estimate(device: str, core: str, known: Iterable[Measured] = MEASURED) -> Speed:
    """The speed of our build, -O2, on a board, from the nearest of the published builds.

    A build for speed on the board itself goes before the same build on other boards of the core,
    and that before other builds of the core; the paper's comes last. What the user measured of this
    library's firmware goes before what others published; of a core that is in neither its manual
    tells, :data:`MANUAL`.

    Args:
        device: the microcontroller.
        core: its core.
        known: what may be used; to leave rows or boards out.

    Raises:
        ValueError: nobody has published latencies for the core, nor timed it by its manual.
    """
    alike = [row for row in known if row.core == core]
    if not alike and core in MANUAL:
        return MANUAL[core]
    if not alike:
        cores = ", ".join(sorted({row.core for row in known}))
        raise ValueError(f"no latencies are published for core {core!r}; known are {cores}")

    def distance(row: Measured) -> tuple[bool, bool, bool, bool]:
        built = row.build not in ("own", "-O2")
        return row.build == "paper", row.device != device, row.build != "own", built

    nearest = min(map(distance, alike))
    used = [row for row in alike if distance(row) == nearest]
    factor = math.exp(sum(math.log(row.factor) for row in used) / len(used))
    here = all(row.device == device and row.build in ("own", "-O2") for row in used)
    spread = SAME_BUILD if here else OTHER
    basis = "; ".join(f"{row.rows} networks on {row.device}, {row.what}" for row in used)
    return Speed(round(factor, 3), factor / spread, factor * spread, basis)


def measured(device: str, build: Build) -> Measured | None:
    """What was measured of a board and a kind of build, if anything was."""
    return next((r for r in MEASURED if (r.device, r.build) == (device, build)), None)
