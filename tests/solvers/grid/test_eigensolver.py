"""Block Davidson in two and three dimensions against closed forms and dense diagonalisation."""

import numpy as np
import pytest

from qdesampler.solvers.grid.eigensolver import lowest_eigenpairs
from qdesampler.solvers.grid.grid import Grid


def _solve(grid, potential, states, **settings):
    return lowest_eigenpairs(
        grid, potential, 0.5, states, **{"tolerance": 1e-10, "max_iterations": 300, **settings}
    )


def _dense(grid, potential):
    n = np.eye(grid.points[1])
    m = np.eye(grid.points[0])
    kinetic = np.kron(grid.negative_laplacian_matrix(0), n) + np.kron(m, grid.negative_laplacian_matrix(1))
    return np.linalg.eigvalsh(0.5 * kinetic + np.diag(potential.ravel()))


def test_a_coupled_potential_agrees_with_dense_diagonalisation():
    grid = Grid((-4.0, -4.0), (4.0, 4.0), (22, 24))
    x, y = np.moveaxis(grid.mesh(), -1, 0)
    # Four wells, coupled; the mean field breaks the symmetry that the levels have.
    potential = 2 * (x**2 - 1.2) ** 2 + 2 * (y**2 - 1.2) ** 2 + 0.8 * x * y
    pairs = _solve(grid, potential, 5)
    np.testing.assert_allclose(pairs.energies[:5], _dense(grid, potential)[:5], atol=1e-9)
    gram = np.einsum("aij,bij->ab", pairs.states, pairs.states) * grid.cell_volume
    np.testing.assert_allclose(gram, np.eye(5), atol=1e-9)


def test_degenerate_shells_are_complete():
    grid = Grid((-5.0,) * 3, (5.0,) * 3, (16,) * 3)
    potential = 0.5 * np.sum(grid.mesh() ** 2, axis=-1)
    energies = _solve(grid, potential, 5).energies[:5]
    np.testing.assert_allclose(energies, [1.5, 2.5, 2.5, 2.5, 3.5], atol=1e-4)
    np.testing.assert_allclose(energies[1:4], energies[1], atol=1e-10)


def test_residual_is_the_residual():
    grid = Grid((-5.0,), (5.0,), (40,))
    potential = 0.5 * grid.nodes(0) ** 2
    pairs = _solve(grid, potential, 3)
    for energy, psi in zip(pairs.energies, pairs.states, strict=False):
        image = 0.5 * grid.negative_laplacian(psi) + potential * psi
        assert np.linalg.norm(image - energy * psi) * np.sqrt(grid.cell_volume) <= 2 * pairs.rounding
    assert len(pairs.energies) == 4  # the next level, which limits the error


def test_too_few_iterations_are_refused():
    grid = Grid((-4.0, -4.0), (4.0, 4.0), (22, 24))
    x, y = np.moveaxis(grid.mesh(), -1, 0)
    with pytest.raises(RuntimeError, match=r"residual .* asked for .*Raise max_iterations or tolerance"):
        _solve(grid, x**4 + y**4 + 3 * x * y, 2, max_iterations=2)
