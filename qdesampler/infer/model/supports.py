"""Supports of a model's latent sites: their transforms, and whether they depend on other sites.

NumPyro replays the model to constrain a draw only if it sees a bound that is not a Python number, and it
looks only at plain intervals and lower bounds. An upper bound that is another site
(`TruncatedNormal(high=b)`), or any bound inside `.to_event(1)`, keeps its first value in NumPyro. Here every
leaf of every support counts.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from numpyro.distributions import biject_to
from numpyro.distributions.constraints import real
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.util import transform_fn

__all__ = ["Supports", "depends_on_siblings", "latent_sites", "read_supports"]


class Supports(NamedTuple):
    """Static facts of the latent sites.

    Attributes:
        transforms: from unconstrained to constrained values, by site; empty if a support may move.
        is_static: whether all bounds are Python numbers, so that none can depend on another site.
        has_deterministic: whether the model has deterministic sites, which only a replay can compute.
    """

    transforms: dict[str, Any]
    is_static: bool
    has_deterministic: bool

    def constrain(self, z: dict[Any, Any]) -> dict[Any, Any]:
        """Constrained values of the latent sites, static supports only."""
        return transform_fn(self.transforms, z)

    def unconstrain(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """The inverse of `constrain`."""
        return transform_fn(self.transforms, values, invert=True)


def latent_sites(model_trace: dict[Any, Any]) -> dict[str, Any]:
    """The sites that a kernel of continuous moves samples, by name."""
    return {
        name: site
        for name, site in model_trace.items()
        if site["type"] == "sample" and not site["is_observed"] and not site["fn"].support.is_discrete
    }


def read_supports(model_trace: dict[Any, Any]) -> Supports:
    """The supports in a trace of the model, without traced values."""
    supports = {name: site["fn"].support for name, site in latent_sites(model_trace).items()}
    is_static = all(_is_static(support) for support in supports.values())
    for name, site in model_trace.items():
        if site["type"] == "param":
            supports[name] = site["kwargs"].get("constraint", real)
    return Supports(
        transforms={name: biject_to(support) for name, support in supports.items()} if is_static else {},
        is_static=is_static,
        has_deterministic=any(site["type"] == "deterministic" for site in model_trace.values()),
    )


def _is_static(support: Any) -> bool:
    # A NumPy number is not static: it may come from the data, and the data may change.
    return all(type(leaf) in (int, float) for leaf in jax.tree.leaves(support))


def depends_on_siblings(
    model: Callable,
    model_args: Sequence[Any],
    model_kwargs: dict[str, Any],
    values: dict[Any, Any],
    names: Sequence[str],
) -> bool:
    """Whether a support of the sites `names` depends on the values that a Gibbs sweep conditions on.

    Args:
        model: the model, wrapped by `numpyro.infer.gibbs.conditioned`.
        model_args: its arguments.
        model_kwargs: its keyword arguments with the conditioning values.
        values: constrained values of the sites `names`.
        names: latent sites of the block.
    """

    def bounds(siblings):
        kwargs = {**model_kwargs, GIBBS_SITES_KWARG: siblings}
        run = substitute(seed(model, jax.random.key(0)), data=values)
        sites = trace(run).get_trace(*model_args, **kwargs)
        return [jnp.asarray(leaf) for name in names for leaf in jax.tree.leaves(sites[name]["fn"].support)]

    # The traced program shows what a bound is computed from, so no numbers need to be compared.
    program = jax.make_jaxpr(bounds)(model_kwargs[GIBBS_SITES_KWARG]).jaxpr
    reached = set(program.invars)
    for equation in program.eqns:
        if any(not isinstance(v, Literal) and v in reached for v in equation.invars):
            reached.update(equation.outvars)
    return any(not isinstance(v, Literal) and v in reached for v in program.outvars)
