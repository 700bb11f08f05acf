"""Eight schools, centred: the same posterior as ``eight_schools`` with the geometry of a funnel."""

import numpyro
import numpyro.distributions as dist


def model(sigma, y):
    """Effects ``theta ~ N(mu, tau)``, themselves sampled, measured as ``y`` with known standard errors.

    Args:
        sigma: standard error of each school's estimate, shape ``(schools,)``.
        y: estimated effect of each school, shape ``(schools,)``; None draws from the prior predictive.
    """
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(sigma)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)
