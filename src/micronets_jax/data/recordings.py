"""WAV files in, int16 samples at 16 kHz out.

Invariant: whatever comes back was read whole; a file that is damaged, cut off or empty is an error
that names it, never silence.
"""

from __future__ import annotations

import math
import os
import pathlib
import warnings

import numpy as np
import scipy.io.wavfile
import scipy.signal
from jaxtyping import Int16

from micronets_jax.data.dataset import DataError

SAMPLE_RATE = 16_000
"""Hz, and because a clip of one word lasts one second, also its samples."""

LOWEST_RATE, HIGHEST_RATE = 2_000, 384_000  # Hz; anything else is a damaged header


def read(path: pathlib.Path) -> tuple[Int16[np.ndarray, " samples"], bool]:
    """All samples of a recording, and whether they had to be converted to mono or to 16 kHz.

    Reads integers of 8 to 32 bits and floats (beyond full scale they are clipped).

    Raises:
        DataError: the file is missing, damaged, cut off or empty.
    """
    try:
        _refuse_cut_off(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scipy.io.wavfile.WavFileWarning)  # unknown chunks
            rate, raw = scipy.io.wavfile.read(path)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the path of a WAV file") from None
    except Exception as error:  # scipy raises many kinds on damaged headers
        raise DataError(f"{path} cannot be read as a WAV file ({error}); remove it") from error
    if raw.size == 0:
        raise DataError(f"{path} holds no samples; record it again or remove it")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise DataError(f"{path} claims a sample rate of {rate} Hz; mend or remove it")
    if raw.dtype == np.int16 and raw.ndim == 1 and rate == SAMPLE_RATE:
        return raw, False
    if raw.dtype.kind == "f":
        x = raw.astype(np.float64)
    else:  # 24 bits arrive as the upper bits of 32; 8 bits are unsigned
        x = (raw.astype(np.float64) - (128 if raw.dtype == np.uint8 else 0)) / 2.0 ** (
            8 * raw.dtype.itemsize - 1
        )
    if not np.isfinite(x).all():
        raise DataError(f"{path} holds samples that are not numbers; mend or remove it")
    converted = x.ndim > 1 or rate != SAMPLE_RATE
    if x.ndim > 1:
        x = x.mean(axis=1)
    if rate != SAMPLE_RATE:
        common = math.gcd(rate, SAMPLE_RATE)
        x = scipy.signal.resample_poly(x, SAMPLE_RATE // common, rate // common)
    return np.clip(np.rint(x * 32768), -32768, 32767).astype(np.int16), converted


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
    energy = np.cumsum(np.square(samples.astype(np.int64)))
    energy = np.concatenate([[0], energy])
    start = int(np.argmax(energy[SAMPLE_RATE:] - energy[:-SAMPLE_RATE]))
    return samples[start : start + SAMPLE_RATE]


def read_clip(path: str | pathlib.Path) -> Int16[np.ndarray, " 16000"]:
    """One recording as the clip a network hears: one second, 16 kHz, mono.

    Raises:
        DataError: as ``read``.
    """
    return one_second(read(pathlib.Path(path))[0])
