"""The Gaussian trial and its certificate: normalised, drawn as it says, its time that of a real chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from qdesampler.numerics.importance_weights import independence_time, tempered_weights
from qdesampler.numerics.metric import Metric, dense_matrix, identity_metric, to_position
from qdesampler.numerics.random_variates import signed_noise
from qdesampler.numerics.trial import (
    draw_trial,
    gaussian_trial,
    log_trial,
    log_whitened,
    noise_size,
    tail_degrees,
    whitened_candidate,
)


def skewed_trial(defensive_weight=0.1):
    angle = 0.6
    basis = jnp.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    metric = Metric(jnp.array([0.7, 1.5]), basis, jnp.array([1.6, 0.5]))
    return gaussian_trial(jnp.array([0.5, -1.0]), metric)._replace(
        shift=jnp.array([0.2, 0.0]),
        width=jnp.array([1.3, 1.0]),
        skew=jnp.array([0.4, -0.2]),
        defensive_weight=jnp.asarray(defensive_weight),
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("defensive_weight", [0.0, 0.1, 0.5])
def test_the_density_integrates_to_one(defensive_weight):
    trial = skewed_trial(defensive_weight)
    # x = t / (1 - t^2) covers the plane, far tails included.
    t = jnp.linspace(-1, 1, 801)[1:-1]
    axis, stretch = 6 * t / (1 - t**2), 6 * (1 + t**2) / (1 - t**2) ** 2
    grid = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    area = (stretch[:, None] * stretch).reshape(-1) * (t[1] - t[0]) ** 2
    density = jnp.exp(jax.lax.map(lambda x: log_trial(trial, x), grid, batch_size=4096))
    assert float(jnp.sum(density * area)) == pytest.approx(1, abs=2e-3)


@pytest.mark.usefixtures("x64")
def test_draws_follow_the_log_density():
    # In one dimension against the integral of the density: Kolmogorov-Smirnov, level 1e-4.
    wide = gaussian_trial(jnp.array([1.0]), identity_metric(1, 0, 2.0))
    trial = wide._replace(skew=jnp.array([0.5]), width=jnp.array([0.8]), defensive_weight=jnp.asarray(0.2))
    axis = jnp.linspace(-200, 200, 200_001)
    density = np.exp(jax.vmap(lambda x: log_trial(trial, x[None]))(axis))
    cumulative = np.cumsum(density) * float(axis[1] - axis[0])
    draws = jax.vmap(lambda k: draw_trial(k, trial))(jax.random.split(jax.random.key(0), 20_000))[:, 0]
    p_value = stats.kstest(draws, lambda x: np.interp(x, axis, cumulative)).pvalue
    assert p_value > 1e-4
    # the wrong twin: draws of a trial without its skew
    plain = trial._replace(skew=jnp.zeros(1))
    draws = jax.vmap(lambda k: draw_trial(k, plain))(jax.random.split(jax.random.key(0), 20_000))[:, 0]
    assert stats.kstest(draws, lambda x: np.interp(x, axis, cumulative)).pvalue < 1e-6


def test_draws_have_the_covariance_of_a_student_vector():
    trial = skewed_trial(0.0)._replace(shift=jnp.zeros(2), width=jnp.ones(2), skew=jnp.zeros(2))
    draws = jax.vmap(lambda k: draw_trial(k, trial))(jax.random.split(jax.random.key(1), 40_000))
    degrees = tail_degrees(2)
    exact = np.asarray(dense_matrix(trial.metric)) * degrees / (degrees - 2)
    errors = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) * 1.1 / 40_000)
    assert np.all(np.abs(np.cov(draws.T) - exact) < 4.5 * errors)
    assert np.all(np.abs(draws.mean(0) - trial.centre) < 4.5 * np.sqrt(np.diag(exact) / 40_000))


@pytest.mark.usefixtures("x64")
def test_the_density_in_one_dimension_integrates_to_one_and_a_wrong_twin_does_not():
    wide = gaussian_trial(jnp.array([1.0]), identity_metric(1, 0, 2.0))
    trial = wide._replace(skew=jnp.array([0.5]), width=jnp.array([0.8]), defensive_weight=jnp.asarray(0.2))
    t = np.linspace(-1, 1, 4001)[1:-1]
    axis, stretch = 6 * t / (1 - t**2), 6 * (1 + t**2) / (1 - t**2) ** 2
    log_density = np.asarray(jax.vmap(lambda x: log_trial(trial, x[None]))(jnp.asarray(axis)))
    assert np.sum(np.exp(log_density) * stretch) * (t[1] - t[0]) == pytest.approx(1, abs=1e-6)
    # the wrong twin: the density of the whitened coordinate, which forgets the volume
    whitened = np.asarray(jax.vmap(lambda x: log_whitened(trial, (x[None] - 1) / 2))(jnp.asarray(axis)))
    assert np.sum(np.exp(whitened) * stretch) * (t[1] - t[0]) == pytest.approx(2, abs=1e-6)


@pytest.mark.usefixtures("x64")
def test_a_candidate_knows_its_own_density():
    trial = skewed_trial()
    noise = jax.vmap(lambda key: signed_noise(key, noise_size(2)))(jax.random.split(jax.random.key(6), 200))
    y, log_density = jax.vmap(lambda row: whitened_candidate(row, trial))(noise)
    np.testing.assert_allclose(log_density, jax.vmap(lambda row: log_whitened(trial, row))(y), atol=1e-9)
    volume = jnp.sum(jnp.log(trial.metric.scale)) + jnp.sum(jnp.log(trial.metric.stretch))
    x = jax.vmap(lambda row: trial.centre + to_position(trial.metric, row))(y)
    right = jax.vmap(lambda row: log_trial(trial, row))(x)
    np.testing.assert_allclose(log_density - volume, right, atol=1e-9)
    assert np.ptp(np.asarray(right)) > 3


@pytest.mark.parametrize("dim", [1, 15, 16, 100, 101])
def test_tails_are_of_even_degrees_and_grow_with_the_dimension(dim):
    degrees = tail_degrees(dim)
    assert degrees % 2 == 0
    assert degrees >= max(30, 2 * dim)
    assert degrees <= max(30, 2 * dim + 1)


def test_an_exact_gaussian_is_accepted_in_many_dimensions():
    """With 30 degrees of freedom it would be .53 of the candidates in 100 dimensions."""
    dim, rng = 100, np.random.default_rng(7)
    trial = gaussian_trial(jnp.zeros(dim), identity_metric(dim, 0))
    keys = jax.random.split(jax.random.key(8), 2000)
    proposed = jax.jit(jax.vmap(lambda key: draw_trial(key, trial)))(keys)
    exact = jnp.asarray(rng.normal(size=(2000, dim)))
    weights = [
        np.asarray(jax.vmap(lambda x: -0.5 * x @ x - log_trial(trial, x))(points))
        for points in (exact, proposed)
    ]
    accepted = np.exp(np.minimum(weights[1] - weights[0], 0))
    assert accepted.mean() > 0.7
    assert accepted.mean() < 0.9  # tails cost something


@pytest.mark.usefixtures("x64")
def test_far_out_the_defensive_component_holds_the_tail_up():
    x = jnp.array([300.0, 0.0])
    defended, without = log_trial(skewed_trial(0.1), x), log_trial(skewed_trial(0.0), x)
    assert float(defended - without) > 20
    near = jnp.array([0.5, -1.0])
    assert abs(float(log_trial(skewed_trial(0.1), near) - log_trial(skewed_trial(0.0), near))) < 0.2


def run_independence(key, log_p, trial, steps):
    """An actual independence Metropolis chain; returns its states."""

    def move(carry, key):
        x, weight = carry
        key_draw, key_accept = jax.random.split(key)
        y = draw_trial(key_draw, trial)
        new = log_p(y) - log_trial(trial, y)
        accepted = jnp.log(jax.random.uniform(key_accept)) < new - weight
        carry = jnp.where(accepted, y, x), jnp.where(accepted, new, weight)
        return carry, carry[0]

    start = trial.centre
    begin = (start, log_p(start) - log_trial(trial, start))
    return jax.jit(lambda keys: jax.lax.scan(move, begin, keys)[1])(jax.random.split(key, steps))


def autocorrelation_time(series, lags=60):
    centred = series - series.mean()
    variance = np.mean(centred**2)
    return 1 + 2 * sum(np.mean(centred[k:] * centred[:-k]) / variance for k in range(1, lags))


@pytest.mark.parametrize(("width", "offset"), [(1.0, 0.0), (1.0, 0.4), (1.4, 0.0), (1.3, 0.5)])
def test_the_time_is_that_of_an_actual_chain(width, offset):
    trial = gaussian_trial(jnp.zeros(2), identity_metric(2, 0, width))._replace(
        defensive_weight=jnp.asarray(0.1)
    )

    def log_p(x):
        return -0.5 * jnp.sum((x - offset) ** 2)

    draws = jax.vmap(lambda k: draw_trial(k, trial))(jax.random.split(jax.random.key(2), 1500))
    log_weights = jax.vmap(lambda x: log_p(x) - log_trial(trial, x))(draws)
    time, acceptance = independence_time(log_weights, jnp.ones(1500, bool))
    chain = np.asarray(run_independence(jax.random.key(3), log_p, trial, 40_000))
    moved = np.mean(np.any(chain[1:] != chain[:-1], axis=1))
    assert float(acceptance) == pytest.approx(moved, abs=0.03)
    measured = max(autocorrelation_time(f) for f in (chain[:, 0], chain[:, 1], np.sum(chain**2, 1)))
    # It is the time of a function that knows nothing of the weights; one that grows with them waits longer.
    assert 0.95 <= measured < (1.15 if offset == 0 else 2) * float(time)
    assert float(time) < 2 * measured
    # the wrong twin: weights forgotten, every proposal would be accepted and the time be 1
    assert float(independence_time(jnp.zeros(1500), jnp.ones(1500, bool))[0]) == pytest.approx(1, abs=1e-4)


def test_proposals_without_density_are_rejections():
    weights = jnp.array([0.0, -jnp.inf, 0.0, -jnp.inf])
    time, acceptance = independence_time(weights, jnp.ones(4, bool))
    assert float(acceptance) == pytest.approx(0.5)
    assert float(time) == pytest.approx(3)
    time, acceptance = independence_time(jnp.full(4, -jnp.inf), jnp.ones(4, bool))
    assert (float(time), float(acceptance)) == (np.inf, 0.0)


values = st.lists(st.floats(-200, 200, width=32), min_size=4, max_size=40)


@settings(max_examples=25, deadline=None)
@given(numbers=values, fraction=st.floats(0.1, 0.9), shift=st.floats(-500, 500))
def test_laws_of_tempered_weights(numbers, fraction, shift):
    lw = jnp.pad(
        jnp.asarray(numbers), (0, 40 - len(numbers)), constant_values=jnp.nan
    )  # one shape, compiled once
    valid = jnp.arange(40) < len(numbers)
    target = jnp.asarray(fraction * len(numbers))
    weights = np.asarray(jax.jit(tempered_weights)(lw, valid, target))
    assert np.all(weights >= 0)
    assert np.all(weights[len(numbers) :] == 0)
    assert weights.sum() == pytest.approx(len(numbers), rel=1e-4)
    assert weights.sum() ** 2 / (weights**2).sum() >= float(target) * (1 - 1e-3)
    # a higher log weight has no smaller weight, and a constant changes nothing
    order = np.argsort(np.asarray(lw[: len(numbers)]))
    assert np.all(np.diff(weights[: len(numbers)][order]) >= -1e-6)
    moved = np.asarray(jax.jit(tempered_weights)(lw + shift, valid, target))
    np.testing.assert_allclose(moved, weights, rtol=0.05, atol=0.02)


def test_weights_are_full_where_they_can_be_and_equal_where_they_must():
    valid = jnp.ones(4, bool)
    lw = jnp.log(jnp.array([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_allclose(
        tempered_weights(lw, valid, jnp.asarray(2.0)), jnp.array([0.4, 0.8, 1.2, 1.6]), rtol=1e-5
    )
    np.testing.assert_allclose(tempered_weights(lw, valid, jnp.asarray(4.0)), 1, atol=2e-3)
    some = tempered_weights(lw.at[1].set(jnp.nan).at[2].set(jnp.inf), valid, jnp.asarray(1.0))
    np.testing.assert_allclose(some, jnp.array([0.4, 0, 0, 1.6]), rtol=1e-5)
