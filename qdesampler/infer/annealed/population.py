"""One pass of annealing: particles, a reference fitted to them, and the choice of a ladder from both."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from qdesampler.infer.model.evaluation import value_and_gradient
from qdesampler.kernels.paths.path import TemperingPath
from qdesampler.kernels.paths.path_integral import PATHS
from qdesampler.kernels.references.mode_search import LARGE_MISSED_MASS
from qdesampler.kernels.references.reference import Reference
from qdesampler.kernels.smc.persistent_sampling import (
    Particles,
    ParticleSettings,
    run_persistent_sampling,
)
from qdesampler.kernels.smc.reference_fit import FittedReference, fit_reference, with_reference
from qdesampler.kernels.tempering.ladder import Ladder, start_ladder
from qdesampler.kernels.tempering.schedule import (
    HIGH_ACCEPTANCE,
    num_rungs_for,
    place_rungs,
    predicted_rejections,
    probe_betas,
    reference_acceptance,
)
from qdesampler.numerics.types import ValueAndScore

__all__ = [
    "MAX_UNCOVERED",
    "AnnealingPass",
    "LadderChoice",
    "PassResult",
    "anneal_and_fit",
    "check_arrival",
    "choose_ladder",
    "flat_evaluation",
    "path_named",
    "start_ladders",
]

MAX_UNCOVERED = 0.1  # fraction of held-out particles that a fitted reference may leave uncovered
_LEAST_GAIN = 0.8  # barrier from the fitted reference over that from the prior one, below which it is taken
_ACCEPTANCE_DRAWS = 128  # draws of the reference, over all chains, that measure its acceptance


class PassResult(NamedTuple):
    """What one pass found for a batch of chains; each chain has a population of its own.

    Attributes:
        particles: the populations, with `log q` of the reference that they started from, leading axis
            `chains`.
        prior_reference: the prior reference.
        fit: the reference fitted to all populations together.
        probes: betas at which rejections were predicted, shape `(chains, probes)`.
        prior_rejections: predicted rejection rates from the prior reference, shape `(chains, probes - 1)`.
        fitted_rejections: predicted rejection rates from the fitted one, shape `(chains, probes - 1)`.
        reference_acceptance: how often draws of the fitted reference would be accepted at the target, shape
            `(chains,)`.
        num_evals: evaluations of particles and fit, shape `(chains,)`.
    """

    particles: Particles
    prior_reference: Reference
    fit: FittedReference
    probes: jax.Array
    prior_rejections: jax.Array
    fitted_rejections: jax.Array
    reference_acceptance: jax.Array
    num_evals: jax.Array

    def reference(self, fitted: Any) -> Reference:
        """The fitted reference if `fitted`, else the prior one."""
        return jax.tree.map(lambda a, b: jnp.where(fitted, a, b), self.fit.reference, self.prior_reference)

    def rejections(self, fitted: Any) -> jax.Array:
        """The predicted rejection rates from `reference(fitted)`."""
        return jnp.where(fitted, self.fitted_rejections, self.prior_rejections)


class AnnealingPass(Protocol):
    """Anneals one population for each key, starting from the reference `init`."""

    def __call__(
        self,
        keys: jax.Array,
        init: Reference,
        settings: ParticleSettings,
        *,
        with_mixtures: bool,
        search_modes: bool,
    ) -> PassResult:
        """See `anneal_and_fit`."""
        ...


class LadderChoice(NamedTuple):
    """Number of rungs, and whether they start from the fitted reference (an array under a transform)."""

    num_rungs: int
    fitted: Any


def anneal_and_fit(
    keys: jax.Array,
    init: Reference,
    settings: ParticleSettings,
    evaluate: ValueAndScore,
    prior_reference: Reference,
    path: TemperingPath,
    *,
    with_mixtures: bool,
    search_modes: jax.Array | bool,
) -> PassResult:
    """Anneal one population for each key, fit one reference to all of them and predict the barriers.

    Args:
        keys: one a chain.
        init: the reference that the particles start from.
        settings: sizes of a population; static.
        evaluate: `x -> (log p, grad log p)`.
        prior_reference: the reference before any fit.
        path: from a reference to the target.
        with_mixtures: see `fit_reference`; static.
        search_modes: see `fit_reference`.
    """
    split = jax.vmap(lambda key: jax.random.split(key, 5))(keys)
    particles = jax.vmap(lambda key: run_persistent_sampling(key, evaluate, init, path, settings))(
        split[:, 0]
    )
    fit = fit_reference(
        split[0, 1],
        particles,
        evaluate,
        prior_reference,
        path,
        with_mixtures=with_mixtures,
        search_modes=search_modes,
    )
    chains = keys.shape[0]
    draws = -(-_ACCEPTANCE_DRAWS // chains)

    def predict(particles, key_prior, key_fitted, key_acceptance):
        probes = probe_betas(particles.betas, particles.num_stages)
        refitted = with_reference(particles, fit.reference, path)
        from_prior = with_reference(particles, prior_reference, path)
        return (
            probes,
            predicted_rejections(key_prior, from_prior, path, probes),
            predicted_rejections(key_fitted, refitted, path, probes),
            reference_acceptance(key_acceptance, refitted, evaluate, fit.reference, path, draws),
        )

    # The evaluations of the fit are divided among the chains, so that the chains' counts sum to the total.
    of_fit = fit.num_evals // chains + (jnp.arange(chains) < fit.num_evals % chains)
    predicted = jax.vmap(predict)(particles, split[:, 2], split[:, 3], split[:, 4])
    evals = particles.num_evals + of_fit + draws * path.slices
    return PassResult(particles, prior_reference, fit, *predicted, evals)


def check_arrival(particles: Any) -> None:
    """Refuse particles that never saw a density or did not reach the target (traced runs are not checked).

    Raises:
        RuntimeError: with what to change.
    """
    if isinstance(particles.num_stages, Tracer):
        return
    at = np.asarray(particles.num_stages)[:, None] - 1
    last = np.take_along_axis(np.asarray(particles.betas), at, axis=1)[:, 0]
    log_z = np.take_along_axis(np.asarray(particles.log_normalisers), at, axis=1)[:, 0]
    if not np.all(np.isfinite(log_z)):
        raise RuntimeError(
            "No particle drawn from the prior reference saw a finite log density, so that there is nothing "
            "to anneal: give reference=(centre, scale) where the density is positive, or raise num_particles."
        )
    if not np.all(last >= 1):
        raise RuntimeError(
            f"The particles reached only beta = {last.min():.3g} of the path in {int(at.max()) + 1} stages: "
            "the reference lies too far from the posterior. Give a closer reference=(centre, scale), or "
            "raise num_particles."
        )


def choose_ladder(
    result: PassResult, reference_kind: str, num_rungs: int | None, max_rungs: int
) -> LadderChoice:
    """Number of rungs and reference, the same for all chains of a batch.

    Two rungs if draws of the fitted reference are accepted often enough; else the number by the barrier.
    Under a transform the number cannot depend on the barrier: it is `num_rungs`, or half of `max_rungs`.

    Args:
        result: of the last pass.
        reference_kind: "auto", "fitted" or "prior".
        num_rungs: number of rungs, or None.
        max_rungs: most rungs that None may choose.
    """
    prior_barrier = result.prior_rejections.sum(-1)
    fitted_barrier = result.fitted_rejections.sum(-1)
    covers = (result.fit.uncovered <= MAX_UNCOVERED) & (result.fit.components != 0)
    covers |= result.fit.missed_mass > LARGE_MISSED_MASS
    accepted = covers & (jnp.mean(result.reference_acceptance) >= HIGH_ACCEPTANCE)
    good = accepted | (covers & (fitted_barrier < _LEAST_GAIN * prior_barrier))
    fitted: Any = {"fitted": True, "prior": False, "auto": None}[reference_kind]
    if isinstance(prior_barrier, Tracer):
        fitted = jnp.all(good) if fitted is None else fitted
        return LadderChoice(num_rungs or max(3, max_rungs // 2), fitted)
    if fitted is None:
        fitted = bool(np.all(good))
    if fitted and bool(accepted):
        return LadderChoice(num_rungs or 2, fitted)
    barrier = float(np.max(fitted_barrier if fitted else prior_barrier))
    return LadderChoice(num_rungs or num_rungs_for(barrier, max_rungs), fitted)


def start_ladders(
    keys: jax.Array,
    result: PassResult,
    choice: LadderChoice,
    path: TemperingPath,
    *,
    num_warmup: int,
    max_steps: int,
) -> Ladder:
    """One ladder for each key, with a leading axis of chains; arguments as for `start_ladder`."""
    reference = result.reference(choice.fitted)

    def start_one(key, particles, probes, rejections):
        return start_ladder(
            key,
            with_reference(particles, reference, path),
            reference,
            path,
            place_rungs(probes, rejections, choice.num_rungs),
            num_warmup=num_warmup,
            max_steps=max_steps,
            missed_mass=result.fit.missed_mass,
            components=jnp.where(choice.fitted, result.fit.components, 0),
        )

    return jax.vmap(start_one)(keys, result.particles, result.probes, result.rejections(choice.fitted))


def path_named(path: str | TemperingPath) -> TemperingPath:
    """The path of a name, or the path itself.

    Raises:
        ValueError: for an unknown name, or an object without `coefficients`.
    """
    if isinstance(path, str):
        if path not in PATHS:
            raise ValueError(f"path is {path!r}; expected one of {sorted(PATHS)}, or a path.")
        return PATHS[path]
    if not hasattr(path, "coefficients"):
        raise ValueError(f"path is a {type(path).__name__}; expected one of {sorted(PATHS)}, or a path.")
    return path


def flat_evaluation(potential: Callable, unravel: Callable, *, forward_mode: bool = False) -> ValueAndScore:
    """`x -> (log p, grad log p)` over flat positions; NaN counts as zero density."""
    evaluate = value_and_gradient(potential, forward_mode=forward_mode)

    def evaluated(x):
        energy, gradient = evaluate(unravel(x))
        return -energy, -ravel_pytree(gradient)[0].astype(x.dtype)

    return evaluated
