"""The three functions of `s = theta^2` in the kernel of a quadratic potential, analytic through `s = 0`.

A coordinate with curvature `a` has `theta = omega tau` and `s = 2 D a tau^2`. All that the kernel of
`-D d^2/du^2 + g u + a u^2 / 2` needs is

    log f(s) = log(theta / sinh theta),
    k(s) = tanh(theta / 2) / theta,
    c(s) = (1 - 2 k(s)) / s.

They are power series in `s`: a flat coordinate is `s = 0` (`f = 1, k = 1/2, c = 1/12`), a well has `s > 0`,
and a hill has `s < 0`, where `theta` is imaginary and the hyperbolic functions turn circular. They are finite
for `s > -pi^2`; at and beyond this caustic the kernel diverges and they return infinity. Near zero the series
are summed, because the closed forms cancel there.
"""

import math
from collections.abc import Callable
from fractions import Fraction

import jax
import jax.numpy as jnp

# The series converge for |s| < pi^2. Up to this |s| the terms below reach double precision (ratio 1/39), and
# beyond it the closed forms lose at most two digits.
_SERIES_RADIUS = 0.25

_BERNOULLI = tuple(  # B_2, B_4, ..., B_20
    Fraction(p, q)
    for p, q in (
        *((1, 6), (-1, 30), (1, 42), (-1, 30), (5, 66), (-691, 2730)),
        *((7, 6), (-3617, 510), (43867, 798), (-174611, 330)),
    )
)
# log(theta / sinh theta) = -sum_n 4^n B_2n s^n / (2n (2n)!)
# tanh(theta / 2) / theta = sum_n 2 (4^n - 1) B_2n s^(n-1) / (2n)!
_LOG_F = (0.0, *(float(-(4**n) * b / (2 * n * math.factorial(2 * n))) for n, b in enumerate(_BERNOULLI, 1)))
_K = tuple(float(2 * (4**n - 1) * b / math.factorial(2 * n)) for n, b in enumerate(_BERNOULLI, 1))
_C = tuple(-2 * coefficient for coefficient in _K[1:])


def log_f(s: jax.Array) -> jax.Array:
    """Return `log(theta / sinh theta)` with `theta^2 = s`, elementwise; `inf` at and beyond the caustic."""

    def well(theta: jax.Array) -> jax.Array:  # no overflow at large theta
        return jnp.log(2 * theta) - theta - jnp.log1p(-jnp.exp(-2 * theta))

    def hill(theta: jax.Array) -> jax.Array:
        return jnp.log(theta / jnp.sin(theta))

    return _by_sign(s, _LOG_F, well, hill)


def k(s: jax.Array) -> jax.Array:
    """Return `tanh(theta / 2) / theta` with `theta^2 = s`, elementwise; `inf` at and beyond the caustic."""

    def well(theta: jax.Array) -> jax.Array:
        return jnp.tanh(theta / 2) / theta

    def hill(theta: jax.Array) -> jax.Array:
        return jnp.tan(theta / 2) / theta

    return _by_sign(s, _K, well, hill)


def c(s: jax.Array) -> jax.Array:
    """Return `(1 - 2 tanh(theta / 2) / theta) / s` with `theta^2 = s`, elementwise.

    It is `inf` at and beyond the caustic.
    """

    def well(theta: jax.Array) -> jax.Array:
        return (1 - 2 * jnp.tanh(theta / 2) / theta) / theta**2

    def hill(theta: jax.Array) -> jax.Array:
        return -(1 - 2 * jnp.tan(theta / 2) / theta) / theta**2

    return _by_sign(s, _C, well, hill)


def _by_sign(
    s: jax.Array,
    series: tuple[float, ...],
    well: Callable[[jax.Array], jax.Array],
    hill: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Choose the branch; each gets only arguments it is defined for, so that gradients stay finite."""
    near = jnp.abs(s) < _SERIES_RADIUS
    is_well = s >= _SERIES_RADIUS
    caustic = s <= -(math.pi**2)
    is_hill = ~(near | is_well | caustic)
    total = jnp.zeros_like(s)
    small = jnp.where(near, s, 0)
    for coefficient in reversed(series):
        total = total * small + coefficient
    out = jnp.where(near, total, jnp.inf)
    out = jnp.where(is_well, well(jnp.sqrt(jnp.where(is_well, s, 1))), out)
    out = jnp.where(is_hill, hill(jnp.sqrt(jnp.where(is_hill, -s, 1))), out)
    return jnp.where(jnp.isnan(s), s, out)
