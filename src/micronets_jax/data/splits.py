"""Random assignment of examples to splits: whole units, and no split without a class.

Invariant: the same units, labels and seed give the same splits; a unit (a speaker, a group of
near-duplicates, a file) is in one split.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Sequence

FEWEST = {"train": 2, "validation": 1, "test": 1}
"""Examples of a class that a split needs; training data are halved later."""

SHARE = 0.1
"""Of all examples, for each of validation and test."""


def digest(seed: int, *parts: str) -> str:
    """A number that only the seed and the parts decide, as hexadecimal."""
    return hashlib.sha1("/".join([str(seed), *parts]).encode()).hexdigest()


def tenths(names: Sequence[str], of: str, seed: int, held_out: Sequence[str]) -> dict[str, str]:
    """The split of each file of one class at random: a tenth for each split that is held out.

    Args:
        names: of the files.
        of: the class.
        seed: of the lot.
        held_out: names of splits; the rest trains.

    Returns:
        Name of the file -> name of the split.
    """
    drawn = sorted(names, key=lambda name: digest(seed, of, name))
    tenth = max(1, round(len(drawn) / 10))
    return {
        name: held_out[i // tenth] if i // tenth < len(held_out) else "train"
        for i, name in enumerate(drawn)
    }


def together(split: dict[str, str], groups: dict[str, int], seed: int) -> dict[str, str]:
    """The same splits, but every group in the split of a randomly chosen member.

    Args:
        split: of each path.
        groups: a number for each path; what has none stays where it is.
        seed: of the lot.
    """
    home: dict[int, str] = {}
    for path in sorted(groups, key=lambda path: digest(seed, path)):
        home.setdefault(groups[path], split[path])
    return {path: home[groups[path]] if path in groups else old for path, old in split.items()}


def by_units(units: Sequence[str], labels: Sequence[int], seed: int) -> list[str] | None:
    """The split of each example; None if no division into whole units serves every class.

    Units are drawn at random for test and for validation until each has a tenth of the examples and
    :data:`FEWEST` of every class. A unit that a class cannot spare is passed over; one that brings
    a class that is still missing comes first.

    Args:
        units: for each example what must stay together.
        labels: of each example.
        seed: of the lot.
    """
    content: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    for unit, label in zip(units, labels, strict=True):
        content[unit][label] += 1
    left = collections.Counter(labels)
    wanted = max(1, round(SHARE * len(labels)))
    order = sorted(content, key=lambda unit: digest(seed, unit))
    home = dict.fromkeys(content, "train")
    for number, split in enumerate(("test", "validation")):
        # What the splits that come later need of every class.
        later = FEWEST["train"] + (FEWEST["validation"] if number == 0 else 0)
        got: collections.Counter[int] = collections.Counter()
        while True:
            missing = {label for label in left if got[label] < FEWEST[split]}
            if not missing and got.total() >= wanted:
                break
            spare = [
                unit
                for unit in order
                if home[unit] == "train"
                and all(left[label] - n >= later for label, n in content[unit].items())
                and (not missing or missing & content[unit].keys())
            ]
            if not spare:
                if missing:
                    return None
                break
            # Of those that help, the one whose size fits best what is still wanted, then at random.
            rest = max(wanted - got.total(), len(missing))
            unit = min(spare, key=lambda unit: max(0, content[unit].total() - rest))
            home[unit] = split
            got += content[unit]
            left -= content[unit]
    return [home[unit] for unit in units]
