"""Arrays kept on disk between runs.

Invariant: a file under its final name was written whole, and its length and checksums are verified
before it is used; anything else is built again.

A format of its own: NumPy's ``.npz`` cannot be memory-mapped, and safetensors has no checksums.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import pathlib
import types
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from micronets_jax import files
from micronets_jax.data.dataset import warn

Arrays = dict[str, np.ndarray]

_MAGIC = b"micronets cache 1\n"
_ALIGN = 64


def default_folder() -> pathlib.Path:
    """``$MICRONETS_CACHE``, or ``~/.cache/micronets_jax``."""
    given = os.environ.get("MICRONETS_CACHE")
    return pathlib.Path(given) if given else pathlib.Path.home() / ".cache" / "micronets_jax"


def key(**parts: object) -> str:
    """A short hexadecimal name for these parameters, which JSON must be able to write."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def code(module: types.ModuleType) -> str:
    """A hash of a module's source: what it computes is stale once it has been edited."""
    return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()[:16]


def arrays(
    name: str, build: Callable[[], Mapping[str, np.ndarray]], folder: pathlib.Path | None = None
) -> Arrays:
    """The arrays kept under ``name``, built and kept first if they are not there whole.

    Arrays read from disk are memory-mapped and read-only. A folder that cannot be written (a full
    disk) costs a warning and the time to build again, never the run.
    """
    path = pathlib.Path(folder or default_folder()) / f"{name}.bin"
    with contextlib.suppress(OSError, ValueError, KeyError):
        return _read(path)
    built = {label: np.asarray(array, order="C") for label, array in build().items()}
    try:
        _write(path, built)
        return _read(path)  # from disk, so that memory holds only what is used
    except (OSError, ValueError) as error:
        warn(f"cannot keep {path}: {error}; it will be built again")
        return built


def _bytes(array: np.ndarray) -> memoryview | bytes:
    return array.reshape(-1).view(np.uint8).data if array.nbytes else b""


def _write(path: pathlib.Path, content: Arrays) -> None:
    # Layout: magic, length and checksum of the header, header (JSON), arrays at multiples of 64.
    entries, end = {}, 0
    for label, array in content.items():
        start = -(-end // _ALIGN) * _ALIGN
        end = start + array.nbytes
        entries[label] = {
            "dtype": array.dtype.str,
            "shape": array.shape,
            "start": start,
            "checksum": zlib.crc32(_bytes(array)),
        }
    header = json.dumps({"length": end, "arrays": entries}).encode()
    prefix = _MAGIC + np.array([len(header), zlib.crc32(header)], "<u8").tobytes() + header
    base = -(-len(prefix) // _ALIGN) * _ALIGN
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(path) as file:
        file.write(prefix)
        for label, array in content.items():
            file.seek(base + entries[label]["start"])
            file.write(_bytes(array))
        file.truncate(base + end)


def _read(path: pathlib.Path) -> Arrays:
    """Raises ValueError or KeyError unless the file is whole."""
    with open(path, "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("not a cache file")
        size, checksum = np.frombuffer(file.read(16), "<u8")
        header_bytes = file.read(int(size))
    if zlib.crc32(header_bytes) != checksum:
        raise ValueError("damaged header")
    header = json.loads(header_bytes)
    base = -(-(len(_MAGIC) + 16 + len(header_bytes)) // _ALIGN) * _ALIGN
    if path.stat().st_size != base + header["length"]:
        raise ValueError("wrong length")
    content = {}
    for label, entry in header["arrays"].items():
        shape = tuple(entry["shape"])
        if 0 in shape or np.dtype(entry["dtype"]).itemsize == 0:
            content[label] = np.zeros(shape, entry["dtype"])
            continue
        array = np.memmap(path, entry["dtype"], "r", base + entry["start"], shape)
        if zlib.crc32(_bytes(array)) != entry["checksum"]:
            raise ValueError("damaged contents")
        content[label] = array
    return content
