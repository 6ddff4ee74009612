"""Augmentation: what may change, what must not, and that every clip draws its own change."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micronets_jax import data
from micronets_jax.data import SpeechAugmentation, augment

KEY = jax.random.key(3)

shift = jax.jit(augment.shift, static_argnums=2)
add_noise = jax.jit(augment.add_noise, static_argnums=(3, 4))
waveforms = jax.jit(augment.waveforms, static_argnums=1)
features = jax.jit(augment.features, static_argnums=1)


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


def test_masks_hide_whole_stretches_with_the_mean():
    x = jax.random.normal(KEY, (256, 49, 10, 1))
    how = SpeechAugmentation(
        time_masks=1, time_mask_frames=8, frequency_masks=1, frequency_mask_bins=2
    )
    hidden = np.asarray(features(KEY, how, x))
    mean = np.broadcast_to(np.asarray(x).mean(axis=1, keepdims=True), x.shape)
    changed = (hidden != np.asarray(x))[..., 0]
    np.testing.assert_allclose(hidden[..., 0][changed], mean[..., 0][changed], atol=1e-6)
    rows, columns = changed.all(axis=2), changed.all(axis=1)
    assert rows.sum(axis=1).max() == 8 and rows.sum(axis=1).min() == 0
    assert columns.sum(axis=1).max() == 2
    np.testing.assert_array_equal(changed, rows[:, :, None] | columns[:, None, :])
    for row in rows:
        assert np.abs(np.diff(np.pad(row.astype(int), 1))).sum() in (0, 2)


def test_zero_switches_everything_off():
    off = SpeechAugmentation(shift_ms=0.0, noise_probability=0.0, time_masks=0, frequency_masks=0)
    clips = jnp.arange(-8000, 8000, dtype=jnp.int16).reshape(1, -1)
    noise = jnp.ones((1, 20_000), jnp.int16)
    np.testing.assert_array_equal(waveforms(KEY, off, clips, noise), np.asarray(clips) / 32768)
    x = jax.random.normal(KEY, (2, 49, 10, 1))
    np.testing.assert_array_equal(features(KEY, off, x), x)


def test_one_trace_one_result_per_key():
    clips = jnp.ones((4, 16_000), jnp.int16)
    noise = jax.random.randint(KEY, (3, 20_000), -9000, 9000).astype(jnp.int16)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def change(key):
        return augment.waveforms(key, SpeechAugmentation(), clips, noise)

    first, again, other = change(KEY), change(KEY), change(jax.random.key(4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize(
    "wrong", [{"shift_ms": -1.0}, {"noise_probability": 1.5}, {"shift_ms": 2000.0}]
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
    x, shares = data.Mixup(0.3)(KEY, dataset_of(4), front_end, patches, labels)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(x[:, 5, 7, 0], shares @ jnp.arange(4.0), atol=1e-4)
    own = np.take_along_axis(np.asarray(shares), np.asarray(labels)[:, None], axis=1)
    assert own.min() >= 0.5 and 0 < (own < 0.99).sum() < 64
    x, shares = data.Mixup(0.0)(KEY, dataset_of(4), front_end, patches, labels)
    np.testing.assert_array_equal(shares, jax.nn.one_hot(labels, 4))
    np.testing.assert_allclose(x[:, 0, 0, 0], labels, atol=1e-5)
    with pytest.raises(ValueError, match="alpha=-1"):
        data.Mixup(-1.0)


# --- pictures ------------------------------------------------------------------------------------


def changed(how: data.ImageAugmentation, pictures: np.ndarray) -> np.ndarray:
    front_end = data.Pixels(*pictures.shape[1:])
    labels = jnp.arange(len(pictures))
    x, targets = how(KEY, dataset_of(2), front_end, jnp.asarray(pictures), labels)
    np.testing.assert_array_equal(targets, labels)
    return np.asarray(x)


def test_half_of_the_pictures_are_mirrored():
    ramp = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None], (200, 10, 10, 1))
    only = data.ImageAugmentation(shift=0.0, brightness=0.0, contrast=0.0)
    x = changed(only, ramp)
    turned = x[:, 0, 0, 0] > x[:, 0, -1, 0]
    assert 70 < turned.sum() < 130
    np.testing.assert_allclose(np.where(turned[:, None], x[:, 3, ::-1, 0], x[:, 3, :, 0])[0],
                               np.arange(10) / 127.5 - 1, atol=1e-6)  # fmt: skip


def test_pictures_move_and_keep_their_edges():
    pictures = np.arange(400, dtype=np.float32).reshape(1, 20, 20, 1).repeat(64, axis=0)
    x = np.asarray(augment.moved(KEY, jnp.asarray(pictures), 0.1))
    rows, columns = x[:, 10, 10, 0] // 20 - 10, x[:, 10, 10, 0] % 20 - 10
    assert set(rows) == set(columns) == {-2, -1, 0, 1, 2}
    for one, i, j in zip(x, rows, columns, strict=True):
        source = np.clip(np.arange(20)[:, None] + i, 0, 19) * 20
        np.testing.assert_array_equal(one[..., 0], source + np.clip(np.arange(20) + j, 0, 19))


def test_brightness_and_contrast_stay_within_bounds():
    pictures = np.full((500, 8, 8, 1), 153, np.uint8)  # 0.2
    light = changed(data.ImageAugmentation(False, 0.0, 0.3, 0.0), pictures)[:, 0, 0, 0]
    assert light.min() >= -0.1 - 1e-6 and light.max() <= 0.5 + 1e-6 and np.ptp(light) > 0.55
    spread = changed(data.ImageAugmentation(False, 0.0, 0.0, 1.0), pictures)[:, 0, 0, 0]
    assert spread.min() >= 0.1 - 1e-6 and spread.max() <= 0.4 + 1e-6 and np.ptp(spread) > 0.28
    with pytest.raises(ValueError, match="shift=2"):
        data.ImageAugmentation(shift=2.0)
