"""Proposals by a surrogate: exact whatever it is; fitted to log odds it is right where it can be."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.backends import IsingProblem
from qdesampler.backends.encoding import StateEncoding
from qdesampler.backends.surrogate import quadratic_problem
from qdesampler.kernels.discrete import guided
from qdesampler.kernels.discrete.guided import (
    Guide,
    choose_tau,
    guided_move,
    guided_proposal,
    strong_pairs,
    tau_evals,
)
from qdesampler.kernels.discrete.log_odds import log_odds_surrogate
from qdesampler.kernels.discrete.outcomes import DiscreteState
from qdesampler.kernels.discrete.scan import ScanWeights, with_coupled_partners
from qdesampler.kernels.discrete.surrogate import visit

SIZES = (2, 3, 2, 2)
ENCODING = StateEncoding(SIZES)
POSITIONS = np.array(list(itertools.product(*map(range, SIZES))), np.int32)
NUMBERS = np.cumprod([1, *SIZES[:0:-1]])[::-1]
CHAINS = 6_000


def target(seed=0):
    rng = np.random.default_rng(seed)
    table = 1.5 * rng.normal(size=len(POSITIONS))
    table[rng.integers(len(POSITIONS))] = -np.inf
    values = jnp.asarray(table)
    pi = np.exp(table - table.max())
    return (lambda x: values[x.astype(jnp.int32) @ jnp.asarray(NUMBERS)]), pi / pi.sum()


def surrogate(seed=1):
    """One that knows nothing of the target."""
    rng = np.random.default_rng(seed)
    pair = rng.normal(size=(ENCODING.num_bits,) * 2)
    return quadratic_problem(ENCODING, 0.0, jnp.asarray(rng.normal(size=ENCODING.num_bits)), pair + pair.T)


def deviation(guide):
    """Chains from the law, after four moves: the largest deviation of frequencies in standard errors."""
    log_density, pi = target()
    start = POSITIONS[np.random.default_rng(0).choice(len(POSITIONS), size=CHAINS, p=pi)]

    def chain(key, x):
        def step(state, key):
            return guided_move(key, state, log_density, guide, ENCODING)[0], None

        return jax.lax.scan(step, DiscreteState(x, log_density(x)), jax.random.split(key, 4))[0].position

    ends = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(2), CHAINS), jnp.asarray(start))
    counts = np.bincount(np.asarray(ends) @ NUMBERS, minlength=len(POSITIONS))
    assert np.mean(np.any(np.asarray(ends) != start, 1)) > 0.3
    return np.max(np.abs(counts - CHAINS * pi) / np.sqrt(CHAINS * pi + 1))


@pytest.mark.parametrize("tau", [0.5, pytest.param(None, marks=pytest.mark.slow)])
def test_moves_by_a_wrong_surrogate_are_exact(tau, monkeypatch):
    problem = surrogate()
    guide = Guide(problem, *((None, None) if tau is None else (jnp.asarray(tau), strong_pairs(problem))))
    assert deviation(guide) < 4.5

    def uncorrected(*args):
        proposal, correction = guided_proposal(*args)
        return proposal, jnp.where(correction == -jnp.inf, correction, 0.0)

    monkeypatch.setattr(guided, "guided_proposal", uncorrected)
    assert deviation(guide) > 8  # the twin takes the proposals as symmetric


@pytest.mark.slow
def test_log_odds_give_a_quadratic_back():
    """A quadratic on 12 sites of two and three states: `f2` equal to `f`, up to the ridge and a constant."""
    encoding = StateEncoding((2, 3) * 6)
    rng = np.random.default_rng(0)
    pair = 0.4 * rng.normal(size=(encoding.num_bits,) * 2)
    linear = 0.4 * rng.normal(size=encoding.num_bits)
    pair = (pair + pair.T) * (encoding.site[:, None] != encoding.site)

    def log_density(x):
        u = encoding.encode(x).astype(jnp.float32)
        return u @ linear + u @ pair @ u / 2

    starts = jnp.zeros((8, 12), jnp.int32)
    seen = visit(log_density, starts, encoding, key=jax.random.key(0))
    assert seen.num_evals == 8 * (1 + 30 * encoding.num_bits)
    found = log_odds_surrogate(seen.differences, encoding)
    rows = seen.positions[:200]
    wrong = found.log_density(encoding, rows) - jax.vmap(log_density)(rows)
    spread = np.std(jax.vmap(log_density)(rows))
    assert np.std(wrong) < 0.15 * spread  # 0.08: the ridge
    cut = seen.differences._replace(values=-seen.differences.values)  # differences the wrong way round
    wrong = log_odds_surrogate(cut, encoding).log_density(encoding, rows) - jax.vmap(log_density)(rows)
    assert np.std(wrong) > spread
    # with the surrogate equal to the target every time is accepted, so a long one moves most sites
    problem = found.problem.without_offset()
    tau = choose_tau(log_density, seen.ends, seen.values, problem, encoding, key=jax.random.key(1))
    assert tau >= 0.25
    assert tau_evals(8) == 768


@pytest.mark.slow
def test_a_surrogate_that_is_wrong_gets_little_time():
    """The surrogate asks for the wrong state of 200 sites: far proposals are all refused."""
    n = 200
    encoding = StateEncoding((2,) * n)
    problem = IsingProblem.from_dense(-0.5 * jnp.ones(n), jnp.zeros((n, n)))
    starts = jnp.zeros((8, n), jnp.int32)

    def log_density(x):
        return -1.0 * jnp.sum(x)

    values = jax.vmap(log_density)(starts)
    assert choose_tau(log_density, starts, values, problem, encoding, key=jax.random.key(0)) < 0.1


def test_pairs_and_partners_are_the_strongest_couplings():
    J = np.zeros((6, 6))
    for (i, j), size in {(0, 5): -3.0, (1, 2): 2.0, (3, 4): 1.0}.items():
        J[i, j] = J[j, i] = size
    problem = IsingProblem.from_dense(np.zeros(6), np.triu(J))
    assert np.asarray(strong_pairs(problem))[:3].tolist() == [[0, 5], [1, 2], [3, 4]]
    assert strong_pairs(IsingProblem.from_dense(np.zeros(1), np.zeros((1, 1)))) is None
    blank = jnp.full((6, 2), 0.5)
    weights = ScanWeights(
        jnp.arange(1.0, 7.0) / 6, jnp.zeros((6, 2), jnp.int32), blank, jnp.zeros(6, jnp.int32)
    )
    found = with_coupled_partners(weights, problem, StateEncoding((2,) * 6))
    assert np.asarray(found.partners)[:, 0].tolist() == [5, 2, 1, 4, 3, 0]
    assert np.all(np.asarray(found.partner)[:, 0] > 0.999)
    assert np.all(np.asarray(found.partners) != np.arange(6)[:, None])
    # by site where a site has two bits: bit 1 of site 0 is coupled to site 1, whatever bit 0 is
    wide = np.zeros((4, 4))
    wide[1, 2] = wide[2, 1] = 1.0
    wide[0, 1] = wide[1, 0] = 9.0  # bits of one site exclude each other: no partner of itself
    sites = StateEncoding((3, 2, 2))
    weights = ScanWeights(jnp.ones(3), jnp.zeros((3, 2), jnp.int32), blank[:3], jnp.zeros(3, jnp.int32))
    found = with_coupled_partners(weights, IsingProblem.from_dense(np.zeros(4), np.triu(wide)), sites)
    assert np.asarray(found.partners)[:2, 0].tolist() == [1, 0]
