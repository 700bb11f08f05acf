"""The trial on the host: the same law as its twin of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qdesampler.numerics.host_trial import HostTrial, draw_rows, host_trial, log_trial_rows
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.numpy_metric import HostMetric, to_position_rows
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
