"""Densities that bring the names of their parameters with them, as models of other languages do."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["NamedDensity", "Names"]


class NamedDensity(ABC):
    """A log density on unconstrained space, and the way from there to named values.

    `sample` takes one in the place of a function. A subclass sets the attributes and has both methods.

    Attributes:
        name: of the model.
        dim: unconstrained coordinates.
        labels: names of these.
        start: an unconstrained point of finite density, shape `(dim,)`, or None.
        dims: names of the axes of the values.
        coords: labels of these axes.
    """

    name: str
    dim: int
    labels: tuple[str, ...]
    start: np.ndarray | None = None
    dims: Mapping[str, tuple[str, ...]] = {}
    coords: Mapping[str, Sequence[Any]] = {}

    @abstractmethod
    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities, Jacobians of the supports included, and scores at points `(n, dim)`."""

    @abstractmethod
    def constrain(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """Named values at points of shape `(n, dim)`, each `(n, ...)`."""


class Names(NamedTuple):
    """What a run shows of a density.

    Attributes:
        name: of the density.
        labels: of the unconstrained coordinates.
        values: unconstrained points `(n, dim)` to named values, each `(n, ...)`.
        dims: names of the axes of the values.
        coords: labels of these axes.
    """

    name: str
    labels: tuple[str, ...]
    values: Callable[[np.ndarray], dict[str, np.ndarray]]
    dims: Mapping[str, tuple[str, ...]] = {}
    coords: Mapping[str, Sequence[Any]] = {}
