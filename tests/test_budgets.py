"""Budgets: whole-number decisions, what a board leaves, what cannot be met."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import budgets, cost, decisions, devices, latency, sizes, zoo
from micronets_jax.budgets import Budget, Limits
from micronets_jax.spaces import DSCNN
from micronets_jax.targets.tflm import arena as tflm

SPACE = DSCNN(max_width=60, strides=(2, 1, 2))
BOARD = devices.device("STM32F446RE")
NETWORK = zoo.network("MicroNet-KWS-S")


def test_what_a_board_leaves():
    budget = Budget.of(BOARD, runtime="tflm_paper")
    assert budget.limits() == {"sram_bytes": 128 * 1024, "flash_bytes": 512 * 1024}
    reserve = budget.reserve(NETWORK)
    assert sum(reserve["sram_bytes"].values()) == 4000 + 4000 + 4096
    assert sum(reserve["flash_bytes"].values()) == 37_000 + 38_000
    # The paper runs its small and medium networks on the small board, the large ones not.
    assert budget.fits(NETWORK) and budget.fits(zoo.network("MicroNet-KWS-M"))
    assert not budget.fits(zoo.network("MicroNet-KWS-L"))


def test_stated_limits_replace_the_boards():
    budget = Budget.of(BOARD, Limits(sram_bytes=50_000, mops=20.0))
    assert budget.limits() == {"sram_bytes": 50_000, "flash_bytes": 512 * 1024, "mops": 20.0}
    assert Budget(mops=1.5).limits() == {"mops": 1.5}


def test_compiled_c_leaves_room_for_a_larger_network():
    """What MicroNet-KWS-S takes of a board as TFLM runs it and as compiled C, all included."""
    took = {name: Budget.of(BOARD, runtime=name).used(NETWORK) for name in ("compiled", "tflm")}
    above = sizes.table()["firmware"]["stack"]["plain"]["above the model"]
    stream, row = (sizes.stack_bytes([(n, 1)]) for n in ("mn_stream", "depthwise_row_3_s2"))
    # model_run, a stretch, pointers to 10 rows, a row's kernel, the firmware, an interrupt
    stack = 48 + 24 + stream + 4 * 10 + row + above + 112
    # Arena by rows, handlers' stack, state, times of 13 calls and of the last.
    assert took["compiled"]["sram_bytes"] == 13_508 + 4 + stack + 512 + 565 + 8 + 8 * 14 + 7
    assert took["compiled"]["sram_bytes"] < 0.3 * took["tflm"]["sram_bytes"]
    assert took["compiled"]["flash_bytes"] < 0.6 * took["tflm"]["flash_bytes"]


def test_limits_below_the_reserve_name_its_parts():
    budget = Budget.of(BOARD, Limits(sram_bytes=1000), "compiled")
    with pytest.raises(ValueError, match=r"sram_bytes=1,000: compiled C takes .*stack 512"):
        budgets.feasible(SPACE, budget)
    budget = Budget.of(BOARD, Limits(flash_bytes=90_000), "tflm", besides=(5_000, 9_000))
    with pytest.raises(ValueError, match=r"interpreter and kernels \d.*front end 9,000"):
        budgets.feasible(SPACE, budget)


def test_what_a_board_holds_is_said_before_a_search():
    sram, flash = budgets.account(SPACE, Budget.of(BOARD, runtime="compiled"))
    assert sram.startswith("SRAM: 131,072 bytes, compiled C takes ")
    assert "are left; the largest network of the space takes " in sram and "flash: 524,288" in flash


def test_used_by_hand():
    limits = Limits(mops=20.0, latency_ms=300.0, energy_mj=50.0)
    budget = Budget.of(BOARD, limits, runtime="tflm_paper")
    used = budget.used(NETWORK)
    assert used["mops"] == pytest.approx(16.653504)
    ms = latency.latency_ms(NETWORK, BOARD, "tflm")
    assert used["latency_ms"] == pytest.approx(ms)
    assert used["energy_mj"] == pytest.approx(ms * 0.163)
    compiled = Budget.of(BOARD, limits, runtime="compiled").used(NETWORK)
    assert compiled["latency_ms"] == pytest.approx(latency.latency_ms(NETWORK, BOARD, "compiled"))
    assert compiled["latency_ms"] < used["latency_ms"]
    assert used["sram_bytes"] == tflm.published(NETWORK).total + 12_096
    assert budget.usage(NETWORK)["mops"] == pytest.approx(0.8326752)


LAST_UNIT = {
    "sram_bytes": 1,
    "flash_bytes": 1,
    "mops": 2e-6,
    "latency_ms": BOARD.cycles_per_instruction / 180e3,  # an instruction
    "energy_mj": BOARD.cycles_per_instruction / 180e3 * 0.163,
}


@pytest.mark.parametrize("name", LAST_UNIT)
def test_a_limit_is_met_up_to_its_last_unit(name):
    used = Budget(
        mops=1e9, device=BOARD, sram_bytes=1, flash_bytes=1, latency_ms=1e9, energy_mj=1e9
    ).used(NETWORK)
    assert Budget(**{name: used[name]}, device=BOARD).fits(NETWORK)
    step = LAST_UNIT[name]
    tight = Budget(**{name: used[name] - step}, device=BOARD)
    assert not tight.fits(NETWORK)
    assert tight.violations(NETWORK) == {name: pytest.approx(step, rel=1e-3)}
    assert Budget(**{name: used[name]}, device=BOARD).violations(NETWORK) == {}


def test_traced_and_concrete_networks_are_judged_alike():
    budget = Budget.of(BOARD, Limits(sram_bytes=20_000, mops=1.2, latency_ms=30.0, energy_mj=4.5))
    rng = np.random.default_rng(0)
    choices = [
        SPACE.choice([int(w) for w in rng.choice(SPACE.widths, 4)], [bool(k) for k in keep])
        for keep in rng.integers(0, 2, (40, 3))
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *choices)
    traced = jax.jit(jax.vmap(lambda choice: budget.fits(SPACE.network(choice))))(stacked)
    concrete = [budget.fits(SPACE.decode(choice)) for choice in choices]
    assert traced.tolist() == concrete
    assert 0 < sum(concrete) < 40


def test_usage_has_gradients_inside_jit():
    budget = Budget.of(BOARD, Limits(mops=2.0, latency_ms=60.0, energy_mj=9.0))
    choice = decisions.expected(decisions.undecided(SPACE.decisions()))
    slopes = jax.jit(jax.jacrev(lambda c: budget.usage(SPACE.network(c))))(choice)
    assert set(slopes) == set(budget.limits())
    for name in slopes:
        assert jnp.isfinite(slopes[name]["width"]).all()
        assert slopes[name]["width"][0, -1] > slopes[name]["width"][0, 0] > 0


def test_smallest_is_reached_and_below_it_is_refused():
    budget = Budget.of(BOARD, Limits(mops=100.0, latency_ms=1000.0, energy_mj=99.0))
    least = budgets.smallest(SPACE, budget)
    assert least["mops"] == pytest.approx(
        min(cost.ops(SPACE.decode(choice)) for choice in SPACE.lightest()) / 1e6
    )
    for name in ("sram_bytes", "flash_bytes", "mops", "latency_ms", "energy_mj"):
        exact = dataclasses.replace(Budget(device=BOARD), **{name: least[name]})
        assert exact.fits(SPACE.decode(budgets.feasible(SPACE, exact)))
        lower = type(least[name])(least[name] * 0.99)
        too_low = dataclasses.replace(exact, **{name: lower})
        with pytest.raises(ValueError, match=f"can meet {name}=.*smallest achievable is "):
            budgets.feasible(SPACE, too_low)


class TwoMembers:
    """A space where memory and storage pull apart."""

    def decode(self, choice):
        return zoo.dscnn((8, 8), (1,)) if choice["first"][0] else zoo.dscnn((4, 40), (2,))

    def lightest(self):
        return [{"first": np.array([1, 0])}, {"first": np.array([0, 1])}]


def test_limits_that_only_together_cannot_be_met():
    space = TwoMembers()
    narrow, short = map(space.decode, space.lightest())
    arenas = [tflm.arena_bytes(network, tflm.HOST) for network in (narrow, short)]
    assert arenas[0] > arenas[1]
    assert cost.flash_bytes(narrow) < cost.flash_bytes(short)
    limits = Limits(sram_bytes=arenas[1], flash_bytes=cost.flash_bytes(narrow))
    budget = Budget(limits.sram_bytes, limits.flash_bytes, runtime="tflm_host")
    with pytest.raises(ValueError, match="together, though each alone can be met"):
        budgets.feasible(space, budget)
    roomy = budgets.feasible(space, Budget(sram_bytes=10**6))
    assert space.decode(roomy) == short  # it has more weights


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"mops": 0.0}, "mops=0.0"),
        ({"sram_bytes": -1}, "sram_bytes=-1"),
        ({"latency_ms": float("nan")}, "latency_ms=nan"),
        ({"latency_ms": 10.0}, "without a device"),
        ({"energy_mj": 10.0}, "energy_mj is given without a device"),
        (
            {"energy_mj": 10.0, "device": devices.device("STM32F767ZI")},
            "power of STM32F767ZI is not known; limit latency_ms instead",
        ),
        ({"runtime": "micro"}, "runtime='micro' is unknown; use one of compiled, tflm$"),
    ],
)
def test_senseless_budgets_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        Budget(**arguments)


def test_a_core_that_nobody_has_characterised_is_refused():
    with pytest.raises(ValueError, match="of networks on a cortex-m55 are predicted, for nobody"):
        Budget.of(devices.device("mps3-an547"), Limits(latency_ms=40.0))
    with pytest.raises(
        ValueError, match=r"runtime='tflm': nobody .* cortex-m0plus, the core of RP2"
    ):
        Budget.of(devices.device("RP2040"), runtime="tflm")


def test_a_board_without_the_dsp_extension():
    """Times go by its steps and its manual's cycles; its stack counts what it takes more."""
    on, other = devices.device("RP2040"), devices.device("RP2350")
    used, elsewhere = (Budget.of(d, Limits(latency_ms=1e6)).used(NETWORK) for d in (on, other))
    count = latency.instructions(NETWORK, "compiled", "cortex-m0plus")
    assert used["latency_ms"] == pytest.approx(count * on.cycles_per_instruction / 133e3)
    assert count > 6 * latency.instructions(NETWORK, "compiled", "cortex-m33")
    assert used["sram_bytes"] - elsewhere["sram_bytes"] == sizes.more_stack_bytes(on.core) > 0
