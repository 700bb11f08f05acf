r"""One closed-form step of imaginary time for a Gaussian, in the coordinates that it whitens.

Points `x = mu + L y` with scores `a` are mapped to `y` and `L^T a`. In these coordinates the factor fitted by
`qdesampler.numerics.metric.fit_metric` is near the identity whatever the conditioning of `p`, so that float32
suffices; the new factor is the product of `L` and the fitted one.

The product of two low-rank factors has a higher rank, and draws of a Gaussian do not show by themselves
where `p` is wider than they are. New directions are taken from the residual `L^T a + y`, which vanishes where
the trial is right and has the size of 1 where it is too narrow: its leading directions are added to the
present ones, the diagonal is fitted outside their span and the rest inside it.
"""

import jax
import jax.numpy as jnp

from qdesampler.numerics.metric import (
    Metric,
    diagonal_scale,
    fit_metric,
    identity_metric,
    to_position,
    to_whitened_gradient,
    whiten,
)
from qdesampler.solvers.gaussian.wavefunction import precision_factor

__all__ = ["GROWTH", "LOW_RANK", "canonical", "least_energy_step"]

GROWTH = 1e3  # factor of a width whose scores vanish, so that a flat direction runs away and is noticed
LOW_RANK = 32  # directions of a low-rank factor beyond `DENSE_UP_TO` dimensions
_TURNS = 3  # iterations of the subspace method


def canonical(factor: jax.Array, scale: jax.Array | None = None) -> Metric:
    """The metric with `Sigma = factor factor^T`, shape `(dim, dim)`."""
    scale = jnp.sqrt(jnp.sum(factor**2, 1)) if scale is None else scale
    basis, stretch, _ = jnp.linalg.svd(factor / scale[:, None], full_matrices=False)
    return Metric(scale, basis, stretch)


def fit_centre(metric: Metric, draws: jax.Array, scores: jax.Array, weights: jax.Array) -> jax.Array:
    """`mean x + Sigma mean a`: the mean of least energy for a given covariance, shape `(dim,)`."""
    keep = (weights > 0)[:, None]
    total = jnp.maximum(jnp.sum(weights), jnp.finfo(draws.dtype).tiny)
    mean = weights @ jnp.where(keep, draws, 0) / total
    score = weights @ jnp.where(keep, scores, 0) / total
    return mean + to_position(metric, to_whitened_gradient(metric, score))


def _whole(dim: int) -> tuple[tuple[int, ...], ...]:
    return (tuple(range(dim)),)


def _columns(metric: Metric, matrix: jax.Array) -> jax.Array:
    return jax.vmap(lambda column: to_position(metric, column), in_axes=1, out_axes=1)(matrix)


def _fit_dense(y: jax.Array, a: jax.Array, weights: jax.Array, fallback: float) -> jax.Array:
    """Factor of the covariance of least energy in whitened coordinates, shape `(dim, dim)`."""
    dim = y.shape[1]
    fitted = fit_metric(y, a, weights, identity_metric(dim, dim, fallback), _whole(dim), dim)[2]
    return _columns(fitted, jnp.eye(dim, dtype=y.dtype))


def _leading(rows: jax.Array, count: int) -> jax.Array:
    """Leading right singular vectors of `rows`, shape `(dim, count)`, by subspace iteration."""
    size = jnp.maximum(jnp.max(jnp.abs(rows)), jnp.finfo(rows.dtype).tiny)
    rows = rows / size  # squares of stiff directions stay in range
    frame = jax.random.normal(jax.random.key(0), (rows.shape[1], count), rows.dtype)
    for _ in range(_TURNS):
        frame = jnp.linalg.qr(rows.T @ (rows @ frame))[0]
    return frame


def _centred(rows: jax.Array, weights: jax.Array) -> jax.Array:
    total = jnp.maximum(jnp.sum(weights), jnp.finfo(rows.dtype).tiny)
    return rows - weights @ rows / total


def _fit_low_rank(metric: Metric, y: jax.Array, a: jax.Array, weights: jax.Array, fallback: float) -> Metric:
    dim, rank = metric.basis.shape
    middle = metric._replace(scale=jnp.ones_like(metric.scale))  # L without its diagonal
    y, a = _centred(y, weights), _centred(a, weights)
    found = _columns(middle, _leading(jnp.sqrt(weights)[:, None] * (y + a), rank))
    found = found / jnp.maximum(jnp.linalg.norm(found, axis=0), jnp.finfo(y.dtype).tiny)
    frame = jnp.linalg.qr(jnp.concatenate([metric.basis, found], 1))[0]
    x = jax.vmap(lambda v: to_position(middle, v))(y)
    a = jax.vmap(lambda v: precision_factor(middle, v))(a)

    def outside(rows):
        return rows - (rows @ frame) @ frame.T

    scale = jnp.ones((dim,), y.dtype)
    if frame.shape[1] < dim:
        scale = diagonal_scale(outside(x), outside(a), weights, fallback * scale)
        frame = jnp.linalg.qr(frame / scale[:, None])[0]
    factor = _fit_dense((x / scale) @ frame, (a * scale) @ frame, weights, fallback)
    inside = canonical(factor, jnp.ones((frame.shape[1],), y.dtype))
    strongest = jnp.argsort(-jnp.abs(jnp.log(inside.stretch)))[:rank]
    return Metric(metric.scale * scale, frame @ inside.basis[:, strongest], inside.stretch[strongest])


def least_energy_step(
    centre: jax.Array,
    metric: Metric,
    positions: jax.Array,
    scores: jax.Array,
    weights: jax.Array,
    fallback: float = GROWTH,
) -> tuple[jax.Array, Metric]:
    """Return the centre and the metric of least energy from weighted points; the rank is kept.

    Args:
        centre: of the present trial, shape `(dim,)`.
        metric: of the present trial; rank 0 stays diagonal, rank `dim` is dense.
        positions: shape `(n, dim)`; rows without weight may hold anything.
        scores: `grad log p` there.
        weights: non-negative, shape `(n,)`.
        fallback: factor of a width whose scores vanish; the default lets a flat direction run away.
    """
    dim, rank = metric.basis.shape
    keep = (weights > 0)[:, None]
    y = jax.vmap(lambda x: whiten(metric, x - centre))(jnp.where(keep, positions, centre))
    a = jax.vmap(lambda g: to_whitened_gradient(metric, g))(jnp.where(keep, scores, 0))
    if rank == 0:
        ratio = diagonal_scale(y, a, weights, jnp.full_like(centre, fallback))
        inner, new = (
            identity_metric(dim, 0)._replace(scale=ratio),
            metric._replace(scale=metric.scale * ratio),
        )
    elif rank == dim:
        factor = _fit_dense(y, a, weights, fallback)
        inner, new = canonical(factor), canonical(_columns(metric, factor))
    else:
        new = _fit_low_rank(metric, y, a, weights, fallback)
        return fit_centre(new, jnp.where(keep, positions, centre), scores, weights), new
    return centre + to_position(metric, fit_centre(inner, y, a, weights)), new
