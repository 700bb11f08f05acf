"""Leukaemia remissions: censored Weibull survival times of two treatments."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def model(weeks, censored, treated):
    """Times to relapse, Weibull with a common shape and a scale that depends on the treatment.

    Args:
        weeks: time to relapse, or to the end of observation, shape ``(patients,)``.
        censored: 1 where the patient had not relapsed by then, shape ``(patients,)``.
        treated: 1 for 6-mercaptopurine and 0 for placebo, shape ``(patients,)``.
    """
    intercept = numpyro.sample("intercept", dist.Normal(2, 2))
    effect = numpyro.sample("effect", dist.Normal(0, 2))
    shape = numpyro.sample("shape", dist.LogNormal(0, 1))
    scale = jnp.exp(intercept + effect * treated)
    # log P(T > t) as it stands: one minus the distribution function would be rounded to 0 for long times.
    log_survival = -((weeks / scale) ** shape)
    log_hazard = jnp.log(shape / scale) + (shape - 1) * jnp.log(weeks / scale)
    with numpyro.plate("patient", len(weeks)):
        numpyro.factor("weeks", log_survival + (1 - censored) * log_hazard)
