"""Imaginary time by flips in continuous time: the matrix exponential it must be, and twins that are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from qdesampler.backends import ImaginaryTime, IsingProblem
from qdesampler.backends.exact_enumeration import all_states
from qdesampler.backends.imaginary_time import imaginary_time_flips

READS, BETA, TAU = 40_000, 0.7, 0.6


def problem():
    rng = np.random.default_rng(3)
    return IsingProblem.from_dense(rng.normal(size=4), np.triu(rng.normal(size=(4, 4)), 1), 5.0)


def transition(power, pairs=()):
    """`exp(tau L)` with the rates `(q(s^i) / q(s))^power`; one half is imaginary time."""
    states = np.asarray(all_states(4))
    energies = np.asarray(problem().energies(states), float)
    differ = states[:, None] != states
    together = [np.isin(np.arange(4), pair) for pair in pairs]
    reached = np.sum(differ, -1) == 1
    for pair in together:
        reached |= np.all(differ == pair, -1)
    L = np.where(reached, np.exp(-BETA * power * (energies - energies[:, None])), 0.0)
    return expm(TAU * (L - np.diag(L.sum(1))))


def deviation(expected, max_flips=1000, start=5, pairs=None):
    """The largest deviation of frequencies of ends from one row of a matrix, in standard errors."""
    states = np.asarray(all_states(4))
    if pairs is None:
        backend = ImaginaryTime(TAU, max_flips)
        found = backend.sample(
            problem(), key=jax.random.key(1), num_reads=READS, beta=BETA, initial_states=states[start]
        ).states
    else:
        dense, s = problem().dense(), jnp.asarray(states[start])
        path = lambda key: imaginary_time_flips(key, s, dense, TAU, BETA, pairs=jnp.asarray(pairs))[0]  # noqa: E731
        found = jax.jit(jax.vmap(path))(jax.random.split(jax.random.key(1), READS))
    powers = 1 << np.arange(4)[::-1]
    counts = np.bincount(((np.asarray(found) > 0) @ powers).astype(int), minlength=16)
    p = expected[start]
    return np.max(np.abs(counts / READS - p) / np.sqrt(p * (1 - p) / READS + 1e-12))


def test_ends_have_the_law_of_imaginary_time():
    right = transition(0.5)
    energies = np.asarray(problem().energies(np.asarray(all_states(4))), float)
    root = np.exp(-BETA * (energies - energies.min()) / 2)
    symmetric = root[:, None] * right / root
    np.testing.assert_allclose(symmetric, symmetric.T, atol=1e-10)  # reversible: what the law promises
    assert deviation(right) < 4  # 16 frequencies
    assert deviation(transition(1.0)) > 10  # the whole ratio as a rate: the twin


def test_pairs_flip_together_at_the_rate_of_a_flip():
    pairs = [[0, 1], [3, 1]]
    assert deviation(transition(0.5, pairs), pairs=pairs) < 4
    assert deviation(transition(0.5), pairs=pairs) > 10  # no pairs: the twin
    assert deviation(transition(0.5, [[0, 1], [3, 2]]), pairs=pairs) > 8  # another pair


def test_paths_that_are_given_up_keep_the_balance():
    """Ends after at most two flips, else the start: symmetric once weighted, and not the whole law."""
    states = np.asarray(all_states(4))
    counts, powers = [], 1 << np.arange(4)[::-1]
    for row, state in enumerate(states):
        found = ImaginaryTime(TAU, 2).sample(
            problem(), key=jax.random.key(row), num_reads=READS, beta=BETA, initial_states=state
        )
        counts.append(
            np.bincount(((np.asarray(found.states) > 0) @ powers).astype(int), minlength=16) / READS
        )
    energies = np.asarray(problem().energies(states), float)
    q = np.exp(-BETA * (energies - energies.min()))
    q /= q.sum()
    flow = q[:, None] * np.array(counts)
    error = np.sqrt(q[:, None] * flow / READS + 1e-12)
    off = ~np.eye(16, dtype=bool)
    z = (flow - flow.T) / np.sqrt(error**2 + error.T**2)
    assert np.abs(z[off]).max() < 4.5  # 120 pairs
    assert np.all(flow[np.sum(states[:, None] != states, -1) > 2] == 0)
    assert deviation(transition(0.5), 2) > 10


def test_no_time_no_flips_and_settings():
    start = jnp.ones((3, 4), jnp.int8)
    long = ImaginaryTime(20.0).sample(problem(), key=jax.random.key(0), num_reads=3, initial_states=start)
    assert np.any(np.asarray(long.states) != start)
    short = ImaginaryTime(1e-9).sample(problem(), key=jax.random.key(0), num_reads=3, initial_states=start)
    np.testing.assert_array_equal(short.states, start)
    with pytest.raises(ValueError, match="tau"):
        ImaginaryTime(0.0)
    with pytest.raises(ValueError, match="max_flips"):
        ImaginaryTime(1.0, 0)
