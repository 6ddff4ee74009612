"""Visual wake words: is there a person in the picture?

Invariant: the same files and seed give the same splits, labels and pixels.

A picture of COCO shows a person if the box of one takes at least 0.5 % of the frame (Chowdhery et
al., "Visual Wake Words Dataset", 2019). COCO's training pictures train, but for a tenth that
validates; its validation pictures test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from micronets_jax.data import cache, pictures, splits
from micronets_jax.data.dataset import SPLITS, DataError, Dataset, warn
from micronets_jax.data.embedded import scenes
from micronets_jax.data.frontends import Pixels, to_json
from micronets_jax.data.sources import class_folders

CLASS_NAMES = ("not_person", "person")

SMALLEST_SHARE = 0.005
"""Share of the frame from which on a person counts."""

MOST_MISSING = 0.01
"""Share of annotated pictures that may be missing."""

PARTS = ("train2014", "val2014")
ANNOTATIONS = "annotations_trainval2014.zip"


def load(
    source: str | pathlib.Path,
    frontend: Pixels,
    *,
    size: str = "quick",
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
) -> Dataset:
    """The pictures behind a name or a folder, with and without a person.

    Args:
        source: ``embedded`` (rendered), ``tfds`` (COCO 2014 through TensorFlow Datasets), a folder
            with ``person`` and ``not_person``, or one with COCO 2014 as it is published.
        frontend: to what size they are brought.
        size: of the embedded data: ``tiny``, ``quick`` or ``paper``.
        seed: of the embedded data and of splits.
        cache_folder: where pixels are kept; see ``cache.default_folder``.

    Returns:
        uint8 pictures [n, rows, columns, channels] in three splits, labels int32 [n], 1 with a
        person.

    Raises:
        DataError: the source is missing, damaged or too small; the message names what.
    """
    if source == "embedded":
        return embedded(frontend, size=size, seed=seed, cache_folder=cache_folder)
    if source == "tfds":
        return from_tfds(frontend, seed=seed, cache_folder=cache_folder)
    folder = pathlib.Path(source)
    if (folder / ANNOTATIONS).is_file() or (folder / "annotations").is_dir():
        return from_coco(folder, frontend, seed=seed, cache_folder=cache_folder)
    return class_folders.load(
        folder, frontend, names=CLASS_NAMES, seed=seed, cache_folder=cache_folder
    )


def embedded(
    frontend: Pixels,
    *,
    size: str = "quick",
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
) -> Dataset:
    """Rendered scenes, made once and kept on disk.

    Args:
        frontend: to what size scenes are rendered.
        size: ``tiny``, ``quick`` or ``paper``.
        seed: of the scenes.
        cache_folder: where pixels are kept; see ``cache.default_folder``.

    Returns:
        As :func:`load`.

    Raises:
        DataError: no such size, or pictures too small to see anybody.
    """
    if size not in scenes.SIZES:
        raise DataError(f"size={size!r} is not known; choose from {', '.join(scenes.SIZES)}")
    spec = dataclasses.replace(
        scenes.SIZES[size],
        seed=seed,
        **dict(zip(("rows", "columns", "channels"), frontend.shape, strict=True)),
    )
    fingerprint = cache.key(
        spec=dataclasses.asdict(spec), code=cache.code(scenes), numpy=np.__version__
    )
    arrays = cache.arrays(f"scenes-{fingerprint}", lambda: scenes.generate(spec), cache_folder)
    return Dataset.from_arrays(f"embedded ({size})", fingerprint, CLASS_NAMES, arrays)


# ---------------------------------------------------------------- COCO as it is published


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A picture that the annotations name, and whether it shows a person."""

    name: str
    person: bool


def labels(annotations: dict[str, Any]) -> list[Labelled]:
    """The pictures of one annotation file, by name.

    Raises:
        DataError: it is not an annotation file of COCO, or knows no persons.
    """
    try:
        frame = {image["id"]: image["width"] * image["height"] for image in annotations["images"]}
        person = next(c["id"] for c in annotations["categories"] if c["name"] == "person")
        shown = {
            row["image_id"]
            for row in annotations["annotations"]
            if row["category_id"] == person
            and row["bbox"][2] * row["bbox"][3] >= SMALLEST_SHARE * frame[row["image_id"]]
        }
        found = [Labelled(i["file_name"], i["id"] in shown) for i in annotations["images"]]
    except (KeyError, TypeError, IndexError, StopIteration) as error:
        raise DataError(f"not an annotation file of COCO with persons ({error!r})") from error
    return sorted(found, key=lambda one: one.name)


@dataclasses.dataclass(frozen=True)
class Source:
    """COCO 2014 in a folder, its archives packed or unpacked."""

    folder: pathlib.Path

    def annotations(self, part: str) -> list[Labelled]:
        """What is annotated of ``train2014`` or ``val2014``.

        Raises:
            DataError: the annotations are missing or damaged.
        """
        inside, packed = f"annotations/instances_{part}.json", self.folder / ANNOTATIONS
        path = self.folder / inside
        try:
            if path.is_file():
                return labels(json.loads(path.read_text()))
            with zipfile.ZipFile(packed) as archive:
                return labels(json.loads(archive.read(inside)))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.folder} has no sound {inside} ({error})") from error

    @contextlib.contextmanager
    def images(self, part: str) -> Iterator[tuple[set[str], Callable[[str], bytes]]]:
        """Names of the pictures that are there, and what reads one.

        Raises:
            DataError: the archive is missing or damaged.
        """
        folder, packed = self.folder / part, self.folder / f"{part}.zip"
        if folder.is_dir():
            yield set(pictures.listed(folder)), lambda name: (folder / name).read_bytes()
            return
        try:
            archive = zipfile.ZipFile(packed)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{self.folder} has neither {part} nor a sound {part}.zip ({error})"
            ) from error
        with archive:
            inside = {path.rpartition("/")[2]: path for path in archive.namelist()}
            inside.pop("", None)
            yield set(inside), lambda name: archive.read(inside[name])


def present(wanted: list[Labelled], there: set[str], where: str) -> list[Labelled]:
    """What is wanted and there; warns once of what is not.

    Raises:
        DataError: more than 1 % is missing.
    """
    missing = [one.name for one in wanted if one.name not in there]
    if not missing:
        return wanted
    said = (
        f"{len(missing)} of {len(wanted)} annotated images of {where} are missing, such as "
        f"{missing[0]}"
    )
    if len(missing) > MOST_MISSING * len(wanted):
        raise DataError(f"{said}; that is more than 1 %: unpack or copy the images again")
    warn(f"{said}; they are left out")
    return [one for one in wanted if one.name in there]


def validates(name: str, seed: int) -> bool:
    """Whether a training picture validates: a tenth, at random."""
    digest = hashlib.sha1(f"{seed}/{name}".encode()).hexdigest()
    return int(digest, 16) % 10 == 0


def from_coco(
    folder: pathlib.Path,
    frontend: Pixels,
    *,
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
) -> Dataset:
    """COCO 2014 from a folder that holds its archives, packed or unpacked.

    Args:
        folder: that holds the archives of COCO 2014.
        frontend: to what size pictures are brought.
        seed: of the training pictures that validate.
        cache_folder: where pixels are kept; see ``cache.default_folder``.

    Returns:
        As :func:`load`.

    Raises:
        DataError: annotations or images are missing or damaged, or more than 1 % of the images.
    """
    source = Source(folder)
    annotated = {part: source.annotations(part) for part in PARTS}
    there = {}
    for part in PARTS:
        with source.images(part) as (names, _):
            there[part] = present(annotated[part], names, f"{folder / part}")
    fingerprint = cache.key(
        files={part: [dataclasses.astuple(one) for one in there[part]] for part in PARTS},
        seed=seed,
        frontend=to_json(frontend),
        code=cache.code(pictures),
    )

    def build() -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        for part in PARTS:
            with source.images(part) as (_, content):

                def load(one: Labelled, content=content) -> np.ndarray:
                    return pictures.decode(content(one.name), frontend.shape, one.name)

                for split, ones in divide(part, there[part], seed).items():
                    out[f"{split}_examples"] = pictures.stack(ones, load, frontend.shape)
                    out[f"{split}_labels"] = np.array([one.person for one in ones], np.int32)
        return out

    arrays = cache.arrays(f"pictures-{fingerprint}", build, cache_folder)
    return _checked("COCO 2014", fingerprint, arrays)


def divide(part: str, ones: Iterable[Labelled], seed: int) -> dict[str, list[Labelled]]:
    """Pictures by split: ``val2014`` tests."""
    if part == "val2014":
        return {"test": list(ones)}
    out: dict[str, list[Labelled]] = {"train": [], "validation": []}
    for one in ones:
        out["validation" if validates(one.name, seed) else "train"].append(one)
    return out


def _checked(name: str, fingerprint: str, arrays: dict[str, np.ndarray]) -> Dataset:
    for split in SPLITS:
        counts = np.bincount(arrays[f"{split}_labels"], minlength=2)
        if counts.min() < splits.FEWEST[split]:
            lacking = CLASS_NAMES[int(counts.argmin())]
            raise DataError(f"{name} has {counts.min()} images of {lacking} to {split}; add images")
    return Dataset.from_arrays(name, fingerprint, CLASS_NAMES, arrays)


# ---------------------------------------------------------------- TensorFlow Datasets


def from_tfds(
    frontend: Pixels,
    *,
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
    data_dir: str | pathlib.Path | None = None,
) -> Dataset:
    """``micronets_vww`` if it has been prepared, else COCO 2014 as TensorFlow Datasets serves it.

    Args:
        frontend: to what size pictures are brought.
        seed: of the training pictures that validate.
        cache_folder: where pixels are kept; see ``cache.default_folder``.
        data_dir: of TensorFlow Datasets, its default if not given.

    Returns:
        As :func:`load`.

    Raises:
        DataError: it can be neither found nor downloaded.
    """
    try:
        import tensorflow_datasets as tfds

        from micronets_jax.data.builders import micronets_vww

        builder: Any = micronets_vww.MicronetsVww(data_dir=data_dir)
        if not builder.data_path.exists():
            builder = tfds.builder("coco/2014", data_dir=data_dir)
            builder.download_and_prepare()
    except Exception as error:  # no network, a full disk, a damaged download: all say so themselves
        raise DataError(
            f"TensorFlow Datasets cannot prepare coco/2014 ({' '.join(str(error).split())}); mend "
            "that, or give a folder with COCO's archives"
        ) from error
    fingerprint = cache.key(
        data=builder.info.full_name,
        sizes={name: info.num_examples for name, info in builder.info.splits.items()},
        seed=seed,
        frontend=to_json(frontend),
        code=cache.code(pictures),
    )

    def build() -> dict[str, np.ndarray]:
        seen: dict[str, list[tuple[np.ndarray, bool]]] = {split: [] for split in SPLITS}
        for served in ("train", "validation"):
            for example in tfds.as_numpy(builder.as_dataset(split=served)):
                name = example["image/filename"].decode()
                split = "validation" if validates(name, seed) else "train"
                split = "test" if served == "validation" else split
                small = pictures.resize(example["image"], frontend.shape)
                seen[split].append((small, shows_person(example, builder.info.features)))
        out: dict[str, np.ndarray] = {}
        for split, rows in seen.items():
            out[f"{split}_examples"] = np.array([pixels for pixels, _ in rows], np.uint8)
            out[f"{split}_labels"] = np.array([person for _, person in rows], np.int32)
        return out

    arrays = cache.arrays(f"pictures-{fingerprint}", build, cache_folder)
    return _checked(builder.info.full_name, fingerprint, arrays)


def shows_person(example: dict[str, Any], features: Any) -> bool:
    """The label of an example of ``micronets_vww``, or of ``coco/2014`` by its boxes."""
    if "label" in example:
        return bool(example["label"])
    person = features["objects"]["label"].str2int("person")
    boxes = example["objects"]["bbox"][example["objects"]["label"] == person]
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])  # of height and width
    return bool(np.any(shares >= SMALLEST_SHARE))
