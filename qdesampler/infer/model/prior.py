"""Centre and scale of the prior in unconstrained coordinates."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from numpyro.handlers import seed, trace
from numpyro.infer.util import unconstrain_fn

_DRAWS = 400  # draws from the prior
_QUANTILES = (
    0.158655,
    0.5,
    0.841345,
)  # of a normal law: mean minus one standard deviation, mean, mean plus one


def prior_moments(
    rng_key: jax.Array,
    model: Callable,
    model_args: Sequence[Any],
    model_kwargs: dict[str, Any],
    prototype: Any,
) -> tuple[jax.Array, jax.Array]:
    """Median and half the central 68% width of the unconstrained prior, shapes `(dim,)`.

    Heavy tails do not change these. The prior is sampled; no density is evaluated.

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
