"""Facts about a finished run of QDE, for attributes of trees, checks and plots."""

import jax
import numpy as np

from qdesampler.infer.model.kernel_reports import TrialReport
from qdesampler.infer.qde.state import Frozen, QDEState
from qdesampler.infer.qde.warmup import OUTCOMES
from qdesampler.kernels.adaptation.walk import HAS_EDGES
from qdesampler.solvers.gaussian.search import Outcome

__all__ = ["solve_facts", "trial_report"]

_LOCAL_ONLY = {
    "solve_outcome": OUTCOMES[0],
    "solve_bounded": 1,
    "solve_has_trial": 0,
    "solve_acceptance": 0.0,
    "solve_outliers": 0,
    "global_share": 0.0,
    "step_size_at_floor": 0,
    "density_edges": 0,
}


def solve_facts(state: QDEState) -> dict[str, str | int | float]:
    """The result of the imaginary-time solve.

    `solve_outcome` in words (`qdesampler.infer.qde.warmup.OUTCOMES`; the worst if chains solved separately),
    `solve_bounded` (0 if there is no normalisable ground state), `solve_has_trial` (1 if the solve ended with
    a usable trial), `solve_acceptance` of the trial as an independence proposal, `solve_outliers` (number of
    descents that ended outside the trial), `global_share`, the fraction of the draws that are global moves,
    `step_size_at_floor` (1 if no step size reached the acceptance that was aimed at, or only one below a
    twentieth of what a Gaussian allows), and `density_edges` (1 if a tenth of the trajectories of the warm-up
    met an edge or a jump of the density).

    Args:
        state: the last state of the run.
    """
    shared = state.adapt_state.shared
    if not isinstance(shared, Frozen):
        return dict(_LOCAL_ONLY)
    outcome = OUTCOMES[int(np.max(np.asarray(shared.outcome)))]
    return {
        "solve_outcome": outcome,
        "solve_bounded": int(outcome != Outcome.UNBOUNDED),
        "solve_has_trial": int(outcome in (Outcome.SOLVED, Outcome.MIDDLING)),
        "solve_acceptance": float(np.min(np.asarray(shared.acceptance))),
        "solve_outliers": int(np.max(np.asarray(shared.outliers))),
        "global_share": float(np.mean(np.asarray(shared.mixture.probability))),
        "step_size_at_floor": int(np.max(np.asarray(shared.at_floor))),
        "density_edges": int(np.max(np.asarray(shared.edges)) > HAS_EDGES),
    }


def trial_report(state: QDEState) -> TrialReport | None:
    """The trial of global moves; None without one.

    Args:
        state: the last state of the run.
    """
    shared = state.adapt_state.shared
    if not isinstance(shared, Frozen):
        return None
    centredness = np.asarray(shared.centredness, float)
    if centredness.ndim == 2:  # every chain has the same
        shared = jax.tree.map(lambda leaf: leaf[0], shared)
        centredness = centredness[0]
    as_written = (centredness == 1) & (shared.law is None)
    return TrialReport(shared.mixture.trial, as_written, float(np.asarray(shared.mixture.probability)))
