"""Standard errors of correlated series, by blocking and by summed correlations; fits to points with errors.

Averages of neighbours hold the same mean and less correlation: the naive error of the mean, computed level by
level while pairs are merged, grows until blocks are longer than the memory of the series and is right from
there on (Flyvbjerg and Petersen). Which level to take balances what is left of the correlation, of relative
size `T / B` for blocks of length `B`, against the noise of the error itself, `sqrt(B / 2n)`:

    B^3 > 4 n T^2,        T = (error at this level / naive error)^2,

with the largest `T` of all levels so far, since a level whose error happens to be small would pass too early.

The same `T` is the sum of the autocorrelations, `1 + 2 sum_k rho_k`, cut at the first window `W` where

    exp(-W / t) < t / sqrt(W n),        t = 2.5 / log((T + 1) / (T - 1)),

(Wolff), which needs fewer points but assumes a single time scale. Either estimate misses correlation more
often than it finds too much, so the larger of the two errors is taken: it is a few per cent too large for a
series without correlation, and closest to the truth with several time scales.

References:
    Flyvbjerg and Petersen, J. Chem. Phys. 91 (1989) 461: blocking.
    Wolff, Comput. Phys. Commun. 156 (2004) 143: the balance, and the window (equations 49 to 52).
    Lee, Conduit, Nemec, Lopez Rios and Drummond, Phys. Rev. E 83 (2011) 066706: the balance for blocking.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

__all__ = ["Blocking", "Fit", "blocking", "fit_polynomial", "ratio"]

_FEWEST = 8  # values that can be blocked, and blocks from which an error may still be read
_WINDOW = 2.5  # Wolff's window: memory per correlation time
_LONG = 30  # correlation times that a series must hold to be called converged


class Blocking(NamedTuple):
    """A mean and its standard error.

    Attributes:
        mean: of the series.
        error: one standard error.
        error_of_error: its own standard error.
        correlation_time: `T` in steps of the series, one where it has no memory.
        converged: whether the series is at least thirty times as long; else `error` is likely too small.
    """

    mean: float
    error: float
    error_of_error: float
    correlation_time: float
    converged: bool


def blocking(series: np.ndarray) -> Blocking:
    """Mean of a stationary series and its standard error, the larger of two estimates.

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
    mean, naive = float(values.mean()), values.var(ddof=1) / values.size
    # A spread at the level of rounding has no meaningful correlation.
    if naive <= (np.finfo(np.float64).eps * abs(mean)) ** 2:
        return Blocking(mean, math.sqrt(naive), 0.0, 1.0, True)
    time, relative = max(_by_blocks(values), _by_correlations(values - mean))
    error = math.sqrt(time * naive)
    return Blocking(mean, error, error * relative, time, values.size >= _LONG * time)


def _by_blocks(values: np.ndarray) -> tuple[float, float]:
    """`T`, and the relative error of its root."""
    total, variances, counts = values.size, [], []
    while values.size >= _FEWEST:
        variances.append(values.var(ddof=1) / values.size)
        counts.append(values.size)
        half = values.size // 2
        values = 0.5 * (values[: 2 * half : 2] + values[1 : 2 * half : 2])
    times = np.maximum.accumulate(np.array(variances) / variances[0])
    enough = (2 ** np.arange(times.size)) ** 3 > 4 * total * times**2
    level = int(np.argmax(enough)) if enough.any() else times.size - 1
    return float(times[level]), 1 / math.sqrt(2 * (counts[level] - 1))


def _by_correlations(centred: np.ndarray) -> tuple[float, float]:
    """The same from the autocorrelations."""
    size = centred.size
    spectrum = np.fft.rfft(centred, 2 * size)
    covariance = np.fft.irfft(spectrum * np.conj(spectrum))[:size] / np.arange(size, 0, -1)
    windows = np.arange(1, max(size // 4, 2))
    times = 1 + 2 * np.cumsum(covariance[windows] / covariance[0])
    memory = _WINDOW / np.log((np.maximum(times, 1 + 1e-9) + 1) / np.maximum(times - 1, 1e-9))
    enough = np.exp(-windows / memory) < memory / np.sqrt(windows * size)
    i = int(np.argmax(enough)) if enough.any() else windows.size - 1
    window = windows[i]
    return float(times[i] * (1 + (2 * window + 1) / size)), math.sqrt((window + 0.5) / size)


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
        chi_square: sum of squared residuals in units of the errors, those of priors too.
        p_value: probability of a larger `chi_square`; 1 where nothing is left over.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    chi_square: float
    p_value: float


def fit_polynomial(
    x: np.ndarray,
    y: np.ndarray,
    errors: np.ndarray,
    powers: tuple[float, ...],
    prior: tuple[float, ...] | None = None,
) -> Fit:
    """Fit `y = sum_k c_k x^powers[k]` to points with independent errors.

    Args:
        x: shape `(n,)`.
        y: same shape.
        errors: standard errors of `y`, same shape.
        powers: of the terms.
        prior: standard deviations of the coefficients around 0; `inf` or `None`: nothing is known. A
            coefficient with a prior does not count among those fitted in the degrees of freedom.

    Raises:
        ValueError: more coefficients without a prior than points, or an error that is not positive.
    """
    x, y, errors = (np.asarray(a, np.float64) for a in (x, y, errors))
    known = np.isfinite(np.full(len(powers), np.inf) if prior is None else np.array(prior))
    free = x.size - int(np.sum(~known))
    if free < 0:
        raise ValueError(f"{np.sum(~known)} coefficients cannot be fitted to {x.size} points.")
    if not np.all(errors > 0):
        raise ValueError(f"errors must be positive, got {errors}.")
    rows = np.stack([x**p for p in powers], 1) / errors[:, None]
    if prior is not None:
        rows = np.concatenate([rows, np.diag(1 / np.array(prior))[known]])
    scale = np.linalg.norm(rows, axis=0)
    inverse = np.linalg.pinv(rows / scale) / scale[:, None]
    values = np.concatenate([y / errors, np.zeros(len(rows) - x.size)])
    coefficients = inverse @ values
    left = float(np.sum((values - rows @ coefficients) ** 2))
    return Fit(coefficients, inverse @ inverse.T, left, float(stats.chi2.sf(left, free)) if free else 1.0)
