"""The state of a QDE chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.infer.model.kernel_state import KernelState, field
from qdesampler.infer.qde.coordinates.maps import CoordinateMap
from qdesampler.infer.qde.site_blocks import SiteBlocks
from qdesampler.kernels.mcmc.mixture import Mixture
from qdesampler.numerics.metric import Metric, dense_matrix
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
        at_floor: whether no step size reached the acceptance that was aimed at, or only a collapsed one.
        edges: fraction of trajectories that met an edge or a jump of the density while moves were adapted.
        law: the triangular map of the second trial, whose coordinates the moves are in, or None.
    """

    mixture: Mixture
    centredness: jax.Array
    num_warmup: jax.Array
    burn_in: jax.Array
    outcome: jax.Array
    acceptance: jax.Array
    outliers: jax.Array
    at_floor: jax.Array
    edges: jax.Array
    law: CoordinateMap | None = None

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
        sites: names of the coordinates; holds no array.
    """

    step_size: jax.Array
    trajectory_length: jax.Array
    shared: Frozen | tuple
    sites: SiteBlocks

    def __getitem__(self, key: Any) -> Any:
        """A field by its position."""
        return field(self, key, ("inverse_mass_matrix", "mass_matrix_sqrt"))

    @property
    def inverse_mass_matrix(self) -> Any:
        """The metric of local moves by site, in the form that NUTS has for the same `dense_mass`.

        A dict from tuples of names to arrays of shape `(n, n)`, or `(n,)` for a diagonal, chains leading; an
        array if positions are no dict. It is a covariance, in the coordinates of the moves: the kernel may
        have re-centred location-scale sites, or moves in the coordinates of a triangular map.
        """
        covariance, is_matrix = self._covariance()
        return self.sites.split(covariance, is_matrix=is_matrix)

    @property
    def mass_matrix_sqrt(self) -> Any:
        """Lower factors `S` of the mass matrix `S S^T`, the inverse of `inverse_mass_matrix`, by site."""
        covariance, is_matrix = self._covariance()
        return self.sites.factors(covariance, is_matrix=is_matrix)

    def _covariance(self) -> tuple[jax.Array, bool]:
        """The covariance of each chain, and whether it is a matrix or its diagonal."""
        if not self.shared:  # a state among those of many draws
            raise AttributeError("It is the same for all draws: read it from `last_state.adapt_state`.")
        chains = jnp.shape(self.step_size)
        if not isinstance(self.shared, Frozen):
            covariance = self.shared.adapt.inverse_mass_matrix  # pyright: ignore[reportAttributeAccessIssue]
            return covariance, covariance.ndim == len(chains) + 2
        metric, is_matrix = self.shared.metric, self.shared.metric.basis.shape[-1] > 0
        own = jnp.ndim(metric.scale) == 2  # chains that ran one after another have one each
        if is_matrix:
            covariance = (jax.vmap(dense_matrix) if own else dense_matrix)(metric)
        else:
            covariance = metric.scale**2
        return covariance if own else jnp.broadcast_to(covariance, chains + covariance.shape), is_matrix


QDEState = KernelState[QDEAdaptState]
