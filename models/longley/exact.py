"""The posterior of `longley`: coefficients are normal given the variance, which is integrated."""

import numpy as np
from scipy import stats

SOURCE = "coefficients in closed form given the variance, its log by quadrature"
GRID = {"log_variance": (-8.5, -0.5, 300)}


def parts(data):
    """What both functions need."""
    X, y = data["predictors"], data["employed"]
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    precision = X.T @ X + np.eye(6) / 1e4
    return X, y, precision, np.linalg.solve(precision, X.T @ y)


def log_joint(data, u):
    """Log density of the data and the coordinates, per point."""
    X, y, precision, mean = parts(data)
    variance = np.exp(u["log_variance"])
    log_p = stats.invgamma.logpdf(variance, 2, scale=0.05) + u["log_variance"]
    squares = y @ y - mean @ precision @ mean
    log_det = np.linalg.slogdet(precision * 1e4)[1]
    return log_p - 0.5 * (16 * np.log(2 * np.pi * variance) + log_det + squares / variance)


def values(data, u):
    """Each parameter at the points."""
    _, _, precision, mean = parts(data)
    variance, unit = np.exp(u["log_variance"]), np.diag(np.linalg.inv(precision))
    beta = {
        f"beta[{k + 1}]": ("normal", np.full_like(variance, mean[k]), variance * unit[k]) for k in range(6)
    }
    return {"variance": variance} | beta
