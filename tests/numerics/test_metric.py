"""The energy-fitted metric: algebra of the factor, exactness on Gaussians, the gain it promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdesampler.numerics.metric import (
    Metric,
    dense_matrix,
    fit_metric,
    from_covariance,
    identity_metric,
    to_position,
    to_whitened_gradient,
    whiten,
)


def random_metric(seed, dim, rank):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, rank)))[0]
    return Metric(
        jnp.asarray(np.exp(rng.normal(size=dim))),
        jnp.asarray(basis),
        jnp.asarray(np.exp(rng.normal(size=rank))),
    )


def gaussian_data(seed, covariance, count):
    """Draws and scores of N(0, covariance), as many as asked."""
    rng = np.random.default_rng(seed)
    draws = rng.multivariate_normal(np.zeros(len(covariance)), covariance, size=count, method="cholesky")
    return jnp.asarray(draws), jnp.asarray(-np.linalg.solve(covariance, draws.T).T)


def fit_dense(draws, scores):
    dim = draws.shape[1]
    weights = jnp.ones(draws.shape[0], draws.dtype)
    return fit_metric(draws, scores, weights, identity_metric(dim, dim), (tuple(range(dim)),), dim)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), dim=st.integers(1, 6), rank=st.integers(0, 6))
def test_factor_inverse_and_transpose_agree(seed, dim, rank):
    metric = random_metric(seed, dim, min(rank, dim))
    x, g = (jnp.asarray(v) for v in np.random.default_rng(seed + 1).normal(size=(2, dim)))
    np.testing.assert_allclose(whiten(metric, to_position(metric, x)), x, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(
        g @ to_position(metric, x), to_whitened_gradient(metric, g) @ x, rtol=2e-3, atol=2e-3
    )


def test_dense_matrix_round_trip(x64):
    covariance = np.cov(np.random.default_rng(0).normal(size=(4, 50)))
    np.testing.assert_allclose(dense_matrix(from_covariance(covariance, 4)), covariance, rtol=1e-10)
    diagonal = np.array([4.0, 9.0])
    np.testing.assert_allclose(dense_matrix(from_covariance(diagonal, 0)), np.diag(diagonal), rtol=1e-12)


def test_exact_on_a_gaussian_from_dim_plus_two_points(x64):
    rng = np.random.default_rng(1)
    root = rng.normal(size=(6, 6))
    covariance = root @ root.T
    draws, scores = gaussian_data(2, covariance, 8)
    weights = jnp.ones(8)
    everything = (tuple(range(6)),)
    fitted = fit_metric(draws, scores, weights, identity_metric(6, 6), everything, 6, regularize=False)[2]
    np.testing.assert_allclose(dense_matrix(fitted), covariance, rtol=1e-6, atol=1e-6)
    # the wrong twin: scores of twice the size belong to another covariance
    wrong = fit_metric(draws, 2 * scores, weights, identity_metric(6, 6), everything, 6)[2]
    assert np.max(np.abs(dense_matrix(wrong) - covariance)) > 0.1


@pytest.mark.parametrize("condition", [1e4, 1e8])
def test_float32_resolves_large_condition_numbers(condition):
    """Whitened by the fit, the exact covariance is the identity to a few percent, in float32."""
    dim, rng = 20, np.random.default_rng(3)
    q = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    covariance = (q * np.logspace(-np.log10(condition), 0, dim)) @ q.T
    draws, scores = gaussian_data(4, covariance, 200)
    fitted = fit_dense(draws.astype(jnp.float32), scores.astype(jnp.float32))[2]
    exact_root = jnp.asarray(np.linalg.cholesky(covariance), jnp.float32)
    whitened = np.asarray(jax.vmap(lambda column: whiten(fitted, column), in_axes=1, out_axes=1)(exact_root))
    levels = np.linalg.eigvalsh(whitened @ whitened.T)
    assert levels.min() > 0.8
    assert levels.max() < 1.25


def test_low_rank_finds_the_wide_and_the_stiff_direction():
    dim, rng = 200, np.random.default_rng(5)
    q = np.linalg.qr(rng.normal(size=(dim, 2)))[0]
    covariance = np.eye(dim) + q @ np.diag([99.0, -0.99]) @ q.T
    draws, scores = gaussian_data(6, covariance, 150)
    previous = identity_metric(dim, 16)
    weights = jnp.ones(150)
    _, _, fitted = fit_metric(draws, scores, weights, previous, (tuple(range(dim)),), 16)
    spread = [
        float(jnp.linalg.norm(whiten(fitted, jnp.asarray(q[:, k] * s)))) for k, s in ((0, 10.0), (1, 0.1))
    ]
    # Exact whitening gives 1, none 10 and 0.1; 150 draws in 200 dimensions leave a factor 2.
    assert all(0.5 < s < 2 for s in spread), spread


def test_blocks_stay_independent():
    covariance = np.eye(4) + 0.8 * (np.ones((4, 4)) - np.eye(4))
    draws, scores = gaussian_data(8, covariance, 400)
    previous = identity_metric(4, 4)
    fitted = fit_metric(draws, scores, jnp.ones(400), previous, ((0, 2), (1, 3)), 2)[2]
    matrix = np.asarray(dense_matrix(fitted))
    assert abs(matrix[0, 2]) > 0.05
    assert abs(matrix[1, 3]) > 0.05
    np.testing.assert_allclose(matrix[np.ix_([0, 2], [1, 3])], 0, atol=1e-6)


def test_rows_of_no_weight_may_hold_anything():
    draws, scores = gaussian_data(10, np.diag([1.0, 4.0]), 50)
    poisoned = jnp.concatenate([draws, jnp.full((5, 2), jnp.nan)])
    weights = jnp.concatenate([jnp.ones(50), jnp.zeros(5)])
    previous = identity_metric(2, 2)
    args = (previous, ((0, 1),), 2)
    clean = fit_metric(draws, scores, jnp.ones(50), *args)[2]
    dirty = fit_metric(poisoned, jnp.concatenate([scores, jnp.full((5, 2), jnp.inf)]), weights, *args)[2]
    np.testing.assert_allclose(dense_matrix(dirty), dense_matrix(clean), rtol=1e-4)


def test_standing_still_keeps_the_previous_scale():
    draws = jnp.ones((30, 3))
    previous = identity_metric(3, 3, scale=2.5)
    for metric in fit_metric(draws, -draws, jnp.ones(30), previous, ((0, 1, 2),), 3):
        np.testing.assert_allclose(metric.scale, 2.5, rtol=1e-6)
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in metric)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones((2, 3)), r"shape \(2, 3\)"),
        (np.diag([1.0, -1.0]), "positive definite"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), "smallest eigenvalue"),
        (np.array([1.0, np.nan]), "finite"),
    ],
)
def test_bad_covariances_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        from_covariance(value, 2)
