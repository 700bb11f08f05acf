"""Tails that a good trial has not: far points of a Gaussian and of a density with exponential tails."""

import numpy as np
import pytest

from qdesampler.numerics.host_trial import host_trial
from qdesampler.numerics.numpy_metric import identity
from qdesampler.solvers.gaussian.tails import far_log_weights

pytestmark = pytest.mark.law

FACTOR = np.array([[2.0, 0.0, 0.0], [1.5, 0.5, 0.0], [0.0, -3.0, 1.0]])


def trial():
    metric = identity(3, 3)
    left, singular, _ = np.linalg.svd(FACTOR)
    return host_trial(np.array([1.0, -2.0, 0.5]), metric._replace(basis=left, stretch=singular), 0.02)


def log_density(points, power):
    """`-|y|^power / power` of each whitened coordinate."""
    y = (points - trial().centre) @ np.linalg.inv(FACTOR).T
    return -np.sum(np.abs(y) ** power, 1) / power, np.zeros_like(points)


def test_far_points_of_a_gaussian_are_below_its_centre():
    """The candidates have Student-t tails, so that `p / q` falls outwards."""
    found = far_log_weights(lambda points: log_density(points, 2), trial(), np.float64)
    centre = log_density(trial().centre[None], 2)[0]
    assert found.shape == (6,)
    reference = far_log_weights(lambda points: (np.zeros(len(points)), np.zeros_like(points)), trial(), float)
    assert np.all(found - reference == pytest.approx(-8.0, abs=1e-9))  # four standard deviations out
    assert np.all(found < centre + 3)


def test_exponential_tails_are_seen():
    light, heavy = (
        far_log_weights(lambda points, power=power: log_density(points, power), trial(), np.float64)
        for power in (2, 1)
    )
    assert np.max(heavy) > np.max(light) + 2


def test_no_density_is_minus_infinity_and_many_coordinates_are_a_sample():
    dim = 100
    wide = host_trial(np.zeros(dim), identity(dim, 0), 0.02)

    def half(points):
        return np.where(points[:, 0] < 0, np.nan, 0.0), np.zeros_like(points)

    found = far_log_weights(half, wide, np.float32)
    assert found.shape == (64,)
    assert np.isneginf(found[32])
    assert np.count_nonzero(np.isfinite(found)) == 63
