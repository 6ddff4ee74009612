"""Runtimes: the costs of a network under each as it is delivered, and the program of each.

Invariant: a runtime is a folder here and a name in :data:`Runtime`. The lower half of a folder is
``record``, which budgets read (see ``base``). The upper half stands on higher rooms and is loaded
by name: ``engine``, the program, without JAX, and ``layout``, its memory over time.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from micronets_jax.memory import Step
    from micronets_jax.network import Network
    from micronets_jax.targets.base import Target

Runtime = Literal["compiled", "tflm"]
"""Every runtime that a person can choose."""

TARGETS: tuple[str, ...] = get_args(Runtime)
"""Their names."""


def target(name: str) -> Target:
    """The runtime, or the reference, of this name.

    Raises:
        ValueError: there is none; the message lists those that can be chosen.
    """
    if name in TARGETS:
        return _half(name, "record").TARGET
    references = _half("tflm", "record").REFERENCES
    if name not in references:
        raise ValueError(f"runtime={name!r} is unknown; use one of {', '.join(TARGETS)}")
    return references[name]


def engine(name: str) -> ModuleType:
    """The module that makes a runtime's program, see ``firmware.engine.Maker``.

    Raises:
        ValueError: there is none of this name; the message lists all.
    """
    if name not in TARGETS:
        raise ValueError(f"runtime={name!r} is unknown; use one of {', '.join(TARGETS)}")
    return _half(name, "engine")


def timeline(network: Network, name: str) -> tuple[Step, ...]:
    """What lies where while each call of a decided network runs, in the program that is delivered;
    references are drawn as TFLM."""
    return _half(name if name in TARGETS else "tflm", "layout").timeline(network)


def _half(name: str, half: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}.{half}")
