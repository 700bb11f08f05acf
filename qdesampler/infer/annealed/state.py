"""The state of an AnnealedQDE chain: `z` is the position on the rung of the posterior."""

from typing import NamedTuple

import jax

from qdesampler.infer.model.kernel_state import KernelState
from qdesampler.kernels.tempering.ladder import Ladder

__all__ = ["AnnealedAdaptState", "AnnealedState"]


class AnnealedAdaptState(NamedTuple):
    """What the warm-up adapts; after it only replicas and sums change.

    Attributes:
        step_size: step size on the rung of the target, whitened units.
        ladder: all rungs, their replicas and the sums for the evidence.
    """

    step_size: jax.Array
    ladder: Ladder


AnnealedState = KernelState[AnnealedAdaptState]
