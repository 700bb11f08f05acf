"""NUTS's arguments: their checks, and the blocks and the metric that two of them stand for."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from qdesampler.numerics.metric import DENSE_UP_TO, Metric, dense_matrix, from_covariance, identity_metric

__all__ = [
    "block_rank",
    "check_nuts_arguments",
    "correlated_blocks",
    "given_covariance",
    "initial_metric",
    "most_steps",
    "position_size",
]

_LOW_RANK = 64  # most directions of an automatic metric beyond `DENSE_UP_TO` dimensions
_ASYMMETRY = 1e-4  # largest difference of mirrored entries, relative to the largest entry
_NEGLIGIBLE = 1e-3  # |log eigenvalue| of a scaled covariance below which a direction may be left out


def check_nuts_arguments(kinetic_fn: Any, target_accept_prob: Any) -> None:
    """Refuse arguments without a meaning here; traced numbers are not checked.

    Raises:
        ValueError: a `kinetic_fn` is given, or the acceptance is not between 0 and 1.
    """
    if kinetic_fn is not None:
        raise ValueError('QDE takes no `kinetic_fn`; choose dynamics="canonical" or "isokinetic" instead.')
    if not isinstance(target_accept_prob, Tracer) and not 0 < target_accept_prob < 1:
        raise ValueError(f"target_accept_prob is {target_accept_prob}; expected a number between 0 and 1.")


def most_steps(max_tree_depth: int | tuple[int, int]) -> tuple[int, int]:
    """Most steps of a trajectory, in warm-up and in sampling: `2**depth - 1`.

    Raises:
        ValueError: the depth is not an integer from 1 to 30, or a pair of such.
    """
    depths = max_tree_depth if isinstance(max_tree_depth, tuple) else (max_tree_depth, max_tree_depth)
    if len(depths) != 2 or not all(isinstance(d, (int, np.integer)) and 1 <= d <= 30 for d in depths):
        raise ValueError(f"max_tree_depth is {max_tree_depth}; expected 1 to 30, or a pair of such integers.")
    return 2 ** int(depths[0]) - 1, 2 ** int(depths[1]) - 1


def position_size(prototype: Any) -> int:
    """Number of coordinates of a position."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(prototype))


def _site_indices(prototype: Any) -> dict[str, np.ndarray]:
    """Positions of each site in the raveled vector."""
    if not isinstance(prototype, dict):
        raise ValueError(
            "Blocks by site names need a model (or a dict position); this position is a "
            f"{type(prototype).__name__}. Use dense_mass=True or False, and an array for inverse_mass_matrix."
        )
    numbered, start = {}, 0
    for name in sorted(prototype):
        size = position_size(prototype[name])
        numbered[name] = np.arange(start, start + size)
        start += size
    return numbered


def _block_indices(names: Sequence[str], sites: dict[str, np.ndarray], argument: str) -> np.ndarray:
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = sorted(set(names) - set(sites))
    if unknown:
        raise ValueError(f"{argument} names sites {unknown}; the latent sites are {sorted(sites)}.")
    return np.concatenate([sites[name] for name in names])


def _is_matrix(inverse_mass_matrix: Any) -> bool:
    if inverse_mass_matrix is None or isinstance(inverse_mass_matrix, dict):
        return False
    return np.ndim(inverse_mass_matrix) == 2


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
    dim = position_size(prototype)
    everything = (tuple(range(dim)),) if dim > 1 else ()
    if isinstance(inverse_mass_matrix, dict) and not isinstance(dense_mass, (list, tuple)):
        dense_mass = None if dense_mass is None or dense_mass else list(inverse_mass_matrix)
    if dense_mass is None:
        return everything, False
    if isinstance(dense_mass, bool):
        return (everything, True) if dense_mass or _is_matrix(inverse_mass_matrix) else ((), False)
    sites = _site_indices(prototype)
    blocks = [_block_indices(names, sites, "dense_mass") for names in dense_mass]
    flat = np.concatenate(blocks) if blocks else np.array([], int)
    if flat.size != np.unique(flat).size:
        raise ValueError(f"dense_mass={dense_mass} puts a site into more than one block.")
    return tuple(tuple(block.tolist()) for block in blocks if block.size > 1), True


def block_rank(inverse_mass_matrix: Any, prototype: Any, *, forced: bool) -> int:
    """Most correlated directions of one block: all that the user asked for, else by the dimension."""
    dim = position_size(prototype)
    given = isinstance(inverse_mass_matrix, dict) or _is_matrix(inverse_mass_matrix)
    return dim if forced or given or dim <= DENSE_UP_TO else _LOW_RANK


def initial_metric(inverse_mass_matrix: Any, prototype: Any, rank: int) -> Metric:
    """The first metric: identity, or exactly the covariance that the user gave.

    Raises:
        ValueError: for a wrong shape, an unknown or repeated site, a matrix that is not symmetric positive
            definite or known only under `jit`, or one that the blocks of `dense_mass` cannot hold.
    """
    dim = position_size(prototype)
    if inverse_mass_matrix is None:
        return identity_metric(dim, rank)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(inverse_mass_matrix)):
        raise ValueError(
            "inverse_mass_matrix is traced by jit, vmap or grad; it is factored before compilation and must "
            "be a concrete array: build it with NumPy, or make it outside the transformed function."
        )
    if isinstance(inverse_mass_matrix, dict):
        covariance = _assembled(inverse_mass_matrix, prototype)
    else:
        try:
            covariance = np.asarray(inverse_mass_matrix, dtype=float)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"inverse_mass_matrix is {inverse_mass_matrix!r}; expected an array, ({dim},) or ({dim}, "
                f"{dim})."
            ) from error
        if covariance.shape not in ((dim,), (dim, dim)):
            raise ValueError(
                f"inverse_mass_matrix has shape {covariance.shape}; expected ({dim},) or ({dim}, {dim})."
            )
    if covariance.ndim == 2 and np.all(np.isfinite(covariance)):
        asymmetry = np.max(np.abs(covariance - covariance.T))
        if asymmetry > _ASYMMETRY * np.max(np.abs(covariance)):
            raise ValueError(
                f"inverse_mass_matrix is not symmetric: entries differ by {asymmetry:.3g}; give a covariance."
            )
    metric = from_covariance(covariance, rank)
    if covariance.ndim == 2 and rank < dim:
        scale = np.sqrt(np.diag(covariance))
        stretches = np.abs(np.log(np.linalg.eigvalsh(covariance / np.outer(scale, scale))))
        if np.sort(stretches)[: dim - rank].max() > _NEGLIGIBLE:
            raise ValueError(
                "inverse_mass_matrix correlates coordinates that dense_mass keeps apart; give both the same "
                "blocks, or dense_mass=True."
            )
    return metric


def given_covariance(inverse_mass_matrix: Any, prototype: Any, *, dense: bool) -> np.ndarray | None:
    """The covariance that the user gave, shape `(dim, dim)` or, unless `dense`, its diagonal."""
    if inverse_mass_matrix is None:
        return None
    metric = initial_metric(inverse_mass_matrix, prototype, position_size(prototype))
    covariance = np.asarray(dense_matrix(metric))
    return covariance if dense else np.diag(covariance)


def _assembled(given: dict[Any, Any], prototype: Any) -> np.ndarray:
    """The covariance made of blocks by site names; sites that are not named have unit variance."""
    sites = _site_indices(prototype)
    covariance = np.eye(position_size(prototype))
    named = []
    for names, value in given.items():
        index = _block_indices(names, sites, "inverse_mass_matrix")
        named.append(index)
        value = np.asarray(value, dtype=float)
        block = np.diag(value) if value.ndim == 1 else value
        if block.shape != (index.size, index.size):
            raise ValueError(
                f"inverse_mass_matrix[{names}] has shape {value.shape}; expected ({index.size},) or "
                f"({index.size}, {index.size})."
            )
        covariance[np.ix_(index, index)] = block
    flat = np.concatenate(named) if named else np.array([], int)
    if flat.size != np.unique(flat).size:
        raise ValueError(f"inverse_mass_matrix puts a site into more than one block: {list(given)}.")
    return covariance
