"""What a run tells while it goes on."""

from collections.abc import Callable
from dataclasses import dataclass

from tqdm.auto import tqdm

from qdesampler.driver.stopping import Check

__all__ = ["Progress", "ProgressBar", "RunReport"]


@dataclass(frozen=True)
class Progress:
    """Where a run stands; callbacks get one after every chunk.

    Attributes:
        phase: "warmup" or "sample".
        iteration: iterations done of each chain, warm-up included.
        iterations: iterations in all, if nothing ends the run before.
        draws: kept draws of each chain.
        seconds: wall time of this call.
        evaluations: log-density evaluations of all chains since the start of the run; 0 for a kernel that
            counts none. The start itself is in the first iteration where the kernel counts it.
        evaluations_per_second: over this call.
        accept_prob: mean over the last chunk.
        divergences: divergent iterations among the draws' (thinned-out ones included).
        ess: effective draws of the worst parameter at the last look, or None.
        rhat: largest R-hat at the last look, or None.
        seconds_left: at the pace of this call, if nothing ends the run before.
    """

    phase: str
    iteration: int
    iterations: int
    draws: int
    seconds: float
    evaluations: int
    evaluations_per_second: float
    accept_prob: float
    divergences: int
    ess: float | None
    rhat: float | None
    seconds_left: float


@dataclass(frozen=True)
class RunReport:
    """How the last run went.

    Attributes:
        ended_by: "num_samples", "until", "max_time", "max_evals", "callback" or "interrupt".
        draws: kept of each chain.
        evaluations: log-density evaluations of all chains, warm-up included; 0 where the kernel counts none.
        divergences: divergent iterations after the warm-up.
        seconds: wall time, earlier calls of a resumed run included.
        check: the last look at effective draws and R-hat, or None.
    """

    ended_by: str
    draws: int
    evaluations: int
    divergences: int
    seconds: float
    check: Check | None


class ProgressBar:
    """One bar for all chains: a callback that draws, and closes at the end."""

    def __init__(self, iterations: int, make: Callable = tqdm):
        self._bar = make(total=iterations)

    def __call__(self, progress: Progress) -> None:
        """Show it."""
        told = [f"{progress.evaluations_per_second:.3g} evaluations/s", f"accept {progress.accept_prob:.2f}"]
        if progress.ess is not None:
            told.append(f"ESS {progress.ess:.0f}, R-hat {progress.rhat:.3f} at the last look")
        if progress.divergences:
            told.append(f"{progress.divergences} divergent")
        self._bar.set_description(progress.phase)
        self._bar.set_postfix_str(", ".join(told), refresh=False)
        self._bar.update(progress.iteration - self._bar.n)

    def close(self) -> None:
        """Leave the line as it is."""
        self._bar.close()
