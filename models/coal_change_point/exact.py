"""The posterior of `coal_change_point`: a mixture of gamma laws, one for each year of the change."""

import numpy as np
from scipy.special import gammaln

SOURCE = "closed form: gamma laws given the year of the change, summed over the 111 years"


def moments(data):
    """Each parameter given the term, and the terms' log weights."""
    y = data["disasters"]
    year = np.arange(1, len(y))
    shape = 1 + np.cumsum(y)[:-1], 1 + np.cumsum(y[::-1])[::-1][1:]
    rate = 0.5 + year, 0.5 + len(y) - year
    log_weight = -np.log(len(y) - 1) - np.sum(gammaln(y + 1)) + np.zeros(len(year))
    for a, b in zip(shape, rate, strict=True):
        log_weight += np.log(0.5) + gammaln(a) - a * np.log(b)
    return {"early": ("gamma", shape[0], rate[0]), "late": ("gamma", shape[1], rate[1])}, log_weight
