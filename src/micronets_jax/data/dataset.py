"""Data sets: labelled examples in three splits, and how batches are drawn.

Invariant: which examples a batch holds depends on the split, the seed and the epoch alone, so a
resumed run sees the batches that it would have seen.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float, Int, Int32, Shaped

from micronets_jax.facts import GROUP

SPLITS = ("train", "validation", "test")

Labels = Int32[np.ndarray, " examples"] | Float[np.ndarray, "examples outputs"]
"""Of each example its class, or the numbers that a network should give for it."""

ALL = slice(None)


class DataError(ValueError):
    """Data that cannot be used as asked; the message says what came and what to do."""


class DataWarning(UserWarning):
    """Data that can be used, but about which a person should know something."""


def warn(message: str) -> None:
    """Says one sentence about the data; a console shows it without a place in the code."""
    warnings.warn(message, DataWarning, stacklevel=3)


def counted(count: int, noun: str) -> str:
    """A number of things in words."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples of one purpose: rows of a store, which may lie on disk, their labels and facts.

    Attributes:
        store: raw examples of one shape and type (int16 clips, uint8 images, float patches), in
            memory or memory-mapped; the parts of a split share it.
        rows: where in the store each example lies.
        labels: the class of each example, or numbers [examples, outputs].
        facts: further arrays of the examples by name, named as in ``facts``; metrics read them.
    """

    store: Shaped[np.ndarray, "stored ..."]
    rows: Int[np.ndarray, " examples"]
    labels: Labels
    facts: Mapping[str, Shaped[np.ndarray, " examples"]] = dataclasses.field(default_factory=dict)

    @classmethod
    def whole(
        cls,
        store: Shaped[np.ndarray, "examples ..."],
        labels: Labels,
        facts: Mapping[str, Shaped[np.ndarray, " examples"]] | None = None,
    ) -> Split:
        """The split that holds every one of these examples."""
        return cls(store, np.arange(len(labels)), labels, facts or {})

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def classes(self) -> Int[np.ndarray, " examples"]:
        """The class of each example; of labels that are numbers all are in class 0."""
        whole = np.issubdtype(self.labels.dtype, np.integer) and self.labels.ndim == 1
        return self.labels if whole else np.zeros(len(self), np.int32)

    @property
    def examples(self) -> Shaped[np.ndarray, "examples ..."]:
        """All raw examples; of a part of a split, a copy in memory."""
        return self.store if len(self.store) == len(self) else self.store[self.rows]

    def take(
        self, positions: Int[np.ndarray, " batch"] | slice
    ) -> tuple[Shaped[np.ndarray, "batch ..."], Shaped[np.ndarray, "batch ..."]]:
        """Raw examples and labels at these positions of the split, in memory."""
        return np.asarray(self.store[self.rows[positions]]), np.asarray(self.labels[positions])

    def part(self, positions: Int[np.ndarray, " part"]) -> Split:
        """The split of the examples at these positions."""
        facts = {name: values[positions] for name, values in self.facts.items()}
        return Split(self.store, self.rows[positions], self.labels[positions], facts)

    def batches(
        self, batch_size: int, seed: int, epoch: int, rows: slice = ALL
    ) -> Iterator[tuple[Shaped[np.ndarray, "batch ..."], Shaped[np.ndarray, "batch ..."]]]:
        """Whole batches of one epoch in an order made from seed and epoch.

        The few examples left over wait for another epoch, where the order puts others last.

        Args:
            batch_size: of every batch.
            seed: of the order.
            epoch: of the order.
            rows: of each batch, those that are read.

        Yields:
            Raw examples [rows, ...] and labels [rows, ...], in memory.

        Raises:
            DataError: the split is smaller than one batch.
        """
        order = self.order(seed, epoch)
        for i in range(self.num_batches(batch_size)):
            yield self.take(order[i * batch_size : (i + 1) * batch_size][rows])

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

        Groups are not divided. A class with an odd count gives its extra example, or group, to the
        part that has fewer so far.
        """
        rng = np.random.default_rng([seed, len(self)])
        groups = self._groups()
        parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        classes = self.classes
        for label in np.unique(classes):
            positions = np.flatnonzero(classes == label)
            drawn = rng.permutation(np.unique(groups[positions]))
            smaller, larger = sorted(parts, key=lambda part: sum(map(len, part)))
            smaller.append(positions[np.isin(groups[positions], drawn[0::2])])
            larger.append(positions[np.isin(groups[positions], drawn[1::2])])
        first, second = (self.part(np.sort(np.concatenate(part))) for part in parts)
        return first, second

    def sample(self, count: int, seed: int) -> Int[np.ndarray, " part"]:
        """Sorted positions of at most ``count`` random examples: whole groups, at least one."""
        names, index, sizes = np.unique(self._groups(), return_inverse=True, return_counts=True)
        drawn = np.random.default_rng(seed).permutation(len(names))
        fitting = int(np.searchsorted(np.cumsum(sizes[drawn]), count, side="right"))
        return np.flatnonzero(np.isin(index, drawn[: max(1, fitting)]))

    def _groups(self) -> Int[np.ndarray, " examples"]:
        return self.facts[GROUP] if GROUP in self.facts else np.arange(len(self))


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of examples, and further arrays for augmentation.

    Attributes:
        name: shown in reports.
        fingerprint: hexadecimal; differs whenever any example, label or class does.
        class_names: by label; none where labels are numbers.
        extras: arrays beside the examples, by name, such as background noise.
    """

    name: str
    fingerprint: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    extras: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_arrays(
        cls,
        name: str,
        fingerprint: str,
        class_names: tuple[str, ...],
        arrays: Mapping[str, np.ndarray],
    ) -> Dataset:
        """From arrays named ``<split>_examples`` and ``<split>_labels``.

        Others named ``<split>_<fact>`` are facts of the split, the rest are extras.

        Args:
            name: of the data set, for reports.
            fingerprint: hexadecimal, differs whenever any example does.
            class_names: by label.
            arrays: by name.

        Returns:
            The data set, over these arrays themselves.
        """
        splits, used = [], set()
        for split in SPLITS:
            mine = {k.removeprefix(f"{split}_"): k for k in arrays if k.startswith(f"{split}_")}
            used |= set(mine.values())
            parts = {short: arrays[k] for short, k in mine.items()}
            store, labels = parts.pop("examples"), parts.pop("labels")
            splits.append(Split.whole(store, labels, parts))
        extras = {k: array for k, array in arrays.items() if k not in used}
        train, validation, test = splits
        return cls(name, fingerprint, class_names, train, validation, test, extras)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def __str__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self, split))} {split}" for split in SPLITS)
        classes = f"{self.num_classes} classes, " if self.class_names else ""
        return f"{self.name}: {classes}{sizes} examples"
