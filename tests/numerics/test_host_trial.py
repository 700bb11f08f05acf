"""The trial on the host: the same law as its twin of JAX, and the fit of its skew and widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qdesampler.numerics.host_trial import HostTrial, draw_rows, fit_skew, host_trial, log_trial_rows
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.numpy_metric import HostMetric, identity, to_position_rows
from qdesampler.numerics.trial import Trial, draw_trial, log_trial, tail_degrees

ANGLE = 0.6
METRIC = HostMetric(
    np.array([0.7, 1.5]),
    np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]]),
    np.array([1.6, 0.5]),
)
CENTRE = np.array([0.5, -1.0])
PLAIN = host_trial(CENTRE, METRIC)
SKEWED = HostTrial(
    CENTRE, METRIC, np.array([0.2, 0.0]), np.array([1.3, 1.0]), np.array([0.4, -0.2]), defensive_weight=0.1
)
TRIALS = {"plain": PLAIN, "skewed": SKEWED, "defensive": PLAIN._replace(defensive_weight=0.3)}


def on_device(trial):
    parts = (jnp.asarray(part) for part in trial[2:])
    return Trial(jnp.asarray(trial.centre), Metric(*map(jnp.asarray, trial.metric)), *parts)


# --------------------------------------------------------------------------- one law in two languages


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", TRIALS)
def test_the_log_density_is_that_of_the_twin(name):
    trial = TRIALS[name]
    points = CENTRE + np.random.default_rng(0).normal(size=(50, 2)) * np.geomspace(0.1, 300, 50)[:, None]
    twin = jax.vmap(lambda x: log_trial(on_device(trial), x))(jnp.asarray(points))
    found = log_trial_rows(trial, points)
    assert found.shape == (50,)
    np.testing.assert_allclose(found, twin, rtol=1e-10, atol=1e-9)
    # the wrong twin: without its skew, width and tails it is another density
    other = log_trial_rows(trial._replace(width=1.1 * trial.width), points)
    assert np.max(np.abs(other - twin)) > 0.1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", TRIALS)
def test_draws_follow_the_law_of_the_twin(name):
    """Two-sample Kolmogorov-Smirnov of coordinates, a mixture of them and the density, level 1e-3."""
    trial, count = TRIALS[name], 8000
    device = on_device(trial)
    keys = jax.random.split(jax.random.key(1), count)
    theirs = np.asarray(jax.jit(jax.vmap(lambda key: draw_trial(key, device)))(keys))
    mine = draw_rows(trial, np.random.default_rng(2), count)
    assert mine.shape == (count, 2)
    wrong = draw_rows(trial._replace(skew=trial.skew + 0.15), np.random.default_rng(2), count)

    def functionals(x):
        return [*x.T, x[:, 0] + x[:, 1], log_trial_rows(trial, x)]

    def smallest_p(draws):
        pairs = zip(functionals(draws), functionals(theirs), strict=True)
        return 4 * min(stats.ks_2samp(a, b).pvalue for a, b in pairs)

    assert smallest_p(mine) > 1e-3
    assert smallest_p(wrong) < 1e-6


def test_the_density_in_one_dimension_integrates_to_one_and_is_that_of_the_draws():
    metric = HostMetric(np.array([2.0]), np.zeros((1, 0)), np.ones(0))
    trial = HostTrial(np.ones(1), metric, np.array([-0.3]), np.array([0.8]), np.array([0.5]), 0.2)
    t = np.linspace(-1, 1, 40_001)[1:-1]
    axis, stretch = 6 * t / (1 - t**2), 6 * (1 + t**2) / (1 - t**2) ** 2
    mass = np.exp(log_trial_rows(trial, axis[:, None])) * stretch * (t[1] - t[0])
    assert np.sum(mass) == pytest.approx(1, abs=1e-8)
    draws = draw_rows(trial, np.random.default_rng(3), 20_000)[:, 0]
    assert stats.kstest(draws, lambda x: np.interp(x, axis, np.cumsum(mass))).pvalue > 1e-3


def test_plain_draws_have_the_moments_of_a_student_vector():
    """Mean and covariance within 4.5 standard errors."""
    count, degrees = 40_000, tail_degrees(2)
    draws = draw_rows(PLAIN, np.random.default_rng(4), count)
    factor = to_position_rows(METRIC, np.eye(2)).T
    exact = factor @ factor.T * degrees / (degrees - 2)
    assert np.all(np.abs(draws.mean(0) - CENTRE) < 4.5 * np.sqrt(np.diag(exact) / count))
    errors = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) * 1.1 / count)
    assert np.all(np.abs(np.cov(draws.T) - exact) < 4.5 * errors)


def test_the_same_generator_gives_the_same_draws():
    one, two = (draw_rows(SKEWED, np.random.default_rng(5), 7) for _ in range(2))
    np.testing.assert_array_equal(one, two)


# --------------------------------------------------------------------------- the fit


def moments_of(trial, coordinate):
    """Mean, variance and skewness of a whitened coordinate for Gaussian noise, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    share = weights / weights.sum()
    y = trial.shift[coordinate] + trial.width[coordinate] * np.sinh(
        np.arcsinh(nodes) + trial.skew[coordinate]
    )
    mean = share @ y
    variance = share @ (y - mean) ** 2
    return mean, variance, share @ (y - mean) ** 3 / variance**1.5


BLANK = host_trial(np.zeros(2), identity(2, 0))


def test_the_fit_leaves_a_gaussian_alone():
    normal = np.random.default_rng(6).normal(size=(4000, 2))
    fitted = fit_skew(BLANK, normal, np.ones(4000))
    for part, blank in zip(fitted[2:5], BLANK[2:5], strict=True):
        np.testing.assert_array_equal(part, blank)


def test_the_fit_has_the_moments_of_skewed_draws_and_finds_the_skew():
    draws = np.random.default_rng(7).normal(size=(4000, 2))
    draws[:, 1] = 0.2 + 0.8 * np.sinh(np.arcsinh(draws[:, 1]) + 0.5)
    fitted = fit_skew(BLANK, draws, np.ones(4000))
    assert fitted.skew[0] == 0
    assert fitted.skew[1] == pytest.approx(0.5, abs=0.1)
    assert fitted.width[1] == pytest.approx(0.8, abs=0.1)
    assert fitted.shift[1] == pytest.approx(0.2, abs=0.1)
    mean, variance, skewness = moments_of(fitted, 1)
    assert mean == pytest.approx(np.mean(draws[:, 1]), abs=1e-4)
    assert variance == pytest.approx(np.var(draws[:, 1]), rel=1e-4)
    assert skewness == pytest.approx(stats.skew(draws[:, 1]), abs=1e-4)


def test_the_fit_sees_draws_in_the_coordinates_of_the_trial():
    y = np.random.default_rng(8).normal(size=(4000, 2))
    y[:, 0] = np.sinh(np.arcsinh(y[:, 0]) - 0.6)
    fitted = fit_skew(PLAIN, CENTRE + to_position_rows(METRIC, y), np.ones(4000))
    direct = fit_skew(BLANK, y, np.ones(4000))
    np.testing.assert_allclose(fitted.skew, direct.skew, atol=1e-6)
    np.testing.assert_allclose(fitted.width, direct.width, atol=1e-6)
    assert fitted.skew[0] < -0.5


def test_wide_draws_widen_the_trial_and_narrow_ones_do_not_narrow_it():
    draws = np.random.default_rng(9).normal(size=(4000, 2)) * np.array([1.4, 0.6])
    fitted = fit_skew(BLANK, draws, np.ones(4000))
    np.testing.assert_array_equal(fitted.skew, 0)
    assert fitted.width[0] == pytest.approx(1.4, rel=0.05)
    assert fitted.width[1] == 1


def test_weights_count_like_repeated_draws_and_few_effective_ones_show_nothing():
    draws = np.random.default_rng(10).normal(size=(400, 2))
    draws[:, 0] = np.sinh(np.arcsinh(draws[:, 0]) + 0.8)
    weights = np.random.default_rng(11).integers(1, 4, 400).astype(float)
    weighted = fit_skew(BLANK, draws, weights)
    repeated = fit_skew(BLANK, np.repeat(draws, weights.astype(int), 0), np.ones(int(weights.sum())))
    np.testing.assert_allclose(weighted.skew[0], repeated.skew[0], atol=1e-6)
    assert weighted.skew[0] > 0.3
    weights = np.where(np.arange(400) < 5, 1.0, 1e-9)
    np.testing.assert_array_equal(fit_skew(BLANK, draws, weights).skew, 0)


def test_draws_that_all_agree_or_are_extreme_leave_a_usable_trial():
    for draws in (np.zeros((100, 2)), np.random.default_rng(12).exponential(size=(3000, 2)) ** 6):
        fitted = fit_skew(BLANK, draws, np.ones(len(draws)))
        assert all(np.all(np.isfinite(part)) for part in fitted[2:5])
        assert np.all((fitted.width >= 0.3) & (fitted.width <= 5))
        assert np.all(np.abs(fitted.skew) <= 1.5)
