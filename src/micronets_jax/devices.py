"""Boards: what they hold, how fast they compute, how much energy they take.

Invariant: a device is frozen data. Its times and energies are estimates, a straight line over
operations, never measurements.
"""

from __future__ import annotations

import dataclasses

from micronets_jax.network import Count

KIB = 1024


@dataclasses.dataclass(frozen=True)
class Device:
    """A board.

    Attributes:
        name: of its microcontroller.
        core: Arm's name of the core, in lower case.
        clock_mhz: highest clock of the board.
        sram_bytes: all of its working memory.
        flash_bytes: all of its storage for code and constants.
        ms_per_mop: estimated milliseconds per million operations (2 per multiply-accumulate).
        ms_per_inference: estimated milliseconds that every inference takes besides.
        power_mw: power while it computes, or None where nobody published it.
    """

    name: str
    core: str
    clock_mhz: int
    sram_bytes: int
    flash_bytes: int
    ms_per_mop: float
    ms_per_inference: float
    power_mw: float | None = None


# Memory, power: MicroNets (Banbury et al., MLSys 2021), tables 1 to 5; power is energy over latency
# there. Slope and intercept: least squares of the relative error over that paper's DS-CNN and
# MicroNet-KWS rows (three on the small board, six on the others), operations by their true sizes.
# Errors are at most 1 %, 8 % and 7 %. tests/test_devices.py fits them again.
DEVICES = {
    device.name: device
    for device in (
        Device("STM32F446RE", "cortex-m4", 180, 128 * KIB, 512 * KIB, 12.387, 42.27, 163.0),
        Device("STM32F746ZG", "cortex-m7", 216, 320 * KIB, 1024 * KIB, 4.702, 26.96, 445.0),
        Device("STM32F767ZI", "cortex-m7", 216, 512 * KIB, 2048 * KIB, 4.532, 28.20),
    )
}
"""Every known board by name."""


def device(name: str) -> Device:
    """The board of this name, whatever its case.

    Raises:
        ValueError: no such board; the message lists all.
    """
    known = DEVICES.get(name.upper())
    if known is None:
        raise ValueError(f"device {name!r} is unknown; known are {', '.join(DEVICES)}")
    return known


def latency_ms(macs: Count, on: Device) -> Count:
    """Estimated milliseconds of one inference of ``macs`` multiply-accumulates; differentiable."""
    return on.ms_per_mop * (2e-6 * macs) + on.ms_per_inference


def energy_mj(macs: Count, on: Device) -> Count | None:
    """Estimated millijoules of one inference, None where the board's power is not known."""
    return None if on.power_mw is None else latency_ms(macs, on) * (on.power_mw / 1000)
