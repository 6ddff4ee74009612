"""From what was learned to one network: candidates of every depth, and who wins among them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_dnas import BUDGET, DATA, SETTINGS, SPACE, jittered, start

from micronets_jax import dnas, selection

HELD_OUT = [(jnp.asarray(DATA.x), jnp.asarray(DATA.labels))]
NARROW, WIDE = SPACE.member([4, 4, 4], [False, False]), SPACE.member([24] * 3, [True, False])
TINY = SPACE.member([8, 4, 4], [False, False])


@pytest.fixture(scope="module")
def groups():
    logits = start().logits
    sure_of_blocks = {**logits, "keep": logits["keep"].at[:, 0].add(3.0)}
    return selection._candidates(jax.random.key(0), sure_of_blocks, SPACE, BUDGET, "balanced")


def test_candidates_fit_are_tight_and_of_every_depth_and_way(groups):
    for choices in groups.values():
        for choice in choices:
            member = SPACE.decode(choice)
            assert BUDGET.fits(member)
            assert max(BUDGET.usage(member).values()) >= selection.TIGHT - 1e-5
    # A stem and one or two blocks of two convolutions; a stem alone leaves much unused.
    assert {depth for depth, _ in groups} == {3, 5}
    assert next(iter(groups))[0] == 5
    assert {way for _, way in groups} == set(selection.WAYS)


def test_networks_with_fewer_blocks_are_wider(groups):
    def widest(depth):
        return max(
            int(np.argmax(choice["width"][0]))
            for (other, _), choices in groups.items()
            for choice in choices[:1]
            if other == depth
        )

    assert widest(3) > widest(5)


def test_candidates_go_from_the_balance_to_what_was_learned():
    """Learned: a stem of 4 channels."""
    logits = start().logits
    stem = -jnp.square(jnp.arange(10.0))
    learned = {
        "width": logits["width"].at[0].set(stem),
        "keep": logits["keep"].at[:, 0].add(9.0),
    }
    found = selection._candidates(jax.random.key(0), learned, SPACE, BUDGET, "balanced")

    def mean_stem(way):
        return np.mean([np.argmax(choice["width"][0]) for choice in found[5, way]])

    assert mean_stem(0.0) > mean_stem(1.0)


def spread(choices):
    """How many options apart the mean widths of the first and the last layer and others are."""
    return np.ptp(np.mean([np.argmax(choice["width"], axis=-1) for choice in choices], axis=0))


def test_candidates_go_from_the_balance_to_even_widths(groups):
    assert spread(groups[5, -1.0]) < 2 < spread(groups[5, 0.0])
    assert spread(groups[5, -1.0]) < spread(groups[5, -0.5]) < spread(groups[5, 0.0])


def test_candidates_go_from_even_widths_to_the_balance():
    settings = dataclasses.replace(SETTINGS, start="even")
    logits = dnas.start(SPACE, settings, BUDGET)
    kept = {**logits, "keep": logits["keep"].at[:, 0].add(9.0)}
    groups = selection._candidates(jax.random.key(0), kept, SPACE, BUDGET, "even")
    assert spread(groups[5, 0.0]) < 2 < spread(groups[5, -1.0])
    assert spread(groups[5, 1.0]) < 2  # where nothing was learned


def test_finalists_of_a_row_differ():
    a, b = SPACE.choice([4, 4, 4], [True] * 2), SPACE.choice([8, 4, 4], [True] * 2)
    # The width of a block that is left out makes no other network.
    again = SPACE.choice([12, 4, 4], [False] * 2), SPACE.choice([12, 40, 4], [False] * 2)
    assert selection._different([[a, b], [a], [a, b]], SPACE) == [a, b]
    assert selection._different([[again[0]], [again[1]]], SPACE) == [again[0]]


def contest(rows, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    return selection.contest(jax.random.key(0), rows, settings, DATA, jittered, HELD_OUT)


def test_a_contest_is_won_by_the_network_that_learns_the_task():
    """Two of three are too narrow for it."""
    assert contest([[NARROW], [WIDE], [TINY]], finalists=3, trial_epochs=6) == (1, 0)


def test_a_variant_of_the_best_row_can_win():
    assert contest([[NARROW, WIDE]], finalists=2, trial_epochs=6) == (0, 1)


def test_no_more_networks_run_than_there_are_finalists(monkeypatch):
    started = []
    init = selection.init_supernet
    monkeypatch.setattr(
        selection, "init_supernet", lambda key, net: started.append(net) or init(key, net)
    )
    contest([[NARROW, WIDE, TINY], [WIDE, TINY, NARROW]], finalists=4, trial_epochs=1)
    assert len(started) == 4
    assert set(started[:2]) == {NARROW, WIDE}


def test_a_search_of_one_finalist_trains_none(monkeypatch):
    monkeypatch.setattr(selection, "contest", None)
    settings = dataclasses.replace(SETTINGS, finalists=1)
    state = start()
    choice = selection.decide(
        jax.random.key(0), state, SPACE, settings, BUDGET, (DATA, DATA), jittered, HELD_OUT, {}
    )
    assert BUDGET.fits(SPACE.decode(choice))


@pytest.mark.slow
def test_shared_losses_are_those_of_the_networks(finished_state):
    choices = [SPACE.choice([4, 4, 4], [True, True]), SPACE.choice([24] * 3, [True, True])]
    few, many = selection.shared_losses(finished_state, SPACE, SETTINGS, choices, HELD_OUT)
    assert many < few


@pytest.fixture(scope="module")
def finished_state():
    halves = (DATA, DATA)
    *_, (state, _) = dnas.search(start(), SPACE, SETTINGS, BUDGET, halves, jittered, seed=1)
    return state
