"""The local move: exact invariance (wrong twins fail), walls, NaN regions, counting, BlackJAX's shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qdesampler.kernels.mcmc.integrators import DYNAMICS, INTEGRATORS, canonical, isokinetic
from qdesampler.kernels.mcmc.trajectory import TrajectoryState, draw_num_steps, trajectory, trajectory_move
from qdesampler.numerics.metric import from_covariance, identity_metric

CHAINS = 20_000
FAMILY_RATE = 1e-3  # p-value below which a correct kernel is called wrong, over all functionals of one test
METRIC_COVARIANCE = np.array([[1.0, 0.3, 0.0], [0.3, 0.5, 0.0], [0.0, 0.0, 2.0]])


def banana_log_density(x):
    return -0.5 * x[0] ** 2 - 0.5 * ((x[1] - 0.5 * (x[0] ** 2 - 1)) / 0.6) ** 2 - 0.5 * (x[2] / 1.5) ** 2


def banana_draws(key, count):
    z = jax.random.normal(key, (count, 3))
    return jnp.stack([z[:, 0], 0.5 * (z[:, 0] ** 2 - 1) + 0.6 * z[:, 1], 1.5 * z[:, 2]], 1)


def functionals(x):
    x = np.asarray(x)
    u = (x[:, 1] - 0.5 * (x[:, 0] ** 2 - 1)) / 0.6
    return {
        "x0": x[:, 0],
        "x1": x[:, 1],
        "x2": x[:, 2],
        "u": u,
        "radius": x[:, 0] ** 2 + u**2 + (x[:, 2] / 1.5) ** 2,
    }


def smallest_p(before, after):
    """Two-sample Kolmogorov-Smirnov, Bonferroni over the functionals."""
    old, new = functionals(before), functionals(after)
    return min(stats.ks_2samp(old[name], new[name]).pvalue for name in old) * len(old)


def moved(log_density, draws, dynamics, integrator, step_size, num_steps, key, metric):
    evaluate = jax.value_and_grad(log_density)

    def one(key, x):
        state = TrajectoryState(x, *evaluate(x))
        new, info = trajectory_move(key, state, evaluate, metric, step_size, num_steps, dynamics, integrator)
        return new.position, info

    return jax.jit(jax.vmap(one))(jax.random.split(key, draws.shape[0]), draws)


def banana_p_value(dynamics, integrator, step_size=0.5, num_steps=4):
    key_a, key_b, key_move = jax.random.split(jax.random.key(7), 3)
    after, info = moved(
        banana_log_density,
        banana_draws(key_a, CHAINS),
        dynamics,
        integrator,
        step_size,
        num_steps,
        key_move,
        from_covariance(METRIC_COVARIANCE, 3),
    )
    return smallest_p(banana_draws(key_b, CHAINS), after), info


@pytest.mark.parametrize("integrator", ["leapfrog", "mn2"])
@pytest.mark.parametrize("dynamics", ["canonical", "isokinetic"])
def test_exact_draws_stay_exact(dynamics, integrator):
    scheme = INTEGRATORS[integrator]
    p, info = banana_p_value(DYNAMICS[dynamics], scheme, 0.55 * scheme.stages)
    assert p > FAMILY_RATE
    # The test has power only if moves are both accepted and rejected.
    assert 0.3 < float(info.accepted.mean()) < 0.95


@pytest.mark.parametrize("name", ["canonical", "isokinetic"])
def test_the_twin_without_the_kinetic_term_is_caught(name):
    right = DYNAMICS[name]
    wrong = right._replace(kick=lambda v, g, h: (right.kick(v, g, h)[0], jnp.zeros((), v.dtype)))
    p, _ = banana_p_value(wrong, INTEGRATORS["leapfrog"])
    assert p < 1e-6


def test_the_twin_that_takes_everything_is_caught():
    right = canonical
    infinite = right._replace(kick=lambda v, g, h: (v + h * g, -jnp.asarray(1e6, v.dtype)))
    p, _ = banana_p_value(infinite, INTEGRATORS["leapfrog"])
    assert p < 1e-6


@pytest.mark.parametrize("outside", [-jnp.inf, jnp.nan], ids=["wall", "nan"])
def test_half_normal_behind_a_bad_region_is_left_invariant(outside):
    def log_density(x):
        return jnp.where(x[0] > 0, -0.5 * jnp.sum(x**2), outside)

    key_a, key_move = jax.random.split(jax.random.key(8))
    start = jax.random.normal(key_a, (CHAINS, 2))
    start = start.at[:, 0].set(jnp.abs(start[:, 0]))
    after, info = moved(
        log_density, start, canonical, INTEGRATORS["leapfrog"], 0.8, 2, key_move, identity_metric(2, 0)
    )
    assert np.all(np.asarray(after[:, 0]) > 0)
    assert stats.kstest(np.asarray(after[:, 0]), "halfnorm").pvalue * 2 > FAMILY_RATE
    assert stats.kstest(np.asarray(after[:, 1]), "norm").pvalue * 2 > FAMILY_RATE
    assert 0.05 < float(info.diverging.mean()) < 0.9


def test_a_start_of_no_density_is_left_as_soon_as_possible():
    def log_density(x):
        return jnp.where(x[0] > 0, -0.5 * jnp.sum(x**2), -jnp.inf)

    algorithm = trajectory(log_density, 1.0, 2.0)
    state = algorithm.init(jnp.array([-0.5, 0.0]), jax.random.key(1))  # as BlackJAX's loop calls it

    def step(state, key):
        state, _ = algorithm.step(key, state)
        return state, state.log_density

    _, values = jax.lax.scan(step, state, jax.random.split(jax.random.key(9), 50))
    assert np.isfinite(values[-1])
    assert not np.isnan(values).any()


def test_evaluations_are_counted_as_made():
    calls = []

    def evaluate(x):
        jax.debug.callback(lambda: calls.append(1))
        return -0.5 * jnp.sum(x**2), -x

    for integrator, steps in (("leapfrog", 7), ("mn2", 5)):
        calls.clear()
        state = TrajectoryState(jnp.ones(2), jnp.array(-1.0), -jnp.ones(2))
        _, info = jax.jit(
            lambda key, state, steps=steps, integrator=integrator: trajectory_move(
                key, state, evaluate, identity_metric(2, 0), 0.1, steps, canonical, INTEGRATORS[integrator]
            )
        )(jax.random.key(0), state)
        jax.effects_barrier()
        assert int(info.num_evals) == len(calls) == steps * INTEGRATORS[integrator].stages


def test_energy_is_potential_plus_kinetic_of_the_kept_point():
    state = TrajectoryState(jnp.zeros(2), jnp.array(0.0), jnp.zeros(2))

    def evaluate(x):
        return -0.5 * jnp.sum(x**2), -x

    keys = jax.random.split(jax.random.key(4), 2000)
    new, info = jax.vmap(
        lambda key: trajectory_move(
            key, state, evaluate, identity_metric(2, 0), 0.05, 3, canonical, INTEGRATORS["leapfrog"]
        )
    )(keys)
    assert np.all(np.asarray(info.energy) >= -np.asarray(new.log_density) - 1e-5)
    # kinetic energy of two degrees of freedom: mean 1, standard deviation 1; 4.5 standard errors
    assert abs(float(info.energy.mean()) - 1) < 4.5 / np.sqrt(2000)


def test_number_of_steps_has_the_mean_asked_for_and_the_limits():
    units = jax.random.uniform(jax.random.key(10), (20_000, 2))

    def draw(step_size):
        return np.asarray(jax.vmap(lambda unit: draw_num_steps(unit, step_size, 1.8, 100))(units))

    steps = draw(0.3)
    assert steps.min() >= 1
    assert abs(steps.mean() - 6) < 4.5 * steps.std() / np.sqrt(steps.size)
    assert len(np.unique(steps)) > 4
    assert np.all(draw(1e-6) == 100)
    assert np.all(draw(50.0) == 1)


def test_pytree_positions_in_blackjax_shape():
    """Correlated pair of a scalar and a vector: means and variances within 4.5 standard errors."""

    def log_density(z):
        return -0.5 * (z["a"] - 1) ** 2 / 4 - 0.5 * jnp.sum((z["b"] - z["a"]) ** 2)

    algorithm = trajectory(log_density, 0.7, 2.0, integrator="mn2", dynamics="isokinetic")
    start = {"a": jnp.array(0.0), "b": jnp.zeros(2)}

    def chain(key):
        def step(state, key):
            state, info = algorithm.step(key, state)
            return state, (state.position, info.accept_prob)

        return jax.lax.scan(step, algorithm.init(start), jax.random.split(key, 400))[1]

    positions, accept = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(11), 64))
    a, b = np.asarray(positions["a"])[:, 100:], np.asarray(positions["b"])[:, 100:]
    assert float(accept.mean()) > 0.7
    for values, mean, variance in ((a, 1.0, 4.0), (b[..., 0], 1.0, 5.0)):
        per_chain = values.mean(1)
        assert abs(per_chain.mean() - mean) < 4.5 * per_chain.std(ddof=1) / 8
        squares = ((values - mean) ** 2).mean(1)
        assert abs(squares.mean() - variance) < 4.5 * squares.std(ddof=1) / 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_size": 0.0}, "step_size is 0.0; expected a positive"),
        ({"step_size": 0.1, "length": float("nan")}, "trajectory_length is nan"),
        ({"step_size": 0.1, "dynamics": "newtonian"}, "'canonical', 'isokinetic'"),
        ({"step_size": 0.1, "integrator": "euler"}, "'leapfrog', 'mn2'"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        trajectory(lambda x: -x @ x, **arguments)


def test_isokinetic_refuses_one_dimension():
    with pytest.raises(ValueError, match='use dynamics="canonical"'):
        trajectory(lambda x: -x @ x, 0.1, dynamics="isokinetic").init(jnp.zeros(1))
    assert isokinetic.smallest_dim == 2
