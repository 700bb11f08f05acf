"""The built-in targets' closed forms against independent draws and densities."""

import jax
import numpy as np
import pytest
import scipy.stats
from numpyro.infer.util import log_density

from qdesampler.bench.targets.closed_form import TARGETS, banana, rotated_gaussian
from qdesampler.infer import compare_with_reference, validate_reference


def exact_banana(rng, size):
    x1 = 10.0 * rng.standard_normal(size)
    return {"x1": x1, "x2": 0.03 * (x1**2 - 100.0) + rng.standard_normal(size)}


def exact_rotated(rng, size, **change):
    """Draws through the model's own whitening matrix, read off its log density's Hessian."""
    precision = -np.asarray(
        jax.hessian(lambda x: log_density(rotated_gaussian(**change).model, (), {}, {"x": x})[0])(
            np.zeros(change["dim"])
        )
    )
    lower = np.linalg.cholesky(np.linalg.inv(precision))
    return {"x": rng.standard_normal((*size, change["dim"])) @ lower.T}


@pytest.mark.parametrize("name", TARGETS)
def test_references_have_the_form(name):
    case = TARGETS[name]()
    assert case.name == name
    validate_reference(case.reference)


def test_banana_moments():
    draws = exact_banana(np.random.default_rng(1), (4, 50_000))
    assert compare_with_reference(draws, banana().reference).largest_error < 4
    wrong = {**draws, "x2": 1.03 * draws["x2"]}
    assert compare_with_reference(wrong, banana().reference).largest_error > 6


def test_rotated_gaussian_moments(x64):
    draws = exact_rotated(np.random.default_rng(2), (4, 20_000), dim=6, condition=100.0)
    reference = rotated_gaussian(dim=6, condition=100.0).reference
    assert compare_with_reference(draws, reference).largest_error < 4
    other = rotated_gaussian(dim=6, condition=100.0, seed=1).reference
    assert compare_with_reference(draws, other).largest_error > 20


def test_rotated_gaussian_has_its_condition_number_and_fits_float32():
    case = rotated_gaussian(dim=30, condition=1e4)
    hessian = jax.hessian(lambda x: log_density(case.model, (), {}, {"x": x})[0])(np.zeros(30, np.float32))
    eigenvalues = np.linalg.eigvalsh(-np.asarray(hessian, np.float64))
    np.testing.assert_allclose(eigenvalues, np.geomspace(1e-2, 1e2, 30), rtol=1e-3)


def test_banana_density():
    point = {"x1": 3.0, "x2": -1.5}
    expected = scipy.stats.norm(0, 10).logpdf(3.0) + scipy.stats.norm(0.03 * (9 - 100), 1).logpdf(-1.5)
    np.testing.assert_allclose(log_density(banana().model, (), {}, point)[0], expected, rtol=1e-5)
