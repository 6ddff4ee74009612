"""Search neural networks for microcontrollers and deliver them as firmware.

Invariant: importing the package loads nothing heavy; ``mn.spaces`` and the like load a room when it
is first named. ``docs/library.md`` shows them at work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from micronets_jax import (
        budgets,
        compile,
        cost,
        data,
        decisions,
        devices,
        export,
        firmware,
        latency,
        losses,
        network,
        pipeline,
        quantize,
        recipes,
        runtimes,
        search,
        spaces,
        supernet,
        targets,
        training,
        zoo,
    )

__version__ = "0.3.0"
"""The newest version in ``CHANGELOG.md``; what is packaged takes it from here."""

__all__ = [
    "budgets",
    "compile",
    "cost",
    "data",
    "decisions",
    "devices",
    "export",
    "firmware",
    "latency",
    "losses",
    "network",
    "pipeline",
    "quantize",
    "recipes",
    "runtimes",
    "search",
    "spaces",
    "supernet",
    "targets",
    "training",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
