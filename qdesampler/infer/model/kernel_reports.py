"""What a kernel can report about a finished run; `qdesampler.infer.model.kernel_base` has the questions."""

import warnings
from typing import Any, NamedTuple

import numpy as np

from qdesampler.numerics.trial import Trial

__all__ = ["EvidenceReport", "LadderSummary", "TrialReport"]


class TrialReport(NamedTuple):
    """The density from which a kernel proposes its global moves.

    Attributes:
        trial: the density, in the coordinates of the moves.
        as_written: whether each coordinate of the moves is a coordinate of the draws; the others are
            re-centred by the kernel. Shape `(dim,)`.
        global_probability: probability that an iteration makes a global move.
    """

    trial: Trial
    as_written: np.ndarray
    global_probability: float


class EvidenceReport(NamedTuple):
    """The evidence, and the estimates that support it; all in nats.

    Attributes:
        value: `log Z` of the potential given.
        standard_error: standard error of `value`.
        lower: stepping stones upwards, below `log Z` in expectation.
        upper: stepping stones downwards, above `log Z` in expectation.
        by_chain: bridge estimate of each chain, shape `(chains,)`.
        by_particles: `log Z` by the last pass of particles before the warm-up, log of the mean over chains.
        by_particles_error: standard error of `by_particles`, from the spread over chains; NaN for one chain.
        iterations: number of kept iterations of each chain.
    """

    value: float
    standard_error: float
    lower: float
    upper: float
    by_chain: np.ndarray
    by_particles: float
    by_particles_error: float
    iterations: int


class LadderSummary(NamedTuple):
    """Numbers of a ladder over the kept iterations; arrays have the chains on the leading axis.

    Attributes:
        betas: position of each rung on the path, shape `(chains, rungs)`.
        swap_rates: mean acceptance of each pair, shape `(chains, rungs - 1)`.
        barrier: sum of the rejection rates, shape `(chains,)`.
        round_trips: number of round trips from the reference to the posterior and back, shape `(chains,)`.
        expected_round_trips: round trips that the swap rates predict if local moves forget their start, shape
            `(chains,)`.
        flow: fraction of replicas on each rung that came from the reference, from 1 down to 0, shape
            `(chains, rungs)`.
        specific_heat: variance of the work from the rung below over the squared step, at each rung above the
            reference, shape `(chains, rungs - 1)`.
        step_sizes: step size of each rung, shape `(chains, rungs)`.
        num_steps: leapfrog steps of a trajectory, shape `(chains,)`.
        move_every: iterations from one trajectory to the next, shape `(chains,)`.
        components: Gaussians of the fitted reference; 0 for the prior reference, -1 for a product of mixtures
            on the axes, -2 for a triangular map, -3 for the trial of a solve, shape `(chains,)`.
        missed_mass: mass of modes that descents found and particles missed, shape `(chains,)`.
        iterations: kept iterations of a chain.
        missed_in_reference: whether the reference of every chain has the modes that particles missed.
        missed_mass_limit: missed mass above which estimates are in doubt.
        surprising: fraction of the draws of one population of particles that the reference fitted to the
            others did not expect, shape `(chains,)`.
    """

    betas: np.ndarray
    swap_rates: np.ndarray
    barrier: np.ndarray
    round_trips: np.ndarray
    expected_round_trips: np.ndarray
    flow: np.ndarray
    specific_heat: np.ndarray
    step_sizes: np.ndarray
    num_steps: np.ndarray
    move_every: np.ndarray
    components: np.ndarray
    missed_mass: np.ndarray
    iterations: int
    missed_in_reference: bool
    missed_mass_limit: float
    surprising: np.ndarray

    @property
    def fractions(self) -> np.ndarray:
        """The old name of `betas`; deprecated."""
        return self._renamed("fractions", "betas")

    @property
    def hidden_share(self) -> np.ndarray:
        """The old name of `missed_mass`; deprecated."""
        return self._renamed("hidden_share", "missed_mass")

    def _renamed(self, old: str, new: str) -> Any:
        warnings.warn(f"The field {old} is now called {new}.", DeprecationWarning, stacklevel=3)
        return getattr(self, new)
