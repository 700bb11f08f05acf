"""The state of an `AnnealerGibbs` chain."""

from typing import Any, NamedTuple

import jax

from qdesampler.backends.problem import IsingProblem
from qdesampler.kernels.discrete.bernoulli_mixture import BernoulliMixture
from qdesampler.kernels.discrete.scan import ScanWeights

__all__ = ["AnnealerAdaptState", "AnnealerState", "EvaluationCounts"]


class AnnealerAdaptState(NamedTuple):
    """What the moves know about the posterior; it changes in `init` and `renew_pools` only.

    All chains of a vectorized batch share one.

    Attributes:
        pool: reads as positions, shape `(R, n)`; None for moves without a pool.
        problem: the surrogate on the bits of positions, without its edges; None if no move needs it.
        density: what is fitted to the pool: a density for the move "fitted", weights for "scan"; else None.
        tau: imaginary time of the proposals of "scan"; None without them, or where the surrogate is exact.
        pairs: bits that these proposals may flip together, shape `(m, 2)`; None as `tau`.
    """

    pool: jax.Array | None
    problem: IsingProblem | None
    density: BernoulliMixture | ScanWeights | None
    tau: jax.Array | None = None
    pairs: jax.Array | None = None


class EvaluationCounts(NamedTuple):
    """Counts of log-density evaluations, of reads of the annealer, and of calls to it."""

    evals: Any = 0
    reads: Any = 0
    calls: Any = 0

    def __add__(self, other: "EvaluationCounts") -> "EvaluationCounts":  # pyright: ignore[reportIncompatibleMethodOverride]
        return EvaluationCounts(self.evals + other.evals, self.reads + other.reads, self.calls + other.calls)


class AnnealerState(NamedTuple):
    """State of a chain, or of vectorized chains with the chains on the leading axis.

    Attributes:
        i: iterations done.
        z: values of the discrete sites, a dictionary.
        potential_energy: `-log p(z)` up to a constant, given the other sites.
        num_evals: log-density evaluations of this draw.
        num_reads: reads of the annealer for this draw.
        num_calls: calls to the annealer for this draw.
        num_invalid: evaluations of this draw that were NaN or infinitely probable; never entered.
        warmup_evals: `num_evals` summed over the warm-up, the fit of the surrogate included.
        pending: the counts of what was done outside of `sample`, for the fit and the pool; they are added to
            those of the next draw, and divided among the chains of a batch.
        accept_prob: mean probability of this draw's collective moves to change the position.
        mean_accept_prob: its running mean, restarted after the warm-up.
        adapt_state: pool, surrogate and fitted density.
        num_warmup: iterations of the warm-up.
        rng_key: JAX key, one for each chain.
    """

    i: jax.Array
    z: dict[str, jax.Array]
    potential_energy: jax.Array
    num_evals: jax.Array
    num_reads: jax.Array
    num_calls: jax.Array
    num_invalid: jax.Array
    warmup_evals: jax.Array
    pending: EvaluationCounts
    accept_prob: jax.Array
    mean_accept_prob: jax.Array
    adapt_state: AnnealerAdaptState
    num_warmup: jax.Array
    rng_key: jax.Array
