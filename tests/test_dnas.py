"""The search: limits are met, decisions follow the data, stopping changes nothing."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_training import DATA, jittered

from micronets_jax import budgets, cost, decisions, dnas, selection
from micronets_jax.budgets import Budget
from micronets_jax.recipes import Search
from micronets_jax.spaces import DSCNN
from micronets_jax.spaces.only import Only

SPACE = DSCNN((9, 6, 1), num_classes=3, max_width=40, stem_kernel=(3, 3), strides=(2, 1))
LARGEST = SPACE.largest()
BUDGET = Budget(
    sram_bytes=cost.sram_bytes(LARGEST) // 2,
    flash_bytes=cost.flash_bytes(LARGEST),
    mops=cost.ops(LARGEST) * 0.4e-6,
)
SETTINGS = Search(
    epochs=16,
    batch_size=32,
    warmup=0.2,
    candidates=4,
    finalists=2,
    trial_epochs=2,
    decision_learning_rate=0.1,
    bits=0,
)
HALVES = (DATA, DATA)
STEPS = dnas.steps_per_epoch(SETTINGS, HALVES) * SETTINGS.epochs


def start(settings=SETTINGS, budget=BUDGET):
    return dnas.init(jax.random.key(0), SPACE, settings, budget, STEPS)


def search(state, settings=SETTINGS, budget=BUDGET):
    return list(dnas.search(state, SPACE, settings, budget, HALVES, jittered, seed=1))


@pytest.fixture(scope="module")
def finished():
    return search(start())


def decide(state, budget=BUDGET, settings=SETTINGS):
    batches = [(jnp.asarray(DATA.x), jnp.asarray(DATA.labels))]
    witness = budgets.feasible(SPACE, budget)
    return SPACE.decode(
        selection.decide(
            jax.random.key(0), state, SPACE, settings, budget, HALVES, jittered, batches, witness
        )
    )


def test_limits_are_met_in_expectation_and_exactly_in_the_end(finished):
    state, last = finished[-1]
    assert last["mops"] < 1.1
    found = decide(state, settings=dataclasses.replace(SETTINGS, trial_epochs=0))
    assert BUDGET.fits(found)
    assert max(BUDGET.usage(found).values()) > 0.8


def test_the_search_learns(finished):
    assert finished[-1][1]["accuracy"] > 0.8


@pytest.mark.slow
def test_a_search_continued_from_any_epoch_ends_with_the_same_bits(finished):
    again = search(finished[4][0])
    chex.assert_trees_all_equal(again[-1][0], finished[-1][0])
    assert again[-1][1] == finished[-1][1]


def test_decisions_wait_for_the_warm_up(finished):
    chex.assert_trees_all_equal(finished[1][0].logits, start().logits)
    assert np.abs(finished[3][0].logits["width"]).max() > 0


def test_in_the_warm_up_weights_see_every_block():
    """Whatever the decisions say of it; later it counts."""
    step = jax.jit(dnas.make_step(SPACE, SETTINGS, BUDGET, STEPS, jittered, jax.random.key(1)))
    batch = dnas.Batch(*(part[:16] for part in (DATA.x, DATA.labels) * 2))

    def changed(number, lean):
        state = start()._replace(step=jnp.int32(number))
        state = state._replace(
            logits={**state.logits, "keep": state.logits["keep"].at[:, lean].set(9.0)}
        )
        return step(state, batch)[0].params

    chex.assert_trees_all_equal(changed(0, 0), changed(0, 1))
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(changed(STEPS - 1, 0), changed(STEPS - 1, 1))


def test_a_search_starts_at_its_limits():
    """The mean network meets them, and the next wider ones would not."""
    budget = Budget(mops=cost.ops(LARGEST) * 0.2e-6)
    logits = dnas.start(SPACE, SETTINGS, budget)
    used = budget.usage(SPACE.network(decisions.expected(logits)))["mops"]
    assert 0.95 < used <= 1
    np.testing.assert_array_equal(logits["keep"], 0)


def test_a_search_may_start_at_even_widths():
    budget = Budget(mops=cost.ops(LARGEST) * 0.2e-6)
    logits = dnas.start(SPACE, dataclasses.replace(SETTINGS, start="even"), budget)
    used = budget.usage(SPACE.network(decisions.expected(logits)))["mops"]
    assert 0.9 < used <= 1
    widths = decisions.sizes(logits)["width"]
    np.testing.assert_allclose(widths, widths[0], rtol=1e-5)


@pytest.mark.parametrize("share", [0.15, 0.25])
def test_one_per_cent_more_of_either_balanced_width_costs_the_same(share):
    """Of a stem and a block; the last block, on the smallest maps, is as wide as can be."""
    space = DSCNN((16, 16, 3), num_classes=3, max_width=400, strides=(2, 2))
    budget = Budget(mops=share * cost.ops(space.largest()) * 1e-6)
    kept = {"keep": jnp.array([[1.0, 0.0]] * 2)}
    sizes = dnas.balanced(space, budget, 1.2, kept)

    def used(sizes):
        choice = decisions.expected(dnas.around(space, sizes, 1.2)) | kept
        return budget.usage(space.network(choice))["mops"]

    assert 0.9 < used(sizes) <= 1
    stem, block, last = (sizes["width"] * jax.grad(used)(sizes)["width"]).tolist()
    assert last < block
    assert stem == pytest.approx(block, rel=0.3)
    assert 1 < sizes["width"][0] < sizes["width"][1] < sizes["width"][2] == 10


def test_nothing_is_to_be_balanced_where_nothing_is_to_be_decided():
    assert dnas.start(Only(LARGEST), SETTINGS, BUDGET) == {}


def test_a_search_whose_limits_bind_nothing_starts_at_the_largest_widths():
    logits = dnas.start(SPACE, SETTINGS, Budget(mops=1e3))
    assert (np.argmax(logits["width"], axis=-1) == logits["width"].shape[-1] - 1).all()


def test_a_search_that_cannot_start_at_its_limits_starts_at_the_smallest_widths():
    logits = dnas.start(SPACE, SETTINGS, Budget(mops=1e-3))
    assert (np.argmax(logits["width"], axis=-1) == 0).all()


@pytest.mark.slow
def test_a_search_with_relaxed_widths_learns_too():
    settings = dataclasses.replace(SETTINGS, widths="relaxed")
    state, last = search(start(settings), settings)[-1]
    assert last["accuracy"] > 0.6
    assert last["mops"] < 1.15
    assert np.abs(state.logits["width"]).max() > 0


def test_where_nothing_likely_fits_the_answer_still_does():
    tight = Budget(mops=1.05 * budgets.smallest(SPACE, Budget(mops=1.0))["mops"])
    state = start(budget=tight)
    sure = {
        name: leaf.at[..., -1 if name == "width" else 0].add(50.0)
        for name, leaf in state.logits.items()
    }
    assert tight.fits(decide(state._replace(logits=sure), tight))


def test_sampled_memory_agrees_with_monte_carlo_where_the_mean_network_does_not():
    """Of uniform choices: the mean of the maximum, not the maximum of the mean."""
    logits = {name: jnp.zeros(shape) for name, shape in SPACE.options().items()}
    keys = jax.random.split(jax.random.key(0), 4096)

    @jax.jit
    def memory(choice):
        return cost.sram_bytes(SPACE.network(choice)).astype(jnp.float32)

    def straight(key):
        return decisions.straight_through(decisions.gumbel_softmax(key, logits, 1.0))

    def exact(key):
        pick = {
            name: jax.random.categorical(jax.random.fold_in(key, i), logits[name])
            for i, name in enumerate(sorted(logits))
        }
        return {
            name: jax.nn.one_hot(index, logits[name].shape[-1], dtype=jnp.int32)
            for name, index in pick.items()
        }

    sampled = np.mean(jax.jit(jax.vmap(lambda key: memory(straight(key))))(keys))
    truth = np.mean(jax.jit(jax.vmap(lambda key: memory(exact(key))))(keys))
    mean_network = memory(decisions.expected(logits))
    assert abs(sampled - truth) / truth < 0.02
    assert abs(mean_network - truth) / truth > 0.05

    @jax.jit
    @jax.grad
    def gradient(logits):
        choice = decisions.straight_through(decisions.gumbel_softmax(keys[0], logits, 1.0))
        return memory(choice)

    assert np.abs(gradient(logits)["width"]).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 3])
def test_the_step_is_traced_once_for_any_number_of_samples(samples):
    settings = Search(epochs=2, batch_size=32, samples=samples, warmup=0.0)
    calls = []

    def counted(key, x, labels):
        calls.append(x.shape)
        return x, labels

    state = start(settings)
    *_, (state, _) = dnas.search(state, SPACE, settings, BUDGET, HALVES, counted, seed=0)
    assert len(calls) == 2  # one trace, two halves
    for leaf in jax.tree.leaves(state.logits):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_step_lowers_for_accelerators(platform, precision):
    settings = Search(batch_size=32, samples=2, precision=precision)
    step = dnas.make_step(SPACE, settings, BUDGET, STEPS, jittered, jax.random.key(0))
    x, labels = jnp.asarray(DATA.x[:16]), jnp.asarray(DATA.labels[:16])
    batch = dnas.Batch(x, labels, x, labels)
    exported = jax.export.export(jax.jit(step), platforms=[platform])(start(settings), batch)
    assert "convolution" in exported.mlir_module()
    assert ("bf16" in exported.mlir_module()) == (precision == "bfloat16")
