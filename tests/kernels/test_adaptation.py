"""The warm-up: its plan, what it learns, and that nothing moves after it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.kernels import adaptation as warmup
from qdesampler.kernels.adaptation import (
    AdaptationSettings,
    adapt,
    num_steps_limit,
    start_adaptation,
    trial_length,
)
from qdesampler.kernels.integrators import INTEGRATORS, canonical
from qdesampler.solvers.metric import dense_matrix, identity_metric
from qdesampler.kernels.trajectory import TrajectoryState, draw_num_steps, trajectory_move


def dense_settings(dim, **changes):
    return AdaptationSettings(blocks=(tuple(range(dim)),), block_rank=dim, **changes)


@pytest.mark.parametrize("num_warmup", [0, 1, 5, 19, 20, 27, 30, 59, 60, 61, 100, 333, 1000])
@pytest.mark.parametrize("search_length", [True, False])
def test_every_plan_ends_frozen(num_warmup, search_length):
    plan, limit = warmup._plan(
        num_warmup, AdaptationSettings(search_length=search_length, max_steps=(31, 1023))
    )
    assert plan.shape == limit.shape == (num_warmup + 1,)
    assert plan[-1] == 0
    assert limit[-1] == 1023
    assert np.all(limit[:-1] <= 31)
    flags = {
        name: np.flatnonzero(plan & bit)
        for name, bit in (("record", 1), ("refit", 2), ("search", 4), ("settle", 8), ("freeze", 16))
    }
    if num_warmup:
        assert flags["freeze"].tolist() == [num_warmup - 1]
    if flags["refit"].size:
        # every refit closes a window that was recorded, and the metric is fixed while the length is searched
        assert np.isin(flags["refit"], flags["record"]).all()
        assert flags["search"].size == 0 or flags["search"].min() > flags["refit"].max()
    if num_warmup >= 60 and search_length:
        assert flags["settle"].tolist() == [flags["search"].max()]
        assert num_warmup - 1 - flags["settle"][0] >= 8


def simulate(settings, log_density, start, num_warmup, num_draws, step_size=1.0):
    """Warm-up and draws of a batch of chains; the adaptation state after every iteration comes back too."""
    evaluate = jax.value_and_grad(log_density)
    chains, dim = start.shape
    shared = start_adaptation(
        settings, identity_metric(dim, settings.rank), chains, num_warmup, step_size=step_size
    )

    def body(carry, inputs):
        states, shared = carry
        i, key = inputs
        key_steps, key_moves = jax.random.split(key)
        steps = draw_num_steps(
            key_steps, shared.step_size, trial_length(shared, i), num_steps_limit(shared, i)
        )
        move = partial(
            trajectory_move,
            value_and_score=evaluate,
            metric=shared.metric,
            step_size=shared.step_size,
            num_steps=steps,
            dynamics=canonical,
            integrator=INTEGRATORS["leapfrog"],
        )
        new, info = jax.vmap(lambda k, s: move(k, s))(jax.random.split(key_moves, chains), states)
        shared = adapt(
            settings, shared, i, states.position, new.position, new.score, info.accept_prob, info.num_evals
        )
        outputs = (
            new.position,
            info.accept_prob,
            info.num_evals,
            shared.step_size,
            shared.length,
            shared.metric,
        )
        return (new, shared), outputs

    states = TrajectoryState(start, *jax.vmap(evaluate)(start))
    total = num_warmup + num_draws
    inputs = (jnp.arange(total), jax.random.split(jax.random.key(5), total))
    return jax.jit(lambda: jax.lax.scan(body, (states, shared), inputs))()


def ill_conditioned(dim, condition):
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0]
    variance = np.logspace(-np.log10(condition), 0, dim)
    return jnp.asarray((q * variance) @ q.T, jnp.float32), jnp.asarray((q / np.sqrt(variance)).T, jnp.float32)


def test_learns_a_rotated_ill_conditioned_gaussian_and_then_stands_still():
    dim, warm = 30, 300
    covariance, root = ill_conditioned(dim, 1e4)
    start = 2 * jax.random.normal(jax.random.key(1), (4, dim))
    (_, shared), (_, accept, evals, step, length, metric) = simulate(
        dense_settings(dim), lambda x: -0.5 * jnp.sum((root @ x) ** 2), start, warm, 200
    )
    learned = np.asarray(dense_matrix(shared.metric), float)
    levels = np.linalg.eigvals(np.linalg.solve(np.asarray(covariance, float), learned)).real
    assert levels.min() > 0.8
    assert levels.max() < 1.25
    assert 0.85 < float(accept[warm:].mean()) < 0.95
    # whitened, a handful of steps is enough; unwhitened, the widest scale takes over a hundred
    assert float(evals[warm:].mean()) < 8
    for series in (step, length, *metric):
        after = np.asarray(series[warm - 1 :])
        assert np.array_equal(after, np.broadcast_to(after[0], after.shape))
    assert not np.array_equal(np.asarray(step[: warm - 1]), np.full(warm - 1, step[0]))


def test_the_gain_test_keeps_an_isotropic_target_simple():
    (_, shared), _ = simulate(
        dense_settings(3), lambda x: -jnp.sum(jnp.log1p(x**2 / 5)) * 3, jnp.zeros((4, 3)) + 0.1, 200, 1
    )
    np.testing.assert_allclose(np.asarray(shared.metric.stretch), 1, atol=0.35)
    scale = np.asarray(shared.metric.scale)
    assert scale.max() / scale.min() < 1.6


def test_a_stuck_chain_lowers_the_acceptance_signal():
    even = warmup._acceptance_signal(jnp.full(4, 0.8), jnp.full(4, 0.8))
    stuck = warmup._acceptance_signal(jnp.array([0.8, 0.8, 0.8, 0.01]), jnp.array([0.8, 0.8, 0.8, 0.0]))
    assert float(even) == pytest.approx(0.8, rel=1e-5)
    assert float(stuck) < 0.1  # the plain mean would be 0.6


def test_switches_are_respected():
    start = jax.random.normal(jax.random.key(2), (2, 2))
    settings = dense_settings(2, adapt_step_size=False, adapt_metric=False, search_length=False)
    (_, shared), (_, _, _, step, length, metric) = simulate(
        settings, lambda x: -50 * jnp.sum(x**2), start, 100, 5, step_size=0.05
    )
    assert np.unique(np.asarray(step)).size == np.unique(np.asarray(length)).size == 1
    assert float(shared.step_size) == pytest.approx(0.05)
    np.testing.assert_array_equal(np.asarray(metric.scale), 1)
