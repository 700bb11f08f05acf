"""The taste of four cheeses: ordinal regression with nine categories."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import OrderedTransform


def prepare(data):
    """The cheese and the rating (from 0) of each of the 208 tastings."""
    cheese, rating = np.indices(data["counts"].shape)
    times = data["counts"].ravel()
    return {"cheese": np.repeat(cheese.ravel(), times), "rating": np.repeat(rating.ravel(), times)}


def model(cheese, rating):
    """Cumulative logits with common cutpoints and a shift for each cheese; the last has none.

    Args:
        cheese: 0, ..., 3, shape ``(tastings,)``.
        rating: 0, ..., 8, shape ``(tastings,)``; None draws from the prior predictive.
    """
    with numpyro.plate("cheese", 3):
        effect = numpyro.sample("effect", dist.Normal(0, 2))
    first_and_gaps = dist.Normal(jnp.array([-4.0] + [0.0] * 7), jnp.array([3.0] + [1.0] * 7)).to_event(1)
    cutpoint = numpyro.sample("cutpoint", dist.TransformedDistribution(first_and_gaps, OrderedTransform()))
    shift = jnp.append(effect, 0.0)[cheese]
    with numpyro.plate("tasting", len(cheese)):
        numpyro.sample("rating", dist.OrderedLogistic(shift, cutpoint), obs=rating)
