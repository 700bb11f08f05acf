"""The evidence and its ladder as plain facts, for the attributes of a tree."""

from typing import Any

import numpy as np

from qdesampler.infer.annealed.evidence import evidence_report, ladder_of
from qdesampler.infer.annealed.state import AnnealedAdaptState

__all__ = ["evidence_facts"]


def evidence_facts(run: Any) -> dict[str, float | int]:
    """What a run of AnnealedQDE found, as numbers; empty for other kernels.

    `log_evidence` (of the potential given) and `log_evidence_error`, `log_evidence_lower` and
    `log_evidence_upper` (stepping stones upwards and downwards), `particle_log_evidence`, `rungs`, `barrier`
    (mean over chains), `round_trips` (of all chains) and `missed_mass` (of modes that descents found and
    particles missed, the largest over chains).

    Args:
        run: a `numpyro.infer.MCMC` after `run`, or its last state.
    """
    state = getattr(run, "last_state", run)
    if not isinstance(getattr(state, "adapt_state", None), AnnealedAdaptState):
        return {}
    ladder, report = ladder_of(run), evidence_report(run)
    counts = ladder.kept.counts.sum(axis=1)
    return {
        "log_evidence": report.value,
        "log_evidence_error": report.standard_error,
        "log_evidence_lower": report.lower,
        "log_evidence_upper": report.upper,
        "particle_log_evidence": report.by_particles,
        "rungs": int(ladder.betas.shape[1]),
        "barrier": float(np.mean(ladder.kept.rejections.sum(axis=1) / counts)),
        "round_trips": int(ladder.kept.round_trips.sum()),
        "missed_mass": float(ladder.missed_mass.max()),
    }
