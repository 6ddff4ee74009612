"""Pictures in folders named after their classes.

Invariant: the same files and seed give the same splits, labels and pixels.

Either ``<class>/<file>``, divided at random, 80 / 10 / 10 in each class; or
``train/<class>/<file>`` and ``test/<class>/<file>``, where a tenth of each class of the first
validates. Near-duplicates are drawn into one split, unless a warning says so.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from micronets_jax.data import cache, duplicates, pictures, splits
from micronets_jax.data.dataset import SPLITS, DataError, Dataset, warn
from micronets_jax.data.frontends import Pixels, to_json
from micronets_jax.facts import FILE

Parts = dict[str, list[tuple[str, int]]]  # by split: path and label


def load(
    source: str | pathlib.Path,
    frontend: Pixels,
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
) -> Dataset:
    """The pictures of a folder of class folders.

    Args:
        source: the folder.
        frontend: to what size they are brought.
        names: the classes in this order; by default every folder, sorted.
        seed: of the lot.
        cache_folder: where pixels are kept; see ``cache.default_folder``.

    Returns:
        uint8 pictures [n, rows, columns, channels] in three splits, labels int32 [n].

    Raises:
        DataError: the folder is missing, has fewer than two classes, an empty one, one with too few
            pictures, or a file that cannot be read; the message names it.
    """
    folder = pathlib.Path(source)
    parts, found = divide(folder, names, seed)
    paths = [path for part in parts.values() for path, _ in part]

    def stamp(path: str) -> tuple[str, int, int]:
        status = (folder / path).stat()
        return path, status.st_size, status.st_mtime_ns

    looked = _looked(folder, [stamp(path) for path in sorted(paths)], cache_folder)
    near = dict(zip(sorted(paths), looked["near"].tolist(), strict=True))
    sizes = dict(zip(sorted(paths), looked["size"], strict=True))
    parts = _kept_together(parts, near, found, folder, seed)
    fingerprint = cache.key(
        files={split: [(*stamp(path), label) for path, label in parts[split]] for split in SPLITS},
        names=found,
        frontend=to_json(frontend),
        code=cache.code(pictures),
    )

    def build() -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        for split, part in parts.items():
            out[f"{split}_examples"] = pictures.stack(
                part, lambda item: pictures.read(folder / item[0], frontend.shape), frontend.shape
            )
            out[f"{split}_labels"] = np.array([label for _, label in part], np.int32)
            files = [path for path, _ in part]
            out[f"{split}_{FILE}"] = np.array(files, np.str_)
            out[f"{split}_{duplicates.NEAR}"] = np.array([near[path] for path in files], np.int64)
            out[f"{split}_size"] = np.array([sizes[path] for path in files], np.int32)
        return out

    arrays = cache.arrays(f"pictures-{fingerprint}", build, cache_folder)
    return Dataset.from_arrays(folder.name, fingerprint, found, arrays)


def divide(
    folder: pathlib.Path, names: Sequence[str] | None, seed: int
) -> tuple[Parts, tuple[str, ...]]:
    """Path and label of each split's pictures, and the classes.

    Raises:
        DataError: as ``load``.
    """
    if not folder.is_dir():
        raise DataError(
            f"data folder {folder} is not there; give a folder with one folder of images per class"
        )
    given = {part for part in ("train", "test") if (folder / part).is_dir()}
    if given == {"train"} or given == {"test"}:
        other = ({"train", "test"} - given).pop()
        raise DataError(f"data folder {folder} has {given.pop()} but no {other}; give both")
    trained = _classes(folder / "train" if given else folder, names)
    found = tuple(trained)
    parts: Parts = {split: [] for split in SPLITS}
    held_out = ("validation",) if given else ("validation", "test")
    for label, (name, files) in enumerate(trained.items()):
        prefix = f"train/{name}" if given else name
        for file, split in splits.tenths(files, name, seed, held_out).items():
            parts[split].append((f"{prefix}/{file}", label))
    if given:
        tested = _classes(folder / "test", names)
        if set(tested) != set(trained):
            odd = sorted(set(tested) ^ set(trained))[0]
            raise DataError(
                f"data folder {folder}: class {odd!r} is in only one of train and test; add or "
                "remove it"
            )
        for name, files in tested.items():
            parts["test"] += [(f"test/{name}/{file}", found.index(name)) for file in files]
    if lacking := _lacking(parts, found):
        raise DataError(f"data folder {folder}: {lacking}; add images")
    return parts, found


def _lacking(parts: Parts, found: Sequence[str]) -> str:
    """The first class of which a split has too few images, in words; empty if there is none."""
    for split, fewest in splits.FEWEST.items():
        counts = np.bincount([label for _, label in parts[split]], minlength=len(found))
        for name, count in zip(found, counts, strict=True):
            if count < fewest:
                return (
                    f"{count} images of {name!r} fall into the {split} split, which needs at least "
                    f"{fewest}"
                )
    return ""


def _looked(
    folder: pathlib.Path, stamps: list[tuple[str, int, int]], cache_folder: pathlib.Path | None
) -> dict[str, np.ndarray]:
    """Of every picture ``size`` (rows and columns) and ``near``, the group of near-duplicates."""

    def build() -> dict[str, np.ndarray]:
        seen = pictures.each([path for path, _, _ in stamps], lambda p: pictures.look(folder / p))
        sizes = np.array([size for size, _ in seen], np.int32)
        if len(seen) > duplicates.MOST:
            return {"size": sizes, "near": np.arange(len(seen))}
        signatures = np.stack([duplicates.of_picture(grey) for _, grey in seen])
        return {"size": sizes, "near": duplicates.groups(signatures)}

    name = cache.key(files=stamps, code=[cache.code(m) for m in (pictures, duplicates)])
    return cache.arrays(f"looked-{name}", build, cache_folder)


def _kept_together(
    parts: Parts, near: dict[str, int], found: Sequence[str], folder: pathlib.Path, seed: int
) -> Parts:
    """The same parts, but near-duplicates that were drawn at random in one of them.

    Pictures of one scene by a fixed camera may all be near-duplicates. Where too few are left for a
    split, whole groups are drawn at random; where that fails too, the parts stay as they are, with
    a warning.
    """
    drawn = {
        path: split
        for split, part in parts.items()
        for path, _ in part
        if not path.startswith("test/") or split != "test"
    }
    placed = splits.together(drawn, {path: near[path] for path in drawn}, seed)
    kept = _moved(parts, placed)
    if not (lacking := _lacking(kept, found)):
        return kept
    labels = {path: label for part in parts.values() for path, label in part}
    if len(drawn) == len(labels):  # there are no folders train and test
        units = splits.by_units([str(near[p]) for p in drawn], [labels[p] for p in drawn], seed)
        if units is not None:
            return _moved(parts, dict(zip(drawn, units, strict=True)))
    warn(
        f"{lacking} of {folder} if near-duplicates stay together: images are divided "
        "one by one, and a device may do less well than the test says; add images of other scenes"
    )
    return parts


def _moved(parts: Parts, home: dict[str, str]) -> Parts:
    """The same images, those of ``home`` in the splits that it names."""
    moved: Parts = {split: [] for split in SPLITS}
    for split, part in parts.items():
        for path, label in part:
            moved[home.get(path, split)].append((path, label))
    return moved


def _classes(folder: pathlib.Path, names: Sequence[str] | None) -> dict[str, list[str]]:
    """The images of each class."""
    found = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    missing = [name for name in names or () if name not in found]
    if missing:
        raise DataError(f"data folder {folder} has no folder {missing[0]}")
    chosen = tuple(names or found)
    if len(chosen) < 2:
        raise DataError(
            f"data folder {folder} has {len(chosen)} class folders; a classifier needs at least two"
        )
    files = {name: pictures.listed(folder / name) for name in chosen}
    empty = [name for name, images in files.items() if not images]
    if empty:
        raise DataError(
            f"data folder {folder}: the class {empty[0]!r} holds no images ("
            f"{', '.join(pictures.SUFFIXES)}); add some or remove the folder"
        )
    return files
