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
# Effective draws that are predicted of the moves of one iteration, beside a trial that is not clear and one
# whose acceptance is less than `_POOR`. The prediction is that of typical places: beside a poor trial the
# least of x and x² had a fourth of it in eight of NumPyro's examples, from sparse-interactions to
# gp-heteroscedastic; beside one of .65 it had all of it (annotation-multinomial).
_RATE_OF_A_DRAW, _RATE_IF_POOR, _POOR = 0.6, 1.2, 0.5
# The same for a solved trial whose local moves are not tuned. At .74 a second move gave gp 2.8 times as many
# effective draws; at .80 mesquite needed half as many evaluations again.
_SOLVED = 0.75
_LEAST_MOVES = 2  # of such an iteration
# Of more moves than these, about; NUTS takes 15 to 260 for a draw of these examples. With two moves of 20
# evaluations a chain of annotation-random-effects had R-hat 1.051, with three 1.009.
_MOST_EVALUATIONS = 50
_JUMP_COST = 1.5  # evaluations per effective draw over evaluations per trajectory, if it was not measured
# Bounds of the fraction of evaluations for global moves. With .95 a chain of hmm_drive was held for 81 draws.
_LEAST_FRACTION, _MOST_FRACTION = 0.05, 0.85
# The same up to `_NEARLY_ALL` of the candidates taken: runs of one chain on six of NumPyro's examples had 365
# effective draws of 1,000, and 184 at least where nothing else failed; at .85 they had 225 and 36.
_MOST_BELOW, _NEARLY_ALL = 0.4, 0.87
_MOST_IN_TAILS = 0.6  # the same where tails are heavy: at .85 a chain of a log scale was held for 43 draws
_MOST_UNCLEAR = 0.25  # the same for a trial that is not clear: others must find the tails it has not seen
# Probability of a local move however dear it is: a chain that is held waits 40 draws for one. The evaluations
# of log densities alone would otherwise leave one in 200 (33 evaluations beside 1; results/densities.md).
_LEAST_LOCAL = 0.025


class LocalMoves(NamedTuple):
    """Local moves: step size, mean length, and evaluations per effective draw if they were measured."""

    step_size: float
    length: float
    cost: float = np.inf
    at_floor: bool = False
    edges: float = 0.0


class Mixed(NamedTuple):
    """A trial beside local moves.

    Attributes:
        trial: the density.
        log_weights: of candidates that measured it; None if it was not measured.
        seen: autocorrelation time from other points than candidates.
        acceptance: of the trial.
        local: the local moves.
        starts: where chains may start, in the coordinates of the moves.
        heavy_tails: whether the trial of the solve was good but for the tails of the density.
        score_cost: evaluations of a step of a trajectory, where one of a candidate counts 1.
    """

    trial: HostTrial
    log_weights: np.ndarray | None
    seen: float
    acceptance: float
    local: LocalMoves
    starts: Chains
    heavy_tails: bool = False
    score_cost: float = 1.0

    @property
    def steps(self) -> float:
        """Evaluations of a trajectory."""
        return self.score_cost * max(self.local.length / self.local.step_size, 1.0)

    @property
    def local_cost(self) -> float:
        """Evaluations per effective draw of local moves."""
        cost = self.score_cost * self.local.cost
        return cost if np.isfinite(cost) else _JUMP_COST * self.steps

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
    time, steps = mixed.time, mixed.steps
    if not np.isfinite(time):
        return 0.0, 1
    candidates = int(np.clip(round(time / 2), 1, MOST_CANDIDATES))
    good, other = 1 / max(time, 1.0), 1 / max(mixed.local_cost, 1.0)
    most = _MOST_IN_TAILS if mixed.heavy_tails else _MOST_FRACTION
    if mixed.acceptance < _NEARLY_ALL:
        most = min(most, _MOST_BELOW)
    fraction = float(np.clip(good**2 / (good**2 + other**2), _LEAST_FRACTION, most))
    is_unclear = mixed.acceptance < (GOOD if mixed.heavy_tails else CLEAR)
    if is_unclear:
        fraction = min(fraction, _MOST_UNCLEAR)
    probability = _probability(fraction, candidates, steps)
    if mixed.score_cost > 1:
        as_often = _probability(fraction, candidates, steps / mixed.score_cost)
        probability = min(probability, max(as_often, 1 - _LEAST_LOCAL))
    if is_unclear:
        probability = min(probability, mixed.acceptance)
    return probability, candidates


def _probability(fraction: float, candidates: int, steps: float) -> float:
    """Of a global move, where so large a fraction of the evaluations is for global moves."""
    moves = fraction / candidates
    return moves / (moves + (1 - fraction) / steps)


def _rate(mixed: Mixed, probability: float, candidates: int) -> float:
    """Effective draws of one move."""
    by_candidates = candidates / mixed.time if np.isfinite(mixed.time) else 0.0
    return probability * min(by_candidates, 1.0) + (1 - probability) * min(
        mixed.steps / mixed.local_cost, 1.0
    )


def moves_of_a_draw(mixed: Mixed, probability: float, candidates: int) -> int:
    """Moves of one iteration: several where candidates are refused, so that draws are less correlated."""
    untuned = not np.isfinite(mixed.local.cost)
    if mixed.acceptance >= (_SOLVED if untuned else CLEAR):
        return 1
    evaluations = probability * candidates + (1 - probability) * mixed.steps
    aim = _RATE_IF_POOR if mixed.acceptance < _POOR else _RATE_OF_A_DRAW
    wanted = aim / max(_rate(mixed, probability, candidates), 1e-3)
    return max(_LEAST_MOVES, round(min(np.ceil(wanted), _MOST_EVALUATIONS / evaluations)))


def burn_in(mixed: Mixed, probability: float, candidates: int) -> int:
    """Iterations in which a chain forgets its start, about four autocorrelation times of a draw."""
    rate = _rate(mixed, probability, candidates) * moves_of_a_draw(mixed, probability, candidates)
    return int(np.clip(np.ceil(4 / max(rate, 1e-3)), 8, 100))
