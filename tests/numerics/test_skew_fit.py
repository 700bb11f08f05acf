"""The fit of skew to points and scores."""

import numpy as np
import pytest

from qdesampler.numerics.host_trial import host_trial
from qdesampler.numerics.numpy_metric import HostMetric, identity, to_position_rows
from qdesampler.numerics.skew_fit import fit_skew

BLANK = host_trial(np.zeros(2), identity(2, 0))
SHIFT, WIDTH, SKEW = np.array([0.0, 0.2]), np.array([1.0, 0.8]), np.array([0.0, 0.5])


def log_density(y):
    """Of independent coordinates `shift + width sinh(arcsinh u + skew)`, `u` standard normal."""
    t = (y - SHIFT) / WIDTH
    u = np.sinh(np.arcsinh(t) - SKEW)
    return np.sum(-0.5 * u**2 + 0.5 * np.log1p(u**2) - 0.5 * np.log1p(t**2), -1)


def scores_of(y):
    step = 1e-5 * np.eye(2)
    return np.stack([(log_density(y + row) - log_density(y - row)) / 2e-5 for row in step], -1)


def draws(count, seed=0):
    u = np.random.default_rng(seed).normal(size=(count, 2))
    return SHIFT + WIDTH * np.sinh(np.arcsinh(u) + SKEW)


def test_a_gaussian_is_left_alone():
    normal = np.random.default_rng(6).normal(size=(400, 2))
    fitted = fit_skew(BLANK, normal, -normal, np.ones(400))
    for part, blank in zip(fitted[2:5], BLANK[2:5], strict=True):
        np.testing.assert_array_equal(part, blank)


@pytest.mark.parametrize("y", [draws(60), 2 * np.random.default_rng(1).normal(size=(60, 2))])
def test_few_points_find_the_law_wherever_they_are(y):
    fitted = fit_skew(BLANK, y, scores_of(y), np.ones(len(y)))
    assert fitted.skew[0] == 0
    assert fitted.skew[1] == pytest.approx(0.5, abs=0.01)
    assert fitted.width[1] == pytest.approx(0.8, abs=0.01)
    assert fitted.shift[1] == pytest.approx(0.2, abs=0.01)


def test_noise_of_the_scores_is_no_skew():
    rng = np.random.default_rng(2)
    y = rng.normal(size=(200, 40))
    trial = host_trial(np.zeros(40), identity(40, 0))
    fitted = fit_skew(trial, y, -y + 0.5 * rng.normal(size=y.shape), np.ones(200))
    assert np.count_nonzero(fitted.skew) <= 3  # at three standard errors


def test_the_fit_sees_points_in_the_coordinates_of_the_trial():
    angle = 0.6
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    metric, centre = HostMetric(np.array([0.7, 1.5]), turn, np.array([1.6, 0.5])), np.array([0.5, -1.0])
    y = draws(100)
    factor = to_position_rows(metric, np.eye(2)).T
    scores = scores_of(y) @ np.linalg.inv(factor)
    fitted = fit_skew(host_trial(centre, metric), centre + to_position_rows(metric, y), scores, np.ones(100))
    direct = fit_skew(BLANK, y, scores_of(y), np.ones(100))
    np.testing.assert_allclose(fitted.skew, direct.skew, atol=1e-6)
    np.testing.assert_allclose(fitted.width, direct.width, atol=1e-6)


def test_wide_points_widen_the_trial_and_narrow_ones_do_not_narrow_it():
    widths = np.array([1.4, 0.6])
    y = np.random.default_rng(9).normal(size=(4000, 2)) * widths
    fitted = fit_skew(BLANK, y, -y / widths**2, np.ones(4000))
    np.testing.assert_array_equal(fitted.skew, 0)
    assert fitted.width[0] == pytest.approx(1.4, rel=0.05)
    assert fitted.width[1] == 1


def test_points_without_weight_do_not_count_and_few_effective_ones_show_nothing():
    y = draws(200)
    scores = scores_of(y)
    scores[100:] = 7.0
    weights = np.where(np.arange(200) < 100, 1.0, 0.0)
    weighted = fit_skew(BLANK, y, scores, weights)
    assert weighted.skew[1] == pytest.approx(0.5, abs=0.1)
    noisy = scores_of(y) + 0.5 * np.random.default_rng(3).normal(size=y.shape)
    few = fit_skew(BLANK, y, noisy, np.where(np.arange(200) < 5, 1.0, 1e-9))
    np.testing.assert_array_equal(few.skew, 0)


def test_points_that_all_agree_or_are_extreme_leave_a_usable_trial():
    for y in (np.zeros((100, 2)), np.random.default_rng(12).exponential(size=(3000, 2)) ** 6):
        fitted = fit_skew(BLANK, y, -np.sign(y) * y**2, np.ones(len(y)))
        assert all(np.all(np.isfinite(part)) for part in fitted[2:5])
        assert np.all((fitted.width >= 0.3) & (fitted.width <= 5))
        assert np.all(np.abs(fitted.skew) <= 1.5)
