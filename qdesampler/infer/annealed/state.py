"""The state of an AnnealedQDE chain: `z` is the position on the rung of the posterior."""

from typing import NamedTuple

import jax

from qdesampler.infer.annealed.evidence import evidence_report
from qdesampler.infer.annealed.facts import ladder_summary
from qdesampler.infer.model.kernel_reports import EvidenceReport, LadderSummary
from qdesampler.infer.model.kernel_state import KernelState
from qdesampler.kernels.tempering.ladder import Ladder

__all__ = ["AnnealedAdaptState", "AnnealedState"]


class AnnealedAdaptState(NamedTuple):
    """What the warm-up adapts; after it only replicas and sums change.

    Attributes:
        step_size: step size on the rung of the target, whitened units.
        ladder: all rungs, their replicas and the sums for the evidence.
    """

    step_size: jax.Array
    ladder: Ladder

    def ladder_summary(self) -> LadderSummary:
        """The numbers of the ladder, for a state without its kernel."""
        return ladder_summary(self)

    def evidence_report(self) -> EvidenceReport:
        """The evidence and the estimates that support it, for a state without its kernel."""
        return evidence_report(self)


AnnealedState = KernelState[AnnealedAdaptState]
