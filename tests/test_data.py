"""Data sets: the embedded vocabulary, folders of recordings, batches, and what is kept on disk."""

import dataclasses
import hashlib
import pathlib
import struct
import types
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micronets_jax import data
from micronets_jax.data import cache, recordings
from micronets_jax.data.dataset import SPLITS
from micronets_jax.data.embedded import vocabulary
from micronets_jax.data.sources import speech_commands
from support.recordings import folder_of, tone, write

SMALL = vocabulary.Vocabulary(train=60, validation=30, test=30)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MICRONETS_CACHE", str(tmp_path / "cache"))


# --- the embedded vocabulary ---------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_cores(monkeypatch):
    first = vocabulary.generate(SMALL)
    monkeypatch.setattr(vocabulary, "_num_cores", lambda: 1)
    again = vocabulary.generate(SMALL)
    other = vocabulary.generate(dataclasses.replace(SMALL, seed=1))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert not np.array_equal(first["train_examples"], other["train_examples"])


def test_embedded_classes_are_balanced_and_loud_enough():
    arrays = vocabulary.generate(dataclasses.replace(SMALL, train=100))
    np.testing.assert_array_equal(np.bincount(arrays["train_labels"]), [8] * 10 + [10, 10])
    peaks = np.abs(arrays["train_examples"].astype(int)).max(axis=1)
    assert peaks.min() > 0 and np.median(peaks) > 1000
    assert arrays["train_examples"].shape == (100, 16_000)
    assert arrays["noise"].shape == (6, 320_000)


def test_no_clip_is_in_two_splits():
    arrays = vocabulary.generate(SMALL)
    clips = np.concatenate([arrays[f"{split}_examples"] for split in SPLITS])
    assert len({clip.tobytes() for clip in clips}) == 120


def test_every_word_is_made_of_known_phonemes_and_none_is_two_classes():
    spoken = list(vocabulary.TARGETS.values()) + list(vocabulary.OTHERS.values())
    assert len(set(spoken)) == len(spoken)
    assert {phoneme for word in spoken for phoneme in word.split()} <= set(vocabulary.PHONEMES)


def test_voiced_sounds_are_periodic_and_vowels_have_their_formants():
    # The gain of /a/ for a neutral speaker peaks at its first two formants, 730 and 1090 Hz.
    hz = np.array([[730.0]]), np.array([[1090.0]]), np.array([[2440.0]])
    gain = vocabulary._resonances(np.stack(hz), np.ones((1, 1)), np.ones(1))[0, 0]
    peaks = vocabulary.HZ[1:-1][(gain[1:-1] > gain[:-2]) & (gain[1:-1] > gain[2:])]
    assert abs(peaks[0] - 730) <= 50 and abs(peaks[1] - 1090) <= 50


def test_overlap_add_gives_back_what_was_cut_into_frames():
    x = np.random.default_rng(0).normal(size=(2, 16_000)).astype(np.float32)
    np.testing.assert_allclose(vocabulary._overlap_add(vocabulary._spectra(x)), x, atol=1e-5)


def test_load_gives_a_data_set_and_knows_its_sizes():
    tiny = speech_commands.load("embedded", size="tiny")
    assert (len(tiny.train), len(tiny.validation), len(tiny.test)) == (480, 240, 240)
    assert tiny.class_names[-2:] == ("silence", "unknown") and tiny.num_classes == 12
    assert tiny.fingerprint != speech_commands.load("embedded", size="tiny", seed=1).fingerprint
    with pytest.raises(data.DataError, match=r"size='huge'.*tiny, quick, paper"):
        speech_commands.load("embedded", size="huge")
    with pytest.raises(data.DataError, match="words=yes"):
        speech_commands.load("embedded", size="tiny", words=["yes"])
    with pytest.raises(data.DataError, match="train=3"):
        vocabulary.Vocabulary(train=3)


# --- batches and halves --------------------------------------------------------------------------


def split_of(labels: list[int]) -> data.Split:
    clips = np.arange(len(labels), dtype=np.int16)[:, None].repeat(2, axis=1)
    return data.Split.whole(clips, np.array(labels, np.int32))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=4, max_size=60), st.integers(0, 99), st.integers(0, 9))
def test_an_epoch_draws_each_example_once_and_depends_on_nothing_else(labels, seed, epoch):
    split = split_of(labels)
    batches = list(split.batches(4, seed, epoch))
    drawn = np.concatenate([clips[:, 0] for clips, _ in batches])
    assert len(batches) == len(labels) // 4
    assert len(set(drawn.tolist())) == len(drawn)
    for clips, batch_labels in batches:
        np.testing.assert_array_equal(split.labels[clips[:, 0]], batch_labels)
    again = np.concatenate([clips[:, 0] for clips, _ in split.batches(4, seed, epoch)])
    np.testing.assert_array_equal(drawn, again)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=80), st.integers(0, 99))
def test_halves_cover_the_split_and_divide_every_class(labels, seed):
    split = split_of(labels)
    first, second = split.halves(seed)
    rows = np.concatenate([first.rows, second.rows])
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(labels)))
    assert abs(len(first) - len(second)) <= 1
    np.testing.assert_array_equal(split.labels[rows], np.concatenate([first.labels, second.labels]))
    np.testing.assert_array_equal(first.examples[:, 0], first.rows)
    for label in set(labels):
        counts = [(half.labels == label).sum() for half in (first, second)]
        assert abs(counts[0] - counts[1]) <= 1


def test_another_epoch_or_seed_is_another_order():
    split = split_of([0, 1] * 50)
    orders = {tuple(split.order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_a_batch_larger_than_the_split_is_refused():
    with pytest.raises(data.DataError, match=r"batch_size=9.*has 8 examples"):
        next(split_of([0] * 8).batches(9, 0, 0))


# --- what is kept on disk ------------------------------------------------------------------------


def test_arrays_are_built_once_and_come_back_the_same(tmp_path):
    content = {"a": np.arange(5, dtype=np.int16), "empty": np.zeros((0, 3)), "scalar": np.array(7)}
    calls = []
    for _ in range(2):
        arrays = cache.arrays("x", lambda: calls.append(1) or content, tmp_path)
        for name, array in content.items():
            np.testing.assert_array_equal(arrays[name], array)
            assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
    assert len(calls) == 1


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_damaged_file_is_never_believed(tmp_path_factory, given_data):
    folder = tmp_path_factory.mktemp("cache")
    content = {"a": np.arange(100, dtype=np.int32)}
    cache.arrays("x", lambda: content, folder)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    position = given_data.draw(st.integers(0, len(whole) - 1))
    if given_data.draw(st.booleans()):
        path.write_bytes(whole[:position])
    else:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
    np.testing.assert_array_equal(cache.arrays("x", lambda: content, folder)["a"], content["a"])
    # Bytes between the header and the arrays mean nothing; any other damage is mended.
    assert len(path.read_bytes()) == len(whole)
    assert [entry.name for entry in folder.iterdir()] == ["x.bin"]


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def build():
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        cache.arrays("x", build, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_cannot_be_written_costs_a_warning(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.warns(UserWarning, match="cannot keep"):
        arrays = cache.arrays("x", lambda: {"a": np.ones(3)}, blocked / "cache")
    np.testing.assert_array_equal(arrays["a"], np.ones(3))


def test_features_of_a_split_are_those_of_its_clips(monkeypatch):
    tiny = speech_commands.load("embedded", size="tiny")
    frontend = data.MFCC()
    features = data.split_features(tiny, "test", frontend)
    assert features.shape == (240, 49, 10, 1)
    np.testing.assert_allclose(features[17], frontend(tiny.test.examples[17]), atol=1e-4)
    monkeypatch.setattr(data.MFCC, "__call__", lambda *_: pytest.fail("features were not kept"))
    np.testing.assert_array_equal(data.split_features(tiny, "test", frontend), features)


# --- recordings ----------------------------------------------------------------------------------


def as_24_bits(samples: np.ndarray, rate: int = 16_000) -> bytes:
    body = b"".join(int(x).to_bytes(3, "little", signed=True) for x in samples.astype(int) * 256)
    form = struct.pack("<HHIIHH", 1, 1, rate, 3 * rate, 3, 24)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(body))
    return b"RIFF" + struct.pack("<I", len(chunks) + len(body)) + chunks + body


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("kind", ["int16", "uint8", "int32", "float32", "float64", "24 bits"])
def test_every_sample_format_gives_the_same_clip(tmp_path, kind, long, monkeypatch):
    if long:  # mapped, or read by libsndfile
        monkeypatch.setattr(recordings, "LONG_BYTES", 1000)
    samples = tone(0) // 256 * 256  # what eight bits can hold
    path = tmp_path / "x.wav"
    if kind == "24 bits":
        path.write_bytes(as_24_bits(samples))
    elif kind.startswith("float"):
        write(path, (samples / 32768).astype(kind))
    elif kind == "uint8":
        write(path, (samples // 256 + 128).astype(np.uint8))
    else:
        write(path, samples.astype(kind) * (65_536 if kind == "int32" else 1))
    np.testing.assert_array_equal(data.read_clip(path), samples)


def test_stereo_and_other_rates_are_converted(tmp_path):
    time = np.arange(44_100) / 44_100
    sine = (8000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
    path = write(tmp_path / "x.wav", np.stack([sine, sine], axis=1), 44_100)
    samples, converted = recordings.read(path)
    expected = 8000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert converted and len(samples) == 16_000
    np.testing.assert_allclose(samples[200:-200], expected[200:-200], atol=40)


def test_long_recordings_are_cut_at_the_loudest_second_and_short_ones_padded():
    quiet, loud = np.ones(20_000, np.int16), np.full(16_000, -9000, np.int16)
    np.testing.assert_array_equal(recordings.one_second(np.concatenate([quiet, loud, quiet])), loud)
    padded = recordings.one_second(np.full(10, 5, np.int16))
    assert padded.shape == (16_000,) and padded.sum() == 50


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is an empty file"),
        (b"no recording", "cannot be read as a WAV file"),
        (as_24_bits(np.zeros(0)), "holds no samples"),
        (as_24_bits(np.ones(100))[:-50], "is cut off: 294 of 344 bytes"),
        (as_24_bits(np.ones(9), rate=1), "rate of 1 Hz"),
    ],
    ids=["empty file", "text", "no samples", "cut off", "rate"],
)
def test_unusable_files_are_named(tmp_path, content, part):
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=f"{path}.*{part}"):
        data.read_clip(path)


def test_samples_that_are_not_numbers_and_missing_files_are_named(tmp_path):
    path = write(tmp_path / "nan.wav", np.full(16_000, np.nan, np.float32))
    with pytest.raises(data.DataError, match=f"{path}.*not numbers"):
        data.read_clip(path)
    with pytest.raises(data.DataError, match=r"gone\.wav does not exist"):
        data.read_clip(tmp_path / "gone.wav")


# --- folders -------------------------------------------------------------------------------------


def test_folders_are_the_classes_and_each_is_divided(tmp_path):
    folder_of(tmp_path / "d", "cat dog owl", 20)
    (tmp_path / "d" / ".hidden").mkdir()
    first, again = speech_commands.load(tmp_path / "d"), speech_commands.load(tmp_path / "d")
    assert first.class_names == ("cat", "dog", "owl") and first.name == "d"
    for split, each in (("train", 16), ("validation", 2), ("test", 2)):
        part = getattr(first, split)
        np.testing.assert_array_equal(np.bincount(part.labels), [each] * 3)
        np.testing.assert_array_equal(part.examples, getattr(again, split).examples)
    assert first.fingerprint == again.fingerprint


def test_words_choose_the_classes_and_the_rest_is_unknown(tmp_path):
    folder_of(tmp_path / "d", "cat dog owl", 30)
    chosen = speech_commands.load(tmp_path / "d", words=["owl", "cat"])
    assert chosen.class_names == ("owl", "cat", "silence", "unknown")
    # 24 + 24 clips of the words; a tenth of 48, rounded up, of silence and of unknown words.
    np.testing.assert_array_equal(np.bincount(chosen.train.labels), [24, 24, 5, 5])
    every = speech_commands.load(tmp_path / "d", words=["owl", "cat", "dog"])
    assert every.class_names == ("owl", "cat", "dog", "silence")
    silent = every.train.examples[every.train.labels == 3]
    assert np.abs(silent).max() < 100  # no recordings of noise: a quiet microphone


def test_ten_target_words_make_the_task_of_twelve_classes(tmp_path):
    words = " ".join((*speech_commands.TARGETS, "bed"))
    folder = folder_of(tmp_path / "d", words, 5)
    write(folder / "_background_noise_" / "a.wav", tone(1, 40_000))
    write(folder / "_background_noise_" / "b.wav", tone(2, 24_000))
    twelve = speech_commands.load(folder)
    assert twelve.class_names == (*speech_commands.TARGETS, "silence", "unknown")
    assert twelve.extras["noise"].shape == (2, 40_000)
    np.testing.assert_array_equal(np.bincount(twelve.validation.labels), [1] * 12)


def test_lists_decide_the_splits(tmp_path):
    folder = folder_of(tmp_path / "d", "cat dog", 6, "ab{k}_nohash_0.wav")
    for name, k in (("validation_list.txt", 3), ("testing_list.txt", 5)):
        (folder / name).write_text(f"cat/ab{k}_nohash_0.wav\ndog/ab{k}_nohash_0.wav\n")
    listed = speech_commands.load(folder)
    np.testing.assert_array_equal(listed.validation.examples, [tone(3), tone(1003)])
    np.testing.assert_array_equal(listed.test.examples, [tone(5), tone(1005)])
    assert len(listed.train) == 8
    (folder / "testing_list.txt").unlink()
    with pytest.raises(data.DataError, match=r"validation_list\.txt but not both"):
        speech_commands.load(folder)


def test_speakers_keep_their_split_by_the_rule_of_the_data_set(tmp_path):
    # By hand: sha1 modulo 2^27, as a percentage of 2^27 - 1; below 10 validation, below 20 test.
    for name in ("0a7c2a8d_nohash_0.wav", "ffd2ba2f_nohash_4.wav", "x_nohash_1.wav"):
        digest = int(hashlib.sha1(name.split("_")[0].encode()).hexdigest(), 16)
        percentage = digest % 2**27 * 100 / (2**27 - 1)
        expected = ["validation", "test", *["train"] * 8][min(9, int(percentage // 10))]
        assert speech_commands.speaker_split(name) == expected
    splits = [speech_commands.speaker_split(f"{k:08x}_nohash_0.wav") for k in range(2000)]
    assert splits.count("train") == pytest.approx(1600, abs=80)
    assert splits.count("test") == pytest.approx(200, abs=50)
    folder = folder_of(tmp_path / "d", "cat dog", 60, "{k:08x}_nohash_0.wav")
    assert len(speech_commands.load(folder).train) == 2 * splits[:60].count("train")


def test_one_warning_for_all_converted_recordings(tmp_path):
    folder = folder_of(tmp_path / "d", "cat dog", 10)
    for k in range(3):
        write(folder / "cat" / f"{k}.wav", tone(k, 8000), 8000)
    for _ in range(2):  # the second time from disk
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            speech_commands.load(folder)
        assert [str(w.message)[:12] for w in caught] == ["3 recordings"]


def test_a_changed_recording_is_read_again(tmp_path):
    folder = folder_of(tmp_path / "d", "cat dog", 10)
    first = speech_commands.load(folder)
    write(folder / "cat" / "0.wav", tone(77, 12_000))
    assert speech_commands.load(folder).fingerprint != first.fingerprint


def folder_problem(folder: pathlib.Path, problem: str) -> dict:
    if problem == "missing":
        return {}
    folder.mkdir()
    if problem == "empty":
        return {}
    folder_of(folder, "cat" if problem == "one class" else "cat dog", 10)
    if problem == "corrupt":
        (folder / "dog" / "4.wav").write_bytes(b"RIFF....WAVE")
    if problem == "few":
        folder_of(folder, "owl", 2)
    return {"unknown word": {"words": ["cat", "cow"]}, "twice": {"words": ["cat", "cat"]}}.get(
        problem, {}
    )


@pytest.mark.parametrize(
    ("problem", "part"),
    [
        ("missing", "is not there; give embedded, tfds, or a folder"),
        ("empty", "holds no recordings"),
        ("one class", "has one class, 'cat'"),
        ("corrupt", "dog/4.wav"),
        ("few", "0 clips of 'owl' in the train split"),
        ("unknown word", "there is no 'cow' in .*choose from cat, dog"),
        ("twice", "words=cat, cat: give different words"),
    ],
)
def test_bad_folders_end_in_one_sentence(tmp_path, problem, part):
    arguments = folder_problem(tmp_path / "d", problem)
    with pytest.raises(data.DataError, match=part) as caught:
        speech_commands.load(tmp_path / "d", **arguments)
    assert "\n" not in str(caught.value)
    assert not [*(tmp_path / "cache").glob("speech-*")]  # no data set was kept


# --- TensorFlow Datasets -------------------------------------------------------------------------


def test_tfds_serves_the_same_task(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    names = ["down", "yes", "_silence_", "_unknown_", "up"]

    class Builder:
        """What a prepared builder shows of itself, with a miniature archive behind it."""

        info = types.SimpleNamespace(
            full_name="speech_commands/0.0.3",
            features={"label": types.SimpleNamespace(names=names)},
            splits={"train": types.SimpleNamespace(num_examples=100)},
        )

        def download_and_prepare(self):
            pass

        def as_dataset(self, split, decoders=None):
            first = {"train": 0, "validation": 100, "test": 200}[split]
            for k in range(first, first + 100):
                yield {"label": k % 5, "audio": b"" if decoders else tone(k, 15_000 + 20 * k)}

    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: Builder())
    monkeypatch.setattr(tfds, "as_numpy", lambda examples: examples)
    served = speech_commands.load("tfds")
    assert served.class_names == (*speech_commands.TARGETS, "silence", "unknown")
    # 20 clips each of three words; 20 of silence as served; a tenth of 60 of the unknown ones.
    counts = dict(zip(*np.unique(served.train.labels, return_counts=True), strict=True))
    assert counts == {0: 20, 8: 20, 9: 20, 10: 20, 11: 6}
    assert served.extras["noise"].shape == (20, 16_000)
    np.testing.assert_array_equal(served.test.examples[0], recordings.one_second(tone(200, 19_000)))
    chosen = speech_commands.load("tfds", words=["up"])
    assert chosen.class_names == ("up", "silence", "unknown")
    with pytest.raises(data.DataError, match="there is no 'cow'"):
        speech_commands.load("tfds", words=["cow"])


@pytest.mark.slow
def test_tfds_itself_can_be_read():
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=60):
        served = speech_commands.load("tfds")
    assert served.train.examples.shape[1] == 16_000 and served.num_classes == 12


def test_tfds_that_cannot_be_prepared_says_what_to_do(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def offline(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds, "builder", offline)
    with pytest.raises(data.DataError, match=r"no route to host.*unpacked Speech Commands archive"):
        speech_commands.load("tfds")
