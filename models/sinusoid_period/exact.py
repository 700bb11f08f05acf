"""The posterior of `sinusoid_period`: amplitudes are normal given frequency and noise."""

import numpy as np
from scipy import stats
from scipy.special import expit, log_expit

SOURCE = "amplitudes in closed form, the frequency's logit and log sigma by quadrature"
GRID = {"logit": (-30.0, 30.0, 4000), "log_sigma": (-3.0, 1.7, 90)}


def parts(data, u):
    """Frequency, sigma, the precision matrix of (a, b) and the vector it is solved with, per point."""
    frequency, sigma = 0.05 + 0.9 * expit(u["logit"]), np.exp(u["log_sigma"])
    angle = 2 * np.pi * frequency[:, None] * data["time"]
    waves = np.stack([np.cos(angle), np.sin(angle)], 1)
    precision = waves @ waves.transpose(0, 2, 1) / sigma[:, None, None] ** 2 + np.eye(2)
    return frequency, sigma, precision, waves @ data["y"] / sigma[:, None] ** 2


def log_joint(data, u):
    """Log density of the data and the coordinates, per point."""
    _, sigma, precision, linear = parts(data, u)
    n, y = len(data["y"]), data["y"]
    square = np.sum(y**2) / sigma**2 - np.sum(
        linear * np.linalg.solve(precision, linear[..., None])[..., 0], -1
    )
    log_p = -0.5 * (n * np.log(2 * np.pi * sigma**2) + np.log(np.linalg.det(precision)) + square)
    log_prior = stats.halfnorm.logpdf(sigma) + u["log_sigma"]
    return log_p + log_prior + log_expit(u["logit"]) + log_expit(-u["logit"])


def values(data, u):
    """Each parameter at the points."""
    frequency, sigma, precision, linear = parts(data, u)
    covariance = np.linalg.inv(precision)
    mean = (covariance @ linear[..., None])[..., 0]
    amplitudes = {n: ("normal", mean[:, k], covariance[:, k, k]) for k, n in enumerate("ab")}
    return {"frequency": frequency, "sigma": sigma} | amplitudes
