"""Names of what is known of each example beside its label: the keys of ``Split.facts``.

Invariant: a fact is one value for each example of a split. Data write facts, metrics read them, and
so neither needs the other.
"""

from __future__ import annotations

GROUP = "group"
"""Joins examples that are judged together and never divided: parts of one file."""

FILE = "file"
"""Names the file of an example, relative to the folder; empty where there is none."""

SPEAKER = "speaker"
"""Names who is heard or seen; empty where nobody is named."""

ANOMALOUS = "anomalous"
"""Of a test split: whether an example's recording is of a failing machine."""
