"""A tensor grid in a box, and the kinetic energy on it to spectral accuracy.

One axis of length `L = hi - lo` and `N` points has nodes at the midpoints of `N` equal cells and the basis of
the particle in a box,

    x_j = lo + (j + 1/2) h,  h = L / N,  j = 0 .. N-1,        sin(k pi (x - lo) / L),  k = 1 .. N,

orthogonal on the nodes, where functions vanish at both walls. In it `-d^2/dx^2` is diagonal,
`(k pi / L)^2`: the discrete-variable representation, which converges faster than any power of `h` for a
smooth state that dies out before the walls (or really vanishes there).

References:
    Colbert and Miller, J. Chem. Phys. 96 (1992) 1982: discrete-variable representation on a uniform grid.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from qdesampler.equation.hamiltonian import Hamiltonian

__all__ = ["Grid", "cap_potential", "evaluate_on", "evaluate_potential", "outer_sum"]

_POINTS_PER_CALL = 32768  # nodes evaluated at once, to limit memory


@dataclasses.dataclass(frozen=True)
class Grid:
    """Midpoint grid of shape `points` in the box from `lower` to `upper`. Immutable and hashable.

    Attributes:
        lower: lower corner, one number per axis.
        upper: upper corner.
        points: number of nodes per axis.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    points: tuple[int, ...]

    @property
    def dim(self) -> int:
        """Number of axes."""
        return len(self.points)

    @property
    def size(self) -> int:
        """Number of nodes."""
        return math.prod(self.points)

    @property
    def lengths(self) -> np.ndarray:
        """Edge lengths of the box, shape `(dim,)`."""
        return np.subtract(self.upper, self.lower)

    @property
    def spacing(self) -> np.ndarray:
        """Edge lengths `h` of a cell, shape `(dim,)`."""
        return self.lengths / np.asarray(self.points)

    @property
    def cell_volume(self) -> float:
        """Volume of a cell, the weight of a node in a quadrature."""
        return float(np.prod(self.spacing))

    def nodes(self, axis: int) -> np.ndarray:
        """Return the nodes of one axis, shape `(points[axis],)`."""
        return self.lower[axis] + (np.arange(self.points[axis]) + 0.5) * self.spacing[axis]

    def wavenumbers(self, axis: int) -> np.ndarray:
        """Return `k pi / L` for `k = 1 .. N`."""
        return np.arange(1, self.points[axis] + 1) * np.pi / self.lengths[axis]

    def mesh(self) -> np.ndarray:
        """Return all nodes, shape `points + (dim,)`."""
        return np.stack(np.meshgrid(*map(self.nodes, range(self.dim)), indexing="ij"), axis=-1)

    def refined(self) -> "Grid":
        """Return the grid with every cell halved along every axis."""
        return dataclasses.replace(self, points=tuple(2 * n for n in self.points))

    def largest_kinetic_energy(self, diffusion: float) -> float:
        """Return `D sum_i (pi / h_i)^2`, the largest kinetic energy the grid can carry."""
        return diffusion * float(np.sum((np.pi / self.spacing) ** 2))

    def negative_laplacian(self, psi: np.ndarray) -> np.ndarray:
        """Return `-lap psi`; axes of `psi` in front of the grid's are batch axes."""
        return self._multiply_in_sine_basis(psi, self._squared_wavenumbers())

    def resolvent(self, psi: np.ndarray, shift: float) -> np.ndarray:
        """Return `(-lap + shift)^-1 psi`; axes of `psi` in front of the grid's are batch axes."""
        return self._multiply_in_sine_basis(psi, 1 / (self._squared_wavenumbers() + shift))

    def negative_laplacian_matrix(self, axis: int) -> np.ndarray:
        """Return `-d^2/dx^2` along one axis as a symmetric matrix, shape `(N, N)`."""
        basis = _sine_transform(np.eye(self.points[axis]), (0,))
        return basis.T @ (self.wavenumbers(axis)[:, None] ** 2 * basis)

    def refine(self, psi: np.ndarray) -> np.ndarray:
        """Return the same function on `refined()`: its sine series, evaluated on the finer nodes."""
        for axis, n in enumerate(self.points):
            series = _sine_series(psi, axis)
            padding = [(0, n) if i == axis else (0, 0) for i in range(self.dim)]
            # Undo the scale of `_sine_series` for an orthonormal transform of length 2 n.
            psi = _sine_transform(np.pad(series, padding) * np.sqrt(n), (axis,), inverse=True)
        return psi

    def wall_slopes(self, psi: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the inward derivatives of `psi` at the lower and the upper wall of one axis."""
        series = np.moveaxis(_sine_series(psi, axis), axis, -1)
        waves = self.wavenumbers(axis)
        signs = (-1.0) ** np.arange(self.points[axis])  # minus cos(k pi): the inward normal is -x at `upper`
        return series @ waves, series @ (signs * waves)

    def _squared_wavenumbers(self) -> np.ndarray:
        return outer_sum([self.wavenumbers(i) ** 2 for i in range(self.dim)])

    def _multiply_in_sine_basis(self, psi: np.ndarray, factor: np.ndarray) -> np.ndarray:
        axes = tuple(range(-self.dim, 0))
        return _sine_transform(factor * _sine_transform(psi, axes), axes, inverse=True)


def outer_sum(parts: list[np.ndarray]) -> np.ndarray:
    """Return `sum_i parts[i][x_i]` on a tensor grid, one axis for each part."""
    total = np.zeros(())
    for part in parts:
        total = np.add.outer(total, part)
    return total


def _sine_transform(psi: np.ndarray, axes: tuple[int, ...], *, inverse: bool = False) -> np.ndarray:
    """Return the orthonormal transform to the basis `sin(k pi (x - lo) / L)`, or back."""
    transform = scipy.fft.idstn if inverse else scipy.fft.dstn
    return np.asarray(transform(psi, type=2, axes=axes, norm="ortho"))


def _sine_series(psi: np.ndarray, axis: int) -> np.ndarray:
    """Return `c_k` with `psi(x) = sum_k c_k sin(k pi (x - lo) / L)` along one axis."""
    n = psi.shape[axis]
    coefficients = np.moveaxis(_sine_transform(psi, (axis,)), axis, -1) * np.sqrt(2 / n)
    coefficients[..., -1] /= np.sqrt(2)  # the orthonormal transform weighs k = N differently
    return np.moveaxis(coefficients, -1, axis)


def evaluate_on(function: Callable[[jax.Array], Any], grid: Grid) -> np.ndarray:
    """Return a function of one point on all nodes, in float64, shape `points`.

    It is evaluated by JAX in `jnp.result_type(float)`: in float32 unless x64 is enabled.
    """
    points = grid.mesh().reshape(-1, grid.dim)
    batched = jax.jit(jax.vmap(function))
    chunk = min(len(points), _POINTS_PER_CALL)
    padded = np.concatenate([points, np.repeat(points[-1:], -len(points) % chunk, axis=0)])
    parts = [
        np.asarray(batched(jnp.asarray(padded[i : i + chunk], jnp.result_type(float))), np.float64)
        for i in range(0, len(padded), chunk)
    ]
    return np.concatenate(parts)[: len(points)].reshape(grid.points)


def evaluate_potential(hamiltonian: Hamiltonian, grid: Grid) -> np.ndarray:
    """Return `V` on all nodes, in float64, shape `points`.

    Raises:
        ValueError: the potential is not finite somewhere on the grid.
    """
    potential = evaluate_on(hamiltonian.potential, grid)
    bad = ~np.isfinite(potential)
    if bad.any():
        where = grid.mesh()[bad][0]
        raise ValueError(
            f"the potential is not finite at {int(bad.sum())} of {grid.size} grid points, first "
            f"{potential[bad][0]} at x = {where.tolist()}. It must be finite everywhere inside the bounds: "
            "mend the function, shrink the bounds, or put infinite walls at the bounds with boundary='hard'."
        )
    return potential


def cap_potential(grid: Grid, potential: np.ndarray, diffusion: float) -> np.ndarray:
    """Return the potential, cut off at `min V + D sum_i (pi / h_i)^2`.

    Where it rises above that, a state falls by more than a factor `exp(-pi)` from node to node, which the
    grid cannot represent; without the cut-off, rounding errors would dominate the levels.
    """
    return np.minimum(potential, potential.min() + grid.largest_kinetic_energy(diffusion))
