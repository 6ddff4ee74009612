"""How many words does a spotter miss in a stream, and how often does it tell what nobody said?

    python -m experiments.kws --data SPEECH_COMMANDS --workdir RUN
    python -m benchmarks.listening --data SPEECH_COMMANDS --workdir RUN

Streams of ten minutes are made of test clips in random order, 0.25 to 2.75 s apart, over the
part of the noises that belongs to the test split; each next stream has another order. A run listens
to them with the smoothing and threshold that it chose on validation clips: the network in float as
it was trained, the int8 model, and the firmware on the emulated core of its board, where every int8
output is compared with that of this machine. A false alarm is all that was told and not said, and
"after words" counts those that were told when a word was the last that was said. Standard errors of
misses are by the number of words.

2,397 training clips of Speech Commands, quick preset, seed 0, ``--core-minutes 2``, 2026-12-01:
1.18 million operations, 88.1 % of 453 test clips in float and 88.3 % in int8; chosen at 40 false
alarms an hour: a mean of four posteriors, a threshold of 0.80, a pause of 0.6 seconds::

              minutes  words          missed alarms/h  after words
    float        30.0    611   25.9 (1.8) %     28.0    13 of 14
    int8         30.0    611   23.6 (1.7) %     34.0    15 of 17
    int8          2.0     44   22.7 (6.3) %      0.0     0 of 0
    core          2.0     44   22.7 (6.3) %      0.0     0 of 0

596 inferences on mps2-an386: no byte of the outputs differs from TensorFlow Lite Micro's for the
same features, no word from this machine's, no feature. For the STM32F446RE 8.77 million
instructions a second of sound, 7.0 % of the core (an estimate).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
import tyro

from micronets_jax import data, firmware, listening, network, pipeline, runtimes, spotting, supernet
from micronets_jax.listening import Score, Stream
from micronets_jax.workdir import WEIGHTS


@dataclasses.dataclass(frozen=True)
class Options:
    """Listen to streams of test clips with the model of a finished run."""

    workdir: pathlib.Path
    """Of the run."""
    data: str = "embedded"
    """What the run was trained on: embedded, or its folder."""
    size: str = "quick"
    """Of the embedded data: the run's preset."""
    streams: int = 3
    """Streams of ten minutes."""
    core_minutes: float = 10.0
    """Of the first stream that the emulated core hears; 0 leaves it out."""
    seed: int = 0
    """Of the streams, and of the data as in the run."""


MINUTES = 10.0

Posteriors = Callable[[Stream], np.ndarray]


def main() -> None:
    options = tyro.cli(Options, description=Options.__doc__)
    dataset = data.speech_commands.load(options.data, size=options.size, seed=options.seed)
    settings = pipeline.listens(options.workdir)
    if settings is None or settings.classes != dataset.class_names:
        raise SystemExit(f"{options.workdir} holds no spotter of {', '.join(dataset.class_names)}")
    heard = [
        listening.streams.of_split(dataset, "test", MINUTES, 1000 * options.seed + i)
        for i in range(options.streams)
    ]
    print(
        f"hop {settings.hop_ms} ms, mean of {settings.window}, threshold "
        f"{settings.threshold / spotting.ONE:.3f}, pause {settings.refractory} hops"
    )
    print(f"{'':9} {'minutes':>7} {'words':>6} {'missed':>15} {'alarms/h':>8} {'after words':>12}")
    logits = int8(options.workdir, settings)
    for name, posteriors in (("float", floats(options.workdir, settings)), ("int8", logits)):
        scores = [
            listening.streams.score(spotting.events(posteriors(s), settings), s, settings)
            for s in heard
        ]
        print(row(name, sum(scores[1:], scores[0])), flush=True)
    if options.core_minutes:
        on_core(options, settings, heard[0])


def row(name: str, score: Score) -> str:
    """One line of the table."""
    error = np.sqrt(score.misses * (1 - score.misses) / max(1, score.words))
    return (
        f"{name:9} {score.seconds / 60:7.1f} {score.words:6} "
        f"{100 * score.misses:6.1f} ({100 * error:.1f}) % {score.alarms_per_hour:8.1f} "
        f"{score.confused:5} of {score.alarms}"
    )


def floats(folder: pathlib.Path, settings: spotting.Settings) -> Posteriors:
    """The network as it was trained, before quantisation."""
    found = network.from_json((folder / pipeline.NETWORK).read_text())
    with ocp.StandardCheckpointer() as checkpointer:
        variables = checkpointer.restore((folder / WEIGHTS).absolute())
    model = supernet.Supernet(found)
    apply = jax.jit(lambda x: model.apply(variables, x))

    def predict(features: np.ndarray) -> np.ndarray:
        size = 64  # one shape, one program
        rows = -(-len(features) // size) * size
        padded = np.pad(features, [(0, rows - len(features)), *[(0, 0)] * 3])
        parts = [np.asarray(apply(padded[i : i + size])) for i in range(0, rows, size)]
        return np.concatenate(parts)[: len(features)]

    return lambda stream: spotting.of_floats(sliding(stream, folder, settings, predict))


def int8(folder: pathlib.Path, settings: spotting.Settings) -> Posteriors:
    """The exported model in the desktop interpreter."""
    model = runtimes.LiteRT((folder / "model.tflite").read_bytes())
    reads, scale = model.input_details, model.output_details.scale

    def predict(features: np.ndarray) -> np.ndarray:
        return model.predict(runtimes.quantize_input(features, reads.scale, reads.zero_point))

    return lambda s: spotting.posteriors(sliding(s, folder, settings, predict), scale)


def sliding(
    stream: Stream,
    folder: pathlib.Path,
    settings: spotting.Settings,
    predict: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Logits of every hop of a stream."""
    frontend = data.frontends.from_json((folder / "frontend.json").read_text())
    assert isinstance(frontend, data.MFCC)
    parts = listening.sliding.logits([stream.samples], frontend, settings.hop_ms, predict)
    return np.concatenate(list(parts))


def on_core(options: Options, settings: spotting.Settings, stream: Stream) -> None:
    """The firmware of the run on an emulated core, and the int8 model on the same sound."""
    folder = options.workdir / pipeline.FIRMWARE
    samples = stream.samples[: round(options.core_minutes * 60 * data.SAMPLE_RATE)]
    end = len(samples) / data.SAMPLE_RATE - 1 - listening.streams.LATE
    inside = [i for i, start in enumerate(stream.starts) if start <= end]
    part = Stream(
        samples, tuple(stream.labels[i] for i in inside), tuple(stream.starts[i] for i in inside)
    )
    heard = firmware.listen(folder, [samples])
    told = [
        spotting.Event(
            round((1000 * second - spotting.CLIP_MS) / settings.hop_ms),
            settings.classes.index(word),
            round(share * spotting.ONE),
        )
        for second, word, share in heard.words
    ]
    here = spotting.events(int8(options.workdir, settings)(part), settings)
    for name, events in (("int8", here), ("core", told)):
        print(row(name, listening.streams.score(events, part, settings)))
    device = json.loads((folder / "manifest.json").read_text())["device"]
    print(
        f"{heard.steps} inferences on {heard.machine}: {heard.differing_outputs} bytes of outputs "
        f"and {heard.differing_words} words differ from those of TensorFlow Lite Micro on this "
        f"machine for the same features, these by {heard.feature_steps} steps at most\n"
        f"{device}: {heard.instructions_per_second:,} instructions a second of sound, "
        f"{heard.core_share:.1%} of the core (an estimate)"
    )


if __name__ == "__main__":
    main()
