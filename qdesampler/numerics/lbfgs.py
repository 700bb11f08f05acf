r"""Descent of `U = -log p`: imaginary time at `D -> 0`, one evaluation at a time.

At vanishing diffusion the imaginary-time flow is the descent of the potential, `dx/dtau = -grad U`. It is
followed by the quasi-Newton method with limited memory (L-BFGS: Nocedal and Wright 2006, algorithm 7.5) and a
backtracking line search. The code does not call the density. `next_point` proposes a point, the caller
evaluates it, and `update_descent` takes the log density and score. So a Markov kernel or a solver can
interleave the evaluations with others, and every evaluation is counted.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Descent", "next_point", "run_descent", "start_descent", "update_descent"]

ENOUGH = 0.1  # nats that the quadratic model may still predict as a gain when a descent has arrived
_SUFFICIENT = 1e-4  # Armijo's constant: fraction of the linear gain that an accepted point must reach
_FIRST_STEP = 1.0  # length of the first step, in the coordinates given
_FLAT = 0.1  # relative change of the slope below which the step is lengthened
_STRIDE = 4.0  # factor by which it is lengthened
_LEAST_CURVATURE = 1e-3  # relative change of the slope below which a pair is not remembered
_SHORTEST_CUT, _LONGEST_CUT = 0.1, 0.5  # bounds of the factor by which a rejected step is shortened
_STALLS = 12  # consecutive points without gain after which a descent ends
_TINY_GAIN = 0.01  # nats; a smaller gain counts as none
# Fraction of the gain predicted by the slopes at both ends; below it a pair does not show the curvature here.
_FAITHFUL = 0.3


class Descent(NamedTuple):
    """One descent; `m` remembered pairs.

    Attributes:
        position: best point so far, shape `(dim,)`.
        log_density: `log p` at the position.
        score: `grad log p` at the position, shape `(dim,)`.
        direction: current search direction, shape `(dim,)`.
        step: fraction of the direction to try next.
        steps: accepted steps scaled to unit energy, `s / sqrt(s.y)`, newest last, shape `(m, dim)`.
        gradient_differences: differences of the gradient of `-log p` over these steps, `y / sqrt(s.y)`, same
            shape; unused rows are zero.
        rejected: consecutive points that were rejected or gained next to nothing.
        arrived: whether nothing is left to gain, or no progress is possible.
    """

    position: jax.Array
    log_density: jax.Array
    score: jax.Array
    direction: jax.Array
    step: jax.Array
    steps: jax.Array
    gradient_differences: jax.Array
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
        steps=zeros,
        gradient_differences=zeros,
        rejected=jnp.zeros((), int),
        arrived=jnp.zeros((), bool),
    )


def _norm(vector: jax.Array) -> jax.Array:
    """Euclidean length, without the overflow of squaring large scores."""
    largest = jnp.max(jnp.abs(vector), initial=jnp.finfo(vector.dtype).tiny)
    return largest * jnp.linalg.norm(vector / largest)


def next_point(descent: Descent) -> jax.Array:
    """The point to evaluate next, shape `(dim,)`; a descent that has arrived gives its own position."""
    return jnp.where(descent.arrived, descent.position, descent.position + descent.step * descent.direction)


def _direction(descent: Descent) -> jax.Array:
    """Quasi-Newton direction: the two-loop recursion over pairs of unit energy."""
    steps, differences = descent.steps, descent.gradient_differences

    def backward(vector, pair):
        step, difference = pair
        along = step @ vector
        return vector - along * difference, along

    vector, alongs = jax.lax.scan(backward, descent.score, (steps, differences), reverse=True)
    used = jnp.sum(differences[-1] ** 2) > 0
    # With unit energy the inverse curvature of the last pair, s.y / y.y, is 1 / |y|^2.
    size = _norm(descent.score)
    first = _FIRST_STEP / jnp.maximum(size, _FIRST_STEP)
    vector = vector * jnp.where(used, 1 / jnp.where(used, jnp.sum(differences[-1] ** 2), 1), first)

    def forward(vector, pair):
        step, difference, along = pair
        return vector + (along - difference @ vector) * step, None

    return jax.lax.scan(forward, vector, (steps, differences, alongs))[0]


def update_descent(descent: Descent, point: jax.Array, log_density: jax.Array, score: jax.Array) -> Descent:
    """The descent after the evaluation of `next_point(descent)`.

    A point that gains enough is accepted; otherwise the step is shortened by a quadratic interpolation.
    Points that are not finite are rejected. A descent that has arrived does not change.
    """
    slope = descent.direction @ descent.score
    gain = log_density - descent.log_density
    here = jnp.where(jnp.isfinite(descent.log_density), descent.log_density, 0)
    rounding = 4 * jnp.finfo(point.dtype).eps * jnp.abs(here)
    finite = jnp.isfinite(log_density) & jnp.all(jnp.isfinite(score))
    accepted = finite & (gain >= _SUFFICIENT * descent.step * slope - rounding)

    step, difference = point - descent.position, descent.score - score
    energy = step @ difference
    # A step that starts on the wall of an exponential shows the curvature of the wall, not that of its end.
    faithful = gain >= _FAITHFUL * 0.5 * (step @ descent.score + step @ score) - rounding
    convex = accepted & faithful & (energy > _LEAST_CURVATURE * jnp.abs(step @ descent.score)) & (energy > 0)
    scale = jax.lax.rsqrt(jnp.where(convex, energy, 1))

    def remember(pairs, new):
        return jnp.where(convex, jnp.concatenate([pairs[1:], (new * scale)[None]]), pairs)

    moved = descent._replace(
        position=point,
        log_density=log_density,
        score=score,
        steps=remember(descent.steps, step),
        gradient_differences=remember(descent.gradient_differences, difference),
        rejected=jnp.where(gain > rounding + _TINY_GAIN, 0, descent.rejected + 1),
    )
    # A slope that barely changed does not show the scale: continue along the same line with a longer step.
    flat = accepted & (energy < _FLAT * jnp.abs(step @ descent.score))
    moved = moved._replace(
        direction=jnp.where(flat, descent.direction, _direction(moved)),
        step=jnp.where(flat, _STRIDE * descent.step, 1).astype(descent.step.dtype),
    )
    # The maximum of the parabola through both values and the slope.
    best = 0.5 * descent.step * slope / jnp.where(slope * descent.step > gain, slope * descent.step - gain, 1)
    cut = jnp.where(finite, jnp.clip(best, _SHORTEST_CUT, _LONGEST_CUT), _SHORTEST_CUT)
    kept = descent._replace(step=descent.step * cut, rejected=descent.rejected + 1)
    new = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), moved, kept)
    left = new.direction @ new.score
    # A gain below the rounding of the log density cannot be seen.
    calm = gain <= jnp.maximum(10 * ENOUGH, rounding)
    small = left <= jnp.maximum(2 * ENOUGH, rounding)
    stuck = (new.rejected >= _STALLS) | ~jnp.isfinite(left)
    new = new._replace(arrived=(accepted & faithful & ~flat & calm & small) | stuck)
    return jax.tree.map(lambda a, b: jnp.where(descent.arrived, b, a), new, descent)


def run_descent(
    position: jax.Array,
    evaluate: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    memory: int,
    most_evaluations: int,
) -> tuple[Descent, jax.Array]:
    """A whole descent: its state at the end, and the number of evaluations.

    Args:
        position: where it starts, shape `(dim,)`.
        evaluate: `x -> (log p, grad log p)`.
        memory: number of pairs to remember.
        most_evaluations: the descent ends after so many, arrived or not.
    """

    def continues(carry):
        descent, evaluations = carry
        return ~descent.arrived & (evaluations < most_evaluations)

    def evaluate_next(carry):
        descent, evaluations = carry
        point = next_point(descent)
        return update_descent(descent, point, *evaluate(point)), evaluations + 1

    start = start_descent(position, *evaluate(position), memory)
    return jax.lax.while_loop(continues, evaluate_next, (start, jnp.ones((), int)))
