"""What a network takes of a board as compiled C.

Invariant: memory is that of the plan that needs least of it, storage and stack those of the plan
that takes most of these; so whatever plan is delivered within the memory counted here links.
"""

from __future__ import annotations

from micronets_jax import memory, reserves, sizes
from micronets_jax.counts import align, total
from micronets_jax.devices import Device
from micronets_jax.network import Count, Network
from micronets_jax.targets.base import Reserve, Target, everywhere
from micronets_jax.targets.compiled import flash, rows
from micronets_jax.targets.compiled.terms import terms


def _sram(network: Network) -> Count:
    stack = align(flash.most_stack_bytes(network), 8)
    return align(rows.least_arena_bytes(network), 8) + stack


def _reserve(network: Network, on: Device) -> Reserve:
    listed = memory.operators(network, reshapes=False)
    calls = total(flash.calls_of(o.kind) * o.layer.presence for o in listed)
    model = align(flash.most_stack_bytes(network), 8)
    both = everywhere(on)
    # Sections are multiples of 8 bytes.
    more = {
        "firmware's stack": sizes.thread_stack_bytes(model)
        - model
        + sizes.more_stack_bytes(on.core),
        "layer times, alignment": reserves.LAYER_BYTES * (1 + calls) + 7,
    }
    code = {"engine": sizes.engine_bytes(), "alignment": 64}
    return Reserve({**both.sram, **more}, {**both.flash, **code})


TARGET = Target(
    "compiled", "compiled C", "compiled", terms, _sram, flash.most_flash_bytes, _reserve
)
