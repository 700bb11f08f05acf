"""The kept draws, on the host."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

__all__ = ["DrawBuffer", "cut_named"]


class DrawBuffer:
    """Arrays (chain, draw, ...) for all that is collected; memory is taken up as it is filled.

    Args:
        chains: how many.
        draws: at most so many of each.
    """

    def __init__(self, chains: int, draws: int):
        self._shape = (chains, draws)
        self._arrays: Any = None
        self.filled = 0
        self.not_finite: set[str] = set()

    def put(self, chains: slice, first: int, rows: int, fields: Any) -> None:
        """Copy the first `rows` of collected arrays (chain, row, ...) to the draws from `first` on."""
        if self._arrays is None:
            self._arrays = jax.tree.map(
                lambda leaf: np.empty((*self._shape, *leaf.shape[2:]), leaf.dtype), fields
            )
        leaves, _ = jax.tree.flatten_with_path(fields)
        for (path, leaf), target in zip(leaves, jax.tree.leaves(self._arrays), strict=True):
            kept = leaf[:, :rows]
            target[chains, first : first + rows] = kept
            floats = np.issubdtype(target.dtype, np.inexact)
            # the first field is the sample: energies and step sizes may be infinite, draws may not
            if floats and path[0].idx == 0 and not np.isfinite(kept).all():
                self.not_finite.add(jax.tree_util.keystr(path[1:]))

    def put_named(self, first: int, arrays: Mapping[str, np.ndarray], like: Any) -> None:
        """Copy arrays (chain, draw, ...) that `named` gave, for fields of the structure of `like`."""
        paths, structure = jax.tree.flatten_with_path(like)
        leaves = [arrays[jax.tree_util.keystr(path)] for path, _ in paths]
        rows = leaves[0].shape[1] if leaves else 0
        self.put(slice(None), first, rows, jax.tree.unflatten(structure, leaves))
        self.reach(first + rows)

    def reach(self, draws: int) -> None:
        """All chains have so many draws now."""
        self.filled = draws

    def drop(self, draws: int) -> None:
        """Forget the first draws; those after them become the first."""
        for leaf in jax.tree.leaves(self._arrays):
            leaf[:, : self.filled - draws] = leaf[:, draws : self.filled].copy()
        self.filled -= draws

    def named(self, first: int, last: int) -> dict[str, np.ndarray]:
        """The draws from `first` up to `last`, under the paths of the collected tree."""
        if first == last:
            return {}
        leaves, _ = jax.tree.flatten_with_path(self._arrays)
        return {jax.tree_util.keystr(path): leaf[:, first:last] for path, leaf in leaves}

    def sample(self) -> Any:
        """The first field, as leaves (chain, draw, ...) that can be cut."""
        return self.fields()[0]

    def fields(self) -> Any:
        """What was collected so far (views, no copies), or None when no chunk ever ended."""
        if self._arrays is None:
            return None
        return jax.tree.map(lambda leaf: leaf[:, : self.filled], self._arrays)

    def close(self) -> None:
        """No more will come."""


def cut_named(arrays: Mapping[str, np.ndarray], first: int, last: int) -> dict[str, np.ndarray]:
    """The draws from `first` up to `last` of arrays (chain, draw, ...)."""
    return {name: array[:, first:last] for name, array in arrays.items()}
