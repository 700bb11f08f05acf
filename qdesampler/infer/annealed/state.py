"""The state of an AnnealedQDE chain: `z` is the position on the rung of the posterior."""

from typing import NamedTuple

import jax

from qdesampler.infer.annealed.evidence import evidence_report
from qdesampler.infer.annealed.facts import ladder_summary
from qdesampler.infer.model.kernel_reports import EvidenceReport, LadderSummary
from qdesampler.infer.model.kernel_state import KernelState
from qdesampler.kernels.tempering.ladder import FrozenLadder, Ladder

__all__ = ["AnnealedAdaptState", "AnnealedState", "Found"]


class Found(NamedTuple):
    """What the search has found, one for all chains.

    Attributes:
        ladder: what is frozen of the ladder.
        num_warmup: iterations of the warm-up.
        burn_in: its first iterations, in which chains leave their starts; the others make no evaluations.
        log_evidences: `log Z` by each population of the last pass, shape `(populations,)`.
        missed_mass: Laplace mass of modes that descents found and particles missed, over the target's mass.
        surprising: fraction of the draws of one population that the others did not expect.
        kind: number of Gaussians of the fitted reference, or one of `reference_fit.KINDS`.
    """

    ladder: FrozenLadder
    num_warmup: jax.Array
    burn_in: jax.Array
    log_evidences: jax.Array
    missed_mass: jax.Array
    surprising: jax.Array
    kind: jax.Array


class AnnealedAdaptState(NamedTuple):
    """What the warm-up adapts; after it only replicas and sums change.

    Attributes:
        step_size: step size on the rung of the target, whitened units.
        ladder: replicas of every rung and the sums for the evidence.
        shared: what the search has found, one for all chains of a batch.
    """

    step_size: jax.Array
    ladder: Ladder
    shared: Found

    def ladder_summary(self) -> LadderSummary:
        """The numbers of the ladder, for a state without its kernel."""
        return ladder_summary(self)

    def evidence_report(self) -> EvidenceReport:
        """The evidence and the estimates that support it, for a state without its kernel."""
        return evidence_report(self)


AnnealedState = KernelState[AnnealedAdaptState]
