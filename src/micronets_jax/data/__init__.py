"""Input pipelines: where clips come from, how they are changed, what a network sees of them.

Invariant: this room knows nothing of networks; a data set is arrays and names, a front end a pure
function.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from micronets_jax.data import augment, cache, embedded, frontends, speech_commands
from micronets_jax.data.augment import Augmentation
from micronets_jax.data.dataset import SAMPLE_RATE, DataError, Dataset, Split
from micronets_jax.data.frontends import MFCC
from micronets_jax.data.recordings import read_clip

__all__ = [
    "MFCC",
    "SAMPLE_RATE",
    "Augmentation",
    "DataError",
    "Dataset",
    "Split",
    "augment",
    "frontends",
    "load",
    "read_clip",
    "split_features",
]


def load(
    source: str | pathlib.Path = "embedded",
    *,
    size: str = "quick",
    seed: int = 0,
    words: Sequence[str] | None = None,
    cache_folder: pathlib.Path | None = None,
) -> Dataset:
    """The data set behind a name or a folder.

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
        return _embedded(size, seed, words, cache_folder)
    if source == "tfds":
        return speech_commands.from_tfds(words=words, seed=seed, cache_folder=cache_folder)
    return speech_commands.from_folder(
        pathlib.Path(source), words=words, seed=seed, cache_folder=cache_folder
    )


def _embedded(
    size: str, seed: int, words: Sequence[str] | None, cache_folder: pathlib.Path | None
) -> Dataset:
    if size not in embedded.SIZES:
        raise DataError(f"size={size!r} is not known; choose from {', '.join(embedded.SIZES)}")
    if words:
        raise DataError(
            f"words={', '.join(words)}: the embedded data has its own words; "
            "leave words out, or give a folder of recordings"
        )
    spec = dataclasses.replace(embedded.SIZES[size], seed=seed)
    fingerprint = cache.key(
        spec=dataclasses.asdict(spec), code=cache.code(embedded), numpy=np.__version__
    )
    arrays = cache.arrays(f"embedded-{fingerprint}", lambda: embedded.generate(spec), cache_folder)
    return Dataset.from_arrays(f"embedded ({size})", fingerprint, embedded.CLASS_NAMES, arrays)


def split_features(
    dataset: Dataset,
    split: str,
    frontend: MFCC,
    cache_folder: pathlib.Path | None = None,
) -> Float[np.ndarray, "examples frames coefficients 1"]:
    """Features of an evaluation split, unchanged by augmentation, kept on disk for the next run.

    Args:
        split: ``train``, ``validation`` or ``test``.
    """
    name = cache.key(
        data=dataset.fingerprint,
        split=split,
        frontend=frontends.to_json(frontend),
        code=cache.code(frontends),
        jax=jax.__version__,
    )

    def build() -> dict[str, np.ndarray]:
        part: Split = getattr(dataset, split)
        compute, size = jax.jit(frontend), 256
        out = np.empty((len(part), *frontend.shape), np.float32)
        for start in range(0, len(part), size):
            clips, _ = part.take(slice(start, start + size))
            padded = np.pad(clips, ((0, size - len(clips)), (0, 0)))  # one shape, one compilation
            out[start : start + size] = compute(padded)[: len(clips)]
        return {"features": out}

    return cache.arrays(f"features-{name}", build, cache_folder)["features"]
