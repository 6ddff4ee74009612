"""How long a network computes: instructions of each layer, then cycles of a board.

Invariant: one formula. A layer's instructions are a sum of steps (a group of four pixels, a pair of
outputs, ...), each as often as its shape says, times the instructions of a step, which were fitted
to runs on emulated cores. Ints give ints, int32 exact int32 inside ``jit``, floats expectations
with gradients. Absent layers take nothing.

Instructions are counted in an emulator; times are estimates, instructions times a board's cycles
per instruction (see ``devices``), and so are energies, times at the board's power.
"""

from __future__ import annotations

from collections.abc import Iterator

from micronets_jax import devices, targets
from micronets_jax.counts import total
from micronets_jax.devices import Device
from micronets_jax.devices.instructions import fitted
from micronets_jax.network import INPUT, Count, Network, output_sizes, window
from micronets_jax.steps import Term

INFERENCE = "inference"
"""The step that every inference takes once, beside its layers."""


def instructions(network: Network, runtime: str, core: str) -> Count:
    """Instructions of one inference; its gradient, for floats, is that of the expected count.

    Args:
        network: decided or expected.
        runtime: a name in ``targets``.
        core: as a device names it, "cortex-m4" for example.

    Raises:
        ValueError: no such runtime, or nobody has characterised it on this core.
    """
    once = round(fitted(targets.target(runtime).steps, core)[INFERENCE])
    return once + total(layer_instructions(network, runtime, core).values())


def layer_instructions(network: Network, runtime: str, core: str) -> dict[str, Count]:
    """:func:`instructions` by the name of the layer; mixes take none and are left out."""
    cost = fitted(targets.target(runtime).steps, core)
    result = {}
    for name, terms in layer_terms(network, runtime):
        # Whole numbers before they are multiplied by channels, so that sums are exact in any order.
        counts = [
            term.count * round(sum(cost.get(step, 0.0) * n for step, n in term.steps.items()))
            for term in terms
            if any(term.steps.values())
        ]
        result[name] = network[name].presence * total(counts)
    return result


def layer_terms(network: Network, runtime: str) -> Iterator[tuple[str, list[Term]]]:
    """What each layer repeats, and how often; what :func:`fitted` has the instructions of.

    Raises:
        ValueError: no such runtime.
    """
    target, sizes = targets.target(runtime), output_sizes(network)
    for layer in network:
        if layer.kind == "mix":
            continue
        source = layer.inputs[0]
        walked = window(layer, sizes)
        # Known while tracing, so that every runtime can tell a picture of one channel.
        channels = network.input_shape[2] if source == INPUT else layer.in_channels
        yield layer.name, list(target.terms(layer, walked, channels))


def latency_ms(network: Network, on: Device, runtime: str = "tflm") -> Count:
    """Estimated milliseconds of one inference on a board; differentiable."""
    # The latencies of that time's runtime were published of that paper's build.
    paper = devices.measured(on.name, "paper") if runtime == "tflm_2020" else None
    factor = paper.factor if paper else on.cycles_per_instruction
    cycles = instructions(network, runtime, on.core) * factor
    return cycles * on.ms_per_cycle


def energy_mj(network: Network, on: Device, runtime: str = "tflm") -> Count:
    """Estimated millijoules of one inference on a board; differentiable.

    Raises:
        ValueError: nobody published the power that this board takes.
    """
    if on.power_mw is None:
        known = ", ".join(d.name for d in devices.DEVICES.values() if d.power_mw is not None)
        raise ValueError(f"the power of {on.name} is not known; it is known of {known}")
    return latency_ms(network, on, runtime) * (on.power_mw / 1000)
