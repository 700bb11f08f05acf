r"""Trajectory length by measured efficiency, for all lengths from the same trajectories.

A point `x_s` of a trajectory, `s` steps after its start `x_0`, would be accepted with the probability
`alpha_s`. So every trajectory tells of each length up to its own what a chain with that length would do: the
lag-one autocorrelation of a whitened coordinate, and of its square, is

    rho_s = 1 - E[alpha_s (f(x_s) - f(x_0))^2] / (2 Var f),

its autocorrelation time `tau_s = (1 + rho_s) / (1 - rho_s)`, and the cost of an effective draw `tau_s` times
the evaluations, with a high power mean of `tau` over coordinates so that the slowest ones count. (The jump
statistic is Pasarica and Gelman's, 2010; its ratio to the cost is that of Hoffman, Radul and Sountsov 2021.)
"""

from typing import NamedTuple

import numpy as np

__all__ = ["BestLength", "JumpRecord"]

_POWER = 4.0  # of the mean of the autocorrelation times over coordinates
_OVERHEAD = 2.0  # evaluations that the rest of a draw costs: refreshing, storing, summarising
_TIE = 1.15  # costs over the least that count as equal: of such lengths the longest serves the slowest modes
_LEAST_RHO, _MOST_RHO = -0.9, 0.999  # bounds of the lag-one autocorrelation


class BestLength(NamedTuple):
    """The cheapest mean number of steps.

    Attributes:
        steps: mean number of steps.
        cost: evaluations per effective draw of the slowest coordinates, overhead included.
        is_longest: whether no longer one was seen.
    """

    steps: float
    cost: float
    is_longest: bool


class JumpRecord:
    """Sums over trajectories from draws of the density; longer ones may be added later."""

    def __init__(self, draws: np.ndarray, stages: int):
        """Start empty.

        Args:
            draws: whitened, about the centre of the density, shape `(n, dim)`: their variances are its own.
            stages: gradients of a step.
        """
        second, fourth = np.mean(draws**2, 0), np.mean(draws**4, 0)
        self._variance = np.stack([second - np.mean(draws, 0) ** 2, fourth - second**2])
        self._squared = np.zeros((2, 0, draws.shape[1]))
        self._trajectories = np.zeros(0)
        self._stages = stages

    def add(self, starts: np.ndarray, displacements: np.ndarray, accept_probs: np.ndarray) -> None:
        """Count trajectories of as many steps as their arrays are long.

        Args:
            starts: whitened starts, shape `(chains, dim)`, about the centre of the density.
            displacements: shape `(steps, chains, dim)`.
            accept_probs: shape `(steps, chains)`.
        """
        taken = accept_probs[..., None]
        jumps = np.where(taken > 0, displacements, 0.0)
        squares = np.where(taken > 0, (starts + jumps) ** 2 - starts**2, 0.0)
        steps = len(displacements)
        longer = max(steps - len(self._trajectories), 0)
        self._squared = np.pad(self._squared, ((0, 0), (0, longer), (0, 0)))
        self._trajectories = np.pad(self._trajectories, (0, longer))
        self._squared[:, :steps] += np.stack([np.sum(taken * jumps**2, 1), np.sum(taken * squares**2, 1)])
        self._trajectories[:steps] += len(starts)

    def best(self, spread: float) -> BestLength | None:
        """The cheapest length whose draws vary by a relative half width `spread`; None without any."""
        most = len(self._trajectories)
        if not most:
            return None
        squared, variance = self._squared / self._trajectories[:, None], self._variance
        costs = []
        lengths = np.unique(np.round(np.geomspace(1, most / (1 + spread), 40), 2))
        for length in lengths:
            low, high = length * (1 - spread), length * (1 + spread)
            steps = np.clip(np.round(np.linspace(low, high, 9)), 1, most).astype(int)
            jump = np.mean(squared[:, steps - 1], 1)
            rho = 1 - np.divide(jump, 2 * variance, out=np.zeros_like(jump), where=variance > 0)
            rho = np.clip(rho, _LEAST_RHO, _MOST_RHO)
            tau = (1 + rho) / (1 - rho)
            slow = float(np.mean(tau**_POWER) ** (1 / _POWER))
            costs.append(slow * (_OVERHEAD + self._stages * float(np.mean(steps))))
        if not np.all(np.isfinite(costs)):
            return None
        best = int(np.flatnonzero(np.array(costs) <= _TIE * min(costs))[-1])
        return BestLength(float(lengths[best]), costs[best], best == len(lengths) - 1)
