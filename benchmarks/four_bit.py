"""What do four bits cost in accuracy, and what do they save in flash?

    python -m benchmarks.four_bit                                 # MicroNet-KWS-S, embedded words
    python -m benchmarks.four_bit --network runs/kws-quick/network.json --data ./my_words

Each network is trained once in float, then from there once for each choice of bits, by the same
recipe. The quantised rows are of the integers in the exported file, computed as TensorFlow Lite
Micro does; flash is the file's length, beside the predicted one.

Measured on one core of two, seed 0 and one training of each row; the embedded test split has 1,200
clips, so an accuracy there has a standard error of 0.7 points. Spoken words are those of a speech
synthesiser (espeak-ng), 3,838 to train on and 490 to test.

                          embedded   spoken
                            test %   test %    flash  predicted
    MicroNet-KWS-S
    float                     93.4     99.0
    8 bits                    93.1     99.0    81088      81065
    4, depthwise at 8         93.2     99.0    56416      56393
    4                         93.2     98.8    52768      52681
    4, activations too        91.3     98.6    52768      52681
    found by experiments.kws (preset quick, seed 0: 1.2 million operations)
    float                     91.4     97.8
    8 bits                    91.8     97.8    22000      21913
    4, depthwise at 8         91.5     97.1    17888      17801
    4                         91.8     97.3    16912      16841
    4, activations too        86.7     96.3    16912      16841
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
import time
from typing import Any

import jax
import tyro
from jaxtyping import Array

from micronets_jax import cost, data, export, quantize, runtimes, supernet, training, zoo
from micronets_jax import network as networks
from micronets_jax.data import Dataset
from micronets_jax.network import INPUT, Network
from micronets_jax.recipes import Bits, Training
from micronets_jax.spaces.bits import with_bits

CHOICES = {
    "8 bits": Bits(),
    "4, depthwise at 8": Bits(weights=4),
    "4": Bits(weights=4, depthwise=4),
    "4, activations too": Bits(weights=4, depthwise=4, activations=4),
}
"""Weights, unless it says activations."""

CALIBRATION_BATCHES = 4


@dataclasses.dataclass(frozen=True)
class Options:
    """Accuracy in float, with 8 and with 4 bits, and the size of the file."""

    published: tuple[str, ...] = ("MicroNet-KWS-S",)
    """Networks by name."""
    network: tuple[pathlib.Path, ...] = ()
    """Networks by the file that a run left, network.json."""
    data: str = "embedded"
    """As the keyword experiment's: embedded, tfds or a folder."""
    size: str = "quick"
    """Of the embedded data: tiny, quick or paper."""
    choices: tuple[str, ...] = tuple(CHOICES)
    """Rows beside float."""
    seed: int = 0
    """Of weights, batches and augmentation."""
    train: Training = Training(epochs=30)
    quantize: Training = Training(epochs=6, learning_rate=0.0005)


def main(options: Options) -> None:
    """A table for each network."""
    dataset = data.speech_commands.load(options.data, size=options.size)
    frontend = data.MFCC()
    subjects = {name: zoo.network(name, dataset.num_classes) for name in options.published}
    for path in options.network:
        subjects[str(path)] = fitting(path, dataset, frontend.shape)
    print(dataset)
    for name, network in subjects.items():
        print(f"\n{name}\n{'':20}{'test %':>8}{'flash':>9}{'predicted':>11}{'seconds':>9}")
        compare(network, dataset, frontend, options)


def fitting(path: pathlib.Path, dataset: Dataset, shape: tuple[int, ...]) -> Network:
    """The network of a file, which must read these features and tell these classes apart."""
    network = networks.from_json(path.read_text())
    classes = network.layers[-1].out_channels
    if network.input_shape != shape or classes != dataset.num_classes:
        raise SystemExit(
            f"{path} reads {network.input_shape} and tells {classes} classes apart; the data "
            f"have {shape} and {dataset.num_classes}: give --data as of the run that found it"
        )
    return network


def compare(network: Network, dataset: Dataset, frontend: data.FrontEnd, options: Options) -> None:
    """One row for float, one for each choice of bits."""
    augmentation = data.augment.Speech()
    features = data.split_features(dataset, "test", frontend)
    labels = dataset.test.labels

    def inputs(key: Array, raw: Array, targets: Array) -> tuple[Array, Array]:
        return augmentation(key, dataset, frontend, raw, targets)

    fit = functools.partial(last, dataset.train, inputs, options.seed)
    start = time.monotonic()
    fresh = supernet.init(jax.random.key(options.seed), network)
    state = fit(training.float_model(network), fresh["params"], fresh["batch_stats"], options.train)
    variables = {"params": state.trainable, "batch_stats": state.stats}
    apply: Any = supernet.Supernet(network).apply
    accuracy = training.accuracy(training.predict(apply, variables, features), labels)
    print(f"{'float':20}{100 * accuracy:8.1f}{time.monotonic() - start:29.0f}", flush=True)

    folded = quantize.fold(network, state.trainable, state.stats)
    batches = dataset.train.batches(min(256, len(dataset.train)), options.seed, 0)
    few = [frontend(clips) for clips, _ in itertools.islice(batches, CALIBRATION_BATCHES)]
    for choice in options.choices:
        start = time.monotonic()
        chosen = with_bits(network, CHOICES[choice])
        begin = {"folded": folded, "ranges": quantize.calibrate(chosen, folded, few)}
        trained = fit(training.quantized_model(chosen), begin, {}, options.quantize).trainable
        integers = quantize.integers(chosen, trained["folded"], trained["ranges"])
        model = export.to_tflite(chosen, trained["folded"], trained["ranges"])
        scale, zero_point = float(integers.scales[INPUT]), integers.zero_points[INPUT]
        outputs = quantize.run(integers, runtimes.quantize_input(features, scale, zero_point))
        accuracy = training.accuracy(outputs, labels)
        print(
            f"{choice:20}{100 * accuracy:8.1f}{len(model):9}{cost.flash_bytes(chosen):11}"
            f"{time.monotonic() - start:9.0f}",
            flush=True,
        )


def last(
    examples: data.Split,
    inputs: training.Inputs,
    seed: int,
    model: training.Model,
    trainable: dict[str, Any],
    stats: dict[str, Any],
    recipe: Training,
) -> training.State:
    """The state after a whole recipe."""
    steps = recipe.num_steps(examples.num_batches(recipe.batch_size))
    begin = training.init(trainable, stats, recipe, steps)
    *_, (state, _) = training.fit(model, begin, examples, inputs, recipe, seed=seed)
    return state


if __name__ == "__main__":
    main(tyro.cli(Options, description=Options.__doc__))
