"""Image files in, eight-bit pixels of one size out.

Invariant: a picture is decoded whole or not at all; a damaged, truncated or too small file is an
error that names it. Memory is bounded: JPEG files are decoded at the scale that is needed, and of
other large pictures one at a time. Pillow is imported inside functions; HEIC files need
pillow-heif, which the extra ``phone`` brings.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import os
import pathlib
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from micronets_jax.data import duplicates
from micronets_jax.data.dataset import DataError

HEIC = (".heic", ".heif")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", *HEIC)
"""Of files that are pictures."""

SMALLEST = 8  # pixels of a side; what is smaller shows nothing

LARGEST = 178_956_970
"""Pixels beyond which Pillow takes a picture for an attack on memory."""

LARGE = 2**24
"""Pixels beyond which only one picture is decoded at a time."""

DRAFT = 4
"""How many times the wanted sides a large picture keeps before it is brought to size."""

_large = threading.Lock()

Item = TypeVar("Item")
Seen = TypeVar("Seen")


def read(
    path: pathlib.Path, shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "rows columns channels"]:
    """A picture stretched to this size, in grey (one channel) or colour (three).

    JPEG, PNG, WebP and HEIC of any depth and colour space: 16 bits are cut to 8, CMYK and palettes
    converted, what is transparent laid on white, turned as the camera was held.

    Raises:
        DataError: the file is missing, damaged, cut off, or smaller than 8 pixels on a side.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the path of an image") from None
    return decode(content, shape, str(path))


def decode(
    content: bytes, shape: tuple[int, int, int], name: str
) -> UInt8[np.ndarray, "rows columns channels"]:
    """As ``read``, of a file's bytes; errors call it ``name``."""
    picture, _ = _decoded(content, name, shape)
    return _resized(_eight_bits(picture), shape)


def look(
    path: pathlib.Path,
) -> tuple[tuple[int, int], UInt8[np.ndarray, "side side"]]:
    """Rows and columns of a picture, and it in grey at the size of a signature.

    Raises:
        DataError: as ``read``.
    """
    from PIL import Image

    side = (duplicates.SIDE, duplicates.SIDE, 1)
    picture, size = _decoded(path.read_bytes(), str(path), side)
    grey = _eight_bits(picture).convert("L").resize(side[:2], Image.Resampling.BOX)
    return size, np.asarray(grey)


def _opened(content: bytes, name: str) -> Any:
    """The picture before its pixels are decoded."""
    from PIL import Image

    if name.lower().endswith(HEIC):
        try:
            import pillow_heif
        except ImportError as error:
            raise DataError(
                f"{name} is in the format HEIC: install pillow-heif, which the extra phone brings "
                "(pip install 'micronets_jax[phone]'), or convert it to JPEG"
            ) from error
        pillow_heif.register_heif_opener()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # memory is bounded
            return Image.open(io.BytesIO(content))
    except Exception as error:  # Pillow raises many kinds on damaged files
        if isinstance(error, Image.DecompressionBombError):
            raise DataError(
                f"{name} has more than {LARGEST} pixels; make it smaller or remove it"
            ) from error
        reason = "no known format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise DataError(f"{name} cannot be read as an image ({reason}); remove it") from error


def _decoded(content: bytes, name: str, shape: tuple[int, int, int]) -> tuple[Any, tuple[int, int]]:
    """The picture as the camera was held, a large one made smaller, and its rows and columns."""
    from PIL import ImageOps

    if not content:
        raise DataError(f"{name} is an empty file; remove it")
    opened = _opened(content, name)
    columns, rows = opened.size
    if rows * columns > LARGE:  # a JPEG file gives an eighth of its sides for the asking
        side = DRAFT * max(shape[:2])
        opened.draft(None, (side, side))
    with _large if opened.size[0] * opened.size[1] > LARGE else contextlib.nullcontext():
        try:
            opened.load()
            picture = ImageOps.exif_transpose(opened)
            if picture.size != opened.size:
                rows, columns = columns, rows
            if picture.size[0] * picture.size[1] > LARGE:  # what is kept is small
                side = DRAFT * max(shape[:2])
                picture.thumbnail((side, side), reducing_gap=2.0)
        except Exception as error:  # Pillow raises many kinds on damaged files
            raise DataError(f"{name} cannot be read as an image ({error}); remove it") from error
    if min(rows, columns) < SMALLEST:
        raise DataError(
            f"{name} has {columns} x {rows} pixels; give at least {SMALLEST} on each side, or "
            "remove it"
        )
    return picture, (rows, columns)


def _eight_bits(picture: Any) -> Any:
    """The picture in RGB or in eight bits of grey."""
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits
        levels = np.asarray(picture).astype(np.float64)
        return Image.fromarray((np.clip(levels, 0, 65_535) / 257).round().astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")


def _resized(
    picture: Any, shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "rows columns channels"]:
    from PIL import Image

    rows, columns, channels = shape
    converted = picture.convert("L" if channels == 1 else "RGB")
    small = converted.resize(
        (columns, rows),
        Image.Resampling.BOX if _shrinks(converted, shape) else Image.Resampling.BILINEAR,
    )
    return np.asarray(small).reshape(rows, columns, channels)


def _shrinks(picture: Any, shape: tuple[int, int, int]) -> bool:
    return picture.size[0] >= shape[1] and picture.size[1] >= shape[0]


def resize(
    pixels: UInt8[np.ndarray, "height width 3"], shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "rows columns channels"]:
    """Decoded pixels stretched to this size, in grey or colour."""
    from PIL import Image

    return _resized(Image.fromarray(pixels), shape)


def listed(folder: pathlib.Path) -> list[str]:
    """Names of the images in a folder, sorted."""
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(SUFFIXES)
        and not entry.name.startswith(".")
        and entry.is_file()
    )


def each(items: Sequence[Item], see: Callable[[Item], Seen]) -> list[Seen]:
    """What is seen of each item, side by side."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(see, items))


def stack(
    items: Sequence[Item],
    load: Callable[[Item], UInt8[np.ndarray, "rows columns channels"]],
    shape: tuple[int, int, int],
) -> UInt8[np.ndarray, "items rows columns channels"]:
    """One picture for each item, loaded side by side."""
    out = np.empty((len(items), *shape), np.uint8)

    def put(i: int) -> None:
        out[i] = load(items[i])

    each(range(len(items)), put)
    return out
