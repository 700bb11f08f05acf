"""Mesquite bushes: leaf weight from collinear size measurements, all on the log scale."""

import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints


def prepare(data):
    """Take logarithms and put the columns 1, log sizes, log density and group side by side."""
    logs = [np.log(data[name]) for name in ("diam1", "diam2", "canopy_height", "total_height", "density")]
    X = np.column_stack([np.ones(len(data["group"])), *logs, data["group"]])
    return {"X": X, "log_weight": np.log(data["weight"])}


def model(X, log_weight):
    """Linear regression of log leaf weight with flat priors.

    Args:
        X: predictors with a first column of ones, shape ``(bushes, 7)``.
        log_weight: logarithm of the leaf weight, shape ``(bushes,)``.
    """
    beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real, (), event_shape=(X.shape[1],)))
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), event_shape=()))
    with numpyro.plate("bush", X.shape[0]):
        numpyro.sample("log_weight", dist.Normal(X @ beta, sigma), obs=log_weight)
