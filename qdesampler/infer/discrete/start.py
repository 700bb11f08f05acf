"""Where chains of discrete sites begin: given values, or draws from the prior with a finite density."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.gibbs import conditioned, prototype_trace

from qdesampler.infer.discrete.sites import DiscreteSites
from qdesampler.infer.discrete.surrogate import Learned
from qdesampler.infer.model.evaluation import is_batched
from qdesampler.kernels.discrete.outcomes import finite_or_low
from qdesampler.validation import is_traced

__all__ = ["find_start", "where_explored"]

_TRIES = 100  # draws from the prior before the search for a finite density is given up


def find_start(
    model: Callable,
    sites: DiscreteSites,
    potential: Callable,
    keys: jax.Array,
    init_params: Mapping[str, Any] | None,
    model_args: Sequence[Any],
    model_kwargs: dict[str, Any],
) -> tuple[dict[str, jax.Array], jax.Array, int]:
    """Return values, potential energies and the evaluations made for each chain.

    Sites that `init_params` leaves out are drawn from the prior, up to 100 times while the density is not
    finite. While JAX is tracing they are drawn once, and a chain may then start where the density is 0.

    Raises:
        ValueError: values that the sites cannot have.
        RuntimeError: no position with a finite density was found.
    """
    batched, given = is_batched(keys), dict(init_params or {})
    sites.check_values(given)

    def draw(key):
        trace = prototype_trace(conditioned(model), key, tuple(model_args), model_kwargs)
        return {name: jnp.asarray(trace[name]["value"]) for name in sites.names}

    @jax.jit  # compiled whole: dispatched operation by operation it would take seconds
    def attempt(keys):
        drawn = (jax.vmap(draw) if batched else draw)(keys)
        z = {name: jnp.asarray(given.get(name, drawn[name]), drawn[name].dtype) for name in sites.names}
        energy = (jax.vmap(potential) if batched else potential)(z)
        return z, -finite_or_low(-jnp.asarray(energy, jnp.result_type(float)))

    z, energy = attempt(keys)
    tries = 1
    if is_traced(energy):
        return z, energy, tries
    complete = set(given) >= set(sites.names)
    fold = jax.vmap(jax.random.fold_in, (0, None)) if batched else jax.random.fold_in
    while not bool(jnp.all(jnp.isfinite(energy))) and tries < (1 if complete else _TRIES):
        z, energy = _better((z, energy), attempt(fold(keys, tries)))
        tries += 1
    if not bool(jnp.all(jnp.isfinite(energy))):
        where = "init_params have" if complete else f"{tries} draws from the prior had"
        raise RuntimeError(
            f"{where} no position with a finite density; give one as init_params, values of "
            f"{list(sites.names)}."
        )
    return z, energy, tries


def _better(old, new):
    """The old start of every chain whose density is finite there, else the new one."""
    keep = jnp.isfinite(old[1])
    return jax.tree.map(
        lambda a, b: jnp.where(keep.reshape(keep.shape + (1,) * (a.ndim - keep.ndim)), a, b), old, new
    )


def where_explored(
    learned: Learned, sites: DiscreteSites, z: dict[str, jax.Array], energy: jax.Array, batched: bool
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Return the ends of the chains that explored as starts, repeated if there are more; else `z`, `energy`.

    Moves that prefer uncertain sites would take long to bring a draw from the prior to where these are.
    """
    if learned.ends is None or learned.values is None:
        return z, energy
    if not batched:
        return sites.values(learned.ends[0]), -learned.values[0].astype(energy.dtype)
    rows = np.arange(energy.shape[0]) % learned.ends.shape[0]
    return jax.vmap(sites.values)(learned.ends[rows]), -learned.values[rows].astype(energy.dtype)
