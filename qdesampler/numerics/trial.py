r"""The Gaussian trial state and what imaginary time does to it.

A trial `psi_T = sqrt(q)` has the energy `E[q] = (D/4) E_q |grad log q - grad log p|^2`. Over Gaussians, one
closed-form step of its minimisation from points `x_i` with scores `a_i = grad log p(x_i)` is

    Sigma Cov(a) Sigma = Cov(x),        mu = mean x + Sigma mean a.

It is exact on a Gaussian `p` for any points. With points drawn from `q` itself its fixed point is close to
the least energy (Cai et al. 2024, "Batch and match", in the limit of a full step). The covariance is kept as
the factor of a `Metric`. Draws have Student-t tails,

    u ~ (1 + |u|^2 / nu)^(-(nu + dim) / 2),     nu = max(30, 2 dim),      x = mu + L y,

so that `p / q` stays bounded where a Gaussian's would not. (With a fixed `nu` the lengths of the draws would
vary more and more with the dimension: at `nu = 30` an exact Gaussian accepts .53 of them in 100 dimensions.)
Where draws show that a whitened coordinate is skewed or wider than the fit has it (usually the logarithm of a
scale), the trial follows them there by the sinh-arcsinh family (Jones and Pewsey 2009),

    y = shift + width sinh(arcsinh u + skew),           shift = 0, width = 1, skew = 0: y = u,

with the curve that scores have there (`qdesampler.numerics.skew_fit`). A small fraction of the draws comes
from a *defensive* component (Hesterberg 1995) with `nu = 4` and 1.5 times the width, so that `q` is not empty
in any tail of `p`.

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
    whiten,
)
from qdesampler.numerics.random_variates import signed_noise, to_normal, to_unit

__all__ = [
    "FAR_TAIL",
    "FAR_WIDTH",
    "Trial",
    "draw_trial",
    "gaussian_trial",
    "log_trial",
    "log_whitened",
    "noise_size",
    "tail_degrees",
    "whitened_candidate",
]

_LEAST_DEGREES = 30  # of freedom of the draws, in few dimensions
FAR_TAIL = 4  # degrees of freedom of the defensive component
FAR_WIDTH = 1.5  # its width, in units of the trial's


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


def gaussian_trial(centre: jax.Array, metric: Metric) -> Trial:
    """The trial without skew and without a defensive component."""
    zero = jnp.zeros_like(centre)
    return Trial(centre, metric, zero, jnp.ones_like(centre), zero, jnp.zeros((), centre.dtype))


def tail_degrees(dim: int) -> int:
    """Degrees of freedom of the draws: even, so that their lengths are made of uniform numbers."""
    return max(_LEAST_DEGREES, 2 * dim)


def noise_size(dim: int) -> int:
    """How many signed uniform numbers one draw from `q` needs."""
    return dim + tail_degrees(dim) // 2 + 1


def draw_trial(key: jax.Array, trial: Trial) -> jax.Array:
    """One draw from `q`, shape `(dim,)`."""
    whitened, _ = whitened_candidate(signed_noise(key, noise_size(trial.centre.size)), trial)
    return trial.centre + to_position(trial.metric, whitened)


def whitened_candidate(noise: jax.Array, trial: Trial) -> tuple[jax.Array, jax.Array]:
    """A draw `y = L^-1 (x - mu)` made of signed noise of shape `(noise_size(dim),)`, and its log density.

    The density is that of `y`: `log q(x)` without `-log det L`, which is the same for all draws.
    """
    dim = trial.centre.size
    direction, unit = to_normal(noise[:dim]), to_unit(noise[dim:])
    # A chi-squared variate with even degrees of freedom is -2 log of a product of uniform ones.
    logs = -2 * jnp.log(unit[1:])
    defensive = unit[0] < trial.defensive_weight
    near = tail_degrees(dim) / jnp.sum(logs)
    far = FAR_WIDTH**2 * FAR_TAIL / jnp.sum(logs[: FAR_TAIL // 2])
    u = direction * jnp.sqrt(jnp.where(defensive, far, near))
    # sinh(arcsinh u + s), written so that s = 0 is the identity to the last digit.
    skewed = u * jnp.cosh(trial.skew) + jnp.sqrt(1 + u**2) * jnp.sinh(trial.skew)
    return trial.shift + trial.width * skewed, _log_density(trial, u, skewed)


def log_whitened(trial: Trial, y: jax.Array) -> jax.Array:
    """Log density of `y = L^-1 (x - mu)`: `log q(x)` without `-log det L`."""
    skewed = (y - trial.shift) / trial.width
    u = skewed * jnp.cosh(trial.skew) - jnp.sqrt(1 + skewed**2) * jnp.sinh(trial.skew)
    return _log_density(trial, u, skewed)


def _log_density(trial: Trial, u: jax.Array, skewed: jax.Array) -> jax.Array:
    """Log density of `y` at `u` and `sinh(arcsinh u + skew)`."""
    dim = trial.centre.size
    stretched = 0.5 * jnp.sum(jnp.log1p(u**2) - jnp.log1p(skewed**2)) - jnp.sum(jnp.log(trial.width))
    square = jnp.sum(u**2)
    near = jnp.log1p(-trial.defensive_weight) + _log_student(square, dim, tail_degrees(dim), 1.0)
    far = jnp.log(trial.defensive_weight) + _log_student(square, dim, FAR_TAIL, FAR_WIDTH)
    return jnp.logaddexp(near, far) + stretched


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
    volume = jnp.sum(jnp.log(trial.metric.scale)) + jnp.sum(jnp.log(trial.metric.stretch))
    return log_whitened(trial, whiten(trial.metric, position - trial.centre)) - volume
