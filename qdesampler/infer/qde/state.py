"""The state of a QDE chain."""

from typing import NamedTuple

import jax

from qdesampler.infer.model.kernel_state import KernelState
from qdesampler.kernels.adaptation.state import Adaptation

__all__ = ["QDEAdaptState", "QDEState"]


class QDEAdaptState(NamedTuple):
    """Adaptation as seen from a state.

    Attributes:
        step_size: whitened units; one for each chain when chains are vectorized.
        trajectory_length: mean length, whitened units; likewise.
        shared: everything else, one for all chains of a batch.
    """

    step_size: jax.Array
    trajectory_length: jax.Array
    shared: Adaptation


QDEState = KernelState[QDEAdaptState]
