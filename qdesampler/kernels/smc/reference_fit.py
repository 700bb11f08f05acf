r"""The reference fitted to particles: their Gaussian ground states, and the modes that they missed.

All populations are fitted together, so that a mode which one of them lost is found in another. Held-out
particles choose between the candidates by the mean `log q`: the prior reference; one Gaussian (from the
scatter of the particles, or from their scores, for which few suffice); an autoregressive Gaussian; mixtures
of Gaussians; the product of one-dimensional mixtures. Three of four populations fit and the fourth chooses;
of a single population every other particle chooses. Particles of large `log p/q` get components of their own,
and so do modes that descents found and the particles missed. The prior reference stays in the mixture.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.paths.path import TemperingPath
from qdesampler.kernels.references import reference as references
from qdesampler.kernels.references.autoregressive import fit_autoregressive
from qdesampler.kernels.references.mixture_fit import fit_by_scores, fit_mixture, fit_product
from qdesampler.kernels.references.mode_search import (
    MAX_MISSED_MODES,
    ModeSearch,
    descend_from,
    starts_from_low_weights,
    starts_of_descents,
)
from qdesampler.kernels.references.reference import (
    AUTOREGRESSIVE_DIMENSIONS,
    AUTOREGRESSIVE_PART,
    DENSE_DIMENSIONS,
    PRODUCT_PART,
    Reference,
    squared_radius,
)
from qdesampler.kernels.references.tail_components import MAX_TAIL_COMPONENTS, cover_tails
from qdesampler.kernels.smc.persistent_sampling import Particles, log_mean_weight, target_log_weights
from qdesampler.numerics.importance_weights import resample
from qdesampler.numerics.types import ValueAndScore

__all__ = [
    "AUTOREGRESSIVE",
    "PRODUCT",
    "FittedReference",
    "fit_reference",
    "log_mass_outside",
    "mode_reference",
    "num_slots",
    "with_reference",
]

PRODUCT, AUTOREGRESSIVE = -1, -2  # values of `FittedReference.components` for references that are no mixtures
_FEW, _MEDIUM, _MANY = 4, 16, 64  # Gaussians of a mixture: in many dimensions, in any, in few dimensions
_MANY_DIMENSIONS = 16  # dimensions up to which mixtures of `_MANY` Gaussians are tried
_LOW_WEIGHT_PARTICLES = 4096  # particles of any weight among which further starts of descents are chosen
_DRAWS = 4  # particles that a fit uses, over the size of a population
PRIOR_WEIGHT = 0.05  # weight of the prior reference in a fitted one
COVERAGE = 6.0  # standard deviations of a Gaussian's squared distance within which it covers a particle


class FittedReference(NamedTuple):
    """A reference and how it came about.

    Attributes:
        reference: the mixture.
        components: number of Gaussians chosen; 0 if the prior reference stays, or `PRODUCT` or
            `AUTOREGRESSIVE`.
        uncovered: fraction of held-out particles that no component covers.
        missed_mass: Laplace mass of modes that descents found and particles missed, over the target's mass.
        unimodal: whether all descents ended in one mode.
        num_evals: evaluations spent.
    """

    reference: Reference
    components: jax.Array
    uncovered: jax.Array
    missed_mass: jax.Array
    unimodal: jax.Array
    num_evals: jax.Array


class _Slots(NamedTuple):
    """Indices of Gaussians in a reference with `num_slots` of them; those before `tails` hold the mixture.

    Attributes:
        tails: the first of the tail components.
        modes: the first of the missed modes.
        prior: the prior reference, which is last.
    """

    tails: int
    modes: int
    prior: int


class _Pool(NamedTuple):
    """The particles of all populations on one axis.

    Attributes:
        points: shape `(points, dim)`.
        scores: `grad log p`, shape `(points, dim)`.
        log_weights: under the target; each population has the same total.
        log_densities: `log p`, unnormalised.
        log_z: log of the mean evidence of the populations.
    """

    points: jax.Array
    scores: jax.Array
    log_weights: jax.Array
    log_densities: jax.Array
    log_z: jax.Array


class _Draws(NamedTuple):
    """Equally weighted draws of the target, resampled from the particles."""

    points: jax.Array
    scores: jax.Array
    log_densities: jax.Array


class _SplitDraws(NamedTuple):
    """Draws by their use.

    Attributes:
        judging: held-out draws, shape `(draws, dim)`.
        every: draws of all particles.
        fitting: draws of the particles that are not held out, and `every`, stacked.
    """

    judging: jax.Array
    every: _Draws
    fitting: _Draws


def num_slots(dim: int) -> int:
    """Number of Gaussians that a reference in `dim` dimensions may have."""
    mixture = _MANY if dim <= _MANY_DIMENSIONS else _MEDIUM
    return mixture + MAX_TAIL_COMPONENTS + MAX_MISSED_MODES + 1


def _slots(reference: Reference) -> _Slots:
    size = reference.log_weights.size
    modes = size - 1 - MAX_MISSED_MODES
    return _Slots(tails=modes - MAX_TAIL_COMPONENTS, modes=modes, prior=size - 1)


def with_reference(particles: Particles, reference: Reference, path: TemperingPath) -> Particles:
    """The same particles with `log q` of another reference; their weights stay the same."""
    replicas = particles.replicas
    log_q, score = jax.vmap(lambda x: path.log_reference(x, reference))(replicas.position)
    features = replicas.features.at[:, 0].set(log_q)
    return particles._replace(
        replicas=replicas._replace(
            features=features, feature_scores=replicas.feature_scores.at[:, 0].set(score)
        )
    )


def fit_reference(
    key: jax.Array,
    particles: Particles,
    evaluate: ValueAndScore,
    prior_reference: Reference,
    path: TemperingPath,
    *,
    with_mixtures: bool = True,
    search_modes: jax.Array | bool = True,
) -> FittedReference:
    """Fit a reference to populations of particles that have reached the target.

    Args:
        key: JAX key.
        particles: finished runs, leading axis `populations`.
        evaluate: `x -> (log p, grad log p)`.
        prior_reference: where the first of these runs started, with `num_slots(dim)` components.
        path: path of these runs.
        with_mixtures: try mixtures and the product; else single Gaussians only.
        search_modes: search for missed modes by descents.
    """
    key_draws, key_fit, key_low = jax.random.split(key, 3)
    dim = prior_reference.means.shape[1]
    pool = _pooled(particles, path, dim)
    draws = _split_draws(key_draws, pool, particles)
    reference, components, covered = _best_candidate(key_fit, draws, prior_reference, with_mixtures)
    missed_mass, unimodal = jnp.zeros(()), jnp.zeros((), bool)
    evals, slots = jnp.zeros((), int), _slots(prior_reference)
    points_only = path.slices == 1
    if with_mixtures and dim <= DENSE_DIMENSIONS and points_only:
        every = draws.every
        reference, evals = jax.lax.cond(
            components != 0,
            lambda q: cover_tails(q, slots.tails, every.points, every.log_densities, pool.log_z, evaluate),
            lambda q: (q, evals),
            reference,
        )
    if dim <= DENSE_DIMENSIONS:
        populations = particles.num_stages.size

        def searched():
            starts = starts_of_descents(pool.points.reshape(populations, -1, dim), draws.every.points)
            if with_mixtures and points_only:
                low = _low_weight_starts(key_low, pool, reference, prior_reference)
                starts = jnp.concatenate([starts, low])
            return descend_from(
                starts, pool.points, pool.log_weights, pool.log_z, draws.every.points, evaluate
            )

        def skipped():
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(searched))

        found: ModeSearch = jax.lax.cond(search_modes, searched, skipped)
        evals, missed_mass, unimodal = evals + found.num_evals, found.missed_mass, found.unimodal
        for k in range(MAX_MISSED_MODES):
            whitener = jnp.where(search_modes, found.whiteners[k], prior_reference.whiteners[0])
            reference = references.add_component(
                reference, slots.modes + k, found.means[k], whitener, found.missed_masses[k]
            )
    prior_weight = jnp.where(components == 0, 0, PRIOR_WEIGHT)
    is_mixture = (components != 0) | (missed_mass > 0)
    prior_weight = jnp.where(is_mixture, jnp.maximum(prior_weight, PRIOR_WEIGHT), 0)
    reference = _with_prior(reference, prior_reference, prior_weight)
    return FittedReference(reference, components, 1 - covered, missed_mass, unimodal, evals)


def mode_reference(fit: FittedReference, prior_reference: Reference) -> Reference:
    """The Gaussian at the first mode that descents found, and the prior reference."""
    off = jnp.full_like(references.log_weights_of(prior_reference), -jnp.inf)
    mode = references.with_log_weights(fit.reference, off.at[_slots(prior_reference).modes].set(0))
    return _with_prior(mode, prior_reference, jnp.asarray(PRIOR_WEIGHT))


def log_mass_outside(particles: Particles, path: TemperingPath, reference: Reference) -> jax.Array:
    """Log of the target's unnormalised mass that no component of `reference` but the prior one covers."""
    log_weights = reference.log_weights.at[_slots(reference).prior].set(-jnp.inf)
    without_prior = reference._replace(log_weights=log_weights)

    def one(particles):
        points = jax.vmap(lambda x: path.point(x, reference.means.shape[1]))(particles.replicas.position)
        covered = _covered(without_prior, points)
        weights = jnp.where(covered, -jnp.inf, target_log_weights(particles, path))
        used = particles.num_stages * (weights.size // particles.betas.size)
        return log_mean_weight(weights, used)

    values = jax.vmap(one)(particles)
    return log_mean_weight(values, values.size)


def _pooled(particles: Particles, path: TemperingPath, dim: int) -> _Pool:
    """The particles of all populations, each population with the same total weight.

    Weighted by evidence, which is uncertain by nats in many dimensions, one population would dominate.
    """
    points = jax.vmap(jax.vmap(lambda x: path.point(x, dim)))(particles.replicas.position)
    scores = particles.replicas.feature_scores[:, :, 1, :dim]
    weights = jax.vmap(lambda one: target_log_weights(one, path))(particles)
    populations, size = weights.shape
    totals = jax.nn.logsumexp(weights, axis=1)
    log_z = totals - jnp.log(particles.num_stages * (size // particles.betas.shape[1]))
    equal = weights - jnp.where(jnp.isfinite(totals), totals, 0)[:, None]
    mean_log_z = log_mean_weight(log_z, populations)
    return _Pool(
        points=points.reshape(-1, dim),
        scores=scores.reshape(-1, dim),
        log_weights=equal.reshape(-1),
        log_densities=particles.replicas.features[:, :, 1].reshape(-1),
        log_z=mean_log_z,
    )


def _split_draws(key: jax.Array, pool: _Pool, particles: Particles) -> _SplitDraws:
    """Draws that fit and draws that judge: every fourth population judges, or every other particle of one."""
    size, populations = pool.log_weights.size, particles.num_stages.size
    per_population = size // populations
    count = _DRAWS * per_population // particles.betas.shape[1] * min(populations, 2)
    owner = jnp.arange(size) // (per_population if populations > 1 else 1)
    judges = owner % min(max(populations, 2), 4) == 0

    def drawn(key, mask):
        chosen = resample(key, jnp.where(mask, pool.log_weights, -jnp.inf), count)
        return _Draws(pool.points[chosen], pool.scores[chosen], pool.log_densities[chosen])

    keys = jax.random.split(key, 3)
    judging, every = drawn(keys[0], judges), drawn(keys[1], jnp.ones_like(judges))
    fitting = jax.tree.map(lambda *leaves: jnp.stack(leaves), drawn(keys[2], ~judges), every)
    return _SplitDraws(judging.points, every, fitting)


def _best_candidate(
    key: jax.Array, draws: _SplitDraws, prior_reference: Reference, with_mixtures: bool
) -> tuple[Reference, jax.Array, jax.Array]:
    """The candidate of largest mean `log q` over the held-out draws.

    Returns:
        The reference fitted to all draws, its `components`, and the fraction of held-out draws it covers.
    """
    sizes = _mixture_sizes(draws.judging.shape[1], with_mixtures)

    def fit(draws):
        found = _candidates(key, draws, prior_reference, sizes, with_mixtures)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)

    # One program for both: the fits that are judged, and those to all draws that are used.
    candidates = jax.vmap(fit)(draws.fitting)  # leaves (judged or used, candidate, ...)

    def judge(reference):
        densities = jax.vmap(lambda x: references.log_density(reference, x))(draws.judging)
        value = jnp.mean(densities)
        value = jnp.where(jnp.isfinite(value), value, -jnp.inf)
        return value, jnp.mean(_covered(reference, draws.judging))

    likelihoods, covers = jax.vmap(judge)(jax.tree.map(lambda leaf: leaf[0], candidates))
    best = jnp.argmax(likelihoods)
    covered = covers[best]
    chosen: Reference = jax.tree.map(lambda leaf: leaf[1, best], candidates)
    sound = jnp.all(jnp.stack([jnp.all(~jnp.isnan(leaf)) for leaf in jax.tree.leaves(chosen)]))
    chosen = jax.tree.map(lambda a, b: jnp.where(sound, a, b), chosen, prior_reference)
    kinds = _kinds(draws.judging.shape[1], sizes, with_mixtures)
    return chosen, jnp.where(sound, jnp.asarray(kinds)[best], 0), covered


def _mixture_sizes(dim: int, with_mixtures: bool) -> list[int]:
    """Numbers of Gaussians of the mixtures that are tried."""
    if not with_mixtures:
        return [1]
    return [1, _MEDIUM, _MANY] if dim <= _MANY_DIMENSIONS else [1, _FEW, _MEDIUM]


def _kinds(dim: int, sizes: list[int], with_mixtures: bool) -> list[int]:
    """`FittedReference.components` of each of `_candidates`."""
    autoregressive = [AUTOREGRESSIVE] if dim <= AUTOREGRESSIVE_DIMENSIONS else []
    return [0, 1, *sizes, *autoregressive, *([PRODUCT] if with_mixtures else [])]


def _candidates(
    key: jax.Array, draws: _Draws, prior_reference: Reference, sizes: list[int], with_mixtures: bool
) -> list[Reference]:
    """The prior reference and the references fitted to draws, all with the slots of `prior_reference`."""
    dim = draws.points.shape[1]
    keys = jax.random.split(key, len(sizes) + 1)

    def padded(mixture):
        extra = prior_reference.log_weights.size - mixture.log_weights.size

        def pad(leaf, value):
            return jnp.concatenate([leaf, value(leaf)])

        return prior_reference._replace(
            log_weights=pad(mixture.log_weights, lambda leaf: jnp.full((extra,), -jnp.inf, leaf.dtype)),
            means=pad(mixture.means, lambda leaf: jnp.repeat(leaf[-1:], extra, 0)),
            whiteners=pad(mixture.whiteners, lambda leaf: jnp.repeat(leaf[-1:], extra, 0)),
        )

    found = [prior_reference, padded(fit_by_scores(draws.points, draws.scores))]
    found += [padded(fit_mixture(k, draws.points, size)) for k, size in zip(keys[1:], sizes, strict=True)]
    off = jnp.full_like(references.log_weights_of(prior_reference), -jnp.inf)
    if dim <= AUTOREGRESSIVE_DIMENSIONS:
        only = references.with_log_weights(prior_reference, off.at[AUTOREGRESSIVE_PART].set(0))
        found.append(only._replace(autoregressive=fit_autoregressive(draws.points)))
    if with_mixtures:
        only = references.with_log_weights(prior_reference, off.at[PRODUCT_PART].set(0))
        found.append(only._replace(product=fit_product(keys[0], draws.points)))
    return found


def _low_weight_starts(
    key: jax.Array, pool: _Pool, reference: Reference, prior_reference: Reference
) -> jax.Array:
    """Starts of descents among particles of any weight, of all stages."""
    uniform = jnp.where(jnp.isfinite(pool.log_weights), 0.0, -jnp.inf)
    chosen = resample(key, uniform, min(_LOW_WEIGHT_PARTICLES, pool.log_weights.size))
    return starts_from_low_weights(
        _with_prior(reference, prior_reference, jnp.asarray(PRIOR_WEIGHT)),
        pool.points[chosen],
        pool.log_densities[chosen],
        pool.scores[chosen],
        pool.log_z,
    )


def _with_prior(reference: Reference, prior_reference: Reference, weight: jax.Array) -> Reference:
    """The same mixture with the prior reference of weight `weight` in its slot."""
    slot = _slots(reference).prior
    return references.add_component(
        reference, slot, prior_reference.means[0], prior_reference.whiteners[0], weight
    )


def _covered(reference: Reference, points: jax.Array) -> jax.Array:
    """Which points are within `squared_radius(dim, COVERAGE)` of some component in use, shape `(points,)`."""
    dim = points.shape[1]

    def nearest(x):
        return jnp.min(references.squared_distances(reference, x))

    return jax.vmap(nearest)(points) < squared_radius(dim, COVERAGE)
