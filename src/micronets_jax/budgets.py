"""Limits on a network, and whether it keeps them.

Invariant: fitting is decided on whole numbers (bytes, operations, instructions), so Python, ``jit``
and ``vmap`` answer alike; usage is a share of each limit, for bars and gradients.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp

from micronets_jax import cost, latency
from micronets_jax.decisions import Choice
from micronets_jax.devices import Device
from micronets_jax.network import Count, Network
from micronets_jax.recipes import Limits


class Firmware(NamedTuple):
    """What of a board's memory a model does not get."""

    sram_bytes: int
    flash_bytes: int


PAPER = Firmware(4_000 + 4_000 + 4_096, 37_000 + 38_000)
"""TFLM besides its arena and the model, and the rest of the firmware, as MicroNets (Banbury et al.,
2021) measured; then a stack, which the paper does not list apart."""

TFLM = Firmware(14_000, 130_000)
"""What our own firmware takes with today's TFLM (2026): measured are 86 to 123 kB of its code for
four to ten kinds of operators, 5 kB of ours, a front end of 10 kB, margin of the arena, stacks."""

_TIMED = ("latency_ms", "energy_mj")  # limits that are decided on instructions


@dataclasses.dataclass(frozen=True)
class Budget(Limits):
    """What a network may use; None is no limit.

    Attributes:
        device: whose latency and energy are estimated; needed only for limits on these.
        runtime: whose memory is counted, one of ``cost.RUNTIMES``.
        latency_runtime: whose instructions are counted, one of ``latency.RUNTIMES``.
    """

    device: Device | None = None
    runtime: str = "tflm_cortex_m"
    latency_runtime: str = "tflm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runtime not in cost.RUNTIMES:
            raise ValueError(
                f"runtime={self.runtime!r} is unknown; use one of {', '.join(cost.RUNTIMES)}"
            )
        if self.latency_runtime not in latency.RUNTIMES:
            raise ValueError(
                f"latency_runtime={self.latency_runtime!r} is unknown; use one of "
                f"{', '.join(latency.RUNTIMES)}"
            )
        for name in _TIMED:
            if getattr(self, name) is not None and self.device is None:
                raise ValueError(f"{name} is given without a device; name one")
        if self.energy_mj is not None and self.device and self.device.power_mw is None:
            raise ValueError(
                f"energy_mj={self.energy_mj}: the power of {self.device.name} is not known; limit "
                "latency_ms instead, or choose another device"
            )

    @staticmethod
    def of(
        device: Device,
        limits: Limits | None = None,
        runtime: str = "tflm_cortex_m",
        latency_runtime: str = "tflm",
        firmware: Firmware = PAPER,
    ) -> Budget:
        """The device's memory less what the firmware takes, except where ``limits`` says."""
        stated = {f.name: getattr(limits, f.name, None) for f in dataclasses.fields(Limits)}
        defaults = {
            "sram_bytes": device.sram_bytes - firmware.sram_bytes,
            "flash_bytes": device.flash_bytes - firmware.flash_bytes,
        }
        values = defaults | {name: value for name, value in stated.items() if value is not None}
        return Budget(**values, device=device, runtime=runtime, latency_runtime=latency_runtime)

    def limits(self) -> dict[str, int | float]:
        """The limits there are, by name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(Limits)}
        return {name: value for name, value in values.items() if value is not None}

    def used(self, network: Network) -> dict[str, Count]:
        """What the network uses of each limit there is, in the limit's own unit."""
        return {name: self._used(name, network) for name in self.limits()}

    def usage(self, network: Network) -> dict[str, Count]:
        """What the network uses as a share of each limit; up to 1 is allowed. Differentiable."""
        return {name: self._used(name, network) / limit for name, limit in self.limits().items()}

    def fits(self, network: Network) -> Any:
        """Whether no limit is exceeded: a bool, or an array of one for a traced network."""
        bounds = self._bounds()
        kept = [self._whole(name, network) <= bound for name, bound in bounds.items()]
        if all(isinstance(k, bool) for k in kept):
            return all(kept)
        return jnp.all(jnp.stack([jnp.asarray(k) for k in kept]), axis=0)

    def violations(self, network: Network) -> dict[str, int | float]:
        """For each limit that a concrete network exceeds, by how much, in the limit's own unit."""
        used, limits = self.used(network), self.limits()
        return {
            name: used[name] - limits[name]
            for name, bound in self._bounds().items()
            if self._whole(name, network) > bound
        }

    def _used(self, name: str, network: Network) -> Count:
        if name == "sram_bytes":
            return cost.sram_bytes(network, self.runtime)
        if name == "flash_bytes":
            return cost.flash_bytes(network)
        if name == "mops":
            return cost.ops(network) * 1e-6
        return self._instructions(network) * self._per_instruction(name)

    def _instructions(self, network: Network) -> Count:
        assert self.device is not None  # __post_init__ saw to it
        return latency.instructions(network, self.latency_runtime, self.device.core)

    def _per_instruction(self, name: str) -> float:
        """Milliseconds or millijoules that an instruction takes."""
        assert self.device is not None
        ms = self.device.cycles_per_instruction / (1000 * self.device.clock_mhz)
        return ms if name == "latency_ms" else ms * (self.device.power_mw or 0.0) / 1000

    def _whole(self, name: str, network: Network) -> Count:
        """The integer cost that a limit is decided on: bytes, operations or instructions."""
        if name.endswith("bytes"):
            return self._used(name, network)
        return self._instructions(network) if name in _TIMED else cost.ops(network)

    def _bounds(self) -> dict[str, int]:
        """The largest allowed integer cost under each limit there is."""
        bounds = {}
        for name, limit in self.limits().items():
            unit = self._per_instruction(name) if name in _TIMED else 1.0
            # 16.4 million operations are 16,400,000, whatever 16.4 is in binary.
            millions = 1_000_000 if name == "mops" else 1
            bounds[name] = math.floor(round(limit * millions / unit, 3))
        return bounds


# ---------------------------------------------------------------- what a space can reach


@runtime_checkable
class Space(Protocol):
    """What is asked here of a search space."""

    def decode(self, choice: Choice) -> Network:
        """The concrete network of a choice."""
        ...

    def lightest(self) -> list[Choice]:
        """Choices among which each cost is least, and all limits are met if any network can."""
        ...


def smallest(space: Space, budget: Budget) -> dict[str, int | float]:
    """The least that any network of the space uses of each limit there is, each on its own."""
    used = [budget.used(space.decode(choice)) for choice in space.lightest()]
    return {name: min(one[name] for one in used) for name in budget.limits()}


def feasible(space: Space, budget: Budget) -> Choice:
    """A light choice that fits, to fall back on: of those, the one with most weights.

    Raises:
        ValueError: nothing in the space fits; the message names each limit that cannot be met and
            the smallest achievable value, or says that they cannot be met together.
    """
    choices = space.lightest()
    networks = [space.decode(choice) for choice in choices]
    exceeded = [budget.violations(network) for network in networks]
    fitting = [i for i, names in enumerate(exceeded) if not names]
    if fitting:
        return choices[max(fitting, key=lambda i: cost.weights(networks[i]))]
    limits = budget.limits()
    hopeless = [name for name in limits if all(name in names for names in exceeded)]
    if hopeless:
        least = smallest(space, budget)
        reasons = ", ".join(
            f"{name}={_figure(limits[name])} (the smallest achievable is {_figure(least[name])})"
            for name in hopeless
        )
        raise ValueError(f"no network of the space can meet {reasons}; raise what is too low")
    pairs = ", ".join(f"{name}={_figure(limit)}" for name, limit in limits.items())
    raise ValueError(
        f"no network of the space can meet {pairs} together, though each alone can be met; "
        "raise one of them"
    )


def _figure(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
