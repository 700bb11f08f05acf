"""Standard errors of correlated series, by blocking, and straight lines through points with errors.

Averages of neighbours hold the same mean and less correlation: the naive error of the mean, computed level by
level while pairs are merged, grows until blocks are longer than the memory of the series and is right from
there on (Flyvbjerg and Petersen). Which level to take balances what is left of the correlation, of relative
size `T / B` for blocks of length `B`, against the noise of the error itself, `sqrt(B / 2n)`:

    B^3 > 2 n T^2,        T = (error at this level / naive error)^2

is the first level at which noise is the larger (Wolff; Lee et al.).

References:
    Flyvbjerg and Petersen, J. Chem. Phys. 91 (1989) 461: blocking.
    Wolff, Comput. Phys. Commun. 156 (2004) 143; Lee, Conduit, Nemec, Lopez Rios and Drummond, Phys. Rev. E
    83 (2011) 066706: the balance.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

__all__ = ["Blocking", "Fit", "blocking", "fit_polynomial", "ratio"]

_FEWEST = 8  # values that can be blocked, and blocks from which an error may still be read


class Blocking(NamedTuple):
    """A mean and its standard error.

    Attributes:
        mean: of the series.
        error: one standard error.
        error_of_error: its own standard error.
        correlation_time: integrated autocorrelation time in steps of the series, one where it has no memory.
        block_length: of the level chosen.
        converged: whether blocks much longer than the memory were to be had; else `error` is the largest of
            all levels, and likely too small.
    """

    mean: float
    error: float
    error_of_error: float
    correlation_time: float
    block_length: int
    converged: bool


def blocking(series: np.ndarray) -> Blocking:
    """Mean of a stationary series, its standard error from the level where noise and memory balance.

    Args:
        series: shape `(n,)`, at least 8 values.

    Raises:
        ValueError: another shape, fewer values, or values that are not finite.
    """
    values = np.asarray(series, np.float64)
    if values.ndim != 1 or values.size < _FEWEST:
        raise ValueError(f"a series of at least {_FEWEST} values is needed, got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{np.sum(~np.isfinite(values))} of {values.size} values are not finite.")
    mean, total = float(values.mean()), values.size
    variances, counts = [], []
    while values.size >= _FEWEST:
        variances.append(values.var(ddof=1) / values.size)
        counts.append(values.size)
        half = values.size // 2
        values = 0.5 * (values[: 2 * half : 2] + values[1 : 2 * half : 2])
    # A spread at the level of rounding has no correlation to speak of.
    if variances[0] <= (np.finfo(np.float64).eps * abs(mean)) ** 2:
        return Blocking(mean, math.sqrt(variances[0]), 0.0, 1.0, 1, True)
    times = np.array(variances) / variances[0]
    lengths = 2 ** np.arange(times.size)
    enough = lengths**3 > 2 * total * times**2
    converged = bool(enough.any())
    level = int(np.argmax(enough)) if converged else int(np.argmax(times))
    error = math.sqrt(variances[level])
    return Blocking(
        mean,
        error,
        error / math.sqrt(2 * (counts[level] - 1)),
        float(max(times[level], 0.0)),
        int(lengths[level]),
        converged,
    )


def ratio(weights: np.ndarray, values: np.ndarray) -> Blocking:
    """Blocking of `sum w a / sum w`: the error is that of the linearised series `w (a - mean) / mean w`.

    Raises:
        ValueError: as in `blocking`.
    """
    weights, values = np.asarray(weights, np.float64), np.asarray(values, np.float64)
    mean = float(np.sum(weights * values) / np.sum(weights))
    return blocking(weights * (values - mean) / weights.mean())._replace(mean=mean)


class Fit(NamedTuple):
    """A weighted least-squares polynomial.

    Attributes:
        coefficients: from the constant upwards.
        covariance: of the coefficients, from the errors given.
        chi_square: sum of squared residuals in units of the errors.
        p_value: probability of a larger `chi_square`; 1 where nothing is left over.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    chi_square: float
    p_value: float


def fit_polynomial(x: np.ndarray, y: np.ndarray, errors: np.ndarray, powers: tuple[float, ...]) -> Fit:
    """Fit `y = sum_k c_k x^powers[k]` to points with independent errors.

    Raises:
        ValueError: more powers than points, or an error that is not positive.
    """
    x, y, errors = (np.asarray(a, np.float64) for a in (x, y, errors))
    if x.size < len(powers):
        raise ValueError(f"{len(powers)} coefficients cannot be fitted to {x.size} points.")
    if not np.all(errors > 0):
        raise ValueError(f"errors must be positive, got {errors}.")
    design = np.stack([x**p for p in powers], 1) / errors[:, None]
    scale = np.linalg.norm(design, axis=0)
    inverse = np.linalg.pinv(design / scale) / scale[:, None]
    coefficients = inverse @ (y / errors)
    left = float(np.sum((y / errors - design @ coefficients) ** 2))
    free = x.size - len(powers)
    return Fit(coefficients, inverse @ inverse.T, left, float(stats.chi2.sf(left, free)) if free else 1.0)
