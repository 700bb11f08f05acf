"""Annealed walkers on their own: weighted draws of many modes and the evidence, without a ladder."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer.initialization import init_to_uniform

from qdesampler.infer.annealed.broad_reference import DEFAULT_SCALE, broad_gaussian
from qdesampler.infer.annealed.evidence import LogEvidence, error_of_populations
from qdesampler.infer.annealed.population import check_arrival, flat_evaluation, path_named
from qdesampler.infer.model.prior import prior_moments
from qdesampler.infer.model.target import Target
from qdesampler.kernels.paths.path import TemperingPath
from qdesampler.kernels.references.reference import broad
from qdesampler.kernels.smc.persistent_sampling import WalkerSettings, run_walkers, target_log_weights
from qdesampler.numerics.importance_weights import resample
from qdesampler.validation import check_key

__all__ = ["AnnealedWalkers", "anneal_walkers"]


class AnnealedWalkers(NamedTuple):
    """What a run of walkers leaves: `populations` independent ones, each with `points` weighted draws.

    Attributes:
        samples: constrained and deterministic sites (or the pytree of a potential), leaves of shape
            `(populations, points, ...)`.
        log_weights: normalised within each population, shape `(populations, points)`; `-inf` for points
            without weight.
        log_evidence: `log Z` of the potential given and its standard error.
        by_population: `log Z` of each population.
        effective_sample_sizes: of the weights of each population.
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

        Populations count by the evidence that they found.

        Raises:
            ValueError: `count` is not positive.
        """
        if count < 1:
            raise ValueError(f"count is {count}; expected at least 1.")
        weights = (self.log_weights + self.by_population[:, None]).reshape(-1)
        chosen = resample(rng_key, jnp.asarray(weights), count)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[chosen], self.samples)


def anneal_walkers(
    model: Callable | None = None,
    potential_fn: Callable | None = None,
    *,
    key: jax.Array,
    model_args: Sequence = (),
    model_kwargs: Mapping[str, Any] | None = None,
    init_params: Any = None,
    reference: Any = None,
    path: str | TemperingPath = "geometric",
    num_walkers: int = 512,
    num_populations: int = 8,
    moves: int = 2,
    max_steps: int = 16,
) -> AnnealedWalkers:
    r"""Carry populations of walkers from a broad Gaussian to the posterior.

    All walkers of all stages stay in play, weighted by `pi_s(x) / sum_r (n_r/n) pi_r(x)/Z_r`, which is
    bounded (persistent sampling, Karamanis and Seljak 2024). The evidence is that of the potential as given;
    its error is read off independent populations.

    Args:
        model: NumPyro model. Exactly one of `model`, `potential_fn` is given.
        potential_fn: `z -> U(z)`, scalar, over any pytree; `init_params` is then required.
        key: JAX key.
        model_args: arguments of the model.
        model_kwargs: its keyword arguments.
        init_params: one unconstrained position of the structure that the potential takes.
        reference: as for `AnnealedQDE`.
        path: "geometric", "diffusion", "path-integral" or a path object.
        num_walkers: in each population, at least 16.
        num_populations: at least 2, so that there is an error.
        moves: trajectories of each walker at each stage.
        max_steps: most leapfrog steps of a trajectory.

    Raises:
        TypeError: `key` is no JAX key.
        ValueError: a bad number, reference or start.
        RuntimeError: walkers that never saw a finite density or did not arrive.
    """
    limits = (("num_walkers", num_walkers, 16), ("num_populations", num_populations, 2))
    for name, value, least in (*limits, ("moves", moves, 1), ("max_steps", max_steps, 1)):
        if isinstance(value, bool) or int(value) != value or value < least:
            raise ValueError(f"{name} is {value}; expected an integer of at least {least}.")
    check_key("key", key)
    route = path_named(path)
    arguments, keywords = tuple(model_args), dict(model_kwargs or {})
    target = Target(model, potential_fn, None, init_strategy=init_to_uniform, forward_mode=False)
    key_start, key_prior, key_run = jax.random.split(key, 3)
    start = target.start(key_start, init_params, arguments, keywords)
    flat, unravel = ravel_pytree(start.z)
    if flat.size == 0:
        raise ValueError("The model has no continuous latent site: there is nothing to anneal.")
    evaluate = flat_evaluation(target.potential(arguments, keywords), unravel)
    if reference is None and model is not None:
        centre, scale = prior_moments(key_prior, model, arguments, keywords, start.z)
    else:
        centre, scale = broad_gaussian(DEFAULT_SCALE if reference is None else reference, flat.size)
    wide = broad(centre, scale, 1)
    settings = WalkerSettings(walkers=int(num_walkers), moves=int(moves), max_steps=int(max_steps))

    def population(key):
        walkers = run_walkers(key, evaluate, wide, route, settings)
        weights = target_log_weights(walkers, route)
        log_z = jax.nn.logsumexp(weights) - jnp.log(walkers.used * num_walkers)
        normalised = weights - jax.nn.logsumexp(weights)
        return walkers._replace(replicas=walkers.replicas.position[:, : flat.size]), normalised, log_z

    walkers, weights, log_z = jax.jit(jax.vmap(population))(jax.random.split(key_run, num_populations))
    check_arrival(walkers)
    stages = int(np.max(np.asarray(walkers.used)))
    points = stages * int(num_walkers)
    postprocess = target.postprocess(arguments, keywords)
    constrain = jax.jit(jax.vmap(jax.vmap(lambda x: postprocess(unravel(x)))))
    samples = jax.tree.map(np.asarray, constrain(walkers.replicas[:, :points]))
    weights = np.asarray(weights)[:, :points]
    log_z = np.asarray(log_z, float)
    value, error = error_of_populations(log_z)
    return AnnealedWalkers(
        samples=samples,
        log_weights=weights,
        log_evidence=LogEvidence(value, error),
        by_population=log_z,
        effective_sample_sizes=1 / np.sum(np.exp(2 * weights.astype(float)), axis=1),
        num_evals=int(np.sum(np.asarray(walkers.num_evals), dtype=np.int64)) + start.num_evals,
    )
