"""Checks of a start: sites, shapes and chain axis of the target, a scalar energy, finite numbers.

And a check that the model takes no random subsample of its data.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.handlers import seed
from numpyro.primitives import Messenger

__all__ = ["check_plates", "check_scalar", "check_structure", "finite_chains", "is_subsampled"]


def is_subsampled(site: dict[Any, Any]) -> bool:
    """Whether a site of a trace is a plate that takes only some of its rows."""
    return site["type"] == "plate" and site["args"][1] is not None and site["args"][0] > site["args"][1]


class _RowsLeftToChance(Messenger):
    """Collects the names of the subsampled plates whose rows no handler within the model has fixed."""

    def __init__(self, fn: Callable):
        self.names: list[str] = []
        super().__init__(fn)

    def process_message(self, msg: dict[Any, Any]) -> None:
        """Called for every site, after the handlers within the model."""
        if is_subsampled(msg) and msg["value"] is None:
            self.names.append(msg["name"])


def check_plates(
    model: Callable, model_trace: dict[Any, Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> None:
    """Refuse plates with a random subset of their rows, which would be drawn once and kept for the whole run.

    Rows that are fixed on purpose (`numpyro.handlers.substitute`) are accepted.

    Args:
        model: NumPyro model.
        model_trace: its trace.
        args: its arguments.
        kwargs: its keyword arguments.

    Raises:
        ValueError: with the names of these plates.
    """
    if not any(is_subsampled(site) for site in model_trace.values()):
        return
    watched = _RowsLeftToChance(seed(model, jax.random.key(0)))
    watched(*args, **kwargs)
    if watched.names:
        sizes = [model_trace[name]["args"] for name in watched.names]
        parts = ", ".join(
            f"{n!r} ({k} of {size} rows)" for n, (size, k) in zip(watched.names, sizes, strict=True)
        )
        raise ValueError(
            f"The model subsamples the plates {parts}. One subsample would be kept for a whole run, and its "
            "posterior is not that of the data. Give the plate no subsample_size (all rows), sample with "
            "numpyro.infer.HMCECS, which is made for subsamples, or fix the rows with "
            "numpyro.handlers.substitute(model, data={plate: rows}) if that part is what you want."
        )


def check_structure(z: Any, prototype: Any, num_chains: int | None) -> None:
    """Compare a start with the structure that the target needs, site by site.

    Args:
        z: the start; vectorized chains on a leading axis.
        prototype: a start of the right structure and shapes, or None if any structure is valid.
        num_chains: number of vectorized chains, or None for one chain.

    Raises:
        ValueError: naming what was given and what is expected.
    """
    for path, leaf in jax.tree.leaves_with_path(z):
        if num_chains is not None and np.shape(leaf)[:1] != (num_chains,):
            raise ValueError(
                f"`init_params`{jax.tree_util.keystr(path)} has shape {np.shape(leaf)}; expected a "
                f"leading axis of {num_chains}, one start for each chain."
            )
    if prototype is None:
        return
    if isinstance(prototype, dict) and isinstance(z, dict) and set(z) != set(prototype):
        missing, unknown = sorted(set(prototype) - set(z)), sorted(set(z) - set(prototype))
        raise ValueError(
            f"`init_params` has sites {sorted(z)}; the target's are {sorted(prototype)} (missing {missing}, "
            f"unknown {unknown})."
        )
    given, expected = jax.tree.structure(z), jax.tree.structure(prototype)
    if given != expected:
        raise ValueError(f"`init_params` has structure {given}; expected {expected}.")
    for (path, leaf), wanted in zip(jax.tree.leaves_with_path(z), jax.tree.leaves(prototype), strict=True):
        if np.shape(leaf) != np.shape(wanted):
            raise ValueError(
                f"`init_params`{jax.tree_util.keystr(path)} has shape {np.shape(leaf)}; expected "
                f"{np.shape(wanted)} in unconstrained space."
            )


def check_scalar(potential: Callable, z: Any) -> None:
    """Refuse a potential that is not a real scalar, with a clearer message than that of differentiation.

    Args:
        potential: `z -> U(z)`.
        z: position of one chain.

    Raises:
        ValueError: with the shape or type of the result.
    """
    result = jax.eval_shape(potential, z)
    leaves = jax.tree.leaves(result)
    if len(leaves) != 1 or leaves[0] is not result:
        raise ValueError(
            f"The potential must return a scalar array; it returned {jax.tree.structure(result)}."
        )
    if leaves[0].shape != ():
        raise ValueError(
            f"The potential must return a scalar; it returned shape {leaves[0].shape}. Sum over its terms."
        )
    if not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise ValueError(
            f"The potential must return a real number; it returned {leaves[0].dtype}. Compute it in floats."
        )


def finite_chains(energy: jax.Array, gradient: Any) -> np.ndarray | None:
    """Which chains have a finite energy and gradient; None if that is known only at run time."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((energy, gradient))):
        return None
    finite = np.isfinite(np.asarray(energy))
    for leaf in jax.tree.leaves(gradient):
        finite &= np.isfinite(np.asarray(leaf)).all(axis=tuple(range(np.ndim(energy), np.ndim(leaf))))
    return finite
