"""One run of one kernel on one model: what it cost and how good its draws are."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import numpy as np
from arviz_stats.base.array import array_stats
from numpyro.diagnostics import split_gelman_rubin

from qdesampler.bench.harness.accuracy import accuracy
from qdesampler.bench.harness.outcome import Outcome, Runner
from qdesampler.bench.harness.record import TARGET_ESS, Record, Settings
from qdesampler.bench.harness.second_moments import b2_evaluations
from qdesampler.bench.harness.timing import compile_time
from qdesampler.bench.harness.unconstrained import unconstrain
from qdesampler.bench.peers.registry import RUNNERS
from qdesampler.bench.targets.truths import judged_sites, unconstrained_truth
from qdesampler.infer import ModelCase, flatten_draws

__all__ = ["MIN_ESS", "Quality", "judge", "measure", "quality", "run_status"]

CONVERGED = 1.05  # largest R-hat of a run that counts
MIN_ESS = 50  # fewer effective draws say nothing reliable, about themselves included
MAX_PARETO_K = 0.7  # above it importance weights cannot be trusted (Vehtari et al., JMLR 25(72), 2024)


@dataclass(frozen=True)
class Quality:
    """Smallest effective sample sizes, largest R-hat, and whether some scalar never moved in some chain."""

    ess: float
    ess_sq: float
    rhat: float | None
    stuck: bool = False

    @property
    def smallest(self) -> float:
        """The smaller effective sample size; NaN if one of them is."""
        return float(np.minimum(self.ess, self.ess_sq))


def measure(
    case: ModelCase,
    kernel: str,
    seed: int,
    settings: Settings,
    runners: Mapping[str, Runner] = RUNNERS,
) -> Record:
    """Run `kernel` on `case` and measure it; an exception becomes the record's status.

    Compile time is what JAX reports as spent on tracing, lowering and compiling during the one run, with all
    caches empty at its start; run time is the rest of it.
    """
    record = Record(case.name, kernel, seed)
    try:
        jax.clear_caches()  # nobody profits from a predecessor's compiled programs
        start = time.perf_counter()
        with compile_time() as compiling:
            outcome = runners[kernel](case, seed, settings)
        wall = time.perf_counter() - start
        record = replace(record, compile_s=compiling.seconds, run_s=wall - compiling.seconds)
        return judge(record, case, outcome)
    except Exception as error:  # the row says so: a kernel that breaks is a result
        reason = str(error).strip().splitlines()[:1]
        return replace(record, status=f"failed: {type(error).__name__}: {''.join(reason)}"[:200])


def judge(record: Record, case: ModelCase, outcome: Outcome) -> Record:
    """The record with evaluations, effective draws, R-hat and status, and errors where a truth is known."""
    warmup_evals, sampling_evals = outcome.warmup_evals, int(outcome.draw_evals.sum())
    record = replace(
        record,
        dim=outcome.dim,
        warmup_evals=warmup_evals,
        sampling_evals=sampling_evals,
        divergences=outcome.divergences,
        pareto_k=outcome.pareto_k,
    )
    samples = {site: np.asarray(values, np.float64) for site, values in outcome.samples.items()}
    judged = {site: samples[site] for site in judged_sites(case, outcome.sites)}
    if not all(np.isfinite(values).all() for values in judged.values()):
        return replace(record, status="failed: draws that are NaN or infinite")
    found = quality(judged, outcome.log_weights)
    smallest = found.smallest
    record = replace(
        record,
        ess=found.ess,
        ess_sq=found.ess_sq,
        rhat=found.rhat,
        evals_to_400=warmup_evals + sampling_evals * TARGET_ESS / smallest if smallest > 0 else math.inf,
        reached_400=smallest >= TARGET_ESS,
        per_1000_sampling=1000 * smallest / sampling_evals,
        per_1000_total=1000 * smallest / (warmup_evals + sampling_evals),
        status=run_status(found, outcome.pareto_k),
    )
    return record if found.stuck else _against_truth(record, case, outcome, samples)


def _against_truth(
    record: Record, case: ModelCase, outcome: Outcome, samples: Mapping[str, np.ndarray]
) -> Record:
    """Errors and b^2: in unconstrained space where a truth is stored there, else against the reference."""
    truth, compared = unconstrained_truth(case), samples
    if truth is not None:
        compared = unconstrain(case, {site: outcome.samples[site] for site in outcome.sites})
    elif case.reference is not None:
        truth = case.reference
    else:
        return record
    found = accuracy(compared, truth, outcome.log_weights)
    record = replace(record, error_sd=found.error_sd, error_se=found.error_se, sd_error=found.sd_error)
    if outcome.log_weights is not None:
        return record
    flat = flatten_draws(compared)
    parameters = truth["parameters"]
    mean, worst = b2_evaluations(
        np.stack([flat[name] for name in parameters], axis=-1),
        outcome.draw_evals,
        np.array([entry["mean_sq"] for entry in parameters.values()]),
        np.array([entry["sd_sq"] for entry in parameters.values()]),
    )
    return replace(record, b2_mean=mean / 1000, b2_max=worst / 1000)


def run_status(found: Quality, pareto_k: float | None = None) -> str:
    """The record's status, from the draws alone."""
    if found.stuck:
        return "failed: a scalar never moved"
    if found.rhat is not None and not found.rhat <= CONVERGED:
        return f"failed: R-hat {found.rhat:.4g} above {CONVERGED}"
    if pareto_k is not None and not pareto_k <= MAX_PARETO_K:
        return f"failed: Pareto k {pareto_k:.4g} above {MAX_PARETO_K}"
    if not found.smallest >= MIN_ESS:
        return f"failed: ESS {found.smallest:.3g} below {MIN_ESS}"
    return "ok"


def quality(arrays: Mapping[str, np.ndarray], log_weights: np.ndarray | None = None) -> Quality:
    """Worst effective sample sizes and R-hat over the scalars of `(chains, draws, ...)` arrays.

    The effective sample size is ArviZ's "mean" one (of the values, not of their ranks; split chains, Geyer's
    initial monotone sequence over all chains, Vehtari et al., Bayesian Analysis 16(2), 2021). A scalar that
    some chain never moved counts 0 and makes R-hat infinite, where ArviZ would call constant draws perfect.
    The R-hat of one chain compares its halves, without ranks.
    Independent draws with normalised weights w have `1 / sum w^2` effective ones, for every scalar.
    """
    if log_weights is not None:
        ess = float(1 / np.sum(np.exp(2 * log_weights)))
        return Quality(ess, ess, None)
    flat = np.concatenate([a.reshape(*a.shape[:2], -1) for a in arrays.values()], axis=-1)

    def moved(values: np.ndarray) -> np.ndarray:
        return (np.ptp(values, axis=1) > 0).all(axis=0)

    def smallest(values: np.ndarray) -> float:
        if not moved(values).all():
            return 0.0
        return float(np.min(array_stats.ess(values, chain_axis=0, draw_axis=1, method="mean")))

    stuck = not moved(flat).all()
    if len(flat) == 1:  # ArviZ's needs two chains
        by_scalar = split_gelman_rubin(flat)
    else:
        by_scalar = array_stats.rhat(flat, chain_axis=0, draw_axis=1)
    rhat = math.inf if stuck else float(np.max(by_scalar))
    return Quality(smallest(flat), smallest(flat**2), rhat, stuck)
