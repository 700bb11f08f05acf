"""How wrong the levels of a grid are, measured.

Four errors add up. Each is taken from the solution itself:

* *spacing*: the state, a sine series, is put on a grid of half the spacing. There its Rayleigh quotient `rho`
  (which is reported) is compared with the level of the coarse grid, and its residual `r = |(H - rho) psi|`
  limits the distance of `rho` to a true level by `r`, and by `r^2 / delta` where the next level is `delta`
  away (Temple);
* *bounds*: the walls hold the state to 0 where, left alone, it would be `a = psi' / (2 kappa)`, falling as
  `exp(-kappa s)` with `kappa^2 = (V - E) / D`. That costs the energy `D psi'^2 / (2 kappa)` and hides the
  mass `a^2 / (2 kappa)`, per unit area of wall;
* *rounding* in float64;
* *the potential*, where JAX evaluates it in float32: its noise is in `r`, which then counts in first order.

References:
    Temple, Proc. R. Soc. A 119 (1928) 276; Weinstein, PNAS 20 (1934) 529: bounds by the residual.
"""

import jax.numpy as jnp
import numpy as np

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.solvers.grid.eigensolver import Eigenpairs
from qdesampler.solvers.grid.grid import Grid, cap_potential, evaluate_potential

__all__ = ["refined_levels", "wall_leakage"]


def refined_levels(
    hamiltonian: Hamiltonian, grid: Grid, potential: np.ndarray, pairs: Eigenpairs, *, hard: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the levels as Rayleigh quotients on the refined grid, ascending, and their errors.

    Args:
        hamiltonian: `H`.
        grid: the grid of `pairs`.
        potential: `V` on it.
        pairs: its eigenpairs.
        hard: whether the walls are part of the problem, so that they make no error.
    """
    diffusion = float(hamiltonian.diffusion)
    fine_grid = grid.refined()
    fine_potential = cap_potential(fine_grid, evaluate_potential(hamiltonian, fine_grid), diffusion)
    rough = jnp.result_type(float) != jnp.float64
    levels, errors = [], []
    for energy, state in zip(pairs.energies, pairs.states, strict=False):
        psi = grid.refine(state)
        psi /= np.linalg.norm(psi)
        image = diffusion * fine_grid.negative_laplacian(psi) + fine_potential * psi
        level = float(np.vdot(psi, image))
        residual = float(np.linalg.norm(image - level * psi))
        distances = np.abs(pairs.energies - level)
        distances = distances[distances > 10 * residual]
        bound = residual
        if not rough and distances.size:
            bound = residual**2 / distances.min()
        leakage = 0.0 if hard else wall_leakage(grid, state, potential, energy, diffusion)[1]
        rounding = pairs.rounding + float(jnp.finfo(jnp.result_type(float)).eps) * abs(level)
        levels.append(level)
        errors.append(abs(level - energy) + bound + leakage + rounding)
    order = np.argsort(levels)
    return np.array(levels)[order], np.array(errors)[order]


def wall_leakage(
    grid: Grid, state: np.ndarray, potential: np.ndarray, energy: float, diffusion: float
) -> tuple[float, float]:
    """Return the mass the free state would have outside the box, and the energy the walls add to it."""
    mass = shift = 0.0
    for axis in range(grid.dim):
        area = grid.cell_volume / grid.spacing[axis]
        for slopes, index in zip(grid.wall_slopes(state, axis), (0, -1), strict=True):
            excess = (np.take(potential, index, axis=axis) - energy) / diffusion
            # Where the state does not decay, the decay length is that of the lowest wave in the box.
            kappa = np.sqrt(np.maximum(excess, (np.pi / grid.lengths[axis]) ** 2))
            mass += float(np.sum(slopes**2 / (8 * kappa**3))) * area
            shift += diffusion * float(np.sum(slopes**2 / (2 * kappa))) * area
    return mass, shift
