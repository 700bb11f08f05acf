"""Candidates of a trial and what they say of it: acceptance, autocorrelation time, energy, evidence bound."""

from typing import NamedTuple

import numpy as np

from qdesampler.numerics.host_trial import log_student
from qdesampler.numerics.numpy_metric import (
    log_determinant,
    to_position_rows,
    to_whitened_gradient_rows,
    whiten_rows,
)
from qdesampler.solvers.gaussian.descents import Evaluate
from qdesampler.solvers.gaussian.host_step import Gaussian

__all__ = [
    "NOTHING",
    "CandidateLaw",
    "Candidates",
    "Certificate",
    "certify",
    "draw_candidates",
    "tempered_weights",
    "truncated_time",
]

_WILD = 1e15  # a whitened score beyond this is dropped with the points that are not finite
_BISECTIONS = 30  # of the power of tempered weights: exact to 1e-9


class CandidateLaw(NamedTuple):
    """How candidates are drawn from a trial.

    Attributes:
        degrees: degrees of freedom of Student-t candidates; infinite for normal ones.
        precision: type that the points are rounded to before they are evaluated.
        widths: of each whitened coordinate, in units of the trial's, shape `(dim,)`; None: one.
    """

    degrees: float
    precision: np.typing.DTypeLike
    widths: np.ndarray | None = None


class Candidates(NamedTuple):
    """Draws of a trial, evaluated.

    Attributes:
        points: shape `(n, dim)`.
        scores: `grad log p` there; zero where density or score is not finite.
        log_weights: `log p - log q`, shape `(n,)`; `-inf` where density or score is not finite.
        energies: `|L^T (grad log q - grad log p)|^2` a dimension, shape `(n,)`; NaN there or if unknown.
    """

    points: np.ndarray
    scores: np.ndarray
    log_weights: np.ndarray
    energies: np.ndarray

    @property
    def is_finite(self) -> np.ndarray:
        """Which candidates have density and score, shape `(n,)`."""
        return np.isfinite(self.log_weights)


class Certificate(NamedTuple):
    """How good a trial is as the proposal of independence Metropolis, from its own candidates.

    Attributes:
        acceptance: mean probability that a draw of `p` accepts a candidate.
        time: autocorrelation time, `E_p [2 / alpha - 1]`; infinite where no candidate has density.
        energy: median whitened Fisher divergence a dimension, zero where the trial is exact; far candidates
            do not count more than others.
        log_mass: median of the log weights, for the evidence bound `E_q [log p - log q]`.
        finite_fraction: of the candidates.
    """

    acceptance: float
    time: float
    energy: float
    log_mass: float
    finite_fraction: float


NOTHING = Certificate(0.0, np.inf, np.inf, -np.inf, 0.0)
"""What is known before candidates have been looked at."""


def draw_candidates(
    evaluate: Evaluate, trial: Gaussian, rng: np.random.Generator, count: int, law: CandidateLaw
) -> Candidates:
    """Draw from the trial with Student-t tails and evaluate: `count` evaluations."""
    dim = trial.centre.size
    noise = rng.standard_normal((count, dim))
    if np.isfinite(law.degrees):
        noise /= np.sqrt(rng.chisquare(law.degrees, count) / law.degrees)[:, None]
    widths = np.ones(dim) if law.widths is None else law.widths
    points = trial.centre + to_position_rows(trial.metric, widths * noise)
    points = points.astype(law.precision).astype(float)
    whitened = whiten_rows(trial.metric, points - trial.centre)
    values, scores = evaluate(points)
    with np.errstate(invalid="ignore"):  # scores that are not finite have no weight
        pulls = to_whitened_gradient_rows(trial.metric, scores)
        sound = np.isfinite(values) & np.all(np.abs(pulls) < _WILD, 1)
    sound_rows = sound[:, None]
    log_law = _log_density(trial, whitened / widths, law.degrees) - np.sum(np.log(widths))
    return Candidates(
        points=points,
        scores=np.where(sound_rows, scores, 0.0),
        log_weights=np.where(sound, values - log_law, -np.inf),
        energies=np.where(sound, np.mean(np.where(sound_rows, pulls + whitened, 0.0) ** 2, 1), np.nan),
    )


def _log_density(trial: Gaussian, whitened: np.ndarray, degrees: float) -> np.ndarray:
    """Log density of the Student-t (or normal) law of the trial at whitened points, shape `(n,)`."""
    dim = whitened.shape[1]
    squares = np.sum(whitened**2, 1)
    if np.isfinite(degrees):
        law = log_student(squares, dim, degrees)
    else:
        law = -0.5 * squares - 0.5 * dim * np.log(2 * np.pi)
    return law - log_determinant(trial.metric)


def certify(candidates: Candidates) -> Certificate:
    """The certificate of the trial that drew these candidates.

    A chain at `x` with weight `w` leaves it at the rate `alpha(w) = E_q min(1, w' / w)`; the time of a
    function that has nothing to do with the weights is `E_p [2 / alpha - 1]`, one when every candidate is
    taken (Liu 1996). Both expectations are taken over the weighted candidates; those without density count
    as rejected.
    """
    finite = candidates.is_finite
    if not np.any(finite):
        return Certificate(0.0, np.inf, np.inf, -np.inf, 0.0)
    energies = candidates.energies[finite]
    weights, rates = _weights_and_rates(candidates.log_weights, finite)
    return Certificate(
        acceptance=float(weights @ rates),
        time=float(weights @ (2 / rates - 1)),
        energy=float(np.median(energies)) if np.all(np.isfinite(energies)) else np.nan,
        log_mass=float(np.median(candidates.log_weights[finite])),
        finite_fraction=float(np.mean(finite)),
    )


def truncated_time(log_weights: np.ndarray, longest: float) -> float:
    """`E_p [min(2 / alpha - 1, longest)]`: the time where other moves free a chain that is held too long.

    Args:
        log_weights: of candidates, shape `(n,)`; `-inf` for those without density.
        longest: time in which the other moves do so, in candidates.
    """
    finite = np.isfinite(log_weights)
    if not np.any(finite):
        return np.inf
    weights, rates = _weights_and_rates(log_weights, finite)
    return float(weights @ np.minimum(2 / rates - 1, longest))


def _weights_and_rates(log_weights: np.ndarray, finite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalised weights of the finite candidates, and the rate at which a chain leaves each of them."""
    log_weights = log_weights[finite]
    weights = np.exp(log_weights - np.max(log_weights))
    ratios = np.exp(np.minimum(log_weights[None, :] - log_weights[:, None], 0))
    return weights / np.sum(weights), np.sum(ratios, 1) / finite.size


def tempered_weights(log_weights: np.ndarray, target: float) -> np.ndarray:
    """`w^b` with the largest power `b <= 1` that leaves at least `target` effective draws; their mean is one.

    Args:
        log_weights: finite, shape `(n,)`.
        target: effective sample size asked for, `(sum w)^2 / sum w^2`.
    """
    log_weights = log_weights - np.max(log_weights)

    def effective(power: float) -> float:
        weights = np.exp(power * log_weights)
        return float(np.sum(weights) ** 2 / np.sum(weights**2))

    low, high = 0.0, 1.0
    if effective(1.0) >= target:
        low = 1.0
    for _ in range(_BISECTIONS if low < 1 else 0):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if effective(middle) >= target else (low, middle)
    weights = np.exp(low * log_weights)
    return weights / np.mean(weights)
