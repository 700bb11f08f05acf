r"""Energies from the averages of turns, corrected for the bias of population control.

After turn `b` of imaginary length `t` the walkers, each of weight 1 before, carry `S_b` together. Control
divided out `C_j = exp(log_control_j - t E_ref,j)` at turn `j`. The ensemble that no control touched for `L`
turns has the total weight

    W_b = S_b exp(-t E_ref,b) prod_{j = b-L}^{b-1} C_j,

so with the turn's mean local energy `A_b` the *mixed* and the *growth* estimates are

    E_mixed = sum_b W_b A_b / sum_b W_b,
    E_growth = -log( sum_b W_b / sum_b W_b' ) / t,        W_b' = P_b prod_{j = b-L}^{b-1} C_j,

where `P_b` is the weight at the start of turn `b`. With `L = 0` and reconfiguration `E_mixed` is the mean,
biased by `O(1/N)`; the bias decays like `exp(-gap L t)`, and the noise of the weights grows with `L`. `L` is
five integrated correlation times of `A_b`, or the number that the caller gives.

References:
    Nightingale and Blote, Phys. Rev. B 33 (1986) 659; Umrigar, Nightingale and Runge, J. Chem. Phys. 99
    (1993) 2865, equations 12 to 15.
"""

import math
from typing import NamedTuple

import numpy as np

from qdesampler.solvers.dmc.blocking import Fit, blocking, fit_polynomial, ratio
from qdesampler.solvers.dmc.window import Turn

__all__ = ["Energies", "estimate", "extrapolate"]

_LAG = 5.0  # automatic lag, in correlation times
_LONGEST_LAG = 0.1  # longest automatic lag, as a part of the run


class Energies(NamedTuple):
    """Estimates of one run, with standard errors.

    Attributes:
        mixed: mixed estimate.
        error: standard error of `mixed`.
        growth: growth estimate.
        growth_error: standard error of `growth`.
        population_bias: mean over walkers and turns minus `mixed`.
        population_bias_error: standard error of `population_bias`.
        lag: turns over which the bias was corrected.
        correlation_time: of the mean over walkers, in turns.
        converged: whether the run is long enough for its error.
        drift: second half of the run less the first, in standard errors.
    """

    mixed: float
    error: float
    growth: float
    growth_error: float
    population_bias: float
    population_bias_error: float
    lag: int
    correlation_time: float
    converged: bool
    drift: float


def estimate(turns: Turn, length: float, lag: int | None = None) -> Energies:
    """Estimate the energy from consecutive turns.

    Args:
        turns: leading axis of turns, float64 on the host.
        length: imaginary time `t` of a turn, effective.
        lag: `L`; `None`: automatic.
    """
    energies = np.asarray(turns.reference + turns.deviation)
    plain = blocking(energies)
    if lag is None:
        lag = min(math.ceil(_LAG * plain.correlation_time), int(_LONGEST_LAG * energies.size))
    reference = plain.mean
    centre = np.asarray(turns.reference) - reference
    control = np.concatenate([[0.0], np.cumsum(turns.log_control - length * centre)])
    index = np.arange(lag, energies.size)
    history = control[index] - control[index - lag]
    log_growth = -length * centre[lag:]
    before = turns.before[lag:] * np.exp(history - history.max())
    after = turns.after[lag:] * np.exp(history - history.max() + log_growth)
    energies = energies[lag:]

    mixed = ratio(after, energies)
    grown = ratio(before, after / before)
    plain = blocking(energies)
    residual = after / after.mean() * (energies - mixed.mean) - (energies - plain.mean)
    middle = energies.size // 2
    first, second = ratio(after[:middle], energies[:middle]), ratio(after[middle:], energies[middle:])
    error = math.hypot(first.error, second.error)
    return Energies(
        mixed.mean,
        mixed.error,
        reference - math.log(grown.mean) / length,
        grown.error / grown.mean / length,
        plain.mean - mixed.mean,
        blocking(residual).error,
        lag,
        plain.correlation_time,
        mixed.converged,
        (second.mean - first.mean) / error if error > 0 else 0.0,
    )


def extrapolate(time_steps: np.ndarray, energies: np.ndarray, errors: np.ndarray) -> Fit:
    """Fit `E(tau) = E_0 + c tau + d tau^(3/2)`.

    The move is self-adjoint and keeps the trial's density invariant, so its error is of first order in `tau`;
    rejected moves add an error of order `3/2`. At the largest step the two are assumed to be of the same size
    at most: the prior of `d` is `0 +- (|c| + error of c) / sqrt(largest tau)`, with `c` of the straight line.
    If the energies show no error of the step, the fit is a straight line; if they do, the uncertainty of the
    second term is part of the error of `E_0`.
    """
    line = fit_polynomial(time_steps, energies, errors, (0, 1))
    slope = abs(line.coefficients[1]) + math.sqrt(line.covariance[1, 1])
    prior = (np.inf, np.inf, slope / math.sqrt(np.max(time_steps)))
    return fit_polynomial(time_steps, energies, errors, (0, 1, 1.5), prior)
