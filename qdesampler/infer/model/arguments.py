"""The arguments that a model was traced with, to decide whether facts read from that trace still hold."""

import weakref
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from numpyro.infer.gibbs import GIBBS_SITES_KWARG

__all__ = ["Arguments"]

_NUMBERS = (bool, int, float, complex, str, np.generic)


class Arguments:
    """Arguments remembered without keeping arrays alive.

    A Python number that a model computes (a bound, for example) can be another one for other arguments. A
    traced array cannot become a Python number, so only its shape and type count.

    Args:
        model_args: positional arguments of the model.
        model_kwargs: keyword arguments; those that condition a Gibbs block are ignored.
    """

    def __init__(self, model_args: Sequence[Any], model_kwargs: dict[str, Any]):
        leaves, self._structure = _flatten(model_args, model_kwargs)
        self._leaves = [_remember(leaf) for leaf in leaves]

    def are(self, model_args: Sequence[Any], model_kwargs: dict[str, Any]) -> bool:
        """Whether the model computes the same Python numbers from these arguments."""
        leaves, structure = _flatten(model_args, model_kwargs)
        return structure == self._structure and all(map(_matches, self._leaves, leaves))


def _flatten(model_args, model_kwargs):
    others = {name: value for name, value in model_kwargs.items() if name != GIBBS_SITES_KWARG}
    return jax.tree.flatten((tuple(model_args), others))


def _remember(leaf: Any) -> tuple[Any, Any]:
    if isinstance(leaf, (np.ndarray, jax.Array)):
        return None if isinstance(leaf, Tracer) else weakref.ref(leaf), (leaf.shape, leaf.dtype)
    return leaf, None


def _matches(remembered: tuple[Any, Any], leaf: Any) -> bool:
    known, kind = remembered
    if isinstance(leaf, (np.ndarray, jax.Array)):
        if kind != (leaf.shape, leaf.dtype):
            return False
        return known is None or isinstance(leaf, Tracer) or known() is leaf
    if kind is not None:
        return False
    return known is leaf or (isinstance(leaf, _NUMBERS) and type(known) is type(leaf) and known == leaf)
