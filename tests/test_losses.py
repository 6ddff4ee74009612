"""Losses by hand, what each refuses, and networks that learn by others than cross entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import cost, losses, recipes, search, supernet, training
from micronets_jax.budgets import Budget
from micronets_jax.losses import CROSS_ENTROPY, RECONSTRUCTION, SQUARED_ERROR, Loss
from micronets_jax.search import Problem
from micronets_jax.spaces import DSCNN, Dense
from support.learning import DATA, INPUT_SHAPE, Blobs


def test_cross_entropy_takes_classes_and_shares():
    logits = jnp.log(jnp.array([[0.75, 0.25], [0.5, 0.5]]))
    classes = losses.cross_entropy(logits, jnp.array([0, 1]))
    np.testing.assert_allclose(classes, -(np.log(0.75) + np.log(0.5)) / 2, rtol=1e-6)
    np.testing.assert_allclose(losses.cross_entropy(logits, jnp.eye(2)), classes, rtol=1e-6)
    blended = losses.cross_entropy(logits[:1], jnp.array([[0.5, 0.5]]))
    np.testing.assert_allclose(blended, -(np.log(0.75) + np.log(0.25)) / 2, rtol=1e-6)
    smooth = CROSS_ENTROPY.smoothed(logits[:1], jnp.array([0]), 1.0 - 1e-7)
    np.testing.assert_allclose(losses.cross_entropy(logits[:1], smooth), blended, rtol=1e-5)
    targets = jnp.array([0])
    assert CROSS_ENTROPY.smoothed(logits[:1], targets, 0.0) is targets


def test_distillation_by_hand():
    logits = jnp.array([[2.0, 0.0]])
    teacher = jnp.array([[0.0, 2.0]])
    labels = jnp.array([0])
    loss = losses.distilled(CROSS_ENTROPY, lambda x: teacher, coefficient=0.5, temperature=2.0)
    p = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
    divergence = np.sum(p * np.log(p / p[::-1]))
    expected = 0.5 * np.log(1 + np.exp(-2.0)) + 0.5 * 4 * divergence
    np.testing.assert_allclose(loss.value(logits, labels, jnp.zeros(1)), expected, rtol=1e-5)
    # Smoothed by 0.2 the target is 0.9 and 0.1: a tenth of the distance between the logits more.
    smooth = loss.smoothed(logits, labels, 0.2)
    np.testing.assert_allclose(
        loss.value(logits, smooth, jnp.zeros(1)), expected + 0.5 * 0.1 * 2, rtol=1e-5
    )


def test_errors_by_hand():
    outputs, targets = jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])
    x = targets.reshape(1, 1, 2, 1)
    assert SQUARED_ERROR.value(outputs, targets, jnp.zeros(1)) == 2.5
    assert RECONSTRUCTION.value(outputs, jnp.array([3]), x) == 2.5


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"outputs of the network are \[4, 1\], targets \[4\]"):
        SQUARED_ERROR.value(jnp.zeros((4, 1)), jnp.zeros(4), jnp.zeros(1))
    with pytest.raises(ValueError, match=r"\[4, 3\], targets \[4, 6\]"):
        RECONSTRUCTION.value(jnp.zeros((4, 3)), jnp.zeros(4), jnp.zeros((4, 2, 3, 1)))


def test_what_needs_classes_is_refused_elsewhere():
    with pytest.raises(ValueError, match=r"label_smoothing=0.1: the loss is the mean squared"):
        SQUARED_ERROR.smoothed(jnp.zeros((1, 2)), jnp.zeros((1, 2)), 0.1)
    with pytest.raises(ValueError, match=r"distillation=0.5: the loss is the reconstruction"):
        losses.distilled(RECONSTRUCTION, lambda x: x)


# ---------------------------------------------------------------- training and searches


class Copies(Blobs):
    """Pictures of rank 2, so that a bottleneck of 2 can hold them; labels are the two factors."""

    def __init__(self, n: int = 128):
        rng = np.random.default_rng(0)
        factors = rng.normal(size=(n, 2)).astype(np.float32)
        patterns = rng.normal(size=(2, *INPUT_SHAPE)).astype(np.float32)
        self.x, self.labels = np.einsum("nf,fijc->nijc", factors, patterns), factors


COPIES = Copies()
ROWS = int(np.prod(INPUT_SHAPE))
NETWORK = DSCNN(INPUT_SHAPE, 3, 16, (3, 3), strides=(2,)).largest()
SPACE = Dense(INPUT_SHAPE, ROWS, max_width=32, depth=1, bottleneck=6)


@pytest.mark.parametrize(
    ("loss", "network"),
    [
        (RECONSTRUCTION, SPACE.largest()),
        (SQUARED_ERROR, DSCNN(INPUT_SHAPE, 2, 16, (3, 3), strides=(2,)).largest()),
    ],
)
def test_networks_learn_other_things_than_classes(loss, network):
    recipe = recipes.Training(epochs=30, batch_size=32)
    fresh = supernet.init(jax.random.key(0), network)
    state = training.init(fresh["params"], fresh["batch_stats"], recipe, 30 * 4)
    model = training.float_model(network)
    rounds = training.fit(model, state, COPIES, training.as_prepared, recipe, seed=0, loss=loss)
    states, records = zip(*rounds, strict=True)
    assert set(records[0]) == {"epoch", "loss"}
    assert records[-1]["loss"] < records[0]["loss"] / 5
    variables = {"params": states[-1].trainable, "batch_stats": states[-1].stats}
    outputs = training.predict(supernet.Supernet(network).apply, variables, COPIES.x)
    said = training.validation(loss, outputs, COPIES.labels, COPIES.x)
    assert set(said) == {"validation_loss"}
    assert said["validation_loss"] < records[0]["loss"] / 5


def test_smoothing_without_classes_is_refused_by_the_step():
    recipe = recipes.Training(epochs=1, batch_size=32, label_smoothing=0.1)
    network = SPACE.largest()
    fresh = supernet.init(jax.random.key(0), network)
    state = training.init(fresh["params"], fresh["batch_stats"], recipe, 4)
    model = training.float_model(network)
    with pytest.raises(ValueError, match=r"label_smoothing=0.1"):
        list(
            training.fit(
                model, state, COPIES, training.as_prepared, recipe, seed=0, loss=RECONSTRUCTION
            )
        )


@pytest.mark.parametrize(
    "settings",
    [
        recipes.DNAS(epochs=8, batch_size=64, warmup=0.2, trials=2, trial_epochs=12, bits=0),
        pytest.param(
            recipes.TinyNAS(
                epochs=8,
                batch_size=64,
                trials=2,
                trial_epochs=12,
                samples=3,
                population=20,
                parents=5,
                rounds=1,
                calibration=32,
                judged=64,
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_searches_find_autoencoders(settings):
    largest = SPACE.largest()
    budget = Budget(mops=0.7e-6 * cost.ops(largest))
    problem = Problem(
        SPACE, budget, (COPIES, COPIES), training.as_prepared, jnp.asarray, 0, loss=RECONSTRUCTION
    )
    made = search.of(settings, problem)
    first = made.init(jax.random.key(0))
    states, records = zip(*search.run(made, first, settings, problem), strict=True)
    assert "accuracy" not in records[0]
    assert records[-1]["loss"] < records[0]["loss"] / 2
    choice, trials = search.decide(
        made.proposals(states[-1]), settings, problem, SPACE.lightest()[0]
    )
    assert budget.fits(SPACE.decode(choice))
    assert np.isfinite([trial.loss for trial in trials]).all()


def test_a_loss_of_ones_own_is_what_a_training_minimises():
    doubled = Loss("twice", lambda outputs, y, x: 2 * CROSS_ENTROPY.value(outputs, y, x))
    network, recipe = NETWORK, recipes.Training(epochs=1, batch_size=16)
    fresh = supernet.init(jax.random.key(0), network)
    state = training.init(fresh["params"], fresh["batch_stats"], recipe, 1)
    x, labels = jnp.asarray(DATA.x[:16]), jnp.asarray(DATA.labels[:16])
    seen = []
    for loss in (CROSS_ENTROPY, doubled):
        step = training.make_step(
            training.float_model(network), training.as_prepared, recipe, 1, jax.random.key(0), loss
        )
        _, metrics = jax.jit(step)(state, x, labels)
        seen.append(training.logged(loss, np.asarray(metrics)))
    np.testing.assert_allclose(seen[1]["loss"], 2 * seen[0]["loss"], rtol=1e-5)
    assert seen[1]["accuracy"] == seen[0]["accuracy"]
