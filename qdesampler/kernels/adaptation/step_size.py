"""Step size by dual averaging on an acceptance statistic (Hoffman and Gelman 2014, section 3.2)."""

import math

__all__ = ["StepSizeSearch"]

_SHRINKAGE, _DELAY, _DECAY = 0.05, 10.0, 0.75  # gamma, t0, kappa of Hoffman and Gelman 2014, section 3.2
_FIRST_FACTOR = 10  # the iterates shrink to this multiple of the first step size


class StepSizeSearch:
    """The search for the step size whose acceptance is the target.

    Attributes:
        step_size: to use now.
    """

    def __init__(self, step_size: float, target: float, *, double_or_halve: bool = False):
        """Start at `step_size`; `double_or_halve` it first until the acceptance crosses the target."""
        self._target = target
        self._direction = 2 if double_or_halve else 0  # 2: not yet known, 0: averaging
        self._start(step_size)

    def _start(self, step_size: float) -> None:
        self.step_size: float = step_size
        self._log_average = math.log(step_size)
        self._centre = math.log(_FIRST_FACTOR * step_size)
        self._gap, self._count = 0.0, 0

    def update(self, acceptance: float) -> None:
        """Learn from an acceptance statistic in [0, 1]."""
        if self._direction:
            toward = 1 if acceptance > self._target else -1
            self._direction = toward if self._direction in (2, toward) else 0
            self._start(self.step_size * 2.0**toward)
            return
        self._count += 1
        self._gap += (self._target - acceptance - self._gap) / (self._count + _DELAY)
        log_step = self._centre - math.sqrt(self._count) / _SHRINKAGE * self._gap
        weight = self._count**-_DECAY
        self._log_average = weight * log_step + (1 - weight) * self._log_average
        self.step_size = math.exp(log_step)

    @property
    def average(self) -> float:
        """The step size to freeze: the weighted average of the logarithms."""
        return math.exp(self._log_average)
