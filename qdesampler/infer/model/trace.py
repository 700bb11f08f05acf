"""A NumPyro model's sites and plates, its likelihood and its predictive draws.

Everything here runs the model's Python function under NumPyro's effect handlers. Nothing here depends on MCMC
or on file formats, so the conversion to ArviZ needs no import of NumPyro.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.handlers import seed, substitute, trace, uncondition
from numpyro.infer import Predictive, init_to_sample
from numpyro.infer import log_likelihood as numpyro_log_likelihood


class Plate(NamedTuple):
    """One plate around a site: its name, its batch dimension (negative, from the right) and its size."""

    name: str
    dim: int
    size: int


class Site(NamedTuple):
    """One site of a model: `kind` is "latent", "observed", "factor" or "deterministic".

    `event_ndim` counts the rightmost axes that belong to one draw of the distribution; it is None for a
    deterministic site, whose model does not state it. `event_dims` are the names that the model gives as
    `infer={"event_dims": [...]}`.
    """

    kind: str
    value: Any
    plates: tuple[Plate, ...]
    event_ndim: int | None
    event_dims: tuple[str, ...]


def model_sites(
    model: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    draw: Mapping[str, Any],
) -> dict[str, Site]:
    """Run the model once and describe its sites.

    Args:
        model: the NumPyro model.
        args: its positional arguments.
        kwargs: its keyword arguments.
        draw: one value for every latent site that has one, shape of a single draw.

    Returns:
        Name to `Site`, in the order of the model. Latent sites that `draw` lacks get a value of their prior.
    """

    def fill(site: dict[str, Any]) -> Any:
        if site["type"] == "sample" and site["name"] not in draw:
            return init_to_sample(site)
        return draw.get(site["name"]) if site["type"] == "sample" and not site["is_observed"] else None

    described = trace(substitute(seed(model, jax.random.key(0)), substitute_fn=fill)).get_trace(
        *args, **kwargs
    )
    return {
        name: _describe(site)
        for name, site in described.items()
        if site["type"] in ("sample", "deterministic")
    }


def _describe(site: Mapping[str, Any]) -> Site:
    plates = tuple(
        Plate(frame.name, frame.dim, frame.size)
        for frame in sorted(site.get("cond_indep_stack", ()), key=lambda frame: frame.dim)
    )
    if site["type"] == "deterministic":
        return Site("deterministic", site["value"], plates, None, ())
    if not site["is_observed"]:
        kind = "latent"
    elif isinstance(_base(site["fn"]), dist.Unit):
        kind = "factor"
    else:
        kind = "observed"
    event_dims = tuple((site.get("infer") or {}).get("event_dims", ()))
    return Site(kind, site["value"], plates, len(site["fn"].event_shape), event_dims)


def _base(distribution: Any) -> Any:
    while isinstance(distribution, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


def argument_arrays(
    model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Arrays among the model's arguments, under the names of the model's signature.

    Args:
        model: the NumPyro model, possibly wrapped in effect handlers.
        args: its positional arguments.
        kwargs: its keyword arguments; names starting with an underscore are NumPyro's own and are left out.

    Returns:
        Name to array. Arrays inside lists, tuples and dictionaries are named by their path, e.g. `data.x`.
        Python numbers, strings and PRNG keys are not arrays.
    """
    function = model
    while isinstance(inner := getattr(function, "fn", None), Callable):
        function = inner
    kwargs = {name: value for name, value in kwargs.items() if not name.startswith("_")}
    try:
        positional = inspect.signature(function).bind_partial(*args).arguments
    except (TypeError, ValueError):  # builtins and decorated functions that hide their signature
        positional = {f"arg{i}": value for i, value in enumerate(args)}
    leaves: dict[str, Any] = {}
    for name, value in {**positional, **kwargs}.items():
        leaves.update(leaf_names(value, prefix=name))
    return {name: np.asarray(leaf) for name, leaf in leaves.items() if _is_data(leaf)}


def _is_data(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array):
        return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf"


def leaf_names(tree: Any, prefix: str) -> dict[str, Any]:
    """Flatten a pytree into name to leaf, e.g. `z.beta.0` for the first entry of the tuple `beta` in `z`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        ".".join(
            part for part in (prefix, jax.tree_util.keystr(path, simple=True, separator=".")) if part
        ): leaf
        for path, leaf in leaves
    }


def pointwise_log_likelihood(
    model: Callable[..., Any],
    draws: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    sites: Mapping[str, Site],
) -> dict[str, Any]:
    """Log likelihood of every observation at every draw, log p(y_n | theta_s).

    `numpyro.handlers.scale` does not enter (a scaled observation is still one observation) and
    `numpyro.factor` sites are left out (a factor is a term of the joint density, it observes nothing).

    Args:
        model: the NumPyro model.
        draws: site name to draws of shape `(chains, draws, *site_shape)`.
        args: the model's positional arguments.
        kwargs: the model's keyword arguments.
        sites: what `model_sites` returned.

    Returns:
        Observed site name to array of shape `(chains, draws, *batch_shape)`.

    Raises:
        ValueError: a latent site has no draws, for instance a discrete one that was summed out.
    """
    _require_all_latent(draws, sites, "log_likelihood")
    values = numpyro_log_likelihood(model, dict(draws), *args, batch_ndims=2, **kwargs)
    return {name: value for name, value in values.items() if sites[name].kind == "observed"}


def posterior_predictive_draws(
    model: Callable[..., Any],
    key: jax.Array,
    draws: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    sites: Mapping[str, Site],
) -> dict[str, Any]:
    """New data at every draw: each observed site is drawn from its distribution instead of being read.

    The model gets its own arguments, data included, so a model that also *conditions* on its data (an
    autoregression) gives one-step-ahead predictions.

    Args:
        model: the NumPyro model.
        key: JAX random key.
        draws: site name to draws of shape `(chains, draws, *site_shape)`.
        args: the model's positional arguments.
        kwargs: the model's keyword arguments.
        sites: what `model_sites` returned.

    Returns:
        Observed site name to array of shape `(chains, draws, *site_shape)`.

    Raises:
        ValueError: a latent site has no draws.
    """
    _require_all_latent(draws, sites, "posterior_predictive")
    observed = [name for name, site in sites.items() if site.kind == "observed"]
    predictive = Predictive(
        uncondition(model), posterior_samples=dict(draws), return_sites=observed, batch_ndims=2
    )
    return predictive(key, *args, **kwargs)


def prior_draws(
    model: Callable[..., Any],
    key: jax.Array,
    num_samples: int,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    sites: Mapping[str, Site],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw parameters and data from the prior.

    Args:
        model: the NumPyro model.
        key: JAX random key.
        num_samples: how many draws.
        args: the model's positional arguments.
        kwargs: the model's keyword arguments.
        sites: what `model_sites` returned.

    Returns:
        Draws of the latent and deterministic sites, and draws of the observed sites; shapes
        `(num_samples, *site_shape)`.

    Raises:
        ValueError: a prior is improper and cannot be drawn from.
    """
    wanted = [name for name, site in sites.items() if site.kind != "factor"]
    predictive = Predictive(uncondition(model), num_samples=num_samples, return_sites=wanted)
    try:
        values = predictive(key, *args, **kwargs)
    except NotImplementedError as error:
        raise ValueError(
            "The prior of this model cannot be drawn from: one of its distributions has no `sample` "
            "(ImproperUniform is one). Leave `prior` out, or give the site a proper prior."
        ) from error
    observed = {name: values.pop(name) for name, site in sites.items() if site.kind == "observed"}
    return values, observed


def _require_all_latent(draws: Mapping[str, Any], sites: Mapping[str, Site], wanted: str) -> None:
    missing = [name for name, site in sites.items() if site.kind == "latent" and name not in draws]
    if missing:
        names = ", ".join(map(repr, missing))
        raise ValueError(
            f"{wanted} needs draws of every latent site, and there are none of {names}. "
            f"Discrete sites that were summed out, and sites left out with '~z.name', have no draws: "
            f"collect them, or leave {wanted} out."
        )
