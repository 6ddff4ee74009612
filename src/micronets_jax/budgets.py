"""Limits on a network, and whether it meets them.

Invariant: fitting is decided on whole numbers (bytes, operations, instructions), so Python, ``jit``
and ``vmap`` agree; usage is a float share of each limit, for gradients and reports.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from micronets_jax import cost, latency, targets
from micronets_jax.counts import Condition, total
from micronets_jax.decisions import Choice
from micronets_jax.devices import Device
from micronets_jax.devices.instructions import characterised
from micronets_jax.network import Count, Network, prune
from micronets_jax.recipes import Limits
from micronets_jax.targets.base import Target

_MEMORY = ("sram_bytes", "flash_bytes")
_TIMED = ("latency_ms", "energy_mj")  # limits that are decided on instructions


@dataclasses.dataclass(frozen=True)
class Budget(Limits):
    """What a network may use; None is no limit.

    Attributes:
        device: whose memory, latency and energy these are. With one, limits on memory are on all
            that the firmware takes of the board, the runtime's reserve included; without one on
            the network's part alone. Needed for limits on latency and energy.
        runtime: what runs the network, a name in ``targets``.
        besides: bytes of SRAM and of flash that the firmware takes besides, such as a front end.
    """

    device: Device | None = None
    runtime: str = "compiled"
    besides: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        targets.target(self.runtime)
        for name in _TIMED:
            if getattr(self, name) is not None and self.device is None:
                raise ValueError(f"{name} is given without a device; name one")
        if self.device and not characterised(self.target.steps, self.device.core):
            if characterised("compiled", self.device.core):
                raise ValueError(
                    f"runtime={self.runtime!r}: nobody has characterised it on a "
                    f"{self.device.core}, the core of {self.device.name}; use compiled"
                )
            raise ValueError(
                f"device {self.device.name}: neither times nor memory of networks on a "
                f"{self.device.core} are predicted, for nobody has characterised it; search for "
                f"another device, and put the model there with `micronets firmware --device "
                f"{self.device.name}`"
            )
        if self.energy_mj is not None and self.device and self.device.power_mw is None:
            raise ValueError(
                f"energy_mj={self.energy_mj}: the power of {self.device.name} is not known; limit "
                "latency_ms instead, or choose another device"
            )

    @staticmethod
    def of(
        device: Device,
        limits: Limits | None = None,
        runtime: str = "compiled",
        besides: tuple[int, int] = (0, 0),
    ) -> Budget:
        """All of the device's memory, except where ``limits`` says otherwise.

        Args:
            device: whose memories are the limits.
            limits: what a person states instead; None leaves the device's own.
            runtime: a name in ``targets``.
            besides: bytes of SRAM and of flash that the firmware takes besides.

        Returns:
            The budget; operations, latency and energy are limited only where ``limits`` says so.
        """
        stated = {f.name: getattr(limits, f.name, None) for f in dataclasses.fields(Limits)}
        defaults = {"sram_bytes": device.sram_bytes, "flash_bytes": device.flash_bytes}
        values = defaults | {name: value for name, value in stated.items() if value is not None}
        return Budget(**values, device=device, runtime=runtime, besides=besides)

    @property
    def target(self) -> Target:
        """The runtime's record."""
        return targets.target(self.runtime)

    @property
    def counting(self) -> tuple:
        """What decides how much of which limit is used: equal for budgets that differ in how much
        they allow alone."""
        return self.device, self.runtime, self.besides, tuple(self.limits())

    def reserve(self, network: Network) -> dict[str, dict[str, Count]]:
        """The reserve of runtime, stack and start-up: bytes by limit on memory and by part."""
        if self.device is None:
            return {name: {} for name in _MEMORY}
        held = self.target.reserve(network, self.device)
        return {
            name: held.of(name) | ({"front end": more} if more else {})
            for name, more in zip(_MEMORY, self.besides, strict=True)
        }

    def limits(self) -> dict[str, int | float]:
        """The limits there are, by name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(Limits)}
        return {name: value for name, value in values.items() if value is not None}

    def used(self, network: Network) -> dict[str, Count]:
        """What the network uses of each limit there is, in the limit's own unit."""
        return {name: self._used(name, network) for name in self.limits()}

    def usage(self, network: Network, names: Collection[str] | None = None) -> dict[str, Count]:
        """What the network uses as a share of each limit; up to 1 is allowed. Differentiable.

        Args:
            network: decided, traced or expected.
            names: of limits; those that there are not are passed over. All by default.
        """
        return {
            name: self._used(name, network) / limit
            for name, limit in self.limits().items()
            if names is None or name in names
        }

    def fits(self, network: Network) -> Condition:
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
        if name in _MEMORY:
            part = self.target.sram if name == "sram_bytes" else self.target.flash
            return part(network) + total(self.reserve(network)[name].values())
        if name == "mops":
            return cost.ops(network) * 1e-6
        return self._instructions(network) * self._per_instruction(name)

    def _instructions(self, network: Network) -> Count:
        assert self.device is not None  # __post_init__ saw to it
        return latency.timed_instructions(network, self.device, self.runtime)

    def _per_instruction(self, name: str) -> float:
        """Milliseconds or millijoules that an instruction takes."""
        assert self.device is not None
        ms = self.device.ms_per_instruction
        return ms if name == "latency_ms" else ms * (self.device.power_mw or 0.0) / 1000

    def _whole(self, name: str, network: Network) -> Count:
        """The integer cost that decides a limit: bytes, operations or instructions."""
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
    """The part of a search space that budgets use."""

    def decode(self, choice: Choice) -> Network:
        """The concrete network of a choice."""
        ...

    def lightest(self) -> list[Choice]:
        """Choices among which each cost is least, and all limits are met if any network can."""
        ...


@runtime_checkable
class Whole(Protocol):
    """A space that names its largest network."""

    def supernetwork(self) -> Network:
        """The largest network, its skips and mixes included."""
        ...


def smallest(space: Space, budget: Budget) -> dict[str, int | float]:
    """The least that any network of the space uses of each limit there is, each on its own."""
    used = [budget.used(space.decode(choice)) for choice in space.lightest()]
    return {name: min(one[name] for one in used) for name in budget.limits()}


def feasible(space: Space, budget: Budget) -> Choice:
    """Of the space's ``lightest`` choices that fit, the one with most weights: a fallback.

    Raises:
        ValueError: nothing in the space fits; the message names each limit that cannot be met and
            the smallest achievable value, or says that they cannot be met together.
    """
    choices = space.lightest()
    networks = [space.decode(choice) for choice in choices]
    _require_more_than_reserve(networks[0], budget)
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


def _require_more_than_reserve(network: Network, budget: Budget) -> None:
    for name, parts in budget.reserve(network).items():
        limit = budget.limits().get(name)
        if limit is not None and limit <= sum(parts.values()):
            raise ValueError(
                f"{name}={_figure(limit)}: {budget.target.title} takes {sum(parts.values()):,} "
                f"bytes besides the network ({_listed(parts)}); give more, or another runtime"
            )


def account(space: Whole, budget: Budget) -> list[str]:
    """A line for each limit on memory: the limit, the reserve of the runtime, what is left for the
    network, and what the largest network of the space would take."""
    largest = prune(space.supernetwork())
    used, lines = budget.used(largest), []
    for name, parts in budget.reserve(largest).items():
        reserve = sum(parts.values())
        lines.append(
            f"{_MEMORY_NAMES[name]}: {_figure(budget.limits()[name])} bytes, {budget.target.title} "
            f"takes {reserve:,} ({_listed(parts)}), {_figure(budget.limits()[name] - reserve)} are "
            f"left; the largest network of the space takes {_figure(used[name] - reserve)}"
        )
    return lines


_MEMORY_NAMES = {"sram_bytes": "SRAM", "flash_bytes": "flash"}


def _listed(parts: dict[str, Count]) -> str:
    return ", ".join(f"{part} {size:,}" for part, size in parts.items())


def _figure(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
