"""The differentiable search: limits are met, decisions follow the data, weights warm up first."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import cost, decisions, recipes, search
from micronets_jax.budgets import Budget
from micronets_jax.search import Batch, base, dnas
from micronets_jax.spaces.only import Only
from micronets_jax.targets.tflm import arena as tflm
from support import searches
from support.learning import DATA
from support.searches import BUDGET, LARGEST, SPACE, finish, problem
from support.searches import SETTINGS as ALL

SETTINGS = ALL["dnas"]
TAKEN = SPACE.decisions()
STEPS = base.num_steps(SETTINGS, problem())


@pytest.fixture
def finished():
    return searches.finished("dnas")


def test_limits_are_met_in_expectation_and_exactly_in_the_end(finished):
    state, last = finished[-1]
    assert last["mops"] < 1.1
    single = dataclasses.replace(SETTINGS, trials=1)
    proposed = search.of(SETTINGS, problem()).proposals(state)
    found = SPACE.decode(search.decide(proposed, single, problem(), {})[0])
    assert BUDGET.fits(found)
    assert max(BUDGET.usage(found).values()) > 0.8


def test_blocks_count_in_full_until_they_are_unlikely():
    """Even odds price the whole network, where half of each block would leave room for a stem."""
    budget = Budget(mops=cost.ops(LARGEST) * 0.2e-6)
    logits = dnas.start(SPACE, SETTINGS, budget)
    choice = jax.tree.map(lambda leaf: leaf[None], decisions.expected(logits))
    whole = dnas._usage(SPACE, budget, logits, choice)["mops"]
    assert 0.97 < whole <= 1
    unlikely = {**logits, "keep": jnp.array([[0.0, 0.1]] * 2)}
    assert dnas._usage(SPACE, budget, unlikely, choice)["mops"] < 0.7 * whole


def test_the_search_learns(finished):
    assert finished[-1][1]["accuracy"] > 0.8


def test_decisions_wait_for_the_warm_up(finished):
    chex.assert_trees_all_equal(finished[2][0].logits, finished[0][0].logits)
    assert np.abs(finished[4][0].logits["keep"]).max() > 0


def test_in_the_warm_up_weights_see_every_block():
    """Whatever the decisions say of it; later it counts."""
    made = search.of(SETTINGS, problem())
    step, start = jax.jit(made.step), made.init(jax.random.key(0))
    batch = Batch(*(part[:16] for part in (DATA.x, DATA.labels) * 2))

    def changed(number, lean):
        keep = start.logits["keep"].at[:, lean].set(9.0)
        state = start._replace(step=jnp.int32(number), logits={**start.logits, "keep": keep})
        return step(state, batch)[0].params

    chex.assert_trees_all_equal(changed(0, 0), changed(0, 1))
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(changed(STEPS - 1, 0), changed(STEPS - 1, 1))


# ---------------------------------------------------------------- where it starts and ends


def mean_use(logits, budget):
    choice = decisions.all_yes(decisions.expected(logits), SPACE.decisions())
    return budget.usage(SPACE.network(choice))["mops"]


def test_a_search_starts_at_its_limits():
    """The mean network of all blocks meets them, and the next wider ones would not."""
    budget = Budget(mops=cost.ops(LARGEST) * 0.2e-6)
    logits = dnas.start(SPACE, SETTINGS, budget)
    assert 0.97 < mean_use(logits, budget) <= 1
    np.testing.assert_array_equal(logits["keep"], 0)


def test_a_search_may_start_at_even_widths():
    budget = Budget(mops=cost.ops(LARGEST) * 0.2e-6)
    logits = dnas.start(SPACE, dataclasses.replace(SETTINGS, start="even"), budget)
    assert 0.9 < mean_use(logits, budget) <= 1
    widths = decisions.widths(logits, SPACE.decisions())["width"]
    np.testing.assert_allclose(widths, widths[0], rtol=1e-5)


def test_nothing_is_to_be_balanced_where_nothing_is_to_be_decided():
    assert dnas.start(Only(LARGEST), SETTINGS, BUDGET) == {}


def test_a_search_whose_limits_bind_nothing_starts_at_the_largest_widths():
    logits = dnas.start(SPACE, SETTINGS, Budget(mops=1e3))
    assert (np.argmax(logits["width"], axis=-1) == logits["width"].shape[-1] - 1).all()


def test_a_search_that_cannot_start_at_its_limits_starts_at_the_smallest_widths():
    logits = dnas.start(SPACE, SETTINGS, Budget(mops=1e-3))
    assert (np.argmax(logits["width"], axis=-1) == 0).all()


def test_what_was_learned_is_proposed_first_at_the_limits(finished):
    """Learned: a narrow stem, and a first block that is not worth its cost."""
    state = finished[0][0]
    stem = jnp.where(jnp.arange(state.logits["width"].shape[-1]) == 0, 9.0, 0.0)
    logits = {
        "width": state.logits["width"].at[0].set(stem),
        "keep": jnp.array([[0.0, 3.0], [1.0, 0.0]]),
    }
    made = search.of(SETTINGS, problem())
    first, _, second, *_ = made.proposals(state._replace(logits=logits))
    assert np.argmax(first.choice["keep"], axis=-1).tolist() == [1, 0]
    widths = SPACE.decisions()["width"].value(first.choice["width"])
    assert widths[0] <= widths[2] / 2
    assert np.argmax(second.choice["keep"], axis=-1).tolist() == [1, 1]


# ---------------------------------------------------------------- several limits

BUDGETS = tuple(dataclasses.replace(BUDGET, mops=share * BUDGET.mops) for share in (0.5, 1, 2))


def test_budgets_of_a_front_are_counted_as_each_is_alone():
    """Those that differ in numbers side by side, one of another kind by itself."""
    front = (Budget(mops=0.1), Budget(flash_bytes=20_000, mops=0.2), Budget(mops=0.3))
    logits = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), decisions.undecided(TAKEN))
    logits["width"] = logits["width"].at[1, :, 0].set(3.0).at[2, :, -1].set(3.0)
    choice = jax.tree.map(lambda leaf: leaf[:, None], decisions.expected(logits))
    together = jax.jit(search.of(SETTINGS, problem(front=front))._used)(logits, choice)
    for i, (budget, used) in enumerate(zip(front, together, strict=True)):
        arguments = jax.tree.map(lambda x, i=i: x[i], (logits, choice))
        alone = jax.jit(functools.partial(dnas._usage, SPACE, budget))(*arguments)
        chex.assert_trees_all_close(used, alone, rtol=1e-5)


def test_decisions_of_a_front_are_each_limit_s_own():
    """What one limit's decisions and multipliers are changes nothing of another's."""
    made = search.of(SETTINGS, problem(front=tuple(Budget(mops=one.mops) for one in BUDGETS)))
    begun, key = made.init(jax.random.key(0)), jax.random.key(1)
    x, labels = jnp.asarray(DATA.x[:17]), jnp.asarray(DATA.labels[:17])  # two are left out
    step = jax.jit(lambda state: made._decisions_step(key, state, x, labels))
    first, metrics = step(begun)
    width = begun.logits["width"]
    turned = {**begun.logits, "width": width.at[0].set(width[0, :, ::-1])}
    dear = [{"mops": jnp.ones(())}, *begun.multipliers[1:]]
    second, _ = step(begun._replace(logits=turned, multipliers=dear))
    assert width.shape[0] == 3 and len({float(metrics[f"mops {i}"]) for i in (1, 2, 3)}) == 3
    for i in (1, 2):
        chex.assert_trees_all_close(
            *(jax.tree.map(lambda x, i=i: x[i], state.logits) for state in (first, second)),
            rtol=1e-5,
        )
        assert first.multipliers[i] == second.multipliers[i]
    assert np.abs(first.logits["width"] - width).max(axis=(1, 2)).min() > 0


def test_a_batch_that_is_too_small_for_its_limits_is_refused():
    with pytest.raises(ValueError, match=r"search.batch_size=16: half of it .* give at least 24"):
        search.of(dataclasses.replace(SETTINGS, batch_size=16), problem(front=BUDGETS))


@pytest.mark.slow
def test_a_front_meets_each_of_its_limits():
    _, last = finish(SETTINGS, problem(front=BUDGETS))[-1]
    assert last["accuracy"] > 0.8
    for i, budget in enumerate(BUDGETS, 1):
        for name in budget.limits():
            assert last[f"{name} {i}"] < 1.1
    mops = [last[f"mops {i}"] * budget.mops for i, budget in enumerate(BUDGETS, 1)]
    assert mops == sorted(mops)


# ---------------------------------------------------------------- variants


@pytest.mark.slow
def test_a_search_with_relaxed_widths_learns_too():
    settings = dataclasses.replace(SETTINGS, widths="relaxed")
    first, *_, (state, last) = finish(settings)
    assert last["accuracy"] > 0.6
    assert last["mops"] < 1.15
    assert np.abs(state.logits["width"] - first[0].logits["width"]).max() > 0


def test_sampled_memory_agrees_with_monte_carlo_where_the_mean_network_does_not():
    """Of uniform choices: the mean of the maximum, not the maximum of the mean."""
    logits = decisions.undecided(SPACE.decisions())
    keys = jax.random.split(jax.random.key(0), 4096)

    @jax.jit
    def memory(choice):
        return tflm.arena_bytes(SPACE.network(choice)).astype(jnp.float32)

    def straight(key):
        return decisions.straight_through(decisions.gumbel_softmax(key, logits, 1.0))

    exact = decisions.uniform(np.random.default_rng(0), SPACE.decisions(), len(keys))
    sampled = np.mean(jax.jit(jax.vmap(lambda key: memory(straight(key))))(keys))
    truth = np.mean(jax.jit(jax.vmap(memory))(exact))
    mean_network = memory(decisions.expected(logits))
    assert abs(sampled - truth) / truth < 0.02
    assert abs(mean_network - truth) / truth > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 3])
def test_inputs_are_traced_once_for_any_number_of_samples(samples):
    settings = recipes.DNAS(epochs=2, batch_size=32, samples=samples, warmup=0.0)
    calls = []

    def counted(key, x, labels):
        calls.append(x.shape)
        return x, labels

    *_, (state, _) = finish(settings, problem(inputs=counted))
    assert len(calls) == 2  # one trace, two halves
    for leaf in jax.tree.leaves(state.logits):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_step_lowers_for_accelerators(platform, precision):
    settings = recipes.DNAS(batch_size=32, samples=2, precision=precision)
    made = search.of(settings, problem())
    x, labels = jnp.asarray(DATA.x[:16]), jnp.asarray(DATA.labels[:16])
    batch = Batch(x, labels, x, labels)
    exported = jax.export.export(jax.jit(made.step), platforms=[platform])(
        made.init(jax.random.key(0)), batch
    )
    assert "convolution" in exported.mlir_module()
    assert ("bf16" in exported.mlir_module()) == (precision == "bfloat16")
