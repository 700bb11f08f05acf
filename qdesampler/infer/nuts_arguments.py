"""NUTS's arguments that QDE checks and translates."""

from typing import Any

import numpy as np
from jax.core import Tracer

__all__ = ["check_nuts_arguments", "most_steps"]


def check_nuts_arguments(kinetic_fn: Any, target_accept_prob: Any) -> None:
    """Refuse what has no meaning here (traced numbers pass).

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
