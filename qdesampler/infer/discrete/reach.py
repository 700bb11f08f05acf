"""Hard zeros and moves of single sites: which positions a chain of "local" moves can reach at all.

The informed local step gives a change of one site the probability that its density deserves: none where the
density is zero. A position whose neighbours are all forbidden is then never left, and others are never found.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.backends.encoding import StateEncoding
from qdesampler.kernels.discrete.outcomes import LogDensity, finite_or_low

__all__ = ["ReachWarning", "warn_of_islands"]

_MOST_STATES = 4096  # positions that are all evaluated, to count those in reach


class ReachWarning(UserWarning):
    """Hard zeros of the density divide its support for moves of single sites."""


def warn_of_islands(log_density: LogDensity, start: jax.Array, encoding: StateEncoding) -> int:
    """Warn if changes of one site cannot connect the support, and return the evaluations that it took.

    Spaces of up to 4096 positions are searched; in larger ones a forbidden neighbour of the start is named.

    Args:
        log_density: `f` of one position.
        start: a position with a finite density, shape `(n,)`, known numbers.
        encoding: the sites.
    """
    here, sizes = np.asarray(start, np.int32), np.asarray(encoding.num_states)
    shifts = np.zeros((encoding.num_bits, sizes.size), np.int32)
    shifts[np.arange(encoding.num_bits), encoding.site] = encoding.state
    evaluate = jax.jit(lambda rows: finite_or_low(jax.lax.map(log_density, rows, batch_size=4096)))

    def allowed(rows):
        return np.asarray(evaluate(jnp.asarray(rows, start.dtype))) > -np.inf

    spent = len(shifts)
    near = allowed((here + shifts) % sizes)
    if near.all():
        return spent
    advice = (
        "Use a move that changes several sites at once, such as 'coset' or 'mask', or 'permutation' where a "
        "number of ones is fixed."
    )
    if np.prod(sizes.astype(float)) > _MOST_STATES:
        warnings.warn(
            f"{np.sum(~near)} of the {len(near)} changes of one site at the start have density zero: 'local' "
            f"moves may not reach every position that is allowed. {advice}",
            ReachWarning,
            stacklevel=4,
        )
        return spent
    shape = tuple(int(size) for size in sizes)
    positions = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), -1).astype(np.int32)
    inside = allowed(positions)
    seen = np.zeros(len(positions), bool)
    edge = np.ravel_multi_index(tuple(here[:, None]), shape)
    while edge.size:
        seen[edge] = True
        around = (positions[edge][:, None] + shifts).reshape(-1, sizes.size) % sizes
        numbers = np.unique(np.ravel_multi_index(tuple(around.T), shape))
        edge = numbers[inside[numbers] & ~seen[numbers]]
    if seen.sum() < inside.sum():
        warnings.warn(
            f"changes of one site reach {seen.sum()} of the {inside.sum()} positions that are allowed: "
            f"'local' moves never leave them, and their averages are wrong. {advice}",
            ReachWarning,
            stacklevel=4,
        )
    return spent + len(positions)
