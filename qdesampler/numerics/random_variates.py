"""Random numbers of one move, drawn together.

Each call of a generator costs compile time. A move that needs normal and uniform numbers therefore draws one
vector of signed uniform numbers and transforms parts of it.
"""

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["signed_noise", "to_normal", "to_unit"]


def signed_noise(key: jax.Array, size: int) -> jax.Array:
    """Independent draws from the uniform law on `(-1, 1)`, shape `(size,)`."""
    dtype = jnp.result_type(float)
    least = float(np.nextafter(np.asarray(-1, dtype), np.asarray(0, dtype)))
    return jax.random.uniform(key, (size,), dtype, least, 1)


def to_normal(noise: jax.Array) -> jax.Array:
    """Standard normal draws from signed uniform ones, by inversion."""
    return jnp.sqrt(jnp.asarray(2, noise.dtype)) * jax.lax.erf_inv(noise)


def to_unit(noise: jax.Array) -> jax.Array:
    """Draws on `(0, 1)` from signed ones."""
    return 0.5 * (noise + 1)
