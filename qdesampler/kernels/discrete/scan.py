r"""A weighted random scan: reads say which sites are uncertain and which move together, Metropolis says how.

In most posteriors of many discrete sites nearly all sites are nearly certain, and a sweep that visits each of
them once spends its evaluations there. With frozen weights from a pool of reads,

    site i with probability w_i ~ (1 - share) (1 - sum_c p_ic^2) / mean + share,
    partner j with probability R_ij ~ |cov_ij| among the strongest partners of i,

one site `i`, or the pair `(i, j)`, is moved to other states drawn uniformly. Neither choice looks at the
current state, and a shift and its inverse are equally likely, so the proposal is symmetric.

A third kind exchanges: a site `i` that is not in its usual state goes there, and a partner `j` that is leaves
its own, as one predictor replaces a near copy. Only sites that are off are drawn:

    q(x, x') = R_ij / (|off(x)| (q_j - 1)),        accepted with min(1, pi(x') q(x', x) / (pi(x) q(x, x'))).

Where a surrogate was fitted, the partners of a site are those that it couples the site to.

All of it is exact whatever the reads are. They decide only how well it works.

`relabel_outcomes` exchanges two states everywhere, an involution: in a mixture with exchangeable components
no move of single labels does this. As labels have no usual state then, and hardly any pairs, such sites are
shifted one by one.

References:
    Latuszynski, Roberts, Rosenthal, "Adaptive Gibbs samplers and related MCMC methods", Ann. Appl. Probab. 23
    (2013) 66: random scans with frozen or adapted weights.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.backends.encoding import StateEncoding
from qdesampler.backends.problem import IsingProblem
from qdesampler.kernels.discrete.masks import NumStates, mask_outcomes
from qdesampler.kernels.discrete.outcomes import (
    DiscreteInfo,
    DiscreteState,
    LogDensity,
    Outcomes,
    choose,
    metropolis_outcomes,
)

__all__ = [
    "ScanWeights",
    "are_labels",
    "exchange_outcomes",
    "fit_scan",
    "relabel_move",
    "relabel_outcomes",
    "scan_mask",
    "scan_move",
    "with_coupled_partners",
]

_PARTNERS = 8  # of a site: pairs that exchange are few (near copies, neighbours), and memory grows with it
_UNIFORM = 0.25  # share of sites drawn uniformly: chains that do not mix call sites certain that are not
_EXCHANGES = 0.2  # share of exchanges; the others are shifts of one site or of a pair
_PAIRS = 0.5  # share of pairs among shifts: arrows of a network turn round in no other way; not tuned
_ROWS = 1024  # sites whose covariances are held at once: 16 MB for 4096 sites


class ScanWeights(NamedTuple):
    """Frozen probabilities; a pytree.

    Attributes:
        site: cumulative probability of each site, shape `(n,)`.
        partners: the strongest partners of each site, shape `(n, m)`.
        partner: their probabilities, shape `(n, m)`.
        usual: the most frequent state of each site, shape `(n,)`.
    """

    site: jax.Array
    partners: jax.Array
    partner: jax.Array
    usual: jax.Array


def are_labels(num_states: tuple[int, ...]) -> bool:
    """Whether all sites have the same states, three or more, so that states may be exchanged everywhere."""
    return len(set(num_states)) == 1 and num_states[0] > 2


def fit_scan(pool: jax.Array, num_states: tuple[int, ...], chains: int = 1) -> ScanWeights:
    """Return the weights of a pool of positions, shape `(R, n)`; no evaluations.

    The covariance of two sites is that of whether each is in its most frequent state.

    Args:
        pool: reads, or what chains visited, one chain after another.
        num_states: of each site.
        chains: that made the pool. Of labels the spread within a chain counts: between chains they change
            names.
    """
    reads, n = pool.shape
    parts = pool.reshape(chains if are_labels(num_states) else 1, -1, n)
    dtype = jnp.result_type(float)
    each = jnp.stack([jnp.mean(parts == state, 1, dtype) for state in range(max(num_states))], -1)
    shares, spread = jnp.mean(each, 0), jnp.mean(1 - jnp.sum(each**2, -1), 0)
    total = jnp.sum(spread)
    weights = jnp.where(total > 0, (1 - _UNIFORM) * spread / jnp.where(total > 0, total, 1.0), 0.0)
    weights = weights + (1 - jnp.sum(weights)) / n
    usual = jnp.argmax(shares, -1).astype(jnp.int32)
    inside = (pool == usual).astype(shares.dtype)
    centred = inside - jnp.mean(inside, 0)
    count = min(_PARTNERS, n - 1)
    if count == 0:
        return ScanWeights(jnp.cumsum(weights), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1)), usual)

    def strongest(row):
        size = jnp.abs(centred[:, row] @ centred) / reads
        size, partners = jax.lax.top_k(size.at[row].set(-1.0), count)
        size = size + jnp.finfo(size.dtype).eps  # partners of a constant site are all alike
        return partners.astype(jnp.int32), size / jnp.sum(size)

    partners, partner = jax.lax.map(strongest, jnp.arange(n), batch_size=min(_ROWS, n))
    return ScanWeights(jnp.cumsum(weights), partners, partner, usual)


def with_coupled_partners(
    weights: ScanWeights, problem: IsingProblem, encoding: StateEncoding
) -> ScanWeights:
    """Return the weights with partners by the couplings of a surrogate, `R_ij ~ J_ij^2`, no evaluations.

    Covariances of few chains that do not mix are mostly chance; couplings are seen within each chain. Of
    sites with several bits the squares are summed.

    Args:
        weights: from `fit_scan`.
        problem: the surrogate, dense.
        encoding: the sites.
    """
    n, count = encoding.num_sites, weights.partners.shape[1]
    if n == 1:
        return weights
    J = jnp.asarray(problem.J)
    strength = jnp.zeros((n, n), J.dtype).at[encoding.site[:, None], encoding.site].add(J**2)
    size, partners = jax.lax.top_k(strength - jnp.eye(n, dtype=strength.dtype) * (1 + strength), count)
    size = size + jnp.finfo(size.dtype).eps  # partners of a site without couplings are all alike
    share = size / jnp.sum(size, 1, keepdims=True)
    return weights._replace(partners=partners.astype(jnp.int32), partner=share)


def scan_mask(key: jax.Array, weights: ScanWeights, num_states: tuple[int, ...]) -> jax.Array:
    """Return a shift of one site or of a pair, shape `(n,)`, drawn without regard to `x`."""
    key_site, key_partner, key_pair, key_shift = jax.random.split(key, 4)
    n, sizes = weights.site.size, jnp.asarray(num_states)

    unit = jax.random.uniform(key_site, (), weights.site.dtype) * weights.site[-1]
    site = jnp.minimum(jnp.searchsorted(weights.site, unit, side="right"), n - 1)
    other = weights.partners[site, jax.random.categorical(key_partner, jnp.log(weights.partner[site]))]
    paired = jax.random.bernoulli(key_pair, 0.0 if are_labels(num_states) else _PAIRS) & (other != site)
    first, second = jax.random.randint(key_shift, (2,), 1, sizes[jnp.stack([site, other])])
    mask = jnp.zeros(n, jnp.int32).at[site].set(first)
    return mask.at[other].set(jnp.where(paired, second, mask[other]))


def exchange_outcomes(
    state: DiscreteState,
    log_density: LogDensity,
    weights: ScanWeights,
    num_states: tuple[int, ...],
    pair: jax.Array,
    new: jax.Array,
) -> Outcomes:
    """Metropolis for `pair = (i, j)`: `i`, which is off, goes to its usual state, and `j` from it to `new`.

    The current state stays where `i` is not off, `j` is, or `new` is the usual state of `j`.
    """
    x, usual, sizes = state.position, weights.usual, jnp.asarray(num_states)
    i, j = pair
    off = x != usual
    possible = off[i] & ~off[j] & (new != usual[j]) & (i != j)
    proposal = x.at[i].set(usual[i].astype(x.dtype)).at[j].set(new.astype(x.dtype))

    def choice(first, second):  # the number of sites off is the same before and after
        here = jnp.sum(jnp.where(weights.partners[first] == second, weights.partner[first], 0.0))
        return jnp.log(here) - jnp.log(sizes[second] - 1.0)

    correction = jnp.where(possible, choice(j, i) - choice(i, j), -jnp.inf)
    return metropolis_outcomes(state, proposal, log_density(proposal), correction)


def _exchange_case(key, state, weights, num_states):
    """A site that is off, a partner by its probability, and a state for the partner."""
    key_site, key_partner, key_new = jax.random.split(key, 3)
    off = state.position != weights.usual
    logits = jnp.where(off | ~jnp.any(off), 0.0, -jnp.inf)
    i = jax.random.categorical(key_site, logits)
    j = weights.partners[i, jax.random.categorical(key_partner, jnp.log(weights.partner[i]))]
    size = jnp.asarray(num_states)[j]
    return jnp.stack([i, j]), jnp.mod(weights.usual[j] + jax.random.randint(key_new, (), 1, size), size)


def scan_move(
    key: jax.Array,
    state: DiscreteState,
    log_density: LogDensity,
    weights: ScanWeights,
    num_states: tuple[int, ...],
) -> tuple[DiscreteState, DiscreteInfo]:
    """Shift one site or a pair, or exchange two, with Metropolis; one evaluation.

    Args:
        key: JAX key.
        state: where the chain is.
        log_density: `f` of one position.
        weights: from `fit_scan`.
        num_states: of each site.
    """
    key_kind, key_mask, key_case, key_choose = jax.random.split(key, 4)
    mask = scan_mask(key_mask, weights, num_states)
    sizes: NumStates = num_states[0] if len(set(num_states)) == 1 else num_states
    pair, new = _exchange_case(key_case, state, weights, num_states)
    shifted = jnp.mod(state.position + mask, jnp.asarray(sizes)).astype(state.position.dtype)
    i, j = pair
    exchanged = (
        state.position.at[i].set(weights.usual[i].astype(shifted.dtype)).at[j].set(new.astype(shifted.dtype))
    )
    exchanges = jax.random.bernoulli(key_kind, 0.0 if are_labels(num_states) else _EXCHANGES)
    # both kinds need the density of their proposal only, so one evaluation serves whichever was drawn
    value = log_density(jnp.where(exchanges, exchanged, shifted))
    outcomes = jax.tree.map(
        lambda a, b: jnp.where(exchanges, a, b),
        exchange_outcomes(state, lambda _: value, weights, num_states, pair, new),
        mask_outcomes(state, lambda _: value, mask, sizes),
    )
    return choose(key_choose, outcomes, 1)


def relabel_outcomes(state: DiscreteState, log_density: LogDensity, first: Any, second: Any) -> Outcomes:
    """Metropolis for exchanging the states `first` and `second` of all sites, which must have both."""
    x = state.position
    swapped = jnp.where(x == first, second, jnp.where(x == second, first, x)).astype(x.dtype)
    return metropolis_outcomes(state, swapped, log_density(swapped))


def relabel_move(
    key: jax.Array, state: DiscreteState, log_density: LogDensity, num_states: int
) -> tuple[DiscreteState, DiscreteInfo]:
    """Exchange two random states of all sites, each of which has `num_states`; one evaluation."""
    key_pair, key_choose = jax.random.split(key)
    first, second = jax.random.permutation(key_pair, np.arange(num_states))[:2]
    return choose(key_choose, relabel_outcomes(state, log_density, first, second), 1)
