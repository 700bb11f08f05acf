"""Facts about a finished run of AnnealedQDE, for attributes of trees, checks and plots.

Each function takes a `numpyro.infer.MCMC` with AnnealedQDE after `run`, its last state, or what is adapted in
that state.
"""

from typing import Any

import numpy as np

from qdesampler.infer.annealed.evidence import evidence_report, ladder_of
from qdesampler.infer.annealed.mode_search import LARGE_MISSED_MASS, LEAST_MISSED_MASS
from qdesampler.infer.model.kernel_base import TargetKernel
from qdesampler.infer.model.kernel_reports import EvidenceReport, LadderSummary

__all__ = ["LadderKernel", "evidence_facts", "ladder_summary"]


class LadderKernel(TargetKernel):
    """A kernel with a ladder in its state: its answers to the questions of `TargetKernel`."""

    def facts(self, last_state: Any) -> dict[str, str | int | float]:
        """The evidence and its ladder as numbers; see `evidence_facts`."""
        return evidence_facts(last_state)

    def ladder_summary(self, last_state: Any) -> LadderSummary:
        """The numbers of the ladder."""
        return ladder_summary(last_state)

    def evidence_report(self, last_state: Any) -> EvidenceReport:
        """The evidence and the estimates that support it."""
        return evidence_report(last_state)


def evidence_facts(run: Any) -> dict[str, str | int | float]:
    """The evidence and its ladder as numbers.

    `log_evidence` (of the potential given) and `log_evidence_error`, `log_evidence_lower` and
    `log_evidence_upper` (stepping stones upwards and downwards), `particle_log_evidence`, `rungs`, `barrier`
    (mean over chains), `round_trips` (of all chains) and `missed_mass` (of modes that descents found and
    particles missed, the largest over chains).

    Raises:
        ValueError: another kernel, or too few iterations were kept.
    """
    found, report = ladder_of(run), evidence_report(run)
    kept = found.ladder.kept
    counts = kept.counts.sum(axis=1)
    return {
        "log_evidence": report.value,
        "log_evidence_error": report.standard_error,
        "log_evidence_lower": report.lower,
        "log_evidence_upper": report.upper,
        "particle_log_evidence": report.by_particles,
        "rungs": int(found.betas.shape[1]),
        "barrier": float(np.mean(kept.rejections.sum(axis=1) / counts)),
        "round_trips": int(kept.round_trips.sum()),
        "missed_mass": float(found.missed_mass.max()),
    }


def ladder_summary(run: Any) -> LadderSummary:
    """Barrier, round trips, swap rates, flow and specific heat of a run.

    Raises:
        ValueError: another kernel, or no iteration was kept.
    """
    found = ladder_of(run)
    kept = found.ladder.kept
    counts = kept.counts.sum(axis=1).astype(float)
    if counts.min() < 1:
        raise ValueError("No iteration was kept: run the sampler first, with mcmc.run(key, ...).")
    rejections = kept.rejections / counts[:, None]
    mean, square = kept.work[:, 0] / counts[:, None], kept.work[:, 1] / counts[:, None]
    steps = np.diff(found.betas.astype(float), axis=1)
    heat = np.maximum(square - mean**2, 0) / np.maximum(steps, 1e-12) ** 2
    odds = np.sum(rejections / np.maximum(1 - rejections, 1e-6), axis=1)
    settled = np.maximum(kept.settled, 1)
    in_reference = bool(np.all((found.kind != 0) & (found.missed_mass > 0)))
    # The reference is drawn from without steps.
    step_sizes = np.concatenate([np.ones((len(found.betas), 1)), found.step_sizes], axis=1)
    return LadderSummary(
        betas=found.betas,
        swap_rates=1 - rejections,
        barrier=rejections.sum(axis=1),
        round_trips=kept.round_trips,
        # A pair has its turn in every second iteration; the only pair of a ladder has it in every iteration.
        expected_round_trips=counts / (2 + 2 * odds) * (2 if rejections.shape[1] == 1 else 1),
        flow=kept.upward / settled,
        specific_heat=heat,
        step_sizes=step_sizes,
        num_steps=found.num_steps,
        move_every=found.move_every,
        components=found.kind,
        missed_mass=found.missed_mass,
        iterations=int(counts.min()),
        missed_in_reference=in_reference,
        surprising=found.surprising,
        missed_mass_limit=LARGE_MISSED_MASS if in_reference else LEAST_MISSED_MASS,
    )
