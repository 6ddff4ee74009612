"""The noun of all input pipelines: labelled clips in three splits, and how batches are drawn.

Invariant: which examples a batch holds depends on the split, the seed and the epoch alone, so a
resumed run sees the batches that it would have seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Int, Int16, Int32

SAMPLE_RATE = 16_000
"""Hz, and because every clip lasts one second, also samples."""

SILENCE, UNKNOWN = "silence", "unknown"
"""The two classes that stand behind the words, in this order."""


class DataError(ValueError):
    """Data that cannot be used as asked; the message says what came and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples of one purpose: rows of stored clips, which may lie on disk, and their labels.

    Attributes:
        store: int16 clips, in memory or memory-mapped; the parts of a split share it.
        rows: where in the store each example lies.
        labels: the class of each example.
    """

    store: Int16[np.ndarray, "stored samples"]
    rows: Int[np.ndarray, " examples"]
    labels: Int32[np.ndarray, " examples"]

    @classmethod
    def whole(
        cls, clips: Int16[np.ndarray, "examples samples"], labels: Int32[np.ndarray, " examples"]
    ) -> Split:
        """The split that holds every one of these clips."""
        return cls(clips, np.arange(len(labels)), labels)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def clips(self) -> Int16[np.ndarray, "examples samples"]:
        """All clips; of a part of a split, a copy in memory."""
        return self.store if len(self.store) == len(self) else self.store[self.rows]

    def take(
        self, positions: Int[np.ndarray, " batch"] | slice
    ) -> tuple[Int16[np.ndarray, "batch samples"], Int32[np.ndarray, " batch"]]:
        """Clips and labels at these positions of the split, in memory."""
        return np.asarray(self.store[self.rows[positions]]), np.asarray(self.labels[positions])

    def batches(
        self, batch_size: int, seed: int, epoch: int
    ) -> Iterator[tuple[Int16[np.ndarray, "batch samples"], Int32[np.ndarray, " batch"]]]:
        """Whole batches of one epoch in an order made from seed and epoch.

        The few examples left over wait for another epoch, where the order puts others last.

        Raises:
            DataError: the split is smaller than one batch.
        """
        order = self.order(seed, epoch)
        for i in range(self.num_batches(batch_size)):
            yield self.take(order[i * batch_size : (i + 1) * batch_size])

    def num_batches(self, batch_size: int) -> int:
        """Whole batches in an epoch.

        Raises:
            DataError: there is not one.
        """
        if not 1 <= batch_size <= len(self):
            raise DataError(
                f"batch_size={batch_size}, but this part of the data has {len(self)} examples; "
                f"give 1 to {len(self)}, or more data"
            )
        return len(self) // batch_size

    def order(self, seed: int, epoch: int) -> Int[np.ndarray, " examples"]:
        """The permutation of the split's positions in this epoch."""
        return np.random.default_rng([seed, epoch]).permutation(len(self))

    def halves(self, seed: int) -> tuple[Split, Split]:
        """Two disjoint parts that cover the split, with every class divided evenly.

        A class with an odd count gives its extra example to the part that has fewer so far.
        """
        rng = np.random.default_rng([seed, len(self)])
        parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for label in np.unique(self.labels):
            positions = rng.permutation(np.flatnonzero(self.labels == label))
            smaller, larger = sorted(parts, key=lambda part: sum(map(len, part)))
            smaller.append(positions[0::2])
            larger.append(positions[1::2])
        first, second = (self._part(np.sort(np.concatenate(part))) for part in parts)
        return first, second

    def _part(self, positions: Int[np.ndarray, " examples"]) -> Split:
        return Split(self.store, self.rows[positions], self.labels[positions])


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of clips of one second, and background noise to mix into them.

    Attributes:
        name: for people.
        fingerprint: hexadecimal; differs whenever any clip, label or class does.
        class_names: by label.
        noise: int16 [recordings, samples], each at least one second.
        sample_rate: Hz.
    """

    name: str
    fingerprint: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    noise: Int16[np.ndarray, "recordings length"]
    sample_rate: int = SAMPLE_RATE

    @classmethod
    def from_arrays(
        cls,
        name: str,
        fingerprint: str,
        class_names: tuple[str, ...],
        arrays: Mapping[str, np.ndarray],
    ) -> Dataset:
        """From arrays named ``<split>_clips``, ``<split>_labels`` and ``noise``."""
        train, validation, test = (
            Split.whole(arrays[f"{split}_clips"], arrays[f"{split}_labels"])
            for split in ("train", "validation", "test")
        )
        return cls(name, fingerprint, class_names, train, validation, test, arrays["noise"])

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def __str__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self, s))} {s}" for s in ("train", "validation", "test"))
        return f"{self.name}: {self.num_classes} classes, {sizes} clips"
