"""What `AnnealerGibbs` fits before it moves: a surrogate of the log density, and a pool of reads of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.backends import BackendError, IsingProblem, bits_to_spins, spins_to_bits
from qdesampler.backends.encoding import StateEncoding
from qdesampler.backends.problem import check_problem
from qdesampler.backends.surrogate import (
    Surrogate,
    finite_difference_surrogate,
    taylor_surrogate,
    third_difference,
)
from qdesampler.infer.discrete.moves import MoveSettings
from qdesampler.infer.discrete.state import AnnealerAdaptState, EvaluationCounts
from qdesampler.kernels.discrete.bernoulli_mixture import fit_bernoulli_mixture
from qdesampler.kernels.discrete.guided import choose_tau, strong_pairs, tau_evals
from qdesampler.kernels.discrete.log_odds import log_odds_surrogate
from qdesampler.kernels.discrete.outcomes import LogDensity
from qdesampler.kernels.discrete.scan import fit_scan, with_coupled_partners
from qdesampler.kernels.discrete.surrogate import learn_surrogate, sweep_surrogate, visit
from qdesampler.validation import is_traced

__all__ = ["SURROGATES", "Learned", "learn"]

SURROGATES = ("auto", "finite_differences", "taylor", "least_squares", "pseudo_likelihood")
_QUADRATIC = 100.0  # units of rounding: third differences below count as zero
_TRIALS = 16  # third differences that are tried, 8 evaluations each
_CHAINS = 8  # chains that explore, at least; at most twice as many
_READS = 64  # annealed reads evaluated in each round of fitting
_SWEEPS = 30  # sweeps that chains explore, as on the row of change points; not tuned
_FEW_SWEEPS = 12  # where only the weights of the scan are learned; not tuned
MOST_PAIRS = 4096  # evaluations that finite differences may take under surrogate="auto"
MOST_COEFFICIENTS = 2100  # coefficients of least squares under surrogate="auto": 64 bits
MOST_GUIDED = 512  # bits of a surrogate fitted to log odds
MOST_DERIVATIVES = 8192  # bits of a Hessian that is tried: 256 MB in single precision
EXACT_TRIALS = 16  # random positions at which a surrogate is compared with the log density


def learn(
    settings: MoveSettings,
    surrogate: str | IsingProblem,
    pool: Any,
    pool_size: int,
    log_density: LogDensity,
    starts: jax.Array,
    encoding: StateEncoding,
    key: jax.Array,
) -> "Learned":
    """Return what the moves need (surrogate, pool, fitted density) and the counts of what they took.

    Args:
        settings: the moves.
        surrogate: see `AnnealerGibbs`.
        pool: reads as positions; None for `pool_size` reads of the backend.
        pool_size: see `pool`.
        log_density: `f` of one position.
        starts: where chains are, shape `(C, n)`.
        encoding: the sites.
        key: JAX key.
    """
    key_fit, key_pool, key_density = jax.random.split(key, 3)
    counts, problem, reads, density, tau = EvaluationCounts(), None, None, None, None
    if settings.move == "scan" and pool is None and surrogate == "auto":
        return learn_scan(settings, pool_size, log_density, starts, encoding, key)
    if settings.needs_problem or (settings.needs_pool and pool is None):
        found = fit_surrogate(surrogate, log_density, starts, encoding, key_fit)
        problem, counts = found.problem, counts + EvaluationCounts(found.num_evals)
    if settings.needs_pool and pool is not None:
        reads = check_pool_values(pool, encoding)
    elif problem is not None and settings.needs_pool:
        reads = fill_pool(settings, problem, encoding, key=key_pool, size=pool_size)
        counts = counts + EvaluationCounts(0, pool_size, 1)
    if settings.move == "fitted" and reads is not None:
        reads, density = None, fit_bernoulli_mixture(encoding.encode(reads), key=key_density)
    elif settings.move == "scan" and reads is not None:
        reads, density = None, jax.jit(fit_scan, static_argnums=1)(reads, encoding.num_states)
    if settings.move == "scan" and problem is not None:
        problem, tau, spent = guide_of(problem, log_density, exploring(starts), None, encoding, key_density)
        counts = counts + EvaluationCounts(spent)
    elif not settings.needs_problem:
        problem = None
    pairs = None if problem is None or tau is None else strong_pairs(problem)
    return Learned(AnnealerAdaptState(reads, problem, density, tau, pairs), counts)


class Learned(NamedTuple):
    """What was learned, and where chains that explored ended.

    Attributes:
        adapt: for the moves.
        counts: of what it took.
        ends: positions after the sweeps of "scan", shape `(C', n)`; None where none were made.
        values: log densities there, shape `(C',)`.
    """

    adapt: AnnealerAdaptState
    counts: EvaluationCounts
    ends: jax.Array | None = None
    values: jax.Array | None = None


def learn_scan(
    settings: MoveSettings,
    pool_size: int,
    log_density: LogDensity,
    starts: jax.Array,
    encoding: StateEncoding,
    key: jax.Array,
) -> Learned:
    """Return the weights of the scan and the surrogate that guides it, from sweeps of Gibbs sampling.

    Where the log density is quadratic the surrogate is the posterior, and its reads replace the sweeps. Above
    512 bits no surrogate is fitted: its coefficients would outnumber what was seen.
    """
    key_test, key_visit, key_tau = jax.random.split(key, 3)
    weigh = jax.jit(fit_scan, static_argnums=(1, 2))
    found = exact_quadratic(log_density, starts[0], encoding, key=key_test)
    if found.problem is not None:
        problem = found.problem.without_offset()
        reads = fill_pool(settings, problem, encoding, key=key_visit, size=pool_size)
        counts = EvaluationCounts(found.num_evals, pool_size, 1)
        return Learned(AnnealerAdaptState(None, problem, weigh(reads, encoding.num_states), None), counts)
    guided = encoding.num_bits <= MOST_GUIDED
    # where chains have been shows what is uncertain better than reads of a surrogate fitted to that
    sweeps = _SWEEPS if guided else _FEW_SWEEPS
    seen = visit(
        log_density, exploring(starts), encoding, key=key_visit, num_sweeps=sweeps, differences=guided
    )
    weights = weigh(seen.positions, encoding.num_states, seen.ends.shape[0])
    spent = found.num_evals + seen.num_evals
    if seen.differences is None:
        adapt = AnnealerAdaptState(None, None, weights, None)
        return Learned(adapt, EvaluationCounts(spent), seen.ends, seen.values)
    fit = jax.jit(lambda differences: log_odds_surrogate(differences, encoding).problem)
    problem = fit(seen.differences).without_offset()
    weights = with_coupled_partners(weights, problem, encoding)
    tau = choose_tau(log_density, seen.ends, seen.values, problem, encoding, key=key_tau)
    spent = spent + tau_evals(seen.ends.shape[0])
    adapt = AnnealerAdaptState(None, problem, weights, tau, strong_pairs(problem))
    return Learned(adapt, EvaluationCounts(spent), seen.ends, seen.values)


def guide_of(
    problem: IsingProblem,
    log_density: LogDensity,
    ends: jax.Array,
    values: jax.Array | None,
    encoding: StateEncoding,
    key: jax.Array,
) -> tuple[IsingProblem, jax.Array | None, int]:
    """Return a given surrogate as a guide of proposals: the problem, its `tau`, and the evaluations."""
    problem, (key_test, key_tau) = problem.without_offset(), jax.random.split(key)
    if not is_traced(ends) and is_exact(log_density, problem, encoding, key=key_test):
        return problem, None, EXACT_TRIALS
    if values is None:
        values = jax.vmap(log_density)(ends)
    problem = problem.dense()
    tau = choose_tau(log_density, ends, values, problem, encoding, key=key_tau)
    return problem, tau, EXACT_TRIALS + ends.shape[0] + tau_evals(ends.shape[0])


def is_exact(
    log_density: LogDensity, problem: IsingProblem, encoding: StateEncoding, *, key: jax.Array
) -> bool:
    """Whether `f + E` is constant over random positions, up to rounding; `EXACT_TRIALS` evaluations."""
    rows = jax.random.randint(key, (EXACT_TRIALS, encoding.num_sites), 0, jnp.asarray(encoding.num_states))
    values = np.asarray(jax.jit(jax.vmap(log_density))(rows))
    sums = values + np.asarray(problem.energies(bits_to_spins(encoding.encode(rows))))
    scale = np.finfo(values.dtype).eps * (1 + np.max(np.abs(values)))
    return bool(np.ptp(sums) <= _QUADRATIC * scale)  # False for NaN and infinities


def exact_quadratic(
    log_density: LogDensity, anchor: jax.Array, encoding: StateEncoding, *, key: jax.Array
) -> "Exact":
    """Find the posterior as an Ising problem where the log density is quadratic.

    By differences, or by derivatives; these need code that takes real numbers and is quadratic in them too,
    which is then checked.
    While JAX is tracing nothing can be tested, and none is found.
    """
    bits, pairs = encoding.num_bits, encoding.pairs[0].size
    few = 1 + bits + pairs <= MOST_PAIRS
    if is_traced(anchor) or not (few or (encoding.is_binary and bits <= MOST_DERIVATIVES)):
        return Exact(None, 0)
    key_test, key_check = jax.random.split(key)
    test = jax.jit(lambda x, key: third_difference(log_density, x, encoding, key=key, trials=_TRIALS))
    rough = test(anchor, key_test)
    spent = 8 * _TRIALS
    if is_traced(rough) or not rough <= _QUADRATIC:
        return Exact(None, spent)
    if few:
        found = finite_difference_surrogate(log_density, anchor, encoding)
    else:
        try:
            found = taylor_surrogate(log_density, anchor, encoding)
        except TypeError:  # the model's code takes integers only, as an index does
            return Exact(None, spent + 1)
    spent = spent + found.num_evals + EXACT_TRIALS
    exact = is_exact(log_density, found.problem, encoding, key=key_check)
    return Exact(found.problem.sparse() if exact else None, spent)


class Exact(NamedTuple):
    """The posterior as an Ising problem, or None if it is not one, and the evaluations that the test took."""

    problem: IsingProblem | None
    num_evals: int


def exploring(starts: jax.Array) -> jax.Array:
    """Return the chains' starts, repeated or cut to the number of chains that explore, shape `(C', n)`."""
    return jnp.resize(starts, (max(_CHAINS, min(starts.shape[0], 2 * _CHAINS)), starts.shape[1]))


def fit_surrogate(
    kind: str | IsingProblem,
    log_density: LogDensity,
    starts: jax.Array,
    encoding: StateEncoding,
    key: jax.Array,
) -> Surrogate:
    """Return an Ising problem for the moves and the evaluations that it took.

    "auto" takes finite differences if the log density is quadratic, which is then exact; else least squares
    up to 64 bits, else pseudo-likelihood. While JAX is tracing it cannot test for a quadratic, and never
    takes finite differences.

    Args:
        kind: one of `SURROGATES`, or the problem itself.
        log_density: `f` of one position.
        starts: where chains are, shape `(C, n)`.
        encoding: the sites.
        key: JAX key.

    Raises:
        ValueError: a problem of another size, or a kind that these sites do not allow.
    """
    key_test, key_fit = jax.random.split(key)
    bits, pairs = encoding.num_bits, encoding.pairs[0].size
    if not isinstance(kind, str):
        problem = check_problem(kind)
        if problem.num_variables != bits:
            raise ValueError(f"the surrogate has {problem.num_variables} spins, the sites take {bits} bits.")
        return Surrogate(problem, 0)
    anchor, spent = starts[0], 0
    if kind == "auto":
        kind = "least_squares" if 1 + bits + pairs <= MOST_COEFFICIENTS else "pseudo_likelihood"
        if not is_traced(starts) and 1 + bits + pairs <= MOST_PAIRS:
            test = jax.jit(lambda x, key: third_difference(log_density, x, encoding, key=key, trials=_TRIALS))
            rough = test(anchor, key_test)
            spent = 8 * _TRIALS
            kind = kind if is_traced(rough) or rough > _QUADRATIC else "finite_differences"
    if kind == "finite_differences":
        found = finite_difference_surrogate(log_density, anchor, encoding)
    elif kind == "taylor":
        found = taylor_surrogate(log_density, anchor, encoding)
    else:
        chains = exploring(starts)
        if kind == "least_squares":
            rounds = -(-max(6 * _READS, (1 + bits + pairs) // 2) // _READS)
            found = learn_surrogate(
                log_density, chains, encoding, key=key_fit, num_rounds=rounds, num_reads=_READS
            )
        else:
            found = sweep_surrogate(log_density, chains, encoding, key=key_fit)
    return found._replace(num_evals=found.num_evals + spent)


def fill_pool(
    settings: MoveSettings, problem: IsingProblem, encoding: StateEncoding, *, key: jax.Array, size: int
) -> jax.Array:
    """Return `size` reads of a backend as positions, int32, shape `(size, n)`; one call.

    Raises:
        TypeError: a backend on the host while JAX is tracing.
        BackendError: the backend returns fewer reads than requested, or of another width.
    """
    backend = settings.backend
    if not backend.capabilities.jittable and (is_traced(key) or is_traced(problem.h)):
        raise TypeError(
            f"{type(backend).__name__} runs on the host and cannot be called while JAX traces the start of "
            "the chains (chain_method='parallel' or a callable): give the kernel its reads, "
            "AnnealerGibbs(model, pool=...), or use chain_method='vectorized' or 'sequential'."
        )
    samples = backend.sample(problem, key=key, num_reads=size, beta=settings.beta, schedule=settings.schedule)
    states = samples.states
    if states.shape != (size, encoding.num_bits):
        raise BackendError(
            f"{type(backend).__name__} was asked for {size} reads of {encoding.num_bits} variables and "
            f"returned {states.shape}."
        )
    return encoding.decode(spins_to_bits(states)).astype(jnp.int32)


def check_pool_values(pool: Any, encoding: StateEncoding) -> jax.Array:
    """Return a pool that the user gave as positions, int32.

    Raises:
        ValueError: another shape, or entries that are not states.
    """
    given = jnp.asarray(pool)
    sizes = np.asarray(encoding.num_states)
    if given.ndim != 2 or given.shape[0] < 1 or given.shape[1] != sizes.size:
        raise ValueError(f"pool must hold reads as rows, (R, {sizes.size}) with R >= 1, got {given.shape}.")
    if not is_traced(given):
        numbers = np.asarray(given)
        if np.any((numbers < 0) | (numbers >= sizes) | (numbers != np.floor(numbers))):
            raise ValueError("pool must hold states 0, ..., q - 1 of every site; spins_to_bits turns spins.")
    return given.astype(jnp.int32)
