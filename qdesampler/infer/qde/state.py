"""The state of a QDE chain."""

from typing import NamedTuple

import jax

from qdesampler.infer.model.kernel_state import KernelState
from qdesampler.kernels.mcmc.mixture import Mixture
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.trial import Trial

__all__ = ["Frozen", "QDEAdaptState", "QDEState"]


class Frozen(NamedTuple):
    """What the warm-up on the host has fixed, one for all chains.

    Attributes:
        mixture: the transition: trial, step size, length and proportions.
        centredness: of each coordinate of the moves, shape `(dim,)`; 1 is the model as written.
        num_warmup: iterations of the warm-up.
        burn_in: its first iterations, in which chains leave their starts; the others make no evaluations.
        outcome: index into `qdesampler.infer.qde.warmup.OUTCOMES`.
        acceptance: of the trial.
        outliers: descents that ended far outside the trial, perhaps in other modes.
        at_floor: whether no step size reached the acceptance that was aimed at.
    """

    mixture: Mixture
    centredness: jax.Array
    num_warmup: jax.Array
    burn_in: jax.Array
    outcome: jax.Array
    acceptance: jax.Array
    outliers: jax.Array
    at_floor: jax.Array

    @property
    def trial(self) -> Trial:
        """Candidates of global moves."""
        return self.mixture.trial

    @property
    def metric(self) -> Metric:
        """The whitening of trajectories, which is that of the trial."""
        return self.mixture.trial.metric

    @property
    def step_size(self) -> jax.Array:
        """Of trajectories, whitened units."""
        return self.mixture.step_size

    @property
    def global_probability(self) -> jax.Array:
        """Probability that an iteration makes a global move."""
        return self.mixture.probability


class QDEAdaptState(NamedTuple):
    """The adaptation in a state.

    Attributes:
        step_size: whitened units; with vectorized chains one for each chain.
        trajectory_length: mean length, whitened units; with vectorized chains one for each chain.
        shared: `Frozen`, one for all chains of a batch; or, where the target is not known before a chain
            moves (inside Gibbs, or with traced arguments), the state of NumPyro's own warm-up of each chain.
    """

    step_size: jax.Array
    trajectory_length: jax.Array
    shared: Frozen | tuple


QDEState = KernelState[QDEAdaptState]
