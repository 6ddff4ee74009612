"""Streams of clips and noise with known words at known times, and scores of detections in them.

Invariant: a stream is a function of split, noise, length and seed; its clips and its noise belong
to the split.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int16

from micronets_jax.data.dataset import Dataset, Split
from micronets_jax.data.recordings import SAMPLE_RATE
from micronets_jax.data.sources.speech_commands import STRETCHES
from micronets_jax.spotting import Event, Settings

GAPS = (0.25, 2.75)
"""Seconds from the end of one clip to the beginning of the next, least and most."""

PIECES = (2.0, 10.0)
"""Seconds of one background noise before the next, least and most."""

LOUDEST = 0.1
"""Most that a background is of the recording of noise; clips of silence are up to all of it."""

LATE = 1.0
"""Seconds after the end of its clip in which a word may still be told: as long as an inference that
hears the end of the clip."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Sound, and what is said in it.

    Attributes:
        samples: at 16 kHz.
        labels: of every clip that is heard, silence and unknown words among them.
        starts: seconds at which they begin; each lasts a second.
    """

    samples: Int16[np.ndarray, " samples"]
    labels: tuple[int, ...]
    starts: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return len(self.samples) / SAMPLE_RATE


def of_split(dataset: Dataset, split: str, minutes: float, seed: int) -> Stream:
    """The clips of a split in random order over background noise of the split, reshuffled when all
    were heard.

    Args:
        dataset: clips of one second and background noise.
        split: ``train``, ``validation`` or ``test``.
        minutes: length of the stream.
        seed: of order, pauses and noise.

    Returns:
        int16 samples at 16 kHz, and label and begin in seconds of each clip.
    """
    part: Split = getattr(dataset, split)
    rng = np.random.default_rng([seed, *split.encode()])
    samples = _background(dataset.extras["noise"], split, round(60 * minutes * SAMPLE_RATE), rng)
    labels: list[int] = []
    starts: list[float] = []
    at, order = 0, np.zeros(0, np.int64)
    while True:
        at += round(rng.uniform(*GAPS) * SAMPLE_RATE)
        # What begins in the last seconds could not be detected any more.
        if at + round((1 + LATE) * SAMPLE_RATE) > len(samples):
            break
        if not len(order):
            order = rng.permutation(len(part))
        clip, label = part.take(order[:1])
        samples[at : at + SAMPLE_RATE] += clip[0]
        labels.append(int(label[0]))
        starts.append(at / SAMPLE_RATE)
        at, order = at + SAMPLE_RATE, order[1:]
    clipped = np.clip(np.rint(samples), -32768, 32767).astype(np.int16)
    return Stream(clipped, tuple(labels), tuple(starts))


def _background(
    noise: Int16[np.ndarray, "recordings length"],
    split: str,
    length: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Pieces of noise one after the other, each as loud as is drawn, as floats."""
    low, high = (int(share * noise.shape[1]) for share in STRETCHES[split])
    out, at = np.empty(length, np.float32), 0
    while at < length:
        size = min(round(rng.uniform(*PIECES) * SAMPLE_RATE), length - at)
        recording = noise[rng.integers(len(noise)), low:high]
        turned = np.roll(recording, -int(rng.integers(len(recording))))
        out[at : at + size] = np.resize(turned, size) * np.float32(rng.uniform(0, LOUDEST))
        at += size
    return out


@dataclasses.dataclass(frozen=True)
class Score:
    """Counts of detections in streams; scores add up.

    Attributes:
        seconds: of sound.
        words: that were said, silence and unknown words left out.
        hits: of these, detected by their own name, in time.
        alarms: false alarms, all other detections: where no word was, another word, repetitions.
        confused: of these, those where the last clip was a word.
    """

    seconds: float
    words: int
    hits: int
    alarms: int
    confused: int

    @property
    def misses(self) -> float:
        """Share of the words that were not detected."""
        return 1 - self.hits / self.words if self.words else 0.0

    @property
    def alarms_per_hour(self) -> float:
        """False alarms per hour of sound."""
        return 3600 * self.alarms / self.seconds

    def __add__(self, other: Score) -> Score:
        return Score(
            *(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )


def score(events: Sequence[Event], stream: Stream, settings: Settings) -> Score:
    """The score of detections against what was said.

    A word is hit by the first event of its name from its beginning to :data:`LATE` after its end.
    """
    starts = np.array(stream.starts)
    heard = set()
    hits = confused = 0
    is_word = settings.words
    for event in events:
        time = settings.seconds(event.step)
        first = int(np.searchsorted(starts, time - 1 - LATE))
        last = int(np.searchsorted(starts, time))
        recent = range(first, last)
        mine = [i for i in recent if stream.labels[i] == event.label and i not in heard]
        if mine:
            heard.add(mine[0])
            hits += 1
        elif recent and is_word[stream.labels[recent[-1]]]:
            confused += 1
    words = sum(is_word[label] for label in stream.labels)
    return Score(stream.seconds, words, hits, len(events) - hits, confused)
