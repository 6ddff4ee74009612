"""Folders as people have them: who goes into which split, near-duplicates, remarks, formats."""

import collections
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from micronets_jax import data
from micronets_jax.data import duplicates, pictures, recordings, splits
from micronets_jax.data.sources import speech_commands
from support.recordings import folder_of, tone, write


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MICRONETS_CACHE", str(tmp_path / "cache"))


def said(seed: int, seconds: float = 1.0, rate: int = 16_000) -> np.ndarray:
    """Something with a shape in time and frequency, another one for each seed, over faint noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    x = 0.05 * rng.normal(size=len(t))
    for _ in range(5):
        high, late = rng.uniform(150, 4000), rng.uniform(0.2, 0.8)
        x += np.sin(2 * np.pi * high * t) * np.exp(-np.square((t - late) / 0.1))
    return np.rint(x * 4000).astype(np.int16)


def facts(dataset: data.Dataset, name: str) -> dict[str, list]:
    return {split: getattr(dataset, split).facts[name].tolist() for split in data.look.SPLITS}


# --- splits --------------------------------------------------------------------------------------


def test_units_by_lot_serve_every_class_and_stay_whole():
    units = [f"s{i % 12}" for i in range(240)]
    labels = [i % 5 for i in range(240)]
    drawn = splits.by_units(units, labels, seed=3)
    assert drawn is not None and drawn == splits.by_units(units, labels, seed=3)
    homes = collections.defaultdict(set)
    for unit, split in zip(units, drawn, strict=True):
        homes[unit].add(split)
    assert {len(where) for where in homes.values()} == {1}
    counts = collections.Counter(zip(drawn, labels, strict=True))
    assert all(counts[split, c] >= n for split, n in splits.FEWEST.items() for c in range(5))
    assert 20 <= drawn.count("test") <= 60


@pytest.mark.parametrize("units", [["a", "a", "a", "b"], ["a"] * 9])
def test_too_few_units_are_said_to_be(units):
    assert splits.by_units(units, [0] * len(units), seed=0) is None


def test_few_speakers_are_divided_so_that_no_split_is_empty(tmp_path):
    """Three speakers, whose names the published rule would all send to one split."""
    names = [
        n for n in (f"{k:08x}" for k in range(60)) if speech_commands.speaker_split(n) == "test"
    ]
    for i, word in enumerate(("cat", "dog")):
        for j, speaker in enumerate(names[:4]):
            for take in range(5):
                sound = tone(100 * i + 10 * j + take)
                write(tmp_path / "d" / word / f"{speaker}_nohash_{take}.wav", sound)
    heard = facts(speech_commands.load(tmp_path / "d"), "speaker")
    assert all(heard.values())
    everyone = [speaker for speakers in heard.values() for speaker in set(speakers)]
    assert len(everyone) == len(set(everyone)) == 4


def test_one_speaker_is_divided_by_lot_with_a_warning(tmp_path):
    folder = folder_of(tmp_path / "d", "cat dog", 20, "me_nohash_{k}.wav")
    with pytest.warns(
        data.DataWarning, match="1 speaker of 'cat' .* recordings are divided at random"
    ):
        counts = [len(part) for part in facts(speech_commands.load(folder), "file").values()]
    assert counts == [32, 4, 4]


def test_lists_that_leave_a_split_empty_are_not_followed(tmp_path):
    folder = folder_of(tmp_path / "d", "cat dog", 10, "a{k}_nohash_0.wav")
    everything = "".join(f"{w}/a{k}_nohash_0.wav\n" for w in ("cat", "dog") for k in range(10))
    (folder / "testing_list.txt").write_text(everything)
    (folder / "validation_list.txt").write_text("")
    with pytest.warns(data.DataWarning, match=r"not followed, for with them 0 clips of 'cat'"):
        loaded = speech_commands.load(folder)
    assert min(map(len, facts(loaded, "file").values())) >= 2


# --- names ---------------------------------------------------------------------------------------


def test_folders_of_silence_unknown_and_noise_mean_what_they_say(tmp_path):
    folder = folder_of(tmp_path / "d", "Cat dog _silence_ unknown", 10)
    write(folder / "noise" / "fan.wav", tone(7, 40_000))
    (folder / "cat.txt").write_text("no recording")
    (folder / "LICENSE").write_text("none either")
    (folder / "dog" / ".hidden.wav").write_text("")
    loaded = speech_commands.load(folder)
    assert loaded.class_names == ("Cat", "dog", "silence", "unknown")
    assert loaded.extras["noise"].shape == (1, 40_000)
    np.testing.assert_array_equal(np.bincount(loaded.train.labels), [8, 8, 8, 8])
    chosen = speech_commands.load(folder, words=["cat"])
    assert chosen.class_names == ("Cat", "silence", "unknown")
    files = facts(chosen, "file")["train"]
    assert sum(file.startswith("_silence_/") for file in files) == 8  # none are made up
    assert sum(file.startswith("unknown/") for file in files) == 8


def test_odd_names_are_read(tmp_path):
    for i, word in enumerate(("größer", "left turn")):
        for k in range(10):
            write(tmp_path / "d" / word / f"a {k}.WAV.wav", tone(10 * i + k))
    loaded = speech_commands.load(tmp_path / "d")
    assert loaded.class_names == ("größer", "left turn") and len(loaded.train) == 16


# --- near-duplicates -----------------------------------------------------------------------------


def test_coded_and_shifted_clips_are_near_duplicates():
    soundfile = pytest.importorskip("soundfile")
    clips = [said(k) for k in range(8)]
    coded = io.BytesIO()
    soundfile.write(coded, clips[3], 16_000, format="OGG")
    coded.seek(0)
    again = np.rint(32767 * soundfile.read(coded)[0]).astype(np.int16)
    shifted = np.roll(clips[5] // 2, 400)
    rows = np.stack([duplicates.of_clip(x) for x in [*clips, again, shifted]])
    assert duplicates.groups(rows).tolist() == [*range(8), 3, 5]


def test_resized_and_compressed_pictures_stay_in_one_split(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(30):
        coarse = rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)
        picture = Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC)
        for name in ("cat", "dog"):
            place = tmp_path / "d" / name
            place.mkdir(parents=True, exist_ok=True)
            if (k < 20) == (name == "cat"):
                picture.save(place / f"{k}.png")
                picture.resize((72, 60)).save(place / f"copy of {k}.jpg", quality=50)
    loaded = data.class_folders.load(tmp_path / "d", data.Pixels(16, 16))
    near = facts(loaded, "near")
    assert sum(len(set(groups)) for groups in near.values()) == 30
    assert not set(near["train"]) & set(near["test"])


def test_silence_and_blank_pictures_are_nobody_s_duplicates():
    zero = duplicates.of_clip(np.zeros(16_000, np.int16))
    assert duplicates.groups(np.stack([zero, zero])).tolist() == [0, 1]
    grey = duplicates.of_picture(np.full((16, 16), 90, np.uint8))
    assert duplicates.groups(np.stack([grey, grey])).tolist() == [0, 1]


# --- remarks -------------------------------------------------------------------------------------


def test_remarks_have_a_number_and_name_files(tmp_path):
    folder = tmp_path / "d"
    for i, word in enumerate(("cat", "dog")):
        for k in range(20):
            write(folder / word / f"{k}.wav", said(100 * i + k))
    write(folder / "cat" / "off.wav", np.zeros(16_000, np.int16))
    write(folder / "cat" / "far.wav", said(500) // 2000)
    write(
        folder / "dog" / "loud.wav",
        np.clip(said(501).astype(np.int32) * 40, -32768, 32767).astype(np.int16),
    )
    write(folder / "dog" / "long.wav", said(502, 5.0))
    write(folder / "dog" / "same.wav", said(7))  # cat/7.wav
    look = data.look.at(speech_commands.load(folder))
    remarks = {remark.kind: remark for remark in look.remarks}
    assert remarks["silent"].files == ("cat/off.wav",)
    assert remarks["quiet"].files == ("cat/far.wav",)
    assert remarks["clipped"].files == ("dog/loud.wav",)
    assert remarks["length"].files == ("dog/long.wav",)
    assert set(remarks["contradiction"].files) == {"cat/7.wav", "dog/same.wav"}
    assert look.examples == tuple(zip(*[[18, 2, 2], [19, 2, 2]], strict=True))
    assert any(
        "1 group of near-duplicates in several classes, where one" in x for x in look.lines()
    )


def test_embedded_data_are_counted_without_remarks():
    arrays = {}
    for split in data.look.SPLITS:
        arrays[f"{split}_examples"] = np.zeros((4, 16_000), np.int16)
        arrays[f"{split}_labels"] = np.array([0, 0, 1, 1], np.int32)
    look = data.look.at(data.Dataset.from_arrays("made", "f", ("a", "b"), arrays))
    assert look.remarks == () and look.examples == ((2, 2),) * 3


def test_the_hardest_come_first_and_sure_mistakes_are_suspicious():
    part = data.Split.whole(
        np.zeros((4, 2), np.int16), np.array([0, 1, 0, 1], np.int32),
        {"file": np.array(["a", "b", "", "d"])},
    )  # fmt: skip
    logits = np.array([[3.0, 0.0], [4.0, 0.0], [0.0, 9.0], [0.2, 0.0]], np.float32)
    hard = data.look.hardest(logits, part, ("yes", "no"))
    assert [one.file for one in hard] == ["b", "d", "a"]
    assert (hard[0].label, hard[0].taken_for, hard[0].suspicious) == ("no", "yes", True)
    assert hard[0].loss == pytest.approx(4 + np.log(1 + np.exp(-4)))
    assert not hard[1].suspicious


# --- formats and sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.flac", {}), ("x.ogg", {}), ("x.mp3", {}), ("x.wav", {"subtype": "ALAW"}),
        ("x.wav", {"subtype": "ULAW"}),
    ],
)  # fmt: skip
def test_what_phones_record_is_read(tmp_path, name, options):
    soundfile = pytest.importorskip("soundfile")
    stereo = np.stack([said(1, rate=44_100)] * 2, axis=1)
    soundfile.write(tmp_path / name, stereo / 32768, 44_100, **options)
    samples, converted = recordings.read(tmp_path / name)
    want = recordings.read(write(tmp_path / "plain.wav", stereo[:, 0], 44_100))[0]
    assert converted and abs(len(samples) - 16_000) < 1600
    ours, theirs = duplicates.of_clip(samples), duplicates.of_clip(want)
    assert np.sqrt(np.mean(np.square(ours - theirs))) < duplicates.NEAREST


def test_formats_that_cannot_be_read_say_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "x.m4a").write_bytes(b"\0" * 100)
    with pytest.raises(data.DataError, match=r"AAC, .* ffmpeg -i x\.m4a x\.wav"):
        recordings.read(tmp_path / "x.m4a")
    (tmp_path / "x.mp3").write_bytes(b"\0" * 100)
    with pytest.raises(data.DataError, match="cannot be read"):
        recordings.read(tmp_path / "x.mp3")
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(data.DataError, match=r"install soundfile, which the extra phone brings"):
        recordings.read(tmp_path / "x.mp3")


def test_blocks_are_resampled_as_a_whole_is(tmp_path, monkeypatch):
    sound = said(3, 5.0, 44_100)
    path = write(tmp_path / "x.wav", sound, 44_100)
    whole, _ = recordings.read(path)
    monkeypatch.setattr(recordings, "BLOCK_SECONDS", 1)
    blocks, _ = recordings.read(path)
    assert len(whole) == len(blocks) == 80_000
    assert np.abs(whole.astype(int) - blocks).max() <= 1


def test_the_loudest_second_of_a_long_recording(monkeypatch):
    sound = np.concatenate([tone(1, 100_000) // 3, tone(2), tone(3, 90_000) // 3])
    whole = recordings.one_second(sound)
    monkeypatch.setattr(recordings, "BLOCK_SECONDS", 2)
    np.testing.assert_array_equal(recordings.one_second(sound), whole)
    np.testing.assert_array_equal(whole, tone(2))


def picture(path: pathlib.Path, size: tuple[int, int], **options) -> pathlib.Path:
    levels = np.arange(64).reshape(8, 8).astype(np.uint8) * 4
    Image.fromarray(levels).resize(size, Image.Resampling.NEAREST).save(path, **options)
    return path


def test_large_pictures_are_read_like_small_ones(tmp_path, monkeypatch):
    small = pictures.read(picture(tmp_path / "small.png", (64, 64)), (8, 8, 1))
    monkeypatch.setattr(pictures, "LARGE", 2**16)
    for name, options in (
        ("x.jpg", {"quality": 95}),
        ("x.png", {}),
        ("x.webp", {"lossless": True}),
    ):
        large = pictures.read(picture(tmp_path / name, (1024, 1024), **options), (8, 8, 1))
        assert np.abs(large.astype(int) - small).max() <= 4, name
        size, grey = pictures.look(tmp_path / name)
        assert (size, grey.shape) == ((1024, 1024), (16, 16))


def test_heic_pictures_are_read(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    path = picture(tmp_path / "x.heic", (128, 96), quality=95)
    seen = pictures.read(path, (8, 8, 1))
    assert seen.shape == (8, 8, 1)
    assert seen[0, 0] < 10 and seen[-1, -1] > 240
