"""`QuadraticTrial`: a ground state like any other, for bent densities; what it says where there are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import (
    GaussianTrial,
    QuadraticTrial,
    QuadraticTrialWarning,
    QuadraticWavefunction,
    ground_state,
)

KEY = jax.random.key(0)


def banana(x):
    return -0.5 * (x[0] / 10) ** 2 - 0.5 * (x[1] - 0.03 * (x[0] ** 2 - 100)) ** 2


LOG_MASS = np.log(2 * np.pi * 10)


@pytest.fixture(scope="module")
def state():
    return ground_state(Hamiltonian.from_log_density(banana, dim=2), QuadraticTrial(), key=KEY)


def test_a_banana_is_its_own_ground_state(state):
    assert isinstance(state.wavefunction, QuadraticWavefunction)
    found = state.diagnostics
    assert found["acceptance"] > 0.93 > 0.75 > found["gaussian_acceptance"]
    assert found["evaluations"] < 2_000
    assert found["terms"] <= 4
    assert abs(found["evidence_lower_bound"] - LOG_MASS) < 0.05
    assert 0 <= state.energy <= state.energy_error
    gaussian = ground_state(Hamiltonian.from_log_density(banana, dim=2), GaussianTrial(), key=KEY)
    assert state.energy < 0.1 * gaussian.energy
    assert state.gap is None
    assert state.support is None


def test_draws_have_the_density_that_is_stated(state):
    """`E_q [f / q]` is the integral of f, here a normalised density that the draws cover."""
    draws = state.sample(jax.random.key(1), (4000,))
    log_q = jax.vmap(state.log_prob)(draws)
    ratio = np.exp(np.asarray(jax.vmap(banana)(draws) - LOG_MASS - log_q, float))
    rounding = 1e-5  # of float32: the fit may be exact
    assert abs(np.mean(ratio) - 1) < 5 * np.std(ratio) / np.sqrt(len(ratio)) + rounding
    assert np.std(ratio) < 0.3  # power: the ratio is known well enough to be wrong
    np.testing.assert_allclose(np.std(draws[:, 0]), 10, rtol=0.1)


def test_the_drift_is_that_of_the_target(state):
    points = state.sample(jax.random.key(2), (50,))
    drift = jax.vmap(state.drift)(points)
    exact = state.diffusion * jax.vmap(jax.grad(banana))(points)
    assert np.median(np.abs(drift - exact)) < 0.05 * np.median(np.abs(exact))


def test_a_gaussian_is_left_to_the_gaussian():
    target = Hamiltonian.from_log_density(lambda x: -0.5 * x @ x, dim=3)
    with pytest.warns(QuadraticTrialWarning, match="neither bends nor funnels"):
        state = ground_state(target, QuadraticTrial(), key=KEY)
    assert state.diagnostics["terms"] == 0
    assert state.diagnostics["acceptance"] > 0.99


def test_what_it_cannot_do_is_refused():
    objective = Hamiltonian.from_objective(lambda x: jnp.sum(x**2), dim=2)
    with pytest.raises(ValueError, match="Boltzmann"):
        ground_state(objective, QuadraticTrial(), key=KEY)
    with pytest.raises(ValueError, match="key"):
        ground_state(Hamiltonian.from_log_density(banana, dim=2), QuadraticTrial())
    with pytest.raises(TypeError, match="GaussianTrial"):
        QuadraticTrial(gaussian="dense")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at least 32"):
        QuadraticTrial(candidates=8)
