"""Speech Commands: a folder in its layout, or the data set itself through TensorFlow Datasets.

Invariant: the same files, words and seed give the same splits, labels and clips.

The layout (Warden, "Speech Commands", 2018, section 5): ``<word>/<speaker>_nohash_<take>.wav``,
``_background_noise_/*.wav``, and ``validation_list.txt`` and ``testing_list.txt``, which hold lines
``<word>/<file>``. A tenth as many clips of silence, and of unknown words, as there are clips of the
wanted words join each split, as in that paper's task.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import math
import os
import pathlib
import re
import warnings
from collections.abc import Sequence

import numpy as np
import scipy
from jaxtyping import Int16

from micronets_jax.data import cache, recordings, vocabulary
from micronets_jax.data.dataset import DataError, Dataset
from micronets_jax.data.recordings import SAMPLE_RATE
from micronets_jax.data.vocabulary import SILENCE, UNKNOWN

TARGETS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
"""The ten words of the 12-class task."""

BACKGROUND = "_background_noise_"
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
FEWEST = {"train": 2, "validation": 1, "test": 1}  # clips of a class; training data is halved later
STRETCHES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
"""Part of each noise recording from which a split takes its silence."""

LONGEST_NOISE = 60 * SAMPLE_RATE  # samples kept of a recording


@dataclasses.dataclass(frozen=True)
class _Task:
    """Which words are told apart; the label of a word that is not listed is ``unknown``, if any."""

    class_names: tuple[str, ...]
    words: tuple[str, ...]
    silence: int | None = None
    unknown: int | None = None

    def label(self, word: str) -> int:
        if word in self.words:
            return self.words.index(word)
        assert self.unknown is not None  # otherwise every word is listed
        return self.unknown


@dataclasses.dataclass(frozen=True)
class _Clip:
    path: str  # <word>/<file>
    split: str
    label: int


def load(
    source: str | pathlib.Path = "embedded",
    *,
    size: str = "quick",
    seed: int = 0,
    words: Sequence[str] | None = None,
    cache_folder: pathlib.Path | None = None,
) -> Dataset:
    """The data set of keywords behind a name or a folder; ``extras`` hold background ``noise``.

    Args:
        source: ``embedded`` (synthesised), ``tfds`` (Speech Commands through TensorFlow Datasets),
            or a folder of recordings laid out as Speech Commands V2.
        size: of the embedded data: ``tiny``, ``quick`` or ``paper``.
        seed: of the embedded data, of made-up silence, and of splits where names carry no speaker.
        words: the words to tell apart; all other words together become ``unknown``.
        cache_folder: where decoded audio is kept; see ``cache.default_folder``.

    Raises:
        DataError: the source is missing, empty, damaged or too small; the message names it.
    """
    if source == "embedded":
        return embedded(size=size, words=words, seed=seed, cache_folder=cache_folder)
    if source == "tfds":
        return from_tfds(words=words, seed=seed, cache_folder=cache_folder)
    return from_folder(pathlib.Path(source), words=words, seed=seed, cache_folder=cache_folder)


def embedded(
    *,
    size: str = "quick",
    words: Sequence[str] | None = None,
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
) -> Dataset:
    """The synthesised vocabulary, made once and kept on disk.

    Raises:
        DataError: no such size, or ``words`` are given.
    """
    if size not in vocabulary.SIZES:
        raise DataError(f"size={size!r} is not known; choose from {', '.join(vocabulary.SIZES)}")
    if words:
        raise DataError(
            f"words={', '.join(words)}: the embedded data has its own words; "
            "leave words out, or give a folder of recordings"
        )
    spec = dataclasses.replace(vocabulary.SIZES[size], seed=seed)
    fingerprint = cache.key(
        spec=dataclasses.asdict(spec), code=cache.code(vocabulary), numpy=np.__version__
    )
    arrays = cache.arrays(
        f"embedded-{fingerprint}", lambda: vocabulary.generate(spec), cache_folder
    )
    return Dataset.from_arrays(f"embedded ({size})", fingerprint, vocabulary.CLASS_NAMES, arrays)


def from_folder(
    folder: pathlib.Path,
    *,
    words: Sequence[str] | None = None,
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
) -> Dataset:
    """The recordings in a folder of folders.

    The classes are ``words`` if given, else the ten target words if there is a folder for each,
    else all folders. In the first two cases ``silence`` follows, and ``unknown`` if other folders
    exist. Decoded audio is kept on disk and memory-mapped. Recordings that are not mono at 16 kHz
    are converted, with one warning for the folder.

    Raises:
        DataError: the folder is missing or empty, has one class, no folder for a word, too few
            clips of a class in a split, or a file that cannot be read.
    """
    files = _scan(folder)
    task = _task(tuple(files), words, f"data folder {folder}")
    clips = _choose(_assign(folder, files, task, seed), task, seed)
    _refuse_too_few(clips, task, folder)
    noise_files = _wavs(folder / BACKGROUND) if (folder / BACKGROUND).is_dir() else []

    def stamp(path: str) -> tuple[str, int, int]:
        status = (folder / path).stat()
        return path, status.st_size, status.st_mtime_ns

    fingerprint = cache.key(
        clips=[(*stamp(clip.path), clip.split, clip.label) for clip in clips],
        noise=[stamp(f"{BACKGROUND}/{name}") for name in noise_files],
        class_names=task.class_names,
        seed=seed,
        code=[cache.code(module) for module in (recordings, vocabulary)],
        versions=[np.__version__, scipy.__version__],
    )

    def build() -> dict[str, np.ndarray]:
        noise, converted = _noise(folder, noise_files, seed)
        # Made-up noise stands for the hiss of a microphone that hears nothing.
        volume = 1.0 if noise_files else 0.001
        out: dict[str, np.ndarray] = {"noise": noise}
        for split in STRETCHES:
            part = [clip for clip in clips if clip.split == split]
            sounds = np.empty((len(part), SAMPLE_RATE), np.int16)

            def decode(i: int, sounds=sounds, part=part) -> bool:
                samples, was_converted = recordings.read(folder / part[i].path)
                sounds[i] = recordings.one_second(samples)
                return was_converted

            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                converted += sum(pool.map(decode, range(len(part))))
            labels = np.array([clip.label for clip in part], np.int32)
            out |= _with_silence(split, sounds, labels, noise, volume, task, seed)
        return out | {"converted": np.array(converted)}

    arrays = cache.arrays(f"speech-{fingerprint}", build, cache_folder)
    converted = arrays.pop("converted")
    if converted > 0:
        warnings.warn(
            f"{int(converted)} recordings in {folder} were not mono at 16 kHz and have "
            "been converted",
            stacklevel=2,
        )
    return Dataset.from_arrays(folder.name, fingerprint, task.class_names, arrays)


def _wavs(folder: pathlib.Path) -> list[str]:
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(".wav") and not entry.name.startswith(".")
    )


def _scan(folder: pathlib.Path) -> dict[str, list[str]]:
    """Names of the recordings in each folder that has some."""
    if not folder.is_dir():
        raise DataError(
            f"data folder {folder} is not there; give embedded, tfds, or a folder with one "
            "folder of WAV files per word"
        )
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".") and entry.name != BACKGROUND
    )
    files = {name: _wavs(folder / name) for name in names}
    files = {name: found for name, found in files.items() if found}
    if not files:
        raise DataError(
            f"data folder {folder} holds no recordings; put them in one folder per word, as "
            f"{folder}/<word>/<name>.wav"
        )
    return files


def _task(found: tuple[str, ...], words: Sequence[str] | None, where: str) -> _Task:
    if words is None and not set(TARGETS) <= set(found):
        if len(found) < 2:
            raise DataError(
                f"{where} has one class, {', '.join(found)!r}; a classifier needs at least two"
            )
        return _Task(class_names=found, words=found)
    chosen = TARGETS if words is None else tuple(words)
    missing = [word for word in chosen if word not in found]
    if missing:
        raise DataError(
            f"words: there is no {missing[0]!r} in {where}; choose from {', '.join(found)}"
        )
    if not chosen or len(set(chosen)) < len(chosen) or {SILENCE, UNKNOWN} & set(chosen):
        raise DataError(
            f"words={', '.join(chosen)}: give different words, at least one; the classes "
            f"{SILENCE} and {UNKNOWN} are added to them"
        )
    names = (*chosen, SILENCE)
    if set(found) <= set(chosen):
        return _Task(class_names=names, words=chosen, silence=len(chosen))
    return _Task((*names, UNKNOWN), chosen, silence=len(chosen), unknown=len(chosen) + 1)


def _assign(
    folder: pathlib.Path, files: dict[str, list[str]], task: _Task, seed: int
) -> list[_Clip]:
    """Each recording's split and label, by the lists, by the speaker or by lot, in this order."""
    listed = _read_lists(folder)
    clips = []
    for word, names in files.items():
        lot = sorted(
            (name for name in names if "_nohash_" not in name),
            key=lambda name: _digest(seed, word, name),
        )
        tenth = max(1, round(len(lot) / 10))
        place = {name: i // tenth for i, name in enumerate(lot)}
        for name in names:
            path = f"{word}/{name}"
            if listed is not None:
                split = listed.get(path, "train")
            elif name in place:
                split = {0: "validation", 1: "test"}.get(place[name], "train")
            else:
                split = speaker_split(name)
            clips.append(_Clip(path, split, task.label(word)))
    return clips


def _read_lists(folder: pathlib.Path) -> dict[str, str] | None:
    present = {split: name for split, name in LISTS.items() if (folder / name).is_file()}
    if not present:
        return None
    if len(present) < len(LISTS):
        (there,) = present.values()
        raise DataError(
            f"data folder {folder} has {there} but not both of {', '.join(LISTS.values())}; give "
            "both, or neither to split by speaker"
        )
    return {
        line.strip(): split
        for split, name in present.items()
        for line in (folder / name).read_text(encoding="utf-8").splitlines()
        if line.strip()
    }


def speaker_split(name: str) -> str:
    """The split of a file by the data set's own rule: a tenth of speakers each, by their hash.

    A speaker is what stands before ``_nohash_`` and stays in one split whatever is added later.
    """
    speaker = re.sub(r"_nohash_.*$", "", name)
    most = 2**27 - 1
    percentage = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (most + 1) * (100 / most)
    return "validation" if percentage < 10 else "test" if percentage < 20 else "train"


def _digest(seed: int, *parts: str) -> str:
    return hashlib.sha1("/".join([str(seed), *parts]).encode()).hexdigest()


def _choose(clips: list[_Clip], task: _Task, seed: int) -> list[_Clip]:
    """All clips of wanted words, and by lot a tenth of their number of unknown ones."""
    chosen = [clip for clip in clips if clip.label != task.unknown]
    for split in STRETCHES:
        others = [c for c in clips if c.split == split and c.label == task.unknown]
        others.sort(key=lambda clip: _digest(seed, clip.path))
        chosen += others[: _tenth(sum(clip.split == split for clip in chosen), split)]
    return chosen


def _tenth(count: int, split: str) -> int:
    return max(FEWEST[split], math.ceil(count / 10))


def _refuse_too_few(clips: list[_Clip], task: _Task, folder: pathlib.Path) -> None:
    counts = collections.Counter((clip.split, clip.label) for clip in clips)
    for label, name in enumerate(task.class_names):
        for split, fewest in FEWEST.items():
            if label != task.silence and counts[split, label] < fewest:
                raise DataError(
                    f"data folder {folder}: {counts[split, label]} clips of {name!r} fall into the "
                    f"{split} split, which needs at least {fewest}; add recordings (of more "
                    f"speakers), or say in {' and '.join(LISTS.values())} which to hold out"
                )


def _noise(
    folder: pathlib.Path, names: list[str], seed: int
) -> tuple[Int16[np.ndarray, "recordings length"], int]:
    """Background recordings, repeated to the length of the longest, and how many were converted.

    Without any, made-up ones.
    """
    if not names:
        return vocabulary.noise_recordings(seed), 0
    read = [recordings.read(folder / BACKGROUND / name) for name in names]
    length = min(LONGEST_NOISE, max(SAMPLE_RATE, *(len(samples) for samples, _ in read)))
    return np.stack([np.resize(samples, length) for samples, _ in read]), sum(c for _, c in read)


def _with_silence(
    split: str,
    sounds: Int16[np.ndarray, "clips samples"],
    labels: np.ndarray,
    noise: Int16[np.ndarray, "recordings length"],
    volume: float,
    task: _Task,
    seed: int,
) -> dict[str, np.ndarray]:
    """A split's arrays with clips of background noise added, where the task has that class."""
    if task.silence is not None:
        count = _tenth(int(np.sum(labels < len(task.words))), split)
        rng = np.random.default_rng([seed, list(STRETCHES).index(split)])
        room = noise.shape[1] - SAMPLE_RATE
        low, high = (int(part * room) for part in STRETCHES[split])
        starts = rng.integers(low, high, (count, 1), endpoint=True)
        rows = rng.integers(0, len(noise), (count, 1))
        quiet = noise[rows, starts + np.arange(SAMPLE_RATE)]
        quiet = np.rint(quiet * (volume * np.square(rng.random((count, 1))))).astype(np.int16)
        sounds = np.concatenate([sounds, quiet])
        labels = np.concatenate([labels, np.full(count, task.silence, np.int32)])
    return {f"{split}_examples": sounds, f"{split}_labels": labels}


def from_tfds(
    *,
    words: Sequence[str] | None = None,
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
    data_dir: str | pathlib.Path | None = None,
) -> Dataset:
    """Speech Commands as TensorFlow Datasets serves it, downloaded on first use.

    It labels the ten target words, ``_silence_`` (stretches of the background recordings) and
    ``_unknown_`` (all other words, of which a tenth of the number of wanted words is kept by lot).

    Args:
        words: some of the ten target words; the others become unknown.

    Raises:
        DataError: it can be neither found nor downloaded, or ``words`` holds another word.
    """
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder("speech_commands", data_dir=data_dir)
        builder.download_and_prepare()
    except Exception as error:  # no network, a full disk, a damaged download: all say so themselves
        raise DataError(
            f"TensorFlow Datasets cannot prepare speech_commands ({error}); mend that, or give "
            "the folder of an unpacked Speech Commands archive"
        ) from error
    names = builder.info.features["label"].names  # pyright: ignore
    task = _task((*TARGETS, "other words"), words or TARGETS, "speech_commands of tfds")
    label_of = [task.silence if n == "_silence_" else task.label(n) for n in names]
    fingerprint = cache.key(
        data=builder.info.full_name,
        sizes={name: info.num_examples for name, info in builder.info.splits.items()},
        class_names=task.class_names,
        seed=seed,
    )

    def build() -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        skip = {"audio": tfds.decode.SkipDecoding()}
        for split in STRETCHES:
            examples = tfds.as_numpy(builder.as_dataset(split=split, decoders=skip))  # pyright: ignore
            labels = np.array([label_of[example["label"]] for example in examples], np.int32)
            keep = _keep(labels, task, split, seed)
            sounds = np.empty((len(keep), SAMPLE_RATE), np.int16)
            examples = tfds.as_numpy(builder.as_dataset(split=split))  # pyright: ignore
            position = {row: i for i, row in enumerate(keep.tolist())}
            for row, example in enumerate(examples):
                if row in position:
                    sounds[position[row]] = recordings.one_second(example["audio"].astype(np.int16))
            out |= {f"{split}_examples": sounds, f"{split}_labels": labels[keep]}
        silent = out["train_examples"][out["train_labels"] == task.silence]
        out["noise"] = silent if len(silent) else vocabulary.noise_recordings(seed)
        return out

    arrays = cache.arrays(f"tfds-{fingerprint}", build, cache_folder)
    return Dataset.from_arrays("speech_commands", fingerprint, task.class_names, arrays)


def _keep(labels: np.ndarray, task: _Task, split: str, seed: int) -> np.ndarray:
    """Rows to keep of a split: all but most of the unknown words."""
    unknown = np.flatnonzero(labels == task.unknown)
    count = _tenth(int(np.sum(labels < len(task.words))), split)
    lot = np.random.default_rng([seed, len(labels)]).permutation(unknown)[:count]
    return np.sort(np.concatenate([np.flatnonzero(labels != task.unknown), lot]))
