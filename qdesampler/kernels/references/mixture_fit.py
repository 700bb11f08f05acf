r"""Gaussians, mixtures of Gaussians and products of mixtures on the axes, fitted to draws on the host."""

import numpy as np
from scipy.special import softmax

from qdesampler.kernels.references.laws import AxisMixtures
from qdesampler.kernels.references.reference import DENSE_DIMENSIONS, Reference, log_densities
from qdesampler.numerics.fisher_fit import centred_rows, dense_factor, diagonal_ratio
from qdesampler.numerics.log_sums import log_sum

__all__ = ["fit_by_scores", "fit_mixture", "fit_product", "lower_whitener", "refit_by_scores"]
__all__ += ["smallest_scales"]

AXIS_COMPONENTS = 6  # Gaussians on each axis of the product
_FEWEST = 4  # draws, for a Gaussian by their scores
_SWEEPS = 25  # iterations of expectation-maximisation
_SETTLED = 1e-4  # nats a draw that a sweep still gains, below which it is the last
_SIZE_PRIOR = 2.0  # pseudo-count of coordinates that pulls the size of a cluster towards 1
_SMALLEST = 1e-6  # of a scale, relative to one and the mean: draws may all be equal


def smallest_scales(mean: np.ndarray) -> np.ndarray:
    """A floor for scales of draws that may all be equal."""
    return _SMALLEST * (1 + np.abs(mean))


def lower_whitener(precision: np.ndarray) -> np.ndarray:
    """The lower triangular `P` with `P'P` the given precision: its reversed Cholesky factor.

    Raises:
        numpy.linalg.LinAlgError: the precision is not positive definite.
    """
    return np.linalg.cholesky(precision[..., ::-1, ::-1])[..., ::-1, ::-1].swapaxes(-1, -2)


def fit_by_scores(draws: np.ndarray, scores: np.ndarray) -> Reference | None:
    """The Gaussian of least Fisher divergence, `m = mean x + S mean a`, for which few draws suffice.

    Args:
        draws: shape `(n, dim)`.
        scores: `a = grad log p` at the draws; those that are not finite are left out.

    Returns:
        None where the draws determine no Gaussian.
    """
    sound = np.all(np.isfinite(scores), 1)
    found = _gaussian_by_scores(draws[sound], scores[sound], np.ones(int(np.sum(sound))))
    return None if found is None else Reference(np.zeros(1), found[0][None], found[1][None])


def refit_by_scores(mixture: Reference, draws: np.ndarray, scores: np.ndarray) -> Reference | None:
    """The mixture with each Gaussian fitted by the scores of the draws that belong to it.

    Where modes do not overlap the score at a draw is that of its mode. A Gaussian mode is then found exactly,
    also by several Gaussians that share it.

    Args:
        mixture: fitted to the draws.
        draws: shape `(n, dim)`.
        scores: `grad log p` there; those that are not finite are left out.

    Returns:
        None where the draws of some Gaussian do not determine it.
    """
    sound = np.all(np.isfinite(scores), 1)
    draws, scores = draws[sound], scores[sound]
    shares = softmax(mixture.log_weights + log_densities(mixture, draws), axis=1)
    found = [_gaussian_by_scores(draws, scores, share) for share in shares.T]
    if any(part is None for part in found):
        return None
    means, whiteners = zip(*found, strict=True)
    return mixture._replace(means=np.stack(means), whiteners=np.stack(whiteners))


def _gaussian_by_scores(
    draws: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and whitener of the Gaussian of least Fisher divergence over weighted draws."""
    total = np.sum(weights)
    if total < _FEWEST:
        return None
    dim, share = draws.shape[1], weights / total
    mean, slope = share @ draws, share @ scores
    scale = np.maximum(np.sqrt(share @ (draws - mean) ** 2), smallest_scales(mean))
    x, a = centred_rows(draws / scale, weights), centred_rows(scores * scale, weights)
    effective = total**2 / np.sum(weights**2)
    try:
        if dim <= DENSE_DIMENSIONS:
            factor = scale[:, None] * dense_factor(x, a, few=effective < 2 * dim, fallback=1.0)
            covariance = factor @ factor.T
            whitener = lower_whitener(np.linalg.inv(covariance))
            mean = mean + covariance @ slope
        else:
            width = scale * diagonal_ratio(x, a, 1.0)
            whitener, mean = 1 / width, mean + width**2 * slope
    except np.linalg.LinAlgError:
        return None
    return (mean, whitener) if np.all(np.isfinite(whitener)) and np.all(np.isfinite(mean)) else None


def fit_mixture(rng: np.random.Generator, points: np.ndarray, components: int) -> Reference:
    r"""A mixture of `components` Gaussians fitted to draws by expectation-maximisation.

    The covariance of a cluster is shrunk towards the diagonal of the pooled scatter `W` within clusters,
    scaled to the cluster's own size `c_k`: `S_k = (n_k C_k + nu c_k W) / (n_k + nu)` with `nu = dim + 2` (the
    mode under an inverse Wishart law) and `c_k` about `tr(W^-1 C_k) / dim`. Therefore the narrow end of a
    funnel stays narrow. Half of the seeds are spread out (k-means++, Arthur and Vassilvitskii 2007), half are
    draws.

    Args:
        rng: of the seeds.
        points: draws, shape `(n, dim)`.
        components: number of Gaussians.
    """
    centre = np.mean(points, 0)
    scale = np.maximum(np.std(points, 0), smallest_scales(centre))
    y = (points - centre) / scale
    seeds = _seeds(rng, y, components)
    distances = np.sum(y**2, 1)[:, None] - 2 * y @ seeds.T + np.sum(seeds**2, 1)
    memberships = np.eye(components)[np.argmin(distances, 1)]
    last = -np.inf
    for _ in range(_SWEEPS):
        mixture = _maximise(y, memberships)
        logits = mixture.log_weights + log_densities(mixture, y)
        totals = log_sum(logits, 1)
        memberships = np.exp(logits - totals[:, None])
        mean = float(np.mean(totals))
        if mean < last + _SETTLED:
            break
        last = mean
    mixture = _maximise(y, memberships)
    # From standardised coordinates back to those of the target.
    return mixture._replace(means=centre + scale * mixture.means, whiteners=mixture.whiteners / scale)


def _seeds(rng: np.random.Generator, y: np.ndarray, components: int) -> np.ndarray:
    """Draws from which clusters begin, every second one far from those before, shape `(components, dim)`."""
    chosen = [y[rng.integers(len(y))]]
    distance = np.full(len(y), np.inf)
    for number in range(1, components):
        distance = np.minimum(distance, np.sum((y - chosen[-1]) ** 2, 1))
        total = np.sum(distance)
        far = number % 2 == 1 and total > 0
        chosen.append(y[rng.choice(len(y), p=distance / total) if far else rng.integers(len(y))])
    return np.stack(chosen)


def _maximise(y: np.ndarray, memberships: np.ndarray) -> Reference:
    """The mixture of largest posterior density for given memberships, shape `(n, components)`."""
    n, dim = y.shape
    prior = dim + 2.0
    counts = np.sum(memberships, 0)
    safe = np.maximum(counts, 1e-3)[:, None]
    means = memberships.T @ y / safe
    variances = np.maximum(memberships.T @ y**2 / safe - means**2, 0)
    within = np.maximum(counts @ variances / n, 1e-6)
    size = (counts * np.sum(variances / within, 1) + _SIZE_PRIOR) / (counts * dim + _SIZE_PRIOR)
    if dim <= DENSE_DIMENSIONS:
        offsets = (y[None] - means[:, None]) * np.sqrt(memberships.T)[:, :, None]
        scatters = offsets.swapaxes(1, 2) @ offsets
        pooled = (prior * size)[:, None, None] * np.diag(within)
        covariances = (scatters + pooled) / (counts + prior)[:, None, None]
        whiteners = np.linalg.inv(np.linalg.cholesky(covariances))
    else:
        weight = (counts / (counts + prior))[:, None]
        whiteners = 1 / np.sqrt(weight * variances + (1 - weight) * size[:, None] * within)
    log_weights = np.log((counts + 1e-3) / np.sum(counts + 1e-3))
    return Reference(log_weights, means, whiteners)


def fit_product(rng: np.random.Generator, points: np.ndarray) -> AxisMixtures:
    """A mixture of `AXIS_COMPONENTS` Gaussians on each axis, fitted to draws of shape `(n, dim)`."""
    fits = [fit_mixture(rng, column[:, None], AXIS_COMPONENTS) for column in points.T]
    return AxisMixtures(
        np.stack([fit.log_weights for fit in fits]),
        np.stack([fit.means[:, 0] for fit in fits]),
        np.stack([1 / fit.whiteners[:, 0, 0] for fit in fits]),
    )
