"""Sharding: eight virtual devices compute what one computes, and share the work."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import json
import jax
import jax.numpy as jnp
import numpy as np
from micronets_jax import accelerators, search, supernet, training
from micronets_jax.budgets import Budget
from micronets_jax.recipes import DNAS, Training
from micronets_jax.spaces import DSCNN

space = DSCNN((9, 6, 1), num_classes=3, max_width=40, stem_kernel=(3, 3), strides=(2, 1))
rng = np.random.default_rng(0)
x = rng.normal(size=(16, 9, 6, 1)).astype(np.float32)
labels = rng.integers(0, 3, 16).astype(np.int32)
budget = Budget(mops=0.01)


def unchanged(key, x, labels):
    return jnp.asarray(x), jnp.asarray(labels)


def step(mesh, front=()):
    settings = DNAS(epochs=10, batch_size=32, samples=4, warmup=0.0, bits=0)
    halves = (training.Prepared([(x, labels)], 1),) * 2
    given = search.Problem(space, budget, halves, unchanged, jnp.asarray, 1, mesh, front=front)
    made = search.of(settings, given)
    state = made.init(jax.random.key(0))
    batch = accelerators.place(search.Batch(x, labels, x, labels), mesh, "data")
    lowered = jax.jit(made.step).lower(accelerators.place(state, mesh), batch)
    compiled = lowered.compile()
    new, metrics = compiled(accelerators.place(state, mesh), batch)
    return (new.params, new.logits, metrics), compiled.cost_analysis()["flops"]


def train(mesh):
    network = space.largest()
    fresh = supernet.init(jax.random.key(0), network)
    recipe = Training(epochs=1, batch_size=16)
    state = training.init(fresh["params"], fresh["batch_stats"], recipe, 1)
    examples = training.Prepared([(x, labels)], 1)
    model = training.float_model(network)
    fitted = training.fit(
        model, state, examples, training.as_prepared, recipe, seed=0, mesh=mesh
    )
    (state, record), = fitted
    return (state.trainable, record["loss"]), None


def gap(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in leaves)


mesh = accelerators.mesh(16, 4)
alone, work = step(None)
shared, part = step(mesh)
front = (budget, Budget(mops=0.02))
two, work_of_two = step(None, front)
two_shared, part_of_two = step(mesh, front)
row = accelerators.mesh(16)
print(json.dumps({
    "mesh": dict(mesh.shape),
    "row": dict(row.shape),
    "search": gap(alone, shared),
    "train": gap(train(None)[0], train(row)[0]),
    "work": part / work,
    "front": gap(two, two_shared),
    "front_work": part_of_two / work_of_two,
    "front_more": work_of_two / work,
}))
"""


@pytest.fixture(scope="module")
def result():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_grid_follows_examples_and_samples(result):
    assert result["mesh"] == {"data": 2, "arch": 4}
    assert result["row"] == {"data": 8, "arch": 1}


def test_eight_devices_compute_what_one_computes(result):
    """Adam's first step has the size of its rate, 0.01, and the sign of a gradient that sums in
    another order: where that is near 0, a part of a step is rounding; a wrong sum is two steps."""
    assert result["search"] < 1e-3
    assert result["train"] < 1e-3


def test_each_of_eight_devices_does_its_part(result):
    assert result["work"] < 0.35


def test_a_front_is_sharded_alike_and_takes_no_more_work(result):
    """Two limits divide the batch."""
    assert result["front"] < 1e-3
    assert result["front_work"] < 0.35
    assert result["front_more"] < 1.1
