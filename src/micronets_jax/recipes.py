"""Settings of searches and trainings: every hyperparameter with its default, in one place.

Invariant: plain frozen data, checked at construction. JAX is not imported, so that a command line
shows its help without loading it. The docstrings of fields are that help.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

Precision = Literal["float32", "bfloat16"]
"""What the factors of convolutions and dense layers are rounded to."""


Sampling = Literal["drawn", "relaxed"]
"""How a search samples widths."""

Start = Literal["balanced", "even"]
"""Proportions of the widths that a search starts from."""


@dataclasses.dataclass(frozen=True)
class Search:
    """Settings that every search has: its steps, and the contest that ends it.

    Learning rates, epochs and batch size of the ``paper`` presets are the paper's (MicroNets,
    section 5.2), which does not give what is marked (ours).
    """

    epochs: int = 0
    """Passes over the training data, of which one half trains weights and the other judges."""
    batch_size: int = 128
    """Examples per step, half of them from each half of the data."""
    samples: int = 1
    """Architectures per step, evaluated side by side. (Ours.)"""
    learning_rate: float = 0.01
    """Of the weights (AdamW, ours), falling on a cosine."""
    final_learning_rate: float = 0.00001
    """Where the cosine ends."""
    weight_decay: float = 0.001
    """Of the kernels, decoupled."""
    precision: Precision = "float32"
    """Of the factors in convolutions; bfloat16 is faster on accelerators. Costs stay float32."""
    trials: int = 6
    """Proposals trained briefly from scratch and compared on held-out data; 1 takes the first as it
    is. (Ours.)"""
    trial_epochs: int = 6
    """Passes of a trial over the weights' half of the data. (Ours.)"""

    def __post_init__(self) -> None:
        _at_least(1, samples=self.samples, trials=self.trials, trial_epochs=self.trial_epochs)
        _at_least(2, batch_size=self.batch_size)
        _positive(learning_rate=self.learning_rate)
        _at_least(
            0,
            epochs=self.epochs,
            final_learning_rate=self.final_learning_rate,
            weight_decay=self.weight_decay,
        )
        if self.batch_size % 2:
            raise ValueError(f"batch_size={self.batch_size}: give an even number, it is halved")
        _precision(self.precision)

    @property
    def side_by_side(self) -> int:
        """Architectures of a step that are computed at once and may be sharded over devices."""
        return self.samples

    @classmethod
    def instead_of(cls, other: Search, **own: int) -> Search:
        """This search's defaults with the fields of :class:`Search` taken from another search.

        Args:
            other: whose fields are taken, ``epochs`` aside.
            own: fields that are set to these values instead.
        """
        shared = {f.name: getattr(other, f.name) for f in dataclasses.fields(Search)}
        del shared["epochs"]
        return cls(**{**shared, **own})


@dataclasses.dataclass(frozen=True)
class DNAS(Search):
    """How a differentiable search runs (MicroNets, section 5.2)."""

    epochs: int = 20
    """Passes over the training data; half of it trains weights, half decisions."""
    bits: int = 8
    """8 simulates quantisation inside the search, 0 searches in float."""
    warmup: float = 0.25
    """Share of the steps in which only weights learn, under random widths of all blocks. (Ours.)"""
    decision_learning_rate: float = 0.1
    """Of the decisions' logits (NovoGrad). (Ours.)"""
    decision_reach: float = 0.25
    """Relative deviation of the Gaussian over widths: that of the first logits, and that by which
    gradients are smoothed over neighbouring widths. (Ours.)"""
    start: Start = "balanced"
    """Widths at first, scaled to the limits: balanced (equal cost elasticity: 1 % more of any width
    costs the same), or even (the same share of every largest width). (Ours.)"""
    widths: Sampling = "drawn"
    """drawn: weights see one-hot widths, decisions a point between two draws; relaxed: both see
    Gumbel-softmax mixtures of widths, as in the paper. Binary decisions are always relaxed."""
    temperature: float = 1.0
    """Of relaxed samples at first (Gumbel-softmax), falling geometrically. (Ours.)"""
    final_temperature: float = 0.3
    """Where the temperature ends. (Ours.)"""
    multiplier_rate: float = 0.05
    """Step size of the dual ascent on the limits' multipliers. (Ours.)"""
    damping: float = 1.0
    """Weight of the quadratic penalty of the augmented Lagrangian. (Ours.)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(1, epochs=self.epochs)
        _positive(
            decision_learning_rate=self.decision_learning_rate,
            decision_reach=self.decision_reach,
            final_temperature=self.final_temperature,
        )
        _at_least(0, warmup=self.warmup, multiplier_rate=self.multiplier_rate, damping=self.damping)
        if self.widths not in get_args(Sampling):
            raise ValueError(f"widths={self.widths!r}: give drawn or relaxed")
        if self.start not in get_args(Start):
            raise ValueError(f"start={self.start!r}: give balanced or even")
        if self.bits not in (0, 8):
            raise ValueError(f"bits={self.bits}: give 8, or 0 to search in float")
        if self.warmup >= 1:
            raise ValueError(f"warmup={self.warmup}: give a share of the steps below 1")
        if self.temperature < self.final_temperature:
            raise ValueError(
                f"temperature={self.temperature} is below "
                f"final_temperature={self.final_temperature}: it can only fall"
            )


@dataclasses.dataclass(frozen=True)
class Random(Search):
    """Random search: trials of networks drawn uniformly from the space, the baseline."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs:
            raise ValueError(f"epochs={self.epochs}: a random search has only trials; give 0")

    @classmethod
    def instead_of(cls, other: Search, **own: int) -> Search:
        """Deciding takes at most as long as searching, so twice the trials take the same time."""
        return super().instead_of(other, **{"trials": 2 * other.trials, **own})


@dataclasses.dataclass(frozen=True)
class TinyNAS(Search):
    """How a one-shot search runs (MCUNet, section 3.1): a supernet, then an evolution.

    Numbers are the paper's but where marked (ours).
    """

    epochs: int = 30
    """Passes over the training data; half of it trains weights, half judges members."""
    samples: int = 4
    """Networks per step: the largest, the smallest and some drawn. (The paper draws all four.)"""
    trials: int = 1
    """Proposals trained briefly from scratch; 1 takes the best as it is, with its weights."""
    warmup: float = 1 / 3
    """Share of the steps in which only the largest network learns."""
    population: int = 100
    """Members of a generation."""
    parents: int = 20
    """Of these, the best, whose children are the next."""
    rounds: int = 30
    """Generations after the first."""
    mutation: float = 0.1
    """Probability that a mutant's decision is drawn anew."""
    calibration: int = 64
    """Training examples from which a member's batch-norm moments are taken. (Ours.)"""
    judged: int = 256
    """Held-out examples that a member is judged by. (Ours.)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(1, epochs=self.epochs, parents=self.parents, calibration=self.calibration)
        _at_least(1, judged=self.judged)
        _at_least(2, population=self.population)
        _at_least(3, samples=self.samples)
        _at_least(0, warmup=self.warmup, rounds=self.rounds, mutation=self.mutation)
        if self.warmup >= 1:
            raise ValueError(f"warmup={self.warmup}: give a share of the steps below 1")
        if self.mutation > 1:
            raise ValueError(f"mutation={self.mutation}: give a probability")
        if self.parents > self.population:
            raise ValueError(
                f"parents={self.parents}: the population has only {self.population}; give fewer"
            )

    @property
    def side_by_side(self) -> int:
        """One: each network is taught by the largest, and takes its turn."""
        return 1

    @classmethod
    def instead_of(cls, other: Search, **own: int) -> Search:
        """Three times the other's epochs, a third of them for the largest network as in the paper,
        and as many rounds as that, at most the paper's."""
        epochs = 3 * other.epochs or cls.epochs
        ours = {"epochs": epochs, "rounds": min(epochs, cls.rounds), "trials": cls.trials}
        return super().instead_of(other, **{**ours, "samples": cls.samples, **own})


@dataclasses.dataclass(frozen=True)
class Family:
    """The spaces that ``--method tinynas`` chooses from: each of these widths with each of these
    sides. (Those of MCUNet, but for expansions of 5, which its released networks have.)"""

    widths: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Multiply the channels of ProxylessNAS."""
    sides: tuple[int, ...] = tuple(range(48, 225, 16))
    """Rows and columns of the pictures, in place of any other size that is given."""
    depths: tuple[int, ...] = (2, 3, 4)
    """Blocks of each stage that a member may have."""
    kernels: tuple[int, ...] = (3, 5, 7)
    """Sizes of depthwise convolutions."""
    expansions: tuple[int, ...] = (3, 4, 6)
    """Channels between for each that a block reads."""

    def __post_init__(self) -> None:
        for name in ("widths", "sides"):
            values = getattr(self, name)
            if not values or not min(values) > 0:
                raise ValueError(f"{name}={values}: give numbers above 0")


METHODS: dict[str, type[Search]] = {"dnas": DNAS, "random": Random, "tinynas": TinyNAS}
"""What ``--method`` chooses from."""


@dataclasses.dataclass(frozen=True)
class Training:
    """How one network is trained, in float or quantised: a short warm-up, then a cosine."""

    steps: int = 3000
    """Batches in all, be they few passes over many examples or many over few."""
    epochs: int = 0
    """Above 0: passes over the training data, in place of steps."""
    batch_size: int = 64
    """Examples per step."""
    learning_rate: float = 0.01
    """After a warm-up of one twentieth of all steps."""
    final_learning_rate: float = 0.00001
    """Where the cosine ends."""
    weight_decay: float = 0.001
    """Of the kernels, decoupled."""
    label_smoothing: float = 0.0
    """Weight of the uniform distribution in the targets."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw, or sgd: with Nesterov's momentum of 0.9, for rates far above 0.01."""
    distillation: float = 0.0
    """Weight of a teacher's logits in the loss; the teacher, a larger network, is trained first."""
    distillation_temperature: float = 4.0
    """What divides logits before they are compared with the teacher's."""

    def __post_init__(self) -> None:
        _at_least(1, steps=self.steps, batch_size=self.batch_size)
        _positive(
            learning_rate=self.learning_rate,
            distillation_temperature=self.distillation_temperature,
        )
        if not 0 <= self.distillation <= 1:
            raise ValueError(f"distillation={self.distillation}: give a share from 0 to 1")
        if self.optimizer not in ("adamw", "sgd"):
            raise ValueError(f"optimizer={self.optimizer!r}: give adamw or sgd")
        _at_least(
            0,
            epochs=self.epochs,
            final_learning_rate=self.final_learning_rate,
            weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing,
        )
        if self.label_smoothing >= 1:
            raise ValueError(f"label_smoothing={self.label_smoothing}: give a share below 1")

    def num_steps(self, batches: int) -> int:
        """Steps in all where a pass over the training data has this many batches."""
        return self.epochs * batches or self.steps


@dataclasses.dataclass(frozen=True)
class SpeechAugmentation:
    """Strengths of the augmentation of clips, drawn anew at each step; 0 switches one off."""

    shift_ms: float = 100.0
    """Most that a clip moves, either way."""
    speed: float = 0.0
    """Most that a clip is played faster or slower, pitch included, as a share of its speed."""
    warp: float = 0.0
    """Most that frequencies are stretched, as a share: the length of another vocal tract (VTLP,
    Jaitly and Hinton, 2013)."""
    loudness_db: float = 0.0
    """Most that a clip is made louder or softer."""
    noise: float = 0.8
    """Share of clips that get background noise."""
    noise_volume: float = 0.1
    """Largest factor on that noise as it was recorded; 0 draws signal-to-noise ratios."""
    snr_db: tuple[float, float] = (0.0, 30.0)
    """Least and greatest signal-to-noise ratio, where these are drawn."""
    room_s: float = 0.0
    """Longest time in which the echo of a room falls by 60 dB."""
    colour_db: float = 0.0
    """How far the frequency responses of microphones and rooms lie from an even one: the standard
    deviation of each of three smooth waves along the mel axis."""
    time_masks: int = 1
    """Stretches of time that are hidden (SpecAugment, Park et al., 2019)."""
    time_mask_frames: int = 6
    """Most frames of one."""
    mel_masks: int = 0
    """Stretches of the mel axis that are hidden."""
    mel_mask_bands: int = 6
    """Most bands of one."""
    mixup: float = 0.0
    """Of the Beta distribution by which clips and their labels are blended (Zhang et al., 2018)."""

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if name != "snr_db"}
        _at_least(0, **numbers)
        _at_most(1, noise=self.noise)
        _at_most(0.5, speed=self.speed, warp=self.warp)
        if self.shift_ms > 1000:
            raise ValueError(f"shift_ms={self.shift_ms}: a clip lasts 1000 ms; give less")
        if self.snr_db[0] > self.snr_db[1]:
            raise ValueError(f"snr_db={self.snr_db}: give the least ratio first")


@dataclasses.dataclass(frozen=True)
class ImageAugmentation:
    """Strengths of the augmentation of pictures, drawn anew at each step; 0 switches one off."""

    mirror: bool = True
    """Whether half of the pictures are turned left to right; not so for letters or signs."""
    shift: float = 0.1
    """Most that a picture moves, as a share of its sides; its edges are repeated."""
    zoom: float = 0.0
    """Most that a picture is enlarged or reduced, as a share of its size."""
    rotation: float = 0.0
    """Most that a picture is turned, in degrees."""
    brightness: float = 0.2
    """Most that is added to all pixels, of the range from -1 to 1."""
    contrast: float = 0.2
    """Pixels are multiplied by at most 1 plus this, or divided by it."""
    colour: float = 0.0
    """Likewise the distances of red, green and blue from their mean, and each of them by itself."""
    cutout: float = 0.0
    """Longest side of a grey rectangle laid over a picture, as a share of the picture's (DeVries
    and Taylor, 2017)."""
    mixup: float = 0.0
    """Of the Beta distribution by which pictures and their labels are blended (Zhang et al.,
    2018)."""

    def __post_init__(self) -> None:
        _at_least(0, **vars(self))
        shares = ("shift", "zoom", "brightness", "contrast", "colour", "cutout")
        _at_most(1, **{name: getattr(self, name) for name in shares})
        _at_most(180, rotation=self.rotation)


@dataclasses.dataclass(frozen=True)
class FloatTraining(Training):
    """Training in float: :class:`Training` and what only it has."""

    from_supernet: bool = False
    """Start from the weights that the search shared, instead of from scratch."""
    precision: Precision = "float32"
    """Of the factors in convolutions; bfloat16 suits accelerators."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _precision(self.precision)


@dataclasses.dataclass(frozen=True)
class Bits:
    """Bits of quantised numbers, by the kind of layer."""

    weights: Literal[4, 8] = 8
    """Of the weights of convolutions, but depthwise ones; a dense layer's are always 8."""
    depthwise: Literal[4, 8] = 8
    """Of the weights of depthwise convolutions, and of any other that reads one channel."""
    activations: Literal[4, 8] = 8
    """Of what is made under a ReLU; all else is 8, for no runtime cuts it at both ends."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits that a person states in place of the device's; None leaves the device's own."""

    sram_bytes: int | None = None
    """Memory in bytes, of all that the firmware takes: arena, stacks, the runtime's own."""
    flash_bytes: int | None = None
    """Storage in bytes, of all that the firmware takes: the model, kernels, start-up."""
    mops: float | None = None
    """Millions of operations per inference, two per multiply-accumulate."""
    latency_ms: float | None = None
    """Milliseconds per inference, an estimate for the device."""
    energy_mj: float | None = None
    """Millijoules per inference, an estimate for the device."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(Limits):
            value = getattr(self, field.name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{field.name}={value}: give a limit above 0, or none")


@dataclasses.dataclass(frozen=True)
class Listening:
    """How a spotter listens, and by what its smoothing and thresholds are chosen."""

    hop_ms: int = 200
    """From one inference to the next; a multiple of the front end's frames."""
    alarms_per_hour: float = 40.0
    """False alarms that are accepted in streams of validation clips and noises, where somebody
    says a word every three seconds; of all smoothings and thresholds with at most so many, those
    that miss fewest words are taken."""
    minutes: float = 30.0
    """Length of these streams."""

    def __post_init__(self) -> None:
        _at_least(10, hop_ms=self.hop_ms)
        _at_most(1000, hop_ms=self.hop_ms)
        _at_least(0, alarms_per_hour=self.alarms_per_hour)
        _at_least(1, minutes=self.minutes)


def _at_least(least: int, **values: int | float) -> None:
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name}={value}: must be at least {least}")


def _at_most(most: int | float, **values: int | float) -> None:
    for name, value in values.items():
        if not value <= most:
            raise ValueError(f"{name}={value}: must be at most {most}")


def _positive(**values: int | float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: must be above 0")


def _precision(value: str) -> None:
    known = get_args(Precision)
    if value not in known:
        raise ValueError(f"precision={value!r} is not known; choose from {', '.join(known)}")
