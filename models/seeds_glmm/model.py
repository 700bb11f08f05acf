"""Germination of seeds: a hierarchical logistic regression, non-centred."""

import numpyro
import numpyro.distributions as dist


def model(germinated, seeds, variety, extract):
    """Germinated seeds of each plate, with an effect of the plate.

    Args:
        germinated: shape ``(plates,)``; None draws from the prior predictive.
        seeds: seeds on each plate, shape ``(plates,)``.
        variety: 0 or 1, shape ``(plates,)``.
        extract: of the root: 0 for bean and 1 for cucumber, shape ``(plates,)``.
    """
    alpha = numpyro.sample("alpha", dist.Normal(0, 2))
    beta_variety = numpyro.sample("beta_variety", dist.Normal(0, 2))
    beta_extract = numpyro.sample("beta_extract", dist.Normal(0, 2))
    interaction = numpyro.sample("interaction", dist.Normal(0, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    fixed = alpha + beta_variety * variety + beta_extract * extract + interaction * variety * extract
    with numpyro.plate("plate", len(seeds)):
        offset = numpyro.sample("offset", dist.Normal(0, 1))
        numpyro.sample("germinated", dist.Binomial(seeds, logits=fixed + sigma * offset), obs=germinated)
