r"""A step size that depends on the position, exactly: short where the score is stiff, as in a funnel's neck.

The step of a trajectory from `x` is drawn as

    log e ~ N(log e0 + m(x), s^2),        m(x) = -1/2 log(1 + |L^T a(x)|^2 / (SOFT^2 dim)),

with `s = LOG_STEP_SD`, the score `a` and the metric's factor `L`. On a Gaussian that the metric whitens `m`
is about constant; where the score is `k` times as stiff the step is `k` times as short. From the end `x'` the
same step would be drawn with another density, so that the acceptance gains the factor `N(log e; x') / N(log
e; x)`. This is a Gibbs step on `(x, v, e)`, which leaves `p` invariant (self-tuning by Gibbs: Bou-Rabee,
Carpenter and Marsden 2024, "GIST"). It needs no evaluation, because the scores at both ends are known.
"""

import numpy as np

__all__ = ["LOG_STEP_SD", "log_scales", "step_log_ratios"]

LOG_STEP_SD = 0.5  # standard deviation of the logarithm of a step size
SOFT = 2.0  # size of the score beyond which steps shorten, in units of a whitened Gaussian's


def log_scales(forces: np.ndarray) -> np.ndarray:
    """`m(x)` of every row from its whitened score, shape `(n, dim)`."""
    return -0.5 * np.log1p(np.mean(forces**2, 1) / SOFT**2)


def step_log_ratios(log_factors: np.ndarray, there: np.ndarray, here: np.ndarray) -> np.ndarray:
    """`log N(log e; x') - log N(log e; x)` for `log_factors = log e - log e0` and `m` at `x'` and `x`."""
    return 0.5 * ((log_factors - here) ** 2 - (log_factors - there) ** 2) / LOG_STEP_SD**2
