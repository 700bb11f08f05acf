r"""Descent of `U = -log p`: imaginary time at `D -> 0`, one evaluation at a time.

At vanishing diffusion the imaginary-time flow is the descent of the potential, `dx/dtau = -grad U`. It is
followed here by the quasi-Newton method with limited memory (Nocedal and Wright 2006, algorithm 7.5) and a
backtracking line search, written as a machine that proposes a point, is told the log density and score there,
and moves on: whoever owns the evaluations (a Markov kernel, a solver) interleaves them as it likes, and every
one of them is counted. The pairs of displacements and score changes that it leaves behind are secants of the
Hessian, from which the first metric is fitted.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Descent", "advance", "descend", "next_point", "secants", "start_descent"]

ENOUGH = 0.1  # gain in log density that the quadratic model still predicts when a descent has arrived
_SUFFICIENT = 1e-4  # Armijo's constant
_FIRST_STEP = 1.0  # length of the first displacement, in the coordinates given
_FLAT, _STRIDE = 0.1, 4.0  # relative change of slope below which the step is lengthened, and by how much
_STALLS = 12  # points without gain in a row after which a descent cannot go on
_TINY_GAIN = 0.01
_FAITHFUL = 0.3  # gain over what both slopes promise, below which a pair says nothing of the curvature here


class Descent(NamedTuple):
    """One descent; `m` remembered pairs.

    Attributes:
        position: best point so far, shape `(dim,)`.
        log_density: `log p` there.
        score: `grad log p` there, shape `(dim,)`.
        direction: current search direction, shape `(dim,)`.
        step: fraction of it to try next.
        moves: displacements scaled to unit energy, `s / sqrt(s.y)`, newest last, shape `(m, dim)`.
        bends: score changes scaled likewise, `y / sqrt(s.y)` with `y = -(change of score)`; zero where
            unused.
        rejected: points in a row that were rejected or gained next to nothing.
        arrived: nothing is left to gain, or no progress is possible.
    """

    position: jax.Array
    log_density: jax.Array
    score: jax.Array
    direction: jax.Array
    step: jax.Array
    moves: jax.Array
    bends: jax.Array
    rejected: jax.Array
    arrived: jax.Array


def start_descent(position: jax.Array, log_density: jax.Array, score: jax.Array, memory: int) -> Descent:
    """A descent that starts at an evaluated point and remembers `memory` pairs."""
    zeros = jnp.zeros((memory, position.size), position.dtype)
    size = _norm(score)
    return Descent(
        position=position,
        log_density=log_density,
        score=score,
        direction=score * (_FIRST_STEP / jnp.maximum(size, _FIRST_STEP)),
        step=jnp.ones((), position.dtype),
        moves=zeros,
        bends=zeros,
        rejected=jnp.zeros((), int),
        arrived=jnp.zeros((), bool),
    )


def _norm(vector: jax.Array) -> jax.Array:
    """Euclidean length; scores may be too large to be squared."""
    largest = jnp.max(jnp.abs(vector), initial=jnp.finfo(vector.dtype).tiny)
    return largest * jnp.linalg.norm(vector / largest)


def next_point(descent: Descent) -> jax.Array:
    """The point to evaluate next, shape `(dim,)`; its own position once it has arrived."""
    return jnp.where(descent.arrived, descent.position, descent.position + descent.step * descent.direction)


def _direction(descent: Descent) -> jax.Array:
    """Quasi-Newton direction: the two-loop recursion over pairs of unit energy."""
    moves, bends = descent.moves, descent.bends

    def back(vector, pair):
        move, bend = pair
        along = move @ vector
        return vector - along * bend, along

    vector, alongs = jax.lax.scan(back, descent.score, (moves, bends), reverse=True)
    used = jnp.sum(bends[-1] ** 2) > 0
    # Unit energy: the inverse curvature of the last pair, s.y / y.y, is 1 / |bend|^2.
    size = _norm(descent.score)
    first = _FIRST_STEP / jnp.maximum(size, _FIRST_STEP)
    vector = vector * jnp.where(used, 1 / jnp.where(used, jnp.sum(bends[-1] ** 2), 1), first)

    def forth(vector, pair):
        move, bend, along = pair
        return vector + (along - bend @ vector) * move, None

    return jax.lax.scan(forth, vector, (moves, bends, alongs))[0]


def advance(descent: Descent, point: jax.Array, log_density: jax.Array, score: jax.Array) -> Descent:
    """Learn the log density and score at `next_point(descent)`.

    A point is taken when it gains enough; otherwise the step is cut by a quadratic interpolation. Points that
    are not finite are stepped back from. An arrived descent stays as it is.
    """
    slope = descent.direction @ descent.score
    gain = log_density - descent.log_density
    here = jnp.where(jnp.isfinite(descent.log_density), descent.log_density, 0)
    rounding = 4 * jnp.finfo(point.dtype).eps * jnp.abs(here)
    finite = jnp.isfinite(log_density) & jnp.all(jnp.isfinite(score))
    taken = finite & (gain >= _SUFFICIENT * descent.step * slope - rounding)

    move, bend = point - descent.position, descent.score - score
    energy = move @ bend
    # From the wall of an exponential the secant sees the curvature of the wall, not of where it leads to.
    faithful = gain >= _FAITHFUL * 0.5 * (move @ descent.score + move @ score) - rounding
    convex = taken & faithful & (energy > 1e-3 * jnp.abs(move @ descent.score)) & (energy > 0)
    scale = jax.lax.rsqrt(jnp.where(convex, energy, 1))

    def remember(pairs, new):
        return jnp.where(convex, jnp.concatenate([pairs[1:], (new * scale)[None]]), pairs)

    moved = descent._replace(
        position=point,
        log_density=log_density,
        score=score,
        moves=remember(descent.moves, move),
        bends=remember(descent.bends, bend),
        rejected=jnp.where(gain > rounding + _TINY_GAIN, 0, descent.rejected + 1),
    )
    # Where the slope barely changed the model knows nothing of the scale: go on along the same line, farther.
    flat = taken & (energy < _FLAT * jnp.abs(move @ descent.score))
    moved = moved._replace(
        direction=jnp.where(flat, descent.direction, _direction(moved)),
        step=jnp.where(flat, _STRIDE * descent.step, 1).astype(descent.step.dtype),
    )
    # The maximum of the parabola through both values and the slope.
    best = 0.5 * descent.step * slope / jnp.where(slope * descent.step > gain, slope * descent.step - gain, 1)
    cut = jnp.where(finite, jnp.clip(best, 0.1, 0.5), 0.1)
    kept = descent._replace(step=descent.step * cut, rejected=descent.rejected + 1)
    new = jax.tree.map(lambda a, b: jnp.where(taken, a, b), moved, kept)
    left = new.direction @ new.score
    # No gain can be seen below the rounding of the log density.
    calm = gain <= jnp.maximum(10 * ENOUGH, rounding)
    small = left <= jnp.maximum(2 * ENOUGH, rounding)
    stuck = (new.rejected >= _STALLS) | ~jnp.isfinite(left)
    new = new._replace(arrived=(taken & faithful & ~flat & calm & small) | stuck)
    return jax.tree.map(lambda a, b: jnp.where(descent.arrived, b, a), new, descent)


def descend(
    position: jax.Array,
    evaluate: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    memory: int,
    most_evaluations: int,
) -> tuple[Descent, jax.Array]:
    """A whole descent at once: its end, arrived or not, and the evaluations it took.

    Args:
        position: where it starts, shape `(dim,)`.
        evaluate: `x -> (log p, grad log p)`.
        memory: pairs to remember.
        most_evaluations: after which it ends wherever it is.
    """

    def going(carry):
        descent, spent = carry
        return ~descent.arrived & (spent < most_evaluations)

    def move(carry):
        descent, spent = carry
        point = next_point(descent)
        return advance(descent, point, *evaluate(point)), spent + 1

    begun = start_descent(position, *evaluate(position), memory)
    return jax.lax.while_loop(going, move, (begun, jnp.ones((), int)))


def secants(descent: Descent) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Secants as draws of zero mean with scores: `(moves, -bends, weights)` with both signs of each pair.

    On a Gaussian of precision `A` every pair obeys `bend = A move`, so these rows fit the same metric as
    draws from it do, in the directions that the descent has seen.
    """
    moves = jnp.concatenate([descent.moves, -descent.moves])
    bends = jnp.concatenate([descent.bends, -descent.bends])
    return moves, -bends, (jnp.sum(bends**2, 1) > 0).astype(moves.dtype)
