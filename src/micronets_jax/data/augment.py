"""Changes to training examples that keep what they are: one frozen record for each kind of data.

Invariant: everything takes its key first, works on a whole batch inside ``jit``, and gives each
example its own draw.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int16, Key, Shaped

from micronets_jax.data.dataset import Dataset
from micronets_jax.data.frontends import FrontEnd
from micronets_jax.data.recordings import SAMPLE_RATE


@runtime_checkable
class Augmentation(Protocol):
    """A frozen record of strengths that is a pure function."""

    def __call__(
        self,
        key: Key[Array, ""],
        dataset: Dataset,
        frontend: FrontEnd,
        raw: Shaped[Array, "batch ..."],
        labels: Int[Array, " batch"],
    ) -> tuple[Float[Array, "batch rows columns channels"], Shaped[Array, "batch ..."]]:
        """Features of changed examples, and their targets: classes, or [batch, classes] shares."""
        ...


@dataclasses.dataclass(frozen=True)
class SpeechAugmentation:
    """Time shift, background noise and SpecAugment for clips. Zero switches a change off.

    Attributes:
        shift_ms: a clip moves by up to this much either way.
        noise_probability: share of clips that get background noise.
        noise_volume: largest factor on the recorded noise.
        time_masks, time_mask_frames: how many stretches are hidden, and the longest one.
        frequency_masks, frequency_mask_bins: the same along the coefficients.
    """

    shift_ms: float = 100.0
    noise_probability: float = 0.8
    noise_volume: float = 0.1
    time_masks: int = 1
    time_mask_frames: int = 6
    frequency_masks: int = 1
    frequency_mask_bins: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name}={getattr(self, field.name)}: give 0 or more")
        if self.noise_probability > 1:
            raise ValueError(f"noise_probability={self.noise_probability}: give 0 to 1")
        if self.shift_ms > 1000:
            raise ValueError(f"shift_ms={self.shift_ms}: a clip lasts 1000 ms; give less")

    def __call__(
        self,
        key: Key[Array, ""],
        dataset: Dataset,
        frontend: FrontEnd,
        raw: Int16[Array, "batch samples"],
        labels: Int[Array, " batch"],
    ) -> tuple[Float[Array, "batch frames bins 1"], Int[Array, " batch"]]:
        """Features of shifted, noisy clips, partly hidden; the labels as they came."""
        wave_key, feature_key = jax.random.split(key)
        waves = waveforms(wave_key, self, raw, jnp.asarray(dataset.extras["noise"]))
        return features(feature_key, self, frontend(waves)), labels


@dataclasses.dataclass(frozen=True)
class ImageAugmentation:
    """Mirror image, shift, brightness and contrast for pictures. Zero switches a change off.

    Attributes:
        mirror: whether half of the pictures are turned left to right.
        shift: a picture moves by up to this share of its sides; its edges are repeated.
        brightness: added to all pixels, up to this much either way, of the range from -1 to 1.
        contrast: pixels are multiplied by up to 1 plus this, or divided by it.
    """

    mirror: bool = True
    shift: float = 0.1
    brightness: float = 0.2
    contrast: float = 0.2

    def __post_init__(self) -> None:
        for name in ("shift", "brightness", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: give 0 to 1")

    def __call__(
        self,
        key: Key[Array, ""],
        dataset: Dataset,
        frontend: FrontEnd,
        raw: Shaped[Array, "batch rows columns channels"],
        labels: Int[Array, " batch"],
    ) -> tuple[Float[Array, "batch rows columns channels"], Int[Array, " batch"]]:
        """Features of changed pictures; the labels as they came."""
        turn, move, light, spread = jax.random.split(key, 4)
        x = frontend(raw)
        each = (len(x), 1, 1, 1)
        if self.mirror:
            x = jnp.where(jax.random.bernoulli(turn, 0.5, each), x[:, :, ::-1], x)
        x = moved(move, x, self.shift)
        added = self.brightness * jax.random.uniform(light, each, minval=-1.0)
        factor = (1 + self.contrast) ** jax.random.uniform(spread, each, minval=-1.0)
        return jnp.clip(x * factor + added, -1, 1), labels


@dataclasses.dataclass(frozen=True)
class Mixup:
    """Blends of two examples and of their labels (Zhang et al., 2018).

    Attributes:
        alpha: of the Beta distribution of shares: 0 blends nothing, 1 draws every share alike.
    """

    alpha: float = 0.3

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ValueError(f"alpha={self.alpha}: give 0 or more")

    def __call__(
        self,
        key: Key[Array, ""],
        dataset: Dataset,
        frontend: FrontEnd,
        raw: Shaped[Array, "batch ..."],
        labels: Int[Array, " batch"],
    ) -> tuple[Float[Array, "batch rows columns channels"], Float[Array, "batch classes"]]:
        """Blended features and the share of each class in them, of its own at least a half."""
        x, shares = frontend(raw), jax.nn.one_hot(labels, dataset.num_classes)
        if self.alpha == 0:
            return x, shares
        share_key, partner_key = jax.random.split(key)
        share = jax.random.beta(share_key, self.alpha, self.alpha, labels.shape)
        share = jnp.maximum(share, 1 - share)
        partner = jax.random.permutation(partner_key, len(labels))

        def blend(a: Array) -> Array:
            part = share.reshape(-1, *[1] * (a.ndim - 1))
            return part * a + (1 - part) * a[partner]

        return blend(x), blend(shares)


def waveforms(
    key: Key[Array, ""],
    settings: SpeechAugmentation,
    clips: Int16[Array, "batch samples"],
    noise: Int16[Array, "recordings length"],
) -> Float[Array, "batch samples"]:
    """Shifted and noisy clips, as floats in [-1, 1)."""
    shift_key, noise_key = jax.random.split(key)
    x = clips.astype(jnp.float32) / 32768
    shifted = shift(shift_key, x, round(settings.shift_ms * SAMPLE_RATE / 1000))
    return add_noise(noise_key, shifted, noise, settings.noise_probability, settings.noise_volume)


def features(
    key: Key[Array, ""], settings: SpeechAugmentation, x: Float[Array, "batch frames bins 1"]
) -> Float[Array, "batch frames bins 1"]:
    """Features with some frames and some coefficients hidden."""
    time_key, frequency_key = jax.random.split(key)
    batch, frames, bins, _ = x.shape
    rows = _stretches(time_key, (batch, frames), settings.time_masks, settings.time_mask_frames)
    columns = _stretches(
        frequency_key, (batch, bins), settings.frequency_masks, settings.frequency_mask_bins
    )
    hidden = (rows[:, :, None] | columns[:, None, :])[..., None]
    # SpecAugment (Park et al., 2019) hides with the mean of normalised features, which is zero.
    return jnp.where(hidden, jnp.mean(x, axis=1, keepdims=True), x)


def moved(
    key: Key[Array, ""], x: Float[Array, "batch rows columns channels"], share: float
) -> Float[Array, "batch rows columns channels"]:
    """Each picture up or down, left or right, by up to this share of its sides; edges repeat."""
    most = [round(share * side) for side in x.shape[1:3]]
    if not any(most):
        return x
    row_key, column_key = jax.random.split(key)
    padded = jnp.pad(x, ((0, 0), *((n, n) for n in most), (0, 0)), mode="edge")
    starts = [
        jax.random.randint(k, (len(x),), 0, 2 * n + 1)
        for k, n in zip((row_key, column_key), most, strict=True)
    ]
    return jax.vmap(lambda one, i, j: jax.lax.dynamic_slice(one, (i, j, 0), x.shape[1:]))(
        padded, *starts
    )


def shift(
    key: Key[Array, ""], x: Float[Array, "batch samples"], largest: int
) -> Float[Array, "batch samples"]:
    """Each clip earlier or later by up to ``largest`` samples; silence moves in."""
    if largest == 0:
        return x
    starts = jax.random.randint(key, x.shape[:1], 0, 2 * largest + 1)
    padded = jnp.pad(x, ((0, 0), (largest, largest)))
    return jax.vmap(lambda row, start: jax.lax.dynamic_slice(row, (start,), x.shape[1:]))(
        padded, starts
    )


def add_noise(
    key: Key[Array, ""],
    x: Float[Array, "batch samples"],
    noise: Shaped[Array, "recordings length"],
    probability: float,
    volume: float,
) -> Float[Array, "batch samples"]:
    """With a probability, adds a random stretch of int16 noise times a factor in [0, volume)."""
    if probability == 0 or volume == 0:
        return x
    batch, samples = x.shape
    which, place, loud, chance = jax.random.split(key, 4)
    rows = jax.random.randint(which, (batch,), 0, noise.shape[0])
    starts = jax.random.randint(place, (batch,), 0, noise.shape[1] - samples + 1)
    stretches = jax.vmap(
        lambda row, start: jax.lax.dynamic_slice(noise, (row, start), (1, samples))[0]
    )(rows, starts)
    factor = volume * jax.random.uniform(loud, (batch, 1))
    factor *= jax.random.bernoulli(chance, probability, (batch, 1))
    return x + factor * stretches.astype(x.dtype) / 32768


def _stretches(key: Key[Array, ""], shape: tuple[int, int], count: int, longest: int) -> Array:
    """True on ``count`` random stretches of 0 to ``longest`` places in each row."""
    batch, places = shape
    longest = min(longest, places)
    length_key, start_key = jax.random.split(key)
    length = jax.random.randint(length_key, (batch, count, 1), 0, longest + 1)
    start = jax.random.uniform(start_key, (batch, count, 1)) * (places - length + 1)
    start = jnp.floor(start).astype(jnp.int32)
    place = jnp.arange(places)
    return jnp.any((place >= start) & (place < start + length), axis=1)
