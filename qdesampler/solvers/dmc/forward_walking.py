r"""The ground state estimated from walkers: `psi0^2` as points, `log psi0` as a fit.

Walkers are distributed like `psi_T psi0`. The mean number of descendants that a walker at `x` has after a
long time is proportional to `psi0(x) / psi_T(x)` (Liu, Kalos and Chester 1974), so points counted as often
as they have descendants follow `psi0^2`, and

    log psi0(x) = log psi_T(x) + c(x) + constant,       E[descendants of x] = exp(c(x)) constant.

`c` is fitted by Poisson regression, which needs no logarithm of a count, on polynomials of bounded
coordinates

    s_i = z_i / sqrt(1 + z_i^2 / 9),        z = standardised x_1, ..., x_dim, log psi_T(x),

so that far out, where no walker went, `psi0` falls off like `psi_T` and stays normalisable. The degree is the
one with the best likelihood on the half of the windows held out. Neither the fit nor its norm is exact.

References:
    Liu, Kalos and Chester, Phys. Rev. A 10 (1974) 303; Barnett, Reynolds and Lester, J. Comput. Phys. 96
    (1991) 258: descendants, and the law of the forward walk.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.equation.laplacian import ScalarFunction
from qdesampler.solvers.dmc.window import Snapshot

__all__ = ["Correction", "WalkersWavefunction", "build_wavefunction"]

_BOUND = 9.0  # square of the bound on a coordinate `s`, in units of its standard deviation
_DEGREES = (1, 2, 3, 4, 6, 8)  # degrees of the polynomial that are tried
MOST_FEATURES = 220  # monomials of a fit, at most
_RIDGE = 1e-3  # penalty of a squared coefficient, per point and unit of the feature's variance
_MOST_DRAWS = 32768  # points kept for draws
_NORM_DRAWS = 16384  # draws of the importance-sampling estimate of the norm
_TAIL = 7.0  # degrees of freedom of the Student-t law of these draws
_BINS = 20  # bins of equal size for the error on held-out points, at most


class Correction(NamedTuple):
    """`c(x)`, fitted.

    Attributes:
        powers: exponents of every feature, shape `(features, dim + 1)`.
        coefficients: shape `(features,)`.
        centre: mean that standardises a coordinate, shape `(dim + 1,)`.
        scale: standard deviation that standardises it, same shape.
    """

    powers: jax.Array
    coefficients: jax.Array
    centre: jax.Array
    scale: jax.Array


def _evaluate(correction: Correction, x: jax.Array, log_trial: jax.Array) -> jax.Array:
    z = (jnp.append(x, log_trial) - correction.centre) / correction.scale
    s = z / jnp.sqrt(1 + z**2 / _BOUND)
    # Powers by multiplication, so that 0^0 = 1 and its derivatives are 0.
    most = max(_DEGREES)
    ladder = jnp.cumprod(jnp.broadcast_to(s, (most, s.size)), 0)
    ladder = jnp.concatenate([jnp.ones((1, s.size), s.dtype), ladder])
    features = jnp.prod(ladder[correction.powers, jnp.arange(s.size)], 1)
    return features @ correction.coefficients


@jax.tree_util.register_pytree_node_class
class WalkersWavefunction:
    """The estimated ground state: points for `psi0^2`, trial times a fitted correction for `log psi0`.

    `sample` draws from the stored points, an empirical law: draws repeat, and at most
    `diagnostics["effective_draws"]` of them are independent. `log_psi` is an estimate, not exact.

    Attributes:
        log_trial: `log |psi_T|` of one point, not normalised.
        correction: `c`.
        log_norm: half the log of the estimated integral of `(psi_T exp(c))^2`.
        points: equally likely draws, shape `(n, dim)`.
        support: corners of the box outside which `psi` is 0, or `None`.
    """

    def __init__(
        self,
        log_trial: ScalarFunction,
        correction: Correction,
        log_norm: jax.Array,
        points: jax.Array,
        support: tuple[jax.Array, jax.Array] | None,
    ):
        self.log_trial = log_trial
        self.correction = correction
        self.log_norm = log_norm
        self.points = points
        self.support = support

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.points.shape[-1]

    def log_psi(self, x: jax.Array) -> jax.Array:
        """Return the estimate of `log |psi0(x)|`, a scalar, at one point of shape `(dim,)`."""
        log_trial = self.log_trial(x)
        # The correction is bounded; where the trial is zero, it must not turn -inf into NaN.
        inside = jnp.where(log_trial > -jnp.inf, log_trial, 0)
        correction = _evaluate(self.correction, x, inside) - self.log_norm
        return jnp.where(log_trial > -jnp.inf, inside + correction, -jnp.inf)

    def sample(self, key: jax.Array) -> jax.Array:
        """Return one of the stored points, shape `(dim,)`."""
        return self.points[jax.random.randint(key, (), 0, self.points.shape[0])]

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        """Split into leaves and static parts: a trial that is a plain function is static."""
        arrays = (self.correction, self.log_norm, self.points, self.support)
        if jax.tree_util.all_leaves([self.log_trial]):
            return arrays, self.log_trial
        return (*arrays, self.log_trial), None

    @classmethod
    def tree_unflatten(cls, static: Any, leaves: tuple[Any, ...]) -> "WalkersWavefunction":
        """Rebuild from leaves and static parts; nothing is checked."""
        self = object.__new__(cls)
        self.correction, self.log_norm, self.points, self.support = leaves[:4]
        self.log_trial = leaves[4] if static is None else static
        return self


def _powers(coordinates: int, degree: int) -> np.ndarray:
    """Exponents of all monomials from degree 1 to `degree`, shape `(features, coordinates)`."""
    rows = []
    for total in range(1, degree + 1):
        for chosen in itertools.combinations_with_replacement(range(coordinates), total):
            rows.append(np.bincount(chosen, minlength=coordinates))
    return np.array(rows)


def _design(s: np.ndarray, powers: np.ndarray) -> np.ndarray:
    out = np.ones((len(s), len(powers)))
    for column, exponents in zip(s.T, powers.T, strict=True):
        out *= (column[:, None] ** np.arange(max(_DEGREES) + 1))[:, exponents]
    return out


def _poisson(design: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Coefficients, the constant first, of `E[count] = exp(design @ beta)`; Newton with halved steps."""
    rows = np.concatenate([np.ones((len(design), 1)), design], 1)
    penalty = _RIDGE * len(rows) * np.r_[0.0, design.var(0)]

    def loss(beta):
        with np.errstate(over="ignore"):
            return np.sum(np.exp(rows @ beta) - counts * (rows @ beta)) + 0.5 * penalty @ beta**2

    beta = np.zeros(rows.shape[1])
    beta[0] = np.log(counts.mean())
    now = loss(beta)
    for _ in range(30):
        rate = np.exp(rows @ beta)
        gradient = rows.T @ (rate - counts) + penalty * beta
        curvature = rows.T @ (rate[:, None] * rows) + np.diag(penalty + 1e-9 * len(rows))
        move = np.linalg.solve(curvature, gradient)
        for _ in range(20):
            after = loss(beta - move)
            if after <= now:
                break
            move = move / 2
        beta, gain, now = beta - move, now - after, min(after, now)
        if gain < 1e-9 * len(rows):
            break
    return beta


def _excess(log_rate: np.ndarray, counts: np.ndarray) -> float:
    """Poisson loss per point, above that of the best constant, after the rate's own constant is fitted."""
    log_rate = log_rate - np.log(np.mean(np.exp(log_rate)) / counts.mean())
    return float(-np.mean(counts * (log_rate - np.log(counts.mean()))))


def _held_out_error(log_rate: np.ndarray, counts: np.ndarray) -> float:
    """Root mean square of log(counted / predicted) over bins of equal size by the prediction."""
    parts = np.array_split(np.argsort(log_rate, kind="stable"), min(_BINS, len(counts) // 50 or 1))
    predicted = np.array([np.exp(log_rate[p]).mean() for p in parts])
    counted = np.array([counts[p].mean() for p in parts])
    good = counted > 0
    off = np.log(counted[good] / predicted[good])
    return float(np.sqrt(np.mean((off - np.mean(off)) ** 2)))


def _fit(
    points: np.ndarray, log_trial: np.ndarray, counts: np.ndarray, fitted: np.ndarray
) -> tuple[Correction, dict[str, float]]:
    """The correction, and its errors on held-out points."""
    coordinates = np.concatenate([points, log_trial[:, None]], 1)
    centre, scale = coordinates.mean(0), coordinates.std(0)
    scale = np.where(scale > 1e-6 * (np.abs(centre) + 1e-30), scale, 1.0)
    z = (coordinates - centre) / scale
    s = z / np.sqrt(1 + z**2 / _BOUND)
    width = coordinates.shape[1]
    best, degree = 0.0, 0
    error = _held_out_error(np.zeros(np.sum(~fitted)), counts[~fitted])
    for candidate in _DEGREES:
        if math.comb(width + candidate, candidate) > min(MOST_FEATURES, np.sum(fitted) // 20 + 1):
            break
        design = _design(s, _powers(width, candidate))
        log_rate = design[~fitted] @ _poisson(design[fitted], counts[fitted])[1:]
        excess = _excess(log_rate, counts[~fitted])
        if excess < best:
            best, degree, error = excess, candidate, _held_out_error(log_rate, counts[~fitted])
    powers = _powers(width, degree) if degree else np.zeros((1, width), int)
    coefficients = _poisson(_design(s, powers), counts)[1:] if degree else np.zeros(1)
    dtype = jnp.result_type(float)
    correction = Correction(
        jnp.asarray(powers), *(jnp.asarray(a, dtype) for a in (coefficients, centre, scale))
    )
    return correction, {"correction_degree": degree, "correction_gain": -best, "correction_error": error}


def _comb(counts: np.ndarray, draws: int, offset: float) -> np.ndarray:
    """Indices drawn in proportion to `counts` by systematic resampling: all of equal weight."""
    cumulated = np.cumsum(counts)
    teeth = (np.arange(draws) + offset) * (cumulated[-1] / draws)
    return np.minimum(np.searchsorted(cumulated, teeth, side="right"), len(counts) - 1)


@jax.jit
def _log_psi_all(wavefunction: WalkersWavefunction, points: jax.Array) -> jax.Array:
    return jax.lax.map(wavefunction.log_psi, points, batch_size=1024)


@jax.jit
def _log_trial_all(wavefunction: WalkersWavefunction, points: jax.Array) -> jax.Array:
    return jax.lax.map(wavefunction.log_trial, points, batch_size=1024)


def _log_norm(wavefunction: WalkersWavefunction, seed: np.random.Generator) -> tuple[float, float]:
    """Half the log of `integral psi^2` and its error, by importance sampling from a Student-t law."""
    points = np.asarray(wavefunction.points, np.float64)
    dim = points.shape[1]
    spread = np.atleast_2d(np.cov(points.T)) + 1e-12 * np.diag(points.var(0) + 1e-30)
    factor = np.linalg.cholesky(spread)
    normal = seed.normal(size=(_NORM_DRAWS, dim))
    radius = np.sqrt(_TAIL / seed.chisquare(_TAIL, _NORM_DRAWS))[:, None]
    y = normal * radius
    log_q = (
        math.lgamma((_TAIL + dim) / 2)
        - math.lgamma(_TAIL / 2)
        - 0.5 * dim * math.log(_TAIL * math.pi)
        - np.sum(np.log(np.diag(factor)))
        - 0.5 * (_TAIL + dim) * np.log1p(np.sum(y**2, 1) / _TAIL)
    )
    x = jnp.asarray(points.mean(0) + y @ factor.T, jnp.result_type(float))
    log_ratio = 2 * np.asarray(_log_psi_all(wavefunction, x), np.float64) - log_q
    log_ratio = np.where(np.isnan(log_ratio), -np.inf, log_ratio)
    weights = np.exp(log_ratio - log_ratio.max())
    error = weights.std() / weights.mean() / math.sqrt(_NORM_DRAWS)
    return 0.5 * (log_ratio.max() + math.log(weights.mean())), 0.5 * float(error)


def _effective(values: np.ndarray, counts: np.ndarray, window: np.ndarray) -> float:
    """Least effective number of independent draws behind the weighted mean of a column, by windows."""
    total = counts.sum()
    mean = counts @ values / total
    centred = values - mean
    variance = counts @ centred**2 / total
    sums = np.stack([np.bincount(window, counts * column) for column in centred.T], 1)
    windows = len(sums)
    of_mean = np.sum(sums**2, 0) / total**2 * windows / max(windows - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where(of_mean > 0, variance / of_mean, np.inf)
    return float(min(np.min(size), total**2 / np.sum(counts**2)))


def _shift(values: np.ndarray, half: np.ndarray, full: np.ndarray, window: np.ndarray) -> float:
    """Largest change of a mean between half and full time of descent, in its standard errors by windows."""
    change = full / full.sum() - half / half.sum()
    centred = values - full @ values / full.sum()
    sums = np.stack([np.bincount(window, change * column) for column in centred.T], 1)
    windows = len(sums)
    error = sums.std(0, ddof=1) * math.sqrt(windows)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(error > 0, np.abs(sums.sum(0)) / error, 0.0)))


def build_wavefunction(
    log_trial: ScalarFunction,
    support: tuple[jax.Array, jax.Array] | None,
    snapshots: Sequence[Snapshot],
    key: jax.Array,
) -> tuple[WalkersWavefunction, dict[str, Any]]:
    """The wavefunction from points and descendants of two windows or more.

    Returns:
        The wavefunction, and its diagnostics.
    """
    window = np.concatenate([np.full(len(p), i) for i, (p, _, _) in enumerate(snapshots)])
    points, half, full = (np.concatenate([s[k] for s in snapshots]).astype(np.float64) for k in range(3))
    dtype = jnp.result_type(float)
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), jnp.uint32)))
    chosen = _comb(full, min(_MOST_DRAWS, len(points)), rng.uniform())
    blank = Correction(
        jnp.zeros((1, points.shape[1] + 1), int),
        jnp.zeros(1, dtype),
        jnp.zeros(points.shape[1] + 1, dtype),
        jnp.ones(points.shape[1] + 1, dtype),
    )
    draws = jnp.asarray(points[chosen], dtype)
    wavefunction = WalkersWavefunction(log_trial, blank, jnp.zeros((), dtype), draws, support)
    logs = np.asarray(_log_trial_all(wavefunction, jnp.asarray(points, dtype)), np.float64)
    correction, found = _fit(points, logs, full, window % 2 == 0)
    wavefunction = WalkersWavefunction(log_trial, correction, jnp.zeros((), dtype), draws, support)
    log_norm, log_norm_error = _log_norm(wavefunction, rng)
    wavefunction = WalkersWavefunction(log_trial, correction, jnp.asarray(log_norm, dtype), draws, support)
    features = np.concatenate([points, points**2], 1)
    return wavefunction, {
        **found,
        "sample_is_empirical": True,
        "log_psi_is_estimate": True,
        "log_norm_error": log_norm_error,
        "effective_draws": _effective(features, full, window),
        "forward_shift": _shift(features, half, full, window),
    }
