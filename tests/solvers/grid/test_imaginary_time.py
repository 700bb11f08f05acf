"""Propagation: order two in the step, decay at the ground energy, and the same state as the eigensolver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import SpectralGrid, ground_state, propagate
from qdesampler.solvers.grid.imaginary_time import multiply_in_momentum

QUARTIC = Hamiltonian.from_objective(lambda x: (x @ x) ** 2, dim=1)
GRID = SpectralGrid(bounds=(-4.0, 4.0), points=48)


def _packet(x):
    return jnp.exp(-((x[0] - 0.4) ** 2))


def _order(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.usefixtures("x64")
def test_strang_splitting_has_order_two_and_lie_splitting_one():
    time, steps = 0.5, np.array([16, 32, 64, 128])
    box = GRID.grid(1)
    nodes, h = box.nodes(0), box.spacing[0]
    start = np.exp(-((nodes - 0.4) ** 2))
    start /= np.linalg.norm(start)
    exact = scipy.linalg.expm(-time * (box.negative_laplacian_matrix(0) + np.diag(nodes**4))) @ start
    strang, lie = [], []
    for n in steps:
        path = propagate(QUARTIC, GRID, _packet, time_step=time / n, num_steps=int(n))
        final = np.asarray(path.state) * np.sqrt(h) * np.exp(path.log_norm[-1])
        strang.append(np.linalg.norm(final - exact))
        kinetic = np.exp(-((np.arange(49) * np.pi / 8.0) ** 2) * time / n)
        psi = jnp.asarray(start)
        for _ in range(n):  # wrong twin: the potential's factor all on one side
            psi = multiply_in_momentum(psi * np.exp(-(nodes**4) * time / n), kinetic, 0)
        lie.append(np.linalg.norm(psi - exact))
    assert 1.9 < _order(steps, strang) < 2.1
    assert 0.9 < _order(steps, lie) < 1.1


@pytest.mark.usefixtures("x64")
def test_it_ends_in_the_ground_state_of_the_eigensolver():
    state = ground_state(QUARTIC, GRID)
    path = propagate(QUARTIC, GRID, time_step=0.005, num_steps=1600)
    assert float(path.distance[-1]) < 1e-4  # the splitting's own ground state, of order dt^2 away
    assert float(path.overlap[-1]) > 1 - 1e-8
    np.testing.assert_allclose(path.energy[-1], state.energy, atol=1e-7)
    rate = -np.diff(path.log_norm)[-1] / 0.005
    np.testing.assert_allclose(rate, state.energy, rtol=1e-4)
    box = path.grid
    psi = np.exp(jax.vmap(state.log_psi)(jnp.asarray(box.nodes(0))[:, None]))
    np.testing.assert_allclose(path.state, psi, atol=1e-4)
    np.testing.assert_allclose(np.sum(path.state**2) * box.cell_volume, 1, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_energy_falls_and_the_distance_decays_at_the_gap():
    path = propagate(QUARTIC, GRID, _packet, time_step=0.002, num_steps=600)
    assert path.time.shape == path.energy.shape == path.distance.shape == (601,)
    assert np.all(np.diff(path.energy) < 0)
    np.testing.assert_allclose(path.overlap**2 + path.distance**2, 1, atol=1e-10)
    np.testing.assert_allclose(path.log_norm[0], 0, atol=1e-14)
    late = slice(300, 500)
    rate = -np.polyfit(path.time[late], np.log(path.distance[late]), 1)[0]
    gap = ground_state(QUARTIC, GRID).gap
    np.testing.assert_allclose(rate, gap, rtol=5e-3)


def test_two_dimensions_in_float32():
    hamiltonian = Hamiltonian.from_objective(
        lambda x: 0.5 * x[0] ** 2 + 2 * x[1] ** 2 - 50, dim=2, diffusion=0.5
    )
    grid = SpectralGrid(bounds=((-6.0, 6.0), (-4.0, 4.0)), points=(24, 32))
    path = propagate(hamiltonian, grid, np.ones((24, 32)), time_step=0.02, num_steps=400)
    assert path.state.dtype == jnp.float32
    np.testing.assert_allclose(path.energy[-1], 1.5 - 50, atol=2e-4)
    np.testing.assert_allclose(np.diff(path.log_norm)[-1] / 0.02, 50 - 1.5, rtol=1e-3)
    assert float(path.distance[-1]) < 1e-2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"time_step": 0.0}, ValueError, "time_step must be positive"),
        ({"time_step": np.nan}, ValueError, "time_step must be positive and finite"),
        ({"num_steps": 0}, ValueError, "num_steps must be a positive integer"),
        ({"num_steps": 1.5}, TypeError, "num_steps must be a positive integer"),
        ({"psi0": np.ones(5)}, ValueError, r"array of shape \(48,\), got shape \(5,\)"),
        ({"psi0": np.full(48, np.nan)}, ValueError, "psi0 must be finite"),
        ({"psi0": np.zeros(48)}, ValueError, "psi0 must not be 0 everywhere"),
    ],
)
def test_bad_input_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        propagate(QUARTIC, GRID, **{"time_step": 0.1, "num_steps": 2, **arguments})
