"""Selection of smoothing and threshold: false alarms an hour against misses, on validation streams.

Invariant: a choice depends on posteriors and streams alone; every point of the curve is counted,
none interpolated.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from micronets_jax import spotting
from micronets_jax.listening import streams
from micronets_jax.listening.streams import Score, Stream
from micronets_jax.spotting import ONE, Settings

WINDOWS_MS = (0, 200, 400, 600, 800)
"""Spans of the means that are tried, from the first inference to the last."""

PAUSES_MS = (600, 1000, 1400)
"""Pauses after a word that are tried."""

THRESHOLDS = tuple(round(ONE * share / 50) for share in range(10, 50)) + tuple(
    round(ONE * (1 - share)) for share in (0.01, 0.005, 0.002, 0.001)
)
"""Thresholds that are tried, from 0.2 to 0.999."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A threshold and its score."""

    threshold: int
    score: Score


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        settings: of the listener.
        curve: of its smoothing, by rising threshold.
        met: whether the rate of false alarms is allowed; else it is the lowest there is.
    """

    settings: Settings
    curve: tuple[Point, ...]
    met: bool

    @property
    def score(self) -> Score:
        """Of the chosen threshold on the streams by which it was chosen."""
        return next(p.score for p in self.curve if p.threshold == self.settings.threshold)

    def facts(self) -> dict[str, object]:
        """Numbers for people: of the choice, and of the curve ``[threshold, alarms per hour,
        misses]``."""
        chosen = self.score
        return {
            "hours": chosen.seconds / 3600,
            "words": chosen.words,
            "hits": chosen.hits,
            "alarms": chosen.alarms,
            "confused": chosen.confused,
            "met": self.met,
            "curve": [
                [p.threshold, round(p.score.alarms_per_hour, 3), round(p.score.misses, 5)]
                for p in self.curve
            ],
        }


def choose(
    posteriors: Sequence[Int[np.ndarray, "_ classes"]],
    heard: Sequence[Stream],
    classes: tuple[str, ...],
    hop_ms: int,
    alarms_per_hour: float,
) -> Choice:
    """The smoothing and threshold with the fewest misses at an allowed rate of false alarms.

    If every rate is higher, those with the lowest. Ties: the shorter mean, the higher threshold.

    Args:
        posteriors: of every hop of each stream, parts of ``spotting.ONE``.
        heard: the streams.
        classes: names of the columns.
        hop_ms: milliseconds from one inference to the next.
        alarms_per_hour: the largest allowed rate of false alarms.

    Returns:
        The settings, and the counted curve over thresholds at their smoothing.
    """
    found: list[Choice] = []
    for window in sorted({1 + ms // hop_ms for ms in WINDOWS_MS}):
        for refractory in sorted({-(-ms // hop_ms) for ms in PAUSES_MS}):
            first = Settings(classes, hop_ms, window, THRESHOLDS[0], refractory)
            curve = tuple(_curve(posteriors, heard, first))
            allowed = [p for p in curve if p.score.alarms_per_hour <= alarms_per_hour]
            best = min(
                allowed or curve,
                key=lambda p: (
                    (0 if allowed else p.score.alarms, p.score.misses, p.score.alarms, -p.threshold)
                ),
            )
            settings = dataclasses.replace(first, threshold=best.threshold)
            found.append(Choice(settings, curve, bool(allowed)))
    return min(
        found,
        key=lambda c: (not c.met, 0 if c.met else c.score.alarms, c.score.misses, c.score.alarms),
    )


def _curve(
    posteriors: Sequence[np.ndarray], heard: Sequence[Stream], settings: Settings
) -> list[Point]:
    words = np.array(settings.words)
    strongest = [spotting.strongest(spotting.sums(p, settings.window), words) for p in posteriors]
    points = []
    for threshold in THRESHOLDS:
        at = dataclasses.replace(settings, threshold=threshold)
        scores = [
            streams.score(list(spotting.told(best, labels, at)), stream, at)
            for (best, labels), stream in zip(strongest, heard, strict=True)
        ]
        points.append(Point(threshold, functools.reduce(operator.add, scores)))
    return points
