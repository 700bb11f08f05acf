"""The row of a table: what one run of one kernel on one model cost, and how good its draws are."""

from dataclasses import dataclass

__all__ = ["TARGET_ESS", "Record", "Settings"]

TARGET_ESS = 400  # effective draws, the amount at which means are worth reporting (Vehtari et al. 2021)


@dataclass(frozen=True)
class Settings:
    """What all kernels of a comparison share; kernels that choose their own warm-up say so."""

    chains: int = 4
    warmup: int = 1000
    draws: int = 1000


@dataclass(frozen=True)
class Record:
    """One row of the table. Numbers that a run does not have are None.

    Attributes:
        model, kernel, seed: what was run.
        dim: unconstrained dimension.
        warmup_evals, sampling_evals: log-density evaluations, summed over the chains.
        ess, ess_sq: effective draws of x and of x^2, the smallest over the judged scalars.
        evals_to_400: `warmup_evals + sampling_evals * 400 / ESS` with the smaller ESS of both: an
            extrapolation of the sampling, in either direction, while the warm-up is paid once.
        reached_400: whether that ESS is at least 400 in the run itself.
        per_1000_sampling, per_1000_total: that ESS per 1000 evaluations, of the sampling alone and with the
            warm-up.
        b2_mean, b2_max: thousands of evaluations of one chain after its warm-up until the squared error of
            its mean of x^2 stays below 1% of the variance of x^2, on average over the scalars and for the
            worst one (`qdesampler.bench.harness.second_moments`); infinite where the run never got there.
        error_sd, error_se: largest error of a mean of x or x^2 against the reference, in posterior standard
            deviations and in combined standard errors; None without a reference.
        sd_error: largest relative error of a standard deviation against the reference.
        rhat: largest rank-normalised split R-hat over the judged scalars; None for independent draws.
        pareto_k: tail index of importance weights; None for chains.
        divergences: divergent draws after the warm-up.
        compile_s, run_s: seconds of tracing and compilation, and the rest of the run.
        status: "ok", or "failed: " and why. A run fails that raises, that returns draws which are not finite
            or that never move, whose R-hat or Pareto k is too large, or whose ESS is below 50.
    """

    model: str
    kernel: str
    seed: int
    dim: int | None = None
    warmup_evals: int | None = None
    sampling_evals: int | None = None
    ess: float | None = None
    ess_sq: float | None = None
    evals_to_400: float | None = None
    reached_400: bool | None = None
    per_1000_sampling: float | None = None
    per_1000_total: float | None = None
    b2_mean: float | None = None
    b2_max: float | None = None
    error_sd: float | None = None
    error_se: float | None = None
    sd_error: float | None = None
    rhat: float | None = None
    pareto_k: float | None = None
    divergences: int | None = None
    compile_s: float | None = None
    run_s: float | None = None
    status: str = "ok"

    @property
    def failed(self) -> bool:
        """Whether the figures of this run, if it has any, cannot be compared."""
        return self.status.startswith("failed")
