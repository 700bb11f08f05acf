"""A mixture whose components may change places: two modes of exactly equal mass."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(y):
    """Two normal components of equal weight and unit scale, with nothing to tell one from the other.

    Args:
        y: the points, shape ``(points,)``; None draws sixty from the prior predictive.
    """
    with numpyro.plate("component", 2):
        mu = numpyro.sample("mu", dist.Normal(0, 3))
    weights = dist.Categorical(probs=jnp.array([0.5, 0.5]))
    with numpyro.plate("point", 60 if y is None else len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, 1)), obs=y)
