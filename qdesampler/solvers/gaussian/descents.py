r"""Descents of `U = -log p` on the host: imaginary time at `D -> 0`, several at once.

At vanishing diffusion the imaginary-time flow is the descent of the potential, `dx/dtau = -grad U`. It is
followed by the quasi-Newton method with limited memory (Nocedal and Wright 2006, algorithm 7.5) and a
backtracking line search. All descents that still move are evaluated in one batch. The pairs of displacements
and score changes that they leave behind are secants of the Hessian: a first metric is fitted to them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["Descent", "Evaluate", "descend"]

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Points of shape `(n, dim)` to their log densities, shape `(n,)`, and scores, shape `(n, dim)`."""

MEMORY = 16  # pairs that a descent remembers at most
ENOUGH = 0.1  # nats that the quadratic model still predicts when a descent has arrived
_SUFFICIENT = 1e-4  # Armijo's constant
_FIRST_STEP = 1.0  # length of the first displacement, in the coordinates given
_FLAT, _STRIDE = 0.1, 4.0  # relative change of slope below which the step is lengthened, and the factor
_MAX_STALLS = 12  # points without gain in a row after which a descent cannot go on
_TINY_GAIN = 0.01  # nats that do not count as a gain
_FAITHFUL = 0.3  # gain over what both slopes promise, below which a pair says nothing of the curvature here
_UNPAID, _FREE = 10.0, 100.0  # ratio to a slope's promise, and nats, beyond which a step was a leap
_PATIENCE = 20  # batches before stragglers may be left behind


class Pairs(NamedTuple):
    """Secants scaled to unit energy `s.y`: `steps`, `s / sqrt(s.y)`, and `bends`, `y / sqrt(s.y)`.

    `y` is minus the change of the score. Both have the shape `(pairs, dim)`, the newest last.
    """

    steps: np.ndarray
    bends: np.ndarray


class Descent:
    """One descent: its best point so far, and the line along which it searches.

    Attributes:
        position: best point so far, shape `(dim,)`.
        log_density: `log p` there.
        score: `grad log p` there, shape `(dim,)`.
        pairs: the secants that it remembers.
        is_done: nothing is left to gain, or no progress is possible.
    """

    def __init__(
        self,
        position: np.ndarray,
        log_density: float,
        score: np.ndarray,
        precision: float,
        enough: float = ENOUGH,
    ):
        """Start at an evaluated point.

        Args:
            position: shape `(dim,)`.
            log_density: there.
            score: there.
            precision: relative rounding of the log densities.
            enough: nats that may be left to gain at the end.
        """
        self.position, self.log_density, self.score = position, float(log_density), score
        self.pairs: Pairs = Pairs(np.empty((0, position.size)), np.empty((0, position.size)))
        self.is_done: bool = not (np.isfinite(log_density) and np.all(np.isfinite(score)))
        self._precision, self._enough = precision, enough
        self._direction = score * (_FIRST_STEP / max(_norm(score), _FIRST_STEP))
        self._step = 1.0
        self._stalls = 0

    def next_point(self) -> np.ndarray:
        """The point to evaluate next, shape `(dim,)`."""
        return self.position + self._step * self._direction

    def advance(self, point: np.ndarray, log_density: float, score: np.ndarray) -> None:
        """Learn the log density and score at `next_point()`.

        A point is taken when it gains enough; otherwise the step is cut by a quadratic interpolation. Points
        that are not finite are stepped back from. So are points much higher than the slope at the start
        of the step can explain, and those whose slope neither it nor the gain can: that was a leap over a
        wall, into a region that may exist by rounding alone.
        """
        slope = float(self._direction @ self.score)
        gain = float(log_density) - self.log_density
        rounding = 4 * self._precision * abs(self.log_density)
        finite = bool(np.isfinite(log_density) and np.all(np.isfinite(score)))
        if not finite or gain < _SUFFICIENT * self._step * slope - rounding:
            self._shorten(slope, gain if finite else None)
            return
        step, bend = point - self.position, self.score - score
        first, last = float(step @ self.score), float(step @ score)
        known = _UNPAID * max(first, 0.0) + _FREE
        if gain > known or last > known + _UNPAID * gain:
            self._shorten(slope, None)
            return
        energy = float(step @ bend)
        # From the wall of an exponential the secant sees the curvature of the wall, not of where it leads to.
        faithful = gain >= _FAITHFUL * 0.5 * (first + last) - rounding
        if faithful and energy > max(1e-3 * abs(first), 0.0):
            self._remember(step / np.sqrt(energy), bend / np.sqrt(energy))
        self.position, self.log_density, self.score = point, float(log_density), score
        self._stalls = 0 if gain > rounding + _TINY_GAIN else self._stalls + 1
        # Where the slope barely changed nothing is known of the scale: go on along the same line, farther.
        flat = energy < _FLAT * abs(first)
        if flat:
            self._step *= _STRIDE
        else:
            self._direction, self._step = self._quasi_newton(), 1.0
        left = float(self._direction @ self.score)
        # No gain can be seen below the rounding of the log density.
        calm = gain <= max(10 * self._enough, rounding) and left <= max(2 * self._enough, rounding)
        stuck = self._stalls >= _MAX_STALLS or not np.isfinite(left)
        self.is_done = (faithful and not flat and calm) or stuck

    def _shorten(self, slope: float, gain: float | None) -> None:
        """Cut the step to the maximum of the parabola through both values and the slope."""
        cut = 0.1
        if gain is not None:
            missing = slope * self._step - gain
            cut = float(np.clip(0.5 * self._step * slope / missing if missing > 0 else 0.5, 0.1, 0.5))
        self._step *= cut
        self._stalls += 1
        self.is_done = self._stalls >= _MAX_STALLS

    def _remember(self, step: np.ndarray, bend: np.ndarray) -> None:
        kept = min(self.position.size + 2, MEMORY) - 1
        self.pairs = Pairs(
            np.concatenate([self.pairs.steps[-kept:], step[None]]),
            np.concatenate([self.pairs.bends[-kept:], bend[None]]),
        )

    def _quasi_newton(self) -> np.ndarray:
        """The direction of the two-loop recursion over pairs of unit energy."""
        vector, alongs = self.score, []
        for step, bend in zip(self.pairs.steps[::-1], self.pairs.bends[::-1], strict=True):
            along = step @ vector
            vector = vector - along * bend
            alongs.append(along)
        if len(self.pairs.bends):
            # Unit energy: the inverse curvature of the last pair, s.y / y.y, is 1 / |bend|^2.
            vector = vector / np.sum(self.pairs.bends[-1] ** 2)
        else:
            vector = vector * (_FIRST_STEP / max(_norm(self.score), _FIRST_STEP))
        for step, bend, along in zip(self.pairs.steps, self.pairs.bends, reversed(alongs), strict=True):
            vector = vector + (along - bend @ vector) * step
        return vector


def _norm(vector: np.ndarray) -> float:
    """Euclidean length; scores may be too large to be squared."""
    largest = float(np.max(np.abs(vector), initial=np.finfo(float).tiny))
    return largest * float(np.linalg.norm(vector / largest))


def descend(
    evaluate: Evaluate, descents: list[Descent], max_batches: int, round_points: Callable[..., np.ndarray]
) -> int:
    """Run descents side by side, in place, until all are done; return the evaluations that they took.

    A straggler is waited for half as long again as it took half of the descents to arrive.

    Args:
        evaluate: the target.
        descents: where they start.
        max_batches: batches after which they end wherever they are.
        round_points: rounds points to the precision in which the target takes them.
    """
    spent, half_done_at = 0, max_batches
    for batch in range(max_batches):
        moving = [descent for descent in descents if not descent.is_done]
        if 2 * len(moving) <= len(descents):
            half_done_at = min(half_done_at, batch)
        if not moving or batch > max(_PATIENCE, 1.5 * half_done_at):
            break
        points = round_points(np.stack([descent.next_point() for descent in moving]))
        values, scores = evaluate(points)
        spent += len(moving)
        for descent, *news in zip(moving, points, values, scores, strict=True):
            descent.advance(*news)
    return spent
