r"""How far a site should be centred, from weighted draws.

The information `k` on a site `theta ~ loc + scale * noise` is the negative slope, on `theta`, of the score
of the rest of the density. To first order the width of the site does not change with `scale` in the
parametrisation of centredness

    c = mean of  i / (1 + i),        i = k scale^2

(Papaspiliopoulos, Roberts and Skold 2007, section 4; see `qdesampler.infer.model.centering`).
"""

import numpy as np

__all__ = ["centredness_of_draws"]


def centredness_of_draws(
    sites: np.ndarray, rest: np.ndarray, scale: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The centredness of each coordinate, between 0 and 1, shape `(d,)`; what is not finite does not count.

    Args:
        sites: values, shape `(n, d)`.
        rest: score of the density without the site's own law, shape `(n, d)`.
        scale: of the site's law, shape `(n, d)`.
        weights: of the draws, non-negative, shape `(n,)`.
    """
    usable = np.isfinite(sites) & np.isfinite(rest) & np.isfinite(scale) & (weights > 0)[:, None]
    share = np.where(usable, weights[:, None], 0.0)
    share = share / np.maximum(np.sum(share, 0), np.finfo(float).tiny)
    sites, rest, scale = (np.where(usable, part, 1.0) for part in (sites, rest, scale))
    deviation = sites - np.sum(share * sites, 0)
    variance = np.sum(share * deviation**2, 0)
    covariance = np.sum(share * deviation * (rest - np.sum(share * rest, 0)), 0)
    informed = np.maximum(-covariance / np.where(variance > 0, variance, 1.0), 0.0) * scale**2
    return np.sum(share * (informed / (1 + informed)), 0)
