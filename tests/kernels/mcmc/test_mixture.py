"""The mixture of moves: every part leaves its law alone (a wrong twin fails); bad regions, counts, rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qdesampler.kernels.mcmc import mixture
from qdesampler.kernels.mcmc.integrators import INTEGRATORS, canonical
from qdesampler.kernels.mcmc.mixture import (
    DESCENT,
    GLOBAL,
    LOCAL,
    MovePlan,
    Recorder,
    empty_window,
    mixture_move,
)
from qdesampler.kernels.mcmc.trajectory import Scheme, TrajectoryState
from qdesampler.numerics.lbfgs import next_point, start_descent
from qdesampler.numerics.metric import from_covariance, identity_metric
from qdesampler.numerics.trial import gaussian_trial, log_trial

CHAINS = 20_000
FAMILY_RATE = 1e-3  # p-value below which a correct kernel is called wrong, over all functionals of one test
MOVES = 3
# Trials that are wrong on purpose: shifted, too wide or too narrow, correlated the wrong way.
COVARIANCE = np.array([[1.5, -0.4, 0.2], [-0.4, 0.8, 0.0], [0.2, 0.0, 1.2]])
PLAIN = partial(gaussian_trial, jnp.array([0.4, -0.3, 0.5]))


def trials():
    metric = from_covariance(COVARIANCE, 3)
    plain = PLAIN(metric)
    skewed = plain._replace(
        shift=jnp.array([0.2, -0.3, 0.0]),
        width=jnp.array([1.3, 0.7, 1.0]),
        skew=jnp.array([0.0, 0.6, -0.4]),
        defensive_weight=jnp.asarray(0.1),
    )
    return {"plain": plain, "skewed and defensive": skewed}


def banana_log_density(x):
    return -0.5 * x[0] ** 2 - 0.5 * ((x[1] - 0.5 * (x[0] ** 2 - 1)) / 0.6) ** 2 - 0.5 * (x[2] / 1.5) ** 2


def banana_draws(key, count=CHAINS):
    z = jax.random.normal(key, (count, 3))
    return jnp.stack([z[:, 0], 0.5 * (z[:, 0] ** 2 - 1) + 0.6 * z[:, 1], 1.5 * z[:, 2]], 1)


def smallest_p(before, after):
    """Two-sample Kolmogorov-Smirnov, Bonferroni over the functionals."""

    def functionals(x):
        x = np.asarray(x)
        u = (x[:, 1] - 0.5 * (x[:, 0] ** 2 - 1)) / 0.6
        return [*x.T, u, x[:, 0] ** 2 + u**2 + (x[:, 2] / 1.5) ** 2]

    pairs = list(zip(functionals(before), functionals(after), strict=True))
    return min(stats.ks_2samp(old, new).pvalue for old, new in pairs) * len(pairs)


def one_move(key, state, evaluate, kind, total, trial, window=None, count=0, record=False, forget=False):
    dim = state.position.size
    scheme = Scheme(
        from_covariance(np.eye(dim), dim), 0.6, jnp.asarray(total), canonical, INTEGRATORS["leapfrog"]
    )
    return mixture_move(
        key,
        state,
        evaluate,
        MovePlan(jnp.asarray(kind), jnp.asarray(total), forget),
        scheme,
        trial,
        start_descent(state.position, state.log_density, state.score, 2),
        Recorder(empty_window(4, dim) if window is None else window, jnp.asarray(count), jnp.asarray(record)),
    )


@jax.jit
def three_moves(key, draws, trial, probability):
    """Every chain makes three moves, each global with this probability."""
    return chains_moved(key, draws, trial, probability, banana_log_density)


def chains_moved(key, draws, trial, probability, log_density):
    evaluate = jax.value_and_grad(log_density)

    def one(key, x):
        def body(state, key):
            key_kind, key_move = jax.random.split(key)
            kind = jnp.where(jax.random.uniform(key_kind) < probability, GLOBAL, LOCAL)
            state, _, _, info = one_move(key_move, state, evaluate, kind, 3, trial)
            return state, info

        state, infos = jax.lax.scan(body, TrajectoryState(x, *evaluate(x)), jax.random.split(key, MOVES))
        return state.position, infos

    return jax.vmap(one)(jax.random.split(key, draws.shape[0]), draws)


@pytest.mark.parametrize("trial", ["plain", "skewed and defensive"])
@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0], ids=["local", "mixture", "global"])
def test_exact_draws_stay_exact(trial, probability):
    key_a, key_b, key_move = jax.random.split(jax.random.key(7), 3)
    after, info = three_moves(key_move, banana_draws(key_a), trials()[trial], probability)
    assert smallest_p(banana_draws(key_b), after) > FAMILY_RATE
    # The test has power only if moves are both accepted and rejected.
    assert 0.1 < float(info.accept_prob.mean()) < 0.95
    assert np.all(np.asarray(info.num_evals) == 3)


def test_the_twin_without_the_trials_density_is_caught(monkeypatch):
    monkeypatch.setattr(mixture, "log_trial", lambda trial, position: jnp.zeros((), position.dtype))
    key_a, key_b, key_move = jax.random.split(jax.random.key(7), 3)
    moved = jax.jit(partial(chains_moved, log_density=banana_log_density))
    after, _ = moved(key_move, banana_draws(key_a), trials()["plain"], 0.4)
    assert smallest_p(banana_draws(key_b), after) < 1e-6


def test_regions_without_density_are_never_entered_and_the_rest_is_left_invariant():
    """Half-normal: NaN below zero; where the density is infinite is no place either."""

    def log_density(x):
        value = jnp.where(x[0] > 0, -0.5 * jnp.sum(x**2), jnp.nan)
        value = jnp.where(x[1] > 1.5, jnp.inf, value)
        return jnp.where(x[1] < -1.5, -jnp.inf, value)

    key_a, key_move = jax.random.split(jax.random.key(8))
    uniform = jax.random.uniform(key_a, (CHAINS,), minval=stats.norm.cdf(-1.5), maxval=stats.norm.cdf(1.5))
    start = jnp.stack(
        [
            jnp.abs(jax.random.normal(jax.random.fold_in(key_a, 1), (CHAINS,))),
            jax.scipy.special.ndtri(uniform),
        ],
        1,
    )
    trial = gaussian_trial(jnp.array([0.3, 0.2]), identity_metric(2, 0))
    moved = jax.jit(partial(chains_moved, log_density=log_density))
    after, _ = moved(key_move, start, trial, 0.7)
    after = np.asarray(after)
    assert np.all(after[:, 0] > 0)
    assert np.all(np.abs(after[:, 1]) <= 1.5)
    assert np.mean(np.any(after != np.asarray(start), axis=1)) > 0.5
    assert stats.kstest(after[:, 0], "halfnorm").pvalue * 2 > FAMILY_RATE
    assert stats.kstest(after[:, 1], stats.truncnorm(-1.5, 1.5).cdf).pvalue * 2 > FAMILY_RATE


def test_a_chain_without_density_or_that_forgets_accepts_the_first_proposal():
    def evaluate(x):
        return jnp.where(x[0] > -0.5, -0.5 * jnp.sum(x**2), jnp.nan), -x

    @jax.jit
    def moved(x, centre, forget):
        trial = gaussian_trial(centre, identity_metric(2, 0))
        start = TrajectoryState(x, *evaluate(x))
        new, _, _, info = one_move(jax.random.key(0), start, evaluate, GLOBAL, 3, trial, forget=forget)
        return new, info

    new, info = moved(jnp.array([-1.0, 0.0]), jnp.array([3.0, 0.0]), False)
    assert np.isfinite(new.log_density)
    assert float(new.position[0]) > 0
    assert np.isfinite(info.energy)
    # from the mode of a target far from the trial every proposal is rejected, unless the chain forgets
    for forget in (False, True):
        new, _ = moved(jnp.zeros(2), jnp.array([20.0, 0.0]), forget)
        assert (float(new.position[0]) > 10) == forget


def test_evaluations_are_counted_as_made_and_none_leaves_the_chain_alone():
    calls = []

    def evaluate(x):
        jax.debug.callback(lambda: calls.append(1))
        return -0.5 * jnp.sum(x**2), -x

    start = TrajectoryState(jnp.ones(3), jnp.array(-1.5), -jnp.ones(3))
    trial = trials()["plain"]
    move = jax.jit(lambda key, kind, total: one_move(key, start, evaluate, kind, total, trial))
    for kind in (LOCAL, GLOBAL, DESCENT):
        for total in (1, 6):
            calls.clear()
            *_, info = move(jax.random.key(0), kind, total)
            jax.effects_barrier()
            assert int(info.num_evals) == len(calls) == total
    calls.clear()
    new, descent, _, info = move(jax.random.key(0), GLOBAL, 0)
    jax.effects_barrier()
    assert int(info.num_evals) == len(calls) == 0
    assert float(info.accept_prob) == 1
    assert not info.diverging
    assert all(np.array_equal(a, b) for a, b in zip(new, start, strict=True))
    np.testing.assert_array_equal(descent.position, start.position)


def test_rows_hold_the_proposals_or_the_kept_point():
    evaluate = jax.value_and_grad(banana_log_density)
    x = jnp.array([0.3, -0.4, 0.5])
    state = TrajectoryState(x, *evaluate(x))
    trial = trials()["skewed and defensive"]
    window = empty_window(7, 3)
    move = jax.jit(
        lambda kind, total, record: one_move(
            jax.random.key(3), state, evaluate, kind, total, trial, window, count=5, record=record
        )
    )
    new, _, after, _ = move(GLOBAL, 4, True)
    written, kept = [5, 6, 0, 1], [2, 3, 4]
    draws = np.asarray(after.draws)[written]
    assert len(np.unique(draws[:, 0])) == 4
    values, scores = jax.vmap(evaluate)(draws)
    np.testing.assert_allclose(np.asarray(after.scores)[written], scores, rtol=1e-4, atol=1e-4)
    weights = values - jax.vmap(lambda y: log_trial(trial, y))(draws)
    np.testing.assert_allclose(np.asarray(after.log_weights)[written], weights, rtol=1e-4, atol=1e-4)
    assert np.all(np.asarray(after.log_weights)[kept] == -np.inf)
    assert np.all(np.asarray(after.draws)[kept] == 0)
    # the chain stands at its start or at one of its proposals
    assert np.any(np.all(np.vstack([draws, x]) == np.asarray(new.position), axis=1))

    new, _, after, _ = move(LOCAL, 3, True)
    np.testing.assert_array_equal(after.draws[5], new.position)
    np.testing.assert_array_equal(after.scores[5], new.score)
    assert float(after.log_weights[5]) == 0
    assert np.sum(np.asarray(after.log_weights) > -np.inf) == 1

    for kind in (LOCAL, GLOBAL, DESCENT):
        new, _, after, _ = move(kind, 3, kind == DESCENT)
        assert all(np.array_equal(a, b) for a, b in zip(after, window, strict=True))


def test_a_descent_goes_on_and_leaves_the_chain_alone():
    evaluate = jax.value_and_grad(lambda x: -0.5 * jnp.sum(jnp.array([1.0, 25.0]) * (x - 2) ** 2))
    x = jnp.array([-3.0, 4.0])
    state = TrajectoryState(x, *evaluate(x))
    trial = gaussian_trial(jnp.zeros(2), identity_metric(2, 0))
    new, descent, _, info = one_move(jax.random.key(0), state, evaluate, DESCENT, 40, trial)
    assert all(np.array_equal(a, b) for a, b in zip(new, state, strict=True))
    assert descent.arrived
    assert float(descent.log_density) > -0.2
    np.testing.assert_array_equal(next_point(descent), descent.position)
    assert int(info.num_evals) == 40
