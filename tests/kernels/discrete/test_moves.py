"""The discrete moves with their own draws: exact draws stay exact; bad densities, counts, refusals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.backends import (
    GibbsSurrogate,
    IsingProblem,
    QuantumDynamics,
    SimulatedAnnealing,
    SwendsenWang,
)
from qdesampler.kernels.discrete.annealer_moves import (
    annealed_importance_move,
    independence_move,
    surrogate_move,
    symmetric_move,
)
from qdesampler.kernels.discrete.bernoulli_mixture import fit_bernoulli_mixture
from qdesampler.kernels.discrete.informed import imaginary_time_move, informed_flip
from qdesampler.kernels.discrete.masks import coset_move, mask_move
from qdesampler.kernels.discrete.outcomes import choose, init_discrete, metropolis_outcomes, require_law


def target(n, q=2, seed=0):
    """A rough log density with terms of all orders: a table over q^n positions, one of them impossible."""
    rng = np.random.default_rng(seed)
    table = 1.5 * rng.normal(size=q**n)
    table[rng.integers(q**n)] = -np.inf
    powers = q ** np.arange(n - 1, -1, -1)
    values = jnp.asarray(table)
    pi = np.exp(table - table.max())
    return (lambda x: values[jnp.sum(x.astype(jnp.int32) * powers)]), pi / pi.sum(), powers


def positions(n, q=2):
    return jnp.array(list(itertools.product(range(q), repeat=n)), jnp.int8)


def pools(n, q, seed=0):
    """What a broken device may return."""
    rng = np.random.default_rng(seed)
    row = rng.integers(q, size=n)
    cold = np.where(rng.random((4, n)) < 0.1, rng.integers(q, size=(4, n)), row)
    return {
        "constant": np.tile(row, (3, 1)),
        "one row": row[None],
        "cold": cold,
        "noise": rng.integers(q, size=(4, n)),
    }


def glass(n, seed=0):
    rng = np.random.default_rng(seed)
    J = np.triu(rng.normal(size=(n, n)), 1)
    return IsingProblem.from_dense(0.5 * rng.normal(size=n), J, 0.2)


def moves(problem):
    pool = jnp.array(pools(3, 2)["noise"])
    mixture = fit_bernoulli_mixture(pool, key=jax.random.key(0), num_components=2)
    annealing = SimulatedAnnealing(3)
    return {
        "mask": lambda k, s, f: mask_move(k, s, f, pool),
        "coset": lambda k, s, f: coset_move(k, s, f, pool, num_masks=2),
        "free": lambda k, s, f: imaginary_time_move(k, s, f, taylor_order=0),
        "informed": lambda k, s, f: informed_flip(k, s, f),
        "langevin": lambda k, s, f: imaginary_time_move(k, s, f, tau=0.5),
        "independence": lambda k, s, f: independence_move(k, s, f, mixture),
        "surrogate": lambda k, s, f: surrogate_move(k, s, f, GibbsSurrogate(1), problem),
        "clusters": lambda k, s, f: surrogate_move(k, s, f, SwendsenWang(1), problem),
        "quantum": lambda k, s, f: symmetric_move(k, s, f, QuantumDynamics(num_steps=4), problem),
        "imaginary time": lambda k, s, f: independence_move(
            k, s, f, QuantumDynamics("imaginary_time"), problem
        ),
        "annealed": lambda k, s, f: annealed_importance_move(k, s, f, annealing, problem, num_reads=2),
    }


SPENT = {
    "mask": 1, "coset": 3, "free": 1, "informed": 7, "langevin": 7, "independence": 1, "surrogate": 1,
    "clusters": 1, "quantum": 1, "imaginary time": 1, "annealed": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", SPENT)
def test_every_move_keeps_exact_draws_exact(name):
    log_density, pi, powers = target(3, seed=4)
    move = moves(glass(3))[name]
    chains = 20_000
    start = positions(3)[np.random.default_rng(0).choice(8, size=chains, p=pi)]

    @jax.jit
    @jax.vmap
    def step(key, x):
        state, info = move(key, init_discrete(x, log_density), log_density)
        return state, info, log_density(state.position)

    state, info, value = step(jax.random.split(jax.random.key(1), chains), start)
    np.testing.assert_allclose(state.log_density, value, rtol=1e-6)
    counts = np.bincount(np.asarray(state.position) @ powers, minlength=8)
    inside = pi > 0
    assert counts[~inside].sum() == 0
    assert np.all(np.abs(counts - chains * pi)[inside] < 4.5 * np.sqrt(chains * pi * (1 - pi))[inside])
    changed = np.any(np.asarray(state.position) != np.asarray(start), -1)
    assert 0.05 < changed.mean() == pytest.approx(float(info.accept_prob.mean()), abs=0.02)
    assert np.all(np.asarray(info.num_evals) == SPENT[name])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_positions_without_a_density_are_never_entered(bad):
    def log_density(x):
        return jnp.where(x[0] == 1, bad, 0.0)

    pool = jnp.array([[0, 0], [1, 1]])
    start = init_discrete(jnp.zeros(2, jnp.int8), log_density)
    for move in (
        lambda k: mask_move(k, start, log_density, pool),
        lambda k: coset_move(k, start, log_density, pool, num_masks=2),
        lambda k: imaginary_time_move(k, start, log_density, tau=2.0),
    ):
        state, info = jax.vmap(move)(jax.random.split(jax.random.key(0), 50))
        assert np.all(np.asarray(state.position)[:, 0] == 0)
        assert np.all(np.isfinite(info.accept_prob))


def test_a_chain_that_starts_outside_comes_in():
    def log_density(x):
        return jnp.where(x[0] == 0, -jnp.inf, 0.0)

    pool = jnp.array([[0, 0], [1, 1]])
    state = init_discrete(jnp.zeros(2, jnp.int8), log_density)
    for key in jax.random.split(jax.random.key(0), 20):
        state, _ = coset_move(key, state, log_density, pool)
    assert int(state.position[0]) == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: require_law("surrogate", SimulatedAnnealing()), TypeError, "reversible"),
        (lambda: require_law("symmetric", GibbsSurrogate()), TypeError, "K\\(x, x'\\)"),
        (lambda: require_law("independence", SimulatedAnnealing()), TypeError, "must be known"),
        (lambda: require_law("annealed_importance", GibbsSurrogate()), TypeError, "weights"),
        (lambda: require_law("independence", QuantumDynamics()), TypeError, "'symmetric'"),
        (lambda: require_law("teleport", QuantumDynamics()), ValueError, "no move"),
        (lambda: require_law("mask", object()), TypeError, "annealing backend"),  # pyright: ignore
        (lambda: init_discrete(jnp.zeros(3), jnp.sum), TypeError, "integers"),
        (lambda: init_discrete(jnp.zeros((2, 3), int), jnp.sum), ValueError, "one point"),
        (lambda: coset_move(*bare(), jnp.zeros((2, 4), int)), ValueError, "reads as rows"),
        (lambda: coset_move(*bare(), jnp.zeros((2, 3))), ValueError, "integers"),
        (lambda: coset_move(*bare(), jnp.zeros((2, 3), int), num_masks=13), ValueError, "num_masks"),
        (lambda: mask_move(*bare(), jnp.zeros((2, 3), int), local_share=0.0), ValueError, "local_share"),
        (lambda: imaginary_time_move(*bare(), taylor_order=2), ValueError, "surrogate_move"),  # pyright: ignore
        (lambda: fit_bernoulli_mixture(jnp.zeros(3), key=jax.random.key(0)), ValueError, "rows"),
        (lambda: surrogate_move(*bare(), QuantumDynamics(), glass(3)), TypeError, "does not take"),
        (lambda: independence_move(*bare(), QuantumDynamics("imaginary_time")), TypeError, "problem"),
    ],
)
def test_wrong_pairs_and_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def flat(x):
    return 0.0 * jnp.sum(x)


def bare():
    return jax.random.key(0), init_discrete(jnp.zeros(3, jnp.int8), flat), flat


def test_choose_reports_how_likely_a_change_was():
    state = init_discrete(jnp.zeros(2, jnp.int8), lambda x: 0.0 * jnp.sum(x))
    _, info = choose(jax.random.key(0), metropolis_outcomes(state, state.position, jnp.zeros(())), 1)
    assert float(info.accept_prob) == 0.0  # the proposal is where the chain is
