r"""The evidence of an AnnealedQDE run, its error, and what it rests on.

    log Z = sum_k log Z_k+1 / Z_k.

Each ratio is estimated by the bridge between neighbours (`qdesampler.kernels.tempering.evidence_sums`), from
iterations after the warm-up. It is the evidence *of the potential as given*. For a model, whose priors are
normalised, that is the marginal likelihood of its observed sites; constants missing from a `potential_fn` are
missing from its evidence.

The error comes from the bridge's influence function on each batch of iterations,
`sum_k (u_k / E u_k - v_k / E v_k)` with `u, v` the two terms of each pair. Its batch means are a time series;
the variance of their mean, autocorrelation included, is the variance of the estimate. If chains disagree by
more than that, their spread is taken instead.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from qdesampler.infer.model.kernel_reports import EvidenceReport
from qdesampler.kernels.tempering.ladder import Ladder

__all__ = [
    "EvidenceReport",
    "LogEvidence",
    "error_of_populations",
    "evidence_report",
    "ladder_of",
    "log_evidence",
]

_LEAST_BATCHES = 8  # batches of iterations, or merged batches, from which a variance is taken
# 97.5% points of Student's t over the normal 1.96, for 1 to 8 degrees of freedom, so that two errors cover
# 95% if there are few chains.
_STUDENT = (6.48, 2.20, 1.62, 1.42, 1.31, 1.25, 1.21, 1.18)


class LogEvidence(NamedTuple):
    """`log Z` and its standard error, both in nats."""

    value: float
    standard_error: float


class RunOfLadder(NamedTuple):
    """The ladders of a run, in NumPy arrays with the chains on the leading axis.

    Attributes:
        ladder: `Ladder`, replicas and sums of every chain.
        betas: shape `(chains, rungs)`.
        centres: the bridges' constants, shape `(chains, rungs - 1)`.
        step_sizes: of the rungs above the reference, shape `(chains, rungs - 1)`.
        num_steps: shape `(chains,)`.
        move_every: shape `(chains,)`.
        log_evidences: by each population of particles, shape `(populations,)`.
        missed_mass: shape `(chains,)`.
        surprising: shape `(chains,)`.
        kind: of the reference, shape `(chains,)`.
    """

    ladder: Any
    betas: np.ndarray
    centres: np.ndarray
    step_sizes: np.ndarray
    num_steps: np.ndarray
    move_every: np.ndarray
    log_evidences: np.ndarray
    missed_mass: np.ndarray
    surprising: np.ndarray
    kind: np.ndarray


def ladder_of(run: Any) -> RunOfLadder:
    """The ladders of a run.

    Args:
        run: a `numpyro.infer.MCMC` after `run`, its last state, or the `adapt_state` of that.

    Raises:
        ValueError: it was not made by AnnealedQDE.
    """
    state = getattr(run, "last_state", run)
    adapt = getattr(state, "adapt_state", state)
    ladder, shared = getattr(adapt, "ladder", None), getattr(adapt, "shared", None)
    if not isinstance(ladder, Ladder) or shared is None:
        raise ValueError(
            f"The evidence needs a run of AnnealedQDE, or its last state; got {type(run).__name__} of "
            f"{type(getattr(run, 'sampler', None)).__name__}. Other kernels (and blocks of Gibbs) have none."
        )
    ladder, shared = jax.tree.map(np.asarray, jax.device_get((ladder, shared)))
    if ladder.directions.ndim == 1:
        ladder = jax.tree.map(lambda leaf: leaf[None], ladder)
    chains, frozen = len(ladder.directions), shared.ladder
    own = frozen.betas.ndim == 2  # chains that ran one after another have one each

    def each(value: np.ndarray) -> np.ndarray:
        return value if own else np.broadcast_to(value, (chains, *value.shape))

    evidences = shared.log_evidences[0] if own else shared.log_evidences
    return RunOfLadder(
        ladder=ladder,
        betas=each(frozen.betas),
        centres=each(frozen.centres),
        step_sizes=each(frozen.step_sizes),
        num_steps=each(frozen.num_steps),
        move_every=each(frozen.move_every),
        log_evidences=evidences.astype(float),
        missed_mass=each(shared.missed_mass),
        surprising=each(shared.surprising),
        kind=each(shared.kind),
    )


def log_evidence(run: Any, *, log_constant: float = 0.0) -> LogEvidence:
    """`(log Z, standard error)` of the potential given.

    `Z = int exp(-U(z)) dz` over unconstrained positions with `U` as the kernel was given it: for a model the
    marginal likelihood, with enumerated discrete sites summed out; for a `potential_fn` without its
    constants, an evidence without them.

    Args:
        run: a `numpyro.infer.MCMC` with AnnealedQDE after `run`, or its last state.
        log_constant: what a `potential_fn` leaves out, `log p(z) = -U(z) + log_constant`, nats; it is added.

    Raises:
        ValueError: another kernel, too few iterations were kept, a constant that is not finite, or one for a
            model, whose evidence is complete.
    """
    if not np.isfinite(log_constant):
        raise ValueError(f"log_constant is {log_constant}; expected a finite number of nats.")
    model = getattr(getattr(run, "sampler", None), "model", None)
    if log_constant and model is not None:
        raise ValueError(
            f"log_constant is {log_constant}, but the run is of a model, whose density has all its "
            "constants; it is for a potential_fn."
        )
    report = evidence_report(run)
    return LogEvidence(report.value + float(log_constant), report.standard_error)


def evidence_report(run: Any) -> EvidenceReport:
    """The evidence, its bounds by stepping stones, and the estimates of each chain and of the particles.

    Args:
        run: as for `log_evidence`.

    Raises:
        ValueError: another kernel, or too few iterations were kept.
    """
    found = ladder_of(run)
    kept = found.ladder.kept
    counts = kept.counts.astype(float)
    iterations = int(counts.sum(axis=1).min())
    if iterations < _LEAST_BATCHES:
        raise ValueError(
            f"{iterations} iterations were kept; an evidence needs at least {_LEAST_BATCHES}: run the "
            "sampler first, with mcmc.run(key, ...)."
        )
    centres = found.centres.astype(float)
    totals = kept.bridge.astype(float).sum(axis=1)
    with np.errstate(divide="ignore"):
        ratios = centres + np.log(totals[:, 0]) - np.log(totals[:, 1])
        by_chain = ratios.sum(axis=1)
        stones = (
            np.logaddexp.reduce(kept.stones.astype(float), axis=1) - np.log(counts.sum(axis=1))[:, None, None]
        )
    error = _standard_error(kept.bridge.astype(float), counts, by_chain)
    mean, spread = error_of_populations(found.log_evidences)
    return EvidenceReport(
        value=float(by_chain.mean()),
        standard_error=float(error),
        lower=float(stones[:, 0].sum(axis=1).mean()),
        upper=float(-stones[:, 1].sum(axis=1).mean()),
        by_chain=by_chain,
        by_particles=mean,
        by_particles_error=spread,
        iterations=iterations,
    )


def error_of_populations(log_values: np.ndarray) -> tuple[float, float]:
    """Log of the mean evidence of independent populations, and its standard error by their spread.

    The mean is that of the evidence, which particles estimate without bias, not of its logarithm. The error
    is widened so that two errors cover 95% even if there are few populations; it is NaN for a single one.
    """
    count = log_values.size
    if np.any(np.isnan(log_values)):
        return float("nan"), float("nan")
    mean = float(np.logaddexp.reduce(log_values) - np.log(count))
    if count == 1:
        return mean, float("nan")
    spread = np.exp(log_values - mean).std(ddof=1)
    return mean, float(_student_factor(count - 1) * spread / np.sqrt(count))


def _student_factor(degrees: int) -> float:
    """Factor that widens a standard error known from few values."""
    return _STUDENT[degrees - 1] if degrees <= len(_STUDENT) else 1 + 1.3 / degrees


def _standard_error(bridge: np.ndarray, counts: np.ndarray, by_chain: np.ndarray) -> float:
    """Error of the mean over chains; NaN if some pair of rungs never overlapped."""
    chains = by_chain.size
    if not np.all(np.isfinite(by_chain)):
        return float("nan")
    variances = []
    for sums, n in zip(bridge, counts, strict=True):
        full = n == n.max()
        means = sums.sum(axis=0) / n.sum()  # (2, pairs)
        series = (sums[full] / n[full][:, None, None] / means * np.array([1.0, -1.0])[:, None]).sum(
            axis=(1, 2)
        )
        variances.append(_variance_of_mean(series) * full.sum() * n.max() / n.sum())
    within = np.sum(variances) / chains**2
    if chains == 1:
        return float(np.sqrt(within))
    between = by_chain.var(ddof=1) / chains
    return float(np.sqrt(max(within, between)))


def _variance_of_mean(series: np.ndarray) -> float:
    """Variance of the mean of correlated batch means: the largest over batch lengths with enough batches."""
    largest = 0.0
    while series.size >= _LEAST_BATCHES:
        degrees = series.size - 1
        largest = max(largest, series.var(ddof=1) / series.size * (1 + 1.0 / degrees))
        half = series.size // 2
        series = series[: 2 * half].reshape(half, 2).mean(axis=1)
    return largest
