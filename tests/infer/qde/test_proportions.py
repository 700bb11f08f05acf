"""Proportions of moves and moves of an iteration: evaluations as they are made, dear scores included."""

import numpy as np
import pytest

from qdesampler.infer.qde.proportions import LocalMoves, Mixed, moves_of_a_draw, proportions
from qdesampler.kernels.mcmc.host_trajectories import Chains
from qdesampler.numerics.host_trial import host_trial
from qdesampler.numerics.numpy_metric import identity

DIM = 10
_MOST_EVALUATIONS = 50  # of the moves of an iteration, unless the fewest need more


def mixed(score_cost, acceptance=0.8, spread=0.7):
    """A trial whose log weights are normal, beside trajectories of four steps."""
    weights = spread * np.random.default_rng(0).standard_normal(2000)
    nothing = Chains(np.zeros((1, DIM)), np.zeros(1), np.zeros((1, DIM)))
    trial = host_trial(np.zeros(DIM), identity(DIM, 0))
    local = LocalMoves(step_size=0.5, length=2.0, cost=8.0)
    return Mixed(trial, weights, 1.5, acceptance, local, nothing, score_cost=score_cost)


def fraction(found):
    """Of the evaluations, those for global moves."""
    probability, candidates = proportions(found)
    spent = probability * candidates
    return spent / (spent + (1 - probability) * found.steps)


def test_fractions_are_of_evaluations_as_they_are_made():
    plain, dear = mixed(1.0), mixed(4.0)
    assert plain.steps == 4
    assert dear.steps == 16
    assert dear.local_cost == 4 * plain.local_cost
    assert fraction(plain) == pytest.approx(0.4)  # the most where fewer than 87% are taken
    assert fraction(dear) == pytest.approx(0.4)
    assert proportions(dear)[0] > proportions(plain)[0]


def test_dear_scores_are_bought_less_where_trajectories_compete():
    """Where the trial is poor the fractions follow the squares of the efficiencies."""
    poor = [mixed(cost, spread=2.2)._replace(seen=12.0) for cost in (1.0, 4.0)]
    assert fraction(poor[0]) < fraction(poor[1])


@pytest.mark.parametrize("score_cost", [11.0, 101.0])
def test_a_chain_that_is_held_still_has_local_moves(score_cost):
    good = mixed(score_cost, acceptance=0.9, spread=0.2)
    by_evaluations = 0.85 / (0.85 + 0.15 / good.steps)
    assert by_evaluations > 0.99
    assert proportions(good)[0] == pytest.approx(0.975)


def test_draws_have_fewer_moves_where_these_are_dear():
    slow = LocalMoves(step_size=0.5, length=2.0, cost=40.0)
    plain, dear = (mixed(cost, acceptance=0.5)._replace(log_weights=None, local=slow) for cost in (1.0, 11.0))
    assert [moves_of_a_draw(found, *proportions(found)) for found in (plain, dear)] == [6, 2]


def _beside(acceptance: float, *, steps: float, cost: float) -> Mixed:
    """A trial of two dimensions with weights of about this acceptance, beside local moves of this price."""
    spread = 2 * np.sqrt(2) * float(np.sqrt(-np.log(acceptance)))
    weights = np.random.default_rng(0).normal(size=200) * spread
    nowhere = Chains(np.zeros((1, 2)), np.zeros(1), np.zeros((1, 2)))
    local = LocalMoves(step_size=0.5, length=0.5 * steps, cost=cost)
    return Mixed(host_trial(np.zeros(2), identity(2, 0)), weights, 1.0, acceptance, local, nowhere)


def _evaluations(mixed: Mixed) -> float:
    probability, candidates = proportions(mixed)
    steps = mixed.local.length / mixed.local.step_size
    each = probability * candidates + (1 - probability) * steps
    return moves_of_a_draw(mixed, probability, candidates) * each


@pytest.mark.parametrize("acceptance", [0.8, 0.9, 0.99])
def test_a_clear_trial_makes_one_move(acceptance):
    mixed = _beside(acceptance, steps=4, cost=8)
    assert moves_of_a_draw(mixed, *proportions(mixed)) == 1


@pytest.mark.parametrize("acceptance", [0.05, 0.3, 0.6, 0.75])
def test_where_candidates_are_refused_an_iteration_makes_several_moves(acceptance):
    mixed = _beside(acceptance, steps=4, cost=30)
    assert moves_of_a_draw(mixed, *proportions(mixed)) >= 2
    assert _evaluations(mixed) <= _MOST_EVALUATIONS


def test_dearer_effective_draws_take_more_moves_of_the_same_price():
    cheap, dear = (_beside(0.2, steps=4, cost=cost) for cost in (8, 40))
    few, many = (moves_of_a_draw(mixed, *proportions(mixed)) for mixed in (cheap, dear))
    assert 2 <= few < many


@pytest.mark.parametrize(
    ("acceptance", "steps", "fewest"),
    [(0.05, 45, 2), (0.05, 20, 3), (0.05, 200, 2), (0.6, 100, 2), (0.6, 200, 2)],
)
def test_long_trajectories_are_not_multiplied_further(acceptance, steps, fewest):
    mixed = _beside(acceptance, steps=steps, cost=5000)
    assert moves_of_a_draw(mixed, *proportions(mixed)) == fewest


def test_beside_a_solved_trial_a_second_move_comes_later():
    untuned = LocalMoves(step_size=0.5, length=2.0)
    for acceptance, moves in ((0.78, 1), (0.74, 2)):
        tuned = _beside(acceptance, steps=4, cost=8)
        found = tuned._replace(local=untuned)
        assert moves_of_a_draw(found, *proportions(found)) == moves
        assert moves_of_a_draw(tuned, *proportions(tuned)) == 2
