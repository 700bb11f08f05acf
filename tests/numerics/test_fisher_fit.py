"""Metrics of least Fisher divergence on the host: exact on Gaussians, and no more general than draws show."""

import numpy as np
import pytest

from qdesampler.numerics.fisher_fit import (
    centred_rows,
    choose_metric,
    dense_factor,
    diagonal_ratio,
    leading_directions,
)
from qdesampler.numerics.numpy_metric import HostMetric, identity, to_position_rows, whiten_rows

DIM = 5
ALL = (tuple(range(DIM)),)


def covariance_of(metric):
    factor = to_position_rows(metric, np.eye(metric.scale.size)).T
    return factor @ factor.T


def gaussian(covariance, count, seed=0):
    """Points anywhere, with the scores of N(1, covariance) there."""
    points = 3 + 2 * np.random.default_rng(seed).standard_t(5, size=(count, len(covariance)))
    return points, -np.linalg.solve(covariance, (points - 1).T).T


def logistic(factor, count, seed=0):
    """Draws and scores of `x = factor y` with independent logistic `y`: no metric is exact."""
    y = np.random.default_rng(seed).logistic(size=(count, len(factor)))
    return y @ factor.T, np.linalg.solve(factor.T, -np.tanh(y / 2).T).T


def rotated(condition, dim=DIM, seed=1):
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    return (axes * np.logspace(-0.5 * np.log10(condition), 0, dim)) @ axes.T


def choose(draws, scores, blocks=ALL, rank=DIM, previous=None, *, force=False, regularize=False):
    first = identity(draws.shape[1], rank if blocks else 0) if previous is None else previous
    return choose_metric(draws, scores, first, blocks, rank, force=force, regularize=regularize)


# --------------------------------------------------------------------------- the parts


def test_centred_rows_have_the_weighted_covariance():
    rng = np.random.default_rng(0)
    points, weights = rng.normal(size=(30, 3)) + 5, rng.uniform(0.1, 2, 30)
    rows = centred_rows(points, weights)
    np.testing.assert_allclose(rows.T @ rows, np.cov(points.T, aweights=weights, ddof=0), atol=1e-12)


def test_the_diagonal_is_exact_on_a_gaussian_and_keeps_what_does_not_vary():
    sd = np.array([1e-6, 0.3, 1.0, 1e5])
    points, scores = gaussian(np.diag(sd**2), 6)
    ratio = diagonal_ratio(*(centred_rows(part, np.ones(6)) for part in (points, scores)), 1.0)
    np.testing.assert_allclose(ratio, sd, rtol=1e-10)
    points[:, 1] = 2.0
    scores[:, 2] = 0.0
    x, a = (centred_rows(part, np.ones(6)) for part in (points, scores))
    x[:, 1] = 0  # to the last digit
    kept = diagonal_ratio(x, a, np.array([9.0, 8.0, 7.0, 6.0]))
    np.testing.assert_allclose(kept, [sd[0], 8.0, 7.0, sd[3]], rtol=1e-10)


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e10])
def test_the_factor_is_exact_on_a_gaussian_from_dim_plus_two_points(condition):
    root = rotated(condition)
    points, scores = gaussian(root @ root.T, DIM + 2)
    x, a = (centred_rows(part, np.ones(DIM + 2)) for part in (points, scores))
    factor = dense_factor(x, a, few=False, fallback=1.0)
    np.testing.assert_allclose(np.linalg.svd(np.linalg.solve(root, factor))[1], 1, atol=1e-3)
    # the wrong twin: twice the scores belong to half the covariance
    wrong = dense_factor(x, 2 * a, few=False, fallback=1.0)
    np.testing.assert_allclose(np.linalg.svd(np.linalg.solve(root, wrong))[1], 0.5**0.5, atol=1e-3)


def test_a_floor_stands_for_what_few_points_do_not_show():
    """Three points span two directions: without the floor the others would have no width at all."""
    points, scores = gaussian(np.eye(DIM), 3)
    x, a = (centred_rows(part, np.ones(3)) for part in (points, scores))
    levels = {}
    for few in (False, True):
        levels[few] = np.linalg.svd(dense_factor(x, a, few=few, fallback=1.0))[1]
        assert np.all(np.isfinite(levels[few]))
        assert np.all(levels[few] > 0)
    np.testing.assert_allclose(levels[True][:2], 1, atol=0.3)


def test_leading_directions_are_the_singular_vectors_of_the_largest_values():
    rng = np.random.default_rng(2)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (40, 12))
    values = np.r_[np.array([50.0, 20.0]), np.full(10, 0.5)]
    rows = left[:, :12] * values @ right.T
    frame = leading_directions(1e30 * rows, 2)
    np.testing.assert_allclose(frame.T @ frame, np.eye(2), atol=1e-10)
    np.testing.assert_allclose(np.linalg.svd(frame.T @ right[:, :2])[1], 1, atol=1e-4)


# --------------------------------------------------------------------------- the gain test


def kind(metric):
    if np.any(metric.stretch != 1):
        return "correlated"
    return "identity" if np.ptp(metric.scale) == 0 else "diagonal"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (3 * np.eye(DIM), "identity"),
        (np.diag(np.geomspace(0.1, 10, DIM)), "diagonal"),
        (rotated(1e4), "correlated"),
    ],
    ids=["identity", "diagonal", "correlated"],
)
def test_the_kind_is_the_least_general_that_draws_ask_for(factor, expected, seed):
    draws, scores = logistic(factor, 300, seed)
    metric = choose(draws, scores)
    assert kind(metric) == expected
    # It whitens: a logistic variable's (var x / var score)^(1/4) is (pi^2)^(1/4).
    levels = np.sqrt(np.linalg.eigvalsh(covariance_of(metric))) / np.linalg.svd(factor)[1][::-1]
    np.testing.assert_allclose(levels, np.pi**0.5, rtol=0.25)


def test_blocks_of_the_user_are_taken_without_a_test():
    draws, scores = logistic(3 * np.eye(DIM), 300)
    assert kind(choose(draws, scores)) == "identity"
    assert kind(choose(draws, scores, force=True)) == "correlated"


def test_what_is_not_in_one_block_stays_uncorrelated():
    draws, scores = logistic(rotated(1e3, 4), 400)
    blocks = ((0, 2), (1, 3))
    metric = choose(draws, scores, blocks, 2, identity(4, 4))
    covariance = covariance_of(metric)
    np.testing.assert_allclose(covariance[np.ix_([0, 2], [1, 3])], 0, atol=1e-12)
    scale = np.sqrt(np.diag(covariance))
    assert np.max(np.abs((covariance / np.outer(scale, scale))[[0, 1], [2, 3]])) > 0.1
    assert metric.stretch.size == 4


def test_without_blocks_the_metric_is_diagonal():
    draws, scores = logistic(rotated(1e4), 300)
    metric = choose(draws, scores, (), 0)
    assert kind(metric) == "diagonal"
    assert metric.basis.shape == (DIM, 0)


def test_a_low_rank_metric_finds_the_wide_and_the_stiff_direction():
    dim, rng = 60, np.random.default_rng(3)
    axes = np.linalg.qr(rng.normal(size=(dim, 2)))[0]
    factor = np.eye(dim) + axes @ np.diag([19.0, -0.95]) @ axes.T
    draws, scores = logistic(factor, 100)
    metric = choose(draws, scores, (tuple(range(dim)),), 6, regularize=True)
    assert metric.basis.shape == (dim, 6)
    # Exact whitening gives (pi^2)^(-1/4) = .56 for both, none 20 and .05.
    spread = np.linalg.norm(whiten_rows(metric, axes.T * np.array([[20.0], [0.05]])), axis=1)
    assert np.all((spread > 0.25) & (spread < 1.2)), spread


def test_room_for_all_blocks_is_kept_whatever_is_chosen():
    draws, scores = logistic(3 * np.eye(DIM), 300)
    for rank in (DIM, DIM + 3):
        metric = choose(draws, scores, previous=identity(DIM, rank))
        assert metric.basis.shape == (DIM, rank)
        assert metric.stretch.shape == (rank,)


@pytest.mark.parametrize(
    ("draws", "scores"),
    [
        (np.ones((3, DIM)), np.ones((3, DIM))),
        (np.zeros((30, DIM)), np.zeros((30, DIM))),
    ],
    ids=["three draws", "standing still"],
)
def test_draws_that_determine_no_metric_keep_the_previous_one(draws, scores):
    previous = HostMetric(np.full(DIM, 2.5), np.zeros((DIM, DIM)), np.ones(DIM))
    metric = choose(draws, scores, previous=previous)
    for part, old in zip(metric, previous, strict=True):
        np.testing.assert_array_equal(part, old)


def test_where_no_force_acts_a_diagonal_metric_is_kept():
    draws = np.random.default_rng(4).normal(size=(30, DIM))
    previous = HostMetric(np.geomspace(1, 9, DIM), np.zeros((DIM, 0)), np.ones(0))
    metric = choose(draws, np.zeros((30, DIM)), (), 0, previous)
    np.testing.assert_array_equal(metric.scale, previous.scale)


@pytest.mark.parametrize("blocks", [((0, 1, 2),), ((0, 1), (2,))])
def test_a_coordinate_without_force_keeps_its_scale_beside_a_correlated_pair(blocks):
    factor = np.array([[1.0, 0, 0], [0.9, 0.3, 0], [0, 0, 1]])
    draws, scores = logistic(factor, 300)
    scores[:, 2] = 0
    metric = choose(draws, scores, blocks, 3, identity(3, 3))
    assert kind(metric) == "correlated"
    covariance = covariance_of(metric)
    np.testing.assert_allclose(covariance[2], [0, 0, 1], atol=1e-12)
    assert covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]) == pytest.approx(0.95, abs=0.03)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e149, 1e300])
def test_a_score_too_large_to_be_squared_is_left_out(size):
    draws, scores = logistic(3 * np.eye(DIM), 200)
    clean = choose(draws[1:], scores[1:])
    scores[0] = size
    metric = choose(draws, scores)
    assert all(np.all(np.isfinite(part)) for part in metric)
    assert np.all(metric.scale > 0)
    if size > 1e150:
        np.testing.assert_allclose(metric.scale, clean.scale)
