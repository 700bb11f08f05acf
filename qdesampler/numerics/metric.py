r"""The metric of a move: a linear map that whitens the posterior, estimated from its energy.

A move lives in whitened coordinates `y` with `x = L y`. The factor is kept in one form for every kind of
metric,

    L = diag(scale) (I + Q diag(stretch - 1) Q^T),        Sigma = L L^T,

`Q` orthonormal of shape `(dim, rank)`: `rank = 0` is a diagonal metric, `rank = dim` a dense one, anything
between is low-rank plus diagonal. `L`, `L^T` and `L^-1` cost `O(dim * rank)` each.

The estimate minimises the trial's energy (Fisher divergence, `mean |L^T a + L^-1 (x - mu)|^2` over draws `x`
with scores `a = grad log p(x)`). Its minimiser solves `Sigma Cov(a) Sigma = Cov(x)`: the geometric mean of
`Cov(x)` and `Cov(a)^-1`, exact on a Gaussian from `dim + 1` points. (Seyboldt, Carlson and Carpenter 2026,
"Preconditioning HMC by minimising Fisher divergence"; Bhatia 2007, chapter 4, for the matrix mean.)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

__all__ = [
    "DENSE_UP_TO",
    "DenseFactor",
    "Metric",
    "dense_matrix",
    "diagonal_scale",
    "fit_metric",
    "from_covariance",
    "identity_metric",
    "to_position",
    "to_whitened_gradient",
    "whiten",
]


DENSE_UP_TO = 128  # dimensions up to which a metric chosen automatically may be dense
_FLOOR_OF_FEW = 1e-5  # added to scaled covariances while the draws are fewer than twice the dimension


class Metric(NamedTuple):
    """Factor `L = diag(scale) (I + basis diag(stretch - 1) basis^T)` of the covariance `Sigma = L L^T`.

    Attributes:
        scale: shape `(dim,)`, in the units of the position.
        basis: shape `(dim, rank)`, orthonormal columns (zero columns are allowed where stretch is 1).
        stretch: shape `(rank,)`, square roots of the eigenvalues of the scaled covariance.
    """

    scale: jax.Array
    basis: jax.Array
    stretch: jax.Array


class DenseFactor(NamedTuple):
    """Any factor `L` of the covariance, as a matrix of shape `(dim, dim)`."""

    matrix: jax.Array


def identity_metric(dim: int, rank: int, scale: float = 1.0) -> Metric:
    """The metric `Sigma = scale^2 I` with space for `rank` directions."""
    dtype = jnp.result_type(float)
    return Metric(jnp.full((dim,), scale, dtype), jnp.zeros((dim, rank), dtype), jnp.ones((rank,), dtype))


def to_position(metric: Metric | DenseFactor, vector: jax.Array) -> jax.Array:
    """`L v`: a whitened vector of shape `(dim,)` in the units of the position."""
    if isinstance(metric, DenseFactor):
        return metric.matrix @ vector
    along = metric.basis @ ((metric.stretch - 1) * (metric.basis.T @ vector))
    return metric.scale * (vector + along)


def to_whitened_gradient(metric: Metric | DenseFactor, gradient: jax.Array) -> jax.Array:
    """`L^T g`: the gradient with respect to the whitened coordinates, shape `(dim,)`."""
    if isinstance(metric, DenseFactor):
        return metric.matrix.T @ gradient
    scaled = metric.scale * gradient
    return scaled + metric.basis @ ((metric.stretch - 1) * (metric.basis.T @ scaled))


def whiten(metric: Metric, position: jax.Array) -> jax.Array:
    """`L^-1 x`: whitened coordinates of a position (or of a displacement), shape `(dim,)`."""
    scaled = position / metric.scale
    return scaled + metric.basis @ ((1 / metric.stretch - 1) * (metric.basis.T @ scaled))


def dense_matrix(metric: Metric) -> jax.Array:
    """`Sigma = L L^T`, shape `(dim, dim)`: what other samplers call the inverse mass matrix."""
    factor = jax.vmap(lambda v: to_position(metric, v), in_axes=1, out_axes=1)(jnp.eye(metric.scale.size))
    return factor @ factor.T


def from_covariance(covariance: ArrayLike, rank: int) -> Metric:
    """Metric of a given covariance: shape `(dim,)` (a diagonal) or `(dim, dim)`, keeping `rank` directions.

    Raises:
        ValueError: if the shape is not one of these, or an entry is not finite, or the matrix is not positive
            definite.
    """
    covariance = np.asarray(covariance, dtype=float)
    if covariance.ndim not in (1, 2) or (covariance.ndim == 2 and covariance.shape[0] != covariance.shape[1]):
        raise ValueError(
            f"inverse_mass_matrix has shape {covariance.shape}; expected (dim,) for a diagonal or "
            "(dim, dim) for a dense matrix."
        )
    if not np.all(np.isfinite(covariance)):
        raise ValueError(
            "inverse_mass_matrix must be finite and positive definite; it holds NaN or infinity."
        )
    dim, dtype = covariance.shape[0], jnp.result_type(float)
    if covariance.ndim == 1:
        variance, levels, basis = covariance, np.ones(dim), np.zeros((dim, dim))
    else:
        variance = np.diag(covariance)
        scale = np.sqrt(np.where(variance > 0, variance, 1.0))
        levels, basis = np.linalg.eigh(covariance / np.outer(scale, scale))
    if not (np.all(variance > 0) and np.all(levels > 0)):
        raise ValueError(
            "inverse_mass_matrix must be finite and positive definite; its smallest eigenvalue after scaling "
            f"to unit diagonal is {levels.min():.3g} and its smallest diagonal entry {variance.min():.3g}."
        )
    keep = np.argsort(-np.abs(np.log(levels)))[:rank]
    return Metric(
        jnp.asarray(np.sqrt(variance), dtype),
        jnp.asarray(basis[:, keep], dtype),
        jnp.asarray(np.sqrt(levels[keep]), dtype),
    )


def _centred(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Rows minus the weighted mean, times the root of their weight: `rows^T rows` is the covariance."""
    total = jnp.maximum(jnp.sum(weights), 1)
    mean = weights @ values / total
    return (values - mean) * jnp.sqrt(weights / total)[:, None]


def diagonal_scale(draws: jax.Array, scores: jax.Array, weights: jax.Array, fallback: jax.Array) -> jax.Array:
    """`scale_i = (Var x_i / Var a_i)^(1/4)`, the energy-optimal diagonal.

    Args:
        draws: positions, shape `(n, dim)`.
        scores: `grad log p` at the draws, shape `(n, dim)`.
        weights: non-negative row weights, shape `(n,)`; zero leaves a row out.
        fallback: scale kept where a variance is zero or not finite, shape `(dim,)`.
    """
    ratio = jnp.sum(_centred(draws, weights) ** 2, 0) / jnp.sum(_centred(scores, weights) ** 2, 0)
    usable = jnp.isfinite(ratio) & (ratio > 0)
    return jnp.where(usable, jnp.where(usable, ratio, 1.0) ** 0.25, fallback)


def _correlation_factor(
    x: jax.Array, a: jax.Array, rank: int, floor: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Basis and stretch of the geometric mean of `x^T x + floor` and `(a^T a + floor)^-1`.

    Works on factors, never on products, so that float32 resolves condition numbers up to about 1e12. With
    `x = U S V^T` and `R = V sqrt(S^2 + floor)` the mean is `R (R^T C_a R)^(-1/2) R^T`, and `a R` has the
    singular values of the root. If `rank < dim`, the directions come from the span of the leading singular
    vectors of the draws and of the scores.
    """
    dim = x.shape[1]
    if rank < dim:
        half = rank // 2
        wide = jnp.linalg.svd(x, full_matrices=False)[2][:half]
        stiff = jnp.linalg.svd(a, full_matrices=False)[2][: rank - half]
        frame = jnp.linalg.qr(jnp.concatenate([wide, stiff]).T)[0]
    else:
        frame = jnp.eye(dim, dtype=x.dtype)
    x, a = x @ frame, a @ frame
    root = jnp.sqrt(floor) * jnp.eye(x.shape[1], dtype=x.dtype)
    _, s, vt = jnp.linalg.svd(jnp.concatenate([x, root]), full_matrices=False)
    r = vt.T * s
    _, sigma, wt = jnp.linalg.svd(jnp.concatenate([a, root]) @ r, full_matrices=False)
    sigma = jnp.maximum(sigma, jnp.finfo(x.dtype).tiny)
    u, stretch, _ = jnp.linalg.svd((r @ wt.T) / jnp.sqrt(sigma))
    return frame @ u, stretch


def fit_metric(
    draws: jax.Array,
    scores: jax.Array,
    weights: jax.Array,
    previous: Metric,
    blocks: tuple[tuple[int, ...], ...],
    block_rank: int,
    *,
    regularize: bool = True,
) -> tuple[Metric, Metric, Metric]:
    """Energy-optimal metrics of three kinds from draws and scores: `(identity, diagonal, correlated)`.

    Args:
        draws: positions, shape `(n, dim)`; rows of zero weight are ignored, even if they are not finite.
        scores: `grad log p` at the draws, shape `(n, dim)`.
        weights: shape `(n,)`, zeros and ones.
        previous: metric whose scale is kept if the data do not determine one.
        blocks: index groups that are correlated within and independent between; `((0, ..., dim-1),)` is a
            dense metric.
        block_rank: most directions kept in one block.
        regularize: add a floor of 1e-5 to the scaled covariances while the draws are fewer than twice the
            dimension.

    Returns:
        Three metrics of the same shapes as `previous`; a correlated metric that is not finite is replaced by
        the diagonal one.
    """
    keep = weights > 0
    draws = jnp.where(keep[:, None], draws, 0)
    scores = jnp.where(keep[:, None], scores, 0)
    dtype = draws.dtype
    scale = diagonal_scale(draws, scores, weights, previous.scale)
    blank = (jnp.zeros_like(previous.basis), jnp.ones_like(previous.stretch))
    diagonal = Metric(scale, *blank)
    x, a = _centred(draws, weights), _centred(scores, weights)
    ratio = jnp.sum(x**2) / jnp.sum(a**2)
    usable = jnp.isfinite(ratio) & (ratio > 0)
    common = jnp.where(
        usable, jnp.where(usable, ratio, 1.0) ** 0.25, jnp.exp(jnp.mean(jnp.log(previous.scale)))
    )
    identity = Metric(jnp.full_like(scale, common), *blank)
    if previous.basis.shape[1] == 0:
        return identity, diagonal, diagonal
    x, a = x / scale, a * scale
    count = jnp.sum(weights)
    columns, stretches = [], []
    for block in blocks:
        index = np.asarray(block)
        few = count < 2 * len(block)
        floor = jnp.where(few & regularize, _FLOOR_OF_FEW, 10 * jnp.finfo(dtype).eps ** 2).astype(dtype)
        basis, stretch = _correlation_factor(x[:, index], a[:, index], min(block_rank, len(block)), floor)
        columns.append(jnp.zeros((scale.size, basis.shape[1]), dtype).at[index].set(basis))
        stretches.append(stretch)
    correlated = Metric(scale, jnp.concatenate(columns, 1), jnp.concatenate(stretches))
    sound = jnp.all(jnp.isfinite(correlated.basis)) & jnp.all(
        jnp.isfinite(correlated.stretch) & (correlated.stretch > 0)
    )
    return identity, diagonal, jax.tree.map(lambda c, d: jnp.where(sound, c, d), correlated, diagonal)
