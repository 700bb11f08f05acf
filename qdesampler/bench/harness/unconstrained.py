"""A NumPyro model as a log density over a flat vector, for samplers that know nothing of NumPyro."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer import init_to_uniform
from numpyro.infer.util import initialize_model, unconstrain_fn

from qdesampler.infer import ModelCase

__all__ = ["START_RADIUS", "UnconstrainedTarget", "unconstrain", "unconstrained_target"]

START_RADIUS = 2  # of the box that starts are drawn from, as in NumPyro


@dataclass(frozen=True, eq=False)
class UnconstrainedTarget:
    """The target of NumPyro's own kernels, flat.

    Attributes:
        log_density: scalar function of one point, shape `(dim,)`.
        starts: one point a chain, shape `(chains, dim)`: uniform on (-2, 2), where density and gradient are
            finite.
        dim: length of the vector.
        sites: names of the latent sites.
        constrain: maps points `(chains, draws, dim)` to the values of all sites, deterministic ones too.
    """

    log_density: Callable[[jax.Array], jax.Array]
    starts: jax.Array
    dim: int
    sites: tuple[str, ...]
    constrain: Callable[[Any], dict[str, np.ndarray]]


def unconstrained_target(case: ModelCase, seed: int, chains: int) -> UnconstrainedTarget:
    """The potential that NUTS and QDE see, with NUTS's own starting points for this seed.

    Raises:
        RuntimeError: NumPyro found no point of finite density to start from.
    """
    key = jax.random.key(seed)
    keys = jax.random.split(key, chains) if chains > 1 else key[None]  # as numpyro.infer.MCMC does
    starts = jax.vmap(jax.random.split)(keys)[:, 1]  # as numpyro.infer.HMC.init does
    info = initialize_model(
        starts, case.model, init_strategy=init_to_uniform(radius=START_RADIUS), model_kwargs=case.data
    )
    z = info.param_info.z
    one, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], z))
    postprocess = jax.jit(jax.vmap(jax.vmap(lambda x: info.postprocess_fn(unravel(x)))))

    def log_density(x: jax.Array) -> jax.Array:
        return -info.potential_fn(unravel(x))

    def constrain(x: Any) -> dict[str, np.ndarray]:
        return {site: np.asarray(values) for site, values in postprocess(x).items()}

    flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])(z)
    return UnconstrainedTarget(log_density, flat, one.size, tuple(z), constrain)


def unconstrain(case: ModelCase, samples: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Map constrained draws of the latent sites, `(chains, draws, *event)`, back to the real line."""
    one = jax.vmap(lambda sample: unconstrain_fn(case.model, (), case.data, sample))
    found = jax.jit(jax.vmap(one))(dict(samples))
    return {site: np.asarray(values, np.float64) for site, values in found.items()}
