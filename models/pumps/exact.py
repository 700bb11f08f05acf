"""The posterior of `pumps`: rates are gamma given two parameters, which are integrated."""

import numpy as np
from scipy import stats

SOURCE = "rates in closed form, log alpha and log beta by quadrature"
GRID = {"log_alpha": (-4.5, 3.2, 250), "log_beta": (-18.0, 4.0, 400)}


def log_joint(data, u):
    """Log density of the data and the coordinates, per point."""
    alpha, beta = np.exp(u["log_alpha"]), np.exp(u["log_beta"])
    log_p = u["log_alpha"] - alpha + stats.gamma.logpdf(beta, 0.1) + u["log_beta"]
    for y, hours in zip(data["failures"], data["hours"], strict=True):
        log_p += stats.nbinom.logpmf(y, alpha, beta / (beta + hours))
    return log_p


def values(data, u):
    """Each parameter at the points."""
    alpha, beta = np.exp(u["log_alpha"]), np.exp(u["log_beta"])
    rates = {
        f"rate[{k}]": ("gamma", alpha + y, beta + hours)
        for k, (y, hours) in enumerate(zip(data["failures"], data["hours"], strict=True), 1)
    }
    return {"alpha": alpha, "beta": beta} | rates
