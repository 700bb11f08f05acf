"""Trajectories of the host: with the same velocities they are those of the compiled move, to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels.mcmc import integrators, trajectory
from qdesampler.kernels.mcmc.host_trajectories import DYNAMICS, Chains, run_trajectories
from qdesampler.kernels.mcmc.integrators import INTEGRATORS
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.numpy_metric import HostMetric, identity, to_position_rows

DIM, CHAINS, STEPS = 3, 40, 5
WALL = 1.2  # of the first coordinate, beyond which the density is NaN
BASIS = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, 2)))[0]
METRIC = HostMetric(np.array([0.5, 1.5, 1.0]), BASIS, np.array([1.7, 0.6]))


def log_density(x):
    """A quartic well with a wall of NaN on one side."""
    value = -0.25 * jnp.sum(x**4) - 0.5 * (x[0] - x[1]) ** 2
    return jnp.where(x[0] < WALL, value, jnp.nan)


def evaluate(points):
    """The same, in NumPy."""
    x, gap = points, points[:, 0] - points[:, 1]
    values = -0.25 * np.sum(x**4, 1) - 0.5 * gap**2
    scores = -(x**3) - np.stack([gap, -gap, 0 * gap], 1)
    inside = x[:, 0] < WALL
    return np.where(inside, values, np.nan), np.where(inside[:, None], scores, np.nan)


def begun(seed=1):
    points = np.random.default_rng(seed).normal(size=(CHAINS, DIM)) * 0.8
    points[:, 0] = np.minimum(points[:, 0], 1.0)
    return Chains(points, *evaluate(points))


def run(name, integrator, step_size, steps=STEPS, seed=2, target=evaluate, chains=None, metric=METRIC):
    return run_trajectories(
        target,
        begun() if chains is None else chains,
        metric,
        step_size,
        steps,
        np.random.default_rng(seed),
        DYNAMICS[name],
        INTEGRATORS[integrator],
    )


def compiled(name, integrator):
    """Ends and acceptances of the compiled trajectories after a given number of steps."""
    dynamics, splitting = integrators.DYNAMICS[name], INTEGRATORS[integrator]

    @jax.jit
    @jax.vmap
    def follow(x, normal, steps, step_size):
        density = jax.value_and_grad(log_density)
        state = trajectory.TrajectoryState(x, *density(x))
        metric = Metric(*map(jnp.asarray, METRIC))
        scheme = trajectory.Scheme(metric, step_size, steps, dynamics, splitting)
        velocity = dynamics.refresh(normal)

        def stage(i, running):
            point = trajectory.next_position(scheme, running, i)
            here = trajectory.TrajectoryState(point, *density(point))
            return trajectory.after_evaluation(scheme, running, i, here)

        total = steps * splitting.stages
        running = trajectory.start_trajectory(scheme, state, velocity)
        running = jax.lax.fori_loop(0, total, stage, running)
        _, info = trajectory.finish_trajectory(0.5, state, running, dynamics.kinetic(velocity), steps, total)
        return running.here.position, info.accept_prob

    return follow


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("integrator", ["leapfrog", "mn2"])
@pytest.mark.parametrize("name", ["canonical", "isokinetic"])
def test_they_are_the_trajectories_of_the_compiled_move(name, integrator):
    """All points and their acceptances, those that have run through the wall among them."""
    step_size = 0.45 * INTEGRATORS[integrator].stages
    found = run(name, integrator, step_size)
    assert found.displacements.shape == (STEPS, CHAINS, DIM)
    normal = np.random.default_rng(2).standard_normal((CHAINS, DIM))
    follow = compiled(name, integrator)
    start = begun().positions
    seen = []
    for steps in range(1, STEPS + 1):
        full = np.full(CHAINS, steps), np.full(CHAINS, step_size)
        ends, accept_probs = map(np.asarray, follow(start, normal, *full))
        mine = start + to_position_rows(METRIC, found.displacements[steps - 1])
        np.testing.assert_allclose(mine, ends, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(found.accept_probs[steps - 1], accept_probs, rtol=1e-7, atol=1e-12)
        seen.append(accept_probs)
        assert np.all(accept_probs[ends[:, 0] >= WALL] == 0)
    # the comparison means something: some are accepted, some doubtful, and some were in the wall
    assert np.any(np.stack(seen) == 1)
    assert np.any((np.stack(seen) > 0.05) & (np.stack(seen) < 0.95))
    assert np.any(np.stack(seen) == 0)
    np.testing.assert_array_equal(found.ends.positions, mine)


@pytest.mark.parametrize("name", ["canonical", "isokinetic"])
def test_other_velocities_or_another_step_give_other_trajectories(name):
    base = run(name, "leapfrog", 0.3)
    for other in (run(name, "leapfrog", 0.3, seed=3), run(name, "leapfrog", 0.31)):
        assert np.min(np.max(np.abs(other.displacements - base.displacements), axis=(0, 2))) > 1e-3
    again = run(name, "leapfrog", 0.3)
    np.testing.assert_array_equal(again.displacements, base.displacements)


@pytest.mark.parametrize("integrator", ["leapfrog", "mn2"])
def test_the_target_is_asked_once_for_each_stage_and_each_answer_counted(integrator):
    asked = []

    def counted(points):
        asked.append(len(points))
        return evaluate(points)

    found = run("canonical", integrator, 0.3, target=counted)
    assert asked == [CHAINS] * (STEPS * INTEGRATORS[integrator].stages)
    assert found.num_evals == sum(asked)
    values, scores = evaluate(found.ends.positions)
    np.testing.assert_array_equal(found.ends.log_densities, values)
    np.testing.assert_array_equal(found.ends.scores, scores)


@pytest.mark.parametrize("name", ["canonical", "isokinetic"])
def test_small_steps_conserve_energy_and_the_error_is_of_second_order(name):
    errors = []
    points = 0.4 * begun().positions - np.array([0.5, 0, 0])  # far from the wall
    chains = Chains(points, *evaluate(points))
    for step_size in (0.1, 0.05, 0.025):
        found = run(name, "leapfrog", step_size, round(0.4 / step_size), chains=chains)
        errors.append(np.mean(-np.log(found.accept_probs[-1])))
    assert errors[0] < 0.05
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < errors[0] / 6  # 1/16 for an error of second order, 1/4 for one of the first


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["canonical", "isokinetic"])
def test_ends_without_a_finite_density_or_score_are_never_accepted(name, value):
    """Without force a trajectory is a straight line, and it goes on where nothing is finite."""

    def no_density(points):
        return np.where(points[:, 0] < 0, 0.0, value), np.zeros_like(points)

    def no_score(points):
        return np.zeros(len(points)), np.where(points < 0, 0.0, value)

    points = np.full((12, DIM), -0.5)
    chains = Chains(points, np.zeros(12), np.zeros((12, DIM)))
    for target, outside in ((no_density, lambda x: x[..., 0] >= 0), (no_score, lambda x: np.any(x >= 0, -1))):
        found = run(name, "leapfrog", 0.3, 8, target=target, chains=chains, metric=identity(DIM, 0))
        places = points + found.displacements
        np.testing.assert_array_equal(found.accept_probs, np.where(outside(places), 0.0, 1.0))
        assert 0 < np.mean(outside(places)) < 1
        steps = np.diff(found.displacements, axis=0)
        np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-12)


@pytest.mark.filterwarnings("error")
def test_a_trajectory_that_overflows_is_rejected():
    def steep(points):
        with np.errstate(over="ignore", invalid="ignore"):
            return -np.sum(points**4, 1), -4 * points**3

    points = np.full((2, DIM), 50.0)
    found = run("canonical", "leapfrog", 1.0, 6, target=steep, chains=Chains(points, *steep(points)))
    np.testing.assert_array_equal(found.accept_probs, 0)
