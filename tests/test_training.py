"""Training: a loop that learns, repeats itself bit for bit, and starts again anywhere."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import derive, layers, quantize, supernet, training
from micronets_jax.recipes import Training
from micronets_jax.spaces import DSCNN
from support.learning import DATA, jittered

SPACE = DSCNN((9, 6, 1), num_classes=3, max_width=40, stem_kernel=(3, 3), strides=(2,))
NETWORK = SPACE.member([8, 12], [True])
RECIPE = Training(epochs=6, batch_size=16)


def start(network=NETWORK, recipe=RECIPE):
    fresh = supernet.init(jax.random.key(0), network)
    steps = DATA.num_batches(recipe.batch_size) * recipe.epochs
    return training.init(fresh["params"], fresh["batch_stats"], recipe, steps)


def fit(state, **kwargs):
    model = training.float_model(NETWORK)
    return list(training.fit(model, state, DATA, jittered, RECIPE, seed=3, **kwargs))


@pytest.fixture(scope="module")
def finished():
    return fit(start())


def test_it_learns_and_its_running_moments_serve_evaluation(finished):
    state, last = finished[-1]
    assert last["accuracy"] > 0.8 > finished[0][1]["accuracy"]
    variables = {"params": state.trainable, "batch_stats": state.stats}
    logits = training.predict(supernet.Supernet(NETWORK).apply, variables, DATA.x, 40)
    assert logits.shape == (96, 3)
    assert training.accuracy(logits, DATA.labels) > 0.8


def test_moments_of_a_trained_network_are_those_of_its_last_weights(finished, monkeypatch):
    """Of as many examples as are asked for, drawn as in training, whatever moments it had."""
    state, _ = finished[-1]
    forgotten = jax.tree.map(jnp.zeros_like, state.stats)
    variables = {"params": state.trainable, "batch_stats": forgotten}
    monkeypatch.setattr(derive, "MOMENT_EXAMPLES", 40)  # three batches of 16
    settled = derive.settled(NETWORK, variables, DATA, jittered, RECIPE, seed=5)
    chex.assert_trees_all_equal(settled["params"], state.trainable)
    prepared = training.prepare(DATA, jittered, RECIPE, seed=5)
    x = jnp.concatenate([x for x, _ in prepared.steps[:3]])
    first = layers.conv(x, state.trainable["stem"]["kernel"], (1, 1), "SAME")
    mean = settled["batch_stats"]["stem"]["mean"]
    np.testing.assert_allclose(mean, jnp.mean(first, axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)


def test_predictions_are_traced_once_for_all_variables():
    calls = []

    def apply(offset, x):
        calls.append(x.shape)
        return x.reshape(len(x), -1)[:, :3] + offset

    x = np.arange(60, dtype=np.float32).reshape(10, 6)
    for offset in (1.0, 2.0):
        np.testing.assert_array_equal(
            training.predict(apply, jnp.float32(offset), x, 4), x[:, :3] + offset
        )
    assert calls == [(4, 6)]


def test_a_run_continued_from_any_epoch_ends_with_the_same_bits(finished):
    again = fit(finished[1][0])
    assert [record["epoch"] for _, record in again] == [3, 4, 5, 6]
    chex.assert_trees_all_equal(again[-1][0], finished[-1][0])
    assert again[-1][1] == finished[-1][1]


def test_items_made_ahead_are_the_same_and_no_more_than_one_ahead():
    made = []

    def items():
        for i in range(4):
            made.append(i)
            yield i
        raise ValueError("no fifth item")

    seen = []
    with pytest.raises(ValueError, match="no fifth item"):
        for item in training.ahead(items()):
            seen.append(item)
            assert len(made) <= item + 2
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("steps", "epochs", "per_epoch", "ends"),
    [
        (1000, 3, 7, [7, 14, 21]),  # epochs, where given
        (30, 0, 10, [10, 20, 30]),
        (35, 0, 10, [11, 23, 35]),  # no round is shorter than a pass
        (5, 0, 10, [5]),  # less than a pass over many examples
        (4000, 0, 1, list(range(100, 4001, 100))),  # many passes over few
    ],
)
def test_lengths_in_steps_suit_few_examples_and_many(steps, epochs, per_epoch, ends):
    recipe = Training(steps=steps, epochs=epochs)
    assert training.rounds(recipe, per_epoch) == ends
    assert recipe.num_steps(per_epoch) == ends[-1]


def test_a_training_in_steps_continues_amid_a_pass():
    recipe = Training(steps=15, batch_size=16)  # 6 batches a pass: rounds end at 7 and 15
    model = training.float_model(NETWORK)

    def run(state):
        return list(training.fit(model, state, DATA, jittered, recipe, seed=3))

    first = supernet.init(jax.random.key(0), NETWORK)
    rounds = run(training.init(first["params"], first["batch_stats"], recipe, 15))
    assert [(int(s.step), m["epoch"]) for s, m in rounds] == [(7, 2), (15, 3)]
    again = run(rounds[0][0])
    assert len(again) == 1 and again[0][1] == rounds[1][1]
    chex.assert_trees_all_equal(again[0][0], rounds[1][0])
    prepared = training.prepare(DATA, jittered, recipe, seed=3)
    assert len(prepared) == 96 and len(prepared.steps) == 15
    start = training.init(first["params"], first["batch_stats"], recipe, 15)
    *_, (last, _) = training.fit(model, start, prepared, training.as_prepared, recipe, seed=3)
    chex.assert_trees_all_equal(last, rounds[1][0])


def test_weight_decay_acts_on_kernels_only():
    decayed = training.kernels_only(start().trainable)
    assert decayed["stem"] == {"kernel": True, "scale": False, "offset": False}
    assert decayed["logits"] == {"kernel": True, "bias": False}


def test_quantised_training_moves_ranges_and_keeps_accuracy(finished):
    state, _ = finished[-1]
    folded = quantize.fold(NETWORK, state.trainable, state.stats)
    ranges = quantize.calibrate(NETWORK, folded, [DATA.x])
    recipe = Training(epochs=2, batch_size=16, learning_rate=0.001)
    first = training.init({"folded": folded, "ranges": ranges}, {}, recipe, 12)
    *_, (last, record) = training.fit(
        training.quantized_model(NETWORK), first, DATA, jittered, recipe, seed=0
    )
    assert record["accuracy"] > 0.8
    before, after = (
        jnp.asarray(s.trainable["ranges"]["activation"]["stem"]["max"]) for s in (first, last)
    )
    assert before != after


def test_the_step_is_traced_once():
    calls = []

    def counted(key, x, labels):
        calls.append(x.shape)
        return x, labels

    list(training.fit(training.float_model(NETWORK), start(), DATA, counted, RECIPE, seed=0))
    assert len(calls) == 1


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_step_lowers_for_accelerators(platform):
    step = training.make_step(
        training.float_model(NETWORK), jittered, RECIPE, 24, jax.random.key(0)
    )
    x, labels = jnp.asarray(DATA.x[:16]), jnp.asarray(DATA.labels[:16])
    exported = jax.export.export(jax.jit(step), platforms=[platform])(start(), x, labels)
    assert exported.platforms == (platform,)
