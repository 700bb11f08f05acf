"""`log psi` where `psi` itself is lost in rounding noise.

An eigenvector is known to about `1e-13` of its largest entry, absolutely: far out, where `psi` is smaller,
its logarithm is noise. There the logarithm is found from the Schroedinger equation it obeys. For
`psi = e^(S + l)` with a fixed envelope `e^l`, `(H - E) psi = 0` reads

    lap S + |grad S|^2 + 2 grad l . grad S = (V - E) / D - lap l - |grad l|^2,

solved as the end of its own imaginary-time evolution `dS/dt = left - right`, with `S` held fixed where `psi`
is known. Perturbations travel outward along `-grad log psi`, away from the known nodes, so a wall where
`S` falls outward needs no condition (`S` is extrapolated through it); where `S` would rise outward it is kept
constant, since nothing is known beyond. Where `psi` vanishes at hard walls like the
envelope `prod_i sin(pi (x_i - lo_i) / L_i)`, `S` is even about them. `S` is nearly a polynomial where `psi`
falls steeply, so fourth-order differences serve well, once a monotone scheme has brought them near.

References:
    Rouy and Tourin, SIAM J. Numer. Anal. 29 (1992) 867: monotone differences for `|grad S|`.
"""

import numpy as np

from qdesampler.solvers.grid.grid import Grid, outer_sum

__all__ = ["continue_logarithm", "log_envelope", "wall_layer"]

_MAX_STEPS = 20000  # iterations, several times those in which a wave crosses a fine grid
_STEEPEST = 10.0  # largest fall of `log psi` from node to node that is followed
_LAYER = 6.0  # decay lengths from an open wall within which it bends the state: exp(-2 * 6) = 6e-6
_ROUGH_GOAL = 1e-3  # largest residual of the monotone scheme, in units of 1 / h^2 + |(V - E) / D|
_GOAL = 1e-8  # largest residual, in units of 1 / L^2 + |(V - E) / D|


def log_envelope(grid: Grid) -> np.ndarray:
    """Return `l = sum_i log sin(pi (x_i - lo_i) / L_i)` on the nodes, shape `points`."""
    parts = [
        np.log(np.sin(np.pi * (grid.nodes(i) - grid.lower[i]) / grid.lengths[i])) for i in range(grid.dim)
    ]
    return outer_sum(parts)


def continue_logarithm(
    grid: Grid, log_state: np.ndarray, unknown: np.ndarray, decay: np.ndarray, *, hard: bool
) -> tuple[np.ndarray, float]:
    """Fill in `S` where it is unknown.

    Args:
        grid: the grid.
        log_state: `S` where it is known, shape `points`; other entries are not read.
        unknown: mask of the nodes to fill.
        decay: `(V - E) / D`, shape `points`.
        hard: whether `psi` vanishes at the walls like the envelope (`S` even), or the walls are open.

    Returns:
        `S` everywhere, and the largest residual of its equation on the unknown nodes relative to
        `1 / L^2 + |decay|`.
    """
    if not unknown.any():
        return log_state, 0.0
    spacing = grid.spacing
    envelope_slopes = [np.zeros(1)] * grid.dim
    # Steeper than this, no grid shows what the state does and its logarithm need not follow.
    source = np.minimum(decay, np.sum((_STEEPEST / spacing) ** 2))
    if hard:
        waves = np.pi / grid.lengths
        envelope_slopes = [
            _along(w / np.tan(w * (grid.nodes(i) - grid.lower[i])), i, grid.dim) for i, w in enumerate(waves)
        ]
        source = source + float(np.sum(waves**2))
    state = np.where(unknown, log_state[~unknown].min(), log_state)
    state = _upwind(state, unknown, source, spacing)
    scale = np.sum(1 / grid.lengths**2) + np.abs(source)
    stiffness = np.sum(1 / spacing**2) / 0.3  # stability of the second differences under explicit steps
    worst = np.inf
    for _ in range(_MAX_STEPS):
        residual = -source
        speed_squared = 0.0
        for i in range(grid.dim):
            slope, curvature = _derivatives(state, i, spacing[i], even=hard)
            residual = residual + curvature + slope * (slope + 2 * envelope_slopes[i])
            speed_squared = speed_squared + 4 * (slope + envelope_slopes[i]) ** 2
        worst = float(np.max(np.abs(residual / scale)[unknown]))
        if worst < _GOAL or not np.isfinite(worst):
            break
        # Explicit central differences of drift a and unit diffusion are stable for steps below 2 / a^2.
        step = 1 / (stiffness + np.maximum(speed_squared, 4 * np.abs(source)) / 1.5)
        state = np.where(unknown, state + step * residual, state)
    return state, worst


def wall_layer(grid: Grid, decay: np.ndarray) -> np.ndarray:
    """Return the mask of the nodes so near an open wall that its condition `psi = 0` bends the state there.

    Args:
        grid: the grid.
        decay: `(V - E) / D` on its nodes.
    """
    layer = np.zeros(grid.points, bool)
    for axis, n in enumerate(grid.points):
        depth = (np.arange(n) + 0.5) * grid.spacing[axis]
        for index, distance in ((0, depth), (-1, depth[::-1])):
            excess = np.expand_dims(np.take(decay, index, axis=axis), axis)
            rate = np.sqrt(np.maximum(excess, 0))
            distance = _along(distance, axis, grid.dim)
            # No wall reaches further than an eighth of the box, however slow the decay.
            layer |= (distance * rate < _LAYER) & (distance < grid.lengths[axis] / 8)
    return layer


def _upwind(state: np.ndarray, unknown: np.ndarray, source: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return a rough solution, from differences toward the larger neighbour: monotone, it always settles."""
    scale = np.sum(1 / spacing**2) + np.abs(source)
    for _ in range(_MAX_STEPS):
        residual = -source
        rate = 0.0
        for axis, h in enumerate(spacing):
            s = np.moveaxis(state, axis, 0)
            below = np.concatenate([np.minimum(2 * s[:1] - s[1:2], s[:1]), s[:-1]])
            above = np.concatenate([s[1:], np.minimum(2 * s[-1:] - s[-2:-1], s[-1:])])
            rise = np.maximum(np.maximum(below, above) - s, 0) / h
            term = rise**2 + (below - 2 * s + above) / h**2
            residual = residual + np.moveaxis(term, 0, axis)
            rate = rate + np.moveaxis(2 * rise / h, 0, axis) + 2 / h**2
        if np.max(np.abs(residual / scale)[unknown]) < _ROUGH_GOAL:
            break
        state = np.where(unknown, state + residual / rate, state)
    return state


def _along(values: np.ndarray, axis: int, dim: int) -> np.ndarray:
    return values.reshape([-1 if i == axis else 1 for i in range(dim)])


def _derivatives(state: np.ndarray, axis: int, h: float, *, even: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return first and second central differences of fourth order along one axis."""
    s = np.moveaxis(state, axis, 0)
    if even:
        below, above = s[1::-1], s[:-3:-1]
    else:
        below = _extrapolate(s[:4])
        above = _extrapolate(s[:-5:-1])[::-1]
    s = np.concatenate([below, s, above])
    near, far = s[3:-1] - s[1:-3], s[4:] - s[:-4]
    slope = (8 * near - far) / (12 * h)
    near, far = s[3:-1] + s[1:-3], s[4:] + s[:-4]
    curvature = (16 * near - far - 30 * s[2:-2]) / (12 * h**2)
    return np.moveaxis(slope, 0, axis), np.moveaxis(curvature, 0, axis)


def _extrapolate(s: np.ndarray) -> np.ndarray:
    """Return the two values in front of four: on the cubic through them, or mirrored lest they rise."""
    one = 4 * s[0] - 6 * s[1] + 4 * s[2] - s[3]
    two = 4 * one - 6 * s[0] + 4 * s[1] - s[2]
    return np.stack([np.minimum(two, s[1]), np.minimum(one, s[0])])
