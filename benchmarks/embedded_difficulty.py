"""How hard is the embedded data: test accuracy of DS-CNNs against their width.

    python -m benchmarks.embedded_difficulty [--widths 8 16 32 64 128]

Plain DS-CNNs of four blocks, float, trained with augmentation as the keyword-spotting experiment
trains a found network. What a search can gain lies on this curve: were it flat, no choice of
widths would matter.

Measured on two shared cores, size quick, 30 epochs, seed 0; per cent, and one seed of one
population: a test accuracy has a standard error of 0.7 to 1.3 points.

    width   train  valid.    test
        8    65.3    75.1    74.2
       16    79.4    88.1    86.5
       32    86.2    91.8    90.7
       64    90.6    92.5    91.5
      128    93.2    93.2    92.9
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import tyro
from jaxtyping import Array

from micronets_jax import data, supernet, training, zoo
from micronets_jax.network import Network
from micronets_jax.recipes import Training


@dataclasses.dataclass(frozen=True)
class Options:
    """Train one network per width and print a table."""

    widths: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Channels of every layer."""
    source: str = "embedded"
    """As the experiment's data: embedded, tfds or a folder."""
    size: str = "quick"
    """Of the embedded data: tiny, quick or paper."""
    seed: int = 0
    """Of weights, batches and augmentation; the data stay the same."""
    train: Training = Training(epochs=30)


def main(options: Options) -> None:
    """One row per width: accuracy on training (as augmented), validation and test clips."""
    dataset = data.speech_commands.load(options.source, size=options.size)
    frontend, augmentation = data.MFCC(), data.augment.Speech()
    held_out = {
        split: (data.split_features(dataset, split, frontend), getattr(dataset, split).labels)
        for split in ("validation", "test")
    }

    def inputs(key: Array, raw: Array, labels: Array) -> tuple[Array, Array]:
        return augmentation(key, dataset, frontend, raw, labels)

    print(dataset)
    print(f"{'width':>5}  {'train':>6}  {'valid.':>6}  {'test':>6}  {'seconds':>7}")
    for width in options.widths:
        start = time.monotonic()
        network = zoo.dscnn([width] * 5, (2, 1, 1, 1), num_classes=dataset.num_classes)
        variables, train_accuracy = train(network, dataset.train, inputs, options)
        apply: Any = supernet.Supernet(network).apply
        scores = [
            training.accuracy(training.predict(apply, variables, x), labels)
            for x, labels in held_out.values()
        ]
        row = "  ".join(f"{100 * score:6.1f}" for score in (train_accuracy, *scores))
        print(f"{width:5}  {row}  {time.monotonic() - start:7.0f}", flush=True)


def train(
    network: Network, examples: data.Split, inputs: training.Inputs, options: Options
) -> tuple[dict[str, Any], float]:
    """Variables of a trained network, and its accuracy over the last epoch."""
    recipe, seed = options.train, options.seed
    fresh = supernet.init(jax.random.key(seed), network)
    steps = recipe.num_steps(examples.num_batches(recipe.batch_size))
    begin = training.init(fresh["params"], fresh["batch_stats"], recipe, steps)
    model = training.float_model(network)
    *_, (state, record) = training.fit(model, begin, examples, inputs, recipe, seed=seed)
    return {"params": state.trainable, "batch_stats": state.stats}, record["accuracy"]


if __name__ == "__main__":
    main(tyro.cli(Options, description=Options.__doc__))
