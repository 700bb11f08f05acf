"""Gradient and Laplacian of a scalar function at one point, exact or estimated.

Both differentiate the reverse-mode gradient in forward mode: `linearize` runs the gradient once and returns
the map `v -> (Hess f) v`, so that every further direction costs one Hessian-vector product and the Hessian is
never stored. Where JAX has no such derivative (`custom_vjp`, callbacks) the map is a difference of gradients.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.numerics.second_derivatives import linearized_score
from qdesampler.validation import as_positive_int

ScalarFunction = Callable[[jax.Array], jax.Array]

# Directions evaluated at once: enough to vectorise, few enough that memory does not grow with the dimension.
_DIRECTIONS_AT_ONCE = 32


def gradient_and_laplacian(f: ScalarFunction, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the gradient of `f` and its Laplacian, `lap f = sum_i d^2 f / dx_i^2`, exactly.

    The cost is one gradient and `dim` Hessian-vector products.

    Args:
        f: function of one point of shape `(dim,)`, returning a scalar.
        x: the point, shape `(dim,)`.

    Returns:
        The gradient, shape `(dim,)`, and the Laplacian, a scalar.
    """
    gradient, hessian_vector_product = linearized_score(jax.grad(f), x)

    def second_derivative(i: jax.Array) -> jax.Array:
        direction = jnp.zeros_like(x).at[i].set(1)
        return hessian_vector_product(direction)[i]

    diagonal = jax.lax.map(second_derivative, jnp.arange(x.shape[0]), batch_size=_DIRECTIONS_AT_ONCE)
    return gradient, jnp.sum(diagonal)


def unrolled_gradient_and_laplacian(f: ScalarFunction, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `gradient_and_laplacian`, direction by direction.

    Fewer and simpler operations: faster under `vmap` in a few dimensions, while the program grows with them.

    Args:
        f: function of one point of shape `(dim,)`, returning a scalar.
        x: the point, shape `(dim,)`.

    Returns:
        The gradient, shape `(dim,)`, and the Laplacian, a scalar.
    """
    gradient, hessian_vector_product = linearized_score(jax.grad(f), x)
    laplacian = jnp.zeros((), x.dtype)
    for i, direction in enumerate(np.eye(x.size)):
        laplacian += hessian_vector_product(jnp.asarray(direction, x.dtype))[i]
    return gradient, laplacian


def estimate_gradient_and_laplacian(
    f: ScalarFunction, x: jax.Array, key: jax.Array, num_probes: int
) -> tuple[jax.Array, jax.Array]:
    """Return the gradient of `f` and an unbiased estimate of its Laplacian from random probes.

    With independent Rademacher signs `v_k`, `E[v^T A v] = trace(A)`, so

        lap f  ~  (1 / K) sum_k v_k^T (Hess f) v_k,      variance  (2 / K) sum_{i != j} (Hess f)_ij^2.

    The estimate is exact where the Hessian is diagonal. The cost is one gradient and `num_probes`
    Hessian-vector products, whatever the dimension.

    Args:
        f: function of one point of shape `(dim,)`, returning a scalar.
        x: the point, shape `(dim,)`.
        key: JAX random key.
        num_probes: number of probes, `K`.

    Returns:
        The gradient (exact), shape `(dim,)`, and the estimated Laplacian, a scalar.

    Raises:
        TypeError: `num_probes` is not an integer.
        ValueError: `num_probes` is less than one.

    References:
        Hutchinson, Commun. Stat. Simul. Comput. 19 (1990) 433; Avron and Toledo, J. ACM 58 (2011) 8.
    """
    num_probes = as_positive_int("num_probes", num_probes)
    gradient, hessian_vector_product = linearized_score(jax.grad(f), x)
    probes = jax.random.rademacher(key, (num_probes, x.shape[0]), dtype=x.dtype)
    forms = jax.lax.map(lambda v: v @ hessian_vector_product(v), probes, batch_size=_DIRECTIONS_AT_ONCE)
    return gradient, jnp.mean(forms)
