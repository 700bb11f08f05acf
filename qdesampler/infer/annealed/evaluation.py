"""The target over flat positions."""

from collections.abc import Callable

from jax.flatten_util import ravel_pytree

from qdesampler.infer.model.evaluation import value_and_gradient
from qdesampler.numerics.types import ValueAndScore

__all__ = ["flat_evaluation"]


def flat_evaluation(potential: Callable, unravel: Callable, *, forward_mode: bool = False) -> ValueAndScore:
    """`x -> (log p, grad log p)` over flat positions; NaN counts as zero density."""
    evaluate = value_and_gradient(potential, forward_mode=forward_mode)

    def evaluated(x):
        energy, gradient = evaluate(unravel(x))
        return -energy, -ravel_pytree(gradient)[0].astype(x.dtype)

    return evaluated
