"""Sounds of machines: synthesised ones, folders, archives, and what cannot be used."""

import dataclasses
import io
import pathlib
import warnings
import wave
import zipfile

import numpy as np
import pytest
import scipy.io.wavfile

from micronets_jax import data, facts
from micronets_jax.data.embedded import machines
from micronets_jax.data.sources import machine_sounds

FRONT_END = data.LogMelPatches()
SMALL = machines.Machines(train=3, validation=1, normal=2, anomalous=2, seconds=2.2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MICRONETS_CACHE", str(tmp_path / "cache"))


def hiss(seed: int, samples: int = 36_000) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 900, samples).astype(np.int16)


def layout(trained: int = 4, machine_ids: str = "id_00 id_02") -> dict[str, np.ndarray]:
    """Names and samples of a small set in the layout of DCASE 2020 task 2."""
    files = {}
    for i, machine in enumerate(machine_ids.split()):
        for k in range(trained):
            files[f"train/normal_{machine}_{k:08d}.wav"] = hiss(100 * i + k)
        for k in range(2):
            files[f"test/normal_{machine}_{k:08d}.wav"] = hiss(100 * i + 50 + k)
            files[f"test/anomaly_{machine}_{k:08d}.wav"] = hiss(100 * i + 70 + k)
    return files


def folder_of(path: pathlib.Path, files: dict[str, np.ndarray], rate: int = 16_000) -> pathlib.Path:
    for name, samples in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        scipy.io.wavfile.write(path / name, rate, samples)
    return path


def load(source) -> data.Dataset:
    return machine_sounds.load(source, FRONT_END)


# --- synthesised machines ------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_sounds_and_failures_are_only_tested():
    first, again = machines.generate(SMALL), machines.generate(SMALL)
    other = machines.generate(dataclasses.replace(SMALL, seed=1))
    assert {split: len(clips) for split, clips in first.items()} == {
        "train": 24, "validation": 8, "test": 32,
    }  # fmt: skip
    for split, clips in first.items():
        assert sum(clip.anomalous for clip in clips) == (16 if split == "test" else 0)
        for clip, same, changed in zip(clips, again[split], other[split], strict=True):
            np.testing.assert_array_equal(clip.samples, same.samples)
            assert not np.array_equal(clip.samples, changed.samples)
            peaks = np.abs(clip.samples.astype(int))
            assert peaks.max() > 300 and np.mean(peaks >= 32_767) < 1e-3
    sounds = [clip.samples.tobytes() for clips in first.values() for clip in clips]
    assert len(set(sounds)) == len(sounds)


def test_a_shaft_is_heard_at_its_harmonics():
    make = machines._make(SMALL, 1)
    phase = np.arange(16_000) * (make.turns / 16_000)
    sound = machines._periodic(make.shaft, phase, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    strongest = 1 + int(np.argmax(make.shaft))
    assert np.argmax(spectrum) == pytest.approx(strongest * make.turns, abs=1)
    assert np.mean(np.square(sound)) == pytest.approx(1, abs=0.05)


def test_a_part_knocks_where_it_is_due_and_rings_as_high_as_it_does():
    make = machines._make(SMALL, 1)
    cycle = np.arange(3 * 16_000) / 16_000  # a cycle takes a second
    due = np.zeros((5, 4), bool)
    due[2, 1] = True
    spectrum = machines._struck(make, cycle, due, np.random.default_rng(0))
    loudest = np.argmax(np.abs(np.fft.irfft(spectrum, len(cycle)))) / 16_000
    assert loudest == pytest.approx(1 + make.places[2], abs=4 * machines.UNSTEADY)
    assert np.argmax(np.abs(spectrum)) / 3 == pytest.approx(make.rings[2], rel=0.08)
    assert not machines._struck(make, cycle, due & False, np.random.default_rng(0)).any()


def test_machines_of_one_make_differ_in_every_part():
    makes = [machines._make(SMALL, machine) for machine in range(machines.NUM_MACHINES)]
    for field in ("places", "rings", "levels"):
        parts = np.stack([getattr(make, field) for make in makes])
        assert all(len(set(of_part)) == len(makes) for of_part in parts.T)


def test_embedded_machines_are_patches_in_groups():
    tiny = machine_sounds.load("embedded", FRONT_END, size="tiny")
    assert tiny.class_names == tuple(f"id_0{i}" for i in range(8))
    # Four seconds are 124 frames: patches begin at frames 0, 20, 40, 60.
    assert len(tiny.train) == 8 * 40 * 4 and tiny.train.store.shape[1:] == (32, 32, 1)
    np.testing.assert_array_equal(np.bincount(tiny.test.facts[facts.GROUP]), 4)
    assert tiny.test.facts["anomalous"].mean() == 0.5
    assert not tiny.train.facts["anomalous"].any()
    for half in tiny.train.halves(0):
        np.testing.assert_array_equal(np.unique(np.bincount(half.facts["group"])), [0, 4])
    few = tiny.test.part(tiny.test.sample(42, 0))
    assert len(few) == 40 and set(np.bincount(few.facts["group"])) == {0, 4}
    with pytest.raises(data.DataError, match=r"size='huge'.*tiny, quick, paper"):
        machine_sounds.load("embedded", FRONT_END, size="huge")


# --- folders -------------------------------------------------------------------------------------


def test_a_folder_is_divided_by_recording(tmp_path):
    folder = folder_of(tmp_path / "slider", layout(trained=12))
    loaded, again = load(folder), load(folder)
    assert (loaded.name, loaded.class_names) == ("slider", ("id_00", "id_02"))
    # 36,000 samples are 69 frames: one patch. A tenth of 12 recordings of each machine validates.
    sizes = [len(part) for part in (loaded.train, loaded.validation, loaded.test)]
    assert sizes == [22, 2, 8]
    for label, anomalous in ((0, False), (0, True), (1, False), (1, True)):
        same = (loaded.test.labels == label) & (loaded.test.facts["anomalous"] == anomalous)
        assert same.sum() == 2
    expected = FRONT_END.read(folder / "test" / "anomaly_id_00_00000000.wav")
    np.testing.assert_array_equal(loaded.test.examples[:1], expected)
    assert loaded.fingerprint == again.fingerprint
    np.testing.assert_array_equal(loaded.train.examples, again.train.examples)


def test_other_rates_are_converted_with_one_warning(tmp_path):
    folder = folder_of(tmp_path / "d", layout(), rate=12_000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(folder)
    assert [str(w.message)[:13] for w in caught] == ["16 recordings"]


def spoil(problem: str) -> dict[str, np.ndarray]:
    files = layout()
    if problem == "short":
        files["train/normal_id_00_00000001.wav"] = hiss(1, 30_000)
    if problem == "untested":
        files = {
            name: x for name, x in files.items() if not name.startswith("test") or "02" in name
        }
    if problem == "one state":
        files = {name: x for name, x in files.items() if "anomaly_id_02" not in name}
    if problem == "untrained":
        files["test/normal_id_08_00000000.wav"] = hiss(2)
    if problem == "failing":
        files["train/anomaly_id_00_00000000.wav"] = hiss(3)
    if problem == "named":
        files["train/section_00.wav"] = hiss(4)
    if problem == "one machine":
        files = layout(machine_ids="id_00")
    if problem == "few":
        files = layout(trained=2)
    if problem == "no test":
        files = {name: x for name, x in files.items() if name.startswith("train")}
    return files


@pytest.mark.parametrize(
    ("problem", "part"),
    [
        ("missing", "has no folder train; give embedded, tfds, or a folder"),
        ("no test", "has no folder test"),
        ("short", r"normal_id_00_00000001\.wav lasts 1.88 s, less than a patch of 2.08 s"),
        ("untested", "has no test recordings of id_00"),
        ("one state", "2 test recordings of id_02 are all normal, so that its AUC has no value"),
        ("untrained", "tests id_08 but has no train/normal_id_08"),
        ("failing", r"anomaly_id_00_00000000\.wav would train on a failing machine"),
        ("named", r"section_00\.wav is named otherwise"),
        ("one machine", "of 1 machines, and the method tells machines apart"),
        ("few", "has 2 training recordings of id_00; give at least 3"),
    ],
)
def test_bad_folders_end_in_one_sentence(tmp_path, problem, part):
    folder_of(tmp_path / "d", {} if problem == "missing" else spoil(problem))
    with pytest.raises(data.DataError, match=part) as caught:
        load(tmp_path / "d")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


# --- the original archives -----------------------------------------------------------------------


def as_wav(samples: np.ndarray, channels: int = 1, rate: int = 16_000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(samples[:, None], channels, axis=1).tobytes())
    return out.getvalue()


@pytest.mark.slow
def test_the_builder_reads_a_miniature_archive(tmp_path, monkeypatch):
    files = layout(trained=6)
    manual = tmp_path / "tfds" / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "dev_data_fan.zip").write_bytes(b"")
    with pytest.raises(data.DataError, match=r"dev_data_slider\.zip is missing"):
        machine_sounds.from_tfds(FRONT_END, data_dir=tmp_path / "tfds")
    with zipfile.ZipFile(manual / "dev_data_slider.zip", "w") as archive:
        archive.writestr("slider/readme.txt", "not a recording")
        for name, samples in files.items():
            archive.writestr(f"slider/{name}", as_wav(samples, channels=2))
    served = machine_sounds.from_tfds(FRONT_END, data_dir=tmp_path / "tfds")
    plain = load(folder_of(tmp_path / "d", files))
    assert served.class_names == plain.class_names
    for split in ("train", "validation", "test"):
        mine, theirs = getattr(served, split), getattr(plain, split)
        np.testing.assert_array_equal(np.sort(mine.labels), np.sort(theirs.labels))
        assert {x.tobytes() for x in mine.examples} == {x.tobytes() for x in theirs.examples}
