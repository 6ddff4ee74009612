"""Recordings of machines, for anomaly detection: a folder as DCASE 2020 task 2 lays it out.

Invariant: the same files and seed give the same splits; no anomalous recording is trained on.

The layout (Koizumi et al., DCASE 2020, task 2): ``train/normal_<id>_<number>.wav`` and
``test/{normal,anomaly}_<id>_<number>.wav``, ids as ``id_00``. A class is one machine. Examples are
patches; those of one recording are a group, and the test split's fact ``anomalous`` says of each
whether its recording is.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import scipy

from micronets_jax.data import cache, recordings, splits
from micronets_jax.data.dataset import SPLITS, DataError, Dataset, counted, warn
from micronets_jax.data.embedded import machines
from micronets_jax.data.frontends import LogMelPatches, log_mel, to_json
from micronets_jax.facts import ANOMALOUS, GROUP

NAME = re.compile(r"(?P<state>normal|anomaly)_(?P<machine>id_\d+)_.+\.wav", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Recording:
    """A file of the layout, or of an archive, and what its name says."""

    path: str  # train/<name> or test/<name>
    machine: str
    anomalous: bool


def load(
    source: str | pathlib.Path,
    frontend: LogMelPatches,
    *,
    size: str = "quick",
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
) -> Dataset:
    """The patches of the machines behind a name or a folder.

    Args:
        source: ``embedded`` (synthesised), ``tfds`` (what ``micronets_dcase`` has prepared), or a
            folder with ``train`` and ``test``.
        frontend: what cuts recordings into patches.
        size: of the embedded data: ``tiny``, ``quick`` or ``paper``.
        seed: of the embedded data, and of which training recordings validate.
        cache_folder: where patches are kept; see ``cache.default_folder``.

    Returns:
        float32 patches [n, mel, time, 1] in dB in three splits, labels int32 [n] by machine; the
        splits' facts tell recordings apart, and anomalous ones.

    Raises:
        DataError: the source is missing, damaged, too small, or cannot be judged; the message
            names what.
    """
    if source == "embedded":
        return embedded(frontend, size=size, seed=seed, cache_folder=cache_folder)
    if source == "tfds":
        return from_tfds(frontend, seed=seed, cache_folder=cache_folder)
    return from_folder(pathlib.Path(source), frontend, seed=seed, cache_folder=cache_folder)


def embedded(
    frontend: LogMelPatches,
    *,
    size: str = "quick",
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
) -> Dataset:
    """Synthesised machines, made once and kept on disk.

    Args:
        frontend: what cuts recordings into patches.
        size: ``tiny``, ``quick`` or ``paper``.
        seed: of the synthesis.
        cache_folder: where patches are kept; see ``cache.default_folder``.

    Returns:
        As :func:`load`.

    Raises:
        DataError: no such size.
    """
    if size not in machines.SIZES:
        raise DataError(f"size={size!r} is not known; choose from {', '.join(machines.SIZES)}")
    spec = dataclasses.replace(machines.SIZES[size], seed=seed)
    fingerprint = _fingerprint(frontend, spec=dataclasses.asdict(spec), code=cache.code(machines))

    def build() -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        for split, clips in machines.generate(spec).items():
            heard = _map(lambda clip: (frontend.patches(clip.samples), False), clips)
            out |= _arrays(split, heard, [c.machine for c in clips], [c.anomalous for c in clips])
        return out

    arrays = cache.arrays(f"machines-{fingerprint}", build, cache_folder)
    arrays.pop("converted", None)
    return Dataset.from_arrays(f"embedded ({size})", fingerprint, machines.CLASS_NAMES, arrays)


def from_folder(
    folder: pathlib.Path,
    frontend: LogMelPatches,
    *,
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
) -> Dataset:
    """The recordings of a folder; a tenth of each machine's training recordings validates.

    Args:
        folder: in the layout of DCASE 2020 task 2.
        frontend: what cuts recordings into patches.
        seed: of the training recordings that validate.
        cache_folder: where patches are kept; see ``cache.default_folder``.

    Returns:
        As :func:`load`.

    Raises:
        DataError: the folder is not in the layout, holds fewer than two machines, one that is not
            both trained and tested, or tests one without sound and failing recordings; or a file
            cannot be read or is shorter than a patch.
    """
    found = scan(folder)
    parts, names = divide(found, seed, f"data folder {folder}")

    def stamp(one: Recording) -> tuple[str, int, int]:
        status = (folder / one.path).stat()
        return one.path, status.st_size, status.st_mtime_ns

    fingerprint = _fingerprint(
        frontend,
        files={split: [stamp(one) for one in part] for split, part in parts.items()},
        seed=seed,
    )

    def read(one: Recording) -> tuple[np.ndarray, bool]:
        return frontend.read_converted(folder / one.path)

    arrays = cache.arrays(
        f"machines-{fingerprint}", lambda: _build(parts, names, read), cache_folder
    )
    converted = int(arrays.pop("converted"))
    if converted:
        warn(
            f"{counted(converted, 'recording')} in {folder} not mono at 16 kHz, converted when read"
        )
    return Dataset.from_arrays(folder.name, fingerprint, names, arrays)


def scan(folder: pathlib.Path) -> list[Recording]:
    """The recordings of a folder in the layout, by name.

    Raises:
        DataError: it is not in the layout.
    """
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise DataError(
                f"data folder {folder} has no folder {part}; give embedded, tfds, or a folder with "
                "train/normal_id_00_*.wav and test/{normal,anomaly}_id_00_*.wav"
            )
    paths = [
        f"{part}/{entry.name}"
        for part in ("train", "test")
        for entry in sorted(os.scandir(folder / part), key=lambda entry: entry.name)
        if entry.name.lower().endswith(".wav") and not entry.name.startswith(".")
    ]
    return parse(paths, f"data folder {folder}")


def parse(paths: Iterable[str], where: str) -> list[Recording]:
    """What the names ``train/<file>`` and ``test/<file>`` say.

    Raises:
        DataError: a name that says nothing, or a failing machine to be trained on.
    """
    found = []
    for path in paths:
        part, _, name = path.rpartition("/")
        match = NAME.fullmatch(name)
        if match is None:
            raise DataError(
                f"{where}: {path} is named otherwise than normal_id_00_<number>.wav or "
                "anomaly_id_00_<number>.wav; rename or remove it"
            )
        anomalous = match["state"].lower() == "anomaly"
        if anomalous and part.endswith("train"):
            raise DataError(f"{where}: {path} would train on a failing machine; move it to test")
        found.append(Recording(path, match["machine"].lower(), anomalous))
    return found


def divide(
    found: Sequence[Recording], seed: int, where: str
) -> tuple[dict[str, list[Recording]], tuple[str, ...]]:
    """The recordings of each split, and the machines.

    Raises:
        DataError: as ``from_folder``.
    """
    trained = [one for one in found if one.path.rpartition("/")[0].endswith("train")]
    tested = [one for one in found if not one.path.rpartition("/")[0].endswith("train")]
    names = tuple(sorted({one.machine for one in trained}))
    if len(names) < 2:
        raise DataError(
            f"{where} has recordings to train on of {len(names)} machines, and the method tells "
            "machines apart; give at least two"
        )
    states = collections.Counter((one.machine, one.anomalous) for one in tested)
    for machine in sorted({one.machine for one in found}):
        if machine not in names:
            raise DataError(
                f"{where} tests {machine} but has no train/normal_{machine}_*.wav; add or remove it"
            )
        normal, anomalous = states[machine, False], states[machine, True]
        if not normal + anomalous:
            raise DataError(
                f"{where} has no test recordings of {machine}; add test/normal_{machine}_*.wav and "
                f"test/anomaly_{machine}_*.wav, or remove the machine"
            )
        if not normal or not anomalous:
            raise DataError(
                f"{where}: the {normal + anomalous} test recordings of {machine} are all "
                f"{'normal' if normal else 'anomalous'}, so that its AUC has no value; add others"
            )
    parts: dict[str, list[Recording]] = {"train": [], "validation": [], "test": list(tested)}
    for machine in names:
        mine = [one for one in trained if one.machine == machine]
        mine.sort(key=lambda one: splits.digest(seed, one.path))
        held_out = max(1, round(len(mine) / 10))
        if len(mine) - held_out < 2:
            raise DataError(
                f"{where} has {len(mine)} training recordings of {machine}; give at least 3, "
                "better hundreds"
            )
        parts["validation"] += mine[:held_out]
        parts["train"] += mine[held_out:]
    return parts, names


def from_tfds(
    frontend: LogMelPatches,
    *,
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
    data_dir: str | pathlib.Path | None = None,
) -> Dataset:
    """What the builder ``micronets_dcase`` has made of the original archives.

    Args:
        frontend: what cuts recordings into patches.
        seed: of the training recordings that validate.
        cache_folder: where patches are kept; see ``cache.default_folder``.
        data_dir: of TensorFlow Datasets, its default if not given.

    Returns:
        As :func:`load`.

    Raises:
        DataError: it cannot be prepared, or as ``from_folder``.
    """
    try:
        import tensorflow_datasets as tfds

        from micronets_jax.data.builders import micronets_dcase

        builder = micronets_dcase.MicronetsDcase(data_dir=data_dir)
        builder.download_and_prepare()
    except Exception as error:  # a missing archive, a full disk: all say so themselves
        raise DataError(
            f"TensorFlow Datasets cannot prepare micronets_dcase ({' '.join(str(error).split())}); "
            "mend that, or give the folder of an unpacked archive"
        ) from error
    examples = [
        example
        for part in ("train", "test")
        for example in tfds.as_numpy(builder.as_dataset(split=part))  # pyright: ignore
    ]
    audio = {example["name"].decode(): example["audio"].astype(np.int16) for example in examples}
    parts, names = divide(parse(sorted(audio), builder.name), seed, builder.name)
    fingerprint = _fingerprint(
        frontend, data=builder.info.full_name, seed=seed, files=sorted(audio)
    )

    def read(one: Recording) -> tuple[np.ndarray, bool]:
        samples = audio[one.path]
        if len(samples) < frontend.num_samples:
            raise DataError(f"{builder.name}: {one.path} is shorter than a patch; remove it")
        return frontend.patches(samples), False

    arrays = cache.arrays(
        f"machines-{fingerprint}", lambda: _build(parts, names, read), cache_folder
    )
    arrays.pop("converted")
    return Dataset.from_arrays(builder.name, fingerprint, names, arrays)


# ---------------------------------------------------------------- arrays


def _fingerprint(frontend: LogMelPatches, **parts) -> str:
    return cache.key(
        **parts,
        frontend=to_json(frontend),
        layout=[cache.code(module) for module in (log_mel, recordings)],
        versions=[np.__version__, scipy.__version__],
    )


def _build(
    parts: Mapping[str, Sequence[Recording]],
    names: Sequence[str],
    read: Callable[[Recording], tuple[np.ndarray, bool]],
) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    converted = 0
    for split in SPLITS:
        part = parts[split]
        heard = _map(read, part)
        converted += sum(was for _, was in heard)
        out |= _arrays(
            split,
            heard,
            [names.index(one.machine) for one in part],
            [one.anomalous for one in part],
        )
    return out | {"converted": np.array(converted)}


def _map(function: Callable, items: Sequence) -> list[tuple[np.ndarray, bool]]:
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))


def _arrays(
    split: str,
    heard: Sequence[tuple[np.ndarray, bool]],
    labels: Sequence[int],
    anomalous: Sequence[bool],
) -> dict[str, np.ndarray]:
    """Patches of all recordings in a row, with label, group and state of each."""
    counts = [len(patches) for patches, _ in heard]
    return {
        f"{split}_examples": np.concatenate([patches for patches, _ in heard]),
        f"{split}_labels": np.repeat(np.array(labels, np.int32), counts),
        f"{split}_{GROUP}": np.repeat(np.arange(len(heard)), counts),
        f"{split}_{ANOMALOUS}": np.repeat(np.array(anomalous, bool), counts),
    }
