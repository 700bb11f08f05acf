"""The model's arguments, split into what a program takes as input and what is a constant in it."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

__all__ = ["SplitArguments"]


class SplitArguments:
    """The model's arguments, split into arrays that a program takes as input and constants inside it."""

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, trace: bool):
        leaves, self._structure = jax.tree.flatten((tuple(args), dict(kwargs)))
        self._traced = [trace and isinstance(leaf, (np.ndarray, jax.Array, float)) for leaf in leaves]
        self._constants = [
            None if traced else leaf for traced, leaf in zip(self._traced, leaves, strict=True)
        ]

    def values(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The leaves that are inputs."""
        leaves = jax.tree.leaves((tuple(args), dict(kwargs)))
        return [leaf for traced, leaf in zip(self._traced, leaves, strict=True) if traced]

    def arguments(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments made of inputs and constants."""
        given = iter(values)
        leaves = [
            next(given) if traced else constant
            for traced, constant in zip(self._traced, self._constants, strict=True)
        ]
        return jax.tree.unflatten(self._structure, leaves)
