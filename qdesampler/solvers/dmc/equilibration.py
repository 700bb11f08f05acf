"""Where walkers start: draws from the trial's own density, points that are given, or a Metropolis run."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.solvers.dmc.diffusion_step import Guide, Walker, is_broken, make_walker, propose
from qdesampler.solvers.protocol import GroundState

__all__ = ["EquilibratedWalkers", "equilibrate"]

_SWEEPS = 600  # Metropolis moves of each walker
_ACCEPTANCE = 0.6  # mean acceptance that the step length is tuned to
_ADAPTATION = 0.2  # change of the log step length, per sweep and unit of excess acceptance
_QUANTILE = 0.05  # the spread of the local energy is taken between this quantile and 1 minus it
_WIDTH = 3.2897  # distance of these two quantiles of a standard Gaussian
_SPREADS, _KINETIC = 30.0, 3.0  # spreads and kinetic energies by which a ground state may lie below the trial


class EquilibratedWalkers(NamedTuple):
    """Walkers distributed like `psi_T^2`, as well as the start allows.

    Attributes:
        walker: walkers on the last axis.
        energy: mean local energy, without the outer tenth: a first reference energy.
        spread: width of the middle nine tenths of the local energies, as a Gaussian's standard deviation.
        depth: 30 spreads and 3 kinetic energies: an energy lower than `energy - depth` counts as runaway.
    """

    walker: Walker
    energy: float
    spread: float
    depth: float


@jax.jit
def _evaluate_all(guide: Guide, points: jax.Array) -> tuple[Walker, jax.Array]:
    walkers = jax.vmap(lambda x: make_walker(guide, x), out_axes=-1)(points)
    return walkers, jax.vmap(is_broken, in_axes=-1)(walkers)


@jax.jit
def _metropolis(guide: Guide, walkers: Walker, tau: jax.Array, key: jax.Array) -> Walker:
    """Sample `psi_T^2`. The step is tuned meanwhile; the bias of that is negligible at the end."""

    def metropolis_sweep(state, sweep_key):
        walkers, tau = state
        key_noise, key_uniform = jax.random.split(sweep_key)
        noise = jax.random.normal(key_noise, walkers.x.shape, walkers.x.dtype)
        new, log_ratio, _ = jax.vmap(lambda w, xi: propose(guide, w, tau, xi), in_axes=-1, out_axes=-1)(
            walkers, noise
        )
        uniform = jax.random.uniform(key_uniform, log_ratio.shape, log_ratio.dtype)
        taken = jnp.log(uniform) < log_ratio
        walkers = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, walkers)
        acceptance = jnp.mean(jnp.exp(jnp.minimum(log_ratio, 0)))
        return (walkers, tau * jnp.exp(_ADAPTATION * (acceptance - _ACCEPTANCE))), None

    return jax.lax.scan(metropolis_sweep, (walkers, tau), jax.random.split(key, _SWEEPS))[0][0]


def _points(
    guide: Guide, start: np.ndarray | Callable | None, count: int, tau: float, key: jax.Array
) -> jax.Array:
    """Starting points, shape `(count, dim)`."""
    dim, dtype = guide.hamiltonian.dim, jnp.result_type(float)
    if callable(start):
        points = jnp.asarray(jax.vmap(start)(jax.random.split(key, count)), dtype)
        if points.shape != (count, dim):
            raise ValueError(
                f"start must map a key to one point of shape ({dim},), got shape {points.shape[1:]}."
            )
        return points
    given = np.zeros(dim) if start is None else start
    if given.shape[-1:] != (dim,) or given.ndim > 2 or given.size == 0:
        raise ValueError(
            f"start must be one point of shape ({dim},) or points of shape (n, {dim}), got {given.shape}."
        )
    if given.ndim == 2:
        return jnp.asarray(given[np.arange(count) % len(given)], dtype)
    width = jnp.sqrt(2 * guide.hamiltonian.diffusion * tau)
    return jnp.asarray(given, dtype) + width * jax.random.normal(key, (count, dim), dtype)


def equilibrate(
    guide: Guide,
    trial: GroundState | None,
    start: np.ndarray | Callable | None,
    count: int,
    tau: float,
    key: jax.Array,
) -> EquilibratedWalkers:
    """Return `count` walkers: draws of `trial`, or the end of a Metropolis run from `start`.

    Raises:
        ValueError: `start` has another shape than `(dim,)` or `(n, dim)`; the trial vanishes at every start,
            or all of them lie behind a wall.
        FloatingPointError: trial, gradient or local energy is not a number at a start.
    """
    key_points, key_run = jax.random.split(key)
    if trial is not None and start is None:
        points = trial.sample(key_points, (count,))
    else:
        points = _points(guide, start, count, tau, key_points)
    walkers, broken = _evaluate_all(guide, points)
    if bool(jnp.any(broken)):
        raise FloatingPointError(
            f"log psi_T, its gradient or the local energy is not a number at {int(jnp.sum(broken))} of "
            f"{count} starting points, such as x = {np.asarray(points)[np.argmax(broken)]}; check the trial "
            "and the potential there (sqrt and norms at 0 have no gradient), or give another start."
        )
    good = np.flatnonzero(jnp.isfinite(walkers.log_psi) & jnp.isfinite(walkers.local_energy))
    if good.size == 0:
        raise ValueError(
            f"the trial is zero, or the potential infinite, at all of {count} starting points: no overlap "
            "with the ground state can be seen. Give start=, points where the trial is not zero."
        )
    walkers = jax.tree.map(lambda a: a[..., good[np.arange(count) % good.size]], walkers)
    if trial is None or start is not None or good.size < count:
        walkers = _metropolis(guide, walkers, jnp.asarray(tau, walkers.x.dtype), key_run)
    energies = np.asarray(walkers.local_energy, np.float64)
    energies = energies[np.isfinite(energies)]
    if energies.size == 0:
        raise ValueError("the trial's density lies behind the walls of the potential; take another trial.")
    low, high = np.quantile(energies, [_QUANTILE, 1 - _QUANTILE])
    bulk = energies[(energies >= low) & (energies <= high)]
    energy = float(bulk.mean())
    rounding = float(jnp.finfo(walkers.x.dtype).eps) * max(abs(energy), 1.0)
    spread = max(float(high - low) / _WIDTH, rounding)
    slopes = np.asarray(walkers.slope, np.float64)
    kinetic = float(guide.hamiltonian.diffusion) * float(np.median(np.sum(slopes**2, 0)))
    return EquilibratedWalkers(walkers, energy, spread, _SPREADS * spread + _KINETIC * kinetic)
