"""Recordings in, int16 samples at 16 kHz out.

Invariant: a recording is read whole or not at all; a damaged, truncated or empty file is an error
that names it, never silence. Memory is bounded by the int16 result: conversion is block by block,
and :func:`blocks` keeps one block only.

SciPy reads WAV files of integers and floats. All else (MP3, Ogg, FLAC, WAV in A-law or mu-law, long
WAV files of samples that cannot be mapped into memory) is read by libsndfile, which the extra
``phone`` brings.
"""

from __future__ import annotations

import itertools
import math
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.io.wavfile
import scipy.signal
from jaxtyping import Int16

from micronets_jax.data.dataset import DataError

SAMPLE_RATE = 16_000
"""Hz, and because a clip of one word lasts one second, also its samples."""

SUFFIXES = (".wav", ".mp3", ".ogg", ".oga", ".opus", ".flac", ".m4a", ".aac")
"""Of files that are recordings; the last two are refused with what to do, not passed over."""

AAC = (".m4a", ".aac")

LOWEST_RATE, HIGHEST_RATE = 2_000, 384_000  # Hz; anything else is a damaged header

BLOCK_SECONDS = 30
"""Seconds of a recording that are converted at once."""

LONG_BYTES = 2**22
"""Of a file from which on it is not read as a whole."""

MARGIN_SECONDS = 0.05
"""Seconds beyond both ends of a block that a resampling filter may look at."""


def listed(folder: pathlib.Path) -> list[str]:
    """Names of the recordings in a folder, sorted; hidden files are none."""
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(SUFFIXES)
        and not entry.name.startswith(".")
        and entry.is_file()
    )


def read(path: pathlib.Path) -> tuple[Int16[np.ndarray, " samples"], bool]:
    """All samples of a recording, and whether they had to be converted to mono or to 16 kHz.

    Integers of 8 to 32 bits, floats (beyond full scale they are clipped) and compressed formats;
    several channels are averaged.

    Raises:
        DataError: the file is missing, damaged, cut off or empty, or its format cannot be read.
    """
    parts, converted = _opened(path)
    whole = list(parts)
    return whole[0] if len(whole) == 1 else np.concatenate(whole), converted


def blocks(path: pathlib.Path) -> Iterator[Int16[np.ndarray, " _"]]:
    """The samples that :func:`read` returns, some :data:`BLOCK_SECONDS` at a time.

    So a recording of hours can be gone through in the memory that one block takes.

    Raises:
        DataError: as :func:`read`; before the first block where that can be known.
    """
    for part in _opened(path)[0]:
        for start in range(0, len(part), BLOCK_SECONDS * SAMPLE_RATE):
            yield np.asarray(part[start : start + BLOCK_SECONDS * SAMPLE_RATE])


def lasts(path: pathlib.Path, seconds: float) -> bool:
    """Whether a recording is at least so long; no more of it is read than that takes.

    Raises:
        DataError: as :func:`read`.
    """
    missing = round(seconds * SAMPLE_RATE)
    for block in blocks(path):
        missing -= len(block)
        if missing <= 0:
            return True
    return False


def _opened(path: pathlib.Path) -> tuple[Iterator[np.ndarray], bool]:
    """A recording's samples in parts, and whether they have to be converted."""
    try:
        _refuse_cut_off(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the path of a recording") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    reason = "it is no WAV file"
    long = path.stat().st_size >= LONG_BYTES
    mapped = long and _can_be_mapped(path)
    if long and not mapped and _libsndfile():
        return _from_libsndfile(path, reason)  # SciPy would hold it whole
    if path.name.lower().endswith(".wav"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", scipy.io.wavfile.WavFileWarning)  # unknown chunks
                rate, raw = scipy.io.wavfile.read(path, mmap=mapped)
        except Exception as error:  # scipy raises many kinds on damaged headers
            reason = str(error)
            if "Unknown wave file format" not in reason:
                raise DataError(
                    f"{path} cannot be read as a WAV file ({reason}); remove it"
                ) from error
        else:
            return _from_wav(path, rate, raw)
    return _from_libsndfile(path, reason)


def _can_be_mapped(path: pathlib.Path) -> bool:
    """Whether a file says that its samples have 16 or 32 bits."""
    with open(path, "rb") as file:
        head = file.read(36)
    return head[12:16] == b"fmt " and int.from_bytes(head[34:36], "little") in (16, 32)


def _from_wav(path: pathlib.Path, rate: int, raw: np.ndarray) -> tuple[Iterator[np.ndarray], bool]:
    if len(raw) and raw.dtype == np.int16 and raw.ndim == 1 and rate == SAMPLE_RATE:
        return iter([raw]), False

    def floats() -> Iterator[np.ndarray]:
        for start in range(0, len(raw), BLOCK_SECONDS * rate):
            block = np.asarray(raw[start : start + BLOCK_SECONDS * rate])
            x = block.astype(np.float64)
            if raw.dtype.kind != "f":  # 24 bits arrive as the upper bits of 32; 8 are unsigned
                x = (x - (128 if raw.dtype == np.uint8 else 0)) / 2.0 ** (8 * raw.itemsize - 1)
            yield x.mean(axis=1) if x.ndim > 1 else x

    _require_rate(path, rate)
    return _samples(path, rate, floats()), raw.ndim > 1 or rate != SAMPLE_RATE


def _libsndfile() -> Any:
    """The module ``soundfile``, or None where it or its library is not installed."""
    try:
        import soundfile
    except (ImportError, OSError):
        return None
    return soundfile


def _from_libsndfile(path: pathlib.Path, reason: str) -> tuple[Iterator[np.ndarray], bool]:
    if path.suffix.lower() in AAC:
        raise DataError(
            f"{path} is in the format AAC, which cannot be read here; convert it, for example with "
            f"ffmpeg -i {path.name} {path.stem}.wav"
        )
    soundfile = _libsndfile()
    if soundfile is None:
        raise DataError(
            f"{path} cannot be read ({reason}): install soundfile, which the extra phone brings "
            "(pip install 'micronets_jax[phone]'), or convert it to WAV"
        )

    def unreadable(error: Any) -> DataError:
        return DataError(f"{path} cannot be read ({error.error_string}); remove it")

    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        raise unreadable(error) from error

    def floats() -> Iterator[np.ndarray]:
        with file:
            try:
                while len(block := file.read(BLOCK_SECONDS * file.samplerate, always_2d=True)):
                    yield block.mean(axis=1)
            except soundfile.LibsndfileError as error:
                raise unreadable(error) from error

    _require_rate(path, file.samplerate)
    converted = file.channels > 1 or file.samplerate != SAMPLE_RATE
    return _samples(path, file.samplerate, floats()), converted


def _require_rate(path: pathlib.Path, rate: int) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise DataError(f"{path} claims a sample rate of {rate} Hz; mend or remove it")


def _samples(
    path: pathlib.Path, rate: int, blocks: Iterator[np.ndarray]
) -> Iterator[Int16[np.ndarray, " _"]]:
    """Blocks of floats at any rate as int16 at 16 kHz."""
    count = 0
    for x in _resampled(blocks, rate):
        if not np.isfinite(x).all():
            raise DataError(f"{path} holds samples that are not numbers; mend or remove it")
        count += len(x)
        yield np.clip(np.rint(x * 32768), -32768, 32767).astype(np.int16)
    if not count:
        raise DataError(f"{path} holds no samples; record it again or remove it")


def _resampled(blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """The same signal at 16 kHz, a block at a time: what resampling it as a whole gives."""
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    common = math.gcd(rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // common, rate // common
    margin = down * math.ceil(MARGIN_SECONDS * rate / down)
    before, held = np.zeros(0), next(blocks, np.zeros(0))
    for following in itertools.chain(blocks, [None]):
        # All but the last block are a multiple of `down` long, so that outputs fall into step.
        more = np.zeros(0) if following is None else following
        whole = np.concatenate([held, more])
        cut = len(whole) if following is None else (len(held) // down) * down
        now, held = whole[:cut], whole[cut:]
        y = scipy.signal.resample_poly(np.concatenate([before, now, held[:margin]]), up, down)
        skip = len(before) * up // down
        yield y[skip : skip + math.ceil(len(now) * up / down)]
        before = np.concatenate([before, now])[-margin:] if len(now) else before


def _refuse_cut_off(path: pathlib.Path) -> None:
    # The reader would return what is left of a file that lost its end.
    with open(path, "rb") as file:
        head = file.read(8)
        present = os.fstat(file.fileno()).st_size
    if present == 0:
        raise DataError(f"{path} is an empty file; record it again or remove it")
    if head[:4] == b"RIFF":
        promised = 8 + int.from_bytes(head[4:], "little")
        if present < promised:
            raise DataError(
                f"{path} is cut off: {present} of {promised} bytes; record it again or remove it"
            )


def one_second(samples: Int16[np.ndarray, " samples"]) -> Int16[np.ndarray, " 16000"]:
    """The loudest second of a longer recording; a shorter one is followed by zeros."""
    if len(samples) <= SAMPLE_RATE:
        return np.pad(samples, (0, SAMPLE_RATE - len(samples)))
    loudest, at, step = -1, 0, BLOCK_SECONDS * SAMPLE_RATE
    # Block by block, for squares of an hour take a gigabyte.
    for first in range(0, len(samples) - SAMPLE_RATE + 1, step):
        part = samples[first : first + step + SAMPLE_RATE - 1].astype(np.int64)
        energy = np.concatenate([[0], np.cumsum(np.square(part))])
        seconds = energy[SAMPLE_RATE:] - energy[:-SAMPLE_RATE]
        best = int(np.argmax(seconds))
        if seconds[best] > loudest:
            loudest, at = int(seconds[best]), first + best
    return np.asarray(samples[at : at + SAMPLE_RATE])


def read_clip(path: str | pathlib.Path) -> Int16[np.ndarray, " 16000"]:
    """One recording as the clip a network hears: one second, 16 kHz, mono.

    Raises:
        DataError: as ``read``.
    """
    return one_second(read(pathlib.Path(path))[0])
