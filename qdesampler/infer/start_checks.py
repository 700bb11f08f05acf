"""What a start must be: sites, shapes and chain axis as the target needs, a scalar energy, finite numbers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = ["check_scalar", "check_structure", "finite_chains"]


def check_structure(z: Any, prototype: Any, num_chains: int | None) -> None:
    """Compare a start with what the target needs, site by site.

    Args:
        z: the start; vectorized chains on a leading axis.
        prototype: a start of the right structure and shapes, or None where any will do.
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
    """Refuse a potential that is no real scalar, before differentiation complains in its own words.

    Args:
        potential: `z -> U(z)`.
        z: position of one chain.

    Raises:
        ValueError: with the shape or type that came back.
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
    """Which chains stand where energy and gradient are finite; None where that is known only at run time."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((energy, gradient))):
        return None
    finite = np.isfinite(np.asarray(energy))
    for leaf in jax.tree.leaves(gradient):
        finite &= np.isfinite(np.asarray(leaf)).all(axis=tuple(range(np.ndim(energy), np.ndim(leaf))))
    return finite
