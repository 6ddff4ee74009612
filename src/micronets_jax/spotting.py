"""Keyword detection on a stream: posterior smoothing, a threshold, a refractory period.

Invariant: integer arithmetic, in the steps of ``csrc/firmware/listening.c``, so that host and
device detect the same words at the same times from the same int8 logits. JAX is not loaded.

Source: Chen et al., "Small-footprint keyword spotting using deep neural networks" (ICASSP 2014),
section 3.3: the mean of the last posteriors of a word is its confidence. The refractory period
after a detection keeps the windows that still hold the word from detecting it again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int, Int8

SILENCE, UNKNOWN = "silence", "unknown"
"""Classes that are no words: nobody speaks, or says something else."""

ONE = 1 << 15
"""A posterior of 1."""

CLIP_MS = 1000
"""Milliseconds of sound that one inference reads."""

LONGEST_WINDOW = 64
"""Inferences at most in a mean: its sum must fit into 32 bits beside :data:`ONE`."""

_SETTINGS = "settings"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the detector.

    Attributes:
        classes: names, in the order of the network's logits.
        hop_ms: from one inference to the next.
        window: inferences over which posteriors are averaged.
        threshold: least mean posterior of a detection, in parts of :data:`ONE`.
        refractory: inferences after a detection in which there is none.
    """

    classes: tuple[str, ...]
    hop_ms: int
    window: int
    threshold: int
    refractory: int

    def __post_init__(self) -> None:
        bounds = {
            "hop_ms": (10, CLIP_MS),
            "window": (1, LONGEST_WINDOW),
            "threshold": (1, ONE),
            "refractory": (0, 1000),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if not (isinstance(value, int) and least <= value <= most):
                raise ValueError(f"{name}={value!r}: give a whole number from {least} to {most}")
        if not any(self.words):
            raise ValueError(f"classes={', '.join(self.classes)}: none of them is a word to tell")

    @property
    def words(self) -> tuple[bool, ...]:
        """Which classes are detected: all but silence and unknown words."""
        return tuple(name not in (SILENCE, UNKNOWN) for name in self.classes)

    @property
    def hop_samples(self) -> int:
        """At 16 kHz."""
        return 16 * self.hop_ms

    @property
    def shortest_ms(self) -> int:
        """Milliseconds of sound that are a stream: a whole mean, and more than a clip."""
        return CLIP_MS + max(1, self.window - 1) * self.hop_ms

    def seconds(self, step: int) -> float:
        """When the sound that an inference reads has come, from the beginning of the stream."""
        return (CLIP_MS + step * self.hop_ms) / 1000


@dataclasses.dataclass(frozen=True)
class Event:
    """A detection of a word.

    Attributes:
        step: index of the inference after which it was detected.
        label: of the word.
        confidence: its mean posterior, in parts of :data:`ONE`, rounded down.
    """

    step: int
    label: int
    confidence: int


def to_json(settings: Settings, rest: Mapping[str, object] | None = None) -> str:
    """The text of ``listening.json``: the settings, and what else is known of their choice."""
    return json.dumps({_SETTINGS: dataclasses.asdict(settings), **(rest or {})}, indent=1) + "\n"


def from_json(text: str) -> Settings:
    """The settings of a ``listening.json``.

    Raises:
        ValueError: the text is damaged or of something else.
    """
    try:
        values = json.loads(text)[_SETTINGS]
        return Settings(**{**values, "classes": tuple(values["classes"])})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not the settings of a listener: {error}") from error


def exponentials(scale: float) -> Int[np.ndarray, " 256"]:
    """exp(-scale d) in parts of :data:`ONE` for a logit d steps below the largest."""
    return np.rint(ONE * np.exp(-np.float64(scale) * np.arange(256))).astype(np.int64)


def posteriors(
    logits: Int8[np.ndarray, "steps classes"], scale: float
) -> Int[np.ndarray, "steps classes"]:
    """Softmax of int8 logits in parts of :data:`ONE`, each rounded down."""
    table = exponentials(scale)
    below = logits.max(axis=1, keepdims=True).astype(np.int64) - logits
    powers = table[below]
    return powers * ONE // powers.sum(axis=1, keepdims=True)


def of_floats(logits: Float[np.ndarray, "steps classes"]) -> Int[np.ndarray, "steps classes"]:
    """Softmax of float logits in parts of :data:`ONE`, for networks that are not quantised."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return (powers * ONE / powers.sum(axis=1, keepdims=True)).astype(np.int64)


def sums(
    posteriors: Int[np.ndarray, "steps classes"], window: int
) -> Int[np.ndarray, "steps classes"]:
    """The sum of the last ``window`` posteriors at each step; before the first they count as 0."""
    total = np.cumsum(posteriors, axis=0)
    total[window:] -= total[:-window].copy()
    return total


def strongest(
    sums: Int[np.ndarray, "steps classes"], words: Bool[np.ndarray, " classes"]
) -> tuple[Int[np.ndarray, " steps"], Int[np.ndarray, " steps"]]:
    """At each step the largest sum of a word, and its label; of equal ones the first."""
    masked = np.where(words, sums, -1)
    labels = masked.argmax(axis=1)
    return masked[np.arange(len(masked)), labels], labels


def told(
    best: Int[np.ndarray, " steps"],
    labels: Int[np.ndarray, " steps"],
    settings: Settings,
    free: int = 0,
) -> Iterator[Event]:
    """Detections by threshold and refractory period; none before step ``free``.

    Args:
        best: largest sum of any word at each step.
        labels: of that word.
        settings: threshold, window and pause.
        free: first step at which a word may be detected.

    Yields:
        Step, label and mean posterior of each.
    """
    for step in np.flatnonzero(best >= settings.threshold * settings.window).tolist():
        if step >= free:
            yield Event(step, int(labels[step]), int(best[step]) // settings.window)
            free = step + settings.refractory + 1


class Spotter:
    """The detector of a stream with its state: the last posteriors, and the refractory period.

    Args:
        settings: of the listener.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._last = np.zeros((settings.window, len(settings.classes)), np.int64)
        self._step, self._free = 0, 0

    def hear(self, posteriors: Int[np.ndarray, "steps classes"]) -> Iterator[Event]:
        """Detections after each of the next inferences."""
        whole = np.concatenate([self._last, posteriors])
        summed = sums(whole, self._settings.window)[self._settings.window :]
        best, labels = strongest(summed, np.array(self._settings.words))
        for event in told(best, labels, self._settings, self._free - self._step):
            self._free = self._step + event.step + self._settings.refractory + 1
            yield dataclasses.replace(event, step=self._step + event.step)
        self._step += len(posteriors)
        self._last = whole[-self._settings.window :]


def events(posteriors: Int[np.ndarray, "steps classes"], settings: Settings) -> list[Event]:
    """The words of a whole stream."""
    return list(Spotter(settings).hear(posteriors))
