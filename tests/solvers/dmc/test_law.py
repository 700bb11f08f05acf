"""The step's own law in one dimension: walkers have the energy of its transfer operator, time step and all.

One step of drift, diffusion, Metropolis correction and weight is a linear operator on densities, written here
as a matrix on a grid, in NumPy and by itself. Its leading eigenvector gives the energies that walkers with
that time step must have, and how they approach the exact one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import Walkers, ground_state
from qdesampler.solvers.dmc.blocking import fit_polynomial
from qdesampler.solvers.dmc.diffusion_step import Guide, limited_drift, local_energy, make_walker
from qdesampler.solvers.dmc.estimators import extrapolate

EXACT = 1.0603620904841829  # of -d^2/dx^2 + x^4
LIMIT = 0.25
QUARTIC = Hamiltonian.from_objective(lambda x: jnp.sum(x**4), dim=1)


def narrow(x):
    """A Gaussian narrower than the state: a poor trial, whose errors show."""
    return -jnp.sum(x**2)


def good(x):
    """Near the best Gaussian."""
    return -0.6 * jnp.sum(x**2)


def step_energies(tau, alpha, *, metropolis=True, weights=True, points=600, edge=4.0):
    """Mixed and growth energy of the step with the trial exp(-alpha x^2 / 2), and the effective time step."""
    x = np.linspace(-edge, edge, points)
    energy = alpha - alpha**2 * x**2 + x**4
    drift = -2 * alpha * x
    rate = LIMIT * tau * drift**2 / 2
    middle = x + tau * drift * 2 / (1 + np.sqrt(1 + 2 * rate))
    square = (x[:, None] - x) ** 2  # [to, from]
    log_g = -((x[:, None] - middle) ** 2) / (4 * tau)
    log_g -= np.log(np.sum(np.exp(log_g), 0))
    proposal = np.exp(log_g)
    accepted = np.ones_like(proposal)
    if metropolis:
        accepted = np.exp(np.minimum(-alpha * (x[:, None] ** 2 - x**2) + log_g.T - log_g, 0))
    kernel = proposal * accepted
    moves = kernel + np.diag(1 - kernel.sum(0))
    mean, effective, f, growth = 0.5 * (energy[:, None] + energy), tau, np.exp(-alpha * x**2), 1.0
    for _ in range(5):
        step = moves * (np.exp(-effective * mean) if weights else 1.0)
        for _ in range(int(3 / tau) + 20):
            f = step @ f
            growth = f.sum()
            f /= growth
        effective = tau * np.sum(kernel * square @ f) / np.sum(proposal * square @ f)
    return energy @ f, -np.log(growth) / effective, effective


def solve(time_step, seed, hamiltonian=QUARTIC, trial=narrow, **settings):
    settings = {"num_walkers": 2048, "num_steps": 1600, "burn_in": 160, "steps_per_turn": 5} | settings
    return ground_state(
        hamiltonian, Walkers(trial=trial, time_step=time_step, **settings), key=jax.random.key(seed)
    )


def distance(state, i, energy, name="energies"):
    """In standard errors."""
    found = state.diagnostics
    errors = found["energy_errors" if name == "energies" else "growth_energy_errors"]
    return (found[name][i] - energy) / errors[i]


@pytest.mark.filterwarnings("ignore::qdesampler.solvers.WalkersWarning")  # the steps are coarse on purpose
@pytest.mark.parametrize("population", ["reconfiguration", pytest.param("branching", marks=pytest.mark.slow)])
def test_energies_are_those_of_the_transfer_operator_and_of_no_wrong_one(population):
    steps = (0.16, 0.08, 0.04)
    state = solve(steps, 0, population=population)
    assert state.diagnostics["energy_errors"].max() < 3e-3
    for i, tau in enumerate(steps):
        mixed, growth, effective = step_energies(tau, 2.0)
        assert abs(distance(state, i, mixed)) < 3.5
        assert abs(distance(state, i, growth, "growth_energies")) < 3.5
        assert state.diagnostics["effective_time_steps"][i] == pytest.approx(effective, rel=5e-3)
        # The same steps without correction, or without weights, have other energies.
        for twin in ({"metropolis": False}, {"weights": False}):
            assert abs(distance(state, i, step_energies(tau, 2.0, **twin)[0])) > 10


def test_the_error_of_the_step_is_of_first_order_and_next_of_order_three_halves():
    steps = np.array([0.04, 0.02, 0.01, 0.005, 0.0025])
    bias = np.array([step_energies(tau, 2.0, points=600, edge=3.2)[0] for tau in steps]) - EXACT
    order = np.diff(np.log(bias)) / np.diff(np.log(steps))
    assert np.all(np.diff(order) > 0)
    assert 0.9 < order[-1] < 1.0
    # bias / tau = c + d sqrt(tau) by regression, better than c + d tau.
    left = [
        np.linalg.lstsq(np.stack([np.ones(5), steps**power], 1), bias / steps)[1][0] for power in (0.5, 1.0)
    ]
    assert left[0] < 0.3 * left[1]
    # What is extrapolated from such steps is right to a fraction of its error, and a straight line is not.
    errors = 4e-4 / np.sqrt(steps / 0.02)
    fit, line = extrapolate(steps, bias, errors), fit_polynomial(steps, bias, errors, (0, 1))
    assert abs(fit.coefficients[0]) < 0.7 * fit.covariance[0, 0] ** 0.5
    assert abs(line.coefficients[0]) > 2 * line.covariance[0, 0] ** 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::qdesampler.solvers.WalkersWarning")
def test_the_measured_order_and_the_unbiased_extrapolation():
    steps = (0.04, 0.02, 0.01, 0.005)
    state = solve(steps, 3, num_walkers=8192, num_steps=8000, burn_in=1000)
    found = state.diagnostics
    bias, errors = found["energies"] - EXACT, found["energy_errors"]
    assert bias[0] > 10 * errors[0]
    design = np.stack([np.ones(4), np.log(steps)], 1) / (errors / bias)[:, None]
    covariance = np.linalg.inv(design.T @ design)
    order = (covariance @ design.T @ (np.log(bias) / (errors / bias)))[1]
    exact = np.array([step_energies(tau, 2.0)[0] for tau in steps]) - EXACT
    expected = (covariance @ design.T @ (np.log(exact) / (errors / bias)))[1]
    assert order == pytest.approx(expected, abs=3 * covariance[1, 1] ** 0.5)
    assert 0.6 < order < 1.1
    assert abs(float(state.energy) - EXACT) < 3 * float(state.energy_error)
    assert abs(distance(state, 1, EXACT)) > 5  # without extrapolation it is not


@pytest.mark.slow
def test_one_standard_error_covers_two_thirds_of_a_hundred_seeds():
    mixed, growth, _ = step_energies(0.02, 1.2, points=1200)
    covered, grown, distances = 0, 0, []
    for seed in range(100):
        state = solve(
            0.02,
            seed,
            trial=good,
            num_walkers=256,
            num_steps=4000,
            burn_in=400,
            steps_per_turn=10,
        )
        distances.append(distance(state, 0, mixed))
        covered += abs(distances[-1]) < 1
        grown += abs(distance(state, 0, growth, "growth_energies")) < 1
    print(f"covered: mixed {covered}, growth {grown}; mean distance {np.mean(distances):+.2f}")
    assert 60 <= covered <= 76
    assert 60 <= grown <= 76
    assert abs(np.mean(distances)) < 0.35


def test_the_limited_drift_is_the_drift_for_short_steps_and_bounded_for_long_ones():
    slope = jnp.array([3.0, -4.0])
    drift = limited_drift(slope, jnp.asarray(1e-6), 0.5)
    np.testing.assert_allclose(drift, slope, rtol=1e-4)
    for tau in (1e-3, 1.0):
        push = np.linalg.norm(limited_drift(1e4 * slope, jnp.asarray(tau), 0.5) * tau)
        assert push < 2 * np.sqrt(0.5 * 2 * tau / LIMIT)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dim", [1, 3, 16, 17])
@pytest.mark.parametrize("kind", ["objective", "boltzmann"])
def test_the_local_energy_is_the_hamiltonians(kind, dim):
    def curved(x):
        return jnp.sum(jnp.cos(x)) - 0.1 * jnp.sum(x) ** 2

    build = Hamiltonian.from_objective if kind == "objective" else Hamiltonian.from_log_density
    hamiltonian = build(curved, dim=dim, diffusion=0.7)
    x = jax.random.normal(jax.random.key(0), (dim,))
    guide = Guide(hamiltonian, lambda x: -0.3 * jnp.sum(x**2) + jnp.sin(x[0]))
    np.testing.assert_allclose(local_energy(guide, x), hamiltonian.local_energy(guide.log_psi, x), rtol=1e-12)
    walker = make_walker(guide, x)
    np.testing.assert_allclose(walker.slope, jax.grad(guide.log_psi)(x), rtol=1e-12)
