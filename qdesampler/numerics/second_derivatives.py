r"""Second derivatives of a density: exact where JAX can take them, else differences of scores.

Forward over reverse is exact. JAX refuses it for `custom_vjp` (adjoints of ODE solvers, implicit functions)
and for callbacks to the host, of which nothing but the score is known. There the derivative of the score `g`
along a direction `u` is

    (g(x + h u) - g(x - h u)) / 2h,        h = eps^(1/4) min(1, |u' J u|^(-1/2)),

where a first difference over `eps^(1/2)` gives `u' J u`. Its error is about `h^2 = eps^(1/2)` of the
curvature where higher derivatives over that length are of order one, and errors of the score grow by
`eps^(-1/4)` only: the scores of adaptive solvers are far less exact than rounding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxprs_in_params
from jax.extend.core.primitives import custom_lin_p
from jax.typing import ArrayLike

__all__ = ["EVALUATIONS_OF_DIFFERENCES", "linearized_score", "product_with_hessian", "score_jacobian"]

_Vector = Callable[[jax.Array], jax.Array]

EVALUATIONS_OF_DIFFERENCES = 4  # scores for one direction: two to find the step, two for the difference
# What JAX raises at once where it has no derivative: callbacks, primitives without a rule.
_NO_DERIVATIVE = (TypeError, ValueError, NotImplementedError)


def product_with_hessian(score: _Vector, x: jax.Array, scale: ArrayLike = 1.0) -> tuple[_Vector, int]:
    """`v -> J v`, where `J` is the derivative of `score` at `x`, and the evaluations that a product counts.

    An error of the model itself is raised by the score, whichever way is taken.

    Args:
        score: `x -> g`, shapes `(dim,)`.
        x: the point.
        scale: a length for each coordinate, at most a few orders above that over which the score changes;
            scalar or shape `(dim,)`. Only differences use it.
    """

    def exact(v):
        return jax.jvp(score, (x,), (v,))[1]

    if _can_run(exact, x):
        return exact, 1
    return lambda v: _difference(score, x, v, scale), EVALUATIONS_OF_DIFFERENCES


def linearized_score(score: _Vector, x: jax.Array, scale: ArrayLike = 1.0) -> tuple[jax.Array, _Vector]:
    """The score at `x`, and `v -> J v` that shares what the score has computed; arguments as above."""
    try:
        value, product = jax.linearize(score, x)
    except _NO_DERIVATIVE:
        value, product = score(x), None
    if product is None or not _can_run(product, x):
        return value, lambda v: _difference(score, x, v, scale)
    return value, product


def score_jacobian(score: _Vector, x: jax.Array, scale: ArrayLike = 1.0) -> tuple[jax.Array, int]:
    """The derivative of `score` at `x`, shape `(dim, dim)`, made symmetric, and the evaluations it counts.

    Arguments as for `product_with_hessian`.
    """
    product, count = product_with_hessian(score, x, scale)
    matrix = jax.vmap(product)(jnp.eye(x.size, dtype=x.dtype))
    return 0.5 * (matrix + matrix.T), count * x.size


def _can_run(product: _Vector, v: jax.Array) -> bool:
    """Whether JAX has the derivatives that a product takes; it is traced, not computed."""
    try:
        traced = jax.make_jaxpr(product)(v)
    except _NO_DERIVATIVE:
        return False
    return not _has_custom_vjp(traced.jaxpr)


def _has_custom_vjp(jaxpr: Jaxpr) -> bool:
    """Whether a forward derivative meets a `custom_vjp`, of which JAX complains only when it runs."""
    return any(
        equation.primitive is custom_lin_p or any(map(_has_custom_vjp, jaxprs_in_params(equation.params)))
        for equation in jaxpr.eqns
    )


def _difference(score: _Vector, x: jax.Array, v: jax.Array, scale: ArrayLike) -> jax.Array:
    """`J v` by two central differences, the first of which finds the length of the second."""
    eps = float(jnp.finfo(x.dtype).eps)
    moved = jnp.any(v != 0)
    v = jnp.where(moved, v, 1)  # a number in place of 0 / 0
    length = jnp.linalg.norm(v / scale)
    unit = v / length
    reach = jnp.linalg.norm(unit)
    # A shorter step is lost in the rounding of the coordinates that it moves.
    least = 8 * eps * jnp.max(jnp.abs(x) * (unit != 0)) / reach

    def central(step):
        up, down = x + step * unit, x - step * unit
        width = (up - down) @ (unit / reach) / reach  # as rounded
        return (score(up) - score(down)) / width

    bend = jnp.abs(unit @ central(jnp.maximum(eps**0.5, least)))
    shorter = jnp.where(bend > 1, jax.lax.rsqrt(bend), 1)  # NaN, where one end has no density, leaves one
    return jnp.where(moved, length * central(jnp.maximum(eps**0.25 * shorter, least)), 0)
