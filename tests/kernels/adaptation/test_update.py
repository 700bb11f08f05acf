"""The warm-up: what it learns, with and without a solve, and that nothing moves after it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size

from qdesampler.kernels.adaptation import update as learning
from qdesampler.kernels.adaptation.imaginary_time import HOPELESS, NOT_TRIED, SOLVED, UNBOUNDED
from qdesampler.kernels.adaptation.schedule import SMALLEST_SOLVE
from qdesampler.kernels.adaptation.state import Adaptation, AdaptationSettings, choose_move, start_adaptation
from qdesampler.kernels.adaptation.update import MoveResult, adapt
from qdesampler.kernels.mcmc.integrators import INTEGRATORS, canonical
from qdesampler.kernels.mcmc.mixture import DESCENT, GLOBAL, LOCAL, MovePlan, Recorder, mixture_move
from qdesampler.kernels.mcmc.trajectory import Scheme, TrajectoryState, draw_num_steps
from qdesampler.numerics.metric import dense_matrix, identity_metric


def dense_settings(dim, **changes):
    return AdaptationSettings(blocks=(tuple(range(dim)),), block_rank=dim, **changes)


class Run(NamedTuple):
    """What happened, iterations leading."""

    position: jax.Array
    accept_prob: jax.Array
    num_evals: jax.Array
    kind: jax.Array
    shared: Adaptation


def begin(settings, log_density, start, num_warmup, step_size=1.0):
    first = TrajectoryState(start, *jax.vmap(jax.value_and_grad(log_density))(start))
    metric = identity_metric(start.shape[1], settings.rank)
    return first, start_adaptation(settings, metric, first, num_warmup, step_size=step_size)


def iterate(settings, log_density, states, shared, total, key=5):
    """Moves of a batch of chains, warm-up first; the adaptation after every iteration comes back too."""
    evaluate = jax.value_and_grad(log_density)
    chains = states.position.shape[0]

    def body(carry, inputs):
        states, shared = carry
        i, key = inputs
        key_kind, key_steps, key_moves = jax.random.split(key, 3)
        choice = choose_move(settings, shared, jax.random.uniform(key_kind), i)
        steps = draw_num_steps(
            jax.random.uniform(key_steps, (2,)), shared.step_size, choice.length, choice.steps_limit
        )
        scheme = Scheme(shared.metric, shared.step_size, steps, canonical, INTEGRATORS["leapfrog"])

        def move(key, state, descent, window):
            amount = jnp.where(choice.kind == LOCAL, steps, choice.evaluations)
            return mixture_move(
                key,
                state,
                evaluate,
                MovePlan(choice.kind, amount, choice.forget),
                scheme,
                shared.trial,
                descent,
                Recorder(window, shared.count, choice.record),
            )

        new, descent, window, info = jax.vmap(move)(
            jax.random.split(key_moves, chains), states, shared.solve.descent, shared.window
        )
        shared = shared._replace(solve=shared.solve._replace(descent=descent), window=window)
        result = MoveResult(states.position, new.position, info.accept_prob, info.num_evals)
        shared = adapt(settings, shared, i, choice, result)
        known = shared._replace(window=None)
        return (new, shared), Run(new.position, info.accept_prob, info.num_evals, choice.kind, known)

    inputs = (jnp.arange(total), jax.random.split(jax.random.key(key), total))
    return jax.lax.scan(body, (states, shared), inputs)[1]


def simulate(settings, log_density, start, num_warmup, num_draws, step_size=1.0):
    states, shared = begin(settings, log_density, start, num_warmup, step_size)
    total = num_warmup + num_draws
    return jax.jit(lambda states, shared: iterate(settings, log_density, states, shared, total))(
        states, shared
    )


def assert_frozen(shared, warm):
    """Whatever a kept draw depends on has its last value from the last warm-up iteration on."""
    for name in (
        "step_size",
        "length",
        "metric",
        "trial",
        "global_probability",
        "proposals",
        "centredness",
        "plan",
        "solve",
    ):
        for series in jax.tree.leaves(getattr(shared, name)):
            after = np.asarray(series[warm - 1 :])
            assert np.array_equal(after, np.broadcast_to(after[0], after.shape), equal_nan=True), name


def ill_conditioned(dim, condition):
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0]
    variance = np.logspace(-np.log10(condition), 0, dim)
    return jnp.asarray((q * variance) @ q.T, jnp.float32), jnp.asarray((q / np.sqrt(variance)).T, jnp.float32)


def test_learns_a_rotated_ill_conditioned_gaussian_and_then_stands_still():
    dim, warm = 30, 300
    covariance, root = ill_conditioned(dim, 1e4)
    start = 2 * jax.random.normal(jax.random.key(1), (4, dim))
    run = simulate(dense_settings(dim), lambda x: -0.5 * jnp.sum((root @ x) ** 2), start, warm, 200)
    learned = np.asarray(dense_matrix(jax.tree.map(lambda leaf: leaf[-1], run.shared.metric)), float)
    levels = np.linalg.eigvals(np.linalg.solve(np.asarray(covariance, float), learned)).real
    assert levels.min() > 0.8
    assert levels.max() < 1.25
    assert 0.85 < float(run.accept_prob[warm:].mean()) < 0.95
    # whitened, a handful of steps is enough; unwhitened, the widest scale takes over a hundred
    assert float(run.num_evals[warm:].mean()) < 8
    assert_frozen(run.shared, warm)
    assert np.unique(np.asarray(run.shared.step_size[: warm - 1])).size > warm / 2
    # without a solve there are local moves and nothing else
    assert np.all(np.asarray(run.kind) == LOCAL)
    assert np.all(np.asarray(run.shared.solve.outcome) == NOT_TRIED)


def test_the_gain_test_keeps_an_isotropic_target_simple():
    run = simulate(
        dense_settings(3), lambda x: -jnp.sum(jnp.log1p(x**2 / 5)) * 3, jnp.zeros((4, 3)) + 0.1, 200, 1
    )
    np.testing.assert_allclose(np.asarray(run.shared.metric.stretch[-1]), 1, atol=0.35)
    scale = np.asarray(run.shared.metric.scale[-1])
    assert scale.max() / scale.min() < 1.6


def test_a_stuck_chain_lowers_the_acceptance_signal():
    even = learning._acceptance_signal(jnp.full(4, 0.8), jnp.full(4, 0.8))
    stuck = learning._acceptance_signal(jnp.array([0.8, 0.8, 0.8, 0.01]), jnp.array([0.8, 0.8, 0.8, 0.0]))
    assert float(even) == pytest.approx(0.8, rel=1e-5)
    assert float(stuck) < 0.1  # the plain mean would be 0.6


def test_switches_are_respected():
    start = jax.random.normal(jax.random.key(2), (2, 2))
    settings = dense_settings(2, adapt_step_size=False, adapt_metric=False, search_length=False)
    run = simulate(settings, lambda x: -50 * jnp.sum(x**2), start, 100, 5, step_size=0.05)
    shared = run.shared
    assert np.unique(np.asarray(shared.step_size)).size == np.unique(np.asarray(shared.length)).size == 1
    assert float(shared.step_size[-1]) == pytest.approx(0.05)
    np.testing.assert_array_equal(np.asarray(shared.metric.scale), 1)


def narrow_log_density(x):
    """Independent, means 1 and -2, standard deviations 0.1 and 3."""
    return -0.5 * ((x[0] - 1) / 0.1) ** 2 - 0.5 * ((x[1] + 2) / 3) ** 2


LENGTHS = [1, 10, 39, SMALLEST_SOLVE, 45, 60, 96]
PADDED = 200  # rows of the longest plan, so that one program serves every length


@pytest.fixture(scope="module")
def lengths():
    """A run of one chain for each length of warm-up: `{length: Run}`, 1000 draws after each."""
    settings = dense_settings(2, solve=True)
    program = jax.jit(lambda states, shared: iterate(settings, narrow_log_density, states, shared, 1096))

    def padded(row):
        # the last row is the frozen one and may be repeated
        return jnp.concatenate([row, jnp.full(PADDED - row.size, row[-1], row.dtype)])

    def one(num_warmup):
        states, shared = begin(settings, narrow_log_density, jnp.array([[0.5, 0.5]]), num_warmup)
        shared = shared._replace(plan=padded(shared.plan), steps_limit=padded(shared.steps_limit))
        return program(states, shared)

    return {num_warmup: one(num_warmup) for num_warmup in LENGTHS}


@pytest.mark.parametrize("num_warmup", LENGTHS)
def test_every_warmup_ends_frozen_and_its_draws_are_exact(lengths, num_warmup):
    run = lengths[num_warmup]
    kind, evals = np.asarray(run.kind), np.asarray(run.num_evals)[:, 0]
    assert_frozen(run.shared, num_warmup)
    kept = slice(num_warmup, None)
    assert not np.any(kind[kept] == DESCENT)
    assert np.all(evals[kept] >= 1)
    tried = num_warmup >= SMALLEST_SOLVE
    assert np.all(np.asarray(run.shared.solve.outcome) != NOT_TRIED) == tried
    # a warm-up too short to solve, or to measure what it solved, leaves local moves only
    probability = float(run.shared.global_probability[-1])
    assert (probability > 0) == np.any(kind[kept] == GLOBAL)
    if not tried:
        assert probability == 0
    if num_warmup == LENGTHS[-1]:
        assert int(run.shared.solve.outcome[-1]) == SOLVED
        assert probability > 0.5
    if num_warmup < 39:
        return  # the step size is not adapted yet: nothing is asked of these draws but that they are kept
    draws = np.asarray(run.position)[kept, 0]
    for column, (mean, sd) in enumerate(((1, 0.1), (-2, 3))):
        values = (draws[:, column] - mean) / sd
        for series, expected in ((values, 0), (values**2, 1)):
            ess = float(effective_sample_size(series[None]))
            assert ess > 60
            assert abs(series.mean() - expected) < 5 * series.std() / np.sqrt(ess)


def test_a_solved_warmup_rests_without_evaluations(lengths):
    run = lengths[LENGTHS[-1]]
    warm = LENGTHS[-1]
    kind, evals = np.asarray(run.kind)[:warm], np.asarray(run.num_evals)[:warm, 0]
    resting = evals == 0
    assert resting.any()
    first = int(np.argmax(resting))
    # descents, then proposals, then nothing: the chain stands still until the warm-up is over
    assert np.all(resting[first:])
    assert np.all(np.diff(np.flatnonzero(kind == DESCENT)) == 1)
    positions = np.asarray(run.position)
    assert np.array_equal(
        positions[first - 1 : warm], np.broadcast_to(positions[first - 1], (warm - first + 1, 1, 2))
    )
    assert evals.sum() < 500


MODES = 30.0
TARGETS = {
    "flat": lambda x: 0 * jnp.sum(x),
    "slope": lambda x: -x[0],
    "quartic": lambda x: jnp.sum(x**4),
    "two modes": lambda x: jnp.logaddexp(-0.5 * jnp.sum((x - MODES) ** 2), -0.5 * jnp.sum((x + MODES) ** 2)),
}


def test_hard_targets_end_with_the_outcome_that_they_deserve():
    """No proper density is solved for, every run ends with finite numbers, and a second mode is reported."""
    settings = dense_settings(2, solve=True, max_steps=(31, 31))
    warm, branches = 80, list(TARGETS.values())

    @jax.jit
    def program(which, states, shared):
        return iterate(settings, lambda x: jax.lax.switch(which, branches, x), states, shared, warm + 10)

    def result(name, start):
        states, shared = begin(settings, TARGETS[name], start, warm)
        run = program(list(TARGETS).index(name), states, shared)
        # at most a descent's part, a round or a trajectory an iteration
        assert np.all(np.asarray(run.num_evals) <= 31)
        for value in (
            run.shared.step_size,
            run.shared.metric.scale,
            run.shared.global_probability,
            run.shared.length,
        ):
            assert np.all(np.isfinite(value))
        assert_frozen(run.shared, warm)
        return int(run.shared.solve.outcome[-1]), int(run.shared.solve.outliers[-1])

    start = jnp.array([[25.0, 25.0], [-25.0, -25.0], [26.0, 24.0], [-26.0, -26.0]])
    assert result("slope", start)[0] == UNBOUNDED
    assert result("quartic", start)[0] in (UNBOUNDED, HOPELESS)
    assert result("flat", start)[0] != SOLVED
    assert 1 <= result("two modes", start)[1] <= 3
    assert result("two modes", jnp.abs(start)) == (SOLVED, 0)
