"""Which devices JAX computes on, and how work is laid over them.

Invariant: the choice decides where, never what, is computed: sharded or not, a step is the same
function up to rounding.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
import os
import sys
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jax.sharding import Mesh

Tree = TypeVar("Tree")
Made = TypeVar("Made")

PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
"""JAX's platform for each accelerator by the name people use."""

INSTALL = {
    "gpu": "an NVIDIA GPU with its driver, and: pip install 'micronets_jax[cuda]'",
    "tpu": "a TPU host, and: pip install 'micronets_jax[tpu]'",
}

MALLOPT = {-3: 1 << 30, -1: (1 << 31) - 1}
"""Settings of glibc's ``mallopt``, by their numbers in malloc.h: M_MMAP_THRESHOLD, from how many
bytes on memory is returned as soon as it is freed, and M_TRIM_THRESHOLD, likewise of the rest."""

UNOPTIMISED = {"xla_backend_optimization_level": 0}
"""Options for XLA's CPU compiler."""


class AcceleratorError(RuntimeError):
    """An accelerator that is not there; the message says what is, and what to install."""


def select(accelerator: str) -> str:
    """Make JAX use ``cpu``, ``gpu`` or ``tpu``, or with ``auto`` the best there is.

    Call before anything else uses JAX.

    Returns:
        What computes, for people: ``"2 x cpu"``.

    Raises:
        AcceleratorError: it is not there, or the name is unknown.
    """
    if accelerator != "auto":
        if accelerator not in PLATFORMS:
            known = ", ".join(["auto", *PLATFORMS])
            raise AcceleratorError(f"accelerator={accelerator!r} is not known; choose from {known}")
        os.environ["JAX_PLATFORMS"] = PLATFORMS[accelerator]
    jax = importlib.import_module("jax")
    if accelerator != "auto":
        jax.config.update("jax_platforms", PLATFORMS[accelerator])
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where no NVIDIA device is visible
        jax.config.update("jax_platforms", "cpu")
        raise AcceleratorError(
            f"accelerator={accelerator} is not there: this machine offers "
            f"{_describe(jax.devices())}. It needs {INSTALL.get(accelerator, 'another machine')}"
        ) from error
    return _describe(devices)


def keep_memory() -> None:
    """Make the C library keep freed memory instead of returning it to the system; call it once, at
    the start of a process.

    Each XLA program allocates its buffers anew, and mapping and clearing returned pages again takes
    up to half of a step. Nothing happens where the C library lacks these settings.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            for setting, value in MALLOPT.items():
                mallopt(setting, value)


def mesh(examples: int, samples: int = 1, devices: Sequence[object] | None = None) -> Mesh | None:
    """A mesh of all local devices with axes ``data`` and ``arch``; None for a single device.

    ``arch`` takes as many devices as divide the samples, ``data`` as many of the rest as divide
    the examples; devices left over stay idle.

    Args:
        examples: batch size.
        samples: architectures computed side by side.
        devices: in place of the local ones, such as those of a topology to compile for.
    """
    jax = importlib.import_module("jax")
    available = jax.devices() if devices is None else list(devices)
    arch = math.gcd(samples, len(available))
    data = math.gcd(examples, len(available) // arch)
    if data * arch == 1:
        return None
    grid = np.asarray(available[: data * arch]).reshape(data, arch)
    return jax.sharding.Mesh(grid, ("data", "arch"))


def place(tree: Tree, mesh: Mesh | None, *axes: str) -> Tree:
    """The arrays of a tree with leading dimensions sharded over these axes of the mesh, the rest
    replicated.

    Outside ``jit`` arrays are moved, inside it is a sharding constraint; without a mesh nothing
    happens.
    """
    if mesh is None:
        return tree
    jax = importlib.import_module("jax")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    put = jax.lax.with_sharding_constraint if _traced(tree) else jax.device_put
    return put(tree, sharding)


def once(function: Callable[..., Made], *arguments: object, static: Sequence[int] = ()) -> Made:
    """``function(*arguments)`` compiled as one program, for what runs only once.

    For a CPU XLA's optimisations are off, for they take longer than such a program runs. Inside a
    trace the function is called as it is.

    Args:
        function: a pure function of arrays.
        *arguments: of the function.
        static: positions of arguments that are not arrays; these must be hashable.
    """
    if _traced(arguments):
        return function(*arguments)
    jax = importlib.import_module("jax")
    options = UNOPTIMISED if jax.default_backend() == "cpu" else None
    return jax.jit(function, static_argnums=static, compiler_options=options)(*arguments)


def _traced(tree: object) -> bool:
    jax = importlib.import_module("jax")
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _describe(devices: list) -> str:
    return f"{len(devices)} x {devices[0].platform} ({devices[0].device_kind})"
