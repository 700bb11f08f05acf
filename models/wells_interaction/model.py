"""Switching wells: logistic regression with all pairwise interactions."""

import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


def prepare(data):
    """Centre and scale distance, arsenic and education, and append their pairwise products."""
    distance = (data["dist"] - data["dist"].mean()) / 100
    arsenic = data["arsenic"] - data["arsenic"].mean()
    education = (data["educ"] - data["educ"].mean()) / 4
    products = [distance * arsenic, distance * education, arsenic * education]
    return {"X": np.column_stack([distance, arsenic, education, *products]), "switched": data["switched"]}


def model(X, switched):
    """Whether a household moved to another well, by a logistic regression with flat priors.

    Args:
        X: predictors and their products, shape ``(households, 6)``.
        switched: 1 if the household changed its well, else 0, shape ``(households,)``.
    """
    alpha = numpyro.sample("alpha", dist.ImproperUniform(constraints.real, (), event_shape=()))
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real, (), event_shape=(X.shape[1],)))
    with numpyro.plate("household", X.shape[0]):
        numpyro.sample("switched", dist.Bernoulli(logits=alpha + X @ beta), obs=switched)
