r"""The reference that walkers leave behind: their Gaussian ground states, and what they overlooked.

All populations fit together: a mode that one of them lost is in another. Three of four (half of the walkers,
where there is one) fit, the others choose between the broad reference, one Gaussian (by the walkers' scatter,
or by their scores, which tell it from few), an autoregressive one, mixtures of Gaussians and the product of
one-dimensional mixtures by the mean `log q`. Walkers that are covered too thinly get components of their own,
and modes that descents found and the walkers overlooked become some. A broad leg stays in the mixture.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.paths.path import TemperingPath
from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.autoregressive import fit_autoregressive
from qdesampler.kernels.references.mixture_fit import fit_mixture, fit_product
from qdesampler.kernels.references.mode_search import (
    PEAKS,
    descend_from,
    starts_of_descents,
    starts_where_thin,
)
from qdesampler.kernels.references.reference import (
    AUTOREGRESSIVE_DIMENSIONS,
    DENSE_DIMENSIONS,
    Reference,
    broad,
)
from qdesampler.kernels.references.tail_components import TAILS, cover_tails
from qdesampler.kernels.smc.persistent_sampling import Walkers, target_log_weights
from qdesampler.numerics.importance_weights import resample
from qdesampler.numerics.metric import dense_matrix, fit_metric, identity_metric
from qdesampler.numerics.types import ValueAndScore

__all__ = [
    "AUTOREGRESSIVE",
    "PRODUCT",
    "FittedReference",
    "fit_reference",
    "outside",
    "peak_reference",
    "room_for",
    "with_reference",
]

PRODUCT, AUTOREGRESSIVE = -1, -2  # kinds of references that are no mixtures
_FEW, _MIXTURE, _RICH = 4, 16, 64  # Gaussians of a mixture: in many dimensions, always, in few dimensions
_RICH_DIMENSIONS = 16
_FLANKS = 4096  # walkers of any weight, of all stages, among which starts of descents are chosen
_DRAWS = 4  # walkers per population's size that a fit sees
# Tails, overlooked modes and the broad leg: their (first) places from the end.
_TAILS, _PEAK, _BROAD = TAILS + PEAKS + 1, PEAKS + 1, 1
BROAD_SHARE = 0.05
COVERAGE = 6.0  # of the squared distance from a Gaussian's centre, in its own standard deviations


class FittedReference(NamedTuple):
    """A reference and how it came about.

    Attributes:
        reference: the mixture.
        components: Gaussians chosen, 0 where the broad reference stays, or `PRODUCT` or
            `AUTOREGRESSIVE`.
        uncovered: share of held-out walkers that lie outside all of them.
        hidden_share: mass, by Laplace, of modes that descents found and walkers had not; 0 for none.
        alone: whether all descents ended in one mode.
        num_evals: evaluations spent.
    """

    reference: Reference
    components: jax.Array
    uncovered: jax.Array
    hidden_share: jax.Array
    alone: jax.Array
    num_evals: jax.Array


def room_for(dim: int) -> int:
    """Components that a reference in `dim` dimensions has room for."""
    return (_RICH if dim <= _RICH_DIMENSIONS else _MIXTURE) + _TAILS


def with_reference(walkers: Walkers, reference: Reference, path: TemperingPath) -> Walkers:
    """The same walkers, seen from another reference (their weights stay what they are)."""
    replicas = walkers.replicas
    log_q, score = jax.vmap(lambda x: path.log_reference(x, reference))(replicas.position)
    features = replicas.features.at[:, 0].set(log_q)
    return walkers._replace(
        replicas=replicas._replace(
            features=features, feature_scores=replicas.feature_scores.at[:, 0].set(score)
        )
    )


def _pooled(walkers: Walkers, path: TemperingPath, dim: int) -> tuple[jax.Array, ...]:
    """Points of all populations, the target's scores there, log weights, and the log of the mean evidence.

    Populations count alike: by their evidence, which is uncertain by nats in many dimensions, one would rule.
    """
    points = jax.vmap(jax.vmap(lambda x: path.point(x, dim)))(walkers.replicas.position)
    scores = walkers.replicas.feature_scores[:, :, 1, :dim]
    weights = jax.vmap(lambda one: target_log_weights(one, path))(walkers)
    populations, size = weights.shape
    totals = jax.nn.logsumexp(weights, axis=1)
    log_z = totals - jnp.log(walkers.used * (size // walkers.fractions.shape[1]))
    alike = weights - jnp.where(jnp.isfinite(totals), totals, 0)[:, None]
    mean_log_z = jax.nn.logsumexp(log_z) - jnp.log(populations)
    return points.reshape(-1, dim), scores.reshape(-1, dim), alike.reshape(-1), mean_log_z


def _by_scores(draws: jax.Array, scores: jax.Array) -> Reference:
    """The Gaussian of least Fisher divergence, `m = mean x + S mean a`, known from few draws."""
    dim = draws.shape[1]
    dense = dim <= DENSE_DIMENSIONS
    rank = dim if dense else 0
    usable = jnp.all(jnp.isfinite(scores), 1).astype(draws.dtype)
    kinds = fit_metric(draws, scores, usable, identity_metric(dim, rank), (tuple(range(dim)),), rank)
    covariance = dense_matrix(kinds[2]) if dense else kinds[2].scale ** 2
    total = jnp.maximum(jnp.sum(usable), 1)
    slope = usable @ jnp.where(usable[:, None] > 0, scores, 0) / total
    mean = usable @ draws / total + (covariance @ slope if dense else covariance * slope)
    if not dense:
        whitener = 1 / jnp.sqrt(covariance)
    else:
        factor = jnp.linalg.cholesky(covariance)
        whitener = jax.scipy.linalg.solve_triangular(factor, jnp.eye(dim, dtype=draws.dtype), lower=True)
    return broad(mean, jnp.ones((dim,)), 1)._replace(whiteners=whitener[None])


def _candidates(
    key: jax.Array, draws: jax.Array, scores: jax.Array, wide: Reference, rich: bool
) -> tuple[list[Reference], list[int]]:
    """References fitted to draws, with room as `wide` has it, and their kinds."""
    room, dim = wide.log_weights.size, draws.shape[1]
    sizes = [1]
    if rich:
        sizes += [_MIXTURE, _RICH] if dim <= _RICH_DIMENSIONS else [_FEW, _MIXTURE]
    keys = jax.random.split(key, len(sizes) + 1)

    def padded(mixture):
        extra = room - mixture.log_weights.size

        def pad(leaf, value):
            return jnp.concatenate([leaf, value(leaf)])

        return wide._replace(
            log_weights=pad(mixture.log_weights, lambda leaf: jnp.full((extra,), -jnp.inf, leaf.dtype)),
            means=pad(mixture.means, lambda leaf: jnp.repeat(leaf[-1:], extra, 0)),
            whiteners=pad(mixture.whiteners, lambda leaf: jnp.repeat(leaf[-1:], extra, 0)),
        )

    found = [wide, padded(_by_scores(draws, scores))]
    found += [padded(fit_mixture(k, draws, size)) for k, size in zip(keys[1:], sizes, strict=True)]
    kinds = [0, 1, *sizes]
    off = jnp.full_like(references.log_weights_of(wide), -jnp.inf)
    if dim <= AUTOREGRESSIVE_DIMENSIONS:
        found.append(
            references.with_log_weights(wide, off.at[-1].set(0))._replace(
                autoregressive=fit_autoregressive(draws)
            )
        )
        kinds.append(AUTOREGRESSIVE)
    if rich:
        alone = references.with_log_weights(wide, off.at[-2].set(0))
        found.append(alone._replace(product=fit_product(keys[0], draws)))
        kinds.append(PRODUCT)
    return found, kinds


def fit_reference(
    key: jax.Array,
    walkers: Walkers,
    evaluate: ValueAndScore,
    wide: Reference,
    path: TemperingPath,
    rich: bool = True,
    look: jax.Array | bool = True,
) -> FittedReference:
    """Fit a reference to populations of walkers that have reached the target.

    Args:
        key: JAX key.
        walkers: finished runs, leading axis `populations`.
        evaluate: `x -> (log p, grad log p)`.
        wide: the broad reference of these runs, with room for `room_for(dim)` components.
        path: of these runs.
        rich: try mixtures and the product; else single Gaussians only.
        look: for overlooked modes, by descents.
    """
    key_draws, key_fit, key_flanks = jax.random.split(key, 3)
    dim = wide.means.shape[1]
    points, scores, weights, log_z = _pooled(walkers, path, dim)
    log_densities = walkers.replicas.features[:, :, 1].reshape(-1)
    populations = walkers.used.size
    per_population = weights.size // populations
    count = _DRAWS * per_population // walkers.fractions.shape[1] * min(populations, 2)
    # One population of four judges (every other walker, where there is one population).
    owner = jnp.arange(weights.size) // (per_population if populations > 1 else 1)
    judges = owner % min(max(populations, 2), 4) == 0

    def drawn(key, mask):
        chosen = resample(key, jnp.where(mask, weights, -jnp.inf), count)
        return points[chosen], scores[chosen], log_densities[chosen]

    keys = jax.random.split(key_draws, 3)
    (judging, *_), every = drawn(keys[0], judges), drawn(keys[1], jnp.ones_like(judges))
    # To be judged, and to be used: one program for both.
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), drawn(keys[2], ~judges), every)
    kinds: list[int] = []

    def fitted(draws, scores, _):
        found, names = _candidates(key_fit, draws, scores, wide, rich)
        kinds[:] = names
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)

    candidates = jax.vmap(fitted)(*both)  # leaves (half or all, candidate, ...)

    def judge(reference):
        value = jnp.mean(jax.vmap(lambda x: references.log_density(reference, x))(judging))
        return jnp.where(jnp.isfinite(value), value, -jnp.inf), jnp.mean(_inside(reference, judging))

    likelihoods, covers = jax.vmap(judge)(jax.tree.map(lambda leaf: leaf[0], candidates))
    best = jnp.argmax(likelihoods)
    covered = covers[best]
    chosen: Reference = jax.tree.map(lambda leaf: leaf[1, best], candidates)
    sound = jnp.all(jnp.stack([jnp.all(~jnp.isnan(leaf)) for leaf in jax.tree.leaves(chosen)]))
    chosen = jax.tree.map(lambda a, b: jnp.where(sound, a, b), chosen, wide)
    components = jnp.where(sound, jnp.asarray(kinds)[best], 0)
    share, alone, evals = jnp.zeros(()), jnp.zeros((), bool), jnp.zeros((), int)
    room = wide.log_weights.size
    if rich and dim <= DENSE_DIMENSIONS and path.slices == 1:
        chosen, evals = jax.lax.cond(
            components != 0,
            lambda thin: cover_tails(thin, room - _TAILS, every[0], every[2], log_z, evaluate),
            lambda thin: (thin, evals),
            chosen,
        )
    if dim <= DENSE_DIMENSIONS:

        def looked():
            starts = starts_of_descents(points.reshape(populations, per_population, dim), every[0])
            if rich and path.slices == 1:
                anywhere = jnp.where(jnp.isfinite(weights), 0.0, -jnp.inf)
                flanks = resample(key_flanks, anywhere, min(_FLANKS, weights.size))
                widened = references.add_component(
                    chosen, room - _BROAD, wide.means[0], wide.whiteners[0], jnp.asarray(BROAD_SHARE)
                )
                thin = starts_where_thin(
                    widened, points[flanks], log_densities[flanks], scores[flanks], log_z
                )
                starts = jnp.concatenate([starts, thin])
            return descend_from(starts, points, weights, log_z, every[0], evaluate)

        def nothing():
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(looked))

        ends = jax.lax.cond(look, looked, nothing)
        evals, share, alone = evals + ends.num_evals, ends.share, ends.alone
        for k in range(PEAKS):
            whitener = jnp.where(look, ends.whiteners[k], wide.whiteners[0])
            chosen = references.add_component(
                chosen, room - _PEAK + k, ends.means[k], whitener, ends.shares[k]
            )
    broad_share = jnp.where(components == 0, 0, BROAD_SHARE)
    keep = (components != 0) | (share > 0)
    broad_share = jnp.where(keep, jnp.maximum(broad_share, BROAD_SHARE), 0)
    chosen = references.add_component(chosen, room - _BROAD, wide.means[0], wide.whiteners[0], broad_share)
    return FittedReference(chosen, components, 1 - covered, share, alone, evals)


def peak_reference(fit: FittedReference, wide: Reference) -> Reference:
    """The Gaussian at the top of the mode that descents found, and the broad leg."""
    room = wide.log_weights.size
    top = jnp.full_like(references.log_weights_of(wide), -jnp.inf).at[room - _PEAK].set(0)
    peak = references.with_log_weights(fit.reference, top)
    return references.add_component(
        peak, room - _BROAD, wide.means[0], wide.whiteners[0], jnp.asarray(BROAD_SHARE)
    )


def outside(walkers: Walkers, path: TemperingPath, reference: Reference) -> jax.Array:
    """Log of the target's mass that walkers found outside `reference` (its broad leg aside), unnormalised."""
    room = reference.log_weights.size
    narrow = reference._replace(log_weights=reference.log_weights.at[room - _BROAD].set(-jnp.inf))

    def one(walkers):
        points = jax.vmap(lambda x: path.point(x, reference.means.shape[1]))(walkers.replicas.position)
        weights = jnp.where(_inside(narrow, points), -jnp.inf, target_log_weights(walkers, path))
        used = walkers.used * (weights.size // walkers.fractions.size)
        return jax.nn.logsumexp(weights) - jnp.log(used)

    values = jax.vmap(one)(walkers)
    return jax.nn.logsumexp(values) - jnp.log(values.size)


def _inside(reference: Reference, points: jax.Array) -> jax.Array:
    """Which points are within `COVERAGE` standard deviations' worth of some component in use."""
    dim = points.shape[1]

    def nearest(x):
        return jnp.min(references.squared_distances(reference, x))

    return jax.vmap(nearest)(points) < dim + COVERAGE * jnp.sqrt(2.0 * dim)
