"""Near-duplicates: the same clip or picture, perhaps converted, resized or compressed again.

Invariant: a signature depends on one example alone, and whether two examples are near-duplicates on
their two signatures alone. Groups are the connected components of that relation.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from jaxtyping import Float32, Int, Int16, UInt8

Signatures = Float32[np.ndarray, "examples values"]

NEAR = "near"
"""The fact that numbers the group of near-duplicates that an example is in."""

NEAREST = 0.15
"""Root mean square distance of two signatures, each of unit variance, up to which they are
near-duplicates. Photographs resized to three quarters and compressed as JPEG of quality 50 lie
0.03 from the original (median of 400; 95 % within 0.08), clips coded as MP3 0.02 (0.07); the
nearest other photograph lies 0.25 away or more, the nearest other clip 0.23."""

FAINTEST = 6.0
"""Levels of standard deviation below which a picture has no contrast to tell it by, as sky."""

SIDE = 16
"""Rows and columns of a picture's signature."""

FRAMES, BANDS = 24, 16
"""Of a clip's signature."""

BLOCK = 1024
"""Examples that are compared with all others at once."""

MOST = 30_000
"""Examples that are compared pair by pair; larger sets are not searched."""


def of_picture(grey: UInt8[np.ndarray, "rows columns"]) -> Float32[np.ndarray, " values"]:
    """The signature of a grey picture of :data:`SIDE` rows and columns: its levels, normalised."""
    return _normalised(grey.astype(np.float32), FAINTEST)


def of_clip(samples: Int16[np.ndarray, " samples"]) -> Float32[np.ndarray, " values"]:
    """The signature of a clip: how its energy lies in time and frequency.

    Levels in decibels of frames of 42 ms about the clip's centre of energy, so that a shift by a
    coder's delay does not matter, in bands that are equally wide on a logarithmic scale from 100 Hz
    to 6.4 kHz, above a floor 40 dB below the loudest.
    """
    x = samples.astype(np.float32)
    energy = np.square(x)
    total = energy.sum()
    if total == 0:
        return np.zeros(FRAMES * BANDS, np.float32)
    centre = round(float(np.dot(energy, np.arange(len(x), dtype=np.float32)) / total))
    length = FRAMES * 672
    padded = np.pad(x, length // 2)[centre : centre + length]
    frames = padded.reshape(FRAMES, 672) * np.hanning(672).astype(np.float32)
    power = np.square(np.abs(np.asarray(scipy.fft.rfft(frames, 1024, axis=1))))
    edges = np.round(np.geomspace(100, 6400, BANDS + 1) * 1024 / 16_000).astype(int)
    bands = np.add.reduceat(power, edges[:-1], axis=1)
    bands[:, -1] = power[:, edges[-2] : edges[-1]].sum(axis=1)
    levels = 10 * np.log10(np.maximum(bands, bands.max() * 1e-4))
    return _normalised(levels.astype(np.float32), 1e-3)


def _normalised(values: np.ndarray, faintest: float) -> Float32[np.ndarray, " values"]:
    """Of mean 0 and variance 1, or zeros where the deviation is below ``faintest``."""
    flat = values.reshape(-1) - values.mean()
    deviation = float(flat.std())
    return (flat / deviation if deviation >= faintest else flat * 0).astype(np.float32)


def groups(signatures: Signatures) -> Int[np.ndarray, " examples"]:
    """For each example the number of its group: the position of the group's first example.

    Examples without contrast (silence, a blank picture) are in groups of their own.
    """
    parent = np.arange(len(signatures))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for i, j in _pairs(signatures):
        first, second = sorted((root(i), root(j)))
        parent[second] = first
    return np.array([root(i) for i in range(len(signatures))], int)


def _pairs(signatures: Signatures) -> list[tuple[int, int]]:
    """Positions of near-duplicates, the first below the second."""
    contrast = np.flatnonzero(np.any(signatures != 0, axis=1))
    rows = signatures[contrast]
    # Of vectors of unit variance the squared distance is 2 - 2 times their correlation.
    least = 1 - NEAREST**2 / 2
    found = []
    for at in range(0, len(rows), BLOCK):
        correlation = rows[at : at + BLOCK] @ rows[at:].T / rows.shape[1]
        near, other = np.nonzero(correlation > least)
        found += [
            (int(contrast[at + a]), int(contrast[at + b]))
            for a, b in zip(near.tolist(), other.tolist(), strict=True)
            if a < b
        ]
    return found
