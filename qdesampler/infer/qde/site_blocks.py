"""The metric read by site, as NUTS shows it: blocks of an inverse mass matrix, keyed by tuples of names.

A metric is kept as one factor over all coordinates. The names that belong to them do not change during a run;
they are a part of the state's structure that holds no array.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["SiteBlocks", "mass_matrix_factor", "site_blocks"]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class SiteBlocks:
    """Which coordinates are whose, and which sites make a block.

    Attributes:
        sites: name, first coordinate and number of coordinates of each site; empty if positions are no dict.
        blocks: names of the sites of a block, and whether it is a matrix.
    """

    sites: tuple[tuple[str, int, int], ...]
    blocks: tuple[tuple[tuple[str, ...], bool], ...]

    def split(self, covariance: jax.Array, *, is_matrix: bool) -> Any:
        """The blocks of a covariance, keyed by their names; the only one if positions are no dict.

        Args:
            covariance: shape `(..., dim, dim)`, or of a diagonal `(..., dim)`.
            is_matrix: which of the two.
        """
        places = {name: np.arange(first, first + size) for name, first, size in self.sites}
        found = {}
        for names, dense in self.blocks:
            everything = np.arange(covariance.shape[-1])
            index = np.concatenate([places[name] for name in names]) if self.sites else everything
            if is_matrix:
                rows = index[:, None] if dense else index
                found[names] = covariance[..., rows, index]
            else:
                diagonal = covariance[..., index]
                found[names] = diagonal[..., None] * jnp.eye(index.size) if dense else diagonal
        return found if self.sites else found[()]

    def factors(self, covariance: jax.Array, *, is_matrix: bool) -> Any:
        """Factors `S` of the mass matrix `S S^T`, the inverse of the covariance, in the form of `split`."""
        split = self.split(covariance, is_matrix=is_matrix)
        if not self.sites:
            return mass_matrix_factor(split) if self.blocks[0][1] else 1 / jnp.sqrt(split)
        return {
            names: mass_matrix_factor(split[names]) if dense else 1 / jnp.sqrt(split[names])
            for names, dense in self.blocks
        }


def mass_matrix_factor(covariance: jax.Array) -> jax.Array:
    """The lower factor `S` with `S S^T` the inverse of a covariance `(..., n, n)`, which is that of NUTS."""
    upper = jnp.linalg.cholesky(covariance[..., ::-1, ::-1])[..., ::-1, ::-1]  # covariance = upper upper^T
    return jnp.swapaxes(jnp.linalg.inv(upper), -1, -2)


def site_blocks(
    dense_mass: bool | Sequence[Sequence[str]] | None, inverse_mass_matrix: Any, prototype: Any
) -> SiteBlocks:
    """The blocks that NUTS would show for these arguments; if the choice is ours, one matrix of all sites.

    Args:
        dense_mass: None, False, True, or tuples of site names.
        inverse_mass_matrix: as given by the user.
        prototype: position of one chain.
    """
    given: dict[Any, Any] = inverse_mass_matrix if isinstance(inverse_mass_matrix, dict) else {}
    a_matrix = not isinstance(inverse_mass_matrix, (dict, type(None))) and np.ndim(inverse_mass_matrix) == 2
    structured = isinstance(dense_mass, (list, tuple))
    size = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(prototype))
    whole = a_matrix or (size > 1 if dense_mass is None else bool(dense_mass))
    if not isinstance(prototype, dict):
        return SiteBlocks((), (((), whole),))
    sites, first = [], 0
    for name in sorted(prototype):
        number = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(prototype[name]))
        sites.append((name, first, number))
        first += number
    names = tuple(name for name, *_ in sites)
    if not structured and (dense_mass is not False or not given):
        return SiteBlocks(tuple(sites), ((names, whole),) if names else ())
    blocks = {_tuple(block): True for block in dense_mass} if isinstance(dense_mass, (list, tuple)) else {}
    for block, value in given.items():
        blocks.setdefault(_tuple(block), np.ndim(value) == 2)
    left = tuple(name for name in names if not any(name in block for block in blocks))
    if left:
        blocks[left] = False
    return SiteBlocks(tuple(sites), tuple(blocks.items()))


def _tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
