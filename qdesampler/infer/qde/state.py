"""The state of a QDE chain."""

from typing import NamedTuple

import jax

from qdesampler.infer.model.kernel_state import KernelState
from qdesampler.kernels.adaptation.state import Adaptation

__all__ = ["QDEAdaptState", "QDEState"]


class QDEAdaptState(NamedTuple):
    """The adaptation in a state.

    Attributes:
        step_size: whitened units; with vectorized chains one for each chain.
        trajectory_length: mean length, whitened units; with vectorized chains one for each chain.
        shared: the whole adaptation, one for all chains of a batch.
    """

    step_size: jax.Array
    trajectory_length: jax.Array
    shared: Adaptation


QDEState = KernelState[QDEAdaptState]
