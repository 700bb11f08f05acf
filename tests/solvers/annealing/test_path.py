"""Paths in imaginary time: against closed forms, at a constant D and at one that falls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler import GaussianTrial, Hamiltonian, SpectralGrid, ground_state
from qdesampler.equation import Schedule
from qdesampler.solvers import evolve

KEY = jax.random.key(0)


def oscillator(dim=1, diffusion=0.5):
    return Hamiltonian.from_objective(lambda x: 0.5 * x @ x, dim=dim, diffusion=diffusion)


@pytest.fixture(scope="module")
def on_grid():
    return ground_state(oscillator(), SpectralGrid(bounds=(-7.0, 7.0), points=96))


@pytest.fixture(scope="module")
def gaussian():
    return ground_state(oscillator(3), GaussianTrial(), key=KEY)


def exact_variance(start, diffusion, time):
    """Of `x^2 / 2`: d S / d tau = D - 2 S^2, from `start`."""
    still = np.sqrt(diffusion / 2)
    rate = 2 * np.sqrt(2 * diffusion)
    ratio = (start - still) / (start + still) * np.exp(-rate * time)
    return still * (1 + ratio) / (1 - ratio)


def test_a_ground_state_stays(on_grid):
    path = evolve(oscillator(), on_grid, time_step=0.02, num_steps=50)
    assert path.time[-1] == pytest.approx(1.0)
    np.testing.assert_allclose(path.energy, 0.5, atol=1e-4)
    np.testing.assert_allclose(path.variance, 0.5, atol=1e-3)
    np.testing.assert_allclose(path.mean, 0, atol=1e-4)
    assert path.evaluations == 96


def test_a_sudden_change_of_diffusion_follows_the_closed_form_on_the_grid(on_grid):
    path = evolve(oscillator(), on_grid, Schedule.constant(0.1), time_step=0.01, num_steps=200)
    exact = exact_variance(0.5, 0.1, np.asarray(path.time))
    np.testing.assert_allclose(path.variance[:, 0], exact, rtol=2e-3)
    assert np.all(np.diff(path.energy) < 1e-6)
    # the twin: at the old D nothing would move
    assert abs(path.variance[-1, 0] - 0.5) > 0.2


def test_a_sudden_change_of_diffusion_follows_the_closed_form_for_a_gaussian(gaussian):
    path = evolve(
        oscillator(3),
        gaussian,
        Schedule.constant(0.1),
        time_step=0.01,
        num_steps=200,
        num_draws=4096,
        key=KEY,
    )
    exact = exact_variance(0.5, 0.1, np.asarray(path.time))
    np.testing.assert_allclose(path.variance, np.stack([exact] * 3, 1), rtol=0.02)
    np.testing.assert_allclose(path.mean, 0, atol=0.02)
    assert path.evaluations == 4096 * 201
    assert path.state.dim == 3


def test_a_slow_schedule_is_followed(on_grid):
    path = evolve(oscillator(), on_grid, Schedule.linear(0.5, 0.1), time_step=0.05, num_steps=2000)
    np.testing.assert_allclose(path.energy[-1], np.sqrt(0.1 / 2), rtol=1e-3)
    np.testing.assert_allclose(path.diffusion[jnp.array([0, -1])], [0.5, 0.1], rtol=1e-6)
    assert path.state.shape == (96,)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"schedule": Schedule.linear(1.0, 0.0)}, ValueError, "must stay positive"),
        ({"time_step": -1.0}, ValueError, "time_step"),
        ({"num_steps": 0}, ValueError, "num_steps"),
        ({"key": None}, ValueError, "give a key"),
        ({"num_draws": 5}, ValueError, "even and at least 4"),
    ],
)
def test_bad_arguments(gaussian, change, error, message):
    arguments = {"time_step": 0.1, "num_steps": 2, "key": KEY} | change
    with pytest.raises(error, match=message):
        evolve(oscillator(3), gaussian, **arguments)


def test_states_that_do_not_fit(on_grid, gaussian):
    with pytest.raises(ValueError, match="psi has 1 coordinates, the Hamiltonian 3"):
        evolve(oscillator(3), on_grid, time_step=0.1, num_steps=1)
    with pytest.raises(TypeError, match="GroundState found by"):
        evolve(oscillator(3), lambda x: x, time_step=0.1, num_steps=1)
    boltzmann = Hamiltonian.from_log_density(lambda x: -x @ x, dim=3)
    with pytest.raises(ValueError, match="same for every D"):
        evolve(boltzmann, gaussian, Schedule.constant(0.3), time_step=0.1, num_steps=1, key=KEY)
