"""A summary of a data set before training: counts, and remarks on what is odd.

Invariant: nothing is changed or left out; every remark has a number and names files.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int16

from micronets_jax.data.dataset import SPLITS, Dataset, Split, counted
from micronets_jax.data.duplicates import NEAR
from micronets_jax.data.recordings import SAMPLE_RATE
from micronets_jax.facts import FILE, SPEAKER

FULL_SCALE = 32_767

CLIPPED = 0.001
"""Share of samples at full scale from which a recording counts as clipped."""

QUIET = -45.0
"""Level of the loudest 20 ms, in decibels of full scale, under which a recording is too quiet."""

LENGTHS = (0.4, 3.0)
"""Seconds that a recording of one word should last."""

BLANK = 4.0
"""Levels of standard deviation below which a picture shows nothing."""

CHUNK = 512
"""Examples that are looked at together."""

NAMED = 20
"""Files that a remark names at most."""

SAID = 6
"""Remarks on a console at most."""


@dataclasses.dataclass(frozen=True)
class Remark:
    """Something odd about the data.

    Attributes:
        kind: a word for it.
        count: of examples, or of groups of them.
        text: the sentence, with the number.
        files: of these examples, :data:`NAMED` at most.
    """

    kind: str
    count: int
    text: str
    files: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Look:
    """What is in a data set.

    Attributes:
        name: of the data.
        classes: their names; none where labels are no classes.
        examples: of each class, or of all (columns), in each of train, validation and test (rows).
        speakers: likewise, how many are heard; empty where nobody is named.
        remarks: what is odd, the gravest first.
    """

    name: str
    classes: tuple[str, ...]
    examples: tuple[tuple[int, ...], ...]
    speakers: tuple[tuple[int, ...], ...]
    remarks: tuple[Remark, ...]

    def lines(self) -> list[str]:
        """A few lines for a console."""
        total = [sum(row) for row in self.examples]
        lines = [
            f"{self.name}: "
            + (f"{len(self.classes)} classes, " if self.classes else "")
            + ", ".join(f"{n} {split}" for n, split in zip(total, SPLITS, strict=True))
            + " examples"
        ]
        for split, row in zip(SPLITS, self.examples if self.classes else (), strict=False):
            least, most = int(np.argmin(row)), int(np.argmax(row))
            span = f"{row[least]} of {self.classes[least]!r} to {row[most]} of "
            span += f"{self.classes[most]!r}"
            even = row[least] == row[most]
            lines.append(
                f"  {split}: "
                + (f"{row[least]} of each class" if even else span)
                + self._heard(split)
            )
        lines += [f"  {remark.text}" for remark in self.remarks[:SAID]]
        if len(self.remarks) > SAID:
            lines.append(f"  {len(self.remarks) - SAID} more remarks are in the report")
        return lines

    def _heard(self, split: str) -> str:
        if not self.speakers:
            return ""
        row = self.speakers[SPLITS.index(split)]
        named = [(n, c) for n, c in zip(row, self.classes, strict=True) if n]
        return f", at least {counted(min(named)[0], 'speaker')} of a class" if named else ""


def at(dataset: Dataset) -> Look:
    """The look at a data set; remarks need facts of files, which embedded data do not have."""
    splits = [getattr(dataset, split) for split in SPLITS]
    number = range(dataset.num_classes)
    examples = tuple(
        tuple(np.bincount(part.classes, minlength=len(number)).tolist()) for part in splits
    )
    speakers = ()
    if all(SPEAKER in part.facts for part in splits):
        speakers = tuple(
            tuple(len({s for s in part.facts[SPEAKER][part.classes == c] if s}) for c in number)
            for part in splits
        )
    remarks = list(_remarks(dataset, splits)) if all(FILE in p.facts for p in splits) else []
    return Look(dataset.name, dataset.class_names, examples, speakers, tuple(remarks))


def _remarks(dataset: Dataset, splits: Sequence[Split]) -> Iterable[Remark]:
    names = dataset.class_names
    files = np.concatenate([part.facts[FILE] for part in splits])
    labels = np.concatenate([part.classes for part in splits])
    homes = np.repeat(SPLITS, [len(part) for part in splits])
    yield from _duplicates(splits, files, labels, homes, names)
    raw = splits[0].store
    if raw.dtype == np.int16 and raw.ndim == 2:
        checks = _of_clips(splits)
    elif raw.dtype == np.uint8 and raw.ndim == 4:
        checks = _of_pictures(splits)
    else:
        checks = []
    for kind, odd, text in checks:
        found = files[odd & (files != "")]
        if len(found):
            said = f"{text(len(found))}, such as {found[0]}"
            yield Remark(kind, len(found), said, tuple(map(str, found[:NAMED])))


def _duplicates(
    splits: Sequence[Split],
    files: np.ndarray,
    labels: np.ndarray,
    homes: np.ndarray,
    names: Sequence[str],
) -> Iterable[Remark]:
    if not all(NEAR in part.facts for part in splits):
        return
    groups: dict[int, list[int]] = collections.defaultdict(list)
    for i, group in enumerate(np.concatenate([part.facts[NEAR] for part in splits]).tolist()):
        groups[group].append(i)
    several = [members for members in groups.values() if len(members) > 1]

    def remark(kind: str, found: list[list[int]], text: str) -> Iterable[Remark]:
        if found:
            listed = [str(files[i]) for members in found for i in members][:NAMED]
            first = " and ".join(str(files[i]) for i in found[0][:2])
            groups = counted(len(found), "group")
            said = f"{groups} of near-duplicates {text}, such as {first}"
            yield Remark(kind, len(found), said, tuple(listed))

    contradicting = [m for m in several if len(set(labels[m])) > 1]
    yield from remark(
        "contradiction",
        contradicting,
        "in several classes, where one of the labels must be wrong",
    )
    across = [m for m in several if len(set(homes[m])) > 1]
    yield from remark(
        "leak",
        across,
        "in several splits, which makes the test easier than it should be",
    )
    inside = [m for m in several if len(set(homes[m])) == 1 and len(set(labels[m])) == 1]
    yield from remark("duplicates", inside, "within one split")


Check = tuple[str, Bool[np.ndarray, " examples"], Callable[[int], str]]


def _of_clips(splits: Sequence[Split]) -> list[Check]:
    seen = [_levels(clips) for part in splits for clips in _chunks(part)]
    full, level, zero = (np.concatenate(values) for values in zip(*seen, strict=True))
    seconds = np.concatenate([part.facts["seconds"] for part in splits])
    shortest, longest = LENGTHS
    wrong = (seconds < shortest) | (seconds > longest)
    return [
        (
            "silent",
            zero,
            lambda n: f"{counted(n, 'recording')} of zeros only (was the microphone off?)",
        ),
        (
            "quiet",
            (level < QUIET) & ~zero,
            lambda n: f"{counted(n, 'recording')} too quiet (below {QUIET:g} dB of full scale)",
        ),
        (
            "clipped",
            full > CLIPPED,
            lambda n: f"{counted(n, 'clipped recording')} (record with less gain)",
        ),
        (
            "length",
            wrong,
            lambda n: (
                f"{counted(n, 'recording')} of less than {shortest:g} s or more than {longest:g} "
                "s, of which the loudest second is used"
            ),
        ),
    ]


def _chunks(part: Split) -> Iterable[np.ndarray]:
    return (part.take(slice(at, at + CHUNK))[0] for at in range(0, len(part), CHUNK))


def _levels(clips: Int16[np.ndarray, "clips samples"]) -> tuple[np.ndarray, ...]:
    """Of each clip the share at full scale, the level of its loudest 20 ms in decibels, and whether
    all of it is zero."""
    x = np.abs(clips.astype(np.int32))
    length = SAMPLE_RATE // 50
    frames = x[:, : x.shape[1] // length * length].reshape(len(x), -1, length)
    power = np.square(frames.astype(np.float32) / FULL_SCALE).mean(axis=2).max(axis=1)
    full = np.asarray((x >= FULL_SCALE - 1).mean(axis=1))
    level = np.asarray(10 * np.log10(np.maximum(power, 1e-10)))
    return full, level, np.asarray(x.max(axis=1) == 0)


def _of_pictures(splits: Sequence[Split]) -> list[Check]:
    contrast = np.concatenate(
        [np.std(chunk, axis=(1, 2, 3)) for part in splits for chunk in _chunks(part)]
    )
    sizes = np.concatenate([part.facts["size"] for part in splits])
    wanted = splits[0].store.shape[1:3]
    tiny = np.any(sizes * 2 < np.array(wanted), axis=1)
    return [
        ("blank", contrast < BLANK, lambda n: counted(n, "blank picture")),
        (
            "tiny",
            tiny,
            lambda n: (
                f"{counted(n, 'picture')} of less than half of the {wanted[0]} x {wanted[1]} "
                "pixels that the network reads"
            ),
        ),
    ]


# ---------------------------------------------------------------- after training


@dataclasses.dataclass(frozen=True)
class Hard:
    """An example that a trained network gets wrong, or nearly.

    Attributes:
        file: its name.
        label: what its folder says.
        taken_for: what the network says.
        loss: minus the logarithm of the probability that the network gives the label, in nats.
        suspicious: whether the label may be wrong: the network is sure of another class.
    """

    file: str
    label: str
    taken_for: str
    loss: float
    suspicious: bool


SURE = 0.9
"""Probability of another class from which a label is suspicious."""


def hardest(
    logits: Float[np.ndarray, "examples classes"], split: Split, names: Sequence[str]
) -> list[Hard]:
    """The examples of a split that came from files and have the highest losses, highest first."""
    if FILE not in split.facts:
        return []
    shifted = logits - logits.max(axis=-1, keepdims=True)
    odds = np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)
    rows = np.arange(len(split))
    loss = -np.log(np.maximum(odds[rows, split.labels], 1e-12))
    taken = odds.argmax(axis=-1)
    hard = []
    for i in np.argsort(-loss, kind="stable").tolist():
        is_sure = taken[i] != split.labels[i] and odds[i, taken[i]] >= SURE
        label, other = names[int(split.labels[i])], names[int(taken[i])]
        if name := str(split.facts[FILE][i]):
            hard.append(Hard(name, label, other, float(loss[i]), bool(is_sure)))
    return hard[:NAMED]
