"""What a ladder of replicas did, as numbers."""

from typing import Any, NamedTuple

import numpy as np

from qdesampler.infer.annealed.evidence import ladder_of


class LadderSummary(NamedTuple):
    """Numbers of a ladder, over the kept iterations; arrays have the chains on the leading axis.

    Attributes:
        betas: position of each rung on the path, shape `(chains, rungs)`.
        swap_rates: mean acceptance of each pair, shape `(chains, rungs - 1)`.
        barrier: sum of the rejection rates, shape `(chains,)`.
        round_trips: from the reference to the posterior and back, shape `(chains,)`.
        expected_round_trips: what the swap rates promise where local moves forget, shape `(chains,)`.
        flow: share of replicas on each rung that came from the reference, from 1 down to 0,
            shape `(chains, rungs)`.
        specific_heat: variance of the work from the rung below over the squared step, at each rung above the
            reference, shape `(chains, rungs - 1)`.
        step_sizes: shape `(chains, rungs)`.
        num_steps: of a trajectory, shape `(chains,)`.
        move_every: iterations from one trajectory to the next, shape `(chains,)`.
        components: Gaussians of the fitted reference, 0 for the prior one, -1 for a product of mixtures on
            the axes, -2 for an autoregressive Gaussian, shape `(chains,)`.
        missed_mass: mass of modes that descents found and particles missed, shape `(chains,)`.
        iterations: kept, of a chain.
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


def ladder_summary(run: Any) -> LadderSummary:
    """Barrier, round trips, swap rates, flow and specific heat of a run.

    Args:
        run: a `numpyro.infer.MCMC` with AnnealedQDE after `run`, or its last state.

    Raises:
        ValueError: another kernel, or nothing was kept.
    """
    ladder = ladder_of(run)
    kept = ladder.kept
    counts = kept.counts.sum(axis=1).astype(float)
    if counts.min() < 1:
        raise ValueError("No iteration was kept: run the sampler first, with mcmc.run(key, ...).")
    rejections = kept.rejections / counts[:, None]
    mean, square = kept.work[:, 0] / counts[:, None], kept.work[:, 1] / counts[:, None]
    steps = np.diff(ladder.betas.astype(float), axis=1)
    heat = np.maximum(square - mean**2, 0) / np.maximum(steps, 1e-12) ** 2
    odds = np.sum(rejections / np.maximum(1 - rejections, 1e-6), axis=1)
    settled = np.maximum(kept.settled, 1)
    return LadderSummary(
        betas=ladder.betas,
        swap_rates=1 - rejections,
        barrier=rejections.sum(axis=1),
        round_trips=kept.round_trips,
        # A pair has its turn in every second iteration, but where there is one pair only in each.
        expected_round_trips=counts / (2 + 2 * odds) * (2 if rejections.shape[1] == 1 else 1),
        flow=kept.upward / settled,
        specific_heat=heat,
        step_sizes=ladder.step_sizes,
        num_steps=ladder.num_steps,
        move_every=ladder.move_every,
        components=ladder.components,
        missed_mass=ladder.missed_mass,
        iterations=int(counts.min()),
    )
