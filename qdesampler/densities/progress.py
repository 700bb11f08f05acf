"""Progress of a run, in evaluations."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from tqdm.auto import tqdm

from qdesampler.driver.progress import set_total

__all__ = ["Bar", "EvaluationProgress", "Meter"]

_PAUSE = 0.2  # seconds between two reports


@dataclass(frozen=True)
class EvaluationProgress:
    """How far a run is.

    Attributes:
        phase: what is done, in words, with the acceptance of the trial once it is known.
        evaluations: points evaluated, those of earlier calls with the same checkpoint included.
        evaluations_left: an estimate for the draws that are left; None during the warm-up.
        draws: kept draws of each chain.
        seconds: wall time of this call.
        seconds_left: an estimate, at the speed of this call; None during the warm-up.
    """

    phase: str
    evaluations: int
    evaluations_left: int | None
    draws: int
    seconds: float
    seconds_left: float | None


class Meter:
    """Reports progress to a callback, not too often."""

    def __init__(self, callback: Callable[[EvaluationProgress], None] | None):
        self._callback = callback
        self._began, self._last = monotonic(), -_PAUSE
        self._phase, self._draws, self._planned = "start", 0, None
        self._evaluations = self._made = 0

    def phase(self, words: str, draws: int = 0, left: float | None = None) -> None:
        """A new phase; `left` evaluations are expected from here on."""
        self._phase, self._draws = words, draws
        self._planned = None if left is None else self._evaluations + left
        self._report(self._evaluations, always=True)

    def evaluated(self, total: int, made: int) -> None:
        """`total` points are evaluated, `made` of them by this call."""
        self._made = made
        self._report(total, always=False)

    def _report(self, total: int, *, always: bool) -> None:
        self._evaluations = total
        now = monotonic()
        if self._callback is None or (not always and now < self._last + _PAUSE):
            return
        self._last = now
        left = None if self._planned is None else max(int(self._planned) - total, 0)
        seconds = now - self._began
        speed = self._made / seconds if seconds > 0 else 0.0
        rest = None if left is None or speed == 0 else left / speed
        self._callback(EvaluationProgress(self._phase, total, left, self._draws, seconds, rest))


class Bar:
    """A callback that draws one bar of evaluations."""

    def __init__(self, make: Callable = tqdm):
        self._bar = make(unit=" evaluations")

    def __call__(self, progress: EvaluationProgress) -> None:
        """Update the bar."""
        left = progress.evaluations_left
        self._bar.set_description_str(progress.phase, refresh=False)
        set_total(self._bar, None if left is None else progress.evaluations + left)
        self._bar.n = progress.evaluations
        self._bar.refresh()

    def close(self) -> None:
        """Leave the last line on the screen."""
        self._bar.close()
