"""The search of one trial: look at candidates, judge, take the closed-form step of imaginary time."""

import enum
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qdesampler.numerics.markov_field import MarkovField
from qdesampler.numerics.numpy_metric import to_position_rows, whiten_rows
from qdesampler.solvers.gaussian.certificate import (
    NOTHING,
    CandidateLaw,
    Candidates,
    certify,
    draw_candidates,
    tempered_weights,
)
from qdesampler.solvers.gaussian.descents import Evaluate
from qdesampler.solvers.gaussian.host_step import Gaussian, gaussian_step

__all__ = ["INFORMATIVE", "Outcome", "Recentre", "Search", "SolveSettings"]

Recentre = Callable[[np.ndarray, np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray] | None]
"""Weighted points and their scores to the map of points into new coordinates, or None if nothing changed.

Afterwards the target is evaluated in the new coordinates.
"""

_RISE = 2.0  # nats a step by which an evidence bound counts as rising
_CONSISTENT = 1.0  # energy a dimension above which candidates cannot all be taken: their weights are rounding
_BETTER = 0.85  # ratio of autocorrelation times from which a trial counts as better
INFORMATIVE = 0.08  # acceptance from which the weights of candidates show more than the place of the bulk
_PER_DIMENSION = 2  # candidates of a step; a dense factor takes `dim + 1` at least
# Candidates of a step for a Markov field: at least, and for each unknown of a row. With 128 and 256 the solve
# of hierarchical-lines took two and five times as many evaluations.
_FEWEST, _PER_UNKNOWN = 64, 4
_STEPS_BEFORE_DENSE = 6  # with a low-rank factor, where a dense one is allowed: fourteen.md, irt
_RECENTRE_EVERY = 3  # steps
# Steps without a better trial from which one of no use is given up. On the way into the neck of a funnel the
# evidence bound falls at every step: hierarchy-centred took 2,300 evaluations more until step 16. None of 50
# solves of NumPyro's examples that ended well had five.
_LOST = 5
# Energy a dimension below which points of a Markov field say how far sites should be centred. On
# hierarchy-centred the acceptance says so after 16 steps only.
_NEAR = 0.5
_PROBES = 128  # dimensions beyond which the distance of two trials is estimated from as many probes
_POOLED = 4096  # most points that a fit looks at, unless one step has more


class Outcome(enum.StrEnum):
    """What came of a solve, in words."""

    SOLVED = "solved"
    MIDDLING = "middling"
    HOPELESS = "hopeless"
    UNBOUNDED = "no normalisable ground state"


class SolveSettings(NamedTuple):
    """What the solve depends on besides target and starts.

    Attributes:
        rank: directions of the factor: 0 for a diagonal, `dim` for a dense one.
        candidates: of one step; `None`: `max(16, 2 dim)`, at most 256.
        max_steps: steps after which the solve ends.
        degrees: degrees of freedom of the Student-t candidates; infinite for normal ones.
        good_time: autocorrelation time at which a trial counts as solved; `None`: the solve goes on until the
            trial has settled.
        tolerance: how far a step may still move a settled trial, root mean square distance in units of the
            trial's widths.
        usable: acceptance below which a trial is hopeless.
        unusable: acceptance below which it is given up after `first_look` steps, or five that did not help.
        patience: steps without a better trial before a usable one is kept.
        first_look: see `unusable`.
        precision: relative rounding of the log densities, and the type that points are rounded to.
        blocks: index groups that may be correlated, for a dense factor; None: all coordinates are one.
        widths: least width of each coordinate's candidates, in units of the trial's, shape `(dim,)`, once the
            trial is informative; None: one.
        dense_up_to: dimensions up to which a low-rank trial that does not suffice is made dense.
        field: the graph of a Markov field, whose covariances are fitted; None: any covariance.
    """

    rank: int
    candidates: int | None = None
    max_steps: int = 24
    degrees: float = 30.0
    good_time: float | None = 1.75
    tolerance: float = 0.3
    usable: float = 0.15
    unusable: float = 0.03
    patience: int = 3
    first_look: int = 16
    precision: np.typing.DTypeLike = np.float32
    blocks: tuple[tuple[int, ...], ...] | None = None
    widths: np.ndarray | None = None
    dense_up_to: int = 0
    field: MarkovField | None = None


class Search:
    """The steps of one trial: its candidates so far and its certificate."""

    def __init__(
        self, evaluate: Evaluate, settings: SolveSettings, trial: Gaussian, rng: np.random.Generator
    ):
        self.evaluate, self.settings, self.trial, self.rng = evaluate, settings, trial, rng
        self.law: CandidateLaw = CandidateLaw(settings.degrees, settings.precision)
        dim = trial.centre.size
        unknowns = dim if settings.field is None else settings.field.elimination.width
        fewest, each = (16, _PER_DIMENSION) if settings.field is None else (_FEWEST, _PER_UNKNOWN)
        self.count: int = settings.candidates or int(np.clip(each * unknowns, fewest, 256))
        self._unknowns: int = unknowns
        self.extra: int = 0
        self.seen: list[Candidates] = []
        self.number: int = 0
        self.evaluations: int = 0
        self.spent_by_others: int = 0
        self.stale: int = 0
        self.best_time, self.best_mass, self.change = np.inf, -np.inf, np.inf
        self.wild: int = 0
        self.certificate = NOTHING
        self.best = trial, NOTHING

    @property
    def is_low_rank(self) -> bool:
        """Whether the factor has fewer directions than the dimension, and more than none."""
        return 0 < self.settings.rank < self.trial.centre.size

    @property
    def may_be_dense(self) -> bool:
        """Whether a dense factor is left to try."""
        return self.is_low_rank and self.trial.centre.size <= self.settings.dense_up_to

    def make_dense(self) -> None:
        """Go on with a dense factor; the next look is at enough candidates to determine one."""
        dim = self.trial.centre.size
        self.settings: SolveSettings = self.settings._replace(rank=dim)
        self.seen.clear()
        self.best = self.trial, NOTHING
        self.number = self.stale = 0
        self.best_time: float = np.inf
        self.extra = _PER_DIMENSION * dim - self.count

    def look(self) -> bool:
        """Draw and judge the trial; returns whether it was still rising."""
        law = self.law
        if self.certificate.acceptance >= INFORMATIVE:
            law = law._replace(widths=self.settings.widths)
        count, self.extra = self.count + self.extra, 0
        latest = draw_candidates(self.evaluate, self.trial, self.rng, count, law)
        self.seen.append(latest)
        self.number += 1
        self.evaluations += count
        self.certificate = certify(latest)
        if self.certificate.time < self.best[1].time:
            self.best = self.trial, self.certificate
        rising = self.certificate.log_mass > self.best_mass + _RISE
        better = self.certificate.time < _BETTER * self.best_time or rising
        self.stale: int = 0 if better else self.stale + 1
        self.best_time = min(self.best_time, self.certificate.time)
        self.best_mass: float = max(self.best_mass, self.certificate.log_mass)
        return rising

    def _recentre(self, recentre: Recentre) -> None:
        """Change the coordinates to suit the latest candidates, which are evaluated again in the new ones.

        Weights `p / q` do not depend on the coordinates.
        """
        latest = self.seen[-1]
        finite = latest.is_finite
        number = int(np.count_nonzero(finite))
        weights = tempered_weights(latest.log_weights[finite], 0.5 * number)
        follow = recentre(latest.points[finite], latest.scores[finite], weights)
        if follow is None:
            return
        self.best = self.best[0], NOTHING  # in other coordinates former trials are other densities
        points = follow(latest.points[finite])
        values, scores = self.evaluate(points)
        self.evaluations += number
        sound = np.isfinite(values) & np.all(np.isfinite(scores), 1) & np.all(np.isfinite(points), 1)
        self.seen = [
            Candidates(
                points[sound],
                scores[sound],
                latest.log_weights[finite][sound],
                latest.energies[finite][sound],
            )
        ]

    def move(self, recentre: Recentre | None = None) -> None:
        """Take the closed-form step; where most candidates had no density, halve the widths instead."""
        if self.certificate.finite_fraction < 0.5:
            self.seen.clear()
            self.wild, self.change = self.wild + 1, np.inf
            metric = self.trial.metric
            self.trial: Gaussian = self.trial._replace(metric=metric._replace(scale=metric.scale / 2))
            return
        is_near = self.settings.field is not None and self.certificate.energy < _NEAR
        due = self.number % _RECENTRE_EVERY == 0
        if recentre is not None and due and (is_near or self.certificate.acceptance >= INFORMATIVE):
            self._recentre(recentre)
        low_rank = self.is_low_rank
        # The later half of the steps: earlier candidates came from trials that were far away. A low-rank step
        # is no exact one, and far points would hold it back.
        newest = min((self.number + 1) // 2, max(_POOLED // self.count, 1), 2 if low_rank else self.number)
        points, scores, log_weights = (
            np.concatenate(column) for column in zip(*(s[:3] for s in self.seen[-newest:]), strict=True)
        )
        finite = np.isfinite(log_weights)
        number = np.count_nonzero(finite)
        if low_rank:
            weights = np.ones(number)  # with few points a dimension importance weights are mostly noise
        else:
            least = max(0.5 * number, min(number, self._unknowns + 2))
            weights = tempered_weights(log_weights[finite], float(least))
        settings = self.settings
        new = gaussian_step(
            self.trial,
            points[finite],
            scores[finite],
            weights,
            blocks=settings.blocks,
            rank=settings.rank if settings.rank == self.trial.centre.size else None,
            elimination=None if settings.field is None else settings.field.elimination,
        )
        self.change: float = _distance(self.trial, new)
        self.trial = new

    def is_solved(self, rising: bool) -> bool:
        """Whether the trial that was looked at last is good enough; a tight trial may still be climbing."""
        settings, certificate = self.settings, self.certificate
        if self.number < 2 or settings.good_time is None or (rising and self.number > 2):
            return False
        return certificate.time <= settings.good_time and certificate.energy < _CONSISTENT

    def verdict(self, rising: bool) -> Outcome | None:
        """The outcome, once there is one; asked after a look, before the step."""
        settings, certificate = self.settings, self.certificate
        if self.is_solved(rising):
            return Outcome.SOLVED
        if settings.good_time is None:
            settled = self.number > 2 and self.change <= settings.tolerance
            return (
                Outcome.SOLVED if settled else Outcome.MIDDLING if self.number >= settings.max_steps else None
            )
        if self.may_be_dense and (self.stale >= settings.patience or self.number >= _STEPS_BEFORE_DENSE):
            return Outcome.HOPELESS
        if self.stale >= settings.patience and certificate.acceptance >= settings.usable:
            return Outcome.MIDDLING
        is_over = self.number >= settings.first_look or self.stale >= _LOST
        if is_over and certificate.acceptance < settings.unusable:
            return Outcome.HOPELESS
        if self.number >= settings.max_steps:
            return Outcome.MIDDLING if certificate.acceptance >= settings.usable else Outcome.HOPELESS
        return None


def _distance(old: Gaussian, new: Gaussian) -> float:
    """Root mean square distance that a draw of `old` moves when its noise is mapped by `new`, whitened."""
    dim = old.centre.size
    offset = whiten_rows(old.metric, (new.centre - old.centre)[None])
    noise = np.eye(dim)
    if dim > _PROBES:  # the trace is estimated from random signs (Hutchinson 1990)
        noise = np.random.default_rng(0).choice([-1.0, 1.0], (_PROBES, dim))
    turned = whiten_rows(old.metric, to_position_rows(new.metric, noise)) - noise
    return float(np.sqrt(np.sum(offset**2) + np.mean(np.sum(turned**2, 1)) * (dim if dim <= _PROBES else 1)))
