"""Augmentation: what may change, what must not, and that every clip draws its own change."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st

from micronets_jax import data
from micronets_jax.data import augment
from micronets_jax.data.augment import images, speech
from micronets_jax.recipes import ImageAugmentation, SpeechAugmentation

KEY = jax.random.key(3)
SILENT = SpeechAugmentation(shift_ms=0.0, noise=0.0, time_masks=0)
STILL = ImageAugmentation(mirror=False, shift=0.0, brightness=0.0, contrast=0.0)

shift = jax.jit(speech.shift, static_argnums=2)
resampled = jax.jit(speech.resampled, static_argnums=(2, 3))
add_noise = jax.jit(speech.add_noise, static_argnums=(3, 4))
waveforms = jax.jit(speech.waveforms, static_argnums=1)
spectra = jax.jit(speech.spectra, static_argnums=(1, 3))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 50]))
def test_a_shift_moves_samples_and_lets_zeros_in(seed, largest):
    x = jnp.arange(1.0, 201.0)[None].repeat(8, axis=0)
    moved = np.asarray(shift(jax.random.key(seed), x, largest))
    for row in moved:
        kept = row[row > 0]
        assert len(kept) >= 200 - largest
        np.testing.assert_array_equal(np.diff(kept), 1)  # in order, nothing missing inside
        assert (row == 0).sum() == 200 - len(kept)


def test_shifts_differ_between_clips():
    x = jnp.ones((64, 400))
    moved = np.asarray(shift(KEY, x, 100))
    starts, ends = (moved[:, 0] == 0).sum(), (moved[:, -1] == 0).sum()
    assert starts > 10 and ends > 10


def test_noise_comes_with_its_probability_and_below_its_volume():
    noise = jnp.full((2, 500), 16_384, jnp.int16)  # half of full scale
    added = np.asarray(add_noise(KEY, jnp.zeros((2000, 100)), noise, 0.8, 0.1))
    assert (added == added[:, :1]).all()
    level = added[:, 0]
    assert np.mean(level > 0) == pytest.approx(0.8, abs=0.03)
    assert level.max() <= 0.05 and level.min() >= 0
    assert level[level > 0].mean() == pytest.approx(0.025, abs=0.002)


def test_noise_at_a_ratio_is_that_much_softer_than_the_clip():
    noise = jax.random.randint(KEY, (2, 40_000), -9000, 9000).astype(jnp.int16)
    clips = 0.1 * jnp.sin(jnp.arange(16_000.0) / 7) * jnp.linspace(0.2, 2, 300)[:, None]
    noisy = jax.jit(speech.add_noise_at, static_argnums=(3, 4))(KEY, clips, noise, 0.7, (3.0, 20.0))
    added = np.asarray(noisy) - np.asarray(clips)
    power = np.square(added).mean(axis=1)
    heard = power > 0
    assert 0.6 < heard.mean() < 0.8
    ratio = 10 * np.log10(np.square(clips).mean(axis=1)[heard] / power[heard])
    assert 2.99 <= ratio.min() < 4.5 and 18.5 < ratio.max() <= 20.01


def test_speed_moves_a_tone_and_the_middle_stays():
    hz = 500.0
    tone = jnp.sin(2 * jnp.pi * hz * jnp.arange(16_000) / 16_000)
    x = jnp.broadcast_to(tone, (60, 16_000))
    played = np.asarray(resampled(KEY, x, 0, 0.25))[:, 2000:14_000]
    spectrum = np.abs(np.fft.rfft(played * np.hanning(12_000)))
    factor = np.argmax(spectrum, axis=1) * 16_000 / 12_000 / hz
    assert 0.8 - 0.01 <= factor.min() < 0.85 and 1.18 < factor.max() <= 1.25 + 0.01
    np.testing.assert_allclose(resampled(KEY, x[:3], 0, 1e-9)[:, 1:-1], x[:3, 1:-1], atol=2e-3)
    # Time about the middle runs at that speed: a click there stays, one off it moves the other way.
    clicks = jnp.zeros((60, 401)).at[:, 200].set(1.0)
    assert (np.argmax(np.asarray(resampled(KEY, clicks, 0, 0.25)), axis=1) == 200).all()
    moved = np.argmax(np.asarray(resampled(KEY, clicks, 40, 0.25)), axis=1)
    assert 150 <= moved.min() < 175 and 225 < moved.max() <= 250


def test_masks_hide_whole_stretches_with_the_mean_of_logarithms():
    x = jnp.exp(jax.random.normal(KEY, (256, 49, 40)))
    how = SpeechAugmentation(time_masks=1, time_mask_frames=8, mel_masks=1, mel_mask_bands=5)
    hidden = np.asarray(spectra(KEY, how, x, 0.02))
    mean = np.exp(np.log(np.asarray(x)).mean(axis=1, keepdims=True))
    changed = np.abs(hidden / np.asarray(x) - 1) > 1e-5
    np.testing.assert_allclose(hidden[changed], np.broadcast_to(mean, x.shape)[changed], rtol=1e-4)
    rows, columns = changed.all(axis=2), changed.all(axis=1)
    assert rows.sum(axis=1).max() == 8 and rows.sum(axis=1).min() == 0
    assert columns.sum(axis=1).max() == 5
    np.testing.assert_array_equal(changed, rows[:, :, None] | columns[:, None, :])
    for row in rows:
        assert np.abs(np.diff(np.pad(row.astype(int), 1))).sum() in (0, 2)


def test_a_room_keeps_sounding_and_its_echo_falls_by_sixty_decibels():
    click = jnp.zeros((400, 60, 2)).at[:, 5].set(1.0)
    heard = np.asarray(speech.in_room(KEY, click, 1.0, 0.02))[..., 0] ** 2
    np.testing.assert_array_equal(heard[:, :5], 0)
    np.testing.assert_allclose(heard[:, 5], 1, rtol=1e-5)
    slope = 10 * np.log10(heard[:, 12] / heard[:, 7]) / 5 / 0.02  # dB per second
    seconds = -60 / slope
    assert 0.05 <= seconds.min() < 0.1 and 0.95 < seconds.max() < 1.001
    # All of the echo together is at most as loud as what came straight.
    assert 0.9 < heard[:, 6:].sum(axis=1).max() <= 1.001


def test_colour_is_smooth_along_the_mel_axis_and_the_same_at_all_times():
    how = dataclasses.replace(SILENT, colour_db=3.0)
    db = 20 * np.log10(np.asarray(spectra(KEY, how, jnp.ones((500, 6, 40)), 0.02)))
    np.testing.assert_allclose(db, db[:, :1].repeat(6, axis=1), atol=1e-3)
    assert db.std() == pytest.approx(3 * np.sqrt(3 / 2), rel=0.1)
    waves = scipy.fft.dct(db[:, 0], axis=1)
    np.testing.assert_allclose(waves[:, 4:], 0, atol=1e-2)


def test_zero_switches_everything_off():
    clips = jnp.arange(-8000, 8000, dtype=jnp.int16).reshape(1, -1)
    noise = jnp.ones((1, 20_000), jnp.int16)
    np.testing.assert_array_equal(waveforms(KEY, SILENT, clips, noise), np.asarray(clips) / 32768)
    x = jax.random.uniform(KEY, (2, 49, 40))
    np.testing.assert_array_equal(spectra(KEY, SILENT, x, 0.02), x)


def test_the_whole_of_speech_at_no_strength_is_the_front_end():
    clips = jax.random.randint(KEY, (2, 16_000), -9000, 9000).astype(jnp.int16)
    known = dataclasses.replace(dataset_of(3), extras={"noise": np.ones((1, 20_000), np.int16)})
    labels = jnp.array([2, 0])
    x, targets = augment.Speech(SILENT)(KEY, known, data.MFCC(), clips, labels)
    np.testing.assert_allclose(x, data.MFCC()(clips), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(targets, labels)
    blends = augment.Speech(dataclasses.replace(SILENT, mixup=0.5))
    _, shares = blends(KEY, known, data.MFCC(), clips, labels)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)


def test_one_trace_one_result_per_key():
    clips = jnp.ones((4, 16_000), jnp.int16)
    noise = jax.random.randint(KEY, (3, 20_000), -9000, 9000).astype(jnp.int16)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def change(key):
        return speech.waveforms(key, SpeechAugmentation(speed=0.1), clips, noise)

    first, again, other = change(KEY), change(KEY), change(jax.random.key(4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize(
    "wrong", [{"shift_ms": -1.0}, {"noise": 1.5}, {"shift_ms": 2000.0}, {"snr_db": (9.0, 3.0)}]
)
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SpeechAugmentation(**wrong)


# --- blends --------------------------------------------------------------------------------------


def dataset_of(num_classes: int) -> data.Dataset:
    split = data.Split.whole(np.zeros((num_classes, 1)), np.arange(num_classes, dtype=np.int32))
    names = tuple(map(str, range(num_classes)))
    return data.Dataset("d", "0", names, split, split, split)


def test_blends_keep_features_and_targets_together():
    # The feature of an example is its label, so that a blend's feature tells its shares.
    labels = jnp.arange(64) % 4
    patches = jnp.broadcast_to(labels[:, None, None, None] - 30.0, (64, 32, 32, 1))
    front_end = data.LogMelPatches()
    x, shares = augment.Mixup(0.3)(KEY, dataset_of(4), front_end, patches, labels)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(x[:, 5, 7, 0], shares @ jnp.arange(4.0), atol=1e-4)
    own = np.take_along_axis(np.asarray(shares), np.asarray(labels)[:, None], axis=1)
    assert own.min() >= 0.5 and 0 < (own < 0.99).sum() < 64
    x, shares = augment.Mixup(0.0)(KEY, dataset_of(4), front_end, patches, labels)
    np.testing.assert_array_equal(shares, jax.nn.one_hot(labels, 4))
    np.testing.assert_allclose(x[:, 0, 0, 0], labels, atol=1e-5)
    with pytest.raises(ValueError, match="alpha=-1"):
        augment.Mixup(-1.0)


# --- pictures ------------------------------------------------------------------------------------


def changed(how: ImageAugmentation, pictures: np.ndarray) -> np.ndarray:
    front_end = data.Pixels(*pictures.shape[1:])
    labels = jnp.arange(len(pictures))
    x, targets = augment.Images(how)(KEY, dataset_of(2), front_end, jnp.asarray(pictures), labels)
    np.testing.assert_array_equal(targets, labels)
    return np.asarray(x)


def test_half_of_the_pictures_are_mirrored():
    ramp = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None], (200, 10, 10, 1))
    only = dataclasses.replace(STILL, mirror=True)
    x = changed(only, ramp)
    turned = x[:, 0, 0, 0] > x[:, 0, -1, 0]
    assert 70 < turned.sum() < 130
    np.testing.assert_allclose(
        np.where(turned[:, None], x[:, 3, ::-1, 0], x[:, 3, :, 0])[0],
        np.arange(10) / 127.5 - 1,
        atol=1e-6,
    )


def test_pictures_move_and_keep_their_edges():
    pictures = np.arange(400, dtype=np.float32).reshape(1, 20, 20, 1).repeat(64, axis=0)
    x = np.asarray(images.shifted(KEY, jnp.asarray(pictures), 0.1))
    rows, columns = x[:, 10, 10, 0] // 20 - 10, x[:, 10, 10, 0] % 20 - 10
    assert set(rows) == set(columns) == {-2, -1, 0, 1, 2}
    for one, i, j in zip(x, rows, columns, strict=True):
        source = np.clip(np.arange(20)[:, None] + i, 0, 19) * 20
        np.testing.assert_array_equal(one[..., 0], source + np.clip(np.arange(20) + j, 0, 19))


def test_brightness_and_contrast_stay_within_bounds():
    pictures = np.full((500, 8, 8, 1), 153, np.uint8)  # 0.2
    light = changed(dataclasses.replace(STILL, brightness=0.3), pictures)[:, 0, 0, 0]
    assert light.min() >= -0.1 - 1e-6 and light.max() <= 0.5 + 1e-6 and np.ptp(light) > 0.55
    spread = changed(dataclasses.replace(STILL, contrast=1.0), pictures)[:, 0, 0, 0]
    assert spread.min() >= 0.1 - 1e-6 and spread.max() <= 0.4 + 1e-6 and np.ptp(spread) > 0.28
    with pytest.raises(ValueError, match="shift=2"):
        ImageAugmentation(shift=2.0)


def test_turned_pictures_are_scipys_and_enlarged_ones_are_larger():
    rng = np.random.default_rng(0)
    picture = scipy.ndimage.gaussian_filter(rng.normal(size=(24, 20)), 3)
    pictures = jnp.asarray(picture[None, ..., None].repeat(40, axis=0), jnp.float32)
    turned = np.asarray(images.moved(KEY, dataclasses.replace(STILL, rotation=30.0), pictures))

    def twin(degrees: float) -> np.ndarray:
        return scipy.ndimage.rotate(picture, degrees, reshape=False, order=1, mode="nearest")

    # Each is what SciPy makes at some angle up to 30 degrees, either way.
    twins = {degrees: twin(degrees) for degrees in np.linspace(-30, 30, 121)}
    best = [
        min(twins, key=lambda d, one=one: np.abs(twins[d] - one).max()) for one in turned[..., 0]
    ]
    for degrees, one in zip(best, turned[..., 0], strict=True):
        np.testing.assert_allclose(one, twins[degrees], atol=0.02 * np.ptp(picture))
    assert min(best) < -20 and max(best) > 20
    # A ramp keeps its middle, and its slope is divided by the size.
    ramp = jnp.broadcast_to(jnp.arange(21.0)[:, None] - 10, (200, 21, 21))[..., None]
    slopes = images.moved(KEY, dataclasses.replace(STILL, zoom=0.5), ramp)[:, 11, 10, 0]
    assert 1 / 1.5 <= slopes.min() < 0.7 and 1.45 < slopes.max() <= 1.5


def test_colour_leaves_grey_grey_but_for_a_tint_and_cutting_out_hides_a_rectangle():
    pictures = np.full((300, 8, 8, 3), 153, np.uint8)
    tint = changed(dataclasses.replace(STILL, colour=0.5), pictures)
    np.testing.assert_allclose(tint, np.broadcast_to(tint[:, :1, :1], tint.shape), atol=1e-6)
    assert tint.min() >= 0.2 / 1.5 - 1e-6 and tint.max() <= 0.3 + 1e-6
    assert (np.ptp(tint[:, 0, 0], axis=1) > 0.02).mean() > 0.8
    cut = changed(dataclasses.replace(STILL, cutout=0.5), pictures)[..., 0] == 0
    assert 0.02 < cut.mean() < 0.07  # a sixteenth, less what lies outside
    for one in cut:
        np.testing.assert_array_equal(one, one.any(axis=1)[:, None] & one.any(axis=0))
    assert cut.any(axis=2).sum(axis=1).max() <= 4
