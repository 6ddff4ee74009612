"""Pictures in folders named after their classes.

Invariant: the same files and seed give the same splits, labels and pixels.

Either ``<class>/<file>``, divided by lot, 80 / 10 / 10 in each class; or ``train/<class>/<file>``
and ``test/<class>/<file>``, where a tenth of each class of the first validates.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from micronets_jax.data import cache, pictures
from micronets_jax.data.dataset import SPLITS, DataError, Dataset
from micronets_jax.data.frontends import Pixels, to_json

FEWEST = {"train": 2, "validation": 1, "test": 1}  # training data is halved later

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

    Raises:
        DataError: the folder is missing, has fewer than two classes, an empty one, one with too few
            pictures, or a file that cannot be read; the message names it.
    """
    folder = pathlib.Path(source)
    parts, found = divide(folder, names, seed)

    def stamp(path: str) -> tuple[str, int, int]:
        status = (folder / path).stat()
        return path, status.st_size, status.st_mtime_ns

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
    for label, (name, files) in enumerate(trained.items()):
        drawn = sorted(files, key=lambda file, name=name: _digest(seed, name, file))
        tenth = max(1, round(len(files) / 10))
        prefix = f"train/{name}" if given else name
        mine = [(f"{prefix}/{file}", label) for file in drawn]
        cut = {"validation": mine[:tenth]}
        cut |= {"train": mine[tenth:]} if given else {
            "test": mine[tenth : 2 * tenth], "train": mine[2 * tenth :],
        }  # fmt: skip
        for split, items in cut.items():
            parts[split] += items
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
    for split, fewest in FEWEST.items():
        counts = np.bincount([label for _, label in parts[split]], minlength=len(found))
        for name, count in zip(found, counts, strict=True):
            if count < fewest:
                raise DataError(
                    f"data folder {folder}: {count} images of {name!r} fall into the {split} "
                    f"split, which needs at least {fewest}; add images"
                )
    return parts, found


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
            f"data folder {folder}: the class {empty[0]!r} holds no JPEG or PNG images; add "
            "some or remove the folder"
        )
    return files


def _digest(seed: int, *parts: str) -> str:
    return hashlib.sha1("/".join([str(seed), *parts]).encode()).hexdigest()
