"""The posterior of `abo_blood_groups` by quadrature over the simplex of three frequencies."""

import numpy as np
from scipy import stats
from scipy.special import expit, log_expit

SOURCE = "quadrature over the logits of a and of b / (1 - a)"
GRID = {"logit_a": (-4.0, 1.5, 250), "logit_b": (-7.0, 0.0, 250)}


def frequencies(u):
    """The three frequencies."""
    a = expit(u["logit_a"])
    b = (1 - a) * expit(u["logit_b"])
    return a, b, 1 - a - b


def log_joint(data, u):
    """Log density of the data and the coordinates, per point."""
    a, b, o = frequencies(u)
    groups = np.stack([a * a + 2 * a * o, b * b + 2 * b * o, 2 * a * b, o * o], -1)
    counts = [data[group] for group in ("A", "B", "AB", "O")]
    log_jacobian = log_expit(u["logit_a"]) + 2 * log_expit(-u["logit_a"])
    log_jacobian += log_expit(u["logit_b"]) + log_expit(-u["logit_b"])
    log_prior = np.log(2)  # the density of Dirichlet(1, 1, 1) over a and b
    return log_prior + log_jacobian + stats.multinomial.logpmf(counts, sum(counts), groups)


def values(data, u):
    """Each parameter at the points."""
    return {f"allele[{k}]": value for k, value in enumerate(frequencies(u), 1)}
