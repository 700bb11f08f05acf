"""The posterior of `murray_missing`: missing values are normal given the three parameters."""

import numpy as np
from scipy import stats
from scipy.special import expit, log_expit

SOURCE = "missing values in closed form, log scales and the correlation's logit by quadrature"
GRID = {"log_first": (-1.8, 2.7, 80), "log_second": (-1.8, 2.7, 80), "logit": (-16.0, 16.0, 130)}


def parameters(u):
    """The parameters by their names."""
    return np.exp(u["log_first"]), np.exp(u["log_second"]), 2 * expit(u["logit"]) - 1


def log_joint(data, u):
    """Log density of the data and the coordinates, per point."""
    s, t, r = parameters(u)
    rest = 4 * np.exp(log_expit(u["logit"]) + log_expit(-u["logit"]))  # 1 - r^2, without cancellation
    log_p = stats.halfnorm.logpdf(s, 0, 2) + stats.halfnorm.logpdf(t, 0, 2) + u["log_first"] + u["log_second"]
    log_p += log_expit(u["logit"]) + log_expit(-u["logit"])
    for x, y in data["pairs"]:
        square = ((x / s) ** 2 - 2 * r * (x / s) * (y / t) + (y / t) ** 2) / rest
        log_p -= np.log(2 * np.pi * s * t) + 0.5 * np.log(rest) + 0.5 * square
    for x in data["first_only"]:
        log_p += stats.norm.logpdf(x, 0, s)
    for y in data["second_only"]:
        log_p += stats.norm.logpdf(y, 0, t)
    return log_p


def values(data, u):
    """Each parameter at the points."""
    s, t, r = parameters(u)
    out = {"scale[1]": s, "scale[2]": t, "correlation": r}
    for k, x in enumerate(data["first_only"], 1):
        out[f"missing_second[{k}]"] = ("normal", r * t / s * x, t**2 * (1 - r**2))
    for k, y in enumerate(data["second_only"], 1):
        out[f"missing_first[{k}]"] = ("normal", r * s / t * y, s**2 * (1 - r**2))
    return out
