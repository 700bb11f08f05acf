"""Real time: the matrix exponential to order two, a coherent state's swing, and what is kept."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import SpectralGrid, propagate_real_time

GRID = SpectralGrid(bounds=(-5.0, 5.0), points=48)
QUARTIC = Hamiltonian.from_objective(lambda x: (x @ x) ** 2 / 4, dim=1)
OSCILLATOR = Hamiltonian.from_objective(lambda x: x @ x / 2, dim=1, diffusion=0.5)


def _packet(x):
    return jnp.exp(-((x[0] - 0.4) ** 2))


@pytest.mark.usefixtures("x64")
def test_steps_have_order_two_against_the_matrix_exponential():
    box = GRID.grid(1)
    nodes = box.nodes(0)
    start = np.exp(-((nodes - 0.4) ** 2))
    start /= np.linalg.norm(start)
    matrix = box.negative_laplacian_matrix(0) + np.diag(nodes**4 / 4)
    exact = scipy.linalg.expm(-0.5j * matrix) @ start
    errors = []
    for n in (50, 100, 200):
        path = propagate_real_time(QUARTIC, GRID, _packet, time_step=0.5 / n, num_steps=n)
        errors.append(np.linalg.norm(np.asarray(path.state) * np.sqrt(box.cell_volume) - exact))
        np.testing.assert_allclose(path.norm, 1, atol=1e-12)
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.05)
    assert errors[-1] < 1e-4
    assert np.linalg.norm(exact.conj() - exact) > 0.1  # a wrong sign of i would be seen


@pytest.mark.usefixtures("x64")
def test_a_coherent_state_swings_as_the_classical_particle():
    path = propagate_real_time(
        OSCILLATOR, GRID, lambda x: jnp.exp(-((x[0] - 1) ** 2) / 2), time_step=0.01, num_steps=700
    )
    np.testing.assert_allclose(path.mean[:, 0], np.cos(path.time), atol=1e-4)
    np.testing.assert_allclose(path.energy, 1.0, atol=1e-4)  # 1/2 of the ground state, 1/2 of the swing
    np.testing.assert_allclose(np.abs(path.autocorrelation[628]), 1, atol=1e-4)  # after a period


def test_two_coordinates_keep_their_own_means():
    hamiltonian = Hamiltonian.from_objective(lambda x: x @ x / 2, dim=2, diffusion=0.5)
    grid = SpectralGrid(bounds=(-4.0, 4.0), points=24)
    start = lambda x: jnp.exp(-((x[0] - 1) ** 2 + (x[1] + 0.5) ** 2) / 2)  # noqa: E731
    path = propagate_real_time(hamiltonian, grid, start, time_step=0.02, num_steps=100)
    expected = np.cos(np.asarray(path.time))[:, None] * [1, -0.5]
    np.testing.assert_allclose(path.mean, expected, atol=5e-3)


def test_bad_starts_are_refused():
    for value in (0.0, jnp.nan):
        with pytest.raises(ValueError, match="psi0 must be finite"):
            propagate_real_time(OSCILLATOR, GRID, lambda x, v=value: v * x[0], time_step=0.1, num_steps=2)
    with pytest.raises(ValueError, match="time_step"):
        propagate_real_time(OSCILLATOR, GRID, _packet, time_step=0.0, num_steps=2)
