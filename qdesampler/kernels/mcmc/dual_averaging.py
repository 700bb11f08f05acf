"""Step size by dual averaging on an acceptance statistic (Hoffman and Gelman 2014, section 3.2)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["DualAveraging", "start_averaging", "update_averaging"]

_SHRINKAGE, _DELAY, _DECAY = 0.05, 10.0, 0.75  # gamma, t0, kappa of Hoffman and Gelman
# gamma for one chain: with 0.05 the noise of its acceptance makes the search end at .7 of the right step.
_SHRINKAGE_OF_ONE = 0.1
_FIRST_FACTOR = 10  # the iterates shrink to this multiple of the first step size


class DualAveraging(NamedTuple):
    """State of the search for the step size whose acceptance is the target.

    Attributes:
        log_step: current logarithm of the step size.
        log_average: weighted average of the logarithms, the value to freeze.
        gap: running mean of `target - acceptance`.
        count: updates so far.
        centre: point that the iterates shrink to, `log(10 * first step size)`.
        direction: +1 or -1 while the first step size is doubled or halved, 2 before the first of these
            updates, 0 after them.
    """

    log_step: jax.Array
    log_average: jax.Array
    gap: jax.Array
    count: jax.Array
    centre: jax.Array
    direction: jax.Array


def start_averaging(step_size: jax.Array, *, search: bool | jax.Array = False) -> DualAveraging:
    """The state at `step_size`; `search`: double or halve it until the acceptance crosses the target."""
    dtype = jnp.result_type(float)
    log_step = jnp.log(jnp.asarray(step_size, dtype))
    direction = jnp.where(search, 2, 0).astype(int)
    zero = jnp.zeros((), dtype)
    return DualAveraging(
        log_step, log_step, zero, zero, log_step + jnp.log(jnp.asarray(_FIRST_FACTOR, dtype)), direction
    )


def update_averaging(
    state: DualAveraging, acceptance: jax.Array, target: float | jax.Array, chains: int = 1
) -> DualAveraging:
    """One update from an acceptance statistic in [0, 1], the mean over `chains` chains."""
    shrinkage = max(_SHRINKAGE, _SHRINKAGE_OF_ONE / chains**0.5)
    toward = jnp.where(acceptance > target, 1, -1)
    searching = (state.direction == 2) | ((state.direction != 0) & (toward == state.direction))
    moved = state.log_step + toward * jnp.log(2.0).astype(state.log_step.dtype)
    found = start_averaging(jnp.exp(moved))._replace(direction=jnp.where(searching, toward, 0).astype(int))

    count = state.count + 1
    gap = state.gap + (target - acceptance - state.gap) / (count + _DELAY)
    log_step = state.centre - jnp.sqrt(count) / shrinkage * gap
    weight = count**-_DECAY
    log_average = weight * log_step + (1 - weight) * state.log_average
    averaged = state._replace(log_step=log_step, log_average=log_average, gap=gap, count=count)
    return jax.tree.map(lambda a, b: jnp.where(state.direction != 0, a, b), found, averaged)
