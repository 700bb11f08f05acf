"""Trajectories of several chains on the host: the local move of `trajectory.py`, in NumPy, in step.

All chains make the same number of steps, and each step asks for their log densities and scores in one batch.
The whole trajectories are kept, because the adaptation learns from every point of them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from qdesampler.kernels.mcmc.integrators import Integrator
from qdesampler.numerics.numpy_metric import HostMetric, to_position_rows, to_whitened_gradient_rows

__all__ = ["DYNAMICS", "Chains", "Evaluate", "HostDynamics", "Trajectories", "joined", "run_trajectories"]

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Points of shape `(n, dim)` to their log densities, shape `(n,)`, and scores, shape `(n, dim)`."""


class Chains(NamedTuple):
    """Evaluated points of several chains.

    Attributes:
        positions: shape `(chains, dim)`.
        log_densities: shape `(chains,)`.
        scores: shape `(chains, dim)`.
    """

    positions: np.ndarray
    log_densities: np.ndarray
    scores: np.ndarray


def joined(parts: Sequence[Chains]) -> Chains:
    """All points of several, in their order."""
    return Chains(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class HostDynamics(NamedTuple):
    """The dynamics of `integrators.py` for rows of NumPy arrays: how velocities are drawn and kicked."""

    refresh: Callable[[np.ndarray], np.ndarray]
    kick: Callable[[np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray]]


# An edge is met where the energy is conserved to 1 nat and the density ends in the next step; a jump where
# the error of a short step (whitened units) is 1 nat and that of the step before was a tenth of it: errors of
# an integrator change little from one short step to the next.
_LARGE_ERROR, _SMALL_ERROR, _SMALL_STEP = 1.0, 0.1, 0.1


class Trajectories(NamedTuple):
    """Trajectories of equal length; `S` points after the start, in whitened displacements from it.

    Attributes:
        displacements: shape `(S, chains, dim)`.
        accept_probs: of ending at each point, shape `(S, chains)`.
        at_edge: the chains whose density ended or jumped from one point to the next, shape `(chains,)`.
        ends: the last points.
        num_evals: evaluations, all chains together.
    """

    displacements: np.ndarray
    accept_probs: np.ndarray
    at_edge: np.ndarray
    ends: Chains
    num_evals: int


def _canonical_kick(velocities, forces, h):
    change = h * np.sum(forces * (velocities + 0.5 * h * forces), 1)
    return velocities + h * forces, change


def _isokinetic_kick(velocities, forces, h):
    dim = velocities.shape[1]
    sizes = np.linalg.norm(forces, axis=1)
    units = forces / np.where(sizes > 0, sizes, 1)[:, None]
    u = velocities / np.sqrt(dim)
    delta = h * sizes * np.sqrt(dim) / (dim - 1)
    cosine = np.clip(np.sum(u * units, 1), -1, 1)
    z = np.exp(-delta)
    turned = units * ((1 - z) * (1 + z + cosine * (1 - z)))[:, None] + (2 * z)[:, None] * u
    turned = turned / np.linalg.norm(turned, axis=1, keepdims=True)
    change = (dim - 1) * (delta - np.log(2.0) + np.log(1 + cosine + (1 - cosine) * z**2))
    return np.sqrt(dim) * turned, change


def _on_sphere(normal: np.ndarray) -> np.ndarray:
    return normal * np.sqrt(normal.shape[1]) / np.linalg.norm(normal, axis=1, keepdims=True)


DYNAMICS = {
    "canonical": HostDynamics(lambda normal: normal, _canonical_kick),
    "isokinetic": HostDynamics(_on_sphere, _isokinetic_kick),
}


def run_trajectories(
    evaluate: Evaluate,
    chains: Chains,
    metric: HostMetric,
    step_size: float,
    num_steps: int,
    rng: np.random.Generator,
    dynamics: HostDynamics,
    integrator: Integrator,
) -> Trajectories:
    """One trajectory of every chain; whether to accept its end is left to the caller.

    Args:
        evaluate: the target.
        chains: where they are.
        metric: the coordinates of the trajectories.
        step_size: whitened units.
        num_steps: steps of every trajectory.
        rng: draws the velocities.
        dynamics: canonical or isokinetic.
        integrator: the splitting of a step.
    """
    positions, values, scores = chains
    count, dim = positions.shape
    velocities = dynamics.refresh(rng.standard_normal((count, dim)))
    displacement, change = np.zeros((count, dim)), np.zeros(count)
    displacements, accept_probs = [], []
    last, change_before, at_edge = np.zeros(count), np.full(count, np.inf), np.zeros(count, bool)

    def forces(scores):
        finite = np.all(np.isfinite(scores), 1)
        return np.where(
            finite[:, None], to_whitened_gradient_rows(metric, np.where(finite[:, None], scores, 0)), 0
        )

    here = Chains(positions, values, scores)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(num_steps):
            for stage, drift in enumerate(integrator.drifts):
                kick = integrator.kicks[stage] * step_size
                velocities, gained = dynamics.kick(velocities, forces(here.scores), kick)
                change = change + gained
                displacement = displacement + drift * step_size * velocities
                points = positions + to_position_rows(metric, displacement)
                here = Chains(points, *evaluate(points))
            kick = integrator.kicks[-1] * step_size
            velocities, gained = dynamics.kick(velocities, forces(here.scores), kick)
            change = change + gained
            error = values - here.log_densities + change
            sound = np.isfinite(here.log_densities) & np.all(np.isfinite(here.scores), 1) & ~np.isnan(error)
            error = np.where(sound & np.all(np.isfinite(points), 1), error, np.inf)
            at_edge |= ~np.isfinite(error) & (np.abs(last) < _LARGE_ERROR)
            made = np.abs(error - last)
            if step_size < _SMALL_STEP:
                at_edge |= (made > _LARGE_ERROR) & (change_before < _SMALL_ERROR)
            last, change_before = error, made
            displacements.append(displacement)
            accept_probs.append(np.exp(np.minimum(-error, 0)))
    evals = num_steps * integrator.stages * count
    return Trajectories(np.stack(displacements), np.stack(accept_probs), at_edge, here, evals)
