r"""A quadratic surrogate of the log density for annealers, learned from evaluations.

First some chains climb from the given starts: at each step all changes of one site are evaluated and one
outcome, staying included, is drawn in proportion to `pi`. Then follow rounds of fitting and checking: a
quadratic `f2` is fitted to every value so far (`least_squares_surrogate`), annealed reads of it are
evaluated, and the fit is repeated, which corrects `f2` where it is too high. Every evaluation is a row of
the fit.

If a quadratic has too many coefficients, the chains make sweeps of Gibbs sampling instead, and a pairwise law
is fitted to their positions (`pseudo_likelihood_surrogate`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.backends.encoding import StateEncoding
from qdesampler.backends.problem import spins_to_bits
from qdesampler.backends.simulated_annealing import SimulatedAnnealing
from qdesampler.backends.surrogate import Surrogate
from qdesampler.backends.surrogate_fit import least_squares_surrogate, pseudo_likelihood_surrogate
from qdesampler.kernels.discrete.log_odds import Differences
from qdesampler.kernels.discrete.outcomes import LogDensity, finite_or_low

__all__ = ["Explored", "Visited", "climb", "learn_surrogate", "sweep_surrogate", "visit"]

_SWEEPS = 50  # sweeps of each annealed read that is checked; the reads need not be exact


class Explored(NamedTuple):
    """The positions that were evaluated, and their values.

    Attributes:
        positions: shape `(R, n)`.
        values: `f` of each, shape `(R,)`; NaN where nothing was evaluated yet.
    """

    positions: jax.Array
    values: jax.Array


def climb(
    log_density: LogDensity, starts: jax.Array, encoding: StateEncoding, key: jax.Array, num_steps: int
) -> Explored:
    """Let chains take `num_steps` steps, each drawn in proportion to `pi` from all changes of one site.

    `C (1 + num_steps N)` evaluations, `N` the number of bits of the encoding.

    Args:
        log_density: `f` of one position.
        starts: one for each chain, shape `(C, n)`.
        encoding: the sites.
        key: JAX key.
        num_steps: steps of each chain.
    """
    sizes = np.asarray(encoding.num_states)
    shifts = np.zeros((encoding.num_bits, encoding.num_sites), np.int32)
    shifts[np.arange(encoding.num_bits), encoding.site] = encoding.state
    evaluate = jax.vmap(log_density)

    def step(carry, key):
        x, value = carry
        around = jnp.mod(x + shifts, sizes).astype(x.dtype)
        found = evaluate(around)
        choices = jnp.append(finite_or_low(found), jnp.where(jnp.isfinite(value), value, -1e30))
        row = jax.random.categorical(key, choices)
        rows = jnp.concatenate([around, x[None]])
        return (rows[row], jnp.append(found, value)[row]), (around, found)

    def walk(key, start, value):
        return jax.lax.scan(step, (start, value), jax.random.split(key, num_steps))[1]

    keys = jax.random.split(key, starts.shape[0])
    first = evaluate(starts)
    around, found = jax.vmap(walk)(keys, starts, first)
    n = encoding.num_sites
    return Explored(
        jnp.concatenate([starts, around.reshape(-1, n)]),
        jnp.concatenate([first, found.reshape(-1)]),
    )


def learn_surrogate(
    log_density: LogDensity,
    starts: jax.Array,
    encoding: StateEncoding,
    *,
    key: jax.Array,
    num_steps: int = 8,
    num_rounds: int = 6,
    num_reads: int = 64,
    alpha: float = 0.3,
) -> Surrogate:
    """Return the surrogate after climbing and `num_rounds` of annealing, evaluating and fitting.

    `C (1 + num_steps N) + num_rounds num_reads` evaluations.

    Args:
        log_density: `f` of one position.
        starts: one for each chain, shape `(C, n)`.
        encoding: the sites.
        key: JAX key.
        num_steps: steps of each chain in the climb.
        num_rounds: rounds of fitting and checking, after the climb.
        num_reads: annealed and evaluated in each round.
        alpha: weight of high values in the fits, see `least_squares_surrogate`.

    Raises:
        ValueError: too many coefficients for least squares.
    """

    @jax.jit  # compiled whole: dispatched operation by operation it would take seconds
    def learn(starts, key):
        key_climb, key_rounds = jax.random.split(key)
        explored = climb(log_density, starts, encoding, key_climb, num_steps)
        return _rounds(log_density, explored, encoding, key_rounds, num_rounds, num_reads, alpha)

    spent = starts.shape[0] * (1 + num_steps * encoding.num_bits) + num_rounds * num_reads
    return Surrogate(learn(starts, key), spent)


def _rounds(log_density, explored, encoding, key, num_rounds, num_reads, alpha):
    count = num_rounds * num_reads
    positions = jnp.concatenate(
        [explored.positions, jnp.zeros((count, encoding.num_sites), explored.positions.dtype)]
    )
    values = jnp.concatenate([explored.values, jnp.full(count, jnp.nan, explored.values.dtype)])
    annealer = SimulatedAnnealing(_SWEEPS)

    def fitted(positions, values):
        return least_squares_surrogate(positions, values, encoding, alpha=alpha).problem

    def one(carry, now):
        positions, values = carry
        index, key = now
        problem = fitted(positions, values)
        states = annealer.sample(problem, key=key, num_reads=num_reads).states
        new = encoding.decode(spins_to_bits(states)).astype(positions.dtype)
        at = explored.values.size + index * num_reads
        positions = jax.lax.dynamic_update_slice(positions, new, (at, 0))
        values = jax.lax.dynamic_update_slice(values, jax.vmap(log_density)(new), (at,))
        return (positions, values), None

    keys = jax.random.split(key, num_rounds)
    (positions, values), _ = jax.lax.scan(one, (positions, values), (jnp.arange(num_rounds), keys))
    return fitted(positions, values)


def sweep_surrogate(
    log_density: LogDensity,
    starts: jax.Array,
    encoding: StateEncoding,
    *,
    key: jax.Array,
    num_sweeps: int = 30,
) -> Surrogate:
    """Return the pairwise law fitted to chains of Gibbs sampling after a third of `num_sweeps` sweeps.

    `C (1 + num_sweeps N)` evaluations.

    Args:
        log_density: `f` of one position.
        starts: one for each chain, shape `(C, n)`.
        encoding: the sites.
        key: JAX key.
        num_sweeps: sweeps of each chain.
    """
    seen = visit(log_density, starts, encoding, key=key, num_sweeps=num_sweeps, differences=False)
    fit = jax.jit(lambda rows: pseudo_likelihood_surrogate(rows, encoding).problem)
    return Surrogate(fit(seen.positions), seen.num_evals)


class Visited(NamedTuple):
    """What sweeps of Gibbs sampling saw after the first third of them.

    Attributes:
        positions: the chains after every sweep, shape `(R, n)`.
        differences: of the log density at every update; None if they were not asked for.
        ends: where the chains are, shape `(C, n)`.
        values: `f` there, shape `(C,)`.
        num_evals: evaluations made.
    """

    positions: jax.Array
    differences: Differences | None
    ends: jax.Array
    values: jax.Array
    num_evals: int


def visit(
    log_density: LogDensity,
    starts: jax.Array,
    encoding: StateEncoding,
    *,
    key: jax.Array,
    num_sweeps: int = 30,
    differences: bool = True,
) -> Visited:
    """Let chains make `num_sweeps` sweeps of Gibbs sampling, `C (1 + num_sweeps N)` evaluations.

    Args:
        log_density: `f` of one position.
        starts: one for each chain, shape `(C, n)`.
        encoding: the sites.
        key: JAX key.
        num_sweeps: sweeps of each chain.
        differences: keep the differences of `f`, `N` positions for each sweep and chain.
    """
    skipped = num_sweeps // 3
    walk = jax.jit(lambda starts, key: _sweeps(log_density, starts, encoding, key, num_sweeps, differences))
    (ends, values), (visited, seen) = walk(starts, key)
    if seen is not None:
        parts = (jnp.moveaxis(part[:, skipped:], 2, 0) for part in seen)
        seen = Differences(*(part.reshape(encoding.num_bits, -1, *part.shape[3:]) for part in parts))
    spent = starts.shape[0] * (1 + num_sweeps * encoding.num_bits)
    return Visited(visited[:, skipped:].reshape(-1, encoding.num_sites), seen, ends, values, spent)


def _sweeps(log_density, starts, encoding, key, num_sweeps, differences):
    """Heat-bath sweeps in random order: the ends, all positions `(C, num_sweeps, n)`, and the differences."""
    site, sizes = jnp.asarray(encoding.site), jnp.asarray(encoding.num_states)
    state = jnp.asarray(encoding.state, jnp.int32)

    def change(carry, now):
        x, value = carry
        bit, unit = now
        i = site[bit]
        other = jnp.mod(x[i] + state[bit], sizes[i])
        proposal = x.at[i].set(other.astype(x.dtype))
        new = finite_or_low(log_density(proposal))
        taken = (unit * (1 + jnp.exp(value - new)) < 1) & (new > -jnp.inf)
        seen = Differences(x.astype(jnp.int16), other, new - value) if differences else None
        return (jnp.where(taken, proposal, x), jnp.where(taken, new, value)), seen

    def one_sweep(carry, key):
        key_order, key_units = jax.random.split(key)
        order = jax.random.permutation(key_order, encoding.num_bits)
        units = jax.random.uniform(key_units, (encoding.num_bits,))
        carry, seen = jax.lax.scan(change, carry, (order, units))
        seen = jax.tree.map(lambda part: part[jnp.argsort(order)], seen)
        return carry, (carry[0], seen)

    def walk(key, start):
        first = (start, finite_or_low(log_density(start)))
        return jax.lax.scan(one_sweep, first, jax.random.split(key, num_sweeps))

    return jax.vmap(walk)(jax.random.split(key, starts.shape[0]), starts)
