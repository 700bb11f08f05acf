"""One compiled program that evaluates a log density: batches of points in, values and scores out, in NumPy.

The device evaluates the target, the host thinks: whoever adapts in plain Python asks for batches of any size,
and this is the only program that depends on the target. It takes blocks of a few points; how many of them are
evaluated is decided when it runs, so that one compilation serves four descents and thousands of candidates.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Evaluator"]

_WIDTH = 4  # points of a block on a CPU: as many as there are descents, so that these pay for no padding
_WIDE = 64  # on an accelerator, where padding costs nothing and a block takes its time whatever its width
_BUFFER_BYTES = (
    1 << 16
)  # of one call, as copying more takes longer than the call; larger batches take several
_FEWEST_BLOCKS = 16  # of one call, however many coordinates


class Evaluator:
    """Points of shape `(n, dim)` to log densities `(n,)` and scores `(n, dim)`, all float64 on the host.

    The target sees points in its own precision (`dtype`); what it returns is not checked: values and scores
    that are not finite come back as they are.

    Attributes:
        dim: number of coordinates.
        dtype: type in which the target is evaluated.
        num_evals: points evaluated so far; padding is not counted.
        score_cost: evaluations of a log density with its score: both are always computed together.
        context: further arguments of the target, arrays of fixed shapes, which may be replaced at any time.
    """

    score_cost: float = 1.0

    def __init__(
        self,
        value_and_score: Callable,
        dim: int,
        dtype: jax.typing.DTypeLike | None = None,
        context: tuple[Any, ...] = (),
    ):
        """Wrap `(point of shape (dim,), *context) -> (value, score)`; it is traced at the first call."""
        self.dim = dim
        self.dtype: np.dtype = np.dtype(jnp.result_type(float) if dtype is None else dtype)
        self.num_evals: int = 0
        self._width = _WIDTH if jax.default_backend() == "cpu" else _WIDE
        row_bytes = self._width * max(dim, 1) * self.dtype.itemsize
        self._blocks = int(np.clip(_BUFFER_BYTES // row_bytes, _FEWEST_BLOCKS, 1024))
        self.context = context

        def evaluate(points: jax.Array, used: jax.Array, *context: Any) -> tuple[jax.Array, jax.Array]:
            batch = _for_rows(lambda point: value_and_score(point, *context))

            def block(i, results):
                values, scores = results
                value, score = batch(points[i])
                return values.at[i].set(value), scores.at[i].set(score)

            blank = jnp.zeros(points.shape[:2], points.dtype), jnp.zeros_like(points)
            return jax.lax.fori_loop(0, used, block, blank)

        self._program = jax.jit(evaluate)

    def rounded(self, points: np.ndarray) -> np.ndarray:
        """Points as the target sees them, in float64 again."""
        with np.errstate(over="ignore"):  # what has run away becomes infinite
            return np.asarray(points, self.dtype).astype(float)

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate `points`, shape `(n, dim)`.

        Raises:
            ValueError: the points have another shape.
        """
        with np.errstate(over="ignore"):
            points = np.asarray(points, self.dtype)
        if points.ndim != 2 or points.shape[1] != self.dim:
            raise ValueError(f"points have the shape {points.shape}; expected (n, {self.dim}).")
        values = np.empty(len(points))
        scores = np.empty((len(points), self.dim))
        capacity = self._blocks * self._width
        for first in range(0, len(points), capacity):
            chunk = points[first : first + capacity]
            used = -(-len(chunk) // self._width)
            buffer = np.empty((capacity, self.dim), self.dtype)  # rows that are not used are not read
            buffer[: len(chunk)] = chunk
            buffer[len(chunk) : used * self._width] = chunk[
                -1
            ]  # padding repeats a point that is asked for anyway
            value, score = self._program(
                buffer.reshape(self._blocks, self._width, self.dim), used, *self.context
            )
            rows = slice(first, first + len(chunk))
            values[rows] = np.asarray(value, float).reshape(-1)[: len(chunk)]
            scores[rows] = np.asarray(score, float).reshape(-1, self.dim)[: len(chunk)]
        self.num_evals += len(points)
        return values, scores


def _for_rows(one: Callable) -> Callable:
    """`one` for all rows at once, or for one after the other where JAX cannot batch it.

    A callback to the host without a `vmap_method` is such a function, which NUTS takes too.
    """

    def batch(points: jax.Array) -> tuple[jax.Array, jax.Array]:
        try:
            return jax.vmap(one)(points)
        except NotImplementedError:
            return jax.lax.map(one, points)

    return batch
