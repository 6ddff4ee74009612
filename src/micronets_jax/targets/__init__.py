"""Runtimes: what a network takes of a board under each, as it is delivered.

Invariant: one record for each runtime, and nothing else knows what "runtime" means. Ints give exact
ints, int32 exact int32 inside ``jit`` (but see ``compiled.memory``), floats expectations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from micronets_jax import cost, memory, reserves, sizes
from micronets_jax.counts import align, is_float, maximum, straight, total
from micronets_jax.devices import Device
from micronets_jax.network import Count, Network
from micronets_jax.targets.compiled import flash as compiled_flash
from micronets_jax.targets.compiled import memory as compiled_memory

Parts = dict[str, Count]
"""Bytes by what takes them."""


@dataclasses.dataclass(frozen=True)
class Reserve:
    """What a firmware takes of each memory besides the network."""

    sram: Parts
    flash: Parts

    def of(self, limit: str) -> Parts:
        """The parts that count under a limit, ``sram_bytes`` or ``flash_bytes``."""
        return self.sram if limit == "sram_bytes" else self.flash


@dataclasses.dataclass(frozen=True)
class Target:
    """A runtime.

    Attributes:
        name: as a person chooses it.
        title: what it is, in words.
        steps: whose instructions it takes, one of ``latency.RUNTIMES``.
        sram: memory that the network takes: arena and stack.
        flash: storage that it takes, model and kernels.
        reserve: of a firmware for a device, which may depend on the network's operators.
    """

    name: str
    title: str
    steps: str
    sram: Callable[[Network], Count]
    flash: Callable[[Network], Count]
    reserve: Callable[[Network, Device], Reserve]


def target(name: str) -> Target:
    """The runtime, or the reference, of this name.

    Raises:
        ValueError: there is none; the message lists those that can be chosen.
    """
    known = {**TARGETS, **REFERENCES}
    if name not in known:
        raise ValueError(f"runtime={name!r} is unknown; use one of {', '.join(TARGETS)}")
    return known[name]


# ---------------------------------------------------------------- what every firmware takes


def _everywhere(on: Device) -> Reserve:
    # A board for which nobody has written a start-up is counted as an STM32.
    source = "stm32.c" if on.startup is None else on.startup.source
    return Reserve(
        {
            "handlers' stack": reserves.HANDLER_STACK_BYTES,
            "start-up, protocol, main": reserves.STATE_BYTES + reserves.CLOCK_BYTES[source],
        },
        {"start-up, protocol, main": sizes.base_flash(source, on.core)},
    )


# ---------------------------------------------------------------- compiled C


def _compiled_sram(network: Network) -> Count:
    stack = align(compiled_flash.stack_bytes(network), 8)
    return align(compiled_memory.arena_bytes(network), 8) + stack


def _compiled_reserve(network: Network, on: Device) -> Reserve:
    listed = memory.operators(network, reshapes=False)
    calls = total(compiled_flash.calls_of(o.kind) * o.layer.presence for o in listed)
    model = align(compiled_flash.stack_bytes(network), 8)
    both = _everywhere(on)
    # Sections are multiples of 8 bytes.
    more = {
        "firmware's stack": sizes.thread_stack_bytes(model) - model,
        "layer times, alignment": reserves.LAYER_BYTES * (1 + calls) + 7,
    }
    flash = {"engine": sizes.engine_bytes(), "alignment": 64}
    return Reserve({**both.sram, **more}, {**both.flash, **flash})


# ---------------------------------------------------------------- TensorFlow Lite Micro


def _tflm_sram(network: Network) -> Count:
    needed = cost.sram_bytes(network, "tflm_cortex_m")
    if is_float(needed):
        reserved = (needed * 1.01 + 256 + 15) // 16 * 16
        return straight(needed, reserved) + reserves.TFLM_STACK_BYTES
    return reserves.tflm_arena_bytes(needed) + reserves.TFLM_STACK_BYTES


def _tflm_reserve(network: Network, on: Device) -> Reserve:
    listed = memory.operators(network)
    kinds: dict[str, list[Count]] = {}
    for operator in listed:
        kinds.setdefault(operator.kind, []).append(operator.layer.presence)
    present = {kind: maximum([0, *there]) for kind, there in kinds.items()}
    times = reserves.LAYER_BYTES * total(o.layer.presence for o in listed) + 7
    both = _everywhere(on)
    return Reserve(
        {
            **both.sram,
            "interpreter": reserves.tflm_state_bytes(total(present.values())),
            "layer times, alignment": times,
        },
        {
            **both.flash,
            "interpreter and kernels": reserves.tflm_code_bytes(present, on.core),
            "alignment": 64,
        },
    )


# ---------------------------------------------------------------- references


def _paper_reserve(network: Network, on: Device) -> Reserve:
    """TFLM besides its arena and the model, the rest of the firmware, as MicroNets (Banbury et al.,
    2021) measured; then a stack, which the paper does not list apart."""
    return Reserve(
        {"runtime": 4_000, "other firmware": 4_000, "stack": 4_096},
        {"runtime": 37_000, "other firmware": 38_000},
    )


def _reference(name: str, steps: str = "tflm") -> Target:
    return Target(
        name, f"the rule {name}", steps, lambda network: cost.sram_bytes(network, name),
        cost.flash_bytes, _paper_reserve,
    )  # fmt: skip


TARGETS: Mapping[str, Target] = {
    each.name: each
    for each in (
        Target(
            "compiled", "compiled C", "compiled", _compiled_sram, compiled_flash.flash_bytes,
            _compiled_reserve,
        ),
        Target(
            "tflm", "TensorFlow Lite Micro", "tflm", _tflm_sram, cost.flash_bytes, _tflm_reserve
        ),
    )
}  # fmt: skip
"""Every runtime that a person can choose, by name."""

REFERENCES: Mapping[str, Target] = {
    name: _reference(name) for name in ("tflm_cortex_m", "tflm_host", "tflm_paper")
}
"""What checks compare with and nobody chooses: ``cost.RUNTIMES`` with the paper's firmware."""
