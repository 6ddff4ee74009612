"""Which devices JAX computes on.

Invariant: the choice decides where, never what, is computed.
"""

from __future__ import annotations

import importlib
import os

PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
"""JAX's platform for each accelerator by the name people use."""

INSTALL = {
    "gpu": "an NVIDIA GPU with its driver, and: pip install 'micronets_jax[cuda]'",
    "tpu": "a TPU host, and: pip install 'micronets_jax[tpu]'",
}


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
    except RuntimeError as error:
        jax.config.update("jax_platforms", "cpu")
        raise AcceleratorError(
            f"accelerator={accelerator} is not there: this machine offers "
            f"{_describe(jax.devices())}. It needs {INSTALL.get(accelerator, 'another machine')}"
        ) from error
    return _describe(devices)


def _describe(devices: list) -> str:
    return f"{len(devices)} x {devices[0].platform} ({devices[0].device_kind})"
