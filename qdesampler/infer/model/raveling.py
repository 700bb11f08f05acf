"""Positions as flat vectors, with nothing compiled for it: a split into leaves by static offsets."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

__all__ = ["unraveler"]


def unraveler(prototype: Any) -> Callable[[Any], Any]:
    """The map from a vector of shape `(dim,)`, NumPy's or JAX's, to a pytree like `prototype`.

    It is the inverse of `jax.flatten_util.ravel_pytree` for leaves of one floating type.
    """
    leaves, structure = jax.tree.flatten(prototype)
    shapes = [np.shape(leaf) for leaf in leaves]
    borders = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)]).tolist()

    def unravel(flat: Any) -> Any:
        parts = [
            flat[..., first:last].reshape((*flat.shape[:-1], *shape))
            for first, last, shape in zip(borders, borders[1:], shapes, strict=False)
        ]
        return jax.tree.unflatten(structure, parts)

    return unravel
