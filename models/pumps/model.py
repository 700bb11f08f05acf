"""Failures of ten pumps: Poisson rates from a gamma law with unknown parameters."""

import numpyro
import numpyro.distributions as dist


def model(failures, hours):
    """Failures of each pump, whose rate comes from a gamma law.

    Args:
        failures: shape ``(pumps,)``; None draws from the prior predictive.
        hours: thousands of hours of operation, shape ``(pumps,)``.
    """
    alpha = numpyro.sample("alpha", dist.Exponential(1))
    beta = numpyro.sample("beta", dist.Gamma(0.1, 1))
    with numpyro.plate("pump", len(hours)):
        rate = numpyro.sample("rate", dist.Gamma(alpha, beta))
        numpyro.sample("failures", dist.Poisson(rate * hours), obs=failures)
