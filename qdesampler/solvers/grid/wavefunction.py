"""A positive state stored on a grid of two or three dimensions at most: its logarithm, and exact draws.

`log psi = S + l`, with `S` a quintic spline and `l = sum_i log sin(pi (x_i - lo_i) / L_i)` for hard walls, or
0 for open ones. Draws come by rejection from the same function: a cell is chosen with probability
proportional to an upper bound of `psi^2` in it, a point uniformly in the cell, and kept with probability
`psi^2 / bound`. What is drawn and what `log_psi` describes are therefore one law, whatever the spline's
error.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.solvers.grid import spline
from qdesampler.solvers.grid.grid import Grid, outer_sum

__all__ = ["GridWavefunction", "build_grid_wavefunction"]

# The curvature inside a cell is known at three points an axis; the bound allows for this much more.
_CURVATURE_MARGIN = 1.5
# Allowance for rounding in float32, where bound and value are computed in different orders.
_ROUNDING_MARGIN = 1e-5
_LOWEST_ACCEPTANCE = 1e-3  # mean acceptance of a draw below which the state is refused as too rough


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GridWavefunction:
    """`psi = exp(S + l)` with `integral psi^2 = 1`; an immutable JAX pytree.

    With open walls `S` goes on beyond the box: from the nearest point `y` of the box, with `d = x - y`,

        S(x) = S(y) + sum_i d_i (d_i S(y) + a_i d_i / 2),      a_i < 0,

    so that the value and the gradient are continuous and the density is normalisable; the mass out there is
    not drawn (`outside_mass` in the diagnostics of the solve says how much it is). With hard walls `psi` is 0
    outside: `log_psi` is `-inf` there and its gradient 0.

    Attributes:
        coefficients: of `S` less its normaliser, shape `points + 6`.
        lower: lower corner of the box, shape `(dim,)`.
        upper: upper corner.
        outer_curvature: `a_i` beyond the lower and the upper wall, shape `(2, dim)`.
        cell_log_bounds: upper bounds of `log psi` in the cells, shape `points`.
        cell_tables: cumulative probabilities of the cell index on axis `i` given those on the axes before,
            shape `points[: i + 1]`.
        hard: whether the walls are hard.
    """

    coefficients: jax.Array
    lower: jax.Array
    upper: jax.Array
    outer_curvature: jax.Array
    cell_log_bounds: jax.Array
    cell_tables: tuple[jax.Array, ...]
    hard: bool = dataclasses.field(metadata={"static": True})

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.cell_tables)

    @property
    def support(self) -> tuple[jax.Array, jax.Array] | None:
        """Corners of the box for hard walls, `None` (all space) for open ones."""
        return (self.lower, self.upper) if self.hard else None

    @jax.jit
    def log_psi(self, x: jax.Array) -> jax.Array:
        """Return `log psi(x)`, a scalar, at one point of shape `(dim,)`."""
        inner = jnp.clip(x, self.lower, self.upper)
        if self.hard:
            inside = jnp.all((x > self.lower) & (x < self.upper))
            # Outside, the centre stands in: its value is not used, and no gradient comes out as NaN.
            inner = jnp.where(inside, inner, (self.lower + self.upper) / 2)
            return jnp.where(inside, self._log_psi_inside(inner), -jnp.inf)
        value, slope = spline.evaluate_with_gradient(self.coefficients, self._in_cells(inner))
        outward = x - inner
        curvature = jnp.where(outward > 0, self.outer_curvature[1], self.outer_curvature[0])
        return value + jnp.sum(outward * (slope / self._spacing() + curvature * outward / 2))

    @jax.jit
    def sample(self, key: jax.Array) -> jax.Array:
        """Return one draw from `psi^2`, shape `(dim,)`."""

        def propose(carry):
            key, _, _ = carry
            key, subkey = jax.random.split(key)
            # Which cell on each axis, where in it, and whether to stay.
            uniform = jax.random.uniform(subkey, (2 * self.dim + 1,))
            index = ()
            for table, u in zip(self.cell_tables, uniform[: self.dim], strict=True):
                row = table[index]
                index = (*index, jnp.searchsorted(row, u * row[-1], side="right").clip(0, row.shape[0] - 1))
            x = self.lower + (jnp.stack(index) + uniform[self.dim : -1]) * self._spacing()
            log_ratio = 2 * (self._log_psi_inside(x) - self.cell_log_bounds[index])
            accepted = jnp.log1p(-uniform[-1]) < log_ratio
            return key, x, accepted

        start = key, jnp.zeros_like(self.lower), jnp.asarray(False)
        return jax.lax.while_loop(lambda carry: ~carry[2], propose, start)[1]

    def _log_psi_inside(self, x: jax.Array) -> jax.Array:
        value = spline.evaluate(self.coefficients, self._in_cells(x))
        if self.hard:
            value += jnp.sum(jnp.log(jnp.sin(jnp.pi * (x - self.lower) / (self.upper - self.lower))))
        return value

    def _spacing(self) -> jax.Array:
        return (self.upper - self.lower) / jnp.asarray(self.cell_log_bounds.shape)

    def _in_cells(self, x: jax.Array) -> jax.Array:
        return (x - self.lower) / self._spacing() - 0.5


def build_grid_wavefunction(
    grid: Grid, log_state: np.ndarray, *, hard: bool
) -> tuple[GridWavefunction, float]:
    """Normalise a state given by `S` on the nodes, and prepare to draw from it.

    Args:
        grid: the grid.
        log_state: `S`, finite, shape `points`.
        hard: whether the envelope `l` is part of `log psi`.

    Returns:
        The wavefunction, and the mean probability that a proposed draw is accepted.

    Raises:
        ValueError: `S` is so rough that hardly a proposed draw would be accepted.
    """
    coefficients = spline.fit(log_state)
    dense = _refine(coefficients, grid.points, ())
    edge_logs = []
    cell_envelope = np.zeros(grid.points)
    if hard:
        for n in grid.points:
            phase = np.pi * np.arange(2 * n + 1) / (2 * n)
            with np.errstate(divide="ignore"):
                edge_logs.append(
                    np.where(phase * (np.pi - phase) > 0, np.log(np.abs(np.sin(phase))), -np.inf)
                )
        cell_envelope = outer_sum([_cell_maximum(edge, 1) for edge in edge_logs])
    log_density = 2 * (dense + (outer_sum(edge_logs) if hard else 0))
    top = log_density.max()
    weights = [np.full(2 * n + 1, h / 2) for n, h in zip(grid.points, grid.spacing, strict=True)]
    for weight in weights:  # trapezoidal rule on walls, nodes and midpoints
        weight[[0, -1]] /= 2
    mass = np.exp(log_density - top)
    for weight in weights:
        mass = np.tensordot(weight, mass, axes=(0, 0))
    log_norm = 0.5 * (top + float(np.log(mass)))
    # Between nodes half a cell apart a function exceeds its linear interpolation by at most h^2 / 32 times
    # the largest negative curvature (curvatures here are per cell squared).
    bounds = _cell_maximum(dense, grid.dim) + _ROUNDING_MARGIN
    for axis in range(grid.dim):
        downward = np.maximum(-_refine(coefficients, grid.points, (axis,)), 0)
        bounds = bounds + _CURVATURE_MARGIN * _cell_maximum(downward, grid.dim) / 32
    bounds = bounds + cell_envelope - log_norm
    with np.errstate(over="ignore"):  # refused below
        cells = np.exp(2 * bounds) * grid.cell_volume
    acceptance = float(1 / cells.sum())
    if not acceptance > _LOWEST_ACCEPTANCE:
        raise ValueError(
            f"the state varies too much from node to node to be drawn from (acceptance {acceptance:.1e}); "
            f"take more points than {grid.points}, or tighter bounds."
        )
    tables = []
    for axis in range(grid.dim):
        marginal = cells.sum(axis=tuple(range(axis + 1, grid.dim)))
        cumulative = np.cumsum(marginal, axis=-1)
        total = cumulative[..., -1:]
        tables.append(np.where(total > 0, cumulative / np.where(total > 0, total, 1), 1.0))
    dtype = jnp.result_type(float)
    wavefunction = GridWavefunction(
        coefficients=jnp.asarray(coefficients - log_norm, dtype),
        lower=jnp.asarray(grid.lower, dtype),
        upper=jnp.asarray(grid.upper, dtype),
        outer_curvature=jnp.asarray(_outer_curvature(grid, coefficients, dense), dtype),
        cell_log_bounds=jnp.asarray(bounds, dtype),
        cell_tables=tuple(jnp.asarray(table, dtype) for table in tables),
        hard=hard,
    )
    return wavefunction, acceptance


def _refine(coefficients: np.ndarray, points: tuple[int, ...], second: tuple[int, ...]) -> np.ndarray:
    """Return the spline, or its second derivative along one axis, on walls, nodes and midpoints."""
    for axis, n in enumerate(points):
        matrix = spline.refinement_matrix(n, 2 if axis in second else 0)
        coefficients = np.moveaxis(np.tensordot(matrix, coefficients, axes=(1, axis)), 0, axis)
    return coefficients


def _cell_maximum(values: np.ndarray, dim: int) -> np.ndarray:
    """Return the maximum over the three values an axis that each cell holds."""
    for axis in range(dim):
        v = np.moveaxis(values, axis, 0)
        values = np.moveaxis(np.maximum(np.maximum(v[:-1:2], v[1::2]), v[2::2]), 0, axis)
    return values


def _outer_curvature(grid: Grid, coefficients: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """Return the curvature of `S` at each wall, weighed by the density on it, and kept negative."""
    curvature = np.zeros((2, grid.dim))
    for axis in range(grid.dim):
        second = _refine(coefficients, grid.points, (axis,)) / grid.spacing[axis] ** 2
        for side, index in enumerate((0, -1)):
            log_weight = 2 * np.take(dense, index, axis=axis)
            weight = np.exp(log_weight - log_weight.max())
            curvature[side, axis] = np.sum(weight * np.take(second, index, axis=axis)) / np.sum(weight)
    return np.minimum(curvature, -4 / grid.lengths**2)
