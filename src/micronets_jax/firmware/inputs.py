"""What a model is fed in a trial: noise by a seed, or arrays from a NumPy file, as bytes.

Invariant: the bytes are exactly those that the interface asks for, or a sentence says why not.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from micronets_jax.firmware.boards import FirmwareError


def noise(count: int, seed: int) -> np.ndarray:
    """Bytes of the generator that the firmware itself has.

    ``s = s * 1664525 + 1013904223 mod 2^32`` before each byte; the byte is ``s >> 24``.
    """
    s, out = seed & 0xFFFFFFFF, np.empty(count, np.uint8)
    for i in range(count):
        s = (s * 1664525 + 1013904223) & 0xFFFFFFFF
        out[i] = s >> 24
    return out


def load(source: str, interface: list[dict[str, Any]]) -> bytes:
    """All inputs of an interface, from ``lcg:SEED`` or a NumPy file.

    Args:
        source: ``lcg:SEED``, ``FILE.npy``, or ``FILE.npz`` with one array per input by index.

    Raises:
        FirmwareError: no such file, or type or size do not fit the model.
    """
    entries = [e for e in interface if e["way"] == "input"]
    if source.startswith("lcg:"):
        try:
            seed = int(source[4:])
        except ValueError as error:
            raise FirmwareError(f"--input {source}: the seed is not an integer") from error
        return noise(sum(e["bytes"] for e in entries), seed).tobytes()
    try:
        loaded = cast(Any, np.load(source, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise FirmwareError(f"--input {source}: not a readable NumPy file ({error})") from error
    archive = hasattr(loaded, "files")
    arrays = [loaded[name] for name in sorted(loaded.files)] if archive else [loaded]
    if len(arrays) != len(entries):
        raise FirmwareError(
            f"--input {source} holds {len(arrays)} arrays; the model has {len(entries)} inputs "
            "(use an .npz with one array per input)"
        )
    parts = []
    for e, array in zip(entries, arrays, strict=True):
        if array.dtype.name != e["dtype"] or array.size * array.itemsize != e["bytes"]:
            raise FirmwareError(
                f"--input {source}: {array.dtype.name} {list(array.shape)} came; input "
                f"{e['index']} is {e['dtype']} {e['shape']}"
            )
        parts.append(np.ascontiguousarray(array).tobytes())
    return b"".join(parts)


def split(raw: bytes, interface: list[dict[str, Any]], way: str) -> list[np.ndarray]:
    """The arrays of all inputs or outputs, ``way``, out of their bytes in a row."""
    arrays, at = [], 0
    for e in (e for e in interface if e["way"] == way):
        arrays.append(np.frombuffer(raw[at : at + e["bytes"]], e["dtype"]).reshape(e["shape"]))
        at += e["bytes"]
    return arrays
