"""The library of TensorFlow Lite Micro that TFLM_INCLUDE and TFLM_LIBRARY name, if they do."""

import contextlib
import os

from micronets_jax import devices, targets
from micronets_jax.firmware.boards import FirmwareError


def cores() -> list[str]:
    """The cores of boards with start-up code that the library serves; none without a library."""
    found = []
    for core in sorted({on.core for on in devices.DEVICES.values() if on.startup}):
        if "TFLM_LIBRARY" not in os.environ:
            continue
        with contextlib.suppress(FirmwareError):
            if not targets.engine("tflm").missing(devices.emulated(core)):
                found.append(core)
    return found
