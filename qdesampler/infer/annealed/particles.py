"""Annealed particles without a ladder: weighted draws of many modes, and the evidence."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer.initialization import init_to_uniform

from qdesampler.infer.annealed.deprecated import renamed_argument
from qdesampler.infer.annealed.evaluation import flat_evaluation
from qdesampler.infer.annealed.evidence import LogEvidence, error_of_populations
from qdesampler.infer.annealed.prior_reference import DEFAULT_SCALE, prior_gaussian
from qdesampler.infer.annealed.search import check_arrival
from qdesampler.infer.model.fingerprint import is_typed_key
from qdesampler.infer.model.prior import prior_moments
from qdesampler.infer.model.target import Target
from qdesampler.kernels.references.path import TemperingPath, path_named
from qdesampler.kernels.references.reference import gaussian_reference
from qdesampler.kernels.smc.persistent_sampling import Annealed, ParticleSettings, anneal
from qdesampler.numerics.evaluator import Evaluator
from qdesampler.numerics.importance_weights import resample
from qdesampler.numerics.log_sums import log_sum
from qdesampler.validation import check_key, check_whole

__all__ = ["AnnealedParticles", "anneal_particles", "anneal_walkers"]


class AnnealedParticles(NamedTuple):
    """The result of `anneal_particles`: `populations` independent ones, each with `points` weighted draws.

    Attributes:
        samples: constrained and deterministic sites (or the pytree of a potential), leaves of shape
            `(populations, points, ...)`.
        log_weights: normalised within each population, shape `(populations, points)`; `-inf` for points
            without weight.
        log_evidence: `log Z` of the potential given and its standard error, in nats.
        by_population: `log Z` of each population, shape `(populations,)`.
        effective_sample_sizes: effective sample size of the weights of each population.
        num_evals: log-density evaluations of all populations.
    """

    samples: Any
    log_weights: np.ndarray
    log_evidence: LogEvidence
    by_population: np.ndarray
    effective_sample_sizes: np.ndarray
    num_evals: int

    def draw(self, rng_key: jax.Array, count: int) -> Any:
        """Equally weighted draws of all populations together, leaves of shape `(count, ...)`.

        Each population is weighted by the evidence that it found.

        Raises:
            ValueError: `count` is not positive.
        """
        if count < 1:
            raise ValueError(f"count is {count}; expected at least 1.")
        weights = (self.log_weights + self.by_population[:, None]).reshape(-1)
        chosen = resample(rng_key, jnp.asarray(weights), count)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[chosen], self.samples)


def anneal_particles(
    model: Callable | None = None,
    potential_fn: Callable | None = None,
    *,
    key: jax.Array,
    model_args: Sequence[Any] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    init_params: Any = None,
    reference: Any = None,
    path: str | TemperingPath = "geometric",
    num_particles: int = 512,
    num_populations: int = 8,
    moves: int = 2,
    max_steps: int = 16,
    forward_mode_differentiation: bool = False,
    num_walkers: int | None = None,
) -> AnnealedParticles:
    r"""Carry populations of particles from the prior reference to the posterior.

    The particles of all `t` stages are kept, weighted by `pi_b(x) / sum_r (1/t) pi_r(x)/Z_r`, which is
    bounded (persistent sampling, Karamanis and Seljak 2025). The evidence is that of the potential as given;
    its error comes from the spread of independent populations.

    Args:
        model: NumPyro model. Exactly one of `model`, `potential_fn` is given.
        potential_fn: `z -> U(z)`, scalar, over any pytree; `init_params` is then required.
        key: JAX key.
        model_args: arguments of the model.
        model_kwargs: keyword arguments of the model.
        init_params: one unconstrained position of the structure that the potential takes.
        reference: as for `AnnealedQDE`.
        path: "geometric", "diffusion" or a path object.
        num_particles: particles of each population, at least 16.
        num_populations: number of populations, at least 2 for an error of the evidence.
        moves: trajectories of each particle at each stage.
        max_steps: most leapfrog steps of a trajectory.
        forward_mode_differentiation: differentiate forwards.
        num_walkers: the old name of `num_particles`; deprecated.

    Raises:
        TypeError: `key` is no JAX key.
        ValueError: a bad number, reference or start.
        RuntimeError: particles that never saw a finite density or did not arrive.
    """
    if num_walkers is not None:
        num_particles = renamed_argument("num_walkers", "num_particles", num_walkers)
    check_whole("num_particles", num_particles, 16)
    check_whole("num_populations", num_populations, 2)
    check_whole("moves", moves, 1)
    check_whole("max_steps", max_steps, 1)
    check_key("key", key)
    path = path_named(path)
    arguments, keywords = tuple(model_args), dict(model_kwargs or {})
    forward = forward_mode_differentiation
    target = Target(model, potential_fn, None, init_strategy=init_to_uniform, forward_mode=forward)
    key_start, key_prior, key_run = jax.random.split(key, 3)
    start = target.start(key_start, init_params, arguments, keywords)
    flat, unravel = ravel_pytree(start.z)
    if flat.size == 0:
        raise ValueError("The model has no continuous latent site: there is nothing to anneal.")
    potential = target.potential(arguments, keywords)
    evaluate = Evaluator(flat_evaluation(potential, unravel, forward_mode=forward), flat.size)
    if reference is None and model is not None:
        centre, scale = prior_moments(key_prior, model, arguments, keywords, start.z)
    else:
        centre, scale = prior_gaussian(DEFAULT_SCALE if reference is None else reference, flat.size)
    settings = ParticleSettings(
        num_particles=int(num_particles),
        moves=int(moves),
        max_steps=int(max_steps),
        populations=int(num_populations),
    )
    prior = gaussian_reference(np.asarray(centre, float), np.asarray(scale, float))
    annealed = anneal(_generator(key_run), evaluate, prior, path, settings)
    check_arrival(annealed)
    constrain = jax.jit(jax.vmap(jax.vmap(lambda x: target.postprocess(arguments, keywords)(unravel(x)))))
    return _weighted(annealed, constrain, flat.dtype, evaluate.num_evals + start.num_evals)


def _generator(key: jax.Array) -> np.random.Generator:
    """Random numbers of the host from a key."""
    words = np.asarray(jax.random.key_data(key) if is_typed_key(key) else key, np.uint32)
    return np.random.default_rng(words.ravel().tolist())


def _weighted(annealed: Annealed, constrain: Callable, dtype: Any, num_evals: int) -> AnnealedParticles:
    """The particles with normalised weights, in the values that the model's user sees."""
    weights = annealed.target_log_weights
    weights = weights - log_sum(weights, 1)[:, None]
    positions = annealed.particles.positions.reshape(*weights.shape, -1)
    return AnnealedParticles(
        samples=jax.tree.map(np.asarray, constrain(jnp.asarray(positions, dtype))),
        log_weights=weights,
        log_evidence=LogEvidence(*error_of_populations(annealed.log_evidence)),
        by_population=annealed.log_evidence,
        effective_sample_sizes=1 / np.sum(np.exp(2 * weights), axis=1),
        num_evals=num_evals,
    )


def anneal_walkers(*args: Any, num_walkers: int = 512, **kwargs: Any) -> AnnealedParticles:
    """The old name of `anneal_particles`, with `num_walkers` for `num_particles`; deprecated."""
    warnings.warn("anneal_walkers is now called anneal_particles.", DeprecationWarning, stacklevel=2)
    return anneal_particles(*args, num_particles=num_walkers, **kwargs)
