"""Which devices JAX computes on, and how work is laid over them.

Invariant: the choice decides where, never what, is computed: sharded or not, a step is the same
function up to rounding.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import math
import os
import pathlib
import platform
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from micronets_jax import hosts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jax.sharding import Mesh, NamedSharding

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

PROGRAMS_FROM_S, PROGRAMS_BYTES = 0.5, 2 << 30
"""How long a program has to compile to be kept, and how many bytes are kept at most."""

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


def keep_programs(folder: pathlib.Path) -> None:
    """Make JAX keep compiled programs in a folder, from which the next run whose networks have the
    same shapes loads them instead of compiling, with the same bits as results.

    Where ``JAX_COMPILATION_CACHE_DIR`` names a folder, that one is used as JAX's documentation
    says. Otherwise programs that took :data:`PROGRAMS_FROM_S` to compile are kept, each set of a
    CPU's instructions apart, for a home may be mounted by several kinds of machines, and those
    longest unused are deleted beyond :data:`PROGRAMS_BYTES`. A folder that cannot be written costs
    the time to compile, never the run.
    """
    jax = importlib.import_module("jax")
    if jax.config.jax_compilation_cache_dir:
        return
    there = folder / f"{platform.machine()}-{_instructions()}"
    with contextlib.suppress(OSError):
        there.mkdir(parents=True, exist_ok=True)
        if os.access(there, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(there))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", PROGRAMS_FROM_S)
            jax.config.update("jax_compilation_cache_max_size", PROGRAMS_BYTES)


def _instructions() -> str:
    """A short name of the sets of instructions that this machine's CPU has."""
    features = platform.processor()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        features += next((x for x in lines if x.lower().startswith(("flags", "features"))), "")
    return hashlib.sha256(features.encode()).hexdigest()[:12]


def mesh(examples: int, samples: int = 1, devices: Sequence[object] | None = None) -> Mesh | None:
    """A mesh of all devices of all hosts with axes ``data`` and ``arch``; None for a single device.

    ``arch`` takes as many devices as divide the samples, ``data`` as many of the rest as divide
    the examples; devices left over stay idle.

    Args:
        examples: batch size.
        samples: architectures computed side by side.
        devices: in place of those that are there, such as those of a topology to compile for.

    Raises:
        ValueError: devices would be left over and there are several hosts, each of which has to
            take part.
    """
    jax = importlib.import_module("jax")
    # By host, so that each reads a run of the examples.
    there = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    available = there if devices is None else list(devices)
    arch = math.gcd(samples, len(available))
    data = math.gcd(examples, len(available) // arch)
    if devices is None and data * arch < len(available) and hosts.count() > 1:
        beside = f" by {samples} sampled architectures" if samples > 1 else ""
        raise ValueError(
            f"the {len(available)} devices of {hosts.count()} hosts do not divide {examples} "
            f"examples{beside}; give a multiple of {len(available) // arch} examples"
        )
    if data * arch == 1:
        return None
    grid = np.asarray(available[: data * arch]).reshape(data, arch)
    return jax.sharding.Mesh(grid, ("data", "arch"))


def place(tree: Tree, mesh: Mesh | None, *axes: str | None) -> Tree:
    """The arrays of a tree with leading dimensions sharded over these axes of the mesh, the rest
    and those of None replicated.

    Outside ``jit`` arrays are moved, inside it is a sharding constraint; without a mesh nothing
    happens. Of a mesh over several hosts each gives its :func:`share` of what is sharded; what is
    replicated is host 0's.
    """
    if mesh is None:
        return tree
    jax = importlib.import_module("jax")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    if _traced(tree):
        return jax.lax.with_sharding_constraint(tree, sharding)
    if not spans_hosts(mesh):
        return jax.device_put(tree, sharding)
    if axes:
        whole = jax.make_array_from_process_local_data
        return jax.tree.map(lambda leaf: whole(sharding, np.asarray(leaf)), tree)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.shape, sharding, lambda at: leaf[at]),
        _of_first(local(tree)),
    )


def replicated(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of what every device of the mesh holds whole, for ``jit``'s outputs."""
    jax = importlib.import_module("jax")
    return mesh and jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def spans_hosts(mesh: Mesh | None) -> bool:
    """Whether several hosts compute together."""
    return mesh is not None and hosts.count() > 1


def share(mesh: Mesh | None, examples: int) -> slice:
    """Which of a batch of so many examples this host has to read: all, where it is alone."""
    if mesh is None or not spans_hosts(mesh):
        return slice(None)
    mine = [any(one.process_index == hosts.index() for one in row) for row in mesh.devices]
    rows, each = np.flatnonzero(mine), examples // len(mine)
    return slice(int(rows[0]) * each, (int(rows[-1]) + 1) * each)


def local(tree: Tree) -> Tree:
    """Replicated arrays as this host holds them, for programs that it runs alone."""
    jax = importlib.import_module("jax")

    def here(leaf: Any) -> Any:
        remote = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        return leaf.addressable_data(0) if remote else leaf

    return jax.tree.map(here, tree)


def _of_first(tree: Tree) -> Tree:
    """NumPy arrays as host 0 has them, sent as one array of bytes."""
    jax = importlib.import_module("jax")
    utilities = importlib.import_module("jax.experimental.multihost_utils")
    leaves, structure = jax.tree.flatten(jax.device_get(tree))
    leaves = [np.asarray(leaf) for leaf in leaves]
    sent = np.frombuffer(b"".join(leaf.tobytes() for leaf in leaves), np.uint8)
    came = np.asarray(utilities.broadcast_one_to_all(sent))
    ends = np.cumsum([leaf.nbytes for leaf in leaves])
    parts = (
        came[end - leaf.nbytes : end].view(leaf.dtype).reshape(leaf.shape)
        for leaf, end in zip(leaves, ends, strict=True)
    )
    return jax.tree.unflatten(structure, parts)


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
    there = f"{len(devices)} x {devices[0].platform} ({devices[0].device_kind})"
    return there if hosts.count() == 1 else f"{there} of {hosts.count()} hosts"
