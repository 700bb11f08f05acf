"""The posterior of `leukaemia_survival` by quadrature in three dimensions."""

import numpy as np
from scipy import stats

SOURCE = "quadrature over intercept, effect and log shape"
GRID = {"intercept": (0.2, 4.5, 64), "effect": (-1.6, 5.4, 70), "log_shape": (-1.4, 1.5, 56)}


def log_joint(data, u):
    """Log density of the data and the coordinates, per point."""
    shape = np.exp(u["log_shape"])
    log_p = stats.norm.logpdf(u["intercept"], 2, 2) + stats.norm.logpdf(u["effect"], 0, 2)
    log_p += stats.norm.logpdf(u["log_shape"])
    for t, censored, treated in zip(data["weeks"], data["censored"], data["treated"], strict=True):
        log_ratio = np.log(t) - u["intercept"] - treated * u["effect"]
        log_p -= np.exp(shape * log_ratio)
        if not censored:
            log_p += u["log_shape"] - np.log(t) + shape * log_ratio
    return log_p


def values(data, u):
    """Each parameter at the points."""
    return {"intercept": u["intercept"], "effect": u["effect"], "shape": np.exp(u["log_shape"])}
