"""The broad Gaussian that annealing starts from: given by the user, or as wide as the prior of the model."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from numpyro.handlers import seed, trace
from numpyro.infer.util import unconstrain_fn

__all__ = ["DEFAULT_SCALE", "broad_gaussian", "prior_moments"]

DEFAULT_SCALE = 5.0  # standard deviation where nothing is known of a potential
_DRAWS = 400
_QUANTILES = (0.158655, 0.5, 0.841345)  # centre and one standard deviation to either side of a normal law


def prior_moments(
    rng_key: jax.Array, model: Callable, model_args: Sequence, model_kwargs: dict, prototype: Any
) -> tuple[jax.Array, jax.Array]:
    """Median and half the central 68% width of the unconstrained prior, shapes `(dim,)`.

    Heavy tails therefore do not widen it. The prior is sampled; no density is evaluated.

    Raises:
        ValueError: some site has no proper prior to draw from.
    """

    def draw(key):
        sites = trace(seed(model, key)).get_trace(*model_args, **model_kwargs)
        values = {name: sites[name]["value"] for name in prototype}
        flat = unconstrain_fn(seed(model, key), tuple(model_args), model_kwargs, values)
        return ravel_pytree({name: flat[name] for name in prototype})[0]

    try:
        draws = jax.vmap(draw)(jax.random.split(rng_key, _DRAWS))
    except (NotImplementedError, KeyError) as error:
        raise ValueError(
            "The prior of this model cannot be drawn from (an improper prior?), so that there is nothing to "
            "take the reference from: give reference=(centre, scale) in unconstrained coordinates, each a "
            f"number or a vector. ({type(error).__name__}: {error})"
        ) from error
    low, middle, high = jnp.quantile(draws, jnp.asarray(_QUANTILES), axis=0)
    scale = 0.5 * (high - low)
    if not isinstance(scale, Tracer) and not np.all(np.isfinite(scale) & (np.asarray(scale) > 0)):
        raise ValueError(
            "The prior of this model has no width to take the reference from in coordinates "
            f"{np.flatnonzero(~(np.asarray(scale) > 0)).tolist()}: give reference=(centre, scale)."
        )
    return middle, scale


def broad_gaussian(given: Any, dim: int) -> tuple[jax.Array, jax.Array]:
    """Centre and standard deviations, shapes `(dim,)`, of a reference given as a scale or `(centre, scale)`.

    Raises:
        ValueError: the scale is not positive and finite, or a shape does not fit: such a reference could not
            be normalised.
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
