"""The kept draws in the memory of the host."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

__all__ = ["DrawBuffer", "cut_named"]


class DrawBuffer:
    """Arrays (chain, draw, ...) of all collected fields; they take up memory only as they are filled.

    Args:
        chains: number of chains.
        draws: most draws of each chain.
    """

    def __init__(self, chains: int, draws: int):
        self._shape = (chains, draws)
        self._arrays: Any = None
        self.filled: int = 0
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
            # The first field is the sample. Energies and step sizes may be infinite, draws may not.
            if floats and path[0].idx == 0 and not np.isfinite(kept).all():
                site = jax.tree_util.keystr(path[1:], simple=True, separator=".")
                self.not_finite.add(site or "the sample")

    def put_named(self, first: int, arrays: Mapping[str, np.ndarray], like: Any) -> None:
        """Copy arrays (chain, draw, ...) that `named` returned, for fields of the structure of `like`."""
        paths, structure = jax.tree.flatten_with_path(like)
        leaves = [arrays[jax.tree_util.keystr(path)] for path, _ in paths]
        rows = leaves[0].shape[1] if leaves else 0
        self.put(slice(None), first, rows, jax.tree.unflatten(structure, leaves))
        self.reach(first + rows)

    def reach(self, draws: int) -> None:
        """Record that every chain has this many draws now."""
        self.filled = draws

    def drop(self, draws: int) -> None:
        """Delete the first draws; those after them become the first."""
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
        """The first field, with leaves (chain, draw, ...) that can be sliced."""
        return self.fields()[0]

    def fields(self) -> Any:
        """The collected fields so far (views, not copies), or None if no chunk has ended."""
        if self._arrays is None:
            return None
        return jax.tree.map(lambda leaf: leaf[:, : self.filled], self._arrays)

    def close(self) -> None:
        """Finish; no further draws may be added."""


def cut_named(arrays: Mapping[str, np.ndarray], first: int, last: int) -> dict[str, np.ndarray]:
    """The draws from `first` up to `last` of arrays (chain, draw, ...)."""
    return {name: array[:, first:last] for name, array in arrays.items()}
