"""Moves of one iteration: one where candidates are taken, several where they are refused, within a budget."""

import numpy as np
import pytest

from qdesampler.infer.qde.proportions import LocalMoves, Mixed, moves_of_a_draw, proportions
from qdesampler.kernels.mcmc.host_trajectories import Chains
from qdesampler.numerics.host_trial import host_trial
from qdesampler.numerics.numpy_metric import identity

_MOST_EVALUATIONS = 50  # of the moves of an iteration, unless two alone need more


def _mixed(acceptance: float, *, steps: float, cost: float) -> Mixed:
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
    mixed = _mixed(acceptance, steps=4, cost=8)
    assert moves_of_a_draw(mixed, *proportions(mixed)) == 1


@pytest.mark.parametrize("acceptance", [0.05, 0.3, 0.6, 0.75])
def test_where_candidates_are_refused_an_iteration_makes_several_moves(acceptance):
    mixed = _mixed(acceptance, steps=4, cost=30)
    assert 2 <= moves_of_a_draw(mixed, *proportions(mixed))
    assert _evaluations(mixed) <= _MOST_EVALUATIONS


def test_dearer_effective_draws_take_more_moves_of_the_same_price():
    cheap, dear = (_mixed(0.2, steps=4, cost=cost) for cost in (8, 40))
    few, many = (moves_of_a_draw(mixed, *proportions(mixed)) for mixed in (cheap, dear))
    assert 2 <= few < many


def test_two_long_trajectories_are_not_multiplied_further():
    mixed = _mixed(0.05, steps=100, cost=5000)
    assert moves_of_a_draw(mixed, *proportions(mixed)) == 2
