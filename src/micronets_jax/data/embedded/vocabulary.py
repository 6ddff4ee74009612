"""A made-up spoken vocabulary, synthesised in seconds: data for trying things without a download.

Invariant: the same parameters give the same bytes, however many processors share the work.

A word is a sequence of phonemes, a phoneme one or more segments of targets for a source-filter
model (Fant, 1960; Klatt, "Software for a cascade/parallel formant synthesizer", 1980): formants,
voicing, aspiration, frication. Targets are smoothed in time, so that phonemes colour their
neighbours, and bent by the speaker: vocal-tract length, pitch, speed, breathiness, an accent that
moves every vowel. Many words differ in one phoneme, and unknown words differ from the target words
in one, so accuracy grows with what a network can tell apart rather than with how loud the noise is.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os

import numpy as np
from jaxtyping import Complex64, Float, Int16, Int32

from micronets_jax.data.dataset import SPLITS, DataError
from micronets_jax.data.recordings import SAMPLE_RATE
from micronets_jax.spotting import SILENCE, UNKNOWN

FRAME, HOP = 320, 160  # samples; square-root Hann windows at half overlap add up to one
FRAMES = SAMPLE_RATE // HOP + 1
HZ = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE).astype(np.float32)
CHUNK = 40  # clips synthesised together: their spectra stay in the processor's cache

TARGETS = {
    "bana": "b a n a",
    "dana": "d a n a",
    "gana": "g a n a",
    "naba": "n a b a",
    "tiso": "t i s o",
    "diso": "d i s o",
    "tisho": "t i sh o",
    "kuma": "k u m a",
    "kuna": "k u n a",
    "wole": "w o l e",
}
"""Each target word and its phonemes."""

OTHERS = {
    "nada": "n a d a",
    "sito": "s i t o",
    "tito": "t i t o",
    "muka": "m u k a",
    "guna": "g u n a",
    "yole": "y o l e",
    "pashi": "p a sh i",
    "rafe": "r a f e",
    "lisha": "l i sh a",
    "dofe": "d o f e",
    "wumi": "w u m i",
    "pifa": "p i f a",
}
"""The words that are all of class ``unknown``."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What to synthesise.

    Attributes:
        seed: another seed is another population of speakers saying the same words.
        train, validation, test: clips per split; silence and unknown words take a tenth each.
        clips_per_speaker: how often a speaker comes, on average.
    """

    seed: int = 0
    train: int = 4800
    validation: int = 1200
    test: int = 1200
    clips_per_speaker: int = 20

    def __post_init__(self) -> None:
        for field in ("train", "validation", "test"):
            if getattr(self, field) < 24:
                raise DataError(
                    f"{field}={getattr(self, field)}: 12 classes need at least 24 clips per split"
                )
        if self.clips_per_speaker < 1:
            raise DataError(f"clips_per_speaker={self.clips_per_speaker}: give at least 1")


SIZES = {
    "tiny": Vocabulary(train=480, validation=240, test=240),
    "quick": Vocabulary(),
    "paper": Vocabulary(train=24_000, validation=3000, test=3000),
}
"""Parameters by preset."""

CLASS_NAMES = (*TARGETS, SILENCE, UNKNOWN)


@dataclasses.dataclass(frozen=True)
class _Segment:
    """Targets of one piece of a phoneme: ms, Hz, and linear amplitudes."""

    ms: int
    formants: tuple[int, int, int]
    voice: float = 0.0
    breath: float = 0.0  # noise through the formants
    hiss: float = 0.0  # noise through a band of its own
    hiss_hz: int = 4000
    hiss_width: int = 1500
    damping: float = 1.0  # factor on the bandwidths


def _vowel(f1: int, f2: int, f3: int) -> tuple[_Segment, ...]:
    return (_Segment(130, (f1, f2, f3), voice=1.0),)


def _glide(f1: int, f2: int, f3: int) -> tuple[_Segment, ...]:
    return (_Segment(80, (f1, f2, f3), voice=0.5),)


def _nasal(f2: int, f3: int) -> tuple[_Segment, ...]:
    return (_Segment(90, (280, f2, f3), voice=0.4, damping=1.5),)


def _fricative(hz: int, width: int, level: float, locus: int) -> tuple[_Segment, ...]:
    return (_Segment(120, (350, locus, 2500), hiss=level, hiss_hz=hz, hiss_width=width),)


def _plosive(voiced: bool, locus: tuple[int, int], hz: int, width: int):
    formants = (300, *locus)
    closure = _Segment(45, formants, voice=0.12 if voiced else 0.0, damping=3.0)
    burst = _Segment(22, formants, hiss=1.0, hiss_hz=hz, hiss_width=width)
    release = _Segment(20 if voiced else 55, formants, voice=0.4 * voiced, breath=0.5)
    return closure, burst, release


# Formants of vowels: Peterson and Barney (1952), men. The rest follows textbook phonetics.
PHONEMES: dict[str, tuple[_Segment, ...]] = {
    "a": _vowel(730, 1090, 2440),
    "e": _vowel(530, 1840, 2480),
    "i": _vowel(270, 2290, 3010),
    "o": _vowel(570, 840, 2410),
    "u": _vowel(300, 870, 2240),
    "w": _glide(300, 650, 2200),
    "y": _glide(280, 2200, 2950),
    "r": _glide(350, 1150, 1600),
    "l": _glide(370, 1050, 2700),
    "m": _nasal(900, 2100),
    "n": _nasal(1650, 2600),
    "s": _fricative(5200, 1100, 0.5, 1700),
    "sh": _fricative(3000, 900, 0.55, 1900),
    "f": _fricative(4500, 3500, 0.22, 1000),
    "p": _plosive(False, (800, 2200), 900, 900),
    "b": _plosive(True, (800, 2200), 900, 900),
    "t": _plosive(False, (1750, 2650), 4200, 1400),
    "d": _plosive(True, (1750, 2650), 4200, 1400),
    "k": _plosive(False, (2000, 2300), 2000, 700),
    "g": _plosive(True, (2000, 2300), 2000, 700),
}

_WORDS = [text.split() for text in (*TARGETS.values(), *OTHERS.values())]
_FIELDS = ("voice", "breath", "hiss", "hiss_hz", "hiss_width", "damping")


def _word_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per word and segment: duration in seconds, nine targets, the phoneme's number.

    Words are padded with segments of no duration; targets are F1, F2, F3 and ``_FIELDS``.
    """
    segments = [
        [(s, list(PHONEMES).index(p)) for p in word for s in PHONEMES[p]] for word in _WORDS
    ]
    longest = max(map(len, segments))
    seconds = np.zeros((len(_WORDS), longest))
    targets = np.zeros((len(_WORDS), longest, 3 + len(_FIELDS)))
    phoneme = np.zeros((len(_WORDS), longest), int)
    for i, word in enumerate(segments):
        for j in range(longest):
            segment, number = word[min(j, len(word) - 1)]
            seconds[i, j] = segment.ms / 1000 if j < len(word) else 0
            targets[i, j] = (*segment.formants, *(getattr(segment, f) for f in _FIELDS))
            phoneme[i, j] = number
    return seconds, targets, phoneme


_SECONDS, _TARGETS, _PHONEME = _word_tables()


def generate(spec: Vocabulary) -> dict[str, np.ndarray]:
    """Clips and labels of every split, and noise to mix in.

    Returns:
        ``<split>_examples`` int16 [n, 16000] and ``<split>_labels`` int32 [n] in random order, and
        ``noise`` int16 [6, 320000]. No speaker is heard in two splits.
    """
    bank = _noise_bank(spec.seed)
    out: dict[str, np.ndarray] = {"noise": noise_recordings(spec.seed)}
    jobs = []
    for place, split in enumerate(SPLITS):
        n = getattr(spec, split)
        rng = np.random.default_rng([spec.seed, place, 0])
        labels, words = _roll(n, rng)
        speakers = _speakers(max(2, n // spec.clips_per_speaker), rng)
        heard = rng.permutation(np.arange(n) % len(speakers["tract"]))
        clips = np.empty((n, SAMPLE_RATE), np.int16)
        out |= {f"{split}_examples": clips, f"{split}_labels": labels}
        for number, start in enumerate(range(0, n, CHUNK)):
            rows = slice(start, min(start + CHUNK, n))
            people = {k: v[heard[rows]] for k, v in speakers.items()}
            seed = [spec.seed, place, 1 + number]
            jobs.append((clips, rows, words[rows], people, seed))

    def work(job) -> None:
        clips, rows, words, people, seed = job
        clips[rows] = _utter(words, people, bank, np.random.default_rng(seed))

    with concurrent.futures.ThreadPoolExecutor(_num_cores()) as pool:
        list(pool.map(work, jobs))
    return out


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _roll(n: int, rng: np.random.Generator) -> tuple[Int32[np.ndarray, " n"], np.ndarray]:
    """Labels and words (-1: silence) of a split, each class as even as it can be."""
    tenth = max(1, round(n / 10))
    targets = np.arange(n - 2 * tenth) % len(TARGETS)
    others = len(TARGETS) + np.arange(tenth) % len(OTHERS)
    words = rng.permutation(np.concatenate([targets, np.full(tenth, -1), others]))
    labels = np.where(words < 0, len(TARGETS), np.minimum(words, len(TARGETS) + 1))
    labels = np.where(words >= len(TARGETS), len(TARGETS) + 1, labels)
    return labels.astype(np.int32), words


def _speakers(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What stays the same whenever a speaker is heard."""
    tract = rng.uniform(0.85, 1.25, n)  # factor on formants: men low, children high
    accent = rng.normal(0, 0.03, (n, len(PHONEMES), 3))
    return {
        "tract": tract,
        # Small people tend to have high voices, and not always.
        "pitch": 125 * tract**2.2 * np.exp(rng.normal(0, 0.18, n)),
        "speed": np.exp(rng.normal(0, 0.17, n)),
        "accent": np.exp(accent),
        "breath": rng.uniform(0.02, 0.25, n),
        "tilt": rng.uniform(300, 1500, n),  # Hz above which the voice falls by 6 dB per octave
        "blur": rng.uniform(0.012, 0.030, n),  # seconds over which phonemes melt together
        "damping": np.exp(rng.normal(0.2, 0.25, n)),
        "colour": rng.normal(0, 2, (n, 8)),  # dB over eight bands: the microphone, the mouth
    }


def _utter(
    words: np.ndarray, people: dict[str, np.ndarray], bank: np.ndarray, rng: np.random.Generator
) -> Int16[np.ndarray, "clips samples"]:
    n = len(words)
    tracks = _tracks(words, people, rng)
    formants = np.moveaxis(tracks[..., :3], -1, 0)
    voice, breath, hiss, hiss_hz, hiss_width, damping = np.moveaxis(tracks[..., 3:], -1, 0)

    mouth = _resonances(formants, damping, people["tract"])
    tilt = people["tilt"].astype(np.float32)[:, None, None]
    spectrum = _voice(people["pitch"], rng) * (
        mouth * (voice[..., None] / np.sqrt(1 + np.square(HZ / tilt)))
    )
    breathing = breath + voice * people["breath"][:, None].astype(np.float32)
    band = np.exp(-0.5 * np.square((HZ - hiss_hz[..., None]) / hiss_width[..., None]))
    noise = _pick(bank, n, rng)
    spectrum += noise * (mouth * (0.3 * breathing[..., None]) + band * hiss[..., None])
    spectrum *= _colour(people["colour"])[:, None]
    _reverberate(spectrum, rng)
    sound = _overlap_add(spectrum)
    sound /= np.sqrt(np.mean(np.square(sound), axis=1, keepdims=True)) + 1e-9

    background = _overlap_add(_pick(bank, n, rng) * _noise_shape(n, rng)[:, None])
    background /= np.sqrt(np.mean(np.square(background), axis=1, keepdims=True))
    loudness = 10 ** (rng.uniform(-38, -18, (n, 1)) / 20)
    snr_db = np.minimum(rng.uniform(12, 45, (n, 1)), rng.uniform(12, 60, (n, 1)))
    present = (words >= 0)[:, None]
    clips = loudness * (present * sound + 10 ** (-snr_db / 20) * background)
    return np.clip(np.rint(clips * 32767), -32768, 32767).astype(np.int16)


def _tracks(
    words: np.ndarray, people: dict[str, np.ndarray], rng: np.random.Generator
) -> Float[np.ndarray, "clips frames 9"]:
    """Formants (Hz) and the other targets over time; silent before and after the word."""
    n, segments = len(words), _SECONDS.shape[1]
    accent = people["accent"][np.arange(n)[:, None], _PHONEME[words]]
    targets = _TARGETS[words].copy()
    targets[..., :3] *= accent * people["tract"][:, None, None]
    targets[..., :3] *= np.exp(rng.normal(0, 0.02, (n, segments, 3)))
    targets[..., 3:6] *= np.exp(rng.normal(0, 0.25, (n, segments, 3)))
    targets[..., 8] *= people["damping"][:, None]

    seconds = _SECONDS[words] * np.exp(rng.normal(0, 0.18, (n, segments)))
    seconds /= people["speed"][:, None]
    total = seconds.sum(axis=1, keepdims=True)
    seconds *= np.minimum(1, 0.85 / total)
    total = np.minimum(total, 0.85)
    start = np.clip(0.5 - total / 2 + rng.normal(0, 0.07, (n, 1)), 0.03, 0.97 - total)
    ends = start + np.cumsum(seconds, axis=1)

    time = np.arange(FRAMES) * (HOP / SAMPLE_RATE)
    index = np.minimum((time[None, :, None] >= ends[:, None]).sum(axis=-1), segments - 1)
    steps = np.take_along_axis(targets, index[..., None], axis=1)
    outside = (time < start) | (time >= ends[:, -1:])
    steps[..., 3:6] *= ~outside[..., None]
    lag = np.square(time[:, None] - time)

    def smooth(values: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        weights = np.exp(-lag / (2 * np.square(sigma[:, None, None])))
        weights /= weights.sum(axis=-1, keepdims=True)
        return weights @ values

    slow = smooth(steps[..., :3], people["blur"])
    fast = smooth(steps[..., 3:], np.full(n, 0.006))
    return np.concatenate([slow, fast], axis=-1).astype(np.float32)


def _resonances(
    formants: np.ndarray, damping: np.ndarray, tract: np.ndarray
) -> Float[np.ndarray, "clips frames bins"]:
    """Gain of a cascade of three moving and two fixed resonances, 1 at 0 Hz."""
    fixed = [np.broadcast_to(hz * tract[:, None], damping.shape) for hz in (3500, 4500)]
    square = np.square(HZ)
    gain = np.ones((*damping.shape, len(HZ)), np.float32)
    for hz, width in zip((*formants, *fixed), (60, 80, 120, 180, 250), strict=True):
        centre = np.square(hz.astype(np.float32))[..., None]
        blur = np.square(width * damping)[..., None]
        gain *= np.square(centre) / (np.square(centre - square) + blur * square)
    return np.sqrt(gain, out=gain)


def _voice(
    pitch: np.ndarray, rng: np.random.Generator
) -> Complex64[np.ndarray, "clips frames bins"]:
    """Spectra of glottal pulses of unit power whose pitch wanders and falls."""
    n = len(pitch)
    x = np.linspace(-1, 1, FRAMES - 1)
    fall, arch = rng.normal(-0.08, 0.08, (n, 1)), rng.normal(0, 0.08, (n, 1))
    wobble = 0.02 * np.sin(np.pi * (rng.uniform(2, 6, (n, 1)) * x + rng.uniform(0, 2, (n, 1))))
    level = pitch[:, None] * np.exp(rng.normal(0, 0.08, (n, 1)))
    hz = level * np.exp(fall * x - arch * x**2 + wobble)
    step = np.repeat(np.clip(hz, 60, 450) / SAMPLE_RATE, HOP, axis=1)
    phase = np.cumsum(step, axis=1)
    turn = np.floor(phase)
    fires = np.diff(turn, axis=1, prepend=0) > 0
    # A pulse falls between two samples; both share it.
    late = (phase - turn) / step
    height = fires / np.sqrt(step)
    pulses = height * (1 - late)
    pulses[:, :-1] += (height * late)[:, 1:]
    return _spectra(pulses.astype(np.float32))


_WINDOW = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)).astype(np.float32)


def _spectra(x: Float[np.ndarray, "clips samples"]) -> Complex64[np.ndarray, "clips frames bins"]:
    padded = np.pad(x, ((0, 0), (HOP, HOP)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME, axis=1)[:, ::HOP]
    return np.fft.rfft(frames * _WINDOW, axis=-1)


def _overlap_add(
    spectra: Complex64[np.ndarray, "clips frames bins"],
) -> Float[np.ndarray, "clips samples"]:
    frames = np.fft.irfft(spectra, FRAME, axis=-1)
    frames *= _WINDOW
    sound = frames[:, 1:, :HOP] + frames[:, :-1, HOP:]
    return sound.reshape(len(sound), -1)


def _noise_bank(seed: int) -> Complex64[np.ndarray, "frames bins"]:
    """Spectra of a long stretch of white noise; clips take their noise from random places in it."""
    rng = np.random.default_rng([seed, 100])
    white = rng.standard_normal((1, 6000 * HOP), np.float32)
    return _spectra(white)[0]


def _pick(bank: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    starts = rng.integers(0, len(bank) - FRAMES, n)
    return bank[starts[:, None] + np.arange(FRAMES)]


def _noise_shape(n: int, rng: np.random.Generator) -> Float[np.ndarray, "clips bins"]:
    """Spectra of backgrounds: white to brown, some with a broad hump."""
    colour = rng.uniform(0, 1.2, (n, 1))
    centre, width = rng.uniform(200, 5000, (n, 1)), rng.uniform(200, 1500, (n, 1))
    hump = rng.uniform(-1, 3, (n, 1)).clip(0) * np.exp(-0.5 * np.square((HZ - centre) / width))
    return (np.maximum(HZ, 50) ** -colour * (1 + hump)).astype(np.float32)


def _colour(levels_db: np.ndarray) -> Float[np.ndarray, "clips bins"]:
    """Smooth gains through eight levels, evenly spaced over 0 to 8 kHz."""
    knots = np.linspace(0, 8000, levels_db.shape[1])
    place = np.interp(HZ, knots, np.arange(len(knots)))
    low = np.minimum(place.astype(int), len(knots) - 2)
    part = place - low
    db = levels_db[:, low] * (1 - part) + levels_db[:, low + 1] * part
    return (10 ** (db / 20)).astype(np.float32)


def _reverberate(spectra: np.ndarray, rng: np.random.Generator) -> None:
    """Each frame leaves a decaying echo, turned by random phases, in the next ones; in place."""
    n = len(spectra)
    echo = rng.uniform(0, 0.6, (n, 1)) * np.exp(2j * np.pi * rng.random((n, len(HZ))))
    echo = echo.astype(np.complex64)
    tail = np.zeros_like(spectra[:, 0])
    for frame in range(spectra.shape[1]):
        tail = echo * (tail + (spectra[:, frame - 1] if frame else 0))
        spectra[:, frame] += tail


def noise_recordings(seed: int) -> Int16[np.ndarray, "recordings length"]:
    """Six recordings of 20 s, from white to brown and humped."""
    rng = np.random.default_rng([seed, 101])
    samples = 20 * SAMPLE_RATE
    out = np.empty((6, samples), np.int16)
    shapes = _noise_shape(len(out), rng)
    for row, shape in zip(out, shapes, strict=True):
        spectrum = np.fft.rfft(rng.standard_normal(samples, np.float32))
        spectrum *= np.interp(np.linspace(0, 1, len(spectrum)), np.linspace(0, 1, len(HZ)), shape)
        x = np.fft.irfft(spectrum, samples)
        row[:] = np.rint(x / np.abs(x).max() * 16_000)
    return out
