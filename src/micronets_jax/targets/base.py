"""The record of a runtime: memory, storage and steps of a network as it is delivered under it.

Invariant: plain functions of a network and a device; ints, int32 and floats as in ``counts``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from fractions import Fraction

from micronets_jax import reserves, sizes
from micronets_jax.devices import Device
from micronets_jax.network import Count, Layer, Network
from micronets_jax.steps import Term
from micronets_jax.windows import Window

Parts = dict[str, Count]
"""Bytes by what takes them."""


@dataclasses.dataclass(frozen=True)
class Reserve:
    """Bytes that a firmware takes of each memory besides the network, by part."""

    sram: Parts
    flash: Parts

    def of(self, limit: str) -> Parts:
        """The parts that count under a limit, ``sram_bytes`` or ``flash_bytes``."""
        return self.sram if limit == "sram_bytes" else self.flash


@dataclasses.dataclass(frozen=True)
class Target:
    """A runtime. Ints give exact ints, int32 exact int32 inside ``jit`` (but see
    ``compiled.memory``), floats expectations.

    Attributes:
        name: as a person chooses it.
        title: what it is, in words.
        steps: whose fitted instructions it takes, a name in ``devices.instructions``.
        terms: which of these steps, and how often, for a layer, its window and the channels read.
        sram: memory that the network takes: arena and stack.
        flash: storage that it takes, model and kernels.
        reserve: of a firmware for a device, which may depend on the network's operators.
        pace: cycles that an instruction of a layer takes on a board, as a share of the board's
            cycles per instruction; a fraction of small numbers.
    """

    name: str
    title: str
    steps: str
    terms: Callable[[Layer, Window, Count], Iterator[Term]]
    sram: Callable[[Network], Count]
    flash: Callable[[Network], Count]
    reserve: Callable[[Network, Device], Reserve]
    pace: Callable[[Layer], Fraction] = lambda layer: Fraction(1)


def everywhere(on: Device) -> Reserve:
    """The reserve that every firmware has besides its engine."""
    # A board for which nobody has written a start-up is counted as an STM32.
    source = "stm32.c" if on.startup is None else on.startup.source
    return Reserve(
        {
            "handlers' stack": reserves.HANDLER_STACK_BYTES,
            "start-up, protocol, main": reserves.STATE_BYTES + reserves.CLOCK_BYTES[source],
        },
        {"start-up, protocol, main": sizes.base_flash(source, on.core)},
    )
