"""The basic iterative process of machine learning, as imaginary time under a local Taylor expansion.

Each step expands the objective about the present point `x` to order 0, 1 or 2 and follows the kernel of
`exp(-H tau)` from it (`qdesampler.equation.taylor`): order 0 diffuses, order 1 is gradient descent at the
rate `D tau^2`, order 2 goes over from gradient descent to Newton's method as `tau` grows. The inner loop runs
at fixed `D`; the outer loop, quantum annealing, lowers `D` from step to step.

References:
    Wang and Maimaitiniyazi, arXiv:2407.19890 (2024).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.equation.laplacian import ScalarFunction
from qdesampler.equation.taylor import as_center, expand
from qdesampler.validation import as_float_array, as_positive_scalar, is_traced


class IterationPath(NamedTuple):
    """Points and growth of an iterative process.

    Attributes:
        points: the point after each step, shape `(num_steps, dim)`.
        log_mass: log mass of each step's kernel, shape `(num_steps,)`.
    """

    points: jax.Array
    log_mass: jax.Array


def iterative_process(
    objective: ScalarFunction,
    start: ArrayLike,
    *,
    order: int,
    tau: ArrayLike,
    diffusion: ArrayLike,
    key: jax.Array | None = None,
) -> IterationPath:
    """Follow the imaginary-time kernel of the expanded objective from point to point.

    Args:
        objective: `zeta`, a function of one point of shape `(dim,)`, returning a scalar.
        start: first point, shape `(dim,)`.
        order: Taylor order, 0, 1 or 2.
        tau: imaginary time of one step, positive.
        diffusion: `D > 0` at each step, shape `(num_steps,)`; for instance the table of a `Schedule`.
        key: random key: each step draws from its Gaussian. Without one, each step takes the mean.

    Returns:
        The path. It ignores the mass of each step, which an exact walker would carry as its weight.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a wrong shape or value; a step was too long for a concave direction, or
            the objective was not finite. Under `jit` this last error cannot be raised: the rest of the path
            is NaN.
    """
    tau = as_positive_scalar("tau", tau)
    diffusions = as_float_array(diffusion)
    if diffusions.ndim != 1 or diffusions.size == 0:
        raise ValueError(
            f"diffusion must give D at each step, shape (num_steps,), got shape {diffusions.shape}."
        )
    if not is_traced(diffusions) and not np.all((np.asarray(diffusions) > 0) & np.isfinite(diffusions)):
        raise ValueError(f"diffusion must be positive and finite at every step, got {diffusions}.")
    first = as_center(objective, start, order)

    def advance(x: jax.Array, step: tuple[jax.Array, jax.Array | None]):
        diffusion, step_key = step
        law = expand(objective, x, order).step(x, tau, diffusion)
        moved = law.mean if step_key is None else law.sample(step_key)
        return moved.astype(x.dtype), (moved, law.log_mass)

    keys = None if key is None else jax.random.split(key, diffusions.shape[0])
    _, (points, log_mass) = jax.lax.scan(advance, first, (diffusions, keys))
    finite = jnp.all(jnp.isfinite(points), axis=-1) & jnp.isfinite(log_mass)
    if not is_traced(finite) and not bool(jnp.all(finite)):
        raise ValueError(
            f"step {int(jnp.argmin(finite))} of the iteration is not finite: the objective is not, or "
            f"tau = {tau} is too long for a concave direction there (see TaylorExpansion.longest_step). "
            "Shorten tau or lower the order."
        )
    return IterationPath(points, log_mass)
