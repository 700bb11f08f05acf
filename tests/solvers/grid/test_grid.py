"""The midpoint grid: its sine basis is exact for sines, and refining or differentiating them is too."""

import numpy as np
import pytest

from qdesampler.solvers.grid.grid import Grid, cap_potential

GRID = Grid((-1.0, 2.0), (1.0, 5.0), (12, 9))


def _sine(grid, waves):
    parts = [
        np.sin(k * np.pi * (grid.nodes(i) - grid.lower[i]) / grid.lengths[i]) for i, k in enumerate(waves)
    ]
    return np.multiply.outer(*parts)


@pytest.mark.parametrize("waves", [(1, 1), (3, 8), (12, 9)])
def test_laplacian_of_a_sine_is_exact(waves):
    psi = _sine(GRID, waves)
    eigenvalue = np.sum((np.array(waves) * np.pi / GRID.lengths) ** 2)
    np.testing.assert_allclose(GRID.negative_laplacian(psi), eigenvalue * psi, atol=1e-11)
    np.testing.assert_allclose(GRID.resolvent(psi, 0.7), psi / (eigenvalue + 0.7), atol=1e-13)


def test_matrix_and_transform_agree():
    psi = np.random.default_rng(0).standard_normal(GRID.points)
    by_matrix = GRID.negative_laplacian_matrix(0) @ psi + psi @ GRID.negative_laplacian_matrix(1)
    np.testing.assert_allclose(GRID.negative_laplacian(psi), by_matrix, atol=1e-11)


@pytest.mark.parametrize("waves", [(2, 5), (12, 9)])
def test_refinement_keeps_the_function(waves):
    np.testing.assert_allclose(GRID.refine(_sine(GRID, waves)), _sine(GRID.refined(), waves), atol=1e-13)


def test_wall_slopes_are_inward_derivatives():
    grid = Grid((-1.0,), (1.0,), (20,))
    for k in (1, 2, 7):
        low, high = grid.wall_slopes(np.sin(k * np.pi * (grid.nodes(0) + 1) / 2), 0)
        np.testing.assert_allclose(low, k * np.pi / 2, rtol=1e-12)
        np.testing.assert_allclose(high, -((-1.0) ** k) * k * np.pi / 2, rtol=1e-12)


def test_cap_is_the_largest_kinetic_energy():
    potential = np.array([3.0] * 11 + [1e9])
    grid = Grid((0.0,), (1.2,), (12,))
    capped = cap_potential(grid, potential, 0.5)
    assert capped[:11].tolist() == potential[:11].tolist()
    np.testing.assert_allclose(capped[11], 3.0 + 0.5 * (np.pi / 0.1) ** 2)
