"""Facts about a finished run of QDE, for attributes of trees, checks and plots."""

import numpy as np

from qdesampler.infer.model.kernel_reports import TrialReport
from qdesampler.infer.qde.state import QDEState
from qdesampler.kernels.adaptation.imaginary_time import MIDDLING, OUTCOMES, SOLVED, UNBOUNDED

__all__ = ["solve_facts", "trial_report"]


def solve_facts(state: QDEState) -> dict[str, str | int | float]:
    """The result of the imaginary-time solve.

    `solve_outcome` in words (`qdesampler.kernels.adaptation.imaginary_time`; the worst if chains solved
    separately), `solve_bounded` (0 if there is no normalisable ground state), `solve_has_trial` (1 if the
    solve ended with a usable trial), `solve_acceptance` of the trial as an independence proposal,
    `solve_outliers` (number of chains whose descent ended outside the trial), and `global_share`, the
    fraction of the draws that are global moves.

    Args:
        state: the last state of the run.
    """
    shared = state.adapt_state.shared
    outcome = int(np.max(np.asarray(shared.solve.outcome)))
    return {
        "solve_outcome": OUTCOMES[outcome],
        "solve_bounded": int(outcome != UNBOUNDED),
        "solve_has_trial": int(outcome in (SOLVED, MIDDLING)),
        "solve_acceptance": float(np.min(np.asarray(shared.solve.acceptance))),
        "solve_outliers": int(np.sum(np.asarray(shared.solve.outliers))),
        "global_share": float(np.mean(np.asarray(shared.global_probability))),
    }


def trial_report(state: QDEState) -> TrialReport | None:
    """The trial of global moves; None if chains or batches adapted separately and there are several trials.

    Args:
        state: the last state of the run.
    """
    shared = state.adapt_state.shared
    centredness = np.asarray(shared.centredness, float)
    if centredness.ndim != 1:
        return None
    return TrialReport(shared.trial, centredness == 1, float(np.asarray(shared.global_probability)))
