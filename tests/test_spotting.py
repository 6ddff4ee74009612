"""From logits to words: integer posteriors, their mean, a threshold, a pause."""

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from micronets_jax import spotting
from micronets_jax.spotting import ONE, Event, Settings, Spotter

CLASSES = ("yes", "no", "silence", "unknown")
HOW = Settings(CLASSES, hop_ms=200, window=2, threshold=ONE // 2, refractory=3)


def logits(rng: np.random.Generator, steps: int, classes: int = 4) -> np.ndarray:
    return rng.integers(-128, 128, (steps, classes)).astype(np.int8)


def test_posteriors_by_hand():
    """With a step of ln 2 a logit one below the largest has half of its posterior."""
    row = np.array([[3, 2, 1, -128]], np.int8)
    got = spotting.posteriors(row, float(np.log(2)))[0]
    # 32768, 16384, 8192 and 2^-131, which is 0: shares 4/7, 2/7, 1/7, rounded down.
    assert got.tolist() == [ONE * 4 // 7, ONE * 2 // 7, ONE // 7, 0]


@given(st.integers(0, 2**32 - 1), st.floats(0.001, 1.0))
def test_posteriors_are_a_softmax(seed, scale):
    q = logits(np.random.default_rng(seed), 20, 12)
    got = spotting.posteriors(q, scale)
    assert got.min() >= 0 and got.sum(axis=1).max() <= ONE
    np.testing.assert_allclose(
        got / ONE, scipy.special.softmax(scale * q.astype(float), 1), atol=4e-4
    )
    np.testing.assert_allclose(got, spotting.of_floats(scale * q.astype(np.float64)), atol=13)


def test_words_by_hand():
    """The mean of two reaches a half at step 1; the pause lasts three steps; silence is no word."""
    full, half = ONE, ONE // 2
    rows = np.zeros((9, 4), np.int64)
    rows[0, 0] = half  # the mean is a quarter
    rows[1, 0] = half  # a half: told
    rows[2:5, 1] = full  # in the pause
    rows[5, 1] = half  # the mean is three quarters: told
    rows[6:, 2] = full
    assert spotting.events(rows, HOW) == [Event(1, 0, half), Event(5, 1, full * 3 // 4)]
    assert HOW.seconds(1) == 1.2 and HOW.shortest_ms == 1200
    assert dataclasses.replace(HOW, window=1).shortest_ms == 1200  # more than a clip
    assert HOW.words == (True, True, False, False)


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 9), max_size=8),
    st.integers(1, 9),
    st.integers(0, 4),
)
def test_a_stream_in_parts_is_the_stream(seed, sizes, window, refractory):
    how = dataclasses.replace(HOW, window=window, refractory=refractory, threshold=ONE // 3)
    rows = spotting.posteriors(logits(np.random.default_rng(seed), sum(sizes)), 0.02)
    spotter, found, at = Spotter(how), [], 0
    for size in sizes:
        found += spotter.hear(rows[at : at + size])
        at += size
    assert found == spotting.events(rows, how)
    for before, after in itertools.pairwise(found):
        assert after.step - before.step > refractory


def test_settings_are_kept_and_checked():
    assert spotting.from_json(spotting.to_json(HOW, {"validation": {}})) == HOW
    for text in ("{", "{}", '{"settings": {"hop_ms": 200}}'):
        with pytest.raises(ValueError, match="not the settings of a listener"):
            spotting.from_json(text)
    for name, value in (("window", 0), ("window", 65), ("threshold", ONE + 1), ("hop_ms", 2000)):
        with pytest.raises(ValueError, match=f"{name}={value}: give a whole number"):
            dataclasses.replace(HOW, **{name: value})
    with pytest.raises(ValueError, match="none of them is a word"):
        dataclasses.replace(HOW, classes=("silence", "unknown"))
