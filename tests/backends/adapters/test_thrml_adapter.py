"""THRML behind our protocol: the right law, palindromic sweeps, host only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qdesampler.backends import AnnealingBackend, ExactEnumeration, IsingProblem, ThrmlBackend
from qdesampler.backends.exact_enumeration import all_states

KEY = jax.random.key(1)
READS = 4000


def glass(n, density, seed=0):
    rng = np.random.default_rng(seed)
    couplings = np.triu(rng.normal(size=(n, n)) * (rng.random((n, n)) < density), 1)
    return IsingProblem.from_dense(rng.normal(size=n), couplings, 0.3)


@pytest.mark.parametrize(("n", "density"), [(1, 0.0), (6, 0.5)], ids=["one spin", "glass"])
def test_moments_are_boltzmanns_at_beta(n, density):
    problem, beta = glass(n, density), 0.7
    backend = ThrmlBackend(num_sweeps=20)
    assert isinstance(backend, AnnealingBackend)
    found = backend.sample(problem, key=KEY, num_reads=READS, beta=beta)
    np.testing.assert_allclose(found.energies, problem.energies(found.states), rtol=1e-6)
    states = np.asarray(all_states(n), float)
    weights = np.asarray(jax.nn.softmax(-beta * problem.energies(states)))
    drawn = np.asarray(found.states, float)
    # independent reads, each entry with a standard deviation of at most one
    assert np.abs(drawn.mean(0) - weights @ states).max() < 4 / np.sqrt(READS)
    exact = np.einsum("s,si,sj->ij", weights, states, states)
    assert np.abs(drawn.T @ drawn / READS - exact).max() < 4 / np.sqrt(READS)
    wrong_sign = -(weights @ states)
    assert np.abs(drawn.mean(0) - wrong_sign).max() > 10 / np.sqrt(READS)


def test_sweeps_from_given_states_are_reversible():
    problem, reads = glass(4, 0.7), 40_000
    start = ExactEnumeration().sample(problem, key=jax.random.key(0), num_reads=reads).states
    end = ThrmlBackend(num_sweeps=1).sample(problem, key=KEY, num_reads=reads, initial_states=start).states
    index = [(np.asarray(states) > 0) @ 2 ** np.arange(4) for states in (start, end)]
    flow = np.zeros((16, 16))
    np.add.at(flow, tuple(index), 1)
    there, back = flow[np.triu_indices(16, 1)], flow.T[np.triu_indices(16, 1)]
    busy = there + back > 20
    assert stats.chi2.sf(np.sum((there - back)[busy] ** 2 / (there + back)[busy]), busy.sum()) > 1e-3
    assert np.any(np.asarray(start) != np.asarray(end))


def test_keys_and_bad_calls():
    problem, backend = glass(4, 0.7), ThrmlBackend(num_sweeps=2)
    first = backend.sample(problem, key=KEY, num_reads=8)
    np.testing.assert_array_equal(first.states, backend.sample(problem, key=KEY, num_reads=8).states)
    other = backend.sample(problem, key=jax.random.key(2), num_reads=8)
    assert np.any(np.asarray(first.states) != np.asarray(other.states))
    assert len(np.unique(first.states, axis=0)) > 1
    with pytest.raises(ValueError, match="no schedule"):
        backend.sample(problem, key=KEY, schedule=jnp.ones((2, 2)))
    with pytest.raises(TypeError, match="on the host"):
        jax.jit(lambda key: backend.sample(problem, key=key).states)(KEY)
    with pytest.raises(ValueError, match="num_sweeps"):
        ThrmlBackend(num_sweeps=0)
