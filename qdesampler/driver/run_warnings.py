"""Warnings after a run."""

import warnings

from qdesampler.driver.loop import RunInProgress, RunLoop
from qdesampler.driver.stopping import Until, check_convergence

__all__ = ["warn_of_run"]


def warn_of_run(run: RunInProgress, loop: RunLoop, until: Until | None, ended_by: str) -> None:
    """Warn of draws that are not finite, of an interrupt, and of an end before the criteria of `until` held.

    Args:
        run: the finished run.
        loop: the loop that ran it.
        until: the criteria that should have ended the run, or None.
        ended_by: the reason for which the run ended.
    """
    if run.buffer.not_finite:
        warnings.warn(
            f"Some draws of {', '.join(sorted(run.buffer.not_finite))} are NaN or infinite, so that no "
            "estimate from them can be trusted. Look for log, sqrt or a division outside its domain in what "
            "the model computes there, and at the draws with `diverging`.",
            RuntimeWarning,
            stacklevel=4,
        )
    if ended_by == "interrupt":
        warnings.warn(
            f"Interrupted: {run.position.draws} draws of each chain are kept.",
            RuntimeWarning,
            stacklevel=4,
        )
    if until is not None and until.needs_draws and ended_by != "until":
        check = loop.check
        if ended_by == "num_samples":
            check = check_convergence(run.buffer.sample(), run.position.draws, run.processes.gathered)
        if check is None or not until.is_met(check):
            warnings.warn(
                f"The run ended by {ended_by} before {until} held; the last check: {check}.",
                RuntimeWarning,
                stacklevel=4,
            )
