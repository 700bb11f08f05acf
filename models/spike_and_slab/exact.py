"""The posterior of `spike_and_slab`: a sum over all sets of predictors."""

import itertools

import numpy as np

SOURCE = "enumeration of all 4,096 sets of predictors"


def moments(data):
    """Each parameter given the term, and the terms' log weights."""
    X, y = data["X"], data["y"]
    n, p = X.shape
    sets = np.array(list(itertools.product((0, 1), repeat=p)))
    log_weight = []
    for chosen in sets:
        Z = X[:, chosen == 1]
        precision = np.eye(Z.shape[1]) + Z.T @ Z
        linear = Z.T @ y
        square = y @ y - linear @ np.linalg.solve(precision, linear)
        log_weight.append(-0.5 * (n * np.log(2 * np.pi) + np.linalg.slogdet(precision)[1] + square))
    log_prior = sets.sum(1) * np.log(0.3) + (p - sets.sum(1)) * np.log(0.7)
    parameters = {f"included[{k + 1}]": sets[:, k] for k in range(p)}
    return parameters, np.array(log_weight) + log_prior
