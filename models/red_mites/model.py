"""Red mites on apple leaves: overdispersed counts, a negative binomial law."""

import numpy as np
import numpyro
import numpyro.distributions as dist


def prepare(data):
    """The count of every leaf from the table of counts."""
    return {"y": np.repeat(data["mites"], data["leaves"])}


def model(y):
    """Counts of mean ``mean`` and variance ``mean + mean^2 / concentration``.

    Args:
        y: mites on each leaf, shape ``(leaves,)``.
    """
    mean = numpyro.sample("mean", dist.LogNormal(0, 1))
    concentration = numpyro.sample("concentration", dist.LogNormal(0, 1))
    with numpyro.plate("leaf", len(y)):
        numpyro.sample("y", dist.NegativeBinomial2(mean, concentration), obs=y)
