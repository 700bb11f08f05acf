"""A kernel that compiles in a blink, for tests of what runs a kernel rather than of a sampler."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from numpyro.distributions import biject_to
from numpyro.handlers import seed, trace
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import constrain_fn

KEPT = 0.6  # of the distance from the centre, in each step


class WalkState(NamedTuple):
    """State of `GaussianWalk`, with the fields that a driver reads of any kernel."""

    i: jax.Array
    z: Any
    potential_energy: jax.Array
    num_evals: jax.Array
    accept_prob: jax.Array
    diverging: jax.Array
    rng_key: jax.Array


class GaussianWalk(MCMCKernel):
    """Not a sampler of its model: a Gaussian walk around the mean of the model's first argument.

    `x -> m + 0.6 (x - m) + step * noise` in every unconstrained coordinate, from a start that is drawn. Each
    step is counted in `i` and costs three evaluations.
    """

    sample_field = "z"

    def __init__(self, model: Callable, step: float = 0.5):
        """Take the names, shapes and supports of `model`'s sites, and the standard deviation of a step."""
        self.model = model
        self.step = step

    def init(self, rng_key, num_warmup, init_params=None, model_args=(), model_kwargs=None):
        """Draw the start of one chain, or of as many as there are keys."""
        shapes = jax.eval_shape(lambda: self._unconstrained(model_args, model_kwargs or {}))

        def one(key, given):
            key, key_start = jax.random.split(key)
            keys = jax.random.split(key_start, len(shapes))
            drawn = {
                name: jax.random.normal(k, shapes[name].shape) for k, name in zip(keys, shapes, strict=True)
            }
            z = drawn if given is None else given
            return WalkState(jnp.zeros((), int), z, _energy(z), *_counts(), key)

        several = rng_key.ndim > (0 if jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key) else 1)
        return (jax.vmap(one) if several else one)(rng_key, init_params)

    def sample(self, state, model_args, model_kwargs):
        """Take one step."""
        centre = jnp.mean(jnp.asarray(model_args[0])) if model_args else 0.0

        def one(state):
            key, *keys = jax.random.split(state.rng_key, 1 + len(state.z))
            z = {
                name: centre + KEPT * (x - centre) + self.step * jax.random.normal(k, jnp.shape(x))
                for k, (name, x) in zip(keys, sorted(state.z.items()), strict=True)
            }
            return WalkState(state.i + 1, z, _energy(z), *_counts(), key)

        return (jax.vmap(one) if state.i.ndim else one)(state)

    def postprocess_fn(self, model_args, model_kwargs):
        """Return the map from a position to the model's sites, the deterministic ones among them."""
        return lambda z: constrain_fn(
            self.model, model_args, model_kwargs or {}, z, return_deterministic=True
        )

    def _unconstrained(self, args, kwargs):
        sites = trace(seed(self.model, 0)).get_trace(*args, **kwargs).values()
        free = [site for site in sites if site["type"] == "sample" and not site["is_observed"]]
        return {site["name"]: biject_to(site["fn"].support).inv(site["value"]) for site in free}


def _energy(z):
    return 0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(z))


def _counts():
    """Evaluations, acceptance probability and divergence of every step."""
    return jnp.array(3), jnp.array(1.0), jnp.array(False)
