"""Forward walking: draws from the squared ground state, and its logarithm, against the grid's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import SpectralGrid, Walkers, WalkersWarning, ground_state

QUARTIC = Hamiltonian.from_objective(lambda x: jnp.sum(x**4), dim=1)
WELLS = Hamiltonian.from_objective(lambda x: (x[0] ** 2 - 1) ** 2, dim=1, diffusion=0.5)
SETTINGS = {"num_walkers": 2048, "num_steps": 6000, "burn_in": 600}


def wide(x):
    return -0.2 * jnp.sum(x**2)


def narrow(x):
    return -0.8 * jnp.sum(x**2)


@pytest.fixture(scope="module")
def optimised_module():
    """Compile with XLA's optimisations: without them rounding differs, and so do the draws of these tests."""
    flag = "jax_disable_most_optimizations"
    before = jax.config.values[flag]
    jax.config.update(flag, False)
    yield
    jax.config.update(flag, before)


@pytest.fixture(scope="module", params=[pytest.param("quartic", marks=pytest.mark.slow), "wells"])
def problem(request, optimised_module):
    hamiltonian, trial, forward = {"quartic": (QUARTIC, wide, 2.0), "wells": (WELLS, narrow, 6.0)}[
        request.param
    ]
    exact = ground_state(hamiltonian, SpectralGrid(bounds=(-5.0, 5.0), points=160))
    solver = Walkers(trial=trial, time_step=0.01, forward_time=forward, **SETTINGS)
    return trial, exact, ground_state(hamiltonian, solver, key=jax.random.key(0))


def distribution(density):
    """Cumulative distribution of an unnormalised density on a fine grid."""
    x = np.linspace(-5, 5, 4001)
    cumulated = np.cumsum(np.asarray(jax.vmap(density)(x[:, None]), np.float64))
    return lambda y: np.interp(y, x + 5 / 4000, cumulated / cumulated[-1])


def test_draws_follow_the_squared_ground_state_and_not_the_mixed_density(problem):
    trial, exact, state = problem
    draws = np.asarray(state.sample(jax.random.key(1), (8000,)))[:, 0]
    effective = 1 / (1 / 8000 + 1 / state.diagnostics["effective_draws"])  # draws of draws
    assert effective > 1000

    def p_value(density):
        return stats.kstwo.sf(stats.ks_1samp(draws, distribution(density)).statistic, round(effective))

    assert p_value(lambda x: jnp.exp(2 * exact.log_psi(x))) > 0.01
    for wrong in (lambda x: jnp.exp(exact.log_psi(x) + trial(x)), lambda x: jnp.exp(2 * trial(x))):
        assert p_value(wrong) < 1e-3
    assert state.diagnostics["sample_is_empirical"]
    assert state.diagnostics["forward_shift"] < 5


def test_log_psi_is_nearer_to_the_ground_state_than_the_trial_and_normalised(problem):
    trial, exact, state = problem
    x = jnp.linspace(-5, 5, 2001)[:, None]
    log_exact, log_fit, log_trial = (
        np.asarray(jax.vmap(f)(x), np.float64) for f in (exact.log_psi, state.log_psi, trial)
    )
    weight = np.exp(2 * log_exact) / np.sum(np.exp(2 * log_exact))

    def spread(log_psi):
        return np.sqrt(np.cov(log_psi - log_exact, aweights=weight))

    assert spread(log_fit) < 0.08
    assert spread(log_fit) < 0.3 * spread(log_trial)
    norm = np.sum(np.exp(2 * log_fit)) * 10 / 2000
    assert abs(0.5 * np.log(norm)) < 4 * state.diagnostics["log_norm_error"] + 1e-3
    assert state.diagnostics["log_norm_error"] < 0.02
    assert state.diagnostics["correction_gain"] > 0
    assert 0 < state.diagnostics["correction_error"] < 0.3
    # Drift and density are those of log psi, under jit too; far out it falls off like the trial.
    assert state.drift(jnp.ones(1)).shape == (1,)
    np.testing.assert_allclose(
        jax.jit(lambda s, y: s.log_prob(y))(state, x[700]), 2 * log_fit[700], rtol=1e-5
    )
    assert float(state.log_psi(jnp.full(1, 50.0))) < -500


@pytest.mark.slow
def test_a_short_forward_walk_is_noticed():
    solver = Walkers(trial=narrow, time_step=0.02, forward_time=1.6, **SETTINGS)
    with pytest.warns(WalkersWarning, match="moments of psi0\\^2 still move"):
        state = ground_state(WELLS, solver, key=jax.random.key(0))
    assert state.diagnostics["forward_time"] == pytest.approx(1.6)


@pytest.mark.slow
def test_an_exact_trial_needs_no_correction():
    harmonic = Hamiltonian.from_objective(lambda x: 0.5 * x @ x, dim=2, diffusion=0.5)
    solver = Walkers(trial=lambda x: -0.5 * x @ x, time_step=0.1, num_walkers=512, num_steps=1600)
    state = ground_state(harmonic, solver, key=jax.random.key(0))
    assert float(state.energy) == pytest.approx(1.0, abs=1e-5)
    assert float(state.energy_error) < 1e-5
    x = jnp.array([0.3, -1.0])
    expected = -0.5 * x @ x - 0.5 * jnp.log(jnp.pi)
    error = state.diagnostics["log_norm_error"]
    assert float(state.log_psi(x)) == pytest.approx(float(expected), abs=4 * error + 1e-3)
    draws = state.sample(jax.random.key(0), (4000,))
    np.testing.assert_allclose(draws.var(0), 0.5, atol=0.06)
