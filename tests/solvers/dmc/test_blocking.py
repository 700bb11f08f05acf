"""Error bars of correlated series: they cover what they promise, and say when they cannot."""

import numpy as np
import pytest
from scipy.signal import lfilter

from qdesampler.solvers.dmc.blocking import blocking, fit_polynomial, ratio


def memory(rng, size, decay, repeats=1):
    """Autoregressive series of mean 0, shape `(repeats, size)`; the variance of its mean is 1/(1-a)^2 / n."""
    noise = rng.normal(size=(repeats, size + 500))
    return lfilter([1], [1, -decay], noise, axis=1)[:, 500:]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_one_error_covers_two_thirds(decay):
    found = [blocking(x) for x in memory(np.random.default_rng(0), 8000, decay, 1000)]
    covered = np.mean([abs(b.mean) < b.error for b in found])
    assert 0.64 < covered < 0.74  # 0.683 and three standard errors, and an error a little on the safe side
    exact = 1 / (1 - decay) / np.sqrt(8000)
    assert np.mean([b.error for b in found]) == pytest.approx(1.02 * exact, rel=0.04)
    spread = np.std([b.error for b in found])
    assert np.mean([b.error_of_error for b in found]) == pytest.approx(spread, rel=0.7)
    time = (1 + decay) / (1 - decay)
    assert np.mean([b.correlation_time for b in found]) == pytest.approx(1.04 * time, rel=0.08)
    assert all(b.converged for b in found)


def test_the_naive_error_would_not_do():
    x = memory(np.random.default_rng(1), 8000, 0.9, 300)
    naive = np.abs(x.mean(1)) < x.std(1, ddof=1) / np.sqrt(x.shape[1])
    assert naive.mean() < 0.25


def test_a_series_shorter_than_its_memory_is_reported():
    series = memory(np.random.default_rng(2), 200, 0.97, 50)
    found = [blocking(x) for x in series]
    assert not any(b.converged for b in found)
    assert all(b.error >= x.std(ddof=1) / 15 for b, x in zip(found, series, strict=True))


def test_two_time_scales_are_covered():
    rng = np.random.default_rng(5)
    series = memory(rng, 3000, 0.3, 600) + 0.1 * memory(rng, 3000, 0.97, 600)
    found = [blocking(x) for x in series]
    assert np.mean([b.error for b in found]) == pytest.approx(series.mean(1).std(), rel=0.1)
    assert 0.61 < np.mean([abs(b.mean) < b.error for b in found]) < 0.75


def test_the_error_of_a_ratio_counts_what_the_weights_do():
    rng = np.random.default_rng(3)
    values = memory(rng, 4000, 0.5, 400) + 2.0
    weights = np.exp(0.3 * memory(rng, 4000, 0.5, 400))
    found = [ratio(w, v) for w, v in zip(weights, values, strict=True)]
    means = np.array([b.mean for b in found])
    assert np.mean([b.error for b in found]) == pytest.approx(means.std(), rel=0.12)
    assert np.mean(means) == pytest.approx(2.0, abs=4 * means.std() / 20)


def test_a_constant_series_has_no_error():
    found = blocking(np.full(100, 0.1))
    assert found.error < 1e-16
    assert found.correlation_time == 1
    assert found.converged


def test_a_line_and_a_bend_through_points_with_errors():
    rng = np.random.default_rng(4)
    x, errors = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.02, 0.01, 0.01, 0.02])
    fits = [fit_polynomial(x, 1 + 2 * x + errors * rng.normal(size=4), errors, (0, 1)) for _ in range(2000)]
    estimates = np.array([f.coefficients for f in fits])
    np.testing.assert_allclose(np.cov(estimates.T), fits[0].covariance, rtol=0.15)
    np.testing.assert_allclose(estimates.mean(0), [1, 2], atol=4 * estimates.std(0).max() / np.sqrt(2000))
    assert np.mean([f.p_value < 0.1 for f in fits]) == pytest.approx(0.1, abs=0.03)
    bend = 1 + 2 * x - 3 * x**1.5
    assert fit_polynomial(x, bend, errors / 20, (0, 1)).p_value < 0.01
    exact = fit_polynomial(x, bend, errors, (0, 1, 1.5))
    np.testing.assert_allclose(exact.coefficients, [1, 2, -3], rtol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: blocking(np.zeros((4, 4))), "at least 8 values"),
        (lambda: blocking(np.zeros(7)), "at least 8 values"),
        (lambda: blocking(np.r_[np.zeros(9), np.nan]), "1 of 10 values are not finite"),
        (lambda: fit_polynomial(np.ones(1), np.ones(1), np.ones(1), (0, 1)), "2 coefficients"),
        (lambda: fit_polynomial(np.ones(3), np.ones(3), np.zeros(3), (0, 1)), "must be positive"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
