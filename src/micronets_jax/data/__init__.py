"""Input pipelines: data sets, augmentations and front ends.

Invariant: this room knows nothing of networks. A data set is arrays and names; a front end and an
augmentation are frozen records of parameters that are pure functions. TensorFlow is imported inside
functions.

``sources`` has a module for each layout of files, published or of one's own, such as
``speech_commands``; ``embedded`` synthesises data for those who have none.
"""

from __future__ import annotations

import pathlib
import sys

import jax
import numpy as np
from jaxtyping import Float

from micronets_jax.data import (
    augment,
    cache,
    frontends,
    look,
    recordings,
)
from micronets_jax.data.augment import Augmentation
from micronets_jax.data.dataset import DataError, Dataset, DataWarning, Split
from micronets_jax.data.frontends import MFCC, FrontEnd, LogMelPatches, Pixels
from micronets_jax.data.recordings import SAMPLE_RATE, read_clip
from micronets_jax.data.sources import (
    class_folders,
    machine_sounds,
    speech_commands,
    visual_wake_words,
)

__all__ = [
    "MFCC",
    "SAMPLE_RATE",
    "Augmentation",
    "DataError",
    "DataWarning",
    "Dataset",
    "FrontEnd",
    "LogMelPatches",
    "Pixels",
    "Split",
    "augment",
    "class_folders",
    "frontends",
    "look",
    "machine_sounds",
    "read_clip",
    "recordings",
    "speech_commands",
    "split_features",
    "visual_wake_words",
]


def split_features(
    dataset: Dataset,
    split: str,
    frontend: FrontEnd,
    cache_folder: pathlib.Path | None = None,
) -> Float[np.ndarray, "examples rows columns channels"]:
    """Features of an evaluation split, without augmentation, cached on disk.

    Args:
        dataset: raw examples.
        split: ``train``, ``validation`` or ``test``.
        frontend: what computes the features.
        cache_folder: where they are kept; see ``cache.default_folder``.

    Returns:
        float32 [examples, rows, columns, channels], read-only and mapped from disk where it could
        be kept there.
    """
    name = cache.key(
        data=dataset.fingerprint,
        split=split,
        frontend=frontends.to_json(frontend),
        code=cache.code(sys.modules[type(frontend).__module__]),
        jax=jax.__version__,
    )

    def build() -> dict[str, np.ndarray]:
        part: Split = getattr(dataset, split)
        compute, size = jax.jit(frontend), 256
        out = np.empty((len(part), *frontend.shape), np.float32)
        for start in range(0, len(part), size):
            raw, _ = part.take(slice(start, start + size))
            # One shape, one compilation.
            padded = np.pad(raw, [(0, size - len(raw))] + [(0, 0)] * (raw.ndim - 1))
            out[start : start + size] = compute(padded)[: len(raw)]
        return {"features": out}

    return cache.arrays(f"features-{name}", build, cache_folder)["features"]
