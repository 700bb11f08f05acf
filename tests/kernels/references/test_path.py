"""Paths: where they begin and end, and what a coefficient of zero does."""

import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.references.path import DiffusionPath, GeometricPath, combine, path_named, work


@pytest.mark.parametrize("path", [GeometricPath(), DiffusionPath(4.0)], ids=["geometric", "diffusion"])
def test_a_path_leads_from_the_reference_to_the_target(path):
    coefficients = path.coefficients(np.linspace(0, 1, 101))
    np.testing.assert_allclose(coefficients[[0, -1]], [[1, 0], [0, 1]])
    assert np.all(np.diff(coefficients[:, 0]) <= 0)
    assert np.all(np.diff(coefficients[:, 1]) >= 0)


def test_lowering_d_passes_through_the_heated_target():
    path = DiffusionPath(start=8.0, reference_fraction=0.4)
    np.testing.assert_allclose(path.coefficients(np.array(0.4)), [0, 1 / 8])
    np.testing.assert_allclose(path.coefficients(np.array(0.7)), [0, 8**-0.5])
    for bad in ({"start": 1.0}, {"reference_fraction": 1.0}):
        with pytest.raises(ValueError, match="expected"):
            DiffusionPath(**bad)


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
def test_a_coefficient_of_zero_removes_an_infinite_term(xp):
    ends = xp.asarray([[1.0, 0.0], [0.0, 1.0]])
    values = combine(ends, xp.asarray([-1.0, -np.inf]), xp.asarray([-np.inf, -2.0]))
    np.testing.assert_allclose(values, [-1, -2])
    np.testing.assert_allclose(work(ends[0], ends[1], xp.asarray(-1.0), xp.asarray(-3.0)), -2)


def test_names_of_paths():
    assert path_named("geometric") == GeometricPath()
    with pytest.raises(ValueError, match="expected one of"):
        path_named("quantum")
    with pytest.raises(ValueError, match="path is a float"):
        path_named(0.5)
