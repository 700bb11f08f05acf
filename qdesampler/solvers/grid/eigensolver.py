"""The lowest eigenpairs of `H = -D lap + V` on a grid, in float64.

One axis: the matrix is small and is diagonalised. Two and three axes: block Davidson. A basis is grown by
preconditioned residuals `K (H - theta) psi`, and `H` is diagonalised in it (Rayleigh-Ritz). With `c` the
zero-point energy `theta_0 - min V`,

    K = w (-D lap + c)^-1 w,        w^2 = c / (c + V - min V),

is close to `(H - theta_0)^-1` both where the potential is high and where the state oscillates fast, and costs
two sine transforms. The basis is started with the lowest product states of the mean-field Hamiltonian

    H_mf = sum_i ( -D d^2/dx_i^2 + v_i(x_i) ),        v_i(x_i) = E[V | x_i] under the product density,

so that a separable potential is solved at once, its degenerate levels complete. Whole blocks are iterated,
with guard states above the requested ones and random vectors among the first, so that no level is missed
because of its symmetry.

References:
    Davidson, J. Comput. Phys. 17 (1975) 87; Liu, "The simultaneous expansion method" (1978): blocks.
    Bowman, Acc. Chem. Res. 19 (1986) 202: self-consistent product states.
"""

import dataclasses

import numpy as np
import scipy.linalg

from qdesampler.solvers.grid.grid import Grid, outer_sum

__all__ = ["Eigenpairs", "lowest_eigenpairs"]

_SELF_CONSISTENT_SWEEPS = 8  # iterations of the mean field
_RANDOM_VECTORS = 2  # random vectors among the first of the basis
_GUARD_TOLERANCE = 1e-3  # residual of a guard state, in units of the zero-point energy


@dataclasses.dataclass(frozen=True)
class Eigenpairs:
    """Lowest eigenpairs on a grid.

    Attributes:
        energies: ascending, shape `(m,)` with `m` at least the requested number; the others are approximate.
        states: the requested ones, shape `(states,) + points`; sum of squares times the cell volume is 1.
        residual: largest norm of `(H - E) psi` among `states`.
        rounding: floor of that norm in float64.
        iterations: Rayleigh-Ritz steps taken (0: diagonalised).
    """

    energies: np.ndarray
    states: np.ndarray
    residual: float
    rounding: float
    iterations: int


def lowest_eigenpairs(
    grid: Grid, potential: np.ndarray, diffusion: float, states: int, *, tolerance: float, max_iterations: int
) -> Eigenpairs:
    """Return the lowest eigenpairs of `-D lap + V` with `psi = 0` on the walls.

    Args:
        grid: the grid.
        potential: `V` on its nodes.
        diffusion: `D`.
        states: how many eigenpairs.
        tolerance: largest residual norm, in units of the zero-point energy `E_0 - min V` (two and three
            axes).
        max_iterations: most Rayleigh-Ritz steps (two and three axes).

    Raises:
        RuntimeError: the residuals did not fall below the tolerance.
    """
    largest = grid.largest_kinetic_energy(diffusion) + float(np.abs(potential).max())
    rounding = 4 * np.finfo(np.float64).eps * largest
    if grid.dim == 1:
        matrix = diffusion * grid.negative_laplacian_matrix(0) + np.diag(potential)
        last = min(states, grid.size - 1)  # one more than requested: the next level limits the error
        energies, vectors = scipy.linalg.eigh(matrix, subset_by_index=(0, last))
        residual = np.linalg.norm(matrix @ vectors - vectors * energies, axis=0)[:states].max()
        iterations = 0
        vectors = vectors.T[:states]
    else:
        energies, vectors, residual, iterations = _davidson(
            grid, potential, diffusion, states, tolerance, 4 * rounding, max_iterations
        )
    scaled = vectors.reshape(states, *grid.points) / np.sqrt(grid.cell_volume)
    return Eigenpairs(energies, scaled, float(residual), rounding, iterations)


def _product_states(grid: Grid, potential: np.ndarray, diffusion: float, count: int) -> np.ndarray:
    """Return the `count` lowest product states of the mean field, one flattened state a row."""
    kinetic = [diffusion * grid.negative_laplacian_matrix(i) for i in range(grid.dim)]
    lowest = np.unravel_index(np.argmin(potential), potential.shape)
    densities = [np.eye(n)[k] for n, k in zip(grid.points, lowest, strict=True)]
    for _ in range(_SELF_CONSISTENT_SWEEPS):
        profiles = [_conditional_mean(potential, densities, i) for i in range(grid.dim)]
        solutions = [np.linalg.eigh(k + np.diag(v)) for k, v in zip(kinetic, profiles, strict=True)]
        densities = [basis[:, 0] ** 2 for _, basis in solutions]
    levels = outer_sum([energies for energies, _ in solutions])
    rows = []
    for flat in np.argsort(levels, axis=None, kind="stable")[:count]:
        state = np.ones(())
        for (_, basis), k in zip(solutions, np.unravel_index(flat, grid.points), strict=True):
            state = np.multiply.outer(state, basis[:, k])
        rows.append(state.ravel())
    return np.stack(rows)


def _conditional_mean(potential: np.ndarray, densities: list[np.ndarray], axis: int) -> np.ndarray:
    for other in reversed(range(potential.ndim)):
        if other != axis:
            potential = np.tensordot(potential, densities[other], axes=(other, 0))
    return potential


def _davidson(
    grid: Grid,
    potential: np.ndarray,
    diffusion: float,
    states: int,
    tolerance: float,
    floor: float,
    max_iterations: int,
) -> tuple[np.ndarray, np.ndarray, float, int]:
    bottom = potential.min()

    def apply(rows: np.ndarray) -> np.ndarray:
        psi = rows.reshape(-1, *grid.points)
        return (diffusion * grid.negative_laplacian(psi) + potential * psi).reshape(rows.shape)

    def precondition(rows: np.ndarray, zero_point: float) -> np.ndarray:
        weight = np.sqrt(zero_point / (zero_point + potential - bottom))
        psi = grid.resolvent(weight * rows.reshape(-1, *grid.points), zero_point / diffusion)
        return (weight * psi).reshape(rows.shape)

    block = min(2 * states + 2 + _RANDOM_VECTORS, grid.size // 4)
    limit = min(max(5 * block, 40), grid.size // 2)
    products = _product_states(grid, potential, diffusion, block - _RANDOM_VECTORS)
    zero_point = float(np.vdot(products[0], apply(products[:1]))) - bottom
    # The random vectors are always the same; they only have to overlap with every level.
    noise = np.random.default_rng(0).standard_normal((_RANDOM_VECTORS, grid.size))
    start = np.concatenate([products, precondition(noise, zero_point)])
    basis = _orthonormal_rows(start, np.zeros((0, grid.size)))
    images = apply(basis)
    projected = basis @ images.T
    norms, goal, previous = np.array([np.inf]), 0.0, np.zeros((0, len(basis)))
    for iteration in range(1, max_iterations + 1):
        energies, mixing = np.linalg.eigh((projected + projected.T) / 2)
        zero_point = max(float(energies[0]) - bottom, floor)
        ritz = mixing[:, :block].T
        residuals = ritz @ images - energies[:block, None] * (ritz @ basis)
        norms = np.linalg.norm(residuals, axis=1)
        goal = max(tolerance * zero_point, floor)
        goals = np.full(len(norms), max(goal, _GUARD_TOLERANCE * zero_point))
        goals[:states] = goal
        late = norms > goals
        if len(norms) == block and not late.any():
            return energies[:block], ritz[:states] @ basis, float(norms[:states].max()), iteration
        if len(basis) + block > limit:
            before = np.pad(previous, [(0, 0), (0, len(basis) - previous.shape[1])])
            keep = np.concatenate([ritz, _orthonormal_rows(before, ritz)])
            basis, images, projected = keep @ basis, keep @ images, keep @ projected @ keep.T
            ritz = np.eye(len(ritz), len(keep))
        previous = ritz
        fresh = _orthonormal_rows(precondition(residuals[late], zero_point), basis)
        if len(fresh) == 0:
            break
        fresh_images = apply(fresh)
        basis, images = np.concatenate([basis, fresh]), np.concatenate([images, fresh_images])
        column = basis @ fresh_images.T
        projected = np.block(
            [[projected, column[: -len(fresh)]], [column[: -len(fresh)].T, column[-len(fresh) :]]]
        )
    raise RuntimeError(
        f"the eigensolver stopped with residual {norms[:states].max():.2e} where {goal:.2e} was asked for "
        f"(max_iterations = {max_iterations}). Raise max_iterations or tolerance, ask for fewer states, or "
        "rescale the coordinates so that the state is about as wide in each."
    )


def _orthonormal_rows(rows: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the part of `rows` orthogonal to the orthonormal rows of `basis`."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for _ in range(2):  # twice is enough (Kahan and Parlett)
        rows = rows - (rows @ basis.T) @ basis
        _, singular, right = np.linalg.svd(rows, full_matrices=False)
        rows = right[singular > 1e-13]
    return rows
