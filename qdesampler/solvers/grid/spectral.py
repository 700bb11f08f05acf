"""The ground state on a grid, for one, two and three dimensions: the reference for the other solvers.

    H psi_n = E_n psi_n,    H = -D lap + V,    psi = 0 on the walls of a box,

solved to spectral accuracy (`grid`, `eigensolver`), with errors from the solution itself (`energy_error`).
`log psi` is continued into the far tails by its own equation (`decay`), interpolated and drawn from
(`wavefunction`).
"""

import dataclasses
import operator
import warnings
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.solvers.grid import spline
from qdesampler.solvers.grid.decay import continue_logarithm, log_envelope, wall_layer
from qdesampler.solvers.grid.eigensolver import Eigenpairs, lowest_eigenpairs
from qdesampler.solvers.grid.energy_error import refined_levels, wall_leakage
from qdesampler.solvers.grid.grid import Grid, cap_potential, evaluate_on, evaluate_potential
from qdesampler.solvers.grid.wavefunction import build_grid_wavefunction
from qdesampler.solvers.protocol import GroundState

__all__ = ["GridWarning", "SpectralGrid"]

_MAX_DIM = 3  # coordinates
# Nodes: dense diagonalisation in one dimension; memory of the iteration in two and three.
_MAX_POINTS, _MAX_SIZE = 4096, 2_000_000
# Mass outside the bounds: above the first it affects the energies; above the second the box is refused.
_WARN_MASS, _REFUSE_MASS = 1e-6, 1e-2
_WARN_ERROR = 1e-2  # of the ground energy, in units of the gap
# Below this part of its maximum `psi` is taken from its logarithmic equation instead of the eigenvector.
_TAIL_CUT, _WORST_TAIL_CUT = 1e-7, 1e-2
_TAIL_RESIDUAL = 1e-2  # relative residual of the logarithmic equation, above which it is reported
# Levels closer than these multiples of the rounding error count as one. The ground state of a Boltzmann
# Hamiltonian is known up to its norm, which selects it among more levels.
_DEGENERATE = {"objective": 1e2, "boltzmann": 1e6}


class GridWarning(UserWarning):
    """The grid answers, but its bounds or its spacing limit the accuracy; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class SpectralGrid:
    """Solver for `dim <= 3`: the lowest levels and the ground state of `H` in a box, to spectral accuracy.

    The solve runs once, on the host, in float64 whatever JAX's setting; it cannot run under `jit`. The
    potential is evaluated by JAX, so without x64 its float32 noise, about `1e-7 |V|`, limits the levels, and
    `energy_error` says so. What is returned has the dtype `jnp.result_type(float)`.

    The potential must be finite inside the bounds. With `boundary="open"` the bounds only truncate space: the
    state must have died out before it reaches them, and how much of it has not is reported
    (`diagnostics["outside_mass"]`), warned about above `1e-6` and refused above `1e-2`. With
    `boundary="hard"` the bounds are infinite walls, part of the problem: `psi = 0` there and beyond.

    Diagnostics of the solve: `outside_mass`; `residual` of the eigenpairs and `iterations` of the
    eigensolver; `tail_cut`, the part of its maximum below which `psi` was continued by the logarithmic
    equation, and `tail_residual` of that; `acceptance`, the mean probability with which `sample` keeps a
    proposal.

    Attributes:
        bounds: `(lower, upper)` for every axis, or one such pair per axis.
        points: nodes per axis, one number or one per axis; at least 8.
        states: number of levels; with 1 the gap is not computed.
        boundary: `"open"` or `"hard"`.
        tolerance: residual of the eigenpairs in units of the zero-point energy (two and three dimensions).
        max_iterations: most iterations of the eigensolver (two and three dimensions).

    Raises:
        TypeError, ValueError: an argument is not of these kinds; the message names it.
    """

    bounds: Any
    points: Any
    states: int = 2
    boundary: Literal["open", "hard"] = "open"
    tolerance: float = 1e-10
    max_iterations: int = 500

    def __post_init__(self) -> None:
        bounds = _as_bounds(self.bounds)
        points = _as_points(self.points)
        states = _as_int("states", self.states, 1)
        if not np.isfinite(self.tolerance) or self.tolerance <= 0:
            raise ValueError(f"tolerance must be positive and finite, got {self.tolerance}.")
        _as_int("max_iterations", self.max_iterations, 1)
        if self.boundary not in ("open", "hard"):
            raise ValueError(f"boundary must be 'open' or 'hard', got {self.boundary!r}.")
        smallest = min(points) if isinstance(points, tuple) else points
        if states > smallest // 2:
            raise ValueError(
                f"states = {states} is too many for {smallest} points per axis; ask for at most half as many "
                "states, or take more points."
            )
        object.__setattr__(self, "bounds", bounds)
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "states", states)

    def grid(self, dim: int) -> Grid:
        """Return the grid in `dim` dimensions.

        Raises:
            ValueError: `dim > 3`, more points than fit, or bounds or points for another number of axes.
        """
        if dim > _MAX_DIM:
            raise ValueError(
                f"SpectralGrid solves up to {_MAX_DIM} dimensions, got dim = {dim}; use GaussianTrial, "
                "FlowTrial or Walkers instead."
            )
        bounds = self.bounds if isinstance(self.bounds[0], tuple) else (self.bounds,) * dim
        points = self.points if isinstance(self.points, tuple) else (self.points,) * dim
        for name, given in (("bounds", bounds), ("points", points)):
            if len(given) != dim:
                raise ValueError(
                    f"{name} are given for {len(given)} axes, but the Hamiltonian has dim = {dim}; "
                    "give one for all axes, or one per axis."
                )
        grid = Grid(tuple(low for low, _ in bounds), tuple(high for _, high in bounds), points)
        if grid.size > (_MAX_POINTS if dim == 1 else _MAX_SIZE):
            raise ValueError(
                f"points = {points} makes {grid.size} nodes, more than {_MAX_POINTS} in one dimension or "
                f"{_MAX_SIZE} in two and three; take fewer points or tighter bounds."
            )
        return grid

    def solve(self, hamiltonian: Hamiltonian, key: jax.Array | None = None) -> GroundState:
        """Return the ground state; deterministic, `key` is ignored.

        Warns:
            GridWarning: the bounds cut off more than `1e-6` of the density, the spacing leaves an error
                larger than a hundredth of the gap, two levels agree to rounding, or the far tail did not
                settle.

        Raises:
            ValueError: `dim > 3`; the potential is not finite on the grid; the bounds cut off more than 1% of
                the density, or the potential has no lower bound inside them; too few points.
            RuntimeError: the eigensolver did not converge.
        """
        del key
        diffusion, hard = float(hamiltonian.diffusion), self.boundary == "hard"
        grid = self.grid(hamiltonian.dim)
        potential = evaluate_potential(hamiltonian, grid)
        pairs = lowest_eigenpairs(
            grid,
            cap_potential(grid, potential, diffusion),
            diffusion,
            max(self.states, 2),  # the second shows whether the first is degenerate
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        psi = _positive_state(hamiltonian, grid, potential, pairs)
        outside = 0.0 if hard else wall_leakage(grid, psi, potential, pairs.energies[0], diffusion)[0]
        _check_walls(grid, psi, outside)
        levels, errors = refined_levels(hamiltonian, grid, potential, pairs, hard=hard)
        gap = levels[1] - levels[0]
        if errors[0] > max(_WARN_ERROR * gap, 10 * pairs.rounding):
            _warn(
                f"the ground energy {levels[0]:.6g} may be wrong by {errors[0]:.1e}, the gap being "
                f"{gap:.1e}; take more points, wider bounds, or enable x64."
            )
        zero_point = pairs.energies[0] - potential.min()
        log_state, cut, tail_residual = _logarithm(
            grid, psi, (potential - pairs.energies[0]) / diffusion, pairs.residual / zero_point, hard=hard
        )
        wavefunction, acceptance = build_grid_wavefunction(grid, log_state, hard=hard)
        dtype = jnp.result_type(float)
        levels, errors = levels[: self.states], errors[: self.states]
        return GroundState(
            energy=jnp.asarray(levels[0], dtype),
            energy_error=jnp.asarray(errors[0], dtype),
            gap=jnp.asarray(gap, dtype) if self.states > 1 else None,
            levels=jnp.asarray(levels, dtype),
            level_errors=jnp.asarray(errors, dtype),
            diffusion=hamiltonian.diffusion,
            wavefunction=wavefunction,
            diagnostics={
                "outside_mass": float(outside),
                "residual": pairs.residual,
                "iterations": pairs.iterations,
                "tail_cut": float(cut),
                "tail_residual": tail_residual,
                "acceptance": acceptance,
            },
        )


def _positive_state(
    hamiltonian: Hamiltonian, grid: Grid, potential: np.ndarray, pairs: Eigenpairs
) -> np.ndarray:
    """Return the positive ground state; among several at one level, the one nearest to a positive guess."""
    above = pairs.energies[: len(pairs.states)] - pairs.energies[0]
    alike = above < _DEGENERATE[hamiltonian.kind] * pairs.rounding
    if hamiltonian.log_density is not None:
        log_guess = evaluate_on(hamiltonian.log_density, grid) / 2
    else:
        log_guess = -(potential - potential.min()) / max(pairs.energies[0] - potential.min(), pairs.rounding)
    guess = np.exp(log_guess - log_guess.max()).ravel()
    basis = pairs.states[alike].reshape(-1, grid.size)
    if len(basis) > 1 and hamiltonian.kind == "objective":
        _warn(
            f"the lowest {len(basis)} levels agree to rounding, {above[alike].max():.1e} apart: which of "
            "their states is the ground state cannot be told, and the one nearest to a function of the "
            "potential alone is returned. Raise the diffusion coefficient, or solve the wells apart."
        )
    psi = (basis @ guess) @ basis
    return (psi / np.sqrt(np.sum(psi**2) * grid.cell_volume)).reshape(grid.points)


def _check_walls(grid: Grid, psi: np.ndarray, outside: float) -> None:
    if outside <= _WARN_MASS:
        return
    bounds = f"the bounds {list(zip(grid.lower, grid.upper, strict=True))}"
    if outside <= _REFUSE_MASS:
        _warn(
            f"about {outside:.1e} of the density lies outside {bounds}; widen them (and take points in "
            "proportion) for energies and tails to full accuracy."
        )
        return
    peak = np.array(np.unravel_index(np.argmax(psi), grid.points)) + 0.5
    if np.any(np.minimum(peak, grid.points - peak) / grid.points < 1 / 16):
        raise ValueError(
            f"the lowest state sits at the wall of {bounds}: the potential falls toward it, so it seems "
            "unbounded below, or its minimum lies outside. Check the sign of the potential, widen or move "
            "the bounds, or use boundary='hard' where infinite walls are meant."
        )
    raise ValueError(
        f"{bounds} cut off about {outside:.1e} of the density, more than {_REFUSE_MASS}: widen them, or use "
        "boundary='hard' where infinite walls are meant."
    )


def _logarithm(
    grid: Grid, psi: np.ndarray, decay: np.ndarray, noise: float, *, hard: bool
) -> tuple[np.ndarray, float, float]:
    """Return `log psi` minus the envelope of hard walls on all nodes, the cut, and the tail's residual."""
    below_zero = max(0.0, -psi.min() / psi.max())
    cut = max(_TAIL_CUT, 10 * below_zero, 100 * noise)
    if cut > _WORST_TAIL_CUT:
        raise ValueError(
            f"the lowest state is not positive (it falls to {-below_zero:.1e} of its maximum, residual "
            f"{noise:.1e}): too few points, {grid.points}, for how steep the potential is; take more points, "
            "tighter bounds or a smaller tolerance."
        )
    unknown = psi < cut * psi.max()
    if not hard:
        unknown |= wall_layer(grid, decay)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_state = np.log(psi) - (log_envelope(grid) if hard else 0.0)
    log_state, residual = continue_logarithm(grid, log_state, unknown, decay, hard=hard)
    if not np.isfinite(log_state).all():
        raise FloatingPointError("the far tail of the state could not be computed; take more points.")
    if residual > _TAIL_RESIDUAL:
        _warn(
            f"the far tail of the state, below {cut:.0e} of its maximum, solves its equation only to "
            f"{residual:.1e}; draws and energies are not touched. Take more points for smooth tails."
        )
    return log_state, cut, residual


def _warn(message: str) -> None:
    warnings.warn(message, GridWarning, stacklevel=5)


def _as_bounds(bounds: Any) -> tuple[Any, ...]:
    try:
        array = np.asarray(bounds, np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.shape[-1:] != (2,) or array.ndim not in (1, 2):
        raise ValueError(f"bounds must be (lower, upper), or one such pair per axis, got {bounds!r}.")
    if not np.isfinite(array).all() or np.any(array[..., 0] >= array[..., 1]):
        raise ValueError(f"bounds must be finite with lower < upper, got {bounds!r}.")
    pairs = [(float(low), float(high)) for low, high in array.reshape(-1, 2)]
    return pairs[0] if array.ndim == 1 else tuple(pairs)


def _as_points(points: Any) -> int | tuple[int, ...]:
    if isinstance(points, tuple | list | np.ndarray) and np.ndim(points) == 1:
        return tuple(_as_int("points", n, spline.LOWEST_POINTS) for n in points)
    return _as_int("points", points, spline.LOWEST_POINTS)


def _as_int(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}.") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}.")
    return number
