"""Sounds of eight made-up machines of one make, synthesised in seconds, sound and failing ones.

Invariant: the same parameters give the same bytes, however many processors share the work; what
fails is heard in the test split only.

A machine turns and works in cycles. Its shaft and its gear give two periodic waves with harmonics
of their own; in each cycle a carriage travels, with hiss and a louder gear, and five parts knock,
each in its place; the housing colours it all by its resonances. Speed, load and the microphone
change from clip to clip, and a hall with hum and clanks lies behind.

Machines of one make have the same parts and nearly the same colour, but no two parts are quite
alike: each of the five knocks a little before or after the make's own place, rings a little higher
or lower, is a little louder or softer, and all are faint. So there are many small things to hear,
and how many of them a network puts together decides how well it tells machines apart. Whatever
fails also makes many knocks of a machine come when, as high and as loud as those of another one: so
how well a network tells machines apart decides how well it hears them fail.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os

import numpy as np
from jaxtyping import Bool, Complex, Float, Int16

from micronets_jax.data.dataset import DataError
from micronets_jax.data.recordings import SAMPLE_RATE

NUM_MACHINES = 8
CLASS_NAMES = tuple(f"id_{i:02d}" for i in range(NUM_MACHINES))
FAILURES = ("bearing", "imbalance", "looseness", "leak", "crack", "gear")
"""What may fail: pits in a bearing's race, a heavy side, a part that knocks in another place, a
leak that hisses all the time, a part that rings otherwise, a gear with a bad tooth."""

TABLE = 4096  # places in one turn of a wave table
HARMONICS = 40

PLACES = (0.0, 0.19, 0.39, 0.6, 0.81)
"""Where in a cycle the parts of every make knock, or nearly; a carriage travels from the second to
the fourth."""

RINGS = (700.0, 1900.0, 1250.0, 3100.0, 950.0)
"""At what frequencies the parts of every make ring, in Hz, or nearly."""

APART = {"place": 0.03, "ring": 0.1, "level": 0.3}
"""How far machines of a make lie apart, as standard deviations: of the place of a part, in cycles,
and of the logarithms of the frequency and of the loudness of its ring."""

UNSTEADY = 0.01
"""Of a cycle: how far a knock comes before or after its place (standard deviation)."""

STRANGE = 0.8
"""Share of the knocks of a machine that fails at its worst that are as another machine's."""


@dataclasses.dataclass(frozen=True)
class Machines:
    """What to synthesise.

    Attributes:
        seed: another seed is another eight machines.
        train, validation: clips per machine, all sound.
        normal, anomalous: test clips per machine.
        seconds: of one clip.
        knock: how loud a knock is; the louder, the sooner machines are told apart.
    """

    seed: int = 0
    train: int = 160
    validation: int = 24
    normal: int = 60
    anomalous: int = 60
    seconds: float = 4.0
    knock: float = 5.0

    def __post_init__(self) -> None:
        for field in ("train", "validation", "normal", "anomalous"):
            if getattr(self, field) < 1:
                raise DataError(f"{field}={getattr(self, field)}: give at least one clip")
        if self.seconds <= 0:
            raise DataError(f"seconds={self.seconds}: give a clip's length")
        if self.knock <= 0:
            raise DataError(f"knock={self.knock}: give a loudness above 0")


SIZES = {
    "tiny": Machines(train=40, validation=6, normal=10, anomalous=10, knock=40.0),
    "quick": Machines(),
    "paper": Machines(train=800, validation=80, normal=100, anomalous=200, seconds=10.0),
}
"""Parameters by preset."""


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """One recording of a machine: which, whether it fails, and its samples."""

    machine: int
    anomalous: bool
    samples: Int16[np.ndarray, " samples"]


def generate(spec: Machines) -> dict[str, list[Clip]]:
    """Clips of every split, machine by machine."""
    makes = [_make(spec, i) for i in range(NUM_MACHINES)]
    counts = {
        "train": (spec.train, 0),
        "validation": (spec.validation, 0),
        "test": (spec.normal, spec.anomalous),
    }
    jobs = [
        (split, machine, i >= sound, [spec.seed, place, machine, i])
        for place, (split, (sound, failing)) in enumerate(counts.items())
        for machine in range(NUM_MACHINES)
        for i in range(sound + failing)
    ]
    samples = round(spec.seconds * SAMPLE_RATE)

    def work(job) -> Clip:
        _, machine, fails, seed = job
        rng = np.random.default_rng(seed)
        return Clip(machine, fails, _record(makes, machine, fails, samples, rng))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        clips = list(pool.map(work, jobs))
    return {
        split: [clip for clip, job in zip(clips, jobs, strict=True) if job[0] == split]
        for split in counts
    }


@dataclasses.dataclass(frozen=True)
class _Make:
    """What one machine has and keeps."""

    turns: float  # per second
    teeth: int
    cycles: float  # per turn
    shaft: Float[np.ndarray, " harmonics"]
    gear: Float[np.ndarray, " harmonics"]
    gear_level: float
    peaks: Float[np.ndarray, "2 peaks"]  # Hz, dB
    hiss: float
    slope: float  # of the hiss, dB per octave
    places: Float[np.ndarray, " parts"]  # in a cycle
    rings: Float[np.ndarray, " parts"]  # Hz
    levels: Float[np.ndarray, " parts"]


def _make(spec: Machines, machine: int) -> _Make:
    common = np.random.default_rng([spec.seed, 90])
    own = np.random.default_rng([spec.seed, 91, machine])
    order = np.arange(1, HARMONICS + 1)
    shaft = common.normal(0, 0.8, HARMONICS) + own.normal(0, 0.02, HARMONICS)
    gear = common.normal(0, 0.8, HARMONICS) + own.normal(0, 0.02, HARMONICS)
    peaks = np.array([[420.0, 1150.0, 2600.0, 4300.0], [14.0, 12.0, 12.0, 8.0]])
    peaks[0] *= np.exp(own.normal(0, 0.004, 4))
    peaks[1] += own.normal(0, 0.12, 4)
    parts = len(PLACES)
    places = np.array(PLACES) + common.uniform(-0.02, 0.02, parts)
    rings = np.array(RINGS) * np.exp(common.normal(0, 0.1, parts))
    return _Make(
        turns=29 * float(np.exp(own.normal(0, 0.0025))),
        teeth=19,
        cycles=0.036,
        shaft=np.exp(shaft) / order,
        gear=np.exp(gear) / order**1.5,
        gear_level=float(np.exp(own.normal(-0.7, 0.02))),
        peaks=peaks,
        hiss=float(np.exp(own.normal(-1.2, 0.02))),
        slope=float(own.normal(-3, 0.05)),
        places=places + own.normal(0, APART["place"], parts),
        rings=rings * np.exp(own.normal(0, APART["ring"], parts)),
        levels=spec.knock * np.exp(own.normal(0, APART["level"], parts)),
    )


def _record(
    makes: list[_Make], machine: int, fails: bool, samples: int, rng: np.random.Generator
) -> Int16[np.ndarray, " samples"]:
    make = makes[machine]
    failure = FAILURES[rng.integers(len(FAILURES))] if fails else ""
    severity = rng.uniform(0.4, 1.0)
    time = np.arange(samples, dtype=np.float32) / SAMPLE_RATE
    load = rng.normal(0, 0.35)
    phase = _phase(make.turns * np.exp(0.03 * load), time, rng)

    cycle = make.cycles * phase + rng.random()
    travel = _between(cycle, make.places[1], make.places[3])

    shaft = _periodic(make.shaft * np.exp(rng.normal(0, 0.2, HARMONICS)), phase, rng)
    worn = 0.2 + (1.2 * severity if failure == "gear" else 0.0)
    gear = _periodic(make.gear * np.exp(rng.normal(0, worn, HARMONICS)), make.teeth * phase, rng)
    beat = np.cos(2 * np.pi * (phase + rng.random()))
    gear *= 1 + np.float32(rng.uniform(0.1, 0.3)) * beat
    if failure == "imbalance":
        gear = gear * (1 + severity * beat)
        shaft = 2 * shaft * (1 + severity * 2 * beat) + severity * 3 * beat
    if failure == "gear":
        tooth = np.exp(-np.square((phase % 1.0) - 0.5) * 200).astype(np.float32)
        gear = gear * (1 + severity * 4 * tooth)
    depth = rng.uniform(0.6, 1.0)
    flow = rng.standard_normal(samples, np.float32) * np.float32(make.hiss * np.exp(0.4 * load))
    flow = flow * ((0.4 + 2.0 * severity if failure == "leak" else 0.4) + depth * travel)
    gear = gear * (0.6 + depth * travel)
    gain = make.gear_level * np.exp(0.3 * load)
    inside = np.fft.rfft((shaft + gain * gear).astype(np.float32))
    inside += np.fft.rfft(flow) * _tilt(len(inside), make.slope)
    part = np.arange(len(PLACES)) == rng.integers(len(PLACES))
    if failure == "looseness":
        away = rng.choice([-1, 1]) * APART["place"] * (1 + severity)
        make = dataclasses.replace(make, places=make.places + part * away)
    if failure == "crack":
        higher = np.exp(part * rng.choice([-1, 1]) * 0.6 * severity)
        make = dataclasses.replace(make, rings=make.rings * higher)
    share = STRANGE * (0.55 + 0.45 * severity) if fails else 0.0
    strange = rng.random((len(PLACES), int(cycle[-1]) + 2)) < share
    inside += _struck(make, cycle, ~strange, rng)
    if fails:
        other = makes[(machine + rng.integers(1, NUM_MACHINES)) % NUM_MACHINES]
        inside += _struck(other, cycle, strange, rng)
    inside *= _housing(len(inside), make.peaks, rng)
    if failure == "bearing":
        pits = _impulses(phase * rng.uniform(3.3, 5.2), rng)
        hit = np.fft.rfft(pits * np.float32(severity * 20))
        inside += hit * _ring(len(inside), rng.uniform(1500, 4500), 20.0)
    sound = np.fft.irfft(inside, samples).astype(np.float32)
    sound /= np.sqrt(np.mean(np.square(sound)))

    hall = _hall(samples, rng)
    level = 10 ** (rng.uniform(-34, -26) / 20)
    mixed = level * (sound + 10 ** (-rng.uniform(3, 12) / 20) * hall)
    return np.clip(np.rint(mixed * 32767), -32768, 32767).astype(np.int16)


def _between(cycle: np.ndarray, start: float, end: float) -> np.ndarray:
    """1 from one place of each cycle to another, 0 elsewhere, with short slopes."""
    at = cycle % 1.0
    edges = np.clip((at - start) / 0.03, 0, 1) * np.clip((end - at) / 0.03, 0, 1)
    return edges.astype(np.float32)


def _struck(
    make: _Make,
    cycle: Float[np.ndarray, " samples"],
    due: Bool[np.ndarray, "parts cycles"],
    rng: np.random.Generator,
) -> Complex[np.ndarray, " bins"]:
    """Spectrum of parts that knock once in each cycle where they are due, in the place and as high
    and loud as in this machine, or nearly."""
    spectrum = np.zeros(len(cycle) // 2 + 1, np.complex64)
    for place, ring, level, when in zip(make.places, make.rings, make.levels, due, strict=True):
        at = np.flatnonzero(when) + place
        at = at + rng.normal(0, UNSTEADY, len(at))
        at = np.searchsorted(cycle, at[(at > cycle[0]) & (at < cycle[-1])])
        knocks = np.zeros(len(cycle), np.float32)
        knocks[at] = level * np.exp(rng.normal(0, 0.2, len(at)))
        ring = ring * np.exp(rng.normal(0, 0.02))
        spectrum += np.fft.rfft(knocks) * _ring(len(spectrum), ring, 8.0)
    return spectrum


def _phase(turns: float, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turns done at each time; the speed wanders by half a per cent."""
    slow = 0.005 * np.sin(2 * np.pi * (rng.uniform(0.2, 0.8) * time + rng.random()))
    return np.cumsum((1 + slow) * (turns / SAMPLE_RATE)) + rng.random()


def _periodic(levels: np.ndarray, phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A wave of unit power with these harmonics and random phases of theirs."""
    spectrum = np.zeros(TABLE // 2 + 1, np.complex64)
    spectrum[1 : len(levels) + 1] = levels * np.exp(2j * np.pi * rng.random(len(levels)))
    table = np.fft.irfft(spectrum).astype(np.float32)
    table /= np.sqrt(np.mean(np.square(table)))
    return table[(phase * TABLE).astype(np.int64) % TABLE]


def _impulses(phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    fires = np.diff(np.floor(phase), prepend=np.floor(phase[0])) > 0
    return fires * rng.uniform(0.3, 1.0, len(phase)).astype(np.float32)


def _hz(bins: int) -> np.ndarray:
    return np.linspace(0, SAMPLE_RATE / 2, bins, dtype=np.float32)


def _tilt(bins: int, slope: float) -> np.ndarray:
    octaves = np.log2(np.maximum(_hz(bins), 50) / 1000)
    return (10 ** (slope * octaves / 20)).astype(np.float32)


def _housing(bins: int, peaks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gain of the resonances, and of a microphone that stands elsewhere each time."""
    octaves = np.log2(np.maximum(_hz(bins), 50))
    db = sum(level * np.exp(-np.square((octaves - np.log2(hz)) / 0.18)) for hz, level in peaks.T)
    knots = np.log2([50, 200, 800, 2400, 8000])
    db = db + np.interp(octaves, knots, rng.normal(0, 1.5, len(knots)))
    return (10 ** (db / 20)).astype(np.float32)


def _ring(bins: int, hz: float, quality: float) -> np.ndarray:
    x = _hz(bins) / hz
    return (1 / np.sqrt(np.square(1 - np.square(x)) + np.square(x / quality))).astype(np.float32)


def _hall(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Other machines and people: coloured noise that swells, mains hum, clanks; of unit power."""
    spectrum = np.fft.rfft(rng.standard_normal(samples, np.float32))
    spectrum *= _tilt(len(spectrum), rng.uniform(-7, -2))
    hum = round(50 * samples / SAMPLE_RATE) * np.arange(1, 9)
    spectrum[hum] *= rng.uniform(1, 20, len(hum)) / np.arange(1, 9)
    strikes = rng.poisson(1.5)
    clanks = np.zeros(samples, np.float32)
    clanks[rng.integers(0, samples, strikes)] = rng.uniform(10, 60, strikes)
    spectrum += np.fft.rfft(clanks) * _ring(len(spectrum), rng.uniform(600, 5000), 30.0)
    noise = np.fft.irfft(spectrum, samples).astype(np.float32)
    return noise / np.sqrt(np.mean(np.square(noise)))
