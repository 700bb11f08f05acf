"""The discrete latent sites of a model as one position: which they are, how many states each entry has."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.handlers import seed, substitute
from numpyro.infer import DiscreteGibbs
from numpyro.infer.gibbs import conditioned, prototype_trace, with_conditioning
from numpyro.infer.util import potential_energy

from qdesampler.infer.model.start_checks import is_subsampled
from qdesampler.validation import is_traced

__all__ = ["DiscreteSites", "TracedSites", "trace_sites"]


class DiscreteSites(NamedTuple):
    """Shapes and supports; nothing in it is traced.

    A position has an entry for each entry of the sites that has two states or more, `0, ..., q - 1`; the
    values of a site are `first + 0, ..., first + q - 1`.

    Attributes:
        names: of the sites, sorted.
        shapes: of each site's value.
        dtypes: of each site's value.
        first: least value of every entry, all sites together, shape `(m,)`.
        free: the entries with two states or more, shape `(n,)`.
        num_states: how many states each of these has, `n` numbers.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    first: np.ndarray
    free: np.ndarray
    num_states: tuple[int, ...]

    def position(self, z: Mapping[str, jax.Array]) -> jax.Array:
        """The position of values, int32, shape `(n,)`."""
        flat, _ = ravel_pytree({name: jnp.asarray(z[name]).astype(jnp.int32) for name in self.names})
        return (flat - self.first)[self.free]

    def positions(self, z: Mapping[str, Any]) -> jax.Array:
        """The positions of values with rows in front, shape `(R, n)`.

        Raises:
            ValueError: a site is missing.
        """
        missing = sorted(set(self.names) - set(z))
        if missing:
            raise ValueError(f"there are no values of {missing}; the discrete sites are {list(self.names)}.")
        return jax.vmap(self.position)({name: jnp.asarray(z[name]) for name in self.names})

    def values(self, position: jax.Array) -> dict[str, jax.Array]:
        """The values of a position; of real numbers, which derivatives need, real ones."""
        real = jnp.issubdtype(position.dtype, jnp.floating)
        kind = position.dtype if real else jnp.int32
        flat = jnp.asarray(self.first, kind).at[self.free].add(position.astype(kind))
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        parts = jnp.split(flat, ends[:-1].tolist())
        return {
            name: part.reshape(shape) if real else part.reshape(shape).astype(dtype)
            for name, part, shape, dtype in zip(self.names, parts, self.shapes, self.dtypes, strict=True)
        }

    def log_density(self, potential: Callable) -> Callable[[jax.Array], jax.Array]:
        """`f` of a position from the potential energy of values."""
        return lambda position: -jnp.asarray(potential(self.values(position)), jnp.result_type(float))

    def check_values(self, z: Mapping[str, Any]) -> None:
        """Refuse values outside the supports, of a single chain or with chains in front.

        Raises:
            ValueError: a site that is not one of these, or a value that it cannot have.
        """
        unknown = sorted(set(z) - set(self.names))
        if unknown:
            raise ValueError(f"init_params names {unknown}; the discrete sites are {list(self.names)}.")
        most = self.first.copy()
        most[self.free] += np.asarray(self.num_states) - 1
        ends = np.cumsum([0, *(int(np.prod(shape)) for shape in self.shapes)])
        for name, begin, end, shape in zip(self.names, ends[:-1], ends[1:], self.shapes, strict=True):
            if name not in z or is_traced(z[name]):
                continue
            given = np.asarray(z[name])
            least, largest = self.first[begin:end].reshape(shape), most[begin:end].reshape(shape)
            if given.shape[given.ndim - len(shape) :] != shape:
                raise ValueError(f"init_params[{name!r}] has shape {given.shape}, the site has {shape}.")
            if np.any((given < least) | (given > largest) | (given != np.floor(given))):
                raise ValueError(
                    f"init_params[{name!r}] has values outside of {least.min()}, ..., {largest.max()}."
                )


class TracedSites(NamedTuple):
    """A model after one trace.

    Attributes:
        sites: its discrete latent sites.
        prepared: the model with its parameters as they were initialised; takes conditioning values.
        enumerating: where other sites are summed over, NumPyro's kernel that does so.
    """

    sites: DiscreteSites
    prepared: Callable
    enumerating: DiscreteGibbs | None

    def potential(self, model_args: Sequence[Any], model_kwargs: dict[str, Any] | None) -> Callable:
        """`-log p` of the sites' values for these arguments and this conditioning."""
        if self.enumerating is not None:
            return self.enumerating.get_potential_fn(tuple(model_args), model_kwargs)

        def energy(z):
            kwargs = with_conditioning(model_kwargs, z)
            return potential_energy(self.prepared, tuple(model_args), kwargs, {})

        return energy


def trace_sites(
    model: Callable, rng_key: jax.Array, model_args: Sequence[Any], model_kwargs: dict[str, Any]
) -> TracedSites:
    """Trace a model once; sites to enumerate are left to NumPyro, which sums over them.

    Raises:
        ValueError: no discrete latent site, a continuous one that nothing conditions, a support that cannot
            be enumerated or has event dimensions, or a subsampled plate.
    """
    run = conditioned(model)
    trace = prototype_trace(run, rng_key, tuple(model_args), model_kwargs)
    enumerated = [site for site in trace.values() if _is_latent(site) and _is_enumerated(site)]
    latent = {name: site for name, site in trace.items() if _is_latent(site) and not _is_enumerated(site)}
    continuous = [name for name, site in latent.items() if not site["fn"].support.is_discrete]
    if continuous:
        raise ValueError(
            f"AnnealerGibbs samples discrete latent sites; {continuous} are continuous. Make it a block: "
            "Gibbs([(AnnealerGibbs(model), discrete_latent_sites), (NUTS(model), None)])."
        )
    if not latent:
        raise ValueError("the model has no discrete latent site to sample (sites to enumerate do not count).")
    subsampled = [name for name, site in trace.items() if is_subsampled(site)]
    if subsampled:
        raise ValueError(f"AnnealerGibbs does not take subsampled plates; the model has {subsampled}.")
    names = tuple(sorted(latent))
    least, sizes = [], []
    for name in names:
        first, count = _support(name, latent[name])
        shape = jnp.shape(latent[name]["value"])
        least.append(np.full(int(np.prod(shape)), first, np.int32))
        sizes.append(np.full(int(np.prod(shape)), count))
    counts = np.concatenate(sizes)
    sites = DiscreteSites(
        names,
        tuple(jnp.shape(latent[name]["value"]) for name in names),
        tuple(jnp.result_type(latent[name]["value"]) for name in names),
        np.concatenate(least),
        np.flatnonzero(counts > 1),
        tuple(int(count) for count in counts if count > 1),
    )
    params = {name: site["value"] for name, site in trace.items() if site["type"] in ("param", "mutable")}
    prepared = seed(substitute(run, data=params), jax.random.key(0))
    summing = _with_enumeration(model, rng_key, model_args, model_kwargs, sites) if enumerated else None
    return TracedSites(sites, prepared, summing)


def _is_latent(site: dict[Any, Any]) -> bool:
    return site["type"] == "sample" and not site["is_observed"]


def _is_enumerated(site: dict[Any, Any]) -> bool:
    return site["infer"].get("enumerate", "") == "parallel"


def _with_enumeration(
    model: Callable, rng_key, model_args, model_kwargs, sites: DiscreteSites
) -> DiscreteGibbs:
    """NumPyro's own kernel, for its potential: it sums over the sites to enumerate."""
    kernel = DiscreteGibbs(model)
    try:
        kernel.init(rng_key, 0, None, tuple(model_args), model_kwargs)
    except NotImplementedError as error:
        raise ValueError(
            "beside sites to enumerate, NumPyro takes discrete sites in plates only, not with to_event: one "
            f"of {list(sites.names)} has it."
        ) from error
    return kernel


def _support(name: str, site: dict[Any, Any]) -> tuple[int, int]:
    """Least value and number of values of a site."""
    law = site["fn"]
    base = law
    while hasattr(base, "base_dist"):
        base = base.base_dist
    if not base.has_enumerate_support:
        raise ValueError(
            f"the support of {name!r} ({type(base).__name__}) cannot be enumerated; annealers need sites of "
            "finitely many states. Truncate it to a Categorical, or give the site to another block of Gibbs."
        )
    if base.event_shape:
        raise ValueError(
            f"{name!r} ({type(base).__name__}) has event dimensions {base.event_shape}: its support ties "
            "entries to one another. Write it as a Categorical."
        )
    with jax.ensure_compile_time_eval():
        values = base.enumerate_support(expand=False)
    if is_traced(values):
        raise ValueError(f"the support of {name!r} depends on traced values; the states must be known.")
    numbers = np.ravel(np.asarray(values))
    if np.any(np.diff(numbers) != 1):
        raise ValueError(f"the support of {name!r} must be consecutive integers, got {numbers[:8]}.")
    return int(numbers[0]), numbers.size
