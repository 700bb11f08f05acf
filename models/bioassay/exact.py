"""The posterior of `bioassay` by quadrature over alpha and beta."""

from scipy import stats
from scipy.special import expit

SOURCE = "quadrature over alpha and beta"
GRID = {"alpha": (-12.0, 12.0, 400), "beta": (-25.0, 65.0, 400)}


def log_joint(data, u):
    """Log density of the data and the coordinates, per point."""
    log_p = stats.norm.logpdf(u["alpha"], 0, 2) + stats.norm.logpdf(u["beta"], 10, 10)
    for dose, animals, deaths in zip(data["log_dose"], data["animals"], data["deaths"], strict=True):
        log_p += stats.binom.logpmf(deaths, animals, expit(u["alpha"] + u["beta"] * dose))
    return log_p


def values(data, u):
    """Each parameter at the points."""
    return {"alpha": u["alpha"], "beta": u["beta"]}
