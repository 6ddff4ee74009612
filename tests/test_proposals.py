"""Layouts: in proportion, as wide as the limits allow, balanced where one more costs the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import cost, decisions
from micronets_jax.budgets import Budget
from micronets_jax.search import proposals
from micronets_jax.spaces import DSCNN, MobileNetV2
from micronets_jax.spaces.mobilenet_v2 import Stage
from support.searches import SPACE

RESIDUAL = MobileNetV2((20, 17, 1), 3, 0.5, (Stage(1, 16, 1, 1), Stage(6, 24, 2, 2)), 32, 64)
SPACES = pytest.mark.parametrize("space", [SPACE, RESIDUAL], ids=["dscnn", "mobilenet_v2"])


@SPACES
def test_a_layout_is_as_wide_as_fits(space):
    """No factor that is larger gives another network that fits."""
    taken = space.decisions()
    budget = Budget(mops=cost.ops(space.largest()) * 0.2e-6)
    (others,) = proposals.patterns(taken, most=1).values()
    layout = proposals.Layout("even", proposals.shares(taken), others)
    (found,) = proposals.fitting(space, budget, [layout])
    used = cost.ops(space.decode(found.choice))
    assert budget.fits(space.decode(found.choice))
    for factor in np.geomspace(1 / 64, 4, 40):
        widths = jax.tree.map(lambda width, factor=factor: factor * width, layout.widths)
        other = space.decode(decisions.nearest(widths, taken) | others)
        assert cost.ops(other) <= used or not budget.fits(other)


def test_proportions_are_those_asked_for():
    taken = DSCNN(max_width=400, strides=(2, 1, 1)).decisions()
    np.testing.assert_allclose(proposals.shares(taken)["width"], 400)
    np.testing.assert_allclose(proposals.shares(taken, stem=0.2)["width"], [80, 400, 400, 400])
    np.testing.assert_allclose(proposals.shares(taken, 1.0, 1.0)["width"], [200, 200, 300, 400])


def test_patterns_leave_out_the_deepest_blocks_first():
    found = proposals.patterns(DSCNN(strides=(2, 1, 1)).decisions(), most=3)
    kept = [np.argmax(pattern["keep"], axis=-1).tolist() for pattern in found.values()]
    assert kept == [[0, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert [*proposals.patterns(RESIDUAL.decisions())] == [""]


@pytest.mark.parametrize("share", [0.1, 0.15])
def test_one_per_cent_more_of_any_balanced_width_costs_the_same(share):
    """But of the last block's, on the smallest maps, which is as wide as can be."""
    space = DSCNN((16, 16, 3), num_classes=3, max_width=400, strides=(2, 2))
    budget, taken = Budget(mops=share * cost.ops(space.largest()) * 1e-6), space.decisions()
    kept = {"keep": jnp.array([[1.0, 0.0]] * 2)}
    widths = proposals.balanced(space, budget, kept)

    def used(widths):
        choice = decisions.interpolated(widths, taken) | kept
        return budget.usage(space.network(choice))["mops"]

    assert 0.99 < used(widths) <= 1
    stem, block, last = (widths["width"] * jax.grad(used)(widths)["width"]).tolist()
    assert last < block
    assert stem == pytest.approx(block, rel=0.05)
    assert 1 < widths["width"][0] < widths["width"][1] < widths["width"][2]
    assert widths["width"][2] == pytest.approx(400, rel=1e-3)


def test_what_is_proposed_without_learning_fits():
    budget = Budget(mops=cost.ops(SPACE.largest()) * 0.3e-6)
    found = proposals.fitting(SPACE, budget, proposals.unlearned(SPACE, budget))
    used = [budget.usage(SPACE.decode(one.choice))["mops"] for one in found]
    assert min(used) > 0.7 and max(used) <= 1
    assert len({one.name for one in found}) == len(found)
