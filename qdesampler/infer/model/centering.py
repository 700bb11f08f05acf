r"""Partial non-centring of a model's location-scale sites, applied and undone inside the kernel.

A hierarchical site `theta ~ LocScale(loc(h), scale(h))` makes a funnel of `(h, theta)` where data are few
("centred"), and its standardised form makes one where data are many ("non-centred"). Between them,

    theta = loc + scale^(1 - c) (y - c loc),        log |d theta / d y| = (1 - c) log scale,

with one centredness `c` in [0, 1] for each element: `c = 1` is the model as written, `c = 0` its standardised
form. Elements of a multivariate normal or Student t law are scaled by the widths of their marginals. The
moves use `y`; the user sees `z`, the unconstrained sites of the model as written.
(Papaspiliopoulos, Roberts and Skold 2007, section 4; Gorinova, Moore and Hoffman 2020, "Automatic
reparameterisation of probabilistic programs".)

The centredness is estimated from draws. If the rest of the density has curvature `k_j = -d^2 log p(rest) / d
theta_j^2`, then the width of the law of `y_j` given `h` does not change with `scale` to first order at

    c_j = k_j scale^2 / (1 + k_j scale^2),

and `k_j` is the slope of the score of the rest, `score_theta + (theta - loc) / scale^2`, on `theta`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from numpyro.handlers import block, seed, substitute, trace
from numpyro.ops.provenance import eval_provenance

from qdesampler.infer.model.supports import latent_sites

__all__ = ["Centering", "find_centering", "standard_widths"]

_ROUNDING = 0.01  # largest relative change of a coordinate that the map to the sites and back may make
_FAMILIES = (dist.Normal, dist.StudentT, dist.Cauchy, dist.Laplace, dist.Logistic)
_MULTIVARIATE = (dist.MultivariateNormal, dist.MultivariateStudentT)


def _without_shapes(fn: Any) -> Any:
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution):
        fn = fn.base_dist
    return fn


def _base(fn: Any) -> Any | None:
    """The distribution of the unconstrained site that has a location and scales, or None."""
    fn = _without_shapes(fn)
    if type(fn) is dist.LogNormal:
        fn = _without_shapes(fn.base_dist)
    return fn if type(fn) in (*_FAMILIES, *_MULTIVARIATE) else None


def _scale(base: Any) -> jax.Array:
    """Scale of each element; of a vector those of its marginals, so that correlations stay as they are."""
    if type(base) in _MULTIVARIATE:
        return jnp.sqrt(jnp.sum(base.scale_tril**2, -1))
    return base.scale


def _location_scale(fn: Any) -> Any | None:
    """Location and scale of the unconstrained site, or None without them."""
    base = _base(fn)
    return None if base is None else _Family(base.loc, _scale(base), fn.shape())


class _Family:
    """Location and scale of a site, broadcast to its shape."""

    def __init__(self, loc: Any, scale: Any, shape: tuple[int, ...]):
        self.loc = jnp.broadcast_to(loc, shape)
        self.scale = jnp.broadcast_to(scale, shape)


class Centering:
    """The location-scale sites of a model whose scale depends on other sites.

    Args:
        model: NumPyro model, with its parameters and random numbers fixed.
        sites: names of the sites.
        parents: names of the sites that their scales depend on.
    """

    def __init__(self, model: Callable, sites: Sequence[str], parents: Sequence[str]):
        self._model = model
        self.sites: tuple[str, ...] = tuple(sites)
        self.parents: tuple[str, ...] = tuple(parents)

    def mask(self, prototype: dict[str, Any], sites: Sequence[str] | None = None) -> np.ndarray:
        """Which raveled coordinates belong to these sites (default: the re-centred ones), shape `(dim,)`."""
        chosen = self.sites if sites is None else sites
        marked = {name: np.full(np.shape(leaf), name in chosen) for name, leaf in prototype.items()}
        return np.concatenate([marked[name].ravel() for name in sorted(marked)])

    def _run(self, args, kwargs, given: dict[Any, Any], convert: Callable) -> tuple[dict, dict, dict]:
        """Run the model; `convert(name, family, value)` returns a site of the model as written."""
        z, locs, scales = dict(given), {}, {}

        def fill(site):
            name = site["name"]
            if site["type"] != "sample" or name not in given or site["is_observed"]:
                return None
            if name in self.sites:
                family = _location_scale(site["fn"])
                assert family is not None, name
                locs[name], scales[name] = family.loc, family.scale
                z[name] = convert(name, family, given[name])
            support = site["fn"].support
            return dist.biject_to(support)(z[name])

        # Blocked, because the caller's handlers must not see this second run.
        with block():
            substitute(self._model, substitute_fn=fill)(*args, **kwargs)
        return z, locs, scales

    def to_sites(
        self, args: Sequence[Any], kwargs: dict[str, Any], y: jax.Array, c: jax.Array, unravel: Callable
    ) -> tuple[Any, Any]:
        """From the moves' coordinates to the model's: `(z, log |dz / dy|)`, raveled and scalar.

        The second is `-inf` (no density) if a site is so close to its location that rounding loses `y`.

        Args:
            args: the model's arguments.
            kwargs: its keyword arguments.
            y: the moves' coordinates, shape `(dim,)`.
            c: centredness, shape `(dim,)`; 1 for coordinates that are not re-centred.
            unravel: `(dim,) -> z`.
        """
        centredness = unravel(c)
        kept = []

        def convert(name, family, value):
            f, loc, scale = centredness[name], family.loc, family.scale
            site = loc + scale ** (1 - f) * (value - f * loc)
            back = f * loc + scale ** (f - 1) * (site - loc)
            kept.append(jnp.all(jnp.abs(back - value) <= _ROUNDING * (1 + jnp.abs(value))))
            return site

        z, _, scales = self._run(args, kwargs, unravel(y), convert)
        change = sum(jnp.sum((1 - centredness[name]) * jnp.log(scales[name])) for name in self.sites)
        # If the scale is below the rounding of the location, the site and its density lose `y`.
        return ravel_pytree(z)[0], jnp.where(jnp.all(jnp.stack(kept)), change, -jnp.inf)

    def from_sites(
        self, args: Sequence[Any], kwargs: dict[str, Any], z: jax.Array, c: jax.Array, unravel: Callable
    ) -> Any:
        """The inverse: `(y, log |dz / dy|, loc, scale)`, raveled; other coordinates have loc 0, scale 1."""
        values, centredness = unravel(z), unravel(c)
        _, locs, scales = self._run(args, kwargs, values, lambda name, family, value: value)
        y = dict(values)
        change = jnp.zeros((), z.dtype)
        for name in self.sites:
            f, loc, scale = centredness[name], locs[name], scales[name]
            y[name] = f * loc + scale ** (f - 1) * (values[name] - loc)
            change = change + jnp.sum((1 - f) * jnp.log(scale))
        loc = {**jax.tree.map(jnp.zeros_like, values), **locs}
        scale = {**jax.tree.map(jnp.ones_like, values), **scales}
        return (ravel_pytree(y)[0], change, ravel_pytree(loc)[0], ravel_pytree(scale)[0])


def find_centering(
    model: Callable, model_trace: dict, args: Sequence[Any], kwargs: dict[str, Any], params: dict
) -> Centering | None:
    """The location-scale sites whose scale depends on other latent sites of a model; None without such sites.

    Args:
        model: NumPyro model.
        model_trace: its trace.
        args: its arguments.
        kwargs: its keyword arguments.
        params: values of its parameters.
    """
    latent = latent_sites(model_trace)
    candidates = []
    for name, site in latent.items():
        if site.get("_control_flow_done"):  # inside a scan or cond, whose body is out of reach
            continue
        base = _base(site["fn"])
        # A Python number or a NumPy array comes from the data, never from another site.
        width = None if base is None else base.scale_tril if type(base) in _MULTIVARIATE else base.scale
        if isinstance(width, jax.Array):
            candidates.append(name)
    if not candidates:
        return None
    run = substitute(seed(model, jax.random.key(0)), data=params)

    def scales(**values):
        sites = trace(substitute(run, data=values)).get_trace(*args, **kwargs)
        return {name: _location_scale(sites[name]["fn"]).scale for name in candidates}  # pyright: ignore

    reached = eval_provenance(scales, **{name: site["value"] for name, site in latent.items()})
    sites = [name for name in candidates if reached[name]]
    parents = frozenset().union(*(reached[name] for name in sites))
    return Centering(run, sites, sorted(parents)) if sites else None


def standard_widths(
    model: Callable, latent: dict[str, jax.ShapeDtypeStruct], args: Sequence, kwargs: dict, params: dict
) -> dict[str, np.ndarray]:
    """Widths of the sites with a normal prior around 0 that no other site changes, by name.

    Args:
        model: NumPyro model.
        latent: shapes and types of its latent sites: an improper one cannot be drawn.
        args: its arguments.
        kwargs: its keyword arguments.
        params: values of its parameters.
    """
    run = substitute(seed(model, jax.random.key(0)), data=params)
    known: dict[str, np.ndarray] = {}  # of numbers and of NumPy's arrays

    def normal_sites(**values):
        computed = {}
        sites = trace(substitute(run, data=values)).get_trace(*args, **kwargs)
        for name in latent:
            base = _without_shapes(sites[name]["fn"])
            if type(base) is not dist.Normal or sites[name].get("_control_flow_done"):
                continue
            is_computed = isinstance(base.loc, jax.Array) or isinstance(base.scale, jax.Array)
            xp, into = (jnp, computed) if is_computed else (np, known)
            shape = sites[name]["fn"].shape()
            into[name] = xp.stack([xp.broadcast_to(x, shape) for x in (base.loc, base.scale)])
        return computed

    computed = jax.eval_shape(normal_sites, **latent)
    if computed:
        zeros = {name: np.zeros(x.shape, x.dtype) for name, x in latent.items()}
        reached = eval_provenance(normal_sites, **zeros)
        fixed = [name for name in computed if not reached[name]]
        found = jax.jit(lambda values: {name: normal_sites(**values)[name] for name in fixed})(zeros)
        known |= {name: np.asarray(x) for name, x in found.items()}
    return {name: np.asarray(x[1], float) for name, x in known.items() if not np.any(x[0])}
