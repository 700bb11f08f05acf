"""The posterior of `lamb_movements` by quadrature over the logit of the gate and the log rate."""

import numpy as np
from scipy import stats
from scipy.special import expit, log_expit

SOURCE = "quadrature over the logit of the gate and the log rate"
GRID = {"logit": (-16.0, 6.0, 400), "log_rate": (-3.0, 2.0, 300)}


def log_joint(data, u):
    """Log density of the data and the coordinates, per point."""
    gate, rate = expit(u["logit"]), np.exp(u["log_rate"])
    log_p = log_expit(u["logit"]) + log_expit(-u["logit"]) - rate + u["log_rate"]
    for count, intervals in zip(data["movements"], data["intervals"], strict=True):
        log_p += intervals * np.log((1 - gate) * stats.poisson.pmf(count, rate) + gate * (count == 0))
    return log_p


def values(data, u):
    """Each parameter at the points."""
    return {"gate": expit(u["logit"]), "rate": np.exp(u["log_rate"])}
