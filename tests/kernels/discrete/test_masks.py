"""Moves on bits and three-state sites: transition matrices enumerated from their own outcomes leave pi alone.

Every move draws a mask, a proposal or reads, and then chooses one outcome; the matrix is the average of the
outcomes' probabilities. Wrong twins use the same sums and must fail.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.backends import GibbsSurrogate, IsingProblem, QuantumDynamics
from qdesampler.backends.exact_enumeration import all_bits
from qdesampler.kernels.discrete.annealer_moves import (
    independence_outcomes,
    surrogate_outcomes,
    weighted_outcomes,
)
from qdesampler.kernels.discrete.bernoulli_mixture import fit_bernoulli_mixture
from qdesampler.kernels.discrete.informed import (
    flip_differences,
    flip_logits,
    imaginary_time_outcomes,
    informed_outcomes,
    informed_weights,
)
from qdesampler.kernels.discrete.masks import coset_outcomes, mask_outcomes
from qdesampler.kernels.discrete.outcomes import DiscreteState, metropolis_outcomes

BOUND = 1e-10


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


def matrix(outcomes, cases, weights, n, log_density, powers, q=2):
    """P[x, x'], the average of `outcomes(state, case)`; `weights` is (cases,) or (states, cases)."""
    points = positions(n, q)

    def rows(x, weight):
        state = DiscreteState(x, log_density(x))

        def one(case, w):
            found = outcomes(state, case)
            index = found.positions.astype(jnp.int32) @ powers
            return jnp.zeros(q**n).at[index].add(w * jnp.exp(found.log_prob))

        return jnp.sum(jax.vmap(one)(cases, weight), 0)

    weights = jnp.broadcast_to(weights, (q**n, jnp.shape(weights)[-1]))
    return np.asarray(jax.jit(jax.vmap(rows))(points, weights))


def check(P, pi):
    np.testing.assert_allclose(P.sum(1), 1, atol=1e-12)
    assert P.min() >= 0
    return np.abs(pi @ P - pi).max()


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


@pytest.mark.parametrize("pool", ["constant", "one row", "cold", "noise"])
@pytest.mark.parametrize(("n", "q"), [(6, 2), (3, 3)])
def test_mask_and_coset_moves_are_exact_whatever_the_pool(n, q, pool, x64):
    log_density, pi, powers = target(n, q)
    reads = pools(n, q)[pool]
    masks = [np.mod(a - b, q) for a in reads for b in reads]
    units = [k * np.eye(n, dtype=int)[i] for i in range(n) for k in range(1, q)]
    cases = jnp.array(masks + units)
    weights = np.concatenate([np.full(len(masks), 0.5 / len(masks)), np.full(len(units), 0.5 / len(units))])
    P = matrix(lambda s, m: mask_outcomes(s, log_density, m, q), cases, weights, n, log_density, powers, q)
    assert check(P, pi) < BOUND
    pairs = jnp.array([[m, u] for m in masks for u in units])
    P = matrix(
        lambda s, m: coset_outcomes(s, log_density, m, q), pairs, np.full(len(pairs), 1 / len(pairs)), n,
        log_density, powers, q,
    )  # fmt: skip
    assert check(P, pi) < BOUND
    # and pi is the only law that stays: the second eigenvalue is below one on the states that can be
    inside = pi > 0
    levels = np.sort(np.abs(np.linalg.eigvals(P[np.ix_(inside, inside)])))
    assert levels[-2] < 1 - 1e-6


def test_three_masks_generate_a_larger_orbit(x64):
    log_density, pi, powers = target(4)
    rng = np.random.default_rng(3)
    cases = jnp.array(rng.integers(2, size=(10, 3, 4)))
    P = matrix(
        lambda s, m: coset_outcomes(s, log_density, m), cases, np.full(10, 0.1), 4, log_density, powers
    )
    assert check(P, pi) < BOUND


def test_masks_that_look_at_the_current_state_are_wrong(x64):
    """The twin takes `x XOR a`, proposing the read itself as if it were a symmetric move."""
    n = 5
    log_density, pi, powers = target(n)
    reads = jnp.array(pools(n, 2)["cold"])

    def naive(state, read):
        proposal = read.astype(state.position.dtype)
        return metropolis_outcomes(state, proposal, log_density(proposal))

    P = matrix(naive, reads, np.full(len(reads), 1 / len(reads)), n, log_density, powers)
    assert check(P, pi) > 1e-3


def test_symmetric_acceptance_on_boltzmann_draws_is_wrong(x64):
    """Draws of an annealer, accepted as if symmetric: the stationary law is off by more than .05."""
    n = 4
    problem = glass(n)
    bits = all_bits(n)
    q = np.asarray(jax.nn.softmax(-1.5 * problem.energies(2 * bits - 1)))
    f = jnp.asarray(-problem.energies(2 * bits - 1))
    powers = 2 ** np.arange(n - 1, -1, -1)
    log_density = lambda x: f[jnp.sum(x * powers)]  # noqa: E731
    pi = np.asarray(jax.nn.softmax(f))

    def naive(state, proposal):
        return metropolis_outcomes(state, proposal, log_density(proposal))

    def right(state, case):
        proposal, log_q = case
        here = jnp.log(q)[jnp.sum(state.position * powers)]
        return independence_outcomes(state, log_density, proposal, log_q, here)

    P = matrix(naive, bits, q, n, log_density, powers)
    levels, vectors = np.linalg.eig(P.T)
    stays = np.real(vectors[:, np.argmax(levels.real)])
    stays = stays / stays.sum()
    assert 0.5 * np.abs(stays - pi).sum() > 0.05
    assert check(matrix(right, (bits, jnp.log(q)), q, n, log_density, powers), pi) < BOUND


def test_a_fitted_mixture_is_a_law_and_its_move_is_exact(x64):
    n = 5
    log_density, pi, powers = target(n)
    for pool in pools(n, 2).values():
        density = fit_bernoulli_mixture(jnp.array(pool), key=jax.random.key(0), num_components=3)
        bits = all_bits(n)
        log_q = jax.vmap(density.log_prob)(bits)
        assert float(jnp.sum(jnp.exp(log_q))) == pytest.approx(1, abs=1e-12)
        assert float(log_q.min()) > np.log(0.1 / 2**n) - 1e-9

        def outcomes(state, case, density=density):
            return independence_outcomes(state, log_density, *case, density.log_prob(state.position))

        P = matrix(outcomes, (bits, log_q), jnp.exp(log_q), n, log_density, powers)
        assert check(P, pi) < BOUND


@pytest.mark.parametrize("differences", ["flips", "autodiff"])
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_steps_of_imaginary_time_are_exact(order, tau, differences, x64):
    n = 4
    table, pi, powers = target(n)
    if differences == "autodiff":  # needs a continuous extension: a cubic
        rng = np.random.default_rng(1)
        cubic = jnp.array(rng.normal(size=(n, n, n)))
        table = lambda x: jnp.einsum("i,j,k,ijk", x, x, x, cubic)  # noqa: E731
        pi = np.asarray(jax.nn.softmax(jax.vmap(table)(all_bits(n).astype(float))))
    log_density = (lambda x: table(x.astype(float))) if differences == "autodiff" else table

    def logits(state):
        if order == 0:
            return flip_logits(jnp.zeros(n), tau)
        return flip_logits(flip_differences(state.position, state.log_density, log_density, differences), tau)

    def outcomes(state, mask):
        return imaginary_time_outcomes(state, log_density, mask, logits(state), tau, order, differences)

    def weight(x):
        odds = logits(DiscreteState(x, log_density(x)))
        signs = 2 * all_bits(n) - 1
        return jnp.exp(jnp.sum(jax.nn.log_sigmoid(signs * odds), -1))

    P = matrix(outcomes, all_bits(n), jax.vmap(weight)(all_bits(n)), n, log_density, powers)
    assert check(P, pi) < BOUND


@pytest.mark.parametrize("balance", ["sqrt", "barker"])
def test_informed_flips_are_exact_and_without_correction_they_are_not(balance, x64):
    n = 5
    log_density, pi, powers = target(n)

    def log_weights(x):
        return informed_weights(flip_differences(x, log_density(x), log_density, "flips"), balance)

    def outcomes(state, site):
        return informed_outcomes(state, log_density, site, log_weights(state.position), balance)

    def twin(state, site):
        proposal = state.position.at[site].set(1 - state.position[site])
        return metropolis_outcomes(state, proposal, log_density(proposal))

    weights = jnp.exp(jax.vmap(log_weights)(all_bits(n)))
    assert check(matrix(outcomes, jnp.arange(n), weights, n, log_density, powers), pi) < BOUND
    assert check(matrix(twin, jnp.arange(n), weights, n, log_density, powers), pi) > 1e-3


def glass(n, seed=0):
    rng = np.random.default_rng(seed)
    J = np.triu(rng.normal(size=(n, n)), 1)
    return IsingProblem.from_dense(0.5 * rng.normal(size=n), J, 0.2)


def site_updates(problem, beta):
    """One heat-bath matrix for each spin, written out."""
    n = problem.num_variables
    states = 2 * np.asarray(all_bits(n), int) - 1
    energies = np.asarray(problem.energies(states))
    found = []
    for i in range(n):
        P = np.zeros((2**n, 2**n))
        flipped = np.arange(2**n) ^ (1 << (n - 1 - i))
        stay = 1 / (1 + np.exp(-beta * (energies[flipped] - energies)))
        P[np.arange(2**n), np.arange(2**n)] = stay
        P[np.arange(2**n), flipped] = 1 - stay
        found.append(P)
    return found


def test_surrogate_transitions_are_exact_and_one_way_sweeps_are_not(x64):
    n, beta = 4, 0.8
    log_density, pi, powers = target(n)
    problem = glass(n)
    updates = site_updates(problem, beta)
    forwards = np.linalg.multi_dot(updates)
    palindrome = forwards @ np.linalg.multi_dot(updates[::-1])

    def outcomes(state, proposal):
        return surrogate_outcomes(state, log_density, proposal, problem, beta)

    assert check(matrix(outcomes, all_bits(n), palindrome, n, log_density, powers), pi) < BOUND
    assert check(matrix(outcomes, all_bits(n), forwards, n, log_density, powers), pi) > 1e-4
    # and the backend's sweeps have this matrix
    draws = GibbsSurrogate(1).sample(
        problem, key=jax.random.key(0), num_reads=20_000, beta=beta, initial_states=np.ones(n, int)
    )
    counts = np.bincount((np.asarray(draws.states) > 0) @ powers, minlength=2**n) / 20_000
    error = np.sqrt(palindrome[-1] * (1 - palindrome[-1]) / 20_000) + 1e-4
    assert np.all(np.abs(counts - palindrome[-1]) < 4.5 * error)
    assert np.any(np.abs(counts - forwards[-1]) > 8 * error)


@pytest.mark.parametrize("mode", ["quench", "reverse_anneal"])
@pytest.mark.parametrize("schedule", [None, "lopsided"])
def test_quantum_proposals_are_symmetric_and_exact(mode, schedule, x64):
    n = 5
    log_density, pi, powers = target(n)
    backend = QuantumDynamics(mode, num_steps=20)
    table = None if schedule is None else np.random.default_rng(0).random((7, 2))
    Q = np.asarray(backend.transition_matrix(glass(n), key=jax.random.key(3), schedule=table))
    assert np.abs(Q - Q.T).max() < 1e-12
    np.testing.assert_allclose(Q.sum(1), 1, atol=1e-12)
    assert Q.diagonal().mean() < 0.9  # it moves

    def outcomes(state, proposal):
        return metropolis_outcomes(state, proposal, log_density(proposal))

    assert check(matrix(outcomes, all_bits(n), Q, n, log_density, powers), pi) < BOUND


def test_choosing_by_weight_is_exact_and_reused_forward_weights_are_not(x64):
    """A made-up annealer: three atoms (x, w) for each x, whose weights average to exp(-E)."""
    n, atoms = 2, 3
    log_density, pi, powers = target(n)
    rng = np.random.default_rng(0)
    x = jnp.repeat(positions(n), atoms, 0)
    p = rng.dirichlet(np.ones(len(x)))
    w = rng.exponential(size=len(x)) + 0.1
    mass = np.add.reduceat(p * w, np.arange(0, len(x), atoms))  # = exp(-E)
    log_weight = jnp.log(w) - jnp.log(np.repeat(mass, atoms))  # for the counting measure
    back = p * w / np.repeat(mass, atoms)
    cases = jnp.array(list(itertools.product(range(atoms), range(len(x)), range(len(x)))))

    def outcomes(state, case):
        here = atoms * jnp.sum(state.position * powers) + case[0]
        fresh = case[1:]
        draws = x[fresh]
        weights = jnp.concatenate([log_weight[here][None], log_weight[fresh]])
        return weighted_outcomes(state, draws, jax.vmap(log_density)(draws), weights)

    def probability(first):
        return np.array([first[k] * p[a] * p[b] for k, a, b in np.asarray(cases)])

    right = np.stack([probability(row) for row in back.reshape(-1, atoms)])
    forward = p.reshape(-1, atoms) / p.reshape(-1, atoms).sum(1, keepdims=True)
    wrong = np.stack([probability(row) for row in forward])
    assert check(matrix(outcomes, cases, right, n, log_density, powers), pi) < BOUND
    assert check(matrix(outcomes, cases, wrong, n, log_density, powers), pi) > 1e-3
