"""Minimising by a falling D: global minima of objectives with many, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler import Hamiltonian
from qdesampler.equation import Schedule
from qdesampler.solvers import anneal

KEY = jax.random.key(0)
GRID = np.linspace(-3, 3, 60_001)
FALLING = Schedule.geometric(100.0, 0.01)


def rastrigin(x):
    return 10 * x.size + jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x))


def ackley(x):
    root = jnp.sqrt(jnp.mean(x**2) + 1e-12)
    return -20 * jnp.exp(-0.2 * root) - jnp.exp(jnp.mean(jnp.cos(2 * jnp.pi * x))) + 20 + jnp.e


def tilted_wells(x):
    return jnp.sum((x**2 - 4) ** 2 + x)


def objective(function, dim=10):
    return Hamiltonian.from_objective(function, dim=dim)


@pytest.mark.parametrize(
    ("function", "schedule", "half_width", "least"),
    [
        (rastrigin, FALLING, 2.56, 0.0),
        (ackley, Schedule.geometric(10.0, 1e-4), 16.4, 0.0),
        (tilted_wells, FALLING, 2.0, 10 * float(np.min((GRID**2 - 4) ** 2 + GRID))),
    ],
)
def test_the_global_minimum_of_many(function, schedule, half_width, least):
    h = objective(function)
    for seed in range(3):
        key_start, key = jax.random.split(jax.random.key(seed))
        centre = jax.random.uniform(key_start, (10,), minval=-half_width, maxval=half_width)
        found = anneal(h, schedule, key=key, centre=centre, width=half_width, num_steps=1000)
        assert float(found.value) == pytest.approx(least, abs=1e-2)
        assert float(found.value) == pytest.approx(float(function(found.position)), abs=1e-4)
        assert 20 * 1001 < found.evaluations <= 20 * 1001 + 1800
        assert float(found.polished) >= 0


def test_a_diffusion_that_is_low_from_the_start_stays_in_the_nearest_minimum():
    cold = Schedule.constant(0.01)
    centre = jnp.full(10, 1.0)
    found = anneal(objective(rastrigin), cold, key=KEY, centre=centre, width=0.05, num_steps=500)
    np.testing.assert_allclose(found.position, 0.995, atol=0.01)
    assert float(found.value) > 9


def test_scale_and_offset_of_the_objective_do_not_matter():
    schedule = Schedule.geometric(10.0, 0.01)
    plain = anneal(objective(tilted_wells, 2), schedule, key=KEY, width=2.0)
    scaled = anneal(
        objective(lambda x: 64 * tilted_wells(x) - 7.0, 2),
        Schedule.geometric(640.0, 0.64),
        key=KEY,
        width=2.0,
    )
    np.testing.assert_allclose(plain.position, scaled.position, atol=1e-3)


def test_no_polish_gives_the_lowest_draw():
    found = anneal(objective(rastrigin, 2), FALLING, key=KEY, width=2.0, polish=0)
    assert found.evaluations == 20 * 251
    assert float(found.polished) == 0
    assert float(found.value) == pytest.approx(float(rastrigin(found.position)), abs=1e-4)


def lennard_jones(x):
    atoms = x.reshape(-1, 3)
    first, second = np.triu_indices(len(atoms), 1)
    inverse = 1 / jnp.sum((atoms[first] - atoms[second]) ** 2, 1)
    return jnp.sum(4 * (inverse**6 - inverse**3))


@pytest.mark.parametrize(("atoms", "least", "seeds"), [(4, -6.0, 3), (7, -16.505384, 6)])
def test_a_cluster_of_atoms_is_packed(atoms, least, seeds):
    """Where atoms coincide the energy is infinite, and near it the average over any Gaussian."""
    h, values = objective(lennard_jones, 3 * atoms), []
    for seed in range(seeds):
        start = np.random.default_rng(seed).uniform(-1, 1, 3 * atoms)
        schedule = Schedule.geometric(0.1, 0.001)
        found = anneal(h, schedule, key=jax.random.key(seed), centre=start, width=0.3, num_steps=500)
        values.append(float(found.value))
    assert min(values) == pytest.approx(least, abs=1e-3)
    assert np.median(values) < least + 1.0  # one bond less costs about as much


@pytest.mark.parametrize("outside", [jnp.inf, jnp.nan], ids=["infinite", "undefined"])
def test_walls_only_keep_the_state_away(outside):
    """The least value in the half space `x_0 > 1` is on its wall; most of the first draws miss it."""
    h = objective(lambda x: jnp.where(x[0] > 1, x @ x, outside), 2)
    found = anneal(h, Schedule.geometric(1.0, 1e-4), key=KEY, width=2.0, num_steps=500)
    assert float(found.value) == pytest.approx(1.0, abs=0.02)
    assert 0.1 < float(found.at_walls) < 0.9
    free = anneal(objective(lambda x: x @ x, 2), Schedule.geometric(1.0, 1e-4), key=KEY, width=2.0)
    assert float(free.at_walls) == 0


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_an_objective_without_a_finite_least_value_is_refused(value):
    for function in (lambda x: value * jnp.ones(()), lambda x: jnp.where(x[0] > 0, value, value)):
        with pytest.raises(ValueError, match=r"at the lowest of 5020 draws; expected a finite"):
            anneal(objective(function, 2), FALLING, key=KEY)
    with pytest.raises(ValueError, match="is -inf at the lowest"):
        anneal(objective(lambda x: jnp.where(x[0] > 0, x @ x, -jnp.inf), 2), FALLING, key=KEY)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"schedule": Schedule.linear(1.0, 0.0)}, ValueError, "must stay positive"),
        ({"schedule": 0.1}, TypeError, "Hamiltonian and a Schedule"),
        ({"width": -1.0}, ValueError, "width must be positive"),
        ({"centre": jnp.zeros(3)}, ValueError, r"centre must be a finite number or of shape \(2,\)"),
        ({"num_draws": 7}, ValueError, "even and at least 4, got 7"),
        ({"num_steps": 0}, ValueError, "num_steps"),
        ({"strength": 0.0}, ValueError, "strength"),
        ({"polish": -1}, ValueError, "polish"),
    ],
)
def test_bad_arguments(change, error, message):
    arguments = {"schedule": FALLING, "key": KEY} | change
    with pytest.raises(error, match=message):
        anneal(objective(tilted_wells, 2), **arguments)


def test_a_boltzmann_hamiltonian_has_nothing_to_anneal():
    h = Hamiltonian.from_log_density(lambda x: -x @ x, dim=2)
    with pytest.raises(ValueError, match="same for every D"):
        anneal(h, FALLING, key=KEY)
