"""Image files in, eight-bit pixels of one size out.

Invariant: whatever comes back was decoded whole; a file that is damaged, cut off or too small is an
error that names it. Pillow decodes, and is imported inside functions.
"""

from __future__ import annotations

import concurrent.futures
import io
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from micronets_jax.data.dataset import DataError

SUFFIXES = (".jpg", ".jpeg", ".png")
SMALLEST = 8  # pixels of a side; what is smaller shows nothing

Item = TypeVar("Item")


def read(
    path: pathlib.Path, shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "rows columns channels"]:
    """A picture stretched to this size, in grey (one channel) or colour (three).

    JPEG and PNG of any depth and colour space: 16 bits are cut to 8, CMYK and palettes converted,
    what is transparent laid on white, turned as the camera was held.

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
    from PIL import Image, ImageOps

    if not content:
        raise DataError(f"{name} is an empty file; remove it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as opened:
                opened.load()
                picture = ImageOps.exif_transpose(opened)
    except Exception as error:  # Pillow raises many kinds on damaged files
        reason = "no known format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise DataError(f"{name} cannot be read as an image ({reason}); remove it") from error
    if min(picture.size) < SMALLEST:
        raise DataError(
            f"{name} has {picture.size[0]} x {picture.size[1]} pixels; give at least {SMALLEST} "
            "on each side, or remove it"
        )
    return _resized(_eight_bits(picture), shape)


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
    small = converted.resize((columns, rows), Image.Resampling.BOX if _shrinks(converted, shape)
                             else Image.Resampling.BILINEAR)  # fmt: skip
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
        if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
    )


def stack(
    items: Sequence[Item],
    load: Callable[[Item], UInt8[np.ndarray, "rows columns channels"]],
    shape: tuple[int, int, int],
) -> UInt8[np.ndarray, "items rows columns channels"]:
    """One picture for each item, loaded side by side."""
    out = np.empty((len(items), *shape), np.uint8)

    def put(i: int) -> None:
        out[i] = load(items[i])

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(put, range(len(items))))
    return out
