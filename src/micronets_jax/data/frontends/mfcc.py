"""Mel-frequency cepstral coefficients of one second of speech.

Invariant: features are the same on every platform up to float32 rounding. Source: the front end of
the published MicroNets (Banbury et al., 2021), after TensorFlow's signal library.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int16, Shaped

from micronets_jax.data import recordings
from micronets_jax.data.frontends.registry import register


@register("mfcc")
@dataclasses.dataclass(frozen=True)
class MFCC:
    """Mel-frequency cepstral coefficients of Hann-windowed frames.

    The defaults are the front end of the published MicroNets keyword spotters: 49 frames of 10
    coefficients. Magnitudes (not powers) are summed by triangles in HTK mel, not normalised; then
    natural log, then the orthonormal DCT-II (its first factor not halved, ``sqrt(2 / mels)``).

    Attributes:
        sample_rate: Hz.
        num_samples: samples of one clip; longer or shorter clips are refused.
        frame_length: samples under one window, even.
        hop_length: samples from one frame to the next.
        fft_length: a frame is padded with zeros to this many samples.
        num_mels: triangles.
        low_hz, high_hz: ends of the lowest and of the highest triangle.
        log_floor: smallest magnitude sum, so that digital silence has a logarithm.
        num_coefficients: cepstral coefficients kept.
    """

    sample_rate: int = 16_000
    num_samples: int = 16_000
    frame_length: int = 640
    hop_length: int = 320
    fft_length: int = 1024
    num_mels: int = 40
    low_hz: float = 20.0
    high_hz: float = 4000.0
    log_floor: float = 1e-6
    num_coefficients: int = 10

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                value = getattr(self, field.name)
                raise ValueError(f"{field.name}={value}: every number of a front end is above 0")
        if self.frame_length % 2 or self.frame_length > min(self.fft_length, self.num_samples):
            raise ValueError(
                f"frame_length={self.frame_length} must be even and at most fft_length="
                f"{self.fft_length} and num_samples={self.num_samples}"
            )
        if not self.low_hz < self.high_hz <= self.sample_rate / 2:
            raise ValueError(
                f"low_hz={self.low_hz}, high_hz={self.high_hz}: give low < high <= "
                f"{self.sample_rate / 2:g} Hz, half the sample rate"
            )
        if self.num_coefficients > self.num_mels:
            raise ValueError(
                f"num_coefficients={self.num_coefficients} is more than num_mels={self.num_mels}"
            )

    @property
    def num_frames(self) -> int:
        """Whole frames in a clip."""
        return 1 + (self.num_samples - self.frame_length) // self.hop_length

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows (frames), columns (coefficients), channels (1) of one clip's features."""
        return self.num_frames, self.num_coefficients, 1

    def read(self, path: pathlib.Path) -> Int16[np.ndarray, "1 samples"]:
        """The one clip of a recording: its loudest second.

        Raises:
            DataError: the recording cannot be read.
        """
        return recordings.read_clip(path)[None]

    def __call__(
        self, waveform: Shaped[Array | np.ndarray, "*batch samples"]
    ) -> Float[Array, "*batch frames coefficients 1"]:
        """Features of clips, given as floats in [-1, 1) or as int16.

        Raises:
            ValueError: the clips do not have ``num_samples`` samples.
        """
        return self.cepstrum(self.mel(waveform))

    def mel(
        self,
        waveform: Shaped[Array | np.ndarray, "*batch samples"],
        warp: Float[Array, "*batch"] | None = None,
    ) -> Float[Array, "*batch frames mels"]:
        """Magnitudes of frames, summed by the triangles.

        Args:
            waveform: as of a call.
            warp: what every frequency of a clip is multiplied by first, in (0.5, 1.4). Above 0.7
                times the highest frequency the factor goes back to 1 at its end, so that the band
                stays the band (Jaitly and Hinton, "Vocal Tract Length Perturbation", 2013).

        Raises:
            ValueError: the clips do not have ``num_samples`` samples.
        """
        tables = _tables(self)
        spectrum = self._spectrum(waveform, tables)
        if warp is None:
            return _product(spectrum, tables.mel)
        knee, factor = 0.7 * self.high_hz, warp[..., None]
        slope = (self.high_hz - knee * factor) / (self.high_hz - knee)
        moved = jnp.where(
            tables.hz < knee,
            tables.hz * factor,
            self.high_hz - (self.high_hz - tables.hz) * slope,
        )
        return _product(
            spectrum, _triangles(jnp, moved[..., None], self.num_mels, self.low_hz, self.high_hz)
        )

    def cepstrum(
        self, mel: Float[Array, "*batch frames mels"]
    ) -> Float[Array, "*batch frames coefficients 1"]:
        """What a call gives, from magnitudes summed by triangles."""
        log_mel = jnp.log(jnp.maximum(mel, self.log_floor))
        return _product(log_mel, _tables(self).dct)[..., None]

    def _spectrum(self, waveform: Array | np.ndarray, tables: _Tables) -> Array:
        """Magnitudes [*batch, frames, bins] at the bins that any triangle reaches."""
        if waveform.shape[-1] != self.num_samples:
            raise ValueError(
                f"waveform of shape {waveform.shape}: the front end reads clips of "
                f"{self.num_samples} samples"
            )
        x = jnp.asarray(waveform)
        x = x.astype(jnp.float32) / (32768 if jnp.issubdtype(x.dtype, jnp.integer) else 1)
        # A periodic Hann window is even about the middle of its frame, and a magnitude does not
        # depend on where time starts: seen from the middle, the cosine transform needs only the
        # even half of a frame and the sine transform only the odd half. These two products, over
        # the bins that any triangle reaches, take 0.6 to 0.9 of an FFT's time on a CPU.
        half = self.frame_length // 2
        if self.frame_length == 2 * self.hop_length:
            hops = x[..., : (self.num_frames + 1) * half]
            hops = hops.reshape(*x.shape[:-1], self.num_frames + 1, half)
            before, after = hops[..., :-1, :], hops[..., 1:, :]
        else:
            starts = self.hop_length * np.arange(self.num_frames)[:, None]
            frames = x[..., starts + np.arange(self.frame_length)]
            before, after = frames[..., :half], frames[..., half:]
        # Mirrored, the first half begins one sample late; its own first sample has window 0.
        mirrored = jnp.roll(before[..., ::-1], 1, axis=-1).at[..., 0].set(0)
        return jnp.sqrt(
            jnp.square(_product(after + mirrored, tables.cosine))
            + jnp.square(_product(after - mirrored, tables.sine))
        )


def _product(x: Array, table: Array | np.ndarray) -> Array:
    # Accelerators would round the factors to bfloat16; features are the same on every platform.
    return jnp.matmul(x, table, precision=lax.Precision.HIGHEST)


class _Tables(NamedTuple):
    """Windowed cosines and sines [half frame, bins], the bins' frequencies, triangles [bins, mels],
    DCT [mels, kept]."""

    cosine: np.ndarray
    sine: np.ndarray
    hz: np.ndarray
    mel: np.ndarray
    dct: np.ndarray


@functools.lru_cache(maxsize=8)
def _tables(frontend: MFCC) -> _Tables:
    triangles = mel_triangles(
        frontend.num_mels,
        frontend.fft_length,
        frontend.sample_rate,
        frontend.low_hz,
        frontend.high_hz,
    )
    bins = np.flatnonzero(triangles.any(axis=1))
    offset = np.arange(frontend.frame_length // 2)[:, None]
    window = 0.5 + 0.5 * np.cos(2 * np.pi * offset / frontend.frame_length)
    angle = 2 * np.pi / frontend.fft_length * offset * bins
    mel = np.arange(frontend.num_mels)[:, None] + 0.5
    order = np.arange(frontend.num_coefficients)
    dct = np.sqrt(2 / frontend.num_mels) * np.cos(np.pi / frontend.num_mels * mel * order)
    return _Tables(
        (window * np.cos(angle)).astype(np.float32),
        (window * np.sin(angle)).astype(np.float32),
        (bins * frontend.sample_rate / frontend.fft_length).astype(np.float32),
        triangles[bins].astype(np.float32),
        dct.astype(np.float32),
    )


def mel_triangles(
    num_mels: int, fft_length: int, sample_rate: int, low_hz: float, high_hz: float
) -> Float[np.ndarray, "bins mels"]:
    """Weights of FFT bins in triangles equally wide in HTK mel, ``2595 log10(1 + f / 700)``.

    Neighbours meet at half height *in mel*, the convention of TensorFlow's signal library.

    Args:
        num_mels: triangles.
        fft_length: samples of the transform.
        sample_rate: Hz.
        low_hz: lower end of the lowest triangle.
        high_hz: upper end of the highest triangle.
    """
    hz = np.arange(fft_length // 2 + 1)[:, None] * sample_rate / fft_length
    triangles = _triangles(np, hz, num_mels, low_hz, high_hz)
    triangles[0] = 0  # a constant offset of the recording is no sound
    return triangles


def _triangles(xp: Any, hz: Any, num_mels: int, low_hz: float, high_hz: float) -> Any:
    """Weights of frequencies [..., 1] in the triangles, by NumPy or JAX: [..., mels]."""

    def to_mel(hz: Any, xp: Any = np) -> Any:
        return 2595 * xp.log10(1 + hz / 700)

    edges = np.linspace(to_mel(low_hz), to_mel(high_hz), num_mels + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    mel = to_mel(hz, xp)
    return xp.maximum(xp.minimum((mel - low) / (centre - low), (high - mel) / (high - centre)), 0)
