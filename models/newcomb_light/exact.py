"""The posterior of `newcomb_light`: normal given the variance, which is integrated by quadrature."""

import numpy as np
from scipy import stats

SOURCE = "mean given variance in closed form, variance by quadrature"
GRID = {"log_variance": (3.3, 6.5, 400)}


def log_joint(data, u):
    """Log density of the data and the coordinates, per point."""
    y, variance = data["y"], np.exp(u["log_variance"])
    log_p = stats.invgamma.logpdf(variance, 3, scale=200) + u["log_variance"]
    # All of y given the variance: independent parts, and a common normal deviation from 25.
    n, total = len(y), np.sum(y - 25)
    squares = np.sum((y - 25) ** 2) - total**2 / (n + 0.1)
    return log_p - 0.5 * (n * np.log(2 * np.pi * variance) + np.log(1 + n / 0.1) + squares / variance)


def values(data, u):
    """Each parameter at the points."""
    y, variance = data["y"], np.exp(u["log_variance"])
    precision = len(y) + 0.1
    mean = np.full_like(variance, (np.sum(y) + 0.1 * 25) / precision)
    return {"variance": variance, "mean": ("normal", mean, variance / precision)}
