"""How long a network computes: instructions of each layer, then cycles of a board.

Invariant: one formula. A layer's instructions are a sum of steps (a group of four pixels, a pair of
outputs, ...), each as often as its shape says, times the instructions of a step, which were fitted
to runs on emulated cores. Ints give ints, int32 exact int32 inside ``jit``, floats expectations
with gradients. Absent layers take nothing.

Instructions are counted in an emulator; times are estimates, instructions times a board's cycles
per instruction (see ``devices``) and a layer's share of these, its pace (see ``targets``), and so
are energies, times at the board's power.
"""

from __future__ import annotations

from collections.abc import Iterator

from micronets_jax import devices, targets
from micronets_jax.counts import quotient, total
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
    return _once(runtime, core) + total(layer_instructions(network, runtime, core).values())


def paced_instructions(network: Network, runtime: str, core: str) -> Count:
    """:func:`instructions`, each layer's times its pace: what a board's time is in proportion to.

    Whole numbers, so that a limit on milliseconds is met or not whatever the order of the sum.

    Raises:
        ValueError: as :func:`instructions`.
    """
    pace = targets.target(runtime).pace
    paced = [
        count + (share.numerator - share.denominator) * quotient(count, share.denominator)
        for name, count in layer_instructions(network, runtime, core).items()
        for share in (pace(network[name]),)
    ]
    return _once(runtime, core) + total(paced)


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


def _once(runtime: str, core: str) -> int:
    return round(fitted(targets.target(runtime).steps, core)[INFERENCE])


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


def timed_instructions(network: Network, on: Device, runtime: str) -> Count:
    """What a device's time is in proportion to: :func:`paced_instructions` on a board, plain
    :func:`instructions` on an emulated one, where each takes a cycle."""
    count = instructions if on.emulated else paced_instructions
    return count(network, runtime, on.core)


def latency_ms(network: Network, on: Device, runtime: str = "tflm") -> Count:
    """Estimated milliseconds of one inference on a board; differentiable."""
    # The latencies of that time's runtime were published of that paper's build.
    paper = devices.measured(on.name, "paper") if runtime == "tflm_2020" else None
    factor = paper.factor if paper else on.cycles_per_instruction
    cycles = timed_instructions(network, on, runtime) * factor
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
