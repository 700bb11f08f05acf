"""The posterior of `red_mites` by quadrature over log mean and log concentration."""

import numpy as np
from scipy import stats

SOURCE = "quadrature over log mean and log concentration"
GRID = {"log_mean": (-2.0, 2.5, 200), "log_concentration": (-2.5, 3.5, 200)}


def log_joint(data, u):
    """Log density of the data and the coordinates, per point."""
    mean, concentration = np.exp(u["log_mean"]), np.exp(u["log_concentration"])
    log_p = stats.norm.logpdf(u["log_mean"]) + stats.norm.logpdf(u["log_concentration"])
    for count, leaves in zip(data["mites"], data["leaves"], strict=True):
        log_p += leaves * stats.nbinom.logpmf(count, concentration, concentration / (concentration + mean))
    return log_p


def values(data, u):
    """Each parameter at the points."""
    return {"mean": np.exp(u["log_mean"]), "concentration": np.exp(u["log_concentration"])}
