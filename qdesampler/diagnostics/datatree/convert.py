"""From a NumPyro run to an ArviZ tree: draws, statistics, data, likelihood, prior and predictions."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
import xarray as xr
from arviz_base import dict_to_dataset

from qdesampler.diagnostics.datatree.dims import SAMPLE_DIMS, AxisNames
from qdesampler.diagnostics.datatree.kernel_answers import kernel_facts
from qdesampler.diagnostics.datatree.sample_stats import evaluations, kernel_settings, sample_stats
from qdesampler.infer.model.field_names import variable_name
from qdesampler.infer.model.trace import (
    Site,
    argument_arrays,
    leaf_names,
    model_sites,
    pointwise_log_likelihood,
    posterior_predictive_draws,
    prior_draws,
)

__all__ = ["complex_parts", "to_datatree"]

Arrays = dict[str, Any]


def to_datatree(
    mcmc: Any,
    *,
    log_likelihood: bool = False,
    prior: int | None = None,
    posterior_predictive: bool = False,
    key: jax.Array | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    attrs: Mapping[str, str | int | float] | None = None,
) -> xr.DataTree:
    """Convert a run to an ArviZ `xarray.DataTree`.

    Groups: `posterior` (every collected site, constrained, including deterministic sites), `sample_stats`
    (the collected fields of the kernel under ArviZ's names: `lp`, `energy`, `acceptance_rate`, `diverging`,
    `step_size`, and `num_evals`), `observed_data`, `constant_data` (array arguments of the model that are not
    observed), and on request `log_likelihood`, `posterior_predictive`, `prior` and `prior_predictive`.
    `lp` is minus the potential energy: the unnormalised log density of the *unconstrained* parameters.

    Axes are named by `dims`, else by the model's plates, else `<site>_dim_<i>`. A '/' in a site's name
    becomes a dot. A complex site becomes two variables, `<site>.real` and `<site>.imag`. Draws of a kernel
    made with `potential_fn` are named `z`, or by their path in the pytree.

    Args:
        mcmc: a `numpyro.infer.MCMC` after `run`, with any kernel.
        log_likelihood: compute log p(y_n | theta_s) for every observation and draw (needs the model).
        prior: number of draws of the prior and the prior predictive to add; None for no such draws.
        posterior_predictive: draw new data at every posterior draw.
        key: JAX random key, required by `prior` and `posterior_predictive`.
        coords: labels of each dimension.
        dims: names of the axes of each site (without chain and draw).
        attrs: facts to add to the attributes of the tree, for instance `{"model": "eight_schools"}`.

    Returns:
        The tree. Its attributes hold the model's and the kernel's name and settings, `num_warmup`,
        `num_samples`, `num_chains`, `thinning`, `seed` (of a run of `qdesampler.MCMC` with the key of a
        seed), `chain_method`, library versions, `created_at`, the facts that the kernel reports, and if they
        are known `warmup_evals` and `sampling_evals` (log-density evaluations of all chains together;
        `sampling_evals_exact` is 0 if thinning dropped some counts and the others were scaled up).

    Raises:
        TypeError: `mcmc` is not a run.
        ValueError: nothing was sampled yet, the model has no latent sites, a request needs a model or a key
            and there is none, or `dims` or `coords` do not fit.
    """
    samples = _samples(mcmc)
    model: Any = getattr(mcmc.sampler, "model", None)
    args, kwargs = mcmc._args, mcmc._kwargs  # as ArviZ's own converter does: MCMC has no public name for them
    _check_requests(model, key, log_likelihood=log_likelihood, prior=prior, predictive=posterior_predictive)
    has_names = isinstance(samples, dict) or hasattr(samples, "_fields")
    draws = leaf_names(samples, prefix="" if has_names else "z")
    sites = _sites(model, args, kwargs, draws)
    order = [*sites, *(samples if isinstance(samples, dict) else ()), *draws]  # that of the model
    draws = {name: draws[name] for name in order if name in draws}

    groups: dict[str, Arrays] = {"posterior": draws, "sample_stats": sample_stats(mcmc)}
    counts = evaluations(mcmc, groups["sample_stats"])
    facts = {**_facts(mcmc, model), **counts, **kernel_facts(mcmc), **(attrs or {})}
    if log_likelihood:
        groups["log_likelihood"] = pointwise_log_likelihood(model, draws, args, kwargs, sites)
    if key is not None:
        prior_key, predictive_key = jax.random.split(key)
        if posterior_predictive:
            groups["posterior_predictive"] = posterior_predictive_draws(
                model, predictive_key, draws, args, kwargs, sites
            )
        if prior is not None:
            groups |= _prior_groups(prior_draws(model, prior_key, prior, args, kwargs, sites))
    groups["observed_data"] = {
        name: np.asarray(site.value) for name, site in sites.items() if site.kind == "observed"
    }
    groups["constant_data"] = {
        name: array
        for name, array in _arguments(model, args, kwargs).items()
        if not any(_same(array, value) for value in groups["observed_data"].values())
    }
    dims, coords = _with_own(mcmc, "dims", dims), _with_own(mcmc, "coords", coords)
    sites, dims = _of_parts(sites, groups), _of_parts(dims, groups)
    groups = {group: complex_parts(values) for group, values in groups.items()}
    return _tree(groups, sites, AxisNames(_names(groups), dims, coords), facts)


def _prior_groups(drawn: tuple[Arrays, Arrays]) -> dict[str, Arrays]:
    """Parameters and data drawn from the prior, as groups of one chain."""
    groups = zip(("prior", "prior_predictive"), drawn, strict=True)
    return {group: {name: value[None] for name, value in arrays.items()} for group, arrays in groups}


def _with_own(run: Any, name: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Names or labels of axes that a run has from a model of another language, and the user's over them."""
    return {**getattr(run, name, {}), **(given or {})}


def _sites(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any], draws: Arrays) -> dict[str, Site]:
    if model is None:
        return {}
    return model_sites(model, args, kwargs, {name: value[0, 0] for name, value in draws.items()})


def complex_parts(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays with the real and the imaginary part of each complex one as arrays of their own."""
    found = {}
    for name, value in values.items():
        found |= (
            {part: getattr(value, part.rpartition(".")[2]) for part in _parts(name)}
            if _is_complex(value)
            else {name: value}
        )
    return found


def _of_parts[Value](values: Mapping[str, Value], groups: Mapping[str, Arrays]) -> dict[str, Value]:
    """What belongs to a complex site, for each of its parts."""
    split = {name for group in groups.values() for name, value in group.items() if _is_complex(value)}
    return {
        part: value for name, value in values.items() for part in (_parts(name) if name in split else (name,))
    }


def _parts(name: str) -> tuple[str, str]:
    return f"{name}.real", f"{name}.imag"


def _is_complex(value: Any) -> bool:
    return np.issubdtype(value.dtype, np.complexfloating)


def _arguments(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arrays:
    return {} if model is None else argument_arrays(model, args, kwargs)


def _samples(mcmc: Any) -> Any:
    if not hasattr(mcmc, "get_samples"):
        raise TypeError(f"expected an MCMC after its run, got {mcmc!r} of type {type(mcmc).__name__}.")
    try:
        samples = mcmc.get_samples(group_by_chain=True)
    except AssertionError:
        raise ValueError("There are no draws: run the sampler first, with mcmc.run(key, ...).") from None
    leaves = jax.tree.leaves(samples)
    if not leaves:
        raise ValueError("There is nothing to convert: the model has no latent sites, or none was collected.")
    # After `mcmc.warmup` alone, `get_samples` returns rows of zeros or warm-up draws without an error.
    iterations = getattr(mcmc.last_state, "i", None)
    after_warmup = iterations is not None and np.max(jax.device_get(iterations)) <= mcmc.num_warmup
    if mcmc.post_warmup_state is not None and after_warmup:
        raise ValueError("Only the warm-up was run: run the sampler first, with mcmc.run(key, ...).")
    if not all(np.prod(np.shape(leaf)[:2]) for leaf in leaves):
        raise ValueError("There are no draws: num_samples // thinning is 0.")
    return samples


def _check_requests(
    model: Any, key: jax.Array | None, *, log_likelihood: bool, prior: int | None, predictive: bool
) -> None:
    wanted = [
        name
        for name, asked in (
            ("log_likelihood", log_likelihood),
            ("prior", prior is not None),
            ("posterior_predictive", predictive),
        )
        if asked
    ]
    if wanted and model is None:
        raise ValueError(f"{', '.join(wanted)} needs a model, and this kernel was made with potential_fn.")
    if prior is not None and (isinstance(prior, bool) or prior < 1):
        raise ValueError(f"prior is the number of draws, at least 1; given {prior!r}.")
    if key is None and (prior is not None or predictive):
        raise ValueError("prior and posterior_predictive draw at random: give key=jax.random.key(...).")


def _same(array: np.ndarray, observed: np.ndarray) -> bool:
    """Whether an argument is the observation of a site, apart from a change to JAX's precision."""
    return array.shape == observed.shape and np.array_equal(
        array.astype(observed.dtype), observed, equal_nan=observed.dtype.kind == "f"
    )


def _facts(mcmc: Any, model: Any) -> dict[str, str | int]:
    method = mcmc.chain_method
    return {
        "model": getattr(model, "__name__", "" if model is None else type(model).__name__),
        "kernel": type(mcmc.sampler).__name__,
        "kernel_settings": kernel_settings(mcmc.sampler),
        "num_warmup": mcmc.num_warmup,
        "num_samples": mcmc.num_samples,
        "num_chains": mcmc.num_chains,
        "thinning": mcmc.thinning,
        **_seed(getattr(mcmc, "rng_key", None)),
        "chain_method": method if isinstance(method, str) else getattr(method, "__name__", repr(method)),
        "inference_library": "qdesampler",
        "inference_library_version": version("qdesampler"),
        **{f"{name}_version": version(name) for name in ("jax", "numpyro", "arviz")},
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _seed(key: Any) -> dict[str, int]:
    """The seed of a run, if its key is that of a seed; NumPyro's own MCMC does not keep the key."""
    if key is None:
        return {}
    words = np.asarray(jax.random.key_data(key))
    known = words.ndim == 1 and not words[:-1].any()  # `jax.random.key(seed)` puts a seed into the last word
    return {"seed": int(words[-1])} if known else {}


def _names(groups: Mapping[str, Arrays]) -> list[str]:
    return [variable_name(name) for group in groups.values() for name in group]


def _tree(
    groups: Mapping[str, Arrays], sites: Mapping[str, Site], axes: AxisNames, facts: Mapping[str, Any]
) -> xr.DataTree:
    arrays = {
        group: {name: jax.device_get(value) for name, value in values.items()}
        for group, values in groups.items()
        if values
    }
    sample_dims = {
        name: [] if name in ("observed_data", "constant_data") else list(SAMPLE_DIMS) for name in arrays
    }
    # Axes are named for the whole tree before any dataset is made, so that a plate has one size everywhere.
    named = {
        group: {
            name: axes.of(
                variable_name(name), np.shape(value)[len(sample_dims[group]) :], _site(group, name, sites)
            )
            for name, value in values.items()
        }
        for group, values in arrays.items()
    }
    coords = axes.coordinates()
    tree = {"/": xr.Dataset(attrs=dict(facts))}
    for group, values in arrays.items():
        used = {dim for dims in named[group].values() for dim in dims}
        tree[group] = dict_to_dataset(
            {variable_name(name): value for name, value in values.items()},
            attrs=dict(facts),
            dims={variable_name(name): dims for name, dims in named[group].items()},
            coords={dim: labels for dim, labels in coords.items() if dim in used},
            sample_dims=sample_dims[group],
            check_conventions=False,
        )
        for name in values:
            if name in sites and group != "log_likelihood":
                tree[group][variable_name(name)].attrs["site_kind"] = sites[name].kind
    return xr.DataTree.from_dict(tree)


def _site(group: str, name: str, sites: Mapping[str, Site]) -> Site | None:
    """The site that names the axes of a variable; a log likelihood has only the batch axes."""
    if group in ("sample_stats", "constant_data") or name not in sites:
        return None
    return sites[name]._replace(event_ndim=0, event_dims=()) if group == "log_likelihood" else sites[name]
