"""TinyNAS's first stage: members drawn, costed exactly, and the space that is chosen."""

import jax
import numpy as np
import pytest

from micronets_jax import cost, decisions, tinyengine
from micronets_jax.spaces import MCUNet, survey
from micronets_jax.spaces.mcunet import Stage

STAGES = (Stage(24, 2), Stage(40, 1))
SPACES = [
    MCUNet((side, side, 1), 3, width, STAGES, (1, 2), (3, 5), (3, 4))
    for width in (0.2, 0.5)
    for side in (16, 24)
]
LIMIT = 5_900


def small(network):
    return tinyengine.sram_bytes(network) <= LIMIT


@pytest.fixture(scope="module")
def found():
    return survey.survey(SPACES, small, count=40)


def test_every_draw_is_costed_as_its_member(found):
    drawn = decisions.uniform(np.random.default_rng(0), SPACES[0].decisions(), 40)
    assert [one.space for one in found] == SPACES
    for one in found:
        for i in range(0, 40, 7):
            member = one.space.decode(jax.tree.map(lambda leaf, i=i: leaf[i], drawn))
            assert one.macs[i] == cost.macs(member)
            assert one.fits[i] == small(member)
    assert 0 < sum(one.share for one in found) < len(found)


def test_statistics_by_hand():
    one = survey.Survey(SPACES[0], np.asarray([4, 1, 9, 3, 2]), np.asarray([1, 1, 0, 1, 1], bool))
    assert one.kept.tolist() == [1, 2, 3, 4] and one.share == 0.8 and one.mean == 2.5
    assert one.above(2.0) == 0.5 and one.reached_by(1.0) == 1
    assert str(one) == "w0.2-r16"
    none = survey.Survey(SPACES[0], np.asarray([4]), np.asarray([False]))
    assert none.mean == none.above(1.0) == none.reached_by(0.2) == 0


def test_the_best_space_has_most_operations_among_those_that_fit(found):
    chosen = survey.best(found, fewest=20)
    assert chosen.fits.sum() >= 20
    assert all(one.mean <= chosen.mean for one in found if one.fits.sum() >= 20)
    assert str(chosen) in survey.table(found)
    with pytest.raises(ValueError, match=r"too few members.*of 40 drawn at most \d+ fit, in w"):
        survey.best(found, fewest=41)


def test_spaces_share_a_program_only_if_wired_alike():
    """Widths of 0.25 join the stages of 80 and 96 channels, those of 0.5 do not."""
    for width in (0.25, 0.5):
        space = MCUNet((16, 16, 1), 3, width, (Stage(80, 2), Stage(96, 1), Stage(96, 1)), (1,))
        (one,) = survey.survey([space], small, count=2)
        drawn = decisions.uniform(np.random.default_rng(0), space.decisions(), 2)
        member = space.decode(jax.tree.map(lambda leaf: leaf[1], drawn))
        assert one.macs[1] == cost.macs(member)
