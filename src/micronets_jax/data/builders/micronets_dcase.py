"""``micronets_dcase``: DCASE 2020 task 2 from its original archives, for machines of one make.

Invariant: splits and labels are those of the archives. Source: Koizumi et al., 2020.
"""

from __future__ import annotations

import io
import pathlib
import wave
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

MAKES = ("slider", "fan", "pump", "valve", "ToyCar", "ToyConveyor")


class MicronetsDcase(tfds.core.GeneratorBasedBuilder):
    """Recordings of machines; one configuration for each make, ``slider`` (slide rails) first."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=make.lower()) for make in MAKES]  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put dev_data_slider.zip (or _fan, _pump, _valve, _ToyCar, _ToyConveyor) of the DCASE 2020 "
        "task 2 development data set into this folder; zenodo.org, record 3678171."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Normal and anomalous sounds of machines (Koizumi et al., 2020).",
            features=tfds.features.FeaturesDict(
                {
                    "audio": tfds.features.Audio(sample_rate=16_000),
                    "name": tfds.features.Text(doc="path in the archive, such as train/normal_..."),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        config = self.builder_config
        make = next((make for make in MAKES if config and make.lower() == config.name), MAKES[0])
        archive = pathlib.Path(dl_manager.manual_dir) / f"dev_data_{make}.zip"
        if not archive.is_file():
            raise FileNotFoundError(f"{archive} is missing. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        return {part: self._generate_examples(archive, part) for part in ("train", "test")}

    def _generate_examples(
        self, archive: pathlib.Path, part: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        with zipfile.ZipFile(archive) as content:
            for path in sorted(content.namelist()):
                *_, folder, name = ["", *path.split("/")]
                if folder != part or not name.lower().endswith(".wav"):
                    continue
                with wave.open(io.BytesIO(content.read(path))) as recording:
                    if (recording.getframerate(), recording.getsampwidth()) != (16_000, 2):
                        raise ValueError(f"{archive}: {path} is not of 16 bits at 16 kHz")
                    raw = recording.readframes(recording.getnframes())
                    samples = np.frombuffer(raw, "<i2").reshape(-1, recording.getnchannels())
                # The first of eight microphones where there are several.
                yield name, {"audio": samples[:, 0].astype(np.int64), "name": f"{part}/{name}"}
