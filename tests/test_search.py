"""The contract of searches: what every one keeps, the loop, the contest."""

import dataclasses
import itertools
import pathlib
import re

import chex
import jax
import numpy as np
import pytest

from micronets_jax import budgets, cost, losses, recipes, search, supernet, training
from micronets_jax.budgets import Budget
from micronets_jax.search import base, contest, random
from support.learning import DATA, jittered
from support.searches import BUDGET, SETTINGS, SPACE, finish, finished, problem

METHODS = pytest.mark.parametrize("method", SETTINGS)


# ---------------------------------------------------------------- what every search keeps


def test_every_method_of_the_command_line_is_here():
    assert recipes.METHODS.keys() == SETTINGS.keys()
    assert set(recipes.METHODS.values()) == set(search.SEARCHES)


@METHODS
def test_what_is_proposed_are_members_of_the_space_most_of_which_fit(method):
    state, _ = finished(method)[-1]
    made = search.of(SETTINGS[method], problem())
    assert isinstance(made, search.Search)
    networks = [SPACE.decode(proposal.choice) for proposal in made.proposals(state)]
    fitting = [network for network in networks if BUDGET.fits(network)]
    assert len(fitting) > len(networks) / 2
    assert max(max(BUDGET.usage(network).values()) for network in fitting) > 0.8
    again = made.proposals(state)
    chex.assert_trees_all_equal(made.proposals(state), again)


@METHODS
def test_what_is_decided_fits(method):
    state, _ = finished(method)[-1]
    proposed = search.of(SETTINGS[method], problem()).proposals(state)
    single = dataclasses.replace(SETTINGS[method], trials=1)
    choice, trials = search.decide(proposed, single, problem(), {})
    assert BUDGET.fits(SPACE.decode(choice)) and not trials


@pytest.mark.slow
@METHODS
def test_a_search_continued_from_any_epoch_ends_with_the_same_bits(method):
    states = finished(method)
    middle = states[len(states) // 3][0]
    again = finish(SETTINGS[method], state=middle)
    chex.assert_trees_all_equal(again[-1][0], states[-1][0])


def test_where_nothing_that_is_proposed_fits_the_answer_still_does():
    tight = Budget(mops=1.05 * budgets.smallest(SPACE, Budget(mops=1.0))["mops"])
    witness = budgets.feasible(SPACE, tight)
    wide = search.Proposal("wide", SPACE.choice([40] * 3, [True] * 2))
    given = problem(budget=tight)
    choice, trials = search.decide([wide], SETTINGS["dnas"], given, witness)
    assert choice is witness and not trials


# ---------------------------------------------------------------- random


def test_random_members_fit_are_tight_and_repeat_with_the_seed():
    drawn = [
        list(itertools.islice(random.draw(np.random.default_rng(3), SPACE, BUDGET), 20))
        for _ in range(2)
    ]
    chex.assert_trees_all_equal(*drawn)
    for choice in drawn[0]:
        member = SPACE.decode(choice)
        assert BUDGET.fits(member)
        assert max(BUDGET.usage(member).values()) >= random.TIGHT - 1e-5
    assert len({str(SPACE.decode(choice)) for choice in drawn[0]}) > 10


def test_a_random_search_has_no_steps():
    with pytest.raises(ValueError, match="epochs=3: a random search has only trials"):
        recipes.Random(epochs=3)


# ---------------------------------------------------------------- the contest

NARROW, WIDE = SPACE.choice([4, 4, 4], [False] * 2), SPACE.choice([24] * 3, [True, False])
TINY = SPACE.choice([8, 4, 4], [False] * 2)
ROOM = Budget(mops=cost.ops(SPACE.decode(WIDE)) * 1e-6)


def hold(*choices, **changes):
    settings = dataclasses.replace(SETTINGS["random"], **changes)
    proposed = [search.Proposal(str(i), choice) for i, choice in enumerate(choices)]
    choice, trials = search.decide(proposed, settings, problem(budget=ROOM), {})
    return choice, [trial.proposal.name for trial in trials]


def test_a_contest_is_won_by_the_network_that_learns_the_task():
    """Two of three are too narrow for it."""
    choice, order = hold(NARROW, WIDE, TINY, trial_epochs=6)
    assert choice is WIDE and order[0] == "1" and sorted(order) == ["0", "1", "2"]


@pytest.mark.slow
def test_a_trial_is_the_training_of_the_network_alone():
    """To rounding: masked out of the supernet, or a network of its own with a block left out."""
    settings, choice = SETTINGS["random"], SPACE.choice([24, 16, 10], [True, False])
    (loss,) = contest._trainer(settings, problem())([choice])
    network, recipe = SPACE.decode(choice), recipes.FloatTraining(epochs=2, batch_size=16)
    fresh = supernet.init(jax.random.key(1), network)
    steps = recipe.num_steps(DATA.num_batches(16))
    state = training.init(fresh["params"], fresh["batch_stats"], recipe, steps)
    model = training.float_model(network)
    *_, (state, _) = training.fit(model, state, DATA, jittered, recipe, seed=1)
    variables = {"params": state.trainable, "batch_stats": state.stats}
    alone = [
        losses.cross_entropy(supernet.Supernet(network).apply(variables, x), labels)
        for x, labels in base.held_out(problem())
    ]
    assert loss == pytest.approx(float(np.mean(alone)), rel=1e-4)


def test_no_more_networks_run_than_there_are_trials_and_none_twice(monkeypatch):
    ran = trained(monkeypatch, lambda _: 0.0)
    # The width of a block that is left out makes no other network; the last does not fit.
    again, large = SPACE.choice([4, 40, 4], [False] * 2), SPACE.choice([40] * 3, [True] * 2)
    hold(large, NARROW, again, WIDE, TINY, trials=2)
    assert ran == [NARROW, WIDE]


# ---------------------------------------------------------------- several limits

FRONT = problem(front=(Budget(mops=0.5 * BUDGET.mops), Budget(mops=BUDGET.mops)))


@pytest.mark.parametrize("method", ["dnas", "random"])
def test_one_state_serves_every_limit_of_a_front(method):
    """What is proposed for a limit fits it and uses it; a loose one gets larger networks."""
    settings = dataclasses.replace(SETTINGS[method], trials=1)
    state = search.of(settings, FRONT).init(jax.random.key(0))
    each = [search.of(settings, one) for one in FRONT.each()]
    proposed = [made.proposals(state) for made in each]
    verdicts = search.decide_front(proposed, settings, FRONT, [{}, {}])
    networks = [SPACE.decode(verdict.choice) for verdict in verdicts]
    for budget, network in zip(FRONT.front, networks, strict=True):
        assert budget.fits(network) and budget.usage(network)["mops"] > 0.5
    assert cost.ops(networks[0]) < cost.ops(networks[1])


def trained(monkeypatch, loss_of) -> list:
    """What trials run from now on, by a loss that is made up."""
    ran = []
    train = lambda them: ran.extend(them) or [loss_of(x) for x in them]  # noqa: E731
    monkeypatch.setattr(contest, "_trainer", lambda *_: train)
    return ran


def test_a_front_trains_each_network_once_and_each_limit_takes_the_best_that_fits(monkeypatch):
    losses = {id(WIDE): 3.0, id(NARROW): 1.0, id(TINY): 2.0}
    ran = trained(monkeypatch, lambda choice: losses[id(choice)])
    wide, narrow, tiny = (search.Proposal(str(i), x) for i, x in enumerate((WIDE, NARROW, TINY)))
    given = problem(front=(Budget(mops=cost.ops(SPACE.decode(TINY)) * 1e-6), ROOM))
    settings = dataclasses.replace(SETTINGS["random"], trials=2)
    offered = [[wide, tiny, narrow], [wide, tiny]]
    tight, loose = search.decide_front(offered, settings, given, [{}, {}])
    assert ran == [WIDE, TINY, NARROW]  # of the limit in the middle, then what is new and fits
    assert tight.choice is NARROW and [x.loss for x in tight.trials] == [1.0, 2.0]
    # The best of all uses less of the loose limit than what was entered for that.
    assert loose.choice is TINY and [x.loss for x in loose.trials] == [2.0, 3.0]
    # One that was entered for another limit may win, where it is no smaller.
    _, loose = search.decide_front([[tiny, narrow], [narrow, wide]], settings, given, [{}, {}])
    assert loose.choice is NARROW and [x.loss for x in loose.trials] == [1.0, 2.0, 3.0]


def test_a_front_learns_in_the_middle_what_the_other_limits_enter(monkeypatch):
    """Of four ways of proposing, the other limits enter the two that did best, best first."""
    losses = {4: 0.4, 8: 0.1, 12: 0.3, 16: 0.2}
    widths = {name: choice for name, choice in zip("abcd", losses, strict=True)}

    def stem(choice) -> int:
        return next(iter(SPACE.decode(choice))).out_channels

    def offered(last: int) -> list[search.Proposal]:
        made = [(n, SPACE.choice([w, 8, last], [True] * 2)) for n, w in widths.items()]
        return [search.Proposal(name, choice) for name, choice in made]

    ran = trained(monkeypatch, lambda choice: losses[stem(choice)])
    settings = dataclasses.replace(SETTINGS["random"], trials=4)
    given = problem(front=(ROOM, ROOM, ROOM))
    found = search.decide_front([offered(x) for x in (4, 8, 12)], settings, given, [{}] * 3)
    assert [stem(choice) for choice in ran] == [4, 8, 12, 16, 8, 16, 8, 16]
    assert [stem(one.choice) for one in found] == [8, 8, 8]


def test_a_limit_for_which_a_single_network_is_proposed_takes_it_untrained(monkeypatch):
    monkeypatch.setattr(contest, "_trainer", lambda *_: pytest.fail("trained"))
    given = problem(front=(ROOM, ROOM))
    offered = [[search.Proposal("wide", WIDE)], []]
    first, second = search.decide_front(offered, SETTINGS["dnas"], given, [TINY, NARROW])
    assert first == (WIDE, []) and second == (NARROW, [])


# ---------------------------------------------------------------- a third search


def test_the_search_of_the_guide_runs(monkeypatch):
    text = (pathlib.Path(__file__).parents[1] / "docs" / "search.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    monkeypatch.setattr(search, "SEARCHES", dict(search.SEARCHES))
    names = {"__name__": "guide"}
    exec(block, names)
    settings = names["Near"](trials=1)
    made = search.of(settings, problem())
    proposed = made.proposals(made.init(jax.random.key(0)))
    choice, _ = search.decide(proposed, settings, problem(), {})
    assert choice is proposed[0].choice and len(proposed) > 5
    assert BUDGET.fits(SPACE.decode(choice))
