"""Children's test scores: a linear regression with an interaction and without centring."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


def model(mom_hs, mom_iq, kid_score):
    """A child's score from the mother's schooling, her IQ and their product.

    Args:
        mom_hs: 1 if the mother finished high school, else 0, shape ``(children,)``.
        mom_iq: the mother's IQ, shape ``(children,)``.
        kid_score: the child's test score, shape ``(children,)``.
    """
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real, (), event_shape=(4,)))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    X = jnp.stack([jnp.ones(len(mom_hs)), mom_hs, mom_iq, mom_hs * mom_iq], axis=-1)
    with numpyro.plate("child", len(mom_hs)):
        numpyro.sample("kid_score", dist.Normal(X @ beta, sigma), obs=kid_score)
