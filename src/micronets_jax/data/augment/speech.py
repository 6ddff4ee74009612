"""Augmentation of speech: of the waveform, then of its mel spectrum before the cosine transform.

Invariant: a strength of 0 leaves clips as they are. Sources: Jaitly and Hinton (2013) for vocal
tract length, Park et al. (2019) for masks, Polack (1988) for rooms, Zhang et al. (2018) for mixup.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int16, Key, Shaped

from micronets_jax import recipes
from micronets_jax.data.augment.base import either_way
from micronets_jax.data.augment.blends import blended, shares
from micronets_jax.data.dataset import Dataset
from micronets_jax.data.frontends import MFCC, FrontEnd
from micronets_jax.data.recordings import SAMPLE_RATE

_QUIETEST = 1e-4  # root mean square of a clip below which noise is not scaled down further
_SOFTEST = 1e-6  # added to a magnitude, so that digital silence has a logarithm
_COLOUR_WAVES = 3  # half a wave, a whole one, and one and a half along the mel axis


@dataclasses.dataclass(frozen=True)
class Speech:
    """Shift, speed, loudness, background noise, vocal tract length, reverberation, frequency
    response, SpecAugment's masks, then mixup."""

    settings: recipes.SpeechAugmentation = recipes.SpeechAugmentation()

    def __call__(
        self,
        key: Key[Array, ""],
        dataset: Dataset,
        frontend: FrontEnd,
        raw: Int16[Array, "batch samples"],
        labels: Shaped[Array, "batch ..."],
    ) -> tuple[Float[Array, "batch frames bins 1"], Shaped[Array, "batch ..."]]:
        """Features of changed clips; the labels, or the share of each class in a blend."""
        assert isinstance(frontend, MFCC)  # nothing else reads waveforms
        how = self.settings
        wave_key, warp_key, mel_key, blend_key = jax.random.split(key, 4)
        waves = waveforms(wave_key, how, raw, jnp.asarray(dataset.extras["noise"]))
        warp = 1 + either_way(warp_key, how.warp, labels.shape[:1]) if how.warp else None
        hop_s = frontend.hop_length / frontend.sample_rate
        x = frontend.cepstrum(spectra(mel_key, how, frontend.mel(waves, warp), hop_s))
        if not how.mixup:
            return x, labels
        return blended(blend_key, how.mixup, x, shares(dataset, labels, how.mixup))


def waveforms(
    key: Key[Array, ""],
    how: recipes.SpeechAugmentation,
    clips: Int16[Array, "batch samples"],
    noise: Int16[Array, "recordings length"],
) -> Float[Array, "batch samples"]:
    """Clips shifted, resampled, scaled, with noise added.

    Args:
        key: of the draws.
        how: strengths.
        clips: of speech.
        noise: background recordings.

    Returns:
        float32 [batch, samples], full scale 1, which loud and noisy clips exceed.
    """
    move_key, loud_key, noise_key = jax.random.split(key, 3)
    x = clips.astype(jnp.float32) / 32768
    largest = round(how.shift_ms * SAMPLE_RATE / 1000)
    x = resampled(move_key, x, largest, how.speed) if how.speed else shift(move_key, x, largest)
    if how.loudness_db:
        x = x * 10 ** (either_way(loud_key, how.loudness_db / 20, (len(x), 1)))
    if how.noise == 0:
        return x
    if how.noise_volume:
        return add_noise(noise_key, x, noise, how.noise, how.noise_volume)
    return add_noise_at(noise_key, x, noise, how.noise, how.snr_db)


def spectra(
    key: Key[Array, ""],
    how: recipes.SpeechAugmentation,
    mel: Float[Array, "batch frames mels"],
    hop_s: float,
) -> Float[Array, "batch frames mels"]:
    """Mel magnitudes with reverberation, a random frequency response, and time and mel masks.

    Args:
        key: of the draws.
        how: strengths.
        mel: magnitudes.
        hop_s: seconds from one frame to the next.

    Returns:
        Magnitudes [batch, frames, mels] in the unit of ``mel``.
    """
    room_key, colour_key, time_key, mel_key = jax.random.split(key, 4)
    batch, frames, mels = mel.shape
    if how.room_s:
        mel = in_room(room_key, mel, how.room_s, hop_s)
    if how.colour_db:
        wave = jnp.pi * jnp.outer(jnp.arange(1, _COLOUR_WAVES + 1), (jnp.arange(mels) + 0.5) / mels)
        db = how.colour_db * jax.random.normal(colour_key, (batch, _COLOUR_WAVES)) @ jnp.cos(wave)
        mel = mel * 10 ** (db / 20)[:, None]
    if not how.time_masks and not how.mel_masks:
        return mel
    rows = stretches(time_key, (batch, frames), how.time_masks, how.time_mask_frames)
    columns = stretches(mel_key, (batch, mels), how.mel_masks, how.mel_mask_bands)
    # SpecAugment (Park et al., 2019) hides with the mean of normalised features, which is zero.
    mean = jnp.exp(jnp.mean(jnp.log(mel + _SOFTEST), axis=1, keepdims=True))
    return jnp.where(rows[:, :, None] | columns[:, None, :], mean, mel)


def shift(
    key: Key[Array, ""], x: Float[Array, "batch samples"], largest: int
) -> Float[Array, "batch samples"]:
    """Each clip earlier or later by up to ``largest`` samples, filled with zeros."""
    if largest == 0:
        return x
    starts = jax.random.randint(key, x.shape[:1], 0, 2 * largest + 1)
    padded = jnp.pad(x, ((0, 0), (largest, largest)))
    return jax.vmap(lambda row, start: jax.lax.dynamic_slice(row, (start,), x.shape[1:]))(
        padded, starts
    )


def resampled(
    key: Key[Array, ""], x: Float[Array, "batch samples"], largest: int, speed: float
) -> Float[Array, "batch samples"]:
    """Each clip at a speed of its own, changed by up to a factor of 1 + ``speed`` either way about
    its middle, and shifted by up to ``largest`` samples; linear interpolation.

    Args:
        key: of the draws.
        x: clips.
        largest: samples that a clip moves at most.
        speed: largest relative change of speed.

    Returns:
        Clips [batch, samples] in the unit of ``x``, 0 before they begin and after they end.
    """
    speed_key, shift_key = jax.random.split(key)
    batch, samples = x.shape
    middle = (samples - 1) / 2
    rate = (1 + speed) ** either_way(speed_key, 1.0, (batch, 1))
    start = middle + either_way(shift_key, float(largest), (batch, 1))
    place = start + (jnp.arange(samples) - middle) * rate
    before = jnp.floor(place)
    part = place - before
    padded = jnp.pad(x, ((0, 0), (1, 2)))  # a zero before the first sample, two after the last
    index = jnp.clip(before.astype(jnp.int32) + 1, 0, samples + 1)
    take = jax.vmap(lambda row, i: row[i])
    return take(padded, index) * (1 - part) + take(padded, index + 1) * part


def add_noise(
    key: Key[Array, ""],
    x: Float[Array, "batch samples"],
    noise: Shaped[Array, "recordings length"],
    probability: float,
    volume: float,
) -> Float[Array, "batch samples"]:
    """With a probability, adds a random stretch of int16 noise times a factor in [0, volume).

    Args:
        key: of the draws.
        x: clips.
        noise: background recordings.
        probability: that a clip gets noise.
        volume: largest factor on the noise.

    Returns:
        Clips [batch, samples] in the unit of ``x``, where noise has full scale 1.
    """
    stretch_key, loud, chance = jax.random.split(key, 3)
    factor = volume * jax.random.uniform(loud, (len(x), 1))
    factor *= jax.random.bernoulli(chance, probability, (len(x), 1))
    return x + factor * _cuttings(stretch_key, x, noise)


def add_noise_at(
    key: Key[Array, ""],
    x: Float[Array, "batch samples"],
    noise: Shaped[Array, "recordings length"],
    probability: float,
    snr_db: tuple[float, float],
) -> Float[Array, "batch samples"]:
    """With a probability, adds a random stretch of int16 noise at a drawn signal-to-noise ratio.

    Args:
        key: of the draws.
        x: clips.
        noise: background recordings.
        probability: that a clip gets noise.
        snr_db: least and greatest ratio of powers, in dB; uniform between.

    Returns:
        Clips [batch, samples] in the unit of ``x``.
    """
    stretch_key, ratio_key, chance = jax.random.split(key, 3)
    added = _cuttings(stretch_key, x, noise)
    ratio = jax.random.uniform(ratio_key, (len(x), 1), minval=snr_db[0], maxval=snr_db[1])
    level, loud = (jnp.sqrt(jnp.mean(a**2, axis=1, keepdims=True)) for a in (x, added))
    factor = jnp.maximum(level, _QUIETEST) / jnp.maximum(loud, _QUIETEST) * 10 ** (-ratio / 20)
    return x + factor * jax.random.bernoulli(chance, probability, (len(x), 1)) * added


def in_room(
    key: Key[Array, ""], mel: Float[Array, "batch frames mels"], longest_s: float, hop_s: float
) -> Float[Array, "batch frames mels"]:
    """Mel magnitudes with reverberation: exponentially decaying energy of earlier frames.

    A room's late response is noise whose energy falls by 60 dB in the reverberation time (Polack,
    1988), drawn up to ``longest_s``; its energy in all is drawn up to that of the direct sound.

    Args:
        key: of the draws.
        mel: magnitudes.
        longest_s: largest reverberation time (to -60 dB), seconds.
        hop_s: seconds from one frame to the next.

    Returns:
        Magnitudes [batch, frames, mels] in the unit of ``mel``.
    """
    time_key, share_key = jax.random.split(key)
    batch, frames, _ = mel.shape
    seconds = longest_s * jax.random.uniform(time_key, (batch, 1, 1), minval=0.05)
    share = jax.random.uniform(share_key, (batch, 1, 1))
    ago = jnp.arange(frames)[:, None] - jnp.arange(frames)
    falling = jnp.where(ago > 0, jnp.exp(-6 * math.log(10) * hop_s * ago / seconds), 0.0)
    rest = jnp.exp(-6 * math.log(10) * hop_s / seconds)
    kept = jnp.eye(frames) + share * (1 - rest) / rest * falling
    return jnp.sqrt(kept @ mel**2)


def _cuttings(
    key: Key[Array, ""],
    x: Float[Array, "batch samples"],
    noise: Shaped[Array, "recordings length"],
) -> Float[Array, "batch samples"]:
    """A random stretch of one of the recordings, of [-1, 1), for each of the clips ``x``."""
    batch, samples = x.shape
    which, place = jax.random.split(key)
    rows = jax.random.randint(which, (batch,), 0, noise.shape[0])
    starts = jax.random.randint(place, (batch,), 0, noise.shape[1] - samples + 1)
    cut = jax.vmap(lambda row, start: jax.lax.dynamic_slice(noise, (row, start), (1, samples))[0])
    return cut(rows, starts).astype(jnp.float32) / 32768


def stretches(
    key: Key[Array, ""], shape: tuple[int, int], count: int, longest: int
) -> Bool[Array, "batch places"]:
    """True on ``count`` random stretches of 0 to ``longest`` places in each row.

    Args:
        key: of the draws.
        shape: batch, places.
        count: stretches in each row.
        longest: places of one at most.

    Returns:
        bool [batch, places]; stretches may overlap.
    """
    batch, places = shape
    longest = min(longest, places)
    length_key, start_key = jax.random.split(key)
    length = jax.random.randint(length_key, (batch, count, 1), 0, longest + 1)
    start = jax.random.uniform(start_key, (batch, count, 1)) * (places - length + 1)
    start = jnp.floor(start).astype(jnp.int32)
    place = jnp.arange(places)
    return jnp.any((place >= start) & (place < start + length), axis=1)
