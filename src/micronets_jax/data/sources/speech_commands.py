"""Speech Commands: a folder in its layout, or the data set itself through TensorFlow Datasets.

Invariant: the same files, words and seed give the same splits, labels and clips; no speaker and no
group of near-duplicates is in two splits, unless a warning says so.

The layout (Warden, "Speech Commands", 2018, section 5): ``<word>/<speaker>_nohash_<take>.wav``,
``_background_noise_/*.wav``, and ``validation_list.txt`` and ``testing_list.txt``, which hold lines
``<word>/<file>``. A tenth as many clips of silence, and of unknown words, as there are clips of the
wanted words join each split, as in that paper's task. Folders named ``silence``, ``unknown`` and
``noise``, with or without underscores about them, are what they say.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import scipy
from jaxtyping import Int16

from micronets_jax.data import cache, duplicates, recordings, splits
from micronets_jax.data.dataset import DataError, Dataset, counted, warn
from micronets_jax.data.embedded import vocabulary
from micronets_jax.data.recordings import SAMPLE_RATE
from micronets_jax.facts import FILE, SPEAKER
from micronets_jax.spotting import SILENCE, UNKNOWN

TARGETS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
"""The ten words of the 12-class task."""

BACKGROUND = ("background_noise", "noise", "background")
"""Folders of noise, in lower case and without underscores about them."""

LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
STRETCHES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
"""Part of each noise recording from which a split takes its silence."""

LONGEST_NOISE = 60 * SAMPLE_RATE  # samples kept of a recording


@dataclasses.dataclass(frozen=True)
class _Task:
    """Which words are told apart.

    Attributes:
        class_names: by label.
        words: of these, what is told apart; other words together are ``unknown``.
        made_silence: the label of silence where its clips are made of noise.
        unknown: the label of all other words, if they have one.
    """

    class_names: tuple[str, ...]
    words: tuple[str, ...]
    made_silence: int | None = None
    unknown: int | None = None

    def label(self, word: str) -> int:
        if word in self.class_names:
            return self.class_names.index(word)
        assert self.unknown is not None  # otherwise every word is listed
        return self.unknown


@dataclasses.dataclass(frozen=True)
class _Clip:
    path: str  # <folder>/<file>
    word: str
    speaker: str  # empty where the name says none
    label: int
    split: str = ""


def load(
    source: str | pathlib.Path = "embedded",
    *,
    size: str = "quick",
    seed: int = 0,
    words: Sequence[str] | None = None,
    cache_folder: pathlib.Path | None = None,
) -> Dataset:
    """The data set of keywords behind a name or a folder.

    Args:
        source: ``embedded`` (synthesised), ``tfds`` (Speech Commands through TensorFlow Datasets),
            or a folder of recordings laid out as Speech Commands V2.
        size: of the embedded data: ``tiny``, ``quick`` or ``paper``.
        seed: of the embedded data, of made-up silence, and of splits where names carry no speaker.
        words: the words to tell apart; all other words together become ``unknown``.
        cache_folder: where decoded audio is kept; see ``cache.default_folder``.

    Returns:
        int16 clips [n, 16000] at 16 kHz in three splits, labels int32 [n]; ``extras`` hold
        background ``noise``, int16 [recordings, samples].

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

    Args:
        size: ``tiny``, ``quick`` or ``paper``.
        words: must be None: the words of the vocabulary are fixed.
        seed: of the synthesis.
        cache_folder: where clips are kept; see ``cache.default_folder``.

    Returns:
        As :func:`load`.

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

    Args:
        folder: one folder for each word.
        words: the words to tell apart, all other words becoming ``unknown``; None as above.
        seed: of made-up silence, and of splits where names carry no speaker.
        cache_folder: where decoded audio is kept; see ``cache.default_folder``.

    Returns:
        As :func:`load`.

    Raises:
        DataError: the folder is missing or empty, has one class, no folder for a word, too few
            clips of a class in a split, or a file that cannot be read.
    """
    files, noise_files = _scan(folder)
    task = _task(tuple(files), words, f"data folder {folder}")

    def stamp(path: str) -> tuple[str, int, int]:
        status = (folder / path).stat()
        return path, status.st_size, status.st_mtime_ns

    paths = [path for found in files.values() for path in found]
    looked = _looked(folder, [stamp(path) for path in paths], cache_folder)
    near = dict(zip(paths, looked["near"].tolist(), strict=True))
    seconds = dict(zip(paths, looked["seconds"].tolist(), strict=True))
    if converted := int(looked["converted"].sum()):
        warn(
            f"{counted(converted, 'recording')} in {folder} not mono at 16 kHz, converted when read"
        )
    clips = _choose(_assign(folder, files, task, near, seed), task, seed)
    _refuse_too_few(clips, task, folder)

    fingerprint = cache.key(
        clips=[(*stamp(clip.path), clip.split, clip.label) for clip in clips],
        noise=[stamp(path) for path in noise_files],
        class_names=task.class_names,
        seed=seed,
        code=[cache.code(module) for module in (recordings, vocabulary, duplicates)],
        versions=[np.__version__, scipy.__version__],
    )

    def build() -> dict[str, np.ndarray]:
        noise = _noise(folder, noise_files, seed)
        # Made-up noise stands for the hiss of a microphone that hears nothing.
        volume = 1.0 if noise_files else 0.001
        out: dict[str, np.ndarray] = {"noise": noise}
        made_before = len(paths)
        for split in STRETCHES:
            part = [clip for clip in clips if clip.split == split]
            sounds = np.empty((len(part), SAMPLE_RATE), np.int16)

            def decode(i: int, sounds=sounds, part=part) -> None:
                sounds[i] = recordings.read_clip(folder / part[i].path)

            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(decode, range(len(part))))
            labels = np.array([clip.label for clip in part], np.int32)
            sounds, labels = _with_silence(split, sounds, labels, noise, volume, task, seed)
            made = len(labels) - len(part)
            out[f"{split}_examples"], out[f"{split}_labels"] = sounds, labels
            out[f"{split}_{FILE}"] = np.array([c.path for c in part] + [""] * made, np.str_)
            out[f"{split}_{SPEAKER}"] = np.array([c.speaker for c in part] + [""] * made, np.str_)
            out[f"{split}_seconds"] = np.array([seconds[c.path] for c in part] + [1.0] * made)
            alone = list(range(made_before, made_before + made))  # nobody's duplicates
            made_before += made
            out[f"{split}_{duplicates.NEAR}"] = np.array([near[c.path] for c in part] + alone)
        return out

    arrays = cache.arrays(f"speech-{fingerprint}", build, cache_folder)
    return Dataset.from_arrays(folder.name, fingerprint, task.class_names, arrays)


def _looked(
    folder: pathlib.Path, stamps: list[tuple[str, int, int]], cache_folder: pathlib.Path | None
) -> dict[str, np.ndarray]:
    """Of every recording ``seconds``, whether it is ``converted``, and ``near``, the group of
    near-duplicates."""

    def build() -> dict[str, np.ndarray]:
        def see(stamp: tuple[str, int, int]) -> tuple[float, bool, np.ndarray]:
            samples, converted = recordings.read(folder / stamp[0])
            signature = duplicates.of_clip(recordings.one_second(samples))
            return len(samples) / SAMPLE_RATE, converted, signature

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            seconds, converted, signatures = zip(*pool.map(see, stamps), strict=True)
        few = len(stamps) <= duplicates.MOST
        near = duplicates.groups(np.stack(signatures)) if few else np.arange(len(stamps))
        return {
            "seconds": np.array(seconds),
            "converted": np.array(converted, bool),
            "near": near,
        }

    name = cache.key(files=stamps, code=[cache.code(m) for m in (recordings, duplicates)])
    return cache.arrays(f"heard-{name}", build, cache_folder)


def _scan(folder: pathlib.Path) -> tuple[dict[str, list[str]], list[str]]:
    """The recordings of each word, and of noise, as paths in the folder.

    Folders for silence and for unknown words bear the names of these classes, and come last.
    """
    if not folder.is_dir():
        raise DataError(
            f"data folder {folder} is not there; give embedded, tfds, or a folder with one "
            "folder of recordings per word"
        )
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    files: dict[str, list[str]] = {}
    noise: list[str] = []
    for name in names:
        found = [f"{name}/{file}" for file in recordings.listed(folder / name)]
        plain = name.strip("_").lower()
        if plain in BACKGROUND:
            noise += found
        elif found:
            files.setdefault(plain if plain in (SILENCE, UNKNOWN) else name, []).extend(found)
    if not files:
        raise DataError(
            f"data folder {folder} holds no recordings; put them in one folder per word, as "
            f"{folder}/<word>/<name>.wav"
        )
    last = {name: files.pop(name) for name in (SILENCE, UNKNOWN) if name in files}
    return files | last, noise


def _task(found: tuple[str, ...], words: Sequence[str] | None, where: str) -> _Task:
    plain = {name.lower(): name for name in found if name not in (SILENCE, UNKNOWN)}
    if words is None and not set(TARGETS) <= set(plain):
        if len(found) < 2:
            raise DataError(
                f"{where} has one class, {', '.join(found)!r}; a classifier needs at least two"
            )
        unknown = found.index(UNKNOWN) if UNKNOWN in found else None
        return _Task(class_names=found, words=tuple(plain.values()), unknown=unknown)
    chosen = tuple(plain.get(word.lower(), word) for word in (TARGETS if words is None else words))
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
    made = None if SILENCE in found else len(chosen)
    if set(found) <= {*chosen, SILENCE}:
        return _Task(class_names=names, words=chosen, made_silence=made)
    return _Task((*names, UNKNOWN), chosen, made_silence=made, unknown=len(chosen) + 1)


def _assign(
    folder: pathlib.Path, files: dict[str, list[str]], task: _Task, near: dict[str, int], seed: int
) -> list[_Clip]:
    """Every recording with its label and split: by the lists; or by speaker, by the data set's rule
    or else at random; or at random in each class, where names carry no speaker."""
    clips = [
        _Clip(path, word, _speaker(path), task.label(word))
        for word, paths in files.items()
        for path in paths
    ]
    listed = _read_lists(folder)
    if listed is not None:
        by_list = _divided(clips, lambda clip: listed.get(clip.path, "train"))
        lacking = _lacking(by_list, task)
        if not lacking:
            return by_list
        warn(
            f"{' and '.join(LISTS.values())} in {folder} are not followed, for with them "
            f"{lacking}: recordings are divided by speaker or at random"
        )
    named = [clip for clip in clips if clip.speaker]
    lots = {
        path: split
        for word in files
        for path, split in splits.tenths(
            [c.path for c in clips if c.word == word and not c.speaker],
            word,
            seed,
            ("validation", "test"),
        ).items()
    }
    lots = splits.together(lots, {path: near[path] for path in lots}, seed)
    by_rule = _divided(clips, lambda c: speaker_split(c.speaker) if c.speaker else lots[c.path])
    if not named or not _lacking(by_rule, task):
        return by_rule
    units = [clip.speaker or f"/{near[clip.path]}" for clip in clips]
    drawn = splits.by_units(units, [clip.label for clip in clips], seed)
    if drawn is not None:
        return [dataclasses.replace(c, split=s) for c, s in zip(clips, drawn, strict=True)]
    speakers = {name: {c.speaker for c in clips if c.word == name and c.speaker} for name in files}
    fewest = min((name for name in files if speakers[name]), key=lambda name: len(speakers[name]))
    lots = {
        path: split
        for word, paths in files.items()
        for path, split in splits.tenths(paths, word, seed, ("validation", "test")).items()
    }
    lots = splits.together(lots, near, seed)
    by_clip = _divided(clips, lambda clip: lots[clip.path])
    if not _lacking(by_clip, task):
        warn(
            f"{counted(len(speakers[fewest]), 'speaker')} of {fewest!r} in {folder}: too few for "
            "three splits without a speaker in two of them, so recordings are divided at random, "
            "and other voices may be heard less well than the test says; record at least 3 "
            "speakers of each word"
        )
    return by_clip


def _divided(clips: list[_Clip], split: Callable[[_Clip], str]) -> list[_Clip]:
    return [dataclasses.replace(clip, split=split(clip)) for clip in clips]


def _speaker(path: str) -> str:
    """What stands before ``_nohash_`` in a file's name."""
    name = path.rpartition("/")[2]
    return name.partition("_nohash_")[0] if "_nohash_" in name else ""


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
    speaker = name.partition("_nohash_")[0]
    most = 2**27 - 1
    percentage = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (most + 1) * (100 / most)
    return "validation" if percentage < 10 else "test" if percentage < 20 else "train"


def _choose(clips: list[_Clip], task: _Task, seed: int) -> list[_Clip]:
    """All clips of wanted words and of a folder of unknown ones, and of other words, at random, so
    many that unknown words are a tenth of the wanted ones."""

    def of_other_words(clip: _Clip) -> bool:
        return clip.label == task.unknown and clip.word != UNKNOWN

    chosen = [clip for clip in clips if not of_other_words(clip)]
    for split in STRETCHES:
        others = [c for c in clips if c.split == split and of_other_words(c)]
        others.sort(key=lambda clip: splits.digest(seed, clip.path))
        mine = [clip for clip in chosen if clip.split == split]
        known = sum(clip.label != task.unknown for clip in mine)
        chosen += others[: max(0, _tenth(known, split) - (len(mine) - known))]
    return chosen


def _tenth(count: int, split: str) -> int:
    return max(splits.FEWEST[split], math.ceil(count / 10))


def _lacking(clips: list[_Clip], task: _Task) -> str:
    """The first class of which a split has too few clips, in words; empty if there is none."""
    counts = collections.Counter((clip.split, clip.label) for clip in clips)
    for label, name in enumerate(task.class_names):
        for split, fewest in splits.FEWEST.items():
            if label != task.made_silence and counts[split, label] < fewest:
                return (
                    f"{counted(counts[split, label], 'clip')} of {name!r} in the {split} split, "
                    f"which needs at least {fewest}"
                )
    return ""


def _refuse_too_few(clips: list[_Clip], task: _Task, folder: pathlib.Path) -> None:
    if lacking := _lacking(clips, task):
        raise DataError(
            f"data folder {folder}: {lacking}; add recordings (of more speakers), or say in "
            f"{' and '.join(LISTS.values())} which to hold out"
        )


def _noise(
    folder: pathlib.Path, paths: list[str], seed: int
) -> Int16[np.ndarray, "recordings length"]:
    """Background recordings, repeated to the length of the longest; without any, made-up ones."""
    if not paths:
        return vocabulary.noise_recordings(seed)
    read = [recordings.read(folder / path)[0] for path in paths]
    length = min(LONGEST_NOISE, max(SAMPLE_RATE, *(len(samples) for samples in read)))
    return np.stack([np.resize(samples, length) for samples in read])


def _with_silence(
    split: str,
    sounds: Int16[np.ndarray, "clips samples"],
    labels: np.ndarray,
    noise: Int16[np.ndarray, "recordings length"],
    volume: float,
    task: _Task,
    seed: int,
) -> tuple[Int16[np.ndarray, "all samples"], np.ndarray]:
    """A split's clips and labels with background noise added, where silence is made of that."""
    if task.made_silence is not None:
        count = _tenth(int(np.sum(labels < len(task.words))), split)
        rng = np.random.default_rng([seed, list(STRETCHES).index(split)])
        room = noise.shape[1] - SAMPLE_RATE
        low, high = (int(part * room) for part in STRETCHES[split])
        starts = rng.integers(low, high, (count, 1), endpoint=True)
        rows = rng.integers(0, len(noise), (count, 1))
        quiet = noise[rows, starts + np.arange(SAMPLE_RATE)]
        quiet = np.rint(quiet * (volume * np.square(rng.random((count, 1))))).astype(np.int16)
        sounds = np.concatenate([sounds, quiet])
        labels = np.concatenate([labels, np.full(count, task.made_silence, np.int32)])
    return sounds, labels


def from_tfds(
    *,
    words: Sequence[str] | None = None,
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
    data_dir: str | pathlib.Path | None = None,
) -> Dataset:
    """Speech Commands as TensorFlow Datasets serves it, downloaded on first use.

    It labels the ten target words, ``_silence_`` (stretches of the background recordings) and
    ``_unknown_`` (all other words, of which as many as a tenth of the wanted ones are kept, at
    random).

    Args:
        words: some of the ten target words; the others become unknown.
        seed: of the draw of unknown words.
        cache_folder: where decoded audio is kept; see ``cache.default_folder``.
        data_dir: of TensorFlow Datasets, its default if not given.

    Returns:
        As :func:`load`.

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
    label_of = [task.label(SILENCE if n == "_silence_" else n) for n in names]
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
        silent = out["train_examples"][out["train_labels"] == task.made_silence]
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
