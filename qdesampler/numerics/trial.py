r"""The Gaussian trial state and what imaginary time does to it.

A trial `psi_T = sqrt(q)` has the energy `E[q] = (D/4) E_q |grad log q - grad log p|^2`. Over Gaussians, one
closed-form step of its minimisation from points `x_i` with scores `a_i = grad log p(x_i)` is

    Sigma Cov(a) Sigma = Cov(x),        mu = mean x + Sigma mean a.

It is exact on a Gaussian `p` for any points. With points drawn from `q` itself its fixed point is close to
the least energy (Cai et al. 2024, "Batch and match", in the limit of a full step). The covariance is kept as
the factor of a `Metric`. Draws have Student-t tails,

    u ~ (1 + |u|^2 / nu)^(-(nu + dim) / 2),     nu = 30,        x = mu + L y,

so that `p / q` stays bounded where a Gaussian's would not. Where draws show that a whitened coordinate is
skewed or wider than the fit has it (usually the logarithm of a scale), the trial follows them there by the
sinh-arcsinh family (Jones and Pewsey 2009),

    y = shift + width sinh(arcsinh u + skew),           shift = 0, width = 1, skew = 0: y = u,

with the mean, variance and skewness of the draws (`fit_skew`). A small fraction of the draws comes from a
*defensive* component (Hesterberg 1995) with `nu = 4` and 1.5 times the width, so that `q` is not empty in any
tail of `p`.

Points come with log weights `log p - log q`. They are tempered so that enough points count (Koblents and
Miguez 2015). This moves the fit from the least energy under `q` (no weights) to the moments of `p` (full
weights) as the trial improves.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.numerics.metric import (
    Metric,
    to_position,
    to_whitened_gradient,
    whiten,
)
from qdesampler.numerics.random_variates import signed_noise, to_normal, to_unit

__all__ = [
    "TAIL",
    "Trial",
    "draw_trial",
    "fit_centre",
    "fit_skew",
    "gaussian_trial",
    "log_trial",
    "noise_size",
    "trial_point",
]

TAIL = 30.0  # degrees of freedom of the draws
_DEFENSIVE_TAIL = 4.0  # degrees of freedom of the defensive component
_DEFENSIVE_WIDTH = 1.5  # its width, in units of the trial's


class Trial(NamedTuple):
    """A trial density.

    Attributes:
        centre: shape `(dim,)`; the mean while `shift` is 0.
        metric: factor `L` of its covariance.
        shift: shift of each whitened coordinate, shape `(dim,)`.
        width: width of each whitened coordinate, shape `(dim,)`.
        skew: skew of each whitened coordinate, shape `(dim,)`.
        defensive_weight: fraction of the draws that has far tails, in [0, 1).
    """

    centre: jax.Array
    metric: Metric
    shift: jax.Array
    width: jax.Array
    skew: jax.Array
    defensive_weight: jax.Array


# E sqrt(1 + u^2) and E u^2 sqrt(1 + u^2) for a standard Gaussian u: moments of sinh(arcsinh u + s).
_ROOT, _SQUARE_ROOT = 1.354530806481, 1.919421653727
_MOST_SKEW = 1.5  # largest |skew|, in the units of arcsinh u
_SIGNIFICANT = 3.5  # standard errors by which skewness or variance must differ from a Gaussian's
_LEAST_WIDTH, _MOST_WIDTH = 0.3, 5  # bounds of `width`
_BISECTIONS = 12  # halvings of the bracket of `skew`, to 3 / 2^12


def _skew_moments(skew: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, standard deviation and skewness of `sinh(arcsinh u + s)`, elementwise."""
    up, across = jnp.sinh(skew), jnp.cosh(skew)
    mean = _ROOT * up
    variance = across**2 + (2 - _ROOT**2) * up**2
    third = 3 * across**2 * up * _SQUARE_ROOT + up**3 * (_ROOT + _SQUARE_ROOT)
    central = third - 3 * mean * variance - mean**3
    return mean, jnp.sqrt(variance), central / variance**1.5


def gaussian_trial(centre: jax.Array, metric: Metric) -> Trial:
    """The trial without skew and without a defensive component."""
    zero = jnp.zeros_like(centre)
    return Trial(centre, metric, zero, jnp.ones_like(centre), zero, jnp.zeros((), centre.dtype))


def _skewed(u: jax.Array, trial: Trial) -> jax.Array:
    """`y` of `u`, elementwise."""
    # sinh(arcsinh u + s), written so that s = 0 is the identity to the last digit.
    skewed = u * jnp.cosh(trial.skew) + jnp.sqrt(1 + u**2) * jnp.sinh(trial.skew)
    return trial.shift + trial.width * skewed


def _unskewed(y: jax.Array, trial: Trial) -> tuple[jax.Array, jax.Array]:
    """`u` of `y` and `log du / dy`, elementwise."""
    w = (y - trial.shift) / trial.width
    root = jnp.sqrt(1 + w**2)
    u = w * jnp.cosh(trial.skew) - root * jnp.sinh(trial.skew)
    return u, 0.5 * jnp.log1p(u**2) - jnp.log(root) - jnp.log(trial.width)


def fit_skew(trial: Trial, draws: jax.Array, weights: jax.Array) -> Trial:
    """The Gaussian trial with the skew and width of weighted draws.

    A coordinate whose skewness and variance are those of a Gaussian, to within the error, is left as it was.

    Args:
        trial: a trial without skew.
        draws: shape `(n, dim)`.
        weights: non-negative, shape `(n,)`.
    """
    keep = weights > 0
    y = jax.vmap(lambda x: whiten(trial.metric, x - trial.centre))(
        jnp.where(keep[:, None], draws, trial.centre)
    )
    tiny = jnp.finfo(y.dtype).tiny
    total = jnp.maximum(jnp.sum(weights), tiny)
    effective = total**2 / jnp.maximum(jnp.sum(weights**2), tiny)
    mean = weights @ y / total
    variance = weights @ (y - mean) ** 2 / total
    safe = jnp.where(variance > 0, variance, 1)
    skewness = weights @ (y - mean) ** 3 / total / safe**1.5
    skewed = jnp.abs(skewness) > _SIGNIFICANT * jnp.sqrt(6 / effective)
    wide = variance > 1 + _SIGNIFICANT * jnp.sqrt(2 / effective)
    usable = (skewed | wide) & jnp.isfinite(skewness) & (effective > 1)
    target = jnp.where(skewed, skewness, 0)

    def halve(_, bounds):
        least, most = bounds
        guess = 0.5 * (least + most)
        less = _skew_moments(guess)[2] < target
        return jnp.where(less, guess, least), jnp.where(less, most, guess)

    edge = jnp.full_like(skewness, _MOST_SKEW)
    least, most = jax.lax.fori_loop(0, _BISECTIONS, halve, (-edge, edge))
    skew = jnp.where(skewed, 0.5 * (least + most), 0)
    offset, sd, _ = _skew_moments(skew)
    width = jnp.clip(jnp.sqrt(safe) / sd, _LEAST_WIDTH, _MOST_WIDTH)
    return trial._replace(
        shift=jnp.where(usable, mean - width * offset, 0),
        width=jnp.where(usable, width, 1),
        skew=jnp.where(usable, skew, 0),
    )


def noise_size(dim: int) -> int:
    """How many signed uniform numbers one draw from `q` needs."""
    return dim + int(TAIL) // 2 + 1


def draw_trial(key: jax.Array, trial: Trial) -> jax.Array:
    """One draw from `q`, shape `(dim,)`."""
    return trial_point(signed_noise(key, noise_size(trial.centre.size)), trial)


def trial_point(noise: jax.Array, trial: Trial) -> jax.Array:
    """The draw from `q`, shape `(dim,)`, made of signed noise of shape `(noise_size(dim),)`."""
    dim = trial.centre.size
    direction, unit = to_normal(noise[:dim]), to_unit(noise[dim:])
    # A chi-squared variate with even degrees of freedom is -2 log of a product of uniform ones.
    logs = -2 * jnp.log(unit[1:])
    defensive = unit[0] < trial.defensive_weight
    near = TAIL / jnp.sum(logs)
    far = _DEFENSIVE_WIDTH**2 * _DEFENSIVE_TAIL / jnp.sum(logs[: int(_DEFENSIVE_TAIL) // 2])
    u = direction * jnp.sqrt(jnp.where(defensive, far, near))
    return trial.centre + to_position(trial.metric, _skewed(u, trial))


def _log_student(square: jax.Array, dim: int, tail: float, width: float) -> jax.Array:
    """Log density of `width` times a Student-t vector at squared length `square`."""
    constant = (
        math.lgamma((tail + dim) / 2)
        - math.lgamma(tail / 2)
        - 0.5 * dim * math.log(tail * math.pi)
        - dim * math.log(width)
    )
    return constant - 0.5 * (tail + dim) * jnp.log1p(square / (tail * width**2))


def log_trial(trial: Trial, position: jax.Array) -> jax.Array:
    """`log q(x)`, a scalar, normalised."""
    dim = trial.centre.size
    u, stretched = _unskewed(whiten(trial.metric, position - trial.centre), trial)
    volume = jnp.sum(jnp.log(trial.metric.scale)) + jnp.sum(jnp.log(trial.metric.stretch))
    square = jnp.sum(u**2)
    near = jnp.log1p(-trial.defensive_weight) + _log_student(square, dim, TAIL, 1.0)
    far = jnp.log(trial.defensive_weight) + _log_student(square, dim, _DEFENSIVE_TAIL, _DEFENSIVE_WIDTH)
    return jnp.logaddexp(near, far) + jnp.sum(stretched) - volume


def fit_centre(metric: Metric, draws: jax.Array, scores: jax.Array, weights: jax.Array) -> jax.Array:
    """`mean x + Sigma mean a`: the mean of least energy for a given covariance, shape `(dim,)`."""
    keep = (weights > 0)[:, None]
    total = jnp.maximum(jnp.sum(weights), jnp.finfo(draws.dtype).tiny)
    mean = weights @ jnp.where(keep, draws, 0) / total
    score = weights @ jnp.where(keep, scores, 0) / total
    return mean + to_position(metric, to_whitened_gradient(metric, score))
