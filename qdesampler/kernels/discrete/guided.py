r"""Moves of many sites guided by a surrogate `q ~ exp(-E)`: they cost one evaluation, however far they go.

The proposal is a transition `K` reversible with respect to `q`, accepted with

    min(1, pi(y) q(x) / (pi(x) q(y)))            (Liu 2001, section 9.4.3).

`K` is imaginary time on a fitted surrogate (`qdesampler.backends.imaginary_time`), which moves the sites that
`q` calls uncertain, and exchanges those that it couples most strongly. How far it goes, `tau`, is frozen at
the value that moved most sites in trials before the run: the differences of `f` and `-E` add up along the
way. Where the surrogate is the posterior itself, `K` is many sweeps of heat-bath updates, and every proposal
is accepted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.backends.encoding import StateEncoding
from qdesampler.backends.gibbs_surrogate import GibbsSurrogate
from qdesampler.backends.imaginary_time import imaginary_time_flips
from qdesampler.backends.problem import IsingProblem, bits_to_spins, spins_to_bits
from qdesampler.kernels.discrete.outcomes import (
    DiscreteInfo,
    DiscreteState,
    LogDensity,
    choose,
    metropolis_outcomes,
)

__all__ = ["Guide", "choose_tau", "guided_move", "guided_proposal", "strong_pairs", "tau_evals"]

_SWEEPS = GibbsSurrogate(5)  # pairs of sweeps where the surrogate is exact: of no cost in evaluations
_TAUS = np.array([0.03, 0.06, 0.12, 0.25, 0.5, 1.0])
_PAIRS = 2  # for each bit: two neighbours of a jump, four near copies have 1.5; not tuned
_TRIALS = 16  # proposals of each chain at each tau
_ENOUGH = 0.8  # of the largest distance: the shortest tau that gets there takes the least time


class Guide(NamedTuple):
    """A surrogate that proposes, frozen; a pytree.

    Attributes:
        problem: on the bits of positions, without its constant; dense where `tau` is given.
        tau: imaginary time of a proposal; None where the surrogate is the posterior itself.
        pairs: bits that may flip together, shape `(m, 2)`; None for none.
    """

    problem: IsingProblem
    tau: jax.Array | None
    pairs: jax.Array | None = None


def strong_pairs(problem: IsingProblem) -> jax.Array | None:
    """Return the pairs of bits with the strongest couplings of a dense problem, two for each bit."""
    first, second = np.triu_indices(problem.num_variables, 1)
    count = min(_PAIRS * problem.num_variables, first.size)
    if count == 0:
        return None
    _, chosen = jax.lax.top_k(jnp.abs(problem.J[first, second]), count)
    return jnp.stack([jnp.asarray(first)[chosen], jnp.asarray(second)[chosen]], -1).astype(jnp.int32)


def guided_proposal(
    key: jax.Array, position: jax.Array, guide: Guide, encoding: StateEncoding
) -> tuple[jax.Array, jax.Array]:
    """Return `y` and `log q(x) - log q(y)`; -inf where the bits are no position.

    Args:
        key: JAX key.
        position: `x`.
        guide: the surrogate.
        encoding: the sites.
    """
    start = bits_to_spins(encoding.encode(position))
    if guide.tau is None:
        end = _SWEEPS.sample(guide.problem, key=key, initial_states=start[None]).states[0]
    else:
        end, _ = imaginary_time_flips(key, start, guide.problem, guide.tau, pairs=guide.pairs)
    energies = guide.problem.energies(jnp.stack([start, end]))
    bits = spins_to_bits(end)
    correction = jnp.where(encoding.is_position(bits), energies[1] - energies[0], -jnp.inf)
    return encoding.decode(bits).astype(position.dtype), correction


def guided_move(
    key: jax.Array, state: DiscreteState, log_density: LogDensity, guide: Guide, encoding: StateEncoding
) -> tuple[DiscreteState, DiscreteInfo]:
    """Let the surrogate move many sites, then accept or refuse; one evaluation."""
    key_move, key_choose = jax.random.split(key)
    proposal, correction = guided_proposal(key_move, state.position, guide, encoding)
    return choose(key_choose, metropolis_outcomes(state, proposal, log_density(proposal), correction), 1)


def tau_evals(chains: int) -> int:
    """The evaluations of `choose_tau`."""
    return chains * _TAUS.size * _TRIALS


def choose_tau(
    log_density: LogDensity,
    ends: jax.Array,
    values: jax.Array,
    problem: IsingProblem,
    encoding: StateEncoding,
    *,
    key: jax.Array,
) -> jax.Array:
    """Return the shortest `tau` that moves nearly as many sites an evaluation as any; `tau_evals(C)`.

    Args:
        log_density: `f` of one position.
        ends: where chains are, shape `(C, n)`.
        values: `f` there, shape `(C,)`.
        problem: the surrogate, dense.
        encoding: the sites.
        key: JAX key.
    """
    pairs = strong_pairs(problem)

    def move(carry, now):
        state, (key, tau) = carry, now
        key_move, key_choose = jax.random.split(key)
        proposal, correction = guided_proposal(key_move, state.position, Guide(problem, tau, pairs), encoding)
        outcomes = metropolis_outcomes(state, proposal, log_density(proposal), correction)
        moved = jnp.exp(outcomes.log_prob[1]) * jnp.sum(proposal != state.position)
        return choose(key_choose, outcomes, 1)[0], moved

    taus = jnp.asarray(np.repeat(_TAUS, _TRIALS), values.dtype)

    def walk(key, x, value):
        keys = jax.random.split(key, taus.size)
        return jax.lax.scan(move, DiscreteState(x, value), (keys, taus))[1]

    @jax.jit
    def tried(key, ends, values):
        moved = jax.vmap(walk)(jax.random.split(key, ends.shape[0]), ends, values)
        return moved.reshape(-1, _TAUS.size, _TRIALS).mean((0, 2))

    distance = tried(key, ends, values)
    return jnp.asarray(_TAUS, values.dtype)[jnp.argmax(distance >= _ENOUGH * jnp.max(distance))]
