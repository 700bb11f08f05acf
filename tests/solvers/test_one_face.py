"""Every solver returns the same kind of object, and the state of one is the trial of another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import FlowTrial, GaussianTrial, SpectralGrid, Walkers, ground_state

# -D lap + x A x / 2: energy sqrt(D / 2) tr sqrt(A), squared ground state N(0, sqrt(D / 2) A^-1/2).
STIFFNESS, DIFFUSION = np.array([[2.0, 0.6], [0.6, 1.0]]), 0.5
VALUES, VECTORS = np.linalg.eigh(STIFFNESS)
ENERGY = 0.5 * np.sum(np.sqrt(VALUES))
COVARIANCE = 0.5 * (VECTORS / np.sqrt(VALUES)) @ VECTORS.T
OSCILLATOR = Hamiltonian.from_objective(
    lambda x: 0.5 * x @ jnp.asarray(STIFFNESS, x.dtype) @ x, dim=2, diffusion=DIFFUSION
)
SETTINGS = {"num_walkers": 512, "num_steps": 2400, "burn_in": 300, "time_step": 0.02, "forward_time": 2.0}
SMALL_FLOW = {"layers": 2, "width": 8, "evaluations": 2048, "rounds": 4, "steps": 60}


def rough(x):
    return -0.3 * jnp.sum(x**2)


SOLVERS = {
    "grid": SpectralGrid(bounds=((-6.0, 6.0), (-6.0, 6.0)), points=48),
    "gaussian": GaussianTrial(),
    "walkers": Walkers(trial=rough, **SETTINGS),
    "flow": FlowTrial(**SMALL_FLOW),
}


# What each solver states about this problem, and the largest error that it may state.
DIAGNOSTICS = {
    "grid": {"acceptance", "iterations", "outside_mass", "residual", "tail_cut", "tail_residual"},
    "gaussian": {"converged", "energy_spread", "evaluations", "imbalance", "rounds"},
    "walkers": {
        *("acceptances", "burn_in_steps", "converged", "correction_degree", "correction_error"),
        *("correction_gain", "correlation_times", "effective_draws", "effective_time_steps", "energies"),
        *("energy_errors", "forward_shift", "forward_time", "growth_energies", "growth_energy_errors"),
        *("local_energy_spread", "log_norm_error", "log_psi_is_estimate", "num_steps"),
        *("population_bias_errors", "population_biases", "sample_is_empirical", "settled", "time_steps"),
        *("trial_energy", "walker_steps"),
    },
    "flow": {
        *("converged", "energy_spread", "energy_standard_error", "evaluations", "history", "rounds"),
        "start_evaluations",
    },
}
MOST_ERROR = {"grid": 1e-6, "gaussian": 1e-4, "walkers": 0.01, "flow": 0.05}


@pytest.fixture(scope="module", params=[*list(SOLVERS)[:3], pytest.param("flow", marks=pytest.mark.slow)])
def solved(request):
    return request.param, ground_state(OSCILLATOR, SOLVERS[request.param], key=jax.random.key(0))


def test_energy_gap_and_diagnostics(solved):
    name, state = solved
    assert state.dim == 2
    assert state.diffusion == DIFFUSION
    assert abs(state.energy - ENERGY) < 3 * state.energy_error  # the stated error covers the true one
    assert state.energy_error < MOST_ERROR[name]
    if name == "grid":
        # the lowest excitation of an oscillator: one quantum of its softest mode
        assert state.gap == pytest.approx(np.sqrt(VALUES[0]), rel=1e-4)
    else:
        assert state.gap is None
    assert set(state.diagnostics) == DIAGNOSTICS[name]
    described = type(SOLVERS[name]).__doc__ or ""
    assert [key for key in state.diagnostics if f"`{key}`" not in described] == []


def test_functions_of_a_point_and_draws(solved):
    _, state = solved
    points = jnp.asarray([[0.0, 0.0], [0.4, -0.3], [-0.8, 0.5]])
    log_psi = jax.vmap(state.log_psi)(points)
    np.testing.assert_allclose(jax.vmap(state.log_prob)(points), 2 * log_psi, rtol=1e-5, atol=1e-5)
    exact = -0.25 * np.einsum("ni,ij,nj->n", points, np.linalg.inv(COVARIANCE), points)
    exact -= 0.25 * np.log(np.linalg.det(2 * np.pi * COVARIANCE))
    np.testing.assert_allclose(log_psi, exact, atol=0.08)
    slopes = jax.vmap(jax.grad(state.log_psi))(points)
    np.testing.assert_allclose(jax.vmap(state.drift)(points), 2 * DIFFUSION * slopes, rtol=1e-4, atol=1e-5)
    assert state.sample(jax.random.key(1)).shape == (2,)
    draws = np.asarray(state.sample(jax.random.key(1), (40, 100)))
    assert draws.shape == (40, 100, 2)
    scatter = np.einsum("abi,abj->ij", draws, draws) / draws[..., 0].size
    np.testing.assert_allclose(scatter, COVARIANCE, atol=0.06)


def test_jit_takes_the_state_as_an_argument(solved):
    _, state = solved
    x = jnp.asarray([0.2, 0.1])
    np.testing.assert_allclose(jax.jit(lambda s, x: s.log_prob(x))(state, x), state.log_prob(x), rtol=1e-5)


@pytest.mark.filterwarnings("ignore::qdesampler.solvers.WalkersWarning")  # an exact trial has no spread
@pytest.mark.parametrize(
    "name", ["gaussian", *(pytest.param(name, marks=pytest.mark.slow) for name in ("grid", "flow"))]
)
@pytest.mark.slow
def test_any_state_guides_walkers_and_lowers_their_error(name):
    trial = ground_state(OSCILLATOR, SOLVERS[name], key=jax.random.key(0))
    guided = ground_state(OSCILLATOR, Walkers(trial=trial, **SETTINGS), key=jax.random.key(2))
    alone = ground_state(OSCILLATOR, SOLVERS["walkers"], key=jax.random.key(2))
    assert abs(guided.energy - ENERGY) < 3 * guided.energy_error + 1e-5
    assert guided.energy_error < 0.3 * alone.energy_error


@pytest.mark.slow
def test_a_gaussian_starts_a_flow():
    # the best Gaussian is not the ground state of a quartic wall: the flow goes lower
    quartic = Hamiltonian.from_objective(lambda x: jnp.sum(x**4), dim=1)
    gaussian = ground_state(quartic, GaussianTrial(), key=jax.random.key(0))
    flow = ground_state(quartic, FlowTrial(start=gaussian), key=jax.random.key(1))
    exact = 1.0603620905
    error = flow.diagnostics["energy_standard_error"]
    assert exact - 3 * error < flow.energy < gaussian.energy
    assert flow.energy - exact < 0.5 * (gaussian.energy - exact)
