"""Movements of a fetal lamb: counts with more zeros than a Poisson law has."""

import numpy as np
import numpyro
import numpyro.distributions as dist


def prepare(data):
    """The count of every interval from the table of counts."""
    return {"y": np.repeat(data["movements"], data["intervals"])}


def model(y):
    """Zero with probability ``gate``, otherwise Poisson.

    Args:
        y: movements in each interval, shape ``(intervals,)``.
    """
    gate = numpyro.sample("gate", dist.Uniform(0, 1))
    rate = numpyro.sample("rate", dist.Exponential(1))
    with numpyro.plate("interval", len(y)):
        numpyro.sample("y", dist.ZeroInflatedPoisson(gate, rate), obs=y)
