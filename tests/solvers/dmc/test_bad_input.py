"""Bad input is refused, and trouble on the way reported, each with what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import (
    NoGroundStateError,
    PopulationError,
    SpectralGrid,
    Walkers,
    WalkersWarning,
    ground_state,
)

KEY = jax.random.key(0)
HARMONIC = Hamiltonian.from_objective(lambda x: 0.5 * x @ x, dim=1, diffusion=0.5)
SMALL = {"num_walkers": 256, "num_steps": 800, "time_step": 0.05}


def gaussian(x):
    return -0.5 * jnp.sum(x**2)


def solve(hamiltonian=HARMONIC, key=KEY, **settings):
    return ground_state(hamiltonian, Walkers(**({"trial": gaussian} | SMALL | settings)), key=key)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"trial": 3.0}, TypeError, "trial must be a function"),
        ({"time_step": 0.0}, ValueError, "time_step must be positive"),
        ({"time_step": "fast"}, TypeError, "time_step must be a real number"),
        ({"time_step": (0.1,)}, ValueError, "two or more different"),
        ({"time_step": (0.1, 0.1)}, ValueError, "two or more different"),
        ({"num_walkers": 2}, ValueError, "at least 4"),
        ({"num_walkers": 2.5}, TypeError, "num_walkers must be a positive integer"),
        ({"num_steps": 0}, ValueError, "num_steps must be a positive integer"),
        ({"burn_in": -1}, ValueError, "burn_in must be a positive integer"),
        ({"correction_turns": -1}, ValueError, "correction_turns"),
        ({"population": "free"}, ValueError, "population must be"),
        ({"max_population": 1000}, ValueError, "goes with population='branching'"),
        ({"max_population": 256, "population": "branching"}, ValueError, "must exceed num_walkers"),
        ({"fixed_node": True}, ValueError, "go together"),
        ({"sign": jnp.sign}, ValueError, "go together"),
        ({"forward_time": -1.0}, ValueError, "forward_time must be positive"),
        ({"start": [np.nan]}, ValueError, "start must be finite points"),
        ({"start": 0.0}, ValueError, "start must be finite points"),
        ({"devices": ()}, ValueError, "cannot be shared by 0 devices"),
        ({"devices": jax.devices("cpu")[:1] * 3}, ValueError, "256 places for walkers cannot be shared by 3"),
    ],
)
def test_settings(settings, error, message):
    with pytest.raises(error, match=message):
        Walkers(**({"trial": gaussian} | SMALL | settings))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"key": None}, ValueError, "give a key"),
        ({"trial": lambda x: -0.5 * x**2}, ValueError, r"trial must return a scalar .* got shape \(1,\)"),
        ({"fixed_node": True, "sign": lambda x: x}, ValueError, "sign must return a scalar"),
        ({"start": np.zeros((4, 2))}, ValueError, r"shape \(1,\) or points of shape \(n, 1\), got \(4, 2\)"),
        ({"start": lambda key: jnp.zeros(2)}, ValueError, r"one point of shape \(1,\), got shape \(2,\)"),
        (
            {"trial": lambda x: -jnp.sum(jnp.sqrt(x**2)), "start": np.zeros((1, 1))},
            FloatingPointError,
            "not a number at 256",
        ),
        ({"trial": lambda x: jnp.where(x[0] > 9, 0.0, -jnp.inf)}, ValueError, "no overlap"),
        ({"forward_time": 20.0}, ValueError, "shorter forward_time"),
    ],
)
def test_what_only_the_hamiltonian_shows(settings, error, message):
    with pytest.raises(error, match=message):
        solve(**settings)


def test_a_trial_of_another_dimension():
    trial = ground_state(HARMONIC, SpectralGrid(bounds=(-6.0, 6.0), points=64))
    plane = Hamiltonian.from_objective(lambda x: 0.5 * x @ x, dim=2, diffusion=0.5)
    with pytest.raises(ValueError, match="the trial has dim = 1, the Hamiltonian dim = 2"):
        solve(plane, trial=trial)


def test_it_stays_outside_of_jit():
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda key: solve(key=key).energy)(KEY)


@pytest.mark.parametrize(
    "potential",
    [
        pytest.param(lambda x: -jnp.sum(x**4), id="quartic"),
        pytest.param(lambda x: -10 * jnp.sum(x), id="linear", marks=pytest.mark.slow),
        pytest.param(lambda x: -0.5 * jnp.sum(x**2), id="upside-down", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore::qdesampler.solvers.WalkersWarning")
def test_a_potential_without_a_lower_bound(potential):
    hamiltonian = Hamiltonian.from_objective(potential, dim=1)
    with pytest.raises((NoGroundStateError, PopulationError), match="unbounded below"):
        solve(hamiltonian, trial=lambda x: -0.5 * jnp.sum(x**2), num_steps=4000)


def test_a_fall_into_the_centre():
    hamiltonian = Hamiltonian.from_objective(lambda x: -3 / (x @ x), dim=3, diffusion=0.5)
    with pytest.raises((NoGroundStateError, PopulationError), match="unbounded below"):
        solve(hamiltonian, trial=lambda x: -0.5 * x @ x, start=np.ones(3), num_walkers=2048, num_steps=8000)


def test_a_trial_that_is_no_number_where_walkers_go():
    with pytest.raises(FloatingPointError, match=r"not a number at \d+ proposals, first about step \d+"):
        solve(
            trial=lambda x: jnp.where(x[0] < 2.5, gaussian(x), jnp.nan),
            num_walkers=1024,
            start=np.zeros((1, 1)),
        )


def test_coarse_steps_are_warned_about():
    quartic = Hamiltonian.from_objective(lambda x: jnp.sum(x**4), dim=1)
    with pytest.warns(WalkersWarning, match="the time step 0.6 is coarse: acceptance 0"):
        solve(quartic, time_step=0.6)


def test_a_short_run_is_warned_about():
    wells = Hamiltonian.from_objective(lambda x: (x[0] ** 2 - 1) ** 2, dim=1, diffusion=0.5)
    with pytest.warns(WalkersWarning, match="short against its correlation time"):
        solve(wells, time_step=0.001, num_steps=320, steps_per_turn=1)
