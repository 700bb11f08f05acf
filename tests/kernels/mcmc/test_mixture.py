"""The mixture of moves: every part leaves its law alone (wrong twins fail); bad regions, counts, batches."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qdesampler.kernels.mcmc import mixture
from qdesampler.kernels.mcmc.integrators import DYNAMICS, INTEGRATORS, canonical
from qdesampler.kernels.mcmc.mixture import (
    MOST_CANDIDATES,
    Mixture,
    MovePlan,
    When,
    choose_move,
    mixture_move,
    mixture_step,
    move_noise,
)
from qdesampler.kernels.mcmc.trajectory import TrajectoryState, trajectory_move
from qdesampler.numerics.metric import from_covariance, identity_metric
from qdesampler.numerics.trial import gaussian_trial, log_trial

CHAINS = 20_000
FAMILY_RATE = 1e-3  # p-value below which a correct kernel is called wrong, over all functionals of one test
COUNT = 4000  # of chains that make one move
MOVES = 3
MOST_STEPS = 6
LEAPFROG = INTEGRATORS["leapfrog"]
# Trials that are wrong on purpose: shifted, too wide or too narrow, correlated the wrong way.
COVARIANCE = np.array([[1.5, -0.4, 0.2], [-0.4, 0.8, 0.0], [0.2, 0.0, 1.2]])


def trials():
    plain = gaussian_trial(jnp.array([0.4, -0.3, 0.5]), from_covariance(COVARIANCE, 3))
    skewed = plain._replace(
        shift=jnp.array([0.2, -0.3, 0.0]),
        width=jnp.array([1.3, 0.7, 1.0]),
        skew=jnp.array([0.0, 0.6, -0.4]),
        defensive_weight=jnp.asarray(0.1, float),
    )
    return {"plain": plain, "skewed and defensive": skewed}


def mixed(trial, probability=0.4, step_size=0.6, length=1.8, candidates=3, moves=1):
    return Mixture(trial, *map(jnp.asarray, (step_size, length, probability, candidates, moves)))


def banana_log_density(x):
    return -0.5 * x[0] ** 2 - 0.5 * ((x[1] - 0.5 * (x[0] ** 2 - 1)) / 0.6) ** 2 - 0.5 * (x[2] / 1.5) ** 2


def banana_draws(key, count=CHAINS):
    z = jax.random.normal(key, (count, 3))
    return jnp.stack([z[:, 0], 0.5 * (z[:, 0] ** 2 - 1) + 0.6 * z[:, 1], 1.5 * z[:, 2]], 1)


banana = jax.value_and_grad(banana_log_density)


def smallest_p(before, after):
    """Two-sample Kolmogorov-Smirnov, Bonferroni over the functionals."""

    def functionals(x):
        x = np.asarray(x)
        u = (x[:, 1] - 0.5 * (x[:, 0] ** 2 - 1)) / 0.6
        return [*x.T, u, x[:, 0] ** 2 + u**2 + (x[:, 2] / 1.5) ** 2]

    pairs = list(zip(functionals(before), functionals(after), strict=True))
    return min(stats.ks_2samp(old, new).pvalue for old, new in pairs) * len(pairs)


def chains_moved(key, draws, mixture, evaluate=banana, dynamics=canonical, integrator=LEAPFROG):
    """Every chain makes three moves; each chain decides by itself which, so that all are independent."""

    def one(key, x):
        def body(state, key):
            key_plan, key_move = jax.random.split(key)
            units = jax.random.uniform(key_plan, (3,))
            plan = choose_move(units, mixture, MOST_STEPS, integrator.stages)
            return mixture_move(
                move_noise(key_move, state.position.size),
                state,
                evaluate,
                plan,
                mixture,
                dynamics,
                integrator,
            )

        state, infos = jax.lax.scan(body, TrajectoryState(x, *evaluate(x)), jax.random.split(key, MOVES))
        return state.position, infos

    return jax.vmap(one)(jax.random.split(key, draws.shape[0]), draws)


@pytest.fixture(scope="module")
def programs():
    """One compiled program for each dynamics and integrator."""
    made = {}

    def program(dynamics="canonical", integrator="leapfrog"):
        name = dynamics, integrator
        if name not in made:
            parts = {"dynamics": DYNAMICS[dynamics], "integrator": INTEGRATORS[integrator]}
            made[name] = jax.jit(partial(chains_moved, **parts))
        return made[name]

    return program


def moved_p_value(program, used):
    """The p-value that exact draws stay exact, and what happened."""
    key_a, key_b, key_move = jax.random.split(jax.random.key(7), 3)
    after, info = program(key_move, banana_draws(key_a), used)
    return smallest_p(banana_draws(key_b), after), info


# --------------------------------------------------------------------------- invariance


@pytest.mark.parametrize("trial", ["plain", "skewed and defensive"])
@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0], ids=["local", "mixture", "global"])
def test_exact_draws_stay_exact(programs, trial, probability):
    p, info = moved_p_value(programs(), mixed(trials()[trial], probability))
    assert p > FAMILY_RATE
    # The test has power only if moves are both accepted and rejected.
    assert 0.1 < float(info.accept_prob.mean()) < 0.95
    assert np.all((np.asarray(info.num_evals) >= 1) & (np.asarray(info.num_evals) <= MOST_STEPS))


@pytest.mark.parametrize(
    ("dynamics", "integrator"), [("canonical", "mn2"), ("isokinetic", "leapfrog"), ("isokinetic", "mn2")]
)
def test_exact_draws_stay_exact_under_every_dynamics(programs, dynamics, integrator):
    stages = INTEGRATORS[integrator].stages
    used = mixed(trials()["skewed and defensive"], 0.3, 0.6 * stages, 2.4)
    p, info = moved_p_value(programs(dynamics, integrator), used)
    assert p > FAMILY_RATE
    assert 0.1 < float(info.accept_prob.mean()) < 0.95


def test_the_twin_without_the_trials_density_is_caught(monkeypatch):
    right = mixture.whitened_candidate
    monkeypatch.setattr(mixture, "whitened_candidate", lambda noise, trial: (right(noise, trial)[0], 0.0))
    monkeypatch.setattr(mixture, "log_whitened", lambda trial, y: jnp.zeros((), y.dtype))
    p, _ = moved_p_value(jax.jit(partial(chains_moved)), mixed(trials()["plain"]))
    assert p < 1e-6


def test_the_twin_without_the_kinetic_energy_is_caught():
    wrong = canonical._replace(kick=lambda v, g, h: (v + h * g, jnp.zeros((), v.dtype)))
    p, _ = moved_p_value(jax.jit(partial(chains_moved, dynamics=wrong)), mixed(trials()["plain"], 0.2))
    assert p < 1e-6


def test_regions_without_density_are_never_entered_and_the_rest_is_left_invariant():
    """Half-normal: NaN below zero; infinite is no place either. Both kinds of moves diverge there."""

    def log_density(x):
        value = jnp.where(x[0] > 0, -0.5 * jnp.sum(x**2), jnp.nan)
        value = jnp.where(x[1] > 1.5, jnp.inf, value)
        return jnp.where(x[1] < -1.5, -jnp.inf, value)

    key_a, key_move = jax.random.split(jax.random.key(8))
    uniform = jax.random.uniform(key_a, (CHAINS,), minval=stats.norm.cdf(-1.5), maxval=stats.norm.cdf(1.5))
    half = jnp.abs(jax.random.normal(jax.random.fold_in(key_a, 1), (CHAINS,)))
    start = jnp.stack([half, jax.scipy.special.ndtri(uniform)], 1)
    used = mixed(gaussian_trial(jnp.array([0.3, 0.2]), identity_metric(2, 0)), 0.7)
    after, info = jax.jit(partial(chains_moved, evaluate=jax.value_and_grad(log_density)))(
        key_move, start, used
    )
    after = np.asarray(after)
    assert np.all(after[:, 0] > 0)
    assert np.all(np.abs(after[:, 1]) <= 1.5)
    assert np.mean(np.any(after != np.asarray(start), axis=1)) > 0.5
    assert stats.kstest(after[:, 0], "halfnorm").pvalue * 2 > FAMILY_RATE
    assert stats.kstest(after[:, 1], stats.truncnorm(-1.5, 1.5).cdf).pvalue * 2 > FAMILY_RATE
    assert 0.5 < float(info.diverging[info.num_evals != used.candidates].mean()) < 0.95
    assert 0.5 < float(info.diverging[info.num_evals == used.candidates].mean()) < 0.95


# --------------------------------------------------------------------------- one move


@pytest.fixture(scope="module")
def one_move():
    """One canonical leapfrog move on the banana, `(key, x, plan, mixture) -> (new, info)`, compiled once."""

    def move(key, x, plan, used):
        start = TrajectoryState(x, *banana(x))
        return mixture_move(move_noise(key, x.size), start, banana, plan, used, canonical, LEAPFROG)

    return jax.jit(jax.vmap(move, in_axes=(0, 0, None, None)))


def test_a_candidate_is_accepted_by_the_density_of_the_trial(one_move):
    """A move that forgets shows the candidate; the same key without it shows the acceptance."""
    keys, x = jax.random.split(jax.random.key(3), COUNT), banana_draws(jax.random.key(4), COUNT)
    for trial in trials().values():
        plan = MovePlan(*map(jnp.asarray, (True, 1, True)))
        new, info = one_move(keys, x, plan, mixed(trial))
        assert np.all(np.asarray(info.accept_prob) == 1)
        assert np.all(np.any(np.asarray(new.position != x), axis=1))
        _, single = one_move(keys, x, plan._replace(forget=jnp.asarray(False)), mixed(trial))
        weight = jax.vmap(lambda y, trial=trial: banana_log_density(y) - log_trial(trial, y))
        right = np.exp(np.minimum(weight(new.position) - weight(x), 0))
        assert 0.2 < np.mean(right < 0.9) < 0.9
        np.testing.assert_allclose(single.accept_prob, right, rtol=2e-3, atol=1e-5)


def test_a_move_that_forgets_leaves_a_place_that_no_candidate_would_be_taken_from(one_move):
    far = gaussian_trial(jnp.array([20.0, 0.0, 0.0]), identity_metric(3, 3))
    keys = jax.random.split(jax.random.key(5), COUNT)
    for forget in (False, True):
        plan = MovePlan(*map(jnp.asarray, (True, 2, forget)))
        new, _ = one_move(keys, jnp.zeros((COUNT, 3)), plan, mixed(far))
        assert np.all((np.asarray(new.position[:, 0]) > 10) == forget)


def test_a_local_move_does_not_forget(one_move):
    """Steps that are far too long are rejected, whatever `forget` says."""
    keys, x = jax.random.split(jax.random.key(6), COUNT), jnp.full((COUNT, 3), 0.3)
    plan = MovePlan(*map(jnp.asarray, (False, 3, True)))
    new, info = one_move(keys, x, plan, mixed(trials()["plain"], step_size=30.0))
    np.testing.assert_array_equal(new.position, x)
    assert np.all(info.diverging)


def test_a_local_move_is_that_of_the_trajectory(one_move):
    """Acceptance, energy and squared jump from the same starts, within 4.5 standard errors."""
    steps, trial = 3, trials()["skewed and defensive"]
    x = banana_draws(jax.random.key(9), COUNT)
    keys = jax.random.split(jax.random.key(10), COUNT)
    plan = MovePlan(*map(jnp.asarray, (False, steps, False)))
    new, info = one_move(keys, x, plan, mixed(trial))

    def reference(key, x):
        start = TrajectoryState(x, *banana(x))
        return trajectory_move(key, start, banana, trial.metric, 0.6, jnp.asarray(steps), canonical, LEAPFROG)

    right, single = jax.jit(jax.vmap(reference))(jax.random.split(jax.random.key(11), COUNT), x)
    pairs = [
        (info.accept_prob, single.accept_prob),
        (info.energy, single.energy),
        (jnp.sum((new.position - x) ** 2, 1), jnp.sum((right.position - x) ** 2, 1)),
    ]
    for mine, theirs in pairs:
        gap = np.asarray(mine) - np.asarray(theirs)
        assert abs(gap.mean()) < 4.5 * gap.std(ddof=1) / np.sqrt(COUNT)
    assert 0.3 < float(info.accept_prob.mean()) < 0.95


@pytest.mark.parametrize("integrator", ["leapfrog", "mn2"])
@pytest.mark.parametrize("dynamics", ["canonical", "isokinetic"])
def test_with_the_same_velocity_a_local_move_is_the_trajectory(dynamics, integrator):
    """Both draw their velocity in their own way: here it is given, and so the end is the same."""
    right = DYNAMICS[dynamics]
    velocity = right.refresh(jnp.array([0.5, -1.1, 0.9]))
    given = right._replace(refresh=lambda normal: velocity)
    x, trial = banana_draws(jax.random.key(12), 64), trials()["plain"]
    scheme = INTEGRATORS[integrator]

    @jax.jit
    @jax.vmap
    def both(key, x):
        start, total = TrajectoryState(x, *banana(x)), 3 * scheme.stages
        plan = MovePlan(jnp.asarray(False), jnp.asarray(total))
        mine = mixture_move(
            move_noise(key, x.size),
            start,
            banana,
            plan,
            mixed(trial, step_size=0.5),
            given,
            scheme,
        )
        return mine, trajectory_move(key, start, banana, trial.metric, 0.5, 3, given, scheme)

    (new, info), (other, single) = both(jax.random.split(jax.random.key(13), 64), x)
    np.testing.assert_allclose(info.accept_prob, single.accept_prob, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(info.num_evals, single.num_evals)
    taken = np.any(np.asarray(new.position != x), axis=1) & np.asarray(single.accepted)
    assert taken.sum() > 20
    np.testing.assert_allclose(np.asarray(new.position)[taken], np.asarray(other.position)[taken], atol=1e-4)
    np.testing.assert_allclose(np.asarray(info.energy)[taken], np.asarray(single.energy)[taken], atol=1e-3)


def test_a_chain_without_density_accepts_the_first_candidate_that_has_one():
    def evaluate(x):
        return jnp.where(x[0] > -0.5, -0.5 * jnp.sum(x**2), jnp.nan), -x

    @jax.jit
    def moved(key):
        start = TrajectoryState(jnp.array([-1.0, 0.0]), *evaluate(jnp.array([-1.0, 0.0])))
        used = mixed(gaussian_trial(jnp.array([3.0, 0.0]), identity_metric(2, 0)))
        plan = MovePlan(jnp.asarray(True), jnp.asarray(3))
        return mixture_move(move_noise(key, 2), start, evaluate, plan, used, canonical, LEAPFROG)

    new, info = moved(jax.random.key(0))
    assert np.isfinite(new.log_density)
    assert float(new.position[0]) > 0
    assert np.isfinite(info.energy)


def test_evaluations_are_counted_as_made_and_none_leaves_the_chain_alone():
    calls = []

    def evaluate(x):
        jax.debug.callback(lambda: calls.append(1))
        return -0.5 * jnp.sum(x**2), -x

    start = TrajectoryState(jnp.ones(3), jnp.array(-1.5), -jnp.ones(3))
    used = mixed(trials()["plain"])

    @jax.jit
    def move(key, is_global, total):
        return mixture_move(
            move_noise(key, 3),
            start,
            evaluate,
            MovePlan(is_global, total),
            used,
            canonical,
            LEAPFROG,
        )

    for is_global in (False, True):
        for total in (0, 1, 6):
            calls.clear()
            new, info = move(jax.random.key(0), is_global, total)
            jax.effects_barrier()
            assert int(info.num_evals) == len(calls) == total
            if total == 0:
                assert float(info.accept_prob) == 1
                assert not info.diverging
                assert all(np.array_equal(a, b) for a, b in zip(new, start, strict=True))


# --------------------------------------------------------------------------- the plan and the batch


def test_the_plan_has_the_probability_and_the_lengths_asked_for():
    """The fraction of global moves and the mean number of steps, within 4.5 standard errors."""
    units = jax.random.uniform(jax.random.key(14), (20_000, 3))
    used = mixed(trials()["plain"], 0.3, 0.3, 1.8, candidates=5)
    plan = jax.vmap(lambda unit: choose_move(unit, used, 100, 2))(units)
    is_global, evaluations = np.asarray(plan.is_global), np.asarray(plan.evaluations)
    assert abs(is_global.mean() - 0.3) < 4.5 * np.sqrt(0.3 * 0.7 / 20_000)
    assert np.all(evaluations[is_global] == 5)
    steps = evaluations[~is_global] / 2
    assert np.all(steps == np.round(steps))
    assert abs(steps.mean() - 6) < 4.5 * steps.std() / np.sqrt(steps.size)
    short = jax.vmap(lambda unit: choose_move(unit, used, 4, 2))(units[:500])
    assert np.asarray(short.evaluations)[~is_global[:500]].max() == 8


def test_all_chains_of_a_batch_do_the_same_and_each_what_it_would_do_alone():
    used = mixed(trials()["skewed and defensive"], 0.5, candidates=MOST_CANDIDATES)
    points = jax.vmap(lambda x: TrajectoryState(x, *banana(x)))(banana_draws(jax.random.key(15), 6))

    @jax.jit
    def both(keys, active):
        rest = banana, used, canonical, LEAPFROG
        batch = mixture_step(keys, points, *rest, When(4, active))
        first = jax.tree.map(lambda leaf: leaf[0], points)
        return batch, mixture_step(keys[0], first, *rest, When(4, active))

    done = []
    for i in range(16):
        keys = jax.random.split(jax.random.key(i), 6)
        (new, info), (alone, single) = both(keys, True)
        evaluations = np.unique(info.num_evals)
        assert evaluations.size == 1
        done.append(evaluations[0])
        assert int(single.num_evals) == evaluations[0]
        np.testing.assert_allclose(new.position[0], alone.position, atol=1e-4)
        np.testing.assert_allclose(info.accept_prob[0], single.accept_prob, atol=1e-4)
        assert len(np.unique(np.asarray(info.accept_prob))) > 1  # chains have random numbers of their own
    assert len(np.unique(done)) > 2
    assert MOST_CANDIDATES in done
    (new, info), _ = both(keys, False)
    np.testing.assert_array_equal(new.position, points.position)
    assert np.all(np.asarray(info.num_evals) == 0)


def test_an_iteration_of_several_moves_makes_and_counts_them_all():
    points = jax.vmap(lambda x: TrajectoryState(x, *banana(x)))(banana_draws(jax.random.key(15), 6))
    keys = jax.random.split(jax.random.key(1), 6)
    used = mixed(trials()["plain"], 1.0, moves=4)
    step = jax.jit(
        lambda moves: mixture_step(keys, points, banana, used._replace(moves=moves), canonical, LEAPFROG)
    )
    assert np.all(np.asarray(step(4)[1].num_evals) == 4 * 3)
    assert np.all(np.asarray(step(1)[1].num_evals) == 3)
    assert np.all(np.asarray(step(4)[1].accept_prob) <= 1)
    assert not np.array_equal(step(4)[0].position, step(1)[0].position)
