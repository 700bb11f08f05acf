"""One run of one kernel on one model: what it cost and how good its draws are."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from arviz_stats.base.array import array_stats
from numpyro.infer import MCMC
from numpyro.infer.mcmc import MCMCKernel

from qdesampler.bench.kernels import KERNELS
from qdesampler.infer import ModelCase, compare_with_reference

__all__ = ["Quality", "Record", "Settings", "compile_time", "measure", "quality", "union_length"]

CONVERGED = 1.05  # a larger R-hat is reported as a status
COMPILE_EVENTS = "/jax/core/compile/"


@dataclass(frozen=True)
class Settings:
    """What all kernels of a comparison share."""

    chains: int = 4
    warmup: int = 1000
    draws: int = 1000


@dataclass(frozen=True)
class Record:
    """One row of the table. Numbers that a failed run does not have are None.

    Attributes:
        model, kernel, seed: what was run.
        dim: unconstrained dimension.
        warmup_evals, sampling_evals: log-density evaluations, summed over the chains.
        ess, ess_sq: effective draws of x and of x^2, the smallest over the latent scalars.
        per_1000_sampling, per_1000_total: the smaller of both per 1000 evaluations, of the sampling alone and
            with the warm-up.
        error_sd, error_se: largest error of a mean of x or x^2 against the reference, in posterior standard
            deviations and in combined standard errors; None without a reference.
        rhat: largest rank-normalised split R-hat over the latent scalars.
        divergences: divergent draws after the warm-up.
        compile_s, run_s: seconds of tracing and compilation, and the rest of the run.
        status: "ok", or what is wrong.
    """

    model: str
    kernel: str
    seed: int
    dim: int | None = None
    warmup_evals: int | None = None
    sampling_evals: int | None = None
    ess: float | None = None
    ess_sq: float | None = None
    per_1000_sampling: float | None = None
    per_1000_total: float | None = None
    error_sd: float | None = None
    error_se: float | None = None
    rhat: float | None = None
    divergences: int | None = None
    compile_s: float | None = None
    run_s: float | None = None
    status: str = "ok"

    @property
    def failed(self) -> bool:
        """Whether the run has no figures worth comparing."""
        return self.status.startswith("failed")


@dataclass(frozen=True)
class Quality:
    """Smallest effective sample sizes, largest R-hat, and whether some scalar never moved in some chain."""

    ess: float
    ess_sq: float
    rhat: float
    stuck: bool


def measure(
    case: ModelCase,
    kernel: str,
    seed: int,
    settings: Settings,
    kernels: Mapping[str, Callable[[Callable], MCMCKernel]] = KERNELS,
) -> Record:
    """Run `kernel` on `case` and measure it; an exception becomes the record's status.

    All chains run vectorized in one program, with the same seed, warm-up and draws for every kernel.
    """
    record = Record(case.name, kernel, seed)
    try:
        return _run(record, case, kernels[kernel](case.model), settings)
    except Exception as error:  # the row says so: a kernel that breaks is a result
        reason = str(error).strip().splitlines()[:1]
        return replace(record, status=f"failed: {type(error).__name__}: {''.join(reason)}"[:200])


def _run(record: Record, case: ModelCase, kernel: MCMCKernel, settings: Settings) -> Record:
    mcmc = MCMC(
        kernel,
        num_warmup=settings.warmup,
        num_samples=settings.draws,
        num_chains=settings.chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    jax.clear_caches()  # nobody profits from a predecessor's compiled programs
    start = time.perf_counter()
    with compile_time() as compiling:
        mcmc.run(jax.random.key(record.seed), **case.data)
        samples = jax.block_until_ready(mcmc.get_samples(group_by_chain=True))
    wall = time.perf_counter() - start

    fields = mcmc.get_extra_fields(group_by_chain=True)
    state: Any = mcmc.last_state
    warmup_evals = _total(state.warmup_evals)
    sampling_evals = _total(fields["num_evals"])
    record = replace(
        record,
        dim=sum(leaf.size for leaf in jax.tree.leaves(state.z)) // settings.chains,
        warmup_evals=warmup_evals,
        sampling_evals=sampling_evals,
        divergences=_total(fields["diverging"]),
        compile_s=compiling.seconds,
        run_s=wall - compiling.seconds,
    )
    arrays = {site: np.asarray(samples[site], np.float64) for site in state.z}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return replace(record, status="failed: draws that are NaN or infinite")
    found = quality(arrays)
    smallest = min(found.ess, found.ess_sq)
    record = replace(
        record,
        ess=found.ess,
        ess_sq=found.ess_sq,
        rhat=found.rhat,
        per_1000_sampling=1000 * smallest / sampling_evals,
        per_1000_total=1000 * smallest / (warmup_evals + sampling_evals),
    )
    if found.stuck:
        return replace(record, status="failed: a scalar never moved")
    if case.reference is not None:
        against = compare_with_reference(samples, case.reference)
        error_sd = max(float(np.abs(against.bias).max()), float(np.abs(against.bias_sq).max()))
        record = replace(record, error_sd=error_sd, error_se=against.largest_error)
    return record if found.rhat <= CONVERGED else replace(record, status=f"R-hat above {CONVERGED}")


def quality(arrays: Mapping[str, np.ndarray]) -> Quality:
    """Worst effective sample sizes and R-hat over the scalars of `(chains, draws, ...)` arrays.

    The effective sample size is ArviZ's "mean" one (of the values, not of their ranks; split chains, Geyer's
    initial monotone sequence over all chains, Vehtari et al., Bayesian Analysis 16(2), 2021). A scalar that
    some chain never moved counts 0 and makes R-hat infinite, where ArviZ would call constant draws perfect.
    """
    flat = np.concatenate([array.reshape(*array.shape[:2], -1) for array in arrays.values()], axis=-1)

    def moved(values: np.ndarray) -> np.ndarray:
        return (np.ptp(values, axis=1) > 0).all(axis=0)

    def smallest(values: np.ndarray) -> float:
        if not moved(values).all():
            return 0.0
        return float(np.min(array_stats.ess(values, chain_axis=0, draw_axis=1, method="mean")))

    stuck = not moved(flat).all()
    rhat = math.inf if stuck else float(np.max(array_stats.rhat(flat, chain_axis=0, draw_axis=1)))
    return Quality(smallest(flat), smallest(flat**2), rhat, stuck)


@dataclass
class _Spans:
    spans: list[tuple[float, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return union_length(self.spans)


@contextmanager
def compile_time() -> Iterator[_Spans]:
    """Seconds that JAX spends on tracing, lowering and compiling inside the block.

    JAX announces these as time spans; traces nest, so that the length of their union is taken.
    """
    record = _Spans()

    def listen(event: str, start_time: float, end_time: float, **_: str | int) -> None:
        if event.startswith(COMPILE_EVENTS):
            record.spans.append((start_time, end_time))

    jax.monitoring.register_event_time_span_listener(listen)
    try:
        yield record
    finally:
        jax.monitoring.unregister_event_time_span_listener(listen)


def union_length(spans: list[tuple[float, float]]) -> float:
    """Total length of the union of intervals."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _total(counts: jax.Array) -> int:
    return int(np.sum(np.asarray(counts), dtype=np.int64))
