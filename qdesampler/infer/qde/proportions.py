"""The proportions of global and local moves, from what both were measured to cost."""

from typing import NamedTuple

import numpy as np

from qdesampler.kernels.mcmc.host_trajectories import Chains
from qdesampler.kernels.mcmc.mixture import MOST_CANDIDATES
from qdesampler.numerics.host_trial import HostTrial
from qdesampler.solvers.gaussian.certificate import truncated_time
from qdesampler.solvers.gaussian.refine import CLEAR, GOOD

__all__ = ["LocalMoves", "Mixed", "burn_in", "moves_of_a_draw", "proportions"]

_SHORTEST_HOLD = 4.0  # candidates for which a chain may be held, however cheap local moves are
_MOVES_UNCLEAR = 2  # of an iteration: more are wasted on independent draws (results/fourteen.md)
_JUMP_COST = 1.5  # evaluations per effective draw over evaluations per trajectory, if it was not measured
# Bounds of the fraction of evaluations for global moves. With .95 a chain of hmm_drive was held for 81 draws.
_LEAST_FRACTION, _MOST_FRACTION = 0.05, 0.85
_MOST_UNCLEAR = 0.25  # the same for a trial that is not clear: others must find the tails it has not seen


class LocalMoves(NamedTuple):
    """Local moves: step size, mean length, and evaluations per effective draw if they were measured."""

    step_size: float
    length: float
    cost: float = np.inf
    at_floor: bool = False


class Mixed(NamedTuple):
    """A trial beside local moves.

    Attributes:
        trial: the density.
        log_weights: of candidates that measured it; None if it was not measured.
        seen: autocorrelation time from other points than candidates.
        acceptance: of the trial.
        local: the local moves.
        starts: where chains may start, in the coordinates of the moves.
    """

    trial: HostTrial
    log_weights: np.ndarray | None
    seen: float
    acceptance: float
    local: LocalMoves
    starts: Chains

    @property
    def local_cost(self) -> float:
        """Evaluations per effective draw of local moves."""
        steps = max(self.local.length / self.local.step_size, 1.0)
        return self.local.cost if np.isfinite(self.local.cost) else _JUMP_COST * steps

    @property
    def time(self) -> float:
        """Autocorrelation time of candidates, if local moves free a chain that is held too long."""
        if self.log_weights is None:
            return np.inf
        longest = max(2 * self.local_cost, _SHORTEST_HOLD)
        return max(truncated_time(self.log_weights, longest), min(self.seen, longest))


def proportions(mixed: Mixed) -> tuple[float, int]:
    """Probability of a global move, and its candidates.

    Both kinds are measured in evaluations per effective draw, and the fractions of the evaluations are in
    proportion to the squares of their efficiencies. Both kinds are always used, because each solves a problem
    of the other: a chain that is held at a point where `p / q` is large leaves it by local moves, one that
    cannot travel locally travels by global ones. A trial that is not clear gets no more of the moves than
    the fraction of its candidates that is accepted.
    """
    time, steps = mixed.time, max(mixed.local.length / mixed.local.step_size, 1.0)
    if not np.isfinite(time):
        return 0.0, 1
    candidates = int(np.clip(round(time / 2), 1, MOST_CANDIDATES))
    good, other = 1 / max(time, 1.0), 1 / max(mixed.local_cost, 1.0)
    fraction = float(np.clip(good**2 / (good**2 + other**2), _LEAST_FRACTION, _MOST_FRACTION))
    if mixed.acceptance < CLEAR:
        fraction = min(fraction, _MOST_UNCLEAR)
    moves = fraction / candidates
    probability = moves / (moves + (1 - fraction) / steps)
    if mixed.acceptance < CLEAR:
        probability = min(probability, mixed.acceptance)
    return probability, candidates


def _rate(mixed: Mixed, probability: float, candidates: int) -> float:
    """Effective draws of one move."""
    steps = max(mixed.local.length / mixed.local.step_size, 1.0)
    by_candidates = candidates / mixed.time if np.isfinite(mixed.time) else 0.0
    return probability * min(by_candidates, 1.0) + (1 - probability) * min(steps / mixed.local_cost, 1.0)


def moves_of_a_draw(mixed: Mixed) -> int:
    """Moves of one iteration: several beside a trial that is not clear, so that draws are less correlated."""
    untuned = mixed.acceptance >= GOOD and not np.isfinite(mixed.local.cost)
    return 1 if mixed.acceptance >= CLEAR or untuned else _MOVES_UNCLEAR


def burn_in(mixed: Mixed, probability: float, candidates: int) -> int:
    """Iterations in which a chain forgets its start, about four autocorrelation times of a draw."""
    rate = _rate(mixed, probability, candidates) * moves_of_a_draw(mixed)
    return int(np.clip(np.ceil(4 / max(rate, 1e-3)), 8, 100))
