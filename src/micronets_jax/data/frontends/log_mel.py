"""Patches of a log-mel spectrogram of a recording.

Invariant: a patch depends on the samples under it alone. Source: the front end of the published
MicroNets for anomaly detection (Banbury et al., 2021).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped

from micronets_jax.data import recordings
from micronets_jax.data.dataset import DataError
from micronets_jax.data.frontends.registry import register

_FLOOR = 1e-10  # smallest power, so that digital silence has a logarithm


@register("log_mel_patches")
@dataclasses.dataclass(frozen=True)
class LogMelPatches:
    """Patches [mel, time] of the spectrogram in dB, thinned out, less a mean.

    The defaults are the front end of the published MicroNets for anomaly detection: 64 x 64
    patches, one every 20 frames, of which every second row and column is kept. Powers of
    Hann-windowed frames are summed by triangles equally wide in Slaney's mel, each of unit area
    over Hz (``slaney_triangles``).

    Attributes:
        sample_rate: Hz.
        frame_length, hop_length: samples under one window, and from one frame to the next.
        num_mels: bands from ``low_hz`` to ``high_hz``.
        num_frames: of one patch.
        patch_hop: frames from one patch to the next.
        thinning: every which row and column is kept.
        mean_db: subtracted at every step.
    """

    sample_rate: int = 16_000
    frame_length: int = 1024
    hop_length: int = 512
    num_mels: int = 64
    low_hz: float = 0.0
    high_hz: float = 8000.0
    num_frames: int = 64
    patch_hop: int = 20
    thinning: int = 2
    mean_db: float = -30.0

    def __post_init__(self) -> None:
        for name in ("frame_length", "hop_length", "num_mels", "num_frames", "patch_hop"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1")
        if not 0 <= self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise ValueError(
                f"low_hz={self.low_hz}, high_hz={self.high_hz}: give 0 <= low < high <= "
                f"{self.sample_rate / 2:g} Hz, half the sample rate"
            )
        if not 1 <= self.thinning <= min(self.num_mels, self.num_frames):
            raise ValueError(f"thinning={self.thinning}: give at least 1, at most a patch's side")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows (mel), columns (time), channels (1) of one patch."""
        return (
            math.ceil(self.num_mels / self.thinning),
            math.ceil(self.num_frames / self.thinning),
            1,
        )

    @property
    def num_samples(self) -> int:
        """Samples under one patch."""
        return self.frame_length + (self.num_frames - 1) * self.hop_length

    def read(self, path: pathlib.Path) -> Float32[np.ndarray, "patches mel time 1"]:
        """All patches of a recording.

        Raises:
            DataError: the recording cannot be read, or is shorter than a patch.
        """
        return self.read_converted(path)[0]

    def read_converted(
        self, path: pathlib.Path
    ) -> tuple[Float32[np.ndarray, "patches mel time 1"], bool]:
        """As ``read``, and whether the recording had to be converted to mono or to 16 kHz."""
        samples, converted = recordings.read(path)
        if len(samples) < self.num_samples:
            raise DataError(
                f"{path} lasts {len(samples) / self.sample_rate:.2f} s, less than a patch of "
                f"{self.num_samples / self.sample_rate:.2f} s; record longer or remove it"
            )
        return self.patches(samples), converted

    def patches(
        self, waveform: Shaped[np.ndarray, " samples"]
    ) -> Float32[np.ndarray, "patches mel time 1"]:
        """All patches of a waveform, given as int16 or as floats in [-1, 1), in dB.

        Raises:
            ValueError: the waveform is shorter than a patch.
        """
        if len(waveform) < self.num_samples:
            raise ValueError(
                f"waveform of {len(waveform)} samples: a patch needs {self.num_samples}"
            )
        scale = 32768 if np.issubdtype(waveform.dtype, np.integer) else 1
        x = waveform.astype(np.float32) / np.float32(scale)
        frames = np.lib.stride_tricks.sliding_window_view(x, self.frame_length)[:: self.hop_length]
        window, triangles = _tables(self)
        spectrum = np.fft.rfft(frames * window)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        db = 10 * np.log10(np.maximum(power @ triangles, _FLOOR))
        starts = range(0, len(db) - self.num_frames + 1, self.patch_hop)
        step = self.thinning
        return np.stack(
            [db[s : s + self.num_frames : step, ::step].T[..., None] for s in starts]
        ).astype(np.float32)

    def __call__(
        self, patches: Shaped[Array | np.ndarray, "batch mel time 1"], /
    ) -> Float[Array, "batch mel time 1"]:
        """Patches in dB above the training mean."""
        return jnp.asarray(patches, jnp.float32) - self.mean_db


@functools.lru_cache(maxsize=8)
def _tables(frontend: LogMelPatches) -> tuple[np.ndarray, np.ndarray]:
    """Window [frame] and triangles [bins, mels]."""
    n = np.arange(frontend.frame_length)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / frontend.frame_length)
    triangles = slaney_triangles(
        frontend.num_mels,
        frontend.frame_length,
        frontend.sample_rate,
        frontend.low_hz,
        frontend.high_hz,
    )
    return window.astype(np.float32), triangles.astype(np.float32)


def slaney_triangles(
    num_mels: int, fft_length: int, sample_rate: int, low_hz: float, high_hz: float
) -> Float[np.ndarray, "bins mels"]:
    """Weights of FFT bins in triangles of unit area over Hz, equally wide in Slaney's mel.

    That scale has 15 mel per 1000 Hz up to 1000 Hz, above it 27 mel per factor 6.4 (Slaney,
    "Auditory Toolbox", 1998). Neighbours meet at half height in Hz.

    Args:
        num_mels: triangles.
        fft_length: samples of the transform.
        sample_rate: Hz.
        low_hz: lower end of the lowest triangle.
        high_hz: upper end of the highest triangle.
    """
    ends = [
        hz * 0.015 if hz < 1000 else 15 + 27 * math.log(hz / 1000, 6.4) for hz in (low_hz, high_hz)
    ]
    mel = np.linspace(ends[0], ends[1], num_mels + 2)
    edges = np.where(mel < 15, mel / 0.015, 1000 * 6.4 ** ((mel - 15) / 27))
    hz = (np.arange(fft_length // 2 + 1) * sample_rate / fft_length)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre))
    return np.maximum(triangles, 0) * 2 / (high - low)
