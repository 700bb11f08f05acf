"""The state of an AnnealedQDE chain: `z` stands on the rung of the posterior."""

from typing import NamedTuple

import jax

from qdesampler.infer.model.kernel_state import KernelState
from qdesampler.kernels.tempering.ladder import Ladder

__all__ = ["AnnealedAdaptState", "AnnealedState"]


class AnnealedAdaptState(NamedTuple):
    """What the warm-up adapts, frozen after it but for replicas and sums.

    Attributes:
        step_size: on the rung of the target, whitened units.
        ladder: all rungs, their replicas and the sums kept.
    """

    step_size: jax.Array
    ladder: Ladder


AnnealedState = KernelState[AnnealedAdaptState]
