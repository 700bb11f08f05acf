"""Evaluations until second moments are known."""

import math

import numpy as np
import pytest

from qdesampler.bench.harness.second_moments import b2_evaluations, settled_after


@pytest.mark.parametrize(
    ("b2", "bill"),
    [
        ([0.5, 0.02, 0.009, 0.001], 30.0),
        ([0.5, 0.001, 0.02, 0.001], 40.0),  # below in between does not count
        ([0.001, 0.001, 0.001, 0.001], 10.0),
        ([0.5, 0.001, 0.001, 0.01], math.inf),
        ([0.5, 0.001, 0.001, math.nan], math.inf),
    ],
)
def test_it_has_to_stay_below(b2, bill):
    assert settled_after(np.array(b2), np.array([10, 20, 30, 40])) == bill


def test_independent_draws_need_about_a_hundred_and_their_price():
    """For x^2 of a normal b^2(t) is about chi^2_1 / t: below 0.01 for good from t of a few hundred on."""
    values = np.random.default_rng(0).standard_normal((40, 4000, 2))
    ones = np.ones((40, 4000), int)
    mean, worst = b2_evaluations(values, ones, np.ones(2), np.full(2, math.sqrt(2)))
    assert 50 < mean < 400
    assert mean < worst < 800
    assert b2_evaluations(values, 7 * ones, np.ones(2), np.full(2, math.sqrt(2))) == (7 * mean, 7 * worst)


def test_a_bias_is_never_settled_for_the_worst_scalar():
    values = np.random.default_rng(0).standard_normal((4, 5000, 60))
    values[..., 0] *= 1.1
    mean, worst = b2_evaluations(values, np.ones((4, 5000), int), np.ones(60), np.full(60, math.sqrt(2)))
    assert worst == math.inf
    assert mean < 500


def test_one_chain_of_two_that_never_settles_is_not_averaged_away():
    values = np.random.default_rng(0).standard_normal((2, 3000, 1))
    values[1] *= 3
    mean, _ = b2_evaluations(values, np.ones((2, 3000), int), np.ones(1), np.full(1, math.sqrt(2)))
    assert mean == math.inf


def test_shapes_have_to_fit():
    with pytest.raises(ValueError, match="do not fit"):
        b2_evaluations(np.zeros((2, 5, 3)), np.ones((2, 4), int), np.ones(3), np.ones(3))
