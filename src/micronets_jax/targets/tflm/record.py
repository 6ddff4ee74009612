"""Costs of a network under TFLM, and the paper's rules, which checks compare with.

Invariant: memory is the predicted arena with a margin, and the stack; storage is the file; code is
in the reserve. Source of the paper's rules: MicroNets (Banbury et al., 2021).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from micronets_jax import cost, memory, reserves
from micronets_jax.counts import is_float, maximum, straight, total
from micronets_jax.devices import Device
from micronets_jax.network import Count, Network
from micronets_jax.targets.base import Reserve, Target, everywhere
from micronets_jax.targets.tflm import interpreter
from micronets_jax.targets.tflm.arena import HOST, arena_bytes, published
from micronets_jax.targets.tflm.terms import pace, terms


def _sram(network: Network) -> Count:
    needed = arena_bytes(network)
    if is_float(needed):
        reserved = (needed * 1.01 + 256 + 15) // 16 * 16
        return straight(needed, reserved) + interpreter.STACK_BYTES
    return interpreter.arena_reserved(needed) + interpreter.STACK_BYTES


def _reserve(network: Network, on: Device) -> Reserve:
    listed = memory.operators(network)
    kinds: dict[str, list[Count]] = {}
    for operator in listed:
        kinds.setdefault(operator.kind, []).append(operator.layer.presence)
    present = {kind: maximum([0, *there]) for kind, there in kinds.items()}
    times = reserves.LAYER_BYTES * total(o.layer.presence for o in listed) + 7
    both = everywhere(on)
    return Reserve(
        {
            **both.sram,
            "interpreter": interpreter.state_bytes(total(present.values())),
            "layer times, alignment": times,
        },
        {
            **both.flash,
            "interpreter and kernels": interpreter.code_bytes(present, on.core),
            # The table is a fit: sets of operators without pooling take up to 526 bytes more.
            "kernels beyond the table, alignment": 704,
        },
    )


TARGET = Target(
    "tflm", "TensorFlow Lite Micro", "tflm", terms, _sram, cost.flash_bytes, _reserve, pace
)


# ---------------------------------------------------------------- references


def _paper_reserve(network: Network, on: Device) -> Reserve:
    """TFLM besides its arena and the model, the rest of the firmware, as MicroNets (Banbury et al.,
    2021) measured; then a stack, which the paper does not list apart."""
    return Reserve(
        {"runtime": 4_000, "other firmware": 4_000, "stack": 4_096},
        {"runtime": 37_000, "other firmware": 38_000},
    )


REFERENCES: Mapping[str, Target] = {
    each.name: each
    for each in (
        Target(
            "tflm_host", "the wheel's interpreter", "tflm", terms, lambda n: arena_bytes(n, HOST),
            cost.flash_bytes, _paper_reserve, pace,
        ),
        Target(
            "tflm_paper", "the rule of MicroNets' tables", "tflm", terms,
            lambda n: published(n).total, cost.flash_bytes, _paper_reserve, pace,
        ),
        Target(
            "tflm_2020", "TFLM and CMSIS-NN of October 2020", "tflm_2020",
            functools.partial(terms, old=True), lambda n: published(n).total,
            cost.flash_bytes, _paper_reserve, pace,
        ),
    )
}  # fmt: skip
"""What checks compare with and nobody chooses, with the paper's firmware."""
