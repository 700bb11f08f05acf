"""`log psi` beyond rounding, from its own equation, against closed forms."""

import numpy as np
import pytest

from qdesampler.solvers.grid.decay import continue_logarithm, log_envelope, wall_layer
from qdesampler.solvers.grid.grid import Grid


@pytest.mark.parametrize(("dim", "points"), [(1, 256), (1, 20), (2, 24), (3, 14)])
def test_a_gaussian_tail_is_found_from_its_core(dim, points):
    grid = Grid((-7.0,) * dim, (7.0,) * dim, (points,) * dim)
    squares = np.sum(grid.mesh() ** 2, axis=-1)
    exact = -squares / 2
    unknown = exact < np.log(1e-5)
    start = np.where(unknown, np.nan, exact)
    found, residual = continue_logarithm(grid, start, unknown, squares - dim, hard=False)
    np.testing.assert_allclose(found, exact, atol=1e-6)
    assert residual <= 1e-8


def test_the_wrong_energy_gives_the_wrong_tail():
    grid = Grid((-7.0,), (7.0,), (128,))
    exact = -(grid.nodes(0) ** 2) / 2
    found, _ = continue_logarithm(grid, exact, exact < np.log(1e-5), grid.nodes(0) ** 2 - 2.0, hard=False)
    assert np.abs(found - exact).max() > 0.1


def test_a_correlated_gaussian_whose_corners_are_fed_from_outside():
    precision = np.linalg.inv([[1.0, 0.9], [0.9, 1.0]])
    grid = Grid((-6.0, -6.0), (6.0, 6.0), (64, 64))
    forms = np.einsum("...i,ij,...j", grid.mesh(), precision, grid.mesh())
    exact = -forms / 4  # sqrt of the density: lap + |grad|^2 = decay
    decay = -np.trace(precision) / 2 + np.sum((grid.mesh() @ precision) ** 2, axis=-1) / 4
    unknown = exact < np.log(1e-7)
    found, residual = continue_logarithm(grid, exact, unknown, decay, hard=False)
    assert residual <= 1e-8
    assert np.abs(found - exact)[exact > -30].max() < 0.3  # walls that are fed are held level
    assert np.abs(found - exact)[np.abs(grid.mesh()).max(axis=-1) < 5].max() < 2e-2


def test_hard_walls_bend_the_tail():
    # psi = sinh(k s): zero at the wall, free decay far from it.
    grid = Grid((0.0,), (4.0,), (200,))
    rate = 6.0
    s = grid.nodes(0)
    exact = np.log(np.sinh(rate * s)) - log_envelope(grid)
    unknown = s < 2.0
    start = np.where(unknown, 0.0, exact)
    found, _ = continue_logarithm(grid, start, unknown, np.full(200, rate**2), hard=True)
    np.testing.assert_allclose(found[unknown], exact[unknown], atol=1e-3)


def test_the_layer_at_a_wall_is_six_decay_lengths():
    grid = Grid((0.0,), (80.0,), (800,))
    layer = wall_layer(grid, np.full(800, 4.0))  # decay rate 2
    assert layer[grid.nodes(0) < 3].all()
    assert layer[grid.nodes(0) > 77].all()
    assert not layer[(grid.nodes(0) > 3) & (grid.nodes(0) < 77)].any()
