"""Swendsen-Wang sweeps: clusters against SciPy's, and the law that they keep, with twins that do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from qdesampler.backends import ExactEnumeration, IsingProblem, SwendsenWang
from qdesampler.backends.exact_enumeration import all_states
from qdesampler.backends.swendsen_wang import bond_probability, cluster_sweep, find_clusters, plan_bonds

READS = 40_000
BETA = 0.8


def torus_edges(rows, columns):
    cells = np.arange(rows * columns).reshape(rows, columns)
    return np.concatenate([np.stack([cells, np.roll(cells, -1, k)], -1).reshape(-1, 2) for k in (0, 1)])


def ferromagnet():
    """A 2 x 4 torus, whose short direction has each pair twice, with fields of both signs."""
    edges = torus_edges(2, 4)
    return IsingProblem.from_edges(np.linspace(-0.4, 0.6, 8), edges, -np.linspace(0.2, 0.6, len(edges)))


def dense_ferromagnet():
    return IsingProblem.from_dense(np.linspace(-0.3, 0.5, 6), -0.3 * np.triu(np.ones((6, 6)), 1), 2.0)


def frustrated():
    """Three triangles in a row, all pairs antiferromagnetic, and fields."""
    edges = np.array([(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (2, 4), (4, 5), (5, 6), (4, 6)])
    return IsingProblem.from_edges(0.3 * np.cos(np.arange(7)), edges, np.linspace(0.4, 1.2, 9))


PROBLEMS = {"ferromagnet": ferromagnet, "dense": dense_ferromagnet, "frustrated": frustrated}


def half_a_bond(beta, gain):
    """Wrong: `exp(-beta E)` changes by `exp(-2 beta J)` where a pair is no longer satisfied."""
    return 1 - jnp.exp(-beta * jnp.maximum(gain, 0))


def bonds_everywhere(beta, gain):
    """Wrong: pairs that are not satisfied are bonded too."""
    return 1 - jnp.exp(-2 * beta * jnp.abs(gain))


def largest_deviation(problem, probability):
    """How far frequencies are from the exact law after a sweep from exact draws, in standard errors.

    Of the states, with those expected less than 20 times taken together, and of the two-point averages.
    """
    key_start, key_sweep = jax.random.split(jax.random.key(7))
    start = ExactEnumeration().sample(problem, key=key_start, num_reads=READS, beta=BETA).states
    graph = plan_bonds(problem)
    moved = jax.jit(lambda s: cluster_sweep(graph, BETA, key_sweep, s, probability))(
        start.T.astype(graph.h.dtype)
    ).T
    states = np.asarray(all_states(problem.num_variables))
    p = np.exp(np.asarray(ExactEnumeration().log_prob(problem, states, beta=BETA)))
    powers = 1 << np.arange(states.shape[1])[::-1]
    counts = np.bincount(((np.asarray(moved) > 0) @ powers).astype(int), minlength=len(states))
    rare = p * READS < 20
    share, known = np.append(counts[~rare], counts[rare].sum()) / READS, np.append(p[~rare], p[rare].sum())
    by_state = np.abs(share - known) / np.sqrt(known * (1 - known) / READS + 1e-12)
    pairs = np.triu_indices(states.shape[1], 1)
    exact = (p @ (states[:, pairs[0]] * states[:, pairs[1]]),)
    found = np.mean(np.asarray(moved)[:, pairs[0]] * np.asarray(moved)[:, pairs[1]], 0)
    by_pair = np.abs(found - exact) / np.sqrt((1 - np.square(exact)) / READS)
    return float(max(by_state.max(), by_pair.max()))


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_sweep_keeps_the_law_of_exact_draws(name):
    # Up to 257 frequencies and 28 averages: the largest of so many normal deviations passes 4.5 once in 500.
    assert largest_deviation(PROBLEMS[name](), bond_probability) < 4.5


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("wrong", [half_a_bond, bonds_everywhere])
def test_sweeps_with_wrong_bonds_do_not(name, wrong):
    assert largest_deviation(PROBLEMS[name](), wrong) > 8


@pytest.mark.parametrize("density", [0.02, 0.3, 0.6, 1.0])
def test_clusters_are_the_connected_components(density):
    rng = np.random.default_rng(int(100 * density))
    edges = torus_edges(9, 7)[rng.permutation(126)]
    n, reads = 63, 5
    graph = plan_bonds(IsingProblem.from_edges(np.zeros(n), edges, np.ones(len(edges))))
    bonds, held = rng.random((len(edges), reads)) < density, rng.random((n, reads)) < 0.02
    labels = np.asarray(find_clusters(graph, jnp.asarray(bonds), jnp.asarray(held)))
    for read in range(reads):
        ghost = np.stack([np.flatnonzero(held[:, read]), np.full(held[:, read].sum(), n)], 1)
        ends = np.concatenate([edges[bonds[:, read]], ghost])
        _, parts = connected_components(coo_array((np.ones(len(ends)), ends.T), shape=(n + 1, n + 1)), False)
        first = np.array([np.flatnonzero(parts == part)[0] + 1 for part in parts[:n]])
        np.testing.assert_array_equal(labels[:, read], np.where(parts[:n] == parts[n], 0, first))


def test_a_long_path_is_one_cluster():
    n = 500
    order = np.random.default_rng(0).permutation(n)
    edges = np.stack([order[:-1], order[1:]], 1)
    graph = plan_bonds(IsingProblem.from_edges(np.zeros(n), edges, np.ones(n - 1)))
    labels = find_clusters(graph, jnp.ones((n - 1, 1), bool), jnp.zeros((n, 1), bool))
    np.testing.assert_array_equal(labels, 1)


def test_strong_couplings_move_all_spins_together_and_strong_fields_hold_them():
    edges = torus_edges(4, 4)
    free = IsingProblem.from_edges(np.zeros(16), edges, -np.full(len(edges), 50.0))
    draw = SwendsenWang(1).sample(free, key=jax.random.key(0), num_reads=200, initial_states=np.ones(16, int))
    turned = np.asarray(draw.states).mean(1)
    assert set(turned) == {-1.0, 1.0}
    assert abs(turned.mean()) < 4 / np.sqrt(200)
    held = free._replace(h=np.append(-50.0, np.zeros(15)))
    draw = SwendsenWang(1).sample(held, key=jax.random.key(0), num_reads=200, initial_states=np.ones(16, int))
    np.testing.assert_array_equal(draw.states, 1)


def test_reads_from_random_starts_tend_to_the_law():
    problem, few = ferromagnet(), 10_000
    reads = SwendsenWang(30).sample(problem, key=jax.random.key(3), num_reads=few, beta=BETA)
    states = all_states(8)
    p = np.exp(np.asarray(ExactEnumeration().log_prob(problem, states, beta=BETA)))
    energies = np.asarray(problem.energies(states))
    error = np.sqrt((p @ energies**2 - (p @ energies) ** 2) / few)
    assert abs(np.mean(reads.energies) - p @ energies) < 4 * error
    early = SwendsenWang(1).sample(problem, key=jax.random.key(3), num_reads=few, beta=BETA)
    assert abs(np.mean(early.energies) - p @ energies) > 8 * error  # one sweep is no draw from the law


def test_spins_without_couplings_are_drawn_from_their_fields():
    alone = IsingProblem.from_edges([0.5, -1.0, 0.0], np.zeros((0, 2), int), [])
    reads = SwendsenWang(20).sample(alone, key=jax.random.key(0), num_reads=READS)
    error = np.sqrt((1 - np.tanh([0.5, -1.0, 0.0]) ** 2) / READS)
    assert np.all(np.abs(np.mean(reads.states, 0) + np.tanh([0.5, -1.0, 0.0])) < 4 * error)
