"""Imaginary-time propagation on a grid, observed step by step.

    d psi / d tau = D lap psi - V psi,    psi(tau) = exp(-H tau) psi(0) -> exp(-E_0 tau) <psi_0|psi(0)> psi_0.

Each state decays at its own energy, the ground state least: after a time `tau` the first excited one is down
by `exp(-gap tau)` against it. A step splits potential from kinetic energy (Strang),

    exp(-H dt) = exp(-V dt / 2) exp(D lap dt) exp(-V dt / 2) + O(dt^3),

so that the error at a fixed time is of order `dt^2`. The kinetic factor is applied exactly by FFT: on the
midpoint grid, `psi` continued as an odd function through the walls is periodic.

References:
    Feit, Fleck and Steiger, J. Comput. Phys. 47 (1982) 412: split operator with FFT.
    Strang, SIAM J. Numer. Anal. 5 (1968) 506.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.solvers.grid.eigensolver import lowest_eigenpairs
from qdesampler.solvers.grid.grid import Grid, cap_potential, evaluate_on, evaluate_potential
from qdesampler.solvers.grid.spectral import SpectralGrid
from qdesampler.validation import as_positive_int, as_positive_scalar

__all__ = [
    "ImaginaryTimeTrajectory",
    "multiply_in_momentum",
    "propagate",
    "squared_wavenumbers",
    "strang_step",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ImaginaryTimeTrajectory:
    """The observables on the way to the ground state; an immutable JAX pytree.

    The arrays `time` to `distance` have shape `(num_steps + 1,)`, the start included.

    Attributes:
        time: imaginary time `tau`.
        energy: `<psi|H|psi> / <psi|psi>`, falling towards `E_0`.
        log_norm: log of the norm of `exp(-H tau) psi(0)`, with `|psi(0)| = 1`; its slope tends to `-E_0`.
        overlap: `<psi_0|psi> / |psi|` with the ground state of the same grid.
        distance: `|psi / |psi| - overlap psi_0|`, falling as `exp(-gap tau)`.
        state: the last `psi` on the nodes, shape `points`; sum of squares times the cell volume is 1.
        grid: the grid (`grid.nodes(axis)` are the coordinates).
    """

    time: jax.Array
    energy: jax.Array
    log_norm: jax.Array
    overlap: jax.Array
    distance: jax.Array
    state: jax.Array
    grid: Grid = dataclasses.field(metadata={"static": True})


def propagate(
    hamiltonian: Hamiltonian,
    grid: SpectralGrid,
    psi0: Callable[[jax.Array], ArrayLike] | ArrayLike | None = None,
    *,
    time_step: float,
    num_steps: int,
) -> ImaginaryTimeTrajectory:
    """Propagate `psi0` by `num_steps` Strang steps of imaginary time `time_step`.

    It runs in `jnp.result_type(float)`; in float32 the distances stop at about `1e-6`. The state vanishes on
    the walls whatever `grid.boundary` says. The ground state it is compared with comes from the eigensolver.

    Args:
        hamiltonian: what to propagate by.
        grid: bounds and points, and the settings of the eigensolver.
        psi0: the start, of any norm: a function of one point of shape `(dim,)`, its values on the nodes, of
            shape `points`, or `None` for the lowest state of the empty box, which no ground state is
            orthogonal to.
        time_step: `dt`, an inverse energy.
        num_steps: how many steps.

    Raises:
        TypeError: `num_steps` is not an integer or `time_step` not a number.
        ValueError: `time_step` or `num_steps` is not positive; `psi0` has a wrong shape, is not finite or is
            0 everywhere; what `SpectralGrid` refuses about the grid and the potential.
    """
    time_step = float(as_positive_scalar("time_step", time_step))
    num_steps = as_positive_int("num_steps", num_steps)
    box = grid.grid(hamiltonian.dim)
    diffusion = float(hamiltonian.diffusion)
    potential = cap_potential(box, evaluate_potential(hamiltonian, box), diffusion)
    ground = lowest_eigenpairs(
        box, potential, diffusion, 1, tolerance=grid.tolerance, max_iterations=grid.max_iterations
    ).states[0]
    scale = np.sqrt(box.cell_volume)  # unit vectors on the nodes while propagating
    start = _start(psi0, box)
    dtype = jnp.result_type(float)
    ground = jnp.asarray(ground * np.sign(ground.sum()) * scale, dtype)
    bottom = potential.min()  # taken out, so that no factor overflows, and put back into energy and norm
    shifted = jnp.asarray(potential - bottom, dtype)
    squares = [jnp.asarray(squared_wavenumbers(box, axis), dtype) for axis in range(box.dim)]
    half_potential = jnp.exp(-shifted * time_step / 2)
    kinetic = [jnp.exp(-diffusion * q * time_step) for q in squares]

    def observe(psi, log_norm):
        image = shifted * psi
        for axis in range(box.dim):
            image = image + diffusion * multiply_in_momentum(psi, squares[axis], axis)
        overlap = jnp.vdot(ground, psi)
        return jnp.vdot(psi, image), log_norm, overlap, jnp.linalg.norm((psi - overlap * ground).ravel())

    def step(carry, _):
        psi, log_norm = carry
        psi = strang_step(psi, half_potential, kinetic)
        norm = jnp.linalg.norm(psi.ravel())
        psi, log_norm = psi / norm, log_norm + jnp.log(norm)
        return (psi, log_norm), observe(psi, log_norm)

    @jax.jit
    def run(psi):
        first = observe(psi, jnp.zeros((), dtype))
        (psi, _), seen = jax.lax.scan(step, (psi, jnp.zeros((), dtype)), length=num_steps)
        return psi, [jnp.concatenate([a[None], b]) for a, b in zip(first, seen, strict=True)]

    psi, (energy, log_norm, overlap, distance) = run(jnp.asarray(start, dtype))
    time = time_step * jnp.arange(num_steps + 1, dtype=dtype)
    return ImaginaryTimeTrajectory(
        time, energy + bottom, log_norm - bottom * time, overlap, distance, psi / scale, box
    )


def strang_step(psi: jax.Array, half_potential: jax.Array, kinetic: list[jax.Array]) -> jax.Array:
    """Return `exp(-V dt / 2) exp(D lap dt) exp(-V dt / 2) psi` on the nodes.

    Args:
        psi: the state, shape `points`.
        half_potential: `exp(-V dt / 2)`, shape `points`.
        kinetic: for each axis `exp(-D (k pi / L)^2 dt)`, `k = 0 .. N`.
    """
    psi = half_potential * psi
    for axis, factor in enumerate(kinetic):
        psi = multiply_in_momentum(psi, factor, axis)
    return half_potential * psi


def multiply_in_momentum(psi: jax.Array, factor: jax.Array, axis: int) -> jax.Array:
    """Multiply the component `sin(k pi (x - lo) / L)` of `psi` along an axis by `factor[k]`, `k = 0 .. N`."""
    n = psi.shape[axis]
    odd = jnp.concatenate([psi, -jnp.flip(psi, axis)], axis)
    shape = [1] * psi.ndim
    shape[axis] = n + 1
    waves = jnp.fft.rfft(odd, axis=axis) * factor.reshape(shape)
    return jax.lax.slice_in_dim(jnp.fft.irfft(waves, 2 * n, axis=axis), 0, n, axis=axis)


def squared_wavenumbers(grid: Grid, axis: int) -> np.ndarray:
    """Return `(k pi / L)^2` of an axis, `k = 0 .. N`."""
    return np.concatenate([[0.0], grid.wavenumbers(axis) ** 2])


def _start(psi0: Callable[[jax.Array], ArrayLike] | ArrayLike | None, grid: Grid) -> np.ndarray:
    """Return the start on the nodes, as a unit vector."""
    if psi0 is None:
        start = np.ones(())
        for n in grid.points:
            start = np.multiply.outer(start, np.sin(np.pi * (np.arange(n) + 0.5) / n))
    elif callable(psi0):
        start = evaluate_on(psi0, grid)
    else:
        start = np.asarray(psi0, np.float64)
    if start.shape != grid.points:
        raise ValueError(
            f"psi0 must be a function of one point or an array of shape {grid.points}, "
            f"got shape {start.shape}."
        )
    if not np.isfinite(start).all():
        raise ValueError("psi0 must be finite on the grid, got NaN or infinity.")
    norm = np.linalg.norm(start)
    if norm == 0:
        raise ValueError("psi0 must not be 0 everywhere on the grid; it has no state to keep.")
    return start / norm
