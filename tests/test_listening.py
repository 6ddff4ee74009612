"""Listening to a stream: a recording hop by hop, streams whose words are known, what is chosen."""

import numpy as np
import pytest
import scipy.io.wavfile

from micronets_jax import data, listening, spotting
from micronets_jax.data import recordings
from micronets_jax.data.dataset import DataError
from micronets_jax.listening import choosing, sliding, streams
from micronets_jax.spotting import ONE, Event, Settings

CLASSES = ("yes", "no", "silence", "unknown")
HOW = Settings(CLASSES, hop_ms=200, window=2, threshold=ONE // 2, refractory=3)


# ---------------------------------------------------------------- sliding


def test_every_hop_is_what_the_front_end_makes_of_its_second(monkeypatch):
    monkeypatch.setattr(sliding, "STRETCH", 64)  # so that a short recording has several
    frontend = data.MFCC()
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 2000, 16_000 * 4 + 999).astype(np.int16)
    cuts = np.sort(rng.integers(0, len(sound), 5))
    got = np.concatenate(
        list(sliding.logits(np.split(sound, cuts), frontend, 200, lambda x: x.reshape(len(x), -1)))
    )
    clips = np.stack([sound[at : at + 16_000] for at in range(0, len(sound) - 15_999, 3200)])
    want = np.asarray(frontend(clips)).reshape(len(clips), -1)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=2e-4)


def test_what_is_shorter_than_a_second_has_no_step_and_hops_are_whole_frames():
    frontend = data.MFCC()
    assert list(sliding.windows([np.zeros(15_000, np.int16)], frontend, 200)) == []
    assert sliding.frames_per_hop(frontend, 200) == 10
    for hop in (30, 210):
        with pytest.raises(ValueError, match=f"hop_ms={hop}: give a multiple .* 20 ms"):
            sliding.frames_per_hop(frontend, hop)


def test_blocks_are_the_recording(tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "BLOCK_SECONDS", 1)
    rng = np.random.default_rng(0)
    for rate, shape in ((16_000, (70_000,)), (16_000, (40_000, 2)), (44_100, (100_000, 2))):
        path = tmp_path / "x.wav"
        scipy.io.wavfile.write(path, rate, rng.integers(-9999, 9999, shape).astype(np.int16))
        parts = list(recordings.blocks(path))
        assert len(parts) > 1 and max(map(len, parts)) <= 16_000
        np.testing.assert_array_equal(np.concatenate(parts), recordings.read(path)[0])
        assert recordings.lasts(path, 2.0) and not recordings.lasts(path, 4.5)
    with pytest.raises(DataError, match=r"none\.wav does not exist"):
        next(recordings.blocks(tmp_path / "none.wav"))


# ---------------------------------------------------------------- streams


@pytest.fixture(scope="module")
def dataset():
    """Clips of one tone a class; the noise of each split has a sign of its own."""
    store = np.arange(1, 9, dtype=np.int16)[:, None] * 1000 + np.zeros((8, 16_000), np.int16)
    part = data.Split.whole(store, np.arange(8, dtype=np.int32) % 4)
    noise = np.zeros((2, 160_000), np.int16)
    noise[:, 128_000:144_000], noise[:, 144_000:] = 300, -300
    return data.Dataset("x", "00", CLASSES, part, part, part, {"noise": noise})


def test_a_stream_holds_the_clips_of_its_split_over_its_noise(dataset):
    stream = streams.of_split(dataset, "validation", 1.0, 3)
    again, other = (streams.of_split(dataset, "validation", 1.0, seed) for seed in (3, 4))
    assert stream.seconds == 60 and np.array_equal(stream.samples, again.samples)
    assert not np.array_equal(stream.samples, other.samples)
    assert sorted(stream.labels[:8]) == [0, 0, 1, 1, 2, 2, 3, 3]  # each once before any again
    covered = np.zeros(len(stream.samples), bool)
    for label, start in zip(stream.labels, stream.starts, strict=True):
        at = round(start * 16_000)
        covered[at : at + 16_000] = True
        level = round(int(stream.samples[at + 8000]) / 1000)
        assert (level - 1) % 4 == label
    gaps = stream.samples[~covered]
    assert gaps.min() >= 0 and 0 < gaps.max() <= 30  # only noise of validation, at a tenth at most
    test = streams.of_split(dataset, "test", 1.0, 3)
    assert test.samples.min() < 0
    assert stream.starts[-1] + 1 + streams.LATE <= stream.seconds


def test_scores_by_hand():
    """yes at 1 s and 9 s, no at 5 s, an unknown word at 13 s; told: yes in time, yes again, no in
    place of the second yes, yes at the unknown word."""
    stream = streams.Stream(np.zeros(16_000 * 20, np.int16), (0, 1, 0, 3), (1.0, 5.0, 9.0, 13.0))

    def at(second: float, label: int) -> Event:
        return Event(round((second - 1) * 5), label, ONE)

    told = [at(1.8, 0), at(2.8, 0), at(10.0, 1), at(13.6, 0)]
    score = streams.score(told, stream, HOW)
    assert score == streams.Score(20.0, words=3, hits=1, alarms=3, confused=2)
    assert score.misses == pytest.approx(2 / 3) and score.alarms_per_hour == 540
    assert (score + score).words == 6 and (score + score).alarms_per_hour == 540
    late = streams.score([at(11.0, 0)], stream, HOW)
    assert late.hits == 1 and streams.score([at(11.2, 0)], stream, HOW).hits == 0


# ---------------------------------------------------------------- choosing


@pytest.fixture(scope="module")
def heard():
    """A stream of twenty words, every second one faint, and noises that look like a word."""
    rng = np.random.default_rng(0)
    starts = 1.0 + 4.0 * np.arange(20)
    stream = streams.Stream(np.zeros(16_000 * 90, np.int16), (0,) * 20, tuple(starts.tolist()))
    rows = rng.integers(0, 3000, (446, 4)).astype(np.int64)
    for i, start in enumerate(starts):
        step = round((start - 0.4) * 5)
        rows[step : step + 4, 0] = 31_000 if i % 2 else 20_000
        rows[step + 10, 0] = 29_000 if i % 4 == 0 else 0  # for one step only
    return rows, stream


def test_fewer_alarms_never_miss_fewer_words(heard):
    rows, stream = heard
    chosen = [
        choosing.choose([rows], [stream], CLASSES, 200, allowed)
        for allowed in (0.0, 50.0, 100.0, 400.0)
    ]
    misses = [choice.score.misses for choice in chosen]
    assert misses == sorted(misses, reverse=True)
    # One step alone is an alarm without a mean: with one, all words are told and no noise is.
    assert chosen[0].met and chosen[0].settings.window > 1
    assert chosen[0].score.alarms == 0 and misses[0] == 0
    for choice in chosen:
        assert spotting.events(rows, choice.settings) and choice.facts()["hits"] <= 20
        assert [p.threshold for p in choice.curve] == list(choosing.THRESHOLDS)


def test_too_few_alarms_to_be_had_take_the_fewest(heard):
    """A word that is said nowhere sounds at full confidence all the time."""
    _, stream = heard
    rows = np.zeros((446, 4), np.int64)
    rows[:, 1] = ONE
    choice = choosing.choose([rows], [stream], CLASSES, 200, 1.0)
    assert not choice.met and choice.score.hits == 0
    assert choice.settings.refractory == 7  # the longest pause


def test_the_room_is_named():
    assert set(listening.__all__) <= set(dir(listening))
