"""Diffusion Monte Carlo on problems with known energies: small ones here, to full accuracy the slow ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import GaussianTrial, SpectralGrid, Walkers, ground_state

KEY = jax.random.key(0)
QUARTIC_ENERGY, HELIUM_ENERGY = 1.0603620904841829, -2.903724377034120
QUARTIC = Hamiltonian.from_objective(lambda x: jnp.sum(x**4), dim=1)
HYDROGEN = Hamiltonian.from_objective(lambda x: -1 / jnp.linalg.norm(x), dim=3, diffusion=0.5)


def slater(exponent):
    return lambda x: -exponent * jnp.linalg.norm(x)


def coupled_oscillators(dim=10):
    """Coupled oscillators, their exact energy, and a trial that knows the coupling to nine tenths."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0]
    stiffness = np.linspace(0.5, 4.0, dim)
    matrix = jnp.asarray(axes @ np.diag(stiffness) @ axes.T)
    root = axes @ np.diag(np.sqrt(stiffness)) @ axes.T
    shape = jnp.asarray(0.9 * root + 0.1 * np.diag(np.diag(root)) + 0.05 * np.eye(dim))
    hamiltonian = Hamiltonian.from_objective(lambda x: 0.5 * x @ matrix @ x, dim=dim, diffusion=0.5)
    return hamiltonian, 0.5 * np.sqrt(stiffness).sum(), lambda x: -0.5 * x @ shape @ x


def wells(x):
    """Two wells in a plane, turned against the axes."""
    return (x[0] ** 2 - 1.5) ** 2 + 0.5 * (x[1] - 0.5 * x[0]) ** 2


def helium(x):
    a, b = x[:3], x[3:]
    norm = jnp.linalg.norm
    return -2 / norm(a) - 2 / norm(b) + 1 / norm(a - b)


def jastrow(x):
    """Slater and Jastrow, with both cusps."""
    a, b = x[:3], x[3:]
    between = jnp.linalg.norm(a - b)
    return -2 * (jnp.linalg.norm(a) + jnp.linalg.norm(b)) + 0.5 * between / (1 + 0.2 * between)


def assert_exact(state, energy, errors, largest):
    print(f"energy {float(state.energy):.6f} +- {float(state.energy_error):.1e}, exact {energy:.6f}")
    assert float(state.energy_error) <= largest
    assert abs(float(state.energy) - energy) <= errors * float(state.energy_error)
    assert state.gap is None


@pytest.mark.slow
def test_hydrogen_with_a_wrong_and_with_the_exact_trial():
    settings = {"num_walkers": 1024, "num_steps": 1600, "start": np.ones(3), "forward_time": 4.0}
    solver = Walkers(trial=slater(0.9), time_step=(0.08, 0.04), **settings)
    with pytest.warns():  # a forward walk of 4 is short for a gap of 3/8
        state = ground_state(HYDROGEN, solver, key=KEY)
    assert_exact(state, -0.5, 3, 3e-3)
    assert state.diagnostics["trial_energy"] > -0.495
    exact = ground_state(HYDROGEN, Walkers(trial=slater(1.0), time_step=0.1, **settings), key=KEY)
    assert float(exact.energy) == pytest.approx(-0.5, abs=2e-6)


@pytest.mark.slow
def test_a_boltzmann_hamiltonian_has_energy_zero_from_any_trial():
    def log_p(x):
        return -0.5 * jnp.sum(x**2) - 0.3 * jnp.sum(x**4)

    hamiltonian = Hamiltonian.from_log_density(log_p, dim=2)
    trial = ground_state(hamiltonian, GaussianTrial(), key=KEY)
    solver = Walkers(trial=trial, time_step=(0.06, 0.03), num_walkers=1024, num_steps=2000, forward_time=3.0)
    state = ground_state(hamiltonian, solver, key=KEY)
    assert_exact(state, 0.0, 3, 0.01)
    assert state.diagnostics["trial_energy"] > 10 * float(state.energy_error)
    assert state.dim == 2


def test_the_result_is_a_function_of_the_key():
    solver = Walkers(trial=lambda x: -0.6 * jnp.sum(x**2), time_step=0.05, num_walkers=64, num_steps=400)
    first, again, other = (ground_state(QUARTIC, solver, key=jax.random.key(k)) for k in (1, 1, 2))
    assert float(first.energy) == float(again.energy) != float(other.energy)
    np.testing.assert_array_equal(first.sample(KEY, (5,)), again.sample(KEY, (5,)))
    legacy = ground_state(QUARTIC, solver, key=jax.random.PRNGKey(1))
    assert float(legacy.energy) == float(first.energy)


@pytest.mark.usefixtures("x64")
def test_float64_and_progress():
    seen = []
    solver = Walkers(
        trial=lambda x: -0.6 * jnp.sum(x**2),
        time_step=(0.04, 0.02),
        num_walkers=256,
        num_steps=800,
        progress=lambda *a: seen.append(a),
    )
    state = ground_state(QUARTIC, solver, key=KEY)
    assert state.energy.dtype == jnp.float64
    assert state.sample(KEY).dtype == jnp.float64
    assert abs(float(state.energy) - QUARTIC_ENERGY) < 4 * float(state.energy_error)
    done, total, energies = zip(*seen, strict=True)
    assert total == (1600,) * len(seen)
    assert list(done) == sorted(done)
    assert done[0] == 0
    assert done[-1] == 1600
    assert np.all(np.abs(np.array(energies) - QUARTIC_ENERGY) < 0.3)
    assert list(state.diagnostics["time_steps"]) == [0.04, 0.02]


@pytest.mark.slow
def test_fixed_nodes_give_the_lowest_odd_state():
    # The first excited state of the harmonic oscillator, energy 3/2, has its node at the origin.
    hamiltonian = Hamiltonian.from_objective(lambda x: 0.5 * x @ x, dim=1, diffusion=0.5)

    def odd(x):
        return jnp.log(jnp.abs(x[0])) - 0.4 * jnp.sum(x**2)

    settings = {
        "time_step": (0.02, 0.01),
        "num_walkers": 1024,
        "num_steps": 3000,
        "start": np.array([[-1.0], [1.0]]),
    }
    solver = Walkers(trial=odd, fixed_node=True, sign=lambda x: jnp.sign(x[0]), **settings)
    state = ground_state(hamiltonian, solver, key=KEY)
    assert_exact(state, 1.5, 3.5, 0.01)
    draws = np.asarray(state.sample(KEY, (4000,)))[:, 0]
    assert 0.4 < np.mean(draws > 0) < 0.6
    assert np.mean(np.abs(draws) < 0.1) < 0.01  # |psi|^2 vanishes at the node


# ------------------------------------------------------------------------------- to full accuracy


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_hydrogen_to_two_ten_thousandths(seed):
    solver = Walkers(
        trial=slater(0.9),
        time_step=(0.06, 0.03, 0.015),
        num_walkers=4096,
        num_steps=16000,
        start=np.ones(3),
        forward_time=12.0,
    )
    assert_exact(ground_state(HYDROGEN, solver, key=jax.random.key(seed)), -0.5, 2, 2e-4)


@pytest.mark.slow
def test_ten_coupled_oscillators_to_a_thousandth():
    hamiltonian, energy, trial = coupled_oscillators()
    solver = Walkers(
        trial=trial, time_step=(0.1, 0.05, 0.025), num_walkers=4096, num_steps=6000, forward_time=6.0
    )
    state = ground_state(hamiltonian, solver, key=KEY)
    assert_exact(state, energy, 2, 1e-3)
    assert state.diagnostics["trial_energy"] > energy + 5e-3


@pytest.mark.slow
def test_quartic_oscillator_to_a_thousandth():
    solver = Walkers(
        trial=lambda x: -0.6 * jnp.sum(x**2),
        time_step=(0.04, 0.02, 0.01),
        num_walkers=4096,
        num_steps=8000,
        forward_time=2.5,
    )
    assert_exact(ground_state(QUARTIC, solver, key=KEY), QUARTIC_ENERGY, 2, 1e-3)


@pytest.mark.slow
def test_double_well_in_the_plane_as_the_grid_has_it():
    hamiltonian = Hamiltonian.from_objective(wells, dim=2, diffusion=0.5)
    grid = ground_state(hamiltonian, SpectralGrid(bounds=((-4, 4), (-5, 5)), points=64))
    solver = Walkers(
        trial=lambda x: -0.5 * (0.8 * x[0] ** 2 + x[1] ** 2),
        time_step=(0.08, 0.04, 0.02),
        num_walkers=8192,
        num_steps=8000,
        forward_time=8.0,
    )
    assert_exact(ground_state(hamiltonian, solver, key=KEY), float(grid.energy), 2, 4e-3)


@pytest.mark.slow
def test_helium_to_two_thousandths():
    solver = Walkers(
        trial=jastrow,
        time_step=(0.02, 0.01, 0.005),
        num_walkers=2048,
        num_steps=8000,
        start=np.array([0.5, 0.3, 0.2, -0.5, -0.3, -0.2]),
        forward_time=4.0,
    )
    hamiltonian = Hamiltonian.from_objective(helium, dim=6, diffusion=0.5)
    state = ground_state(hamiltonian, solver, key=KEY)
    assert_exact(state, HELIUM_ENERGY, 3, 2e-3)
    assert state.diagnostics["trial_energy"] > HELIUM_ENERGY + 0.01
