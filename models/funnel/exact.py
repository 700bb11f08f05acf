"""The law of `v` in `funnel`, a normal one: the integral over x is 1."""

from scipy import stats

SOURCE = "closed form: v ~ N(0, 3)"
GRID = {"v": (-25.0, 25.0, 400)}


def log_joint(data, u):
    """Log density of the data and the coordinates, per point."""
    return stats.norm.logpdf(u["v"], 0, 3)


def values(data, u):
    """Each parameter at the points."""
    return {"v": u["v"]}
