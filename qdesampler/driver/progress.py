"""Progress of a run, its progress bar, and the report at its end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from numpyro.infer.mcmc import MCMCKernel
from tqdm.auto import tqdm

from qdesampler.driver.stopping import ConvergenceCheck

__all__ = ["Progress", "ProgressBar", "RunReport", "set_total", "shown_warmup"]


@dataclass(frozen=True)
class Progress:
    """The progress of a run; callbacks get one after every chunk.

    Attributes:
        phase: "warmup" or "sample".
        iteration: iterations of each chain so far, warm-up included.
        iterations: iterations in total if nothing ends the run early.
        draws: kept draws of each chain.
        seconds: wall time of this call.
        evaluations: log-density evaluations of all chains since the start of the run; 0 for a kernel that
            does not count them. A kernel that counts the evaluations of its start adds them to the first
            iteration.
        evaluations_per_second: evaluations per second of this call.
        accept_prob: mean acceptance probability of the last chunk.
        divergences: divergent iterations after the warm-up, including iterations that thinning drops.
        ess: effective draws of the worst parameter at the last check, or None.
        rhat: largest R-hat at the last check, or None.
        seconds_left: time left at the speed of this call, if nothing ends the run early.
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
    """The report on the last run.

    Attributes:
        ended_by: "num_samples", "until", "max_time", "max_evals", "callback" or "interrupt".
        draws: kept draws of each chain.
        evaluations: log-density evaluations of all chains, warm-up included; 0 if the kernel does not count
            them.
        divergences: divergent iterations after the warm-up.
        seconds: wall time, including earlier calls of a resumed run.
        check: the last check of effective draws and R-hat, or None.
    """

    ended_by: str
    draws: int
    evaluations: int
    divergences: int
    seconds: float
    check: ConvergenceCheck | None


class ProgressBar:
    """A callback that draws one progress bar for all chains."""

    def __init__(self, iterations: int, make: Callable = tqdm):
        self._bar = make(total=iterations)

    def __call__(self, progress: Progress) -> None:
        """Update the bar."""
        words = [f"{progress.evaluations_per_second:.3g} evaluations/s", f"accept {progress.accept_prob:.2f}"]
        if progress.ess is not None:
            words.append(f"ESS {progress.ess:.0f}, R-hat {progress.rhat:.3f} at the last check")
        if progress.divergences:
            words.append(f"{progress.divergences} divergent")
        self._bar.set_description(progress.phase)
        self._bar.set_postfix_str(", ".join(words), refresh=False)
        self._bar.update(progress.iteration - self._bar.n)

    def close(self, ended_by: str) -> None:
        """Leave the last line on the screen; a bar whose run was to end early is full and not red."""
        if ended_by in ("until", "callback"):
            set_total(self._bar, self._bar.n)
        self._bar.close()


def set_total(bar: tqdm, total: float | None) -> None:
    """Change the length of a bar, on a terminal and in a notebook.

    The bar of a notebook keeps its length in a widget, which only `reset` changes. `reset` begins anew, so
    the count and the time are put back.
    """
    if total == bar.total:
        return
    if hasattr(bar, "container"):
        done, began = bar.n, bar.start_t
        bar.reset(total)
        bar.n, bar.start_t = done, began
        bar.refresh()
    bar.total = total


@contextmanager
def shown_warmup(kernel: MCMCKernel, *, shown: bool, make: Callable = tqdm) -> Iterator[None]:
    """One line that says how far a kernel is that adapts before its first iteration; it goes at the end.

    Args:
        kernel: one with `watch_warmup(report)` calls `report` with a few words; others say nothing.
        shown: whether there is a line at all.
        make: makes the line.
    """
    watch = getattr(kernel, "watch_warmup", None)
    if watch is None or not shown:
        yield
        return
    with make(desc="warm-up", bar_format="{desc} [{elapsed}]", leave=False) as line:
        watch(lambda words: line.set_description_str(f"warm-up: {words}"))
        try:
            yield
        finally:
            watch(None)
