"""The numbers of a ladder of replicas and its evidence, as the kernel of a run reports them."""

from typing import Any

from qdesampler.diagnostics.datatree.kernel_answers import kernel_answer
from qdesampler.infer.model.kernel_reports import EvidenceReport, LadderSummary

__all__ = ["evidence_report", "ladder_summary"]


def ladder_summary(run: Any) -> LadderSummary:
    """Barrier, round trips, swap rates, flow and specific heat of a run.

    Args:
        run: a `numpyro.infer.MCMC` with AnnealedQDE after `run`, or its last state.

    Raises:
        ValueError: the kernel has no ladder, or no iteration was kept.
    """
    summary = kernel_answer(run, "ladder_summary")
    if summary is None:
        raise ValueError(_refusal(run))
    return summary


def evidence_report(run: Any) -> EvidenceReport:
    """The evidence, its bounds by stepping stones, and the estimates of each chain and of the particles.

    Args:
        run: as for `ladder_summary`.

    Raises:
        ValueError: the kernel does not estimate the evidence, or too few iterations were kept.
    """
    report = kernel_answer(run, "evidence_report")
    if report is None:
        raise ValueError(_refusal(run))
    return report


def _refusal(run: Any) -> str:
    return (
        f"The evidence needs a run of AnnealedQDE, or its last state; got {type(run).__name__} of "
        f"{type(getattr(run, 'sampler', None)).__name__}. Other kernels (and blocks of Gibbs) have none."
    )
