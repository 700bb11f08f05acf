"""The prior reference that annealing starts from: given by the user, or as wide as the prior of the model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["DEFAULT_SCALE", "prior_gaussian"]

DEFAULT_SCALE = 5.0  # standard deviation of the prior reference for a potential, unconstrained coordinates


def prior_gaussian(given: Any, dim: int) -> tuple[jax.Array, jax.Array]:
    """Centre and standard deviations, shapes `(dim,)`, of a reference given as a scale or `(centre, scale)`.

    Raises:
        ValueError: the scale is not positive and finite, so that the reference could not be normalised, or a
            shape does not fit.
    """
    centre, scale = given if isinstance(given, tuple) else (0.0, given)
    dtype = jnp.result_type(float)
    arrays = []
    for name, value in (("centre", centre), ("scale", scale)):
        try:
            array = np.asarray(value, dtype=float)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"reference {name} is {value!r}; expected a number or ({dim},) numbers."
            ) from error
        if array.shape not in ((), (dim,)):
            raise ValueError(f"reference {name} has shape {array.shape}; expected a number or ({dim},).")
        arrays.append(np.broadcast_to(array, (dim,)))
    if not np.all(np.isfinite(arrays[0])):
        raise ValueError(f"reference centre is {centre}; expected finite numbers.")
    if not np.all(np.isfinite(arrays[1]) & (arrays[1] > 0)):
        raise ValueError(
            f"reference scale is {scale}; expected positive finite standard deviations: an improper "
            "reference has no evidence to start from."
        )
    return jnp.asarray(arrays[0], dtype), jnp.asarray(arrays[1], dtype)
