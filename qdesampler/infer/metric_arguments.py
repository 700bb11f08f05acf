"""NUTS's `dense_mass` and `inverse_mass_matrix`, translated to index blocks and a first metric."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from qdesampler.kernels.metric import Metric, from_covariance, identity_metric

__all__ = ["correlated_blocks", "initial_metric"]


def _site_indices(prototype: Any) -> dict[str, np.ndarray]:
    """Positions of each site in the raveled vector."""
    if not isinstance(prototype, dict):
        raise ValueError(
            "Blocks by site names need a model (or a dict position); this position is a "
            f"{type(prototype).__name__}. Use dense_mass=True or False, and an array for inverse_mass_matrix."
        )
    numbered, start = {}, 0
    for name in sorted(prototype):
        size = sum(np.size(leaf) for leaf in jax.tree.leaves(prototype[name]))
        numbered[name] = np.arange(start, start + size)
        start += size
    return numbered


def _block_indices(names: Sequence[str], sites: dict[str, np.ndarray], argument: str) -> np.ndarray:
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = sorted(set(names) - set(sites))
    if unknown:
        raise ValueError(f"{argument} names sites {unknown}; the latent sites are {sorted(sites)}.")
    return np.concatenate([sites[name] for name in names])


def correlated_blocks(
    dense_mass: bool | Sequence[Sequence[str]] | None, inverse_mass_matrix: Any, prototype: Any
) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """Index groups of the metric that may be correlated, and whether the user insists on them.

    Args:
        dense_mass: None (automatic), False (diagonal), True (dense), or tuples of site names.
        inverse_mass_matrix: as given by the user; a matrix or blocks make room for themselves.
        prototype: position of one chain.

    Raises:
        ValueError: for unknown or repeated sites.
    """
    dim = ravel_pytree(prototype)[0].size
    everything = (tuple(range(dim)),) if dim > 1 else ()
    if isinstance(inverse_mass_matrix, dict) and not isinstance(dense_mass, (list, tuple)):
        dense_mass = None if dense_mass is None or dense_mass else list(inverse_mass_matrix)
    if dense_mass is None:
        return everything, False
    if isinstance(dense_mass, bool):
        wants_matrix = inverse_mass_matrix is not None and np.ndim(inverse_mass_matrix) == 2
        return (everything, True) if dense_mass or wants_matrix else ((), False)
    sites = _site_indices(prototype)
    blocks = [_block_indices(names, sites, "dense_mass") for names in dense_mass]
    flat = np.concatenate(blocks) if blocks else np.array([], int)
    if flat.size != np.unique(flat).size:
        raise ValueError(f"dense_mass={dense_mass} puts a site into more than one block.")
    return tuple(tuple(block.tolist()) for block in blocks if block.size > 1), True


def initial_metric(inverse_mass_matrix: Any, prototype: Any, rank: int) -> Metric:
    """The first metric: identity, or the covariance that the user gave.

    Raises:
        ValueError: for a wrong shape, an unknown site, or a matrix that is not positive definite.
    """
    dim = ravel_pytree(prototype)[0].size
    if inverse_mass_matrix is None:
        return identity_metric(dim, rank)
    if isinstance(inverse_mass_matrix, dict):
        sites = _site_indices(prototype)
        covariance = np.eye(dim)
        for names, value in inverse_mass_matrix.items():
            index = _block_indices(names, sites, "inverse_mass_matrix")
            value = np.asarray(value, dtype=float)
            value = np.diag(value) if value.ndim == 1 else value
            if value.shape != (index.size, index.size):
                raise ValueError(
                    f"inverse_mass_matrix[{names}] has shape {np.shape(inverse_mass_matrix[names])}; "
                    f"expected ({index.size},) or ({index.size}, {index.size})."
                )
            covariance[np.ix_(index, index)] = value
    else:
        covariance = np.asarray(inverse_mass_matrix, dtype=float)
        if covariance.shape not in ((dim,), (dim, dim)):
            raise ValueError(
                f"inverse_mass_matrix has shape {covariance.shape}; expected ({dim},) or ({dim}, {dim})."
            )
    return from_covariance(covariance, rank)
