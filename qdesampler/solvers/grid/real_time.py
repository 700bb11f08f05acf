"""Real-time propagation on a grid, observed step by step: the equation before Wick's rotation.

    i d psi / dt = (-D lap + V) psi,    psi(t) = exp(-i H t) psi(0) = sum_n c_n exp(-i E_n t) psi_n.

No state decays: norm, energy and the weight of every level stay, only the phases turn. The autocorrelation
`<psi(0)|psi(t)> = sum_n |c_n|^2 exp(-i E_n t)` oscillates with the very energies at which `exp(-H tau)`,
`tau = i t`, decays. Steps are Strang's with unitary factors, so that the norm is kept to rounding whatever
the step and the error at a fixed time is of order `dt^2`.

References:
    Feit, Fleck and Steiger, J. Comput. Phys. 47 (1982) 412: split operator with FFT, spectra from the
    autocorrelation.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.solvers.grid.grid import Grid, cap_potential, evaluate_on, evaluate_potential
from qdesampler.solvers.grid.imaginary_time import squared_wavenumbers
from qdesampler.solvers.grid.spectral import SpectralGrid
from qdesampler.validation import as_positive_int, as_positive_scalar

__all__ = ["RealTimeTrajectory", "propagate_real_time"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RealTimeTrajectory:
    """The observables of an oscillating state; an immutable JAX pytree.

    The arrays `time` to `autocorrelation` have the leading length `num_steps + 1`, the start included.

    Attributes:
        time: real time `t`.
        energy: `<psi|H|psi>`, constant but for the error of the splitting.
        norm: `|psi|`, 1.
        mean: of each coordinate under `|psi|^2`, shape `(num_steps + 1, dim)`.
        autocorrelation: `<psi(0)|psi(t)>`, complex.
        state: the last `psi` on the nodes, complex, shape `points`; `sum |psi|^2` times the cell volume is 1.
        grid: the grid (`grid.nodes(axis)` are the coordinates).
    """

    time: jax.Array
    energy: jax.Array
    norm: jax.Array
    mean: jax.Array
    autocorrelation: jax.Array
    state: jax.Array
    grid: Grid = dataclasses.field(metadata={"static": True})


def propagate_real_time(
    hamiltonian: Hamiltonian,
    grid: SpectralGrid,
    psi0: Callable[[jax.Array], ArrayLike],
    *,
    time_step: float,
    num_steps: int,
) -> RealTimeTrajectory:
    """Propagate `psi0` by `num_steps` unitary Strang steps of real time `time_step`.

    The state vanishes on the walls of the box, whatever `grid.boundary` says, and is reflected there.

    Args:
        hamiltonian: what to propagate by.
        grid: bounds and points.
        psi0: the start, real, of any norm: a function of one point of shape `(dim,)`.
        time_step: `dt`, an inverse energy; phases `V dt` are to be small against one where `psi` is.
        num_steps: how many steps.

    Raises:
        TypeError: `num_steps` is not an integer or `time_step` not a number.
        ValueError: `time_step` or `num_steps` is not positive; `psi0` is not finite or is 0 everywhere; what
            `SpectralGrid` refuses about the grid and the potential.
    """
    time_step = float(as_positive_scalar("time_step", time_step))
    num_steps = as_positive_int("num_steps", num_steps)
    box = grid.grid(hamiltonian.dim)
    diffusion = float(hamiltonian.diffusion)
    start = evaluate_on(psi0, box)
    norm = np.linalg.norm(start)
    if not np.isfinite(norm) or norm == 0:
        raise ValueError("psi0 must be finite on the grid and not 0 everywhere.")
    potential = cap_potential(box, evaluate_potential(hamiltonian, box), diffusion)
    real = jnp.result_type(float)
    field = jnp.asarray(potential, real)
    squares = [jnp.asarray(squared_wavenumbers(box, axis), real) for axis in range(box.dim)]
    nodes = [jnp.asarray(box.nodes(axis), real) for axis in range(box.dim)]
    half_potential = jnp.exp(-0.5j * time_step * field)
    kinetic = [jnp.exp(-1j * diffusion * time_step * q) for q in squares]
    first = jnp.asarray(start / norm, half_potential.dtype)

    def observe(psi):
        image = field * psi
        for axis, q in enumerate(squares):
            image = image + diffusion * _multiply(psi, q, axis)
        law = jnp.abs(psi) ** 2
        means = [
            jnp.sum(law, tuple(a for a in range(box.dim) if a != axis)) @ x for axis, x in enumerate(nodes)
        ]
        energy = jnp.vdot(psi, image).real
        return energy, jnp.sqrt(jnp.sum(law)), jnp.stack(means), jnp.vdot(first, psi)

    def step(psi, _):
        psi = half_potential * psi
        for axis, factor in enumerate(kinetic):
            psi = _multiply(psi, factor, axis)
        psi = half_potential * psi
        return psi, observe(psi)

    @jax.jit
    def run(psi):
        initial = observe(psi)
        psi, seen = jax.lax.scan(step, psi, length=num_steps)
        return psi, [jnp.concatenate([a[None], b]) for a, b in zip(initial, seen, strict=True)]

    psi, (energy, norms, mean, overlap) = run(first)
    time = time_step * jnp.arange(num_steps + 1, dtype=real)
    return RealTimeTrajectory(time, energy, norms, mean, overlap, psi / np.sqrt(box.cell_volume), box)


def _multiply(psi: jax.Array, factor: jax.Array, axis: int) -> jax.Array:
    """Multiply the component `sin(k pi (x - lo) / L)` of a complex `psi` by `factor[k]`, `k = 0 .. N`."""
    n = psi.shape[axis]
    odd = jnp.concatenate([psi, -jnp.flip(psi, axis)], axis)
    shape = [1] * psi.ndim
    shape[axis] = 2 * n
    both = jnp.concatenate([factor, jnp.flip(factor[1:n])]).reshape(shape)  # of wavenumber k and -k
    waves = jnp.fft.fft(odd, axis=axis) * both
    return jax.lax.slice_in_dim(jnp.fft.ifft(waves, axis=axis), 0, n, axis=axis)
