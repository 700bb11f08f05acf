"""The posterior of `nile_local_level`: levels are normal given two scales, which are integrated.

Given the scales the flows have covariance F = B + 9 11', B = sigma_level^2 M + sigma_flow^2 I with M[s, t] =
min(s, t), and the levels have mean y - sigma_flow^2 F^-1 (y - 10) and covariance sigma_flow^2 I -
sigma_flow^4 F^-1. One eigendecomposition of M serves all scales.
"""

import numpy as np
from scipy import stats

SOURCE = "levels in closed form given the scales, log scales by quadrature"
GRID = {"log_level": (-27.0, 2.0, 140), "log_flow": (-10.0, 1.4, 180)}


def parts(data, u):
    """The flows, sigma_flow^2, F^-1 (y - 10), diag F^-1 and log det F, per point."""
    y = data["flow"] / 100
    time = np.arange(len(y))
    eigenvalues, Q = np.linalg.eigh(np.minimum(time[:, None], time).astype(float))
    noise = np.exp(2 * u["log_flow"])[:, None]
    D = np.exp(2 * u["log_level"])[:, None] * eigenvalues.clip(0) + noise
    solved_y, solved_one = ((Q.T @ v) / D @ Q.T for v in (y - 10, np.ones(len(y))))
    common = 9 / (1 + 9 * solved_one.sum(1, keepdims=True))
    inverse_y = solved_y - common * solved_one * solved_y.sum(1, keepdims=True)
    diagonal = (1 / D) @ (Q**2).T - common * solved_one**2
    return y, noise, inverse_y, diagonal, np.log(D).sum(1) + np.log(9 / common[:, 0])


def log_joint(data, u):
    """Log density of the data and the coordinates, per point."""
    y, _, inverse_y, _, log_det = parts(data, u)
    log_p = stats.halfnorm.logpdf(np.exp(u["log_level"])) + u["log_level"]
    log_p += stats.halfnorm.logpdf(np.exp(u["log_flow"]), 0, 2) + u["log_flow"]
    return log_p - 0.5 * (len(y) * np.log(2 * np.pi) + log_det + inverse_y @ (y - 10))


def values(data, u):
    """Each parameter at the points."""
    y, noise, inverse_y, diagonal, _ = parts(data, u)
    mean, variance = y - noise * inverse_y, noise - noise**2 * diagonal
    level = {f"level[{k + 1}]": ("normal", mean[:, k], variance[:, k]) for k in range(len(y))}
    return {"sigma_level": np.exp(u["log_level"]), "sigma_flow": np.exp(u["log_flow"])} | level
