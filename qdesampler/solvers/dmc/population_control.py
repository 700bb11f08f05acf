r"""Population control: walkers of equal weight from weighted ones, and the factor divided out.

*Reconfiguration* keeps `N` walkers: a comb with `N` equally spaced teeth and one random offset is laid over
the cumulated weights, so that walker `i` is copied `floor` or `ceil` of `N w_i / sum w` times, and that on
average exactly. *Branching* copies it `floor(w_i + u_i)` times with its own uniform `u_i`; the number of
walkers wanders, and a reference energy `E_ref - log(population / N) / tau_f` brings it back.

Both divide out a common factor at every turn. As it depends on the present energies, it biases averages by
`O(1/N)`. It is recorded (`log_control`), so that averages over the last turns can be corrected for it
(`qdesampler.solvers.dmc.estimators`).

References:
    Buonaura and Sorella, Phys. Rev. B 57 (1998) 11446: reconfiguration at fixed size.
    Kitagawa, J. Comput. Graph. Stat. 5 (1996) 1: the comb (systematic resampling).
    Umrigar, Nightingale and Runge, J. Chem. Phys. 99 (1993) 2865, section II D: branching and its factor.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Control", "branch", "reconfigure"]


class Control(NamedTuple):
    """The outcome of a turn.

    Attributes:
        ancestor: walker that each place takes over, shape `(capacity,)`.
        weight: 1 for a walker, 0 for an empty place, same shape.
        log_control: log of the factor divided out, without that of the reference energy.
        total: number of walkers drawn; larger than the sum of `weight` if there were too few places.
    """

    ancestor: jax.Array
    weight: jax.Array
    log_control: jax.Array
    total: jax.Array


def reconfigure(weight: jax.Array, key: jax.Array) -> Control:
    """The comb: as many walkers as there are places.

    Args:
        weight: non-negative, not all zero, shape `(capacity,)`.
        key: JAX random key.
    """
    count = weight.size
    cumulated = jnp.cumsum(weight)
    mean = cumulated[-1] / count
    teeth = jnp.arange(count) + jax.random.uniform(key, (), weight.dtype)
    ancestor = jnp.searchsorted(cumulated / mean, teeth, side="right")
    ones = jnp.ones_like(weight)
    # The last tooth may pass the last sum by a rounding error.
    return Control(jnp.minimum(ancestor, count - 1), ones, jnp.log(mean), jnp.asarray(count, weight.dtype))


def branch(weight: jax.Array, key: jax.Array) -> Control:
    """Independent stochastic rounding; `total` may be zero, or more than there are places.

    Args:
        weight: non-negative, shape `(capacity,)`.
        key: JAX random key.
    """
    capacity = weight.size
    copies = jnp.floor(weight + jax.random.uniform(key, weight.shape, weight.dtype))
    cumulated = jnp.cumsum(copies)
    place = jnp.arange(capacity, dtype=weight.dtype)
    ancestor = jnp.searchsorted(cumulated, place, side="right")
    alive = (place < cumulated[-1]).astype(weight.dtype)
    return Control(jnp.minimum(ancestor, capacity - 1), alive, jnp.zeros((), weight.dtype), cumulated[-1])
