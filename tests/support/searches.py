"""One small problem, and every search run on it once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from micronets_jax import cost, recipes, search, targets
from micronets_jax.budgets import Budget
from micronets_jax.search import Problem
from micronets_jax.spaces import DSCNN
from micronets_jax.targets.tflm import arena as tflm
from support.learning import DATA, jittered

SPACE = DSCNN((9, 6, 1), num_classes=3, max_width=40, stem_kernel=(3, 3), strides=(2, 1))
LARGEST = SPACE.largest()
BUDGET = Budget(
    sram_bytes=targets.target("tflm").sram(LARGEST) - tflm.arena_bytes(LARGEST) // 2,
    flash_bytes=cost.flash_bytes(LARGEST),
    mops=cost.ops(LARGEST) * 0.4e-6,
    runtime="tflm",  # whose file is weights above all, small as this space is
)


def problem(**changes):
    given = Problem(SPACE, BUDGET, (DATA, DATA), jittered, jnp.asarray, seed=1)
    return dataclasses.replace(given, **changes)


SETTINGS = {
    "dnas": recipes.DNAS(epochs=16, batch_size=32, warmup=0.2, trials=3, trial_epochs=2, bits=0),
    "random": recipes.Random(batch_size=32, trials=3, trial_epochs=2),
    "tinynas": recipes.TinyNAS(
        epochs=6, batch_size=32, population=20, parents=5, rounds=3, calibration=32, judged=64
    ),
}


def finish(settings, given=None, state=None):
    """Every state of a search with its record, from the first step or from a state on."""
    given = given or problem()
    made = search.of(settings, given)
    first = made.init(jax.random.key(0)) if state is None else state
    return [(first, {}), *search.run(made, first, settings, given)]


@functools.cache
def finished(method):
    """Of one search, run once for all tests."""
    return finish(SETTINGS[method])
