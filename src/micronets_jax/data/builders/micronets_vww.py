"""``micronets_vww``: Visual Wake Words from COCO 2014's original archives.

Invariant: labels are those of ``data.sources.visual_wake_words``. Source: Chowdhery et al., 2019.
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from micronets_jax.data.sources import visual_wake_words
from micronets_jax.data.sources.visual_wake_words import CLASS_NAMES, Source


class MicronetsVww(tfds.core.GeneratorBasedBuilder):
    """COCO's pictures, labelled by whether a person takes at least 0.5 % of the frame."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put train2014.zip, val2014.zip and annotations_trainval2014.zip of COCO 2014 into this "
        "folder; cocodataset.org."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Is there a person? (Chowdhery et al., 2019.)",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg", shape=(None, None, 3)),
                    "image/filename": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=list(CLASS_NAMES)),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        source = Source(pathlib.Path(dl_manager.manual_dir))
        return {
            "train": self._generate_examples(source, "train2014"),
            "validation": self._generate_examples(source, "val2014"),
        }

    def _generate_examples(self, source: Source, part: str) -> Iterator[tuple[str, dict[str, Any]]]:

        annotated = source.annotations(part)
        with source.images(part) as (names, content):
            for one in visual_wake_words.present(annotated, names, part):
                yield (
                    one.name,
                    {
                        "image": io.BytesIO(content(one.name)),
                        "image/filename": one.name,
                        "label": int(one.person),
                    },
                )
