"""Fitted Gaussians, mixtures and products: close to the draws' law, and narrow where these are narrow."""

import numpy as np
import pytest

from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.mixture_fit import fit_by_scores, fit_mixture, fit_product


def rng(seed):
    return np.random.default_rng(seed)


def test_a_mixture_finds_two_clusters_and_their_shares():
    points = np.concatenate([0.5 * rng(3).normal(size=(300, 2)) + 3, rng(4).normal(size=(100, 2)) - 3])
    mixture = fit_mixture(rng(5), points, 2)
    order = np.argsort(mixture.means[:, 0])
    np.testing.assert_allclose(np.exp(mixture.log_weights[order]), [0.25, 0.75], atol=0.02)
    np.testing.assert_allclose(mixture.means[order], [[-3, -3], [3, 3]], atol=0.4)
    # The truth has -1.64 nats a draw of entropy less than one Gaussian has.
    one = fit_mixture(rng(5), points, 1)
    gain = np.mean(references.log_density(mixture, points) - references.log_density(one, points))
    assert gain > 1


def test_scores_alone_fix_a_gaussian_from_few_draws():
    covariance = np.array([[4.0, 1.5], [1.5, 1.0]])
    draws = rng(0).multivariate_normal([3, -1], covariance, size=8)
    found = fit_by_scores(draws, -np.linalg.solve(covariance, (draws - [3, -1]).T).T)
    np.testing.assert_allclose(found.means[0], [3, -1], atol=1e-6)
    precision = found.whiteners[0].T @ found.whiteners[0]
    np.testing.assert_allclose(np.linalg.inv(precision), covariance, rtol=1e-6)
    assert fit_by_scores(draws, np.full_like(draws, np.nan)) is None


def test_a_product_holds_every_combination_of_modes():
    signs = rng(6).choice([-1.0, 1.0], (600, 3), p=[0.3, 0.7])
    points = 2 * signs + 0.3 * rng(7).normal(size=signs.shape)
    reference = references.of_law(fit_product(rng(0), points), 3)
    draws = references.draws(reference, rng(1), 4000)
    octants = (draws > 0) @ np.array([1, 2, 4])
    expected = np.prod(np.where(np.array([[i >> k & 1 for k in range(3)] for i in range(8)]), 0.7, 0.3), 1)
    np.testing.assert_allclose(np.bincount(octants, minlength=8) / 4000, expected, atol=0.06)


@pytest.mark.parametrize("dim", [6, references.DENSE_DIMENSIONS + 1])
def test_narrow_clusters_stay_narrow_beside_wide_ones(dim):
    narrow, wide = 0.02 * rng(8).normal(size=(200, dim)), 5 + rng(9).normal(size=(200, dim))
    mixture = fit_mixture(rng(0), np.concatenate([narrow, wide]), 4)
    at = references.log_density(mixture, np.full((1, dim), 0.01))[0]
    truth = np.log(0.5) - dim * np.log(0.02 * np.sqrt(2 * np.pi)) - 0.5 * dim * 0.25
    assert abs(at - truth) < 0.4 * dim
