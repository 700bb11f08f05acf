r"""An inverse problem of groundwater flow: the conductivity of the ground from heads in a few wells.

Steady flow in the unit square, with a well that pumps in its middle,

    -div(K grad h) = q,      h = 1 on the left, h = 0 on the right, no flow at the top and at the bottom,

    log K = sum_k theta_k a_k cos(i_k pi x) cos(j_k pi y),        theta_k ~ Normal(0, 1).

The heads in 25 wells are known with normal errors. Cells have two-point fluxes with harmonic means of `K`.
An evaluation factors one sparse matrix and solves with it twice: for the heads, and for the adjoint, which
gives the gradient for all parameters together. NumPy and SciPy only: a function as a simulator offers it.

Sources: Tarantola, Inverse Problem Theory (2005), chapter 5; Iglesias, Lin and Stuart, Inverse Problems 30
(2014).
"""

from time import sleep

import numpy as np
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu

__all__ = ["Groundwater"]

NOISE = 0.02  # standard deviation of a measured head; the heads are between 0 and 1
_PUMPED = 1.0  # of the well, in units of the flow through a square of conductivity 1
AMPLITUDE = 1.2  # of the log conductivity's longest waves: K varies by a factor of about 4
_WELLS = (0.1, 0.3, 0.5, 0.7, 0.9)  # both coordinates of the wells
_TRUTH = 7  # seed of the ground that was measured


class Groundwater:
    """The log posterior of the parameters and its gradient.

    Args:
        cells: along each side; 120 take some 100 ms an evaluation.
        dim: number of parameters.
        noise: standard deviation of a measured head.
        amplitude: of the longest waves of the log conductivity.
        wait: seconds that an evaluation waits besides, as for a simulator on another machine.
    """

    def __init__(
        self,
        cells: int = 32,
        dim: int = 20,
        noise: float = NOISE,
        amplitude: float = AMPLITUDE,
        wait: float = 0.0,
    ):
        self.cells: int = cells
        self.dim: int = dim
        self.noise: float = noise
        self.wait: float = wait
        middle = (np.arange(cells) + 0.5) / cells
        x, y = (grid.ravel() for grid in np.meshgrid(middle, middle, indexing="ij"))
        pairs = [(i, j) for i in range(dim + 1) for j in range(dim + 1)]
        waves = sorted(pairs, key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))[:dim]
        self._basis = np.stack(
            [amplitude / (1 + i**2 + j**2) * np.cos(i * np.pi * x) * np.cos(j * np.pi * y) for i, j in waves],
            axis=1,
        )
        index = np.arange(cells * cells).reshape(cells, cells)
        self._first = np.concatenate([index[:-1].ravel(), index[:, :-1].ravel()])
        self._second = np.concatenate([index[1:].ravel(), index[:, 1:].ravel()])
        self._left, self._right = index[0], index[-1]
        self._source = np.zeros(cells * cells)
        self._source[index[cells // 2, cells // 2]] = -_PUMPED
        at = [int(place * cells) for place in _WELLS]
        self._wells = index[np.ix_(at, at)].ravel()
        rng = np.random.default_rng(_TRUTH)
        self.truth = rng.standard_normal(dim)
        heads = self._solve(self.truth)[0]
        self._measured = heads[self._wells] + noise * rng.standard_normal(len(self._wells))

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log posterior, shape `(n,)`, and its gradient, `(n, dim)`, at points of shape `(n, dim)`."""
        sleep(self.wait * len(points))
        found = [self._one(point) for point in points]
        return np.array([value for value, _ in found]), np.array([score for _, score in found])

    def _solve(self, point: np.ndarray):
        """Heads, the factored matrix, conductivities of the cells and of the faces between them."""
        with np.errstate(over="ignore"):
            conductivity = np.exp(np.clip(self._basis @ point, -50, 50))
        faces = 2 / (1 / conductivity[self._first] + 1 / conductivity[self._second])
        count = len(conductivity)
        diagonal = np.bincount(self._first, faces, count) + np.bincount(self._second, faces, count)
        ends = np.concatenate([self._left, self._right])
        diagonal[ends] += 2 * conductivity[ends]
        cells = np.arange(count)
        matrix = csc_array(
            (
                np.concatenate([diagonal, -faces, -faces]),
                (
                    np.concatenate([cells, self._first, self._second]),
                    np.concatenate([cells, self._second, self._first]),
                ),
            ),
            shape=(count, count),
        )
        right_side = self._source.copy()
        right_side[self._left] += 2 * conductivity[self._left]
        factored = splu(matrix, permc_spec="MMD_AT_PLUS_A")
        return factored.solve(right_side), factored, conductivity, faces

    def _one(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        heads, factored, conductivity, faces = self._solve(point)
        off = (heads[self._wells] - self._measured) / self.noise
        force = np.zeros(len(heads))
        force[self._wells] = -off / self.noise
        adjoint = factored.solve(force)  # the matrix is symmetric
        products = (adjoint[self._first] - adjoint[self._second]) * (heads[self._first] - heads[self._second])
        slopes = 0.5 * faces**2 * products
        by_cell = -np.bincount(self._first, slopes / conductivity[self._first], len(heads))
        by_cell -= np.bincount(self._second, slopes / conductivity[self._second], len(heads))
        by_cell[self._left] -= 2 * (conductivity * adjoint * (heads - 1))[self._left]
        by_cell[self._right] -= 2 * (conductivity * adjoint * heads)[self._right]
        value = -0.5 * np.sum(off**2) - 0.5 * np.sum(point**2)
        return float(value), self._basis.T @ by_cell - point
