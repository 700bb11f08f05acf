"""Eight schools, non-centred: a hierarchical normal model of treatment effects."""

import numpyro
import numpyro.distributions as dist


def model(sigma, y):
    """Effects ``theta = mu + tau * theta_offset``, measured as ``y`` with known standard errors.

    Args:
        sigma: standard error of each school's estimate, shape ``(schools,)``.
        y: estimated effect of each school, shape ``(schools,)``; None draws from the prior predictive.
    """
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(sigma)):
        theta_offset = numpyro.sample("theta_offset", dist.Normal(0, 1))
        theta = numpyro.deterministic("theta", mu + tau * theta_offset)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)
