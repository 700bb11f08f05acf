"""The posterior of `ising_denoising`: sums over all images by transfer matrices, row by row."""

import itertools

import numpy as np

SOURCE = "transfer matrices over the 64 states of a row"
NORMALISED = False  # the network's factor is not: what is summed is the density as written
COUPLING, ERROR = 0.45, 0.25


def moments(data):
    """Each parameter given the term, and the terms' log weights."""
    seen = data["seen"]
    rows, columns = seen.shape
    states = np.array(list(itertools.product((0, 1), repeat=columns)))
    spin = 2 * states - 1
    between = np.exp(COUPLING * spin @ spin.T)
    within = np.exp(COUPLING * np.sum(spin[:, 1:] * spin[:, :-1], 1)) * 0.5**columns
    weight = [within * np.prod(np.where(states == y, 1 - ERROR, ERROR), 1) for y in seen]
    above, below = [weight[0]], [np.ones(len(states))]
    for w in weight[1:]:
        above.append(w * (between @ above[-1]))
    for w in weight[:0:-1]:
        below.append(between @ (w * below[-1]))
    total = above[-1].sum()
    parameters = {}
    for r in range(rows):
        law = above[r] * below[rows - 1 - r] / total
        for c in range(columns):
            p = np.array([law @ states[:, c]])
            parameters[f"pixel[{r + 1},{c + 1}]"] = ("moments", p, p, p)
    return parameters, np.array([np.log(total)])
