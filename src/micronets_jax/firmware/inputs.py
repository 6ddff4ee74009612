"""Inputs of a run as bytes: pseudo-random ones from a seed, or arrays from a NumPy file.

Invariant: the bytes are exactly those that the interface asks for, or a sentence says why not.
"""

from __future__ import annotations

import zipfile
from typing import Any, cast

import numpy as np

from micronets_jax.firmware.boards import FirmwareError
from micronets_jax.firmware.engine import Interface


def noise(count: int, seed: int) -> np.ndarray:
    """Bytes of the generator that the firmware itself has.

    ``s = s * 1664525 + 1013904223 mod 2^32`` before each byte; the byte is ``s >> 24``.
    """
    s, out = seed & 0xFFFFFFFF, np.empty(count, np.uint8)
    for i in range(count):
        s = (s * 1664525 + 1013904223) & 0xFFFFFFFF
        out[i] = s >> 24
    return out


def generated(seed: int, interface: Interface) -> bytes:
    """All inputs from :func:`noise`, finite numbers whatever their type: a byte of it is a byte of
    an integer, or a float32 from -4 to 3.97, ``(byte - 128) / 32``."""
    entries = [e for e in interface if e["way"] == "input"]
    counts = [e["bytes"] // (4 if e["dtype"] == "float32" else 1) for e in entries]
    parts = np.split(noise(sum(counts), seed), np.cumsum(counts)[:-1])
    return b"".join(
        ((part.astype(np.float32) - 128) / 32 if e["dtype"] == "float32" else part).tobytes()
        for e, part in zip(entries, parts, strict=True)
    )


def load(source: str, interface: Interface, stream: bool = False) -> list[bytes]:
    """All inputs of an interface, from ``lcg:SEED`` or a NumPy file, for each run.

    Args:
        source: ``lcg:SEED``, ``FILE.npy`` for a model of one input, or ``FILE.npz`` with an array
            for each input under its name. A name may go without ``serving_default_`` before it and
            ``:0`` after it; ``arr_0``, ``arr_1``, ..., as ``numpy.savez`` gives where no names are
            given, are the inputs in the order of the model.
        interface: of the manifest.
        stream: whether the arrays may hold several runs, along their first axis.

    Returns:
        One string of bytes, or as many as the arrays hold runs.

    Raises:
        FirmwareError: no such file, or names, types or sizes do not fit the model.
    """
    entries = [e for e in interface if e["way"] == "input"]
    if source.startswith("lcg:"):
        try:
            seed = int(source[4:])
        except ValueError as error:
            raise FirmwareError(f"--input {source}: the seed is not an integer") from error
        return [generated(seed, interface)]
    try:
        loaded = cast(Any, np.load(source, allow_pickle=False))
        named = {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else None
    except FileNotFoundError as error:
        raise FirmwareError(f"--input {source}: there is no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FirmwareError(f"--input {source}: not a readable NumPy file ({error})") from error
    if named is not None:
        arrays = _by_name(named, entries, source)
    elif len(entries) == 1:
        arrays = [loaded]
    else:
        raise FirmwareError(
            f"--input {source} is one array; the model has {len(entries)} inputs: give an .npz "
            f"with arrays named {_names(entries)}"
        )
    runs = arrays[0].nbytes // entries[0]["bytes"] if stream else 1
    for e, array in zip(entries, arrays, strict=True):
        if array.dtype.name != e["dtype"] or array.nbytes != max(runs, 1) * e["bytes"]:
            several = "; one behind the other for several runs" if stream else ""
            raise FirmwareError(
                f"--input {source}: {array.dtype.name} {list(array.shape)} came; input "
                f"{e['index']} ({_short(e['name'])}) is {e['dtype']} {e['shape']}{several}"
            )
    parts = [np.split(np.frombuffer(array.tobytes(), np.uint8), runs) for array in arrays]
    return [b"".join(part.tobytes() for part in run) for run in zip(*parts, strict=True)]


def _by_name(named: dict[str, np.ndarray], entries: Interface, source: str) -> list[np.ndarray]:
    """The arrays in the order of the model's inputs."""
    names = [e["name"] for e in entries]
    orders = (names, [_short(name) for name in names], [f"arr_{i}" for i in range(len(names))])
    for order in orders:
        if len(set(order)) == len(order) and set(named) == set(order):
            return [named[name] for name in order]
    raise FirmwareError(
        f"--input {source} holds arrays named {', '.join(sorted(named)) or 'nothing'}; the model's "
        f"inputs are {_names(entries)}: name one array after each, or arr_0, arr_1, ... in this "
        "order"
    )


def _names(entries: Interface) -> str:
    return ", ".join(_short(e["name"]) for e in entries)


def _short(name: str) -> str:
    """The name without what TensorFlow's converter puts about it."""
    return name.removeprefix("serving_default_").removesuffix(":0")


def split(raw: bytes, interface: Interface, way: str) -> list[np.ndarray]:
    """The arrays of all inputs or outputs, ``way``, out of their bytes in a row."""
    arrays, at = [], 0
    for e in (e for e in interface if e["way"] == way):
        arrays.append(np.frombuffer(raw[at : at + e["bytes"]], e["dtype"]).reshape(e["shape"]))
        at += e["bytes"]
    return arrays
