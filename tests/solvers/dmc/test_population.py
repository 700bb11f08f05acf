"""Population control: fair copies, its bias and the cure, and the populations that it cannot save."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.equation import Hamiltonian
from qdesampler.solvers import PopulationError, Walkers, ground_state
from qdesampler.solvers.dmc.population_control import branch, reconfigure

WEIGHT = jnp.array([0.2, 1.7, 0.0, 1.0, 3.1, 0.5, 0.9, 0.6])


@pytest.mark.parametrize("policy", [reconfigure, branch])
def test_copies_are_fair_and_next_to_the_weights(policy):
    room = jnp.concatenate([WEIGHT, jnp.zeros(12)]) if policy is branch else WEIGHT
    control = jax.vmap(lambda k: policy(room, k))(jax.random.split(jax.random.key(0), 20000))
    alive = np.asarray(control.weight) > 0
    ancestors = np.asarray(control.ancestor)
    copies = np.stack([np.sum((ancestors == i) & alive, 1) for i in range(8)], 1)
    wanted = np.asarray(WEIGHT) * (8 / float(WEIGHT.sum()) if policy is reconfigure else 1)
    np.testing.assert_allclose(copies.mean(0), wanted, atol=4 * 0.5 / np.sqrt(20000))
    assert np.all(copies >= np.floor(wanted - 1e-5))
    assert np.all(copies <= np.ceil(wanted + 1e-5))
    np.testing.assert_array_equal(copies.sum(1), np.asarray(control.total))
    if policy is reconfigure:
        np.testing.assert_allclose(control.log_control, np.log(WEIGHT.mean()), rtol=1e-6)
    else:
        assert np.all(np.asarray(control.log_control) == 0)
        assert copies.sum(1).std() > 0.5


def test_equal_weights_change_nothing():
    control = reconfigure(jnp.full(1000, 0.7), jax.random.key(3))
    np.testing.assert_array_equal(control.ancestor, np.arange(1000))


def test_branching_reports_what_has_no_room():
    control = branch(jnp.full(10, 2.0), jax.random.key(0))
    assert float(control.total) == 20
    assert float(branch(jnp.zeros(10), jax.random.key(0)).total) == 0


# ------------------------------------------------------------------------------- in a run

QUARTIC = Hamiltonian.from_objective(lambda x: jnp.sum(x**4), dim=1)


def narrow(x):
    return -jnp.sum(x**2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::qdesampler.solvers.WalkersWarning")
@pytest.mark.parametrize("population", ["reconfiguration", "branching"])
def test_the_bias_of_a_small_population_is_seen_and_put_right(population):
    # The same step with many walkers is the truth here: time step and all.
    few = {"time_step": 0.04, "steps_per_turn": 2, "population": population}
    reference = ground_state(
        QUARTIC,
        Walkers(trial=narrow, num_walkers=4096, num_steps=2000, **few),
        key=jax.random.key(0),
    )
    solver = Walkers(
        trial=narrow,
        num_walkers=16,
        max_population=64 if population == "branching" else None,
        num_steps=200_000,
        burn_in=4000,
        **few,
    )
    state = ground_state(QUARTIC, solver, key=jax.random.key(1))
    found = state.diagnostics
    bias, error = found["population_biases"][0], found["population_bias_errors"][0]
    assert bias > 6 * error
    off = float(state.energy - reference.energy)
    noise = float(jnp.hypot(state.energy_error, reference.energy_error))
    assert abs(off) < 3.5 * noise
    assert off + bias > 4 * noise  # the plain mean is wrong


def test_branching_needs_room():
    solver = Walkers(
        trial=lambda x: -0.5 * x @ x / 4,
        time_step=0.05,
        population="branching",
        num_walkers=1000,
        max_population=1010,
    )
    with pytest.raises(PopulationError, match=r"exploded about step \d+: \d+ walkers for 1010 places"):
        ground_state(QUARTIC, solver, key=jax.random.key(0))


def test_a_population_that_collapses_is_named_with_its_step():
    steep = Hamiltonian.from_objective(lambda x: 2000 * jnp.sum(x**4), dim=4)
    solver = Walkers(
        trial=lambda x: -0.01 * x @ x, time_step=0.5, num_walkers=200, steps_per_turn=200, num_steps=6400
    )
    with pytest.raises(PopulationError, match=r"(collapsed|died) about step \d+"):
        ground_state(steep, solver, key=jax.random.key(0))


def test_walkers_behind_a_wall_die_and_the_death_of_all_is_reported():
    # Outside of the box the potential is infinite; the trial does not know of it.
    box = Hamiltonian.from_objective(lambda x: jnp.where(jnp.abs(x[0]) < 1, 0.0, jnp.inf), dim=1)
    solver = Walkers(trial=lambda x: -jnp.sum(x**2) / 200, time_step=50.0, num_walkers=100, num_steps=2000)
    with pytest.raises(PopulationError, match="all walkers died about step"):
        ground_state(box, solver, key=jax.random.key(0))
