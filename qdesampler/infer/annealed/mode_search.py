r"""Descents (imaginary time at `D -> 0`) that find the modes which particles missed.

Behind a first-order transition (a narrow spike in a wide slab) no thermal path finds the mode that carries
most of the mass; a descent of `U` does. If a population lost a mode on its way, particles of early stages are
still near that mode, with little weight, and descents start there too. The mass of a mode is Laplace's
approximation at the end of a descent.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import expit, softmax

from qdesampler.kernels.references.mixture_fit import lower_whitener, smallest_scales
from qdesampler.kernels.references.reference import Reference, log_density, squared_radius
from qdesampler.kernels.smc.particles import Particles
from qdesampler.kernels.smc.persistent_sampling import Annealed
from qdesampler.numerics.evaluator import Evaluator
from qdesampler.solvers.gaussian.descents import Descent, descend

__all__ = [
    "CLOSE",
    "LARGE_MISSED_MASS",
    "LEAST_MISSED_MASS",
    "WIDER",
    "Mode",
    "ModeSearch",
    "descend_from",
    "distinct_modes",
    "starts_from_low_weights",
    "starts_of_descents",
]

_DESCENTS = 4  # descents from the draws and from the first stage, for each population
_MAX_BATCHES = 200  # evaluations of one descent
CLOSE = 1e-3  # nats left at the end of a descent, so that it meets a spike in the middle of a slab
LEAST_MISSED_MASS = 0.02  # mass below which a mode that particles missed is ignored
LARGE_MISSED_MASS = 0.2  # mass of missed modes from which their mass in the reference is worth an alarm
_LARGEST_WEIGHT = 0.9  # weight that one missed mode gets at most
_SEEN = 0.25  # part of a mode's Laplace mass that particles must carry there for the mode to count as seen
_NEGLIGIBLE = 1e-3  # of the mass of the highest mode, below which another mode does not matter
WIDER = 5.0  # nats per dimension by which the log mass at an end that is no mode may exceed Laplace's there
# Descents from particles of low weight (results/evidence.md: "Modes lost").
_LOW_WEIGHT_STARTS = 24
_MOST_MISSED = 4  # missed modes that become Gaussians after one search (results/evidence.md: mixture-40)
_RADIUS = 3.0  # standard deviations of a Gaussian's squared distance within which a point belongs to a mode
_PROBE = 0.02  # nats of energy change that a difference of scores spans
_WIDEST = 10.0  # standard deviations of the particles: no Gaussian fits an end that is wider


class Mode(NamedTuple):
    """An end of a descent and Laplace's approximation there.

    Attributes:
        position: shape `(dim,)`.
        whitener: lower triangular `P` with `P'P` the curvature; None where that is not positive definite.
        log_density: `log p` at the end.
        log_mass: Laplace's approximation; `-inf` for an end that is no mode.
    """

    position: np.ndarray
    whitener: np.ndarray | None
    log_density: float
    log_mass: float


class ModeSearch(NamedTuple):
    """What the descents found.

    Attributes:
        missed: modes that particles missed, the one of largest mass first, and the mass of each over that of
            the target.
    """

    missed: list[tuple[Mode, float]]

    @property
    def missed_mass(self) -> float:
        """Mass of all missed modes together, if they are added to a reference one after another."""
        return 1 - float(np.prod([1 - mass for _, mass in self.missed]))


def starts_of_descents(annealed: Annealed, draws: np.ndarray) -> np.ndarray:
    """Starts of descents: draws of the target, then particles of the first stage of every population.

    The latter are in every basin that is wide enough, also in one that a small population lost on its way.
    """
    populations, points = annealed.log_mixture.shape
    first = annealed.particles.positions.reshape(populations, points, -1)[:, :_DESCENTS]
    return np.concatenate([draws[: _DESCENTS * populations], first.reshape(-1, draws.shape[1])])


def starts_from_low_weights(reference: Reference, particles: Particles, log_z: float) -> np.ndarray:
    r"""Particles whose score points to a mode that the reference lacks, shape `(starts, dim)`.

    A particle beside a mode that its population lost has hardly any weight. Its score `a` predicts where that
    mode is and how high, if the mode is as narrow as a Gaussian of the reference, `S = (P'P)^-1`:

        m = x + S a,    log p(m) = log p(x) + a'Sa / 2.

    For each particle the Gaussian of least rise is taken. The particle of largest `log p(m) / q(m)` is
    chosen; then a Gaussian at its `m` is added to `q`, and the next particle is chosen.

    Args:
        reference: a mixture of Gaussians.
        particles: of any weight.
        log_z: log evidence.
    """
    sound = np.isfinite(particles.log_p) & np.all(np.isfinite(particles.scores_p), 1)
    points, scores, values = particles.positions[sound], particles.scores_p[sound], particles.log_p[sound]
    if not len(points) or not len(reference.means) or reference.whiteners.ndim < 3:
        return points[:0]
    inverses = np.stack([solve_triangular(w, np.eye(len(w)), lower=True) for w in reference.whiteners])
    halves = scores[None] @ inverses  # (gaussians, n, dim): P'^-1 a
    rises = 0.5 * np.sum(halves**2, 2)
    nearest = np.argmin(rises, 0)
    rows = np.arange(len(points))
    modes = points + np.einsum("nij,nj->ni", inverses[nearest], halves[nearest, rows])
    heights = values + rises[nearest, rows] - log_z
    log_q = log_density(reference, modes)
    chosen = []
    for _ in range(min(_LOW_WEIGHT_STARTS, len(points))):
        ratio = heights - log_q
        worst = int(np.argmax(np.where(np.isfinite(ratio), ratio, -np.inf)))
        chosen.append(points[worst])
        offset = (modes - modes[worst]) @ reference.whiteners[nearest[worst]].T
        log_q = np.logaddexp(log_q, heights[worst] - 0.5 * np.sum(offset**2, 1))
    return np.stack(chosen)


def descend_from(
    starts: np.ndarray, annealed: Annealed, log_z: float, spread: np.ndarray, evaluate: Evaluator
) -> ModeSearch:
    """Descend from every start and compare the ends with what the particles found.

    Args:
        starts: shape `(descents, dim)`.
        annealed: the particles.
        log_z: log evidence by the particles.
        spread: draws whose standard deviations scale the coordinates.
        evaluate: the target.
    """
    scale = np.maximum(np.std(spread, 0), smallest_scales(np.mean(spread, 0)))
    ends = _ends(starts, evaluate, scale)
    modes = distinct_modes(ends, evaluate, scale, float(np.log(_NEGLIGIBLE)))
    probability = softmax(annealed.target_log_weights.reshape(-1))
    missed = []
    for mode in sorted(modes, key=lambda mode: -mode.log_mass):
        mass = float(expit(mode.log_mass - log_z))
        if mode.whitener is None or mass <= LEAST_MISSED_MASS or len(missed) >= _MOST_MISSED:
            continue
        seen = float(np.sum(probability[_is_near(mode, annealed.particles.positions)]))
        if seen < _SEEN * mass:
            missed.append((mode, min(mass, _LARGEST_WEIGHT)))
    return ModeSearch(missed)


def _is_near(mode: Mode, points: np.ndarray) -> np.ndarray:
    """Which points belong to a mode."""
    assert mode.whitener is not None
    squares = np.sum(((points - mode.position) @ mode.whitener.T) ** 2, 1)
    return squares < squared_radius(points.shape[1], _RADIUS)


def _ends(starts: np.ndarray, evaluate: Evaluator, scale: np.ndarray) -> np.ndarray:
    """Ends of descents in coordinates divided by `scale`, the highest first, shape `(descents, dim)`."""

    def scaled(points):
        values, scores = evaluate(points * scale)
        return values, scores * scale

    points = evaluate.rounded(starts) / scale
    precision = float(np.finfo(evaluate.dtype).eps)
    found = [Descent(*start, precision, CLOSE) for start in zip(points, *scaled(points), strict=True)]
    descend(scaled, found, _MAX_BATCHES, lambda rows: evaluate.rounded(rows * scale) / scale)
    arrived = [end for end in found if np.isfinite(end.log_density) and end.is_done]
    arrived.sort(key=lambda end: -end.log_density)
    return np.stack([end.position * scale for end in arrived]) if arrived else np.zeros((0, len(scale)))


def distinct_modes(
    ends: np.ndarray, evaluate: Evaluator, scale: np.ndarray, log_negligible: float | None = None
) -> list[Mode]:
    """The different modes among ends of descents.

    An end is compared with the modes found so far before its curvature is asked for.

    Args:
        ends: shape `(descents, dim)`, the highest first.
        evaluate: the target.
        scale: widths, on which the curvature is measured, shape `(dim,)`.
        log_negligible: ends whose mass cannot reach this part of that of the first mode are left out.
    """
    modes: list[Mode] = []
    values, scores = evaluate(ends) if len(ends) else (np.zeros(0), ends)
    for position, value, score in zip(ends, values, scores, strict=True):
        if any(mode.whitener is not None and _is_near(mode, position[None])[0] for mode in modes):
            continue
        # An end that is no mode may be up to `WIDER` nats per dimension wider than the highest mode.
        least = -np.inf if log_negligible is None else log_negligible - WIDER * len(scale)
        if modes and modes[0].whitener is not None and value - modes[0].log_density < least:
            continue
        modes.append(_mode(position, float(value), score, evaluate, scale))
    return modes


def _mode(
    position: np.ndarray, log_density: float, score: np.ndarray, evaluate: Evaluator, scale: np.ndarray
) -> Mode:
    """Laplace's approximation at an end, by differences of scores along every axis: `2 dim` evaluations.

    The first differences give the curvature from which the length of the second follows.
    """
    dim = len(scale)
    lengths = np.cbrt(np.finfo(evaluate.dtype).eps) * np.maximum(scale, np.abs(position))
    curvature = np.full((dim, dim), np.nan)
    for _ in range(2):
        points = evaluate.rounded(position + np.diag(lengths))
        moved = np.diag(points - position)
        with np.errstate(all="ignore"):
            curvature = (score - evaluate(points)[1]) / moved[:, None]
            energies = 0.5 * np.abs(np.diag(curvature)) * moved**2
            sound = np.isfinite(energies) & (energies > 0)
            lengths = np.where(sound, lengths * np.sqrt(_PROBE / np.where(sound, energies, 1)), lengths / 8)
    curvature = 0.5 * (curvature + curvature.T) * np.outer(scale, scale)
    blank = Mode(position, None, log_density, -np.inf)
    if not (np.all(np.isfinite(curvature)) and np.isfinite(log_density)):
        return blank
    try:
        factor = lower_whitener(curvature)
    except np.linalg.LinAlgError:
        return blank
    diagonal = np.diag(factor)
    if np.min(diagonal) < 1 / _WIDEST:
        return blank
    constant = 0.5 * dim * np.log(2 * np.pi) + float(np.sum(np.log(scale)))
    log_mass = log_density + constant - float(np.sum(np.log(diagonal)))
    return Mode(position, factor / scale, log_density, log_mass)
