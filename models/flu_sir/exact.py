"""The posterior of `flu_sir` by quadrature; the equations with five times the model's steps."""

import numpy as np
from scipy import stats

SOURCE = "quadrature over the logarithms of the three parameters, 40 Runge-Kutta steps a day"
GRID = {
    "log_rate": (-1.0, 2.4, 180),
    "log_recovery": (-2.8, 1.0, 190),
    "log_overdispersion": (-11.0, 1.8, 60),
}


def infected(data, rate, recovery, steps=40):
    """The infected at the end of each day, shape ``(days, n)``."""
    pupils, out = data["pupils"], []
    s, i = np.full_like(rate, pupils - 1.0), np.ones_like(rate)

    def slope(s, i):
        infections = rate * s * i / pupils
        return -infections, infections - recovery * i

    for _ in data["in_bed"]:
        for _ in range(steps):
            h = 1 / steps
            a1, b1 = slope(s, i)
            a2, b2 = slope(s + h / 2 * a1, i + h / 2 * b1)
            a3, b3 = slope(s + h / 2 * a2, i + h / 2 * b2)
            a4, b4 = slope(s + h * a3, i + h * b3)
            s, i = s + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4), i + h / 6 * (b1 + 2 * b2 + 2 * b3 + b4)
        out.append(i)
    return np.array(out)


def log_joint(data, u):
    """Log density of the data and the coordinates, per point."""
    rate, recovery, spread = (np.exp(u[k]) for k in ("log_rate", "log_recovery", "log_overdispersion"))
    log_p = stats.norm.logpdf(u["log_rate"], 0.5, 0.5) + stats.norm.logpdf(u["log_recovery"], -0.7, 0.5)
    log_p += np.log(5) - 5 * spread + u["log_overdispersion"]
    equal = np.unique(np.stack([rate, recovery]), axis=1, return_inverse=True)
    mean = infected(data, *equal[0])[:, equal[1]]
    for count, m in zip(data["in_bed"], mean, strict=True):
        log_p += stats.nbinom.logpmf(count, 1 / spread, 1 / (1 + spread * m))
    return log_p


def values(data, u):
    """Each parameter at the points."""
    return {k: np.exp(u[f"log_{k}"]) for k in ("rate", "recovery", "overdispersion")}
