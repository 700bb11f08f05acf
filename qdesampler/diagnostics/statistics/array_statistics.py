r"""Moments, errors, effective sample sizes and R-hat of many scalars at once.

Arrays have shape `(scalars, chains, draws)`. The definitions are those of Vehtari, Gelman, Simpson,
Carpenter & Buerkner, Bayesian Analysis 16(2), 2021, as in ArviZ. Here one Fourier transform, one sort and one
pass of Geyer's sums treat all scalars of a block together. Nested R-hat is that of Margossian et al.,
Bayesian Analysis 2024 (arXiv:2110.13017); the tail index is Zhang and Stephens' fit, Technometrics 51(3),
2009, with the prior of Vehtari et al., JMLR 25(72), 2024.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy import fft
from scipy.special import logsumexp, ndtri

__all__ = [
    "MIN_DRAWS",
    "ess_bulk",
    "ess_mean",
    "ess_tail",
    "in_threads",
    "mcse_mean",
    "mean_ranks",
    "nested_r_hat",
    "pareto_k",
    "r_hat",
    "split",
    "table_columns",
]

MIN_DRAWS = 4  # draws of a chain; each half needs two
_TAILS = (0.05, 0.95)  # probabilities of the tail quantiles
_PRIOR_DRAWS, _PRIOR_K = 10, 0.5  # weight in draws and mean of the prior of the tail index
_SUPERCHAINS = 4  # least number of superchains
_MOST_THREADS = 4  # threads


def in_threads[Item, Result](function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in order, with a few items in parallel; sorts and Fourier transforms release Python's lock."""
    workers = min(_MOST_THREADS, os.cpu_count() or 1)
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def table_columns(x: np.ndarray) -> dict[str, np.ndarray]:
    """Every column of a summary, each of shape `(scalars,)`; NaN if it cannot be computed.

    Args:
        x: shape `(scalars, chains, draws)`, float64.
    """
    n, chains, draws = x.shape
    out = {
        name: np.full(n, np.nan) for name in ("sd", "mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "r_hat")
    }
    with np.errstate(invalid="ignore", over="ignore"):
        out = {"mean": x.mean((1, 2)), **out}
        good = np.isfinite(x).all((1, 2))
        if chains * draws > 1:
            out["sd"][good] = x[good].std((1, 2), ddof=1)
    if draws < MIN_DRAWS or not good.any():
        return out
    y = x if good.all() else x[good]
    with np.errstate(invalid="ignore", divide="ignore"):
        out["mcse_mean"][good] = out["sd"][good] / np.sqrt(ess_mean(y))
        out["mcse_sd"][good] = _mcse_sd(y)
        ranks, folded = _both_ranks(y)
        out["ess_bulk"][good] = _ess(ranks)
        out["ess_tail"][good] = ess_tail(y)
        out["r_hat"][good] = np.fmax(_r_hat(ranks), _r_hat(folded))
    return out


def split(x: np.ndarray) -> np.ndarray:
    """Halves of every chain as chains, shape `(scalars, 2 chains, draws // 2)`."""
    half = x.shape[2] // 2
    return np.concatenate([x[:, :, :half], x[:, :, x.shape[2] - half :]], axis=1)


def mean_ranks(x: np.ndarray) -> np.ndarray:
    """Ranks 1 to n within each row, ties averaged, same shape `(rows, n)`."""
    order = np.argsort(x, axis=1)
    return _by_rank(np.take_along_axis(x, order, 1), order, np.arange(2, 2 * x.shape[1] + 1) / 2)


def normal_ranks(x: np.ndarray) -> np.ndarray:
    """Normal scores of the ranks within each scalar, ties averaged, same shape."""
    flat = x.reshape(len(x), -1)
    order = np.argsort(flat, axis=1)
    return _scores(np.take_along_axis(flat, order, 1), order).reshape(x.shape)


def _both_ranks(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores of the split chains, and of their distances from the median, by one sort."""
    halves = split(x)
    flat = halves.reshape(len(x), -1)
    order = np.argsort(flat, axis=1)
    values = np.take_along_axis(flat, order, 1)
    size = flat.shape[1]
    middle = (values[:, (size - 1) // 2] + values[:, size // 2]) / 2
    distance = np.abs(values - middle[:, None])  # falls, then rises, which a merge sort sorts quickly
    again = np.argsort(distance, axis=1, kind="stable")
    folded = _scores(np.take_along_axis(distance, again, 1), np.take_along_axis(order, again, 1))
    return _scores(values, order).reshape(halves.shape), folded.reshape(halves.shape)


def _scores(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Normal scores in the original order, for sorted values and their old places, shape `(scalars, n)`."""
    size = values.shape[1]
    return _by_rank(values, order, ndtri((np.arange(2, 2 * size + 1) / 2 - 3 / 8) / (size + 1 / 4)))


def _by_rank(values: np.ndarray, order: np.ndarray, table: np.ndarray) -> np.ndarray:
    """As `_scores`, from a table for the ranks 1, 1.5, 2, ..., n."""
    n, size = values.shape
    fresh = np.ones((n, size), bool)
    np.not_equal(values[:, 1:], values[:, :-1], out=fresh[:, 1:])
    out = np.empty((n, size))
    np.put_along_axis(out, order, np.broadcast_to(table[::2], (n, size)), 1)
    place = np.arange(size)
    for row in np.flatnonzero(~fresh.all(axis=1)):
        starts = np.flatnonzero(fresh[row])
        ends = np.append(starts[1:], size) - 1
        run = np.cumsum(fresh[row]) - 1
        out[row, order[row, place]] = table[(starts + ends)[run]]
    return out


def r_hat(x: np.ndarray) -> np.ndarray:
    """Rank-normalised split R-hat, the larger of bulk and folded; a single chain is split in halves."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ranks, folded = _both_ranks(x)
        return np.fmax(_r_hat(ranks), _r_hat(folded))


def _r_hat(z: np.ndarray) -> np.ndarray:
    draws = z.shape[2]
    between = z.mean(2).var(1, ddof=1)
    within = z.var(2, ddof=1).mean(1)
    return np.sqrt(between / within + (draws - 1) / draws)


def nested_r_hat(x: np.ndarray) -> np.ndarray:
    r"""Rank-normalised nested R-hat of many chains; consecutive chains form a superchain.

    `sqrt(1 + B / W)` with `B` the variance of the means of superchains, `W` the mean over superchains of the
    variance between and within their chains. The means of superchains are more accurate than those of short
    chains, so that nested R-hat falls below its limit long before R-hat does. There are about as many
    superchains as chains in each, and at least four; remaining chains are ignored.

    Args:
        x: shape `(scalars, chains, draws)`, at least 8 chains.
    """
    supers = max(_SUPERCHAINS, int(np.sqrt(x.shape[1])))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = []
        for folded in (False, True):
            y = np.abs(x - np.median(x, axis=(1, 2), keepdims=True)) if folded else x
            z = normal_ranks(y)
            chains = z.shape[1] // supers
            z = z[:, : chains * supers].reshape(len(z), supers, chains, -1)
            means = z.mean(3)
            within = means.var(2, ddof=1)
            if z.shape[3] > 1:
                within = within + z.var(3, ddof=1).mean(2)
            values.append(np.sqrt(1 + means.mean(2).var(1, ddof=1) / within.mean(1)))
    return np.fmax(*values)


def ess_bulk(x: np.ndarray) -> np.ndarray:
    """Effective sample size of the normal scores of the ranks."""
    return _ess(normal_ranks(split(x)))


def ess_mean(x: np.ndarray) -> np.ndarray:
    """Effective sample size of the mean."""
    return _ess(split(x))


def ess_tail(x: np.ndarray) -> np.ndarray:
    """The smaller effective sample size of the 5% and 95% quantiles."""
    bounds = np.quantile(x, _TAILS, axis=(1, 2))
    return np.minimum(*(_ess(split((x <= bound[:, None, None]).astype(float))) for bound in bounds))


def mcse_mean(x: np.ndarray) -> np.ndarray:
    """Standard error of the mean, including autocorrelation."""
    return x.std((1, 2), ddof=1) / np.sqrt(ess_mean(x))


def _mcse_sd(x: np.ndarray) -> np.ndarray:
    squares = (x - x.mean((1, 2), keepdims=True)) ** 2
    variance = squares.mean((1, 2))
    fourth = (squares**2).mean((1, 2))
    return np.sqrt((fourth - variance**2) / ess_mean(squares) / variance / 4)


def _ess(x: np.ndarray) -> np.ndarray:
    """Effective sample size by Geyer's initial monotone sequence over all chains, shape `(scalars,)`."""
    n, chains, draws = x.shape
    size = chains * draws
    length = fft.next_fast_len(2 * draws, real=True)
    means = x.mean(2)
    waves: Any = fft.rfft(x - means[:, :, None], length, axis=2)
    power = np.mean(waves.real**2 + waves.imag**2, axis=1)
    covariance = np.asarray(fft.irfft(power, length, axis=1))[:, :draws] / draws
    variance = covariance[:, 0] * draws / (draws - 1.0)
    total = covariance[:, 0] + (means.var(1, ddof=1) if chains > 1 else 0.0)
    rho = 1 - (variance[:, None] - covariance) / total[:, None]
    rho[:, 0] = 1
    # Sums of lags 2k and 2k + 1 are added up to the first that is not positive.
    most = max(0, -(-(draws - 2) // 2) - 1)
    pairs = rho[:, : 2 * most + 2].reshape(n, -1, 2).sum(2)
    negative = pairs <= 0
    last = np.where(negative.any(1), np.minimum(negative.argmax(1), most), most)
    falling = np.minimum.accumulate(pairs, axis=1)
    kept = np.arange(pairs.shape[1]) < last[:, None]
    rows = np.arange(n)
    tail = rho[rows, 2 * last]
    tail = np.where((tail > 0) | (pairs[rows, last] >= 0), tail, 0.0)
    time = np.maximum(2 * np.sum(falling, axis=1, where=kept) - 1 + tail, 1 / np.log10(size))
    constant = np.ptp(x, axis=(1, 2)) < np.finfo(float).resolution
    return np.where(constant, size, size / np.where(constant, 1.0, time))


def pareto_k(x: np.ndarray) -> np.ndarray:
    """Index `k` of the heavier tail: `1 / k` moments exist; NaN if a tail has too few different values.

    Args:
        x: shape `(scalars, chains, draws)`, finite, at least 25 draws together.
    """
    flat = x.reshape(len(x), -1)
    size = flat.shape[1]
    most = int(3 * np.sqrt(size)) if size > 225 else size // 5
    order = np.partition(flat, (most, size - most - 1), axis=1)
    left = np.sort(-order[:, : most + 1], axis=1)
    right = np.sort(order[:, size - most - 1 :], axis=1)
    ks = np.stack([_tail_index(side[:, 1:] - side[:, :1]) for side in (left, right)])
    return np.fmax(*ks)


def _tail_index(excess: np.ndarray) -> np.ndarray:
    """Shape of the generalised Pareto law of sorted excesses, shape `(scalars, n)`."""
    n = excess.shape[1]
    count = 30 + int(np.sqrt(n))
    quartile = excess[:, int(n / 4 + 0.5) - 1]
    out = np.full(len(excess), np.nan)
    usable = np.flatnonzero(quartile > excess[:, 0])
    grid = 1 - np.sqrt(count / (np.arange(1, count + 1) - 0.5))
    block = max(1, 2_000_000 // (n * count))
    for rows in (usable[i : i + block] for i in range(0, len(usable), block)):
        y = excess[rows]
        b = grid / (3 * quartile[rows, None]) + 1 / y[:, -1:]
        k = np.log1p(-b[:, :, None] * y[:, None, :]).mean(2)
        with np.errstate(invalid="ignore", divide="ignore"):
            log_weight = n * (np.log(-b / k) - k - 1)
        log_weight = np.where(np.isnan(log_weight), -np.inf, log_weight)
        weight = np.exp(log_weight - logsumexp(log_weight, axis=1, keepdims=True))
        best = np.sum(b * weight, axis=1, keepdims=True)
        found = np.log1p(-best * y).mean(1)
        out[rows] = (n * found + _PRIOR_DRAWS * _PRIOR_K) / (n + _PRIOR_DRAWS)
    return out
