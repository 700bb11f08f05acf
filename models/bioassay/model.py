"""Bioassay: four doses, twenty animals, a logistic regression with a bent posterior."""

import numpyro
import numpyro.distributions as dist


def model(log_dose, animals, deaths):
    """Deaths with probability ``logit^-1(alpha + beta log_dose)``.

    Args:
        log_dose: shape ``(groups,)``.
        animals: animals in each group, shape ``(groups,)``.
        deaths: how many of them died, shape ``(groups,)``; None draws from the prior predictive.
    """
    alpha = numpyro.sample("alpha", dist.Normal(0, 2))
    beta = numpyro.sample("beta", dist.Normal(10, 10))
    with numpyro.plate("group", len(log_dose)):
        numpyro.sample("deaths", dist.Binomial(animals, logits=alpha + beta * log_dose), obs=deaths)
