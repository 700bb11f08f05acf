"""Errors against a reference, of chains and of weighted draws."""

import numpy as np
import pytest

from qdesampler.bench.harness.accuracy import accuracy
from qdesampler.bench.targets.closed_form import gaussian_moments

REFERENCE = {
    "source": "closed form",
    "parameters": {"x[1]": gaussian_moments(1.0), "x[2]": gaussian_moments(2.0)},
}


def chains(size=20_000):
    return np.random.default_rng(0).standard_normal((4, size, 2)) * np.array([1.0, 2.0])


def test_exact_draws():
    found = accuracy({"x": chains()}, REFERENCE)
    assert found.error_se < 4
    assert found.error_sd < 0.02
    assert found.sd_error < 0.01


def test_wrong_draws():
    draws = chains()
    draws[..., 0] += 0.1
    draws[..., 1] *= 1.2
    found = accuracy({"x": draws}, REFERENCE)
    assert found.error_se > 10
    # x^2 of the second scalar: mean 5.76 for 4, in units of sqrt(2) 4
    assert found.error_sd == pytest.approx(1.76 / (4 * 2**0.5), rel=0.05)
    assert found.sd_error == pytest.approx(0.2, rel=0.05)


def test_importance_weights_correct_a_wide_proposal():
    draws = 1.5 * chains()
    scaled = draws / np.array([1.0, 2.0])
    log_ratio = -0.5 * (scaled**2).sum(axis=-1) * (1 - 1 / 1.5**2)
    log_weights = log_ratio - np.logaddexp.reduce(log_ratio, axis=None)
    found = accuracy({"x": draws}, REFERENCE, log_weights)
    assert found.error_se < 4
    assert found.sd_error < 0.02
    equal = np.full(log_weights.shape, -np.log(log_weights.size))
    unweighted = accuracy({"x": draws}, REFERENCE, equal)
    assert unweighted.error_se > 20
    assert unweighted.sd_error == pytest.approx(0.5, rel=0.05)


def test_equal_weights_and_independent_chains_agree():
    draws = {"x": chains(2000)}
    equal = np.full((4, 2000), -np.log(8000.0))
    plain, weighted = accuracy(draws, REFERENCE), accuracy(draws, REFERENCE, equal)
    assert weighted.error_sd == pytest.approx(plain.error_sd)
    assert weighted.error_se == pytest.approx(plain.error_se, rel=0.2)


def test_missing_parameters_are_named():
    with pytest.raises(ValueError, match=r"lack x\[2\]"):
        accuracy({"x": chains(10)[..., :1]}, REFERENCE, np.full((4, 10), -np.log(40.0)))
