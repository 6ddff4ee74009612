"""Instructions of each step of a runtime on a core, as ``experiments.characterize`` fitted them.

Invariant: a runtime is a file beside this one, a core a row of it.
"""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

STEPS = ("tflm", "compiled", "tflm_2020")
"""Whose instructions: TensorFlow Lite Micro with CMSIS-NN as of 2026, the C of ``compile``, or
CMSIS-NN as of October 2020, with which the latencies of MicroNets were published."""


def characterised(runtime: str, core: str) -> bool:
    """Whether :func:`fitted` knows a core.

    Raises:
        ValueError: no such runtime.
    """
    return core in _cores(runtime)


@functools.cache
def fitted(runtime: str, core: str) -> dict[str, float]:
    """Instructions by the name of the step.

    Raises:
        ValueError: no such runtime, or nobody has characterised it on this core.
    """
    cores = _cores(runtime)
    if core not in cores:
        raise ValueError(f"core {core!r} has not been characterised; known are {', '.join(cores)}")
    return cores[cores[core].get("like", core)]["steps"]


@functools.cache
def _cores(runtime: str) -> dict[str, Any]:
    if runtime not in STEPS:
        raise ValueError(f"runtime={runtime!r} is unknown; use one of {', '.join(STEPS)}")
    path = pathlib.Path(__file__).parent / f"{runtime}.json"
    return json.loads(path.read_text())["cores"]
