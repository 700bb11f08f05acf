"""What the host has found, as arrays of the device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from qdesampler.infer.model.fingerprint import is_typed_key

__all__ = ["real", "start_index", "whole"]


def real(value: Any) -> jax.Array:
    """An array of JAX's default floating type."""
    return jnp.asarray(np.asarray(value), jnp.result_type(float))


def whole(value: Any) -> jax.Array:
    """An array of JAX's default integer type."""
    return jnp.asarray(np.asarray(value), jnp.result_type(int))


def start_index(key: jax.Array, number: int, *, batched: bool) -> Any:
    """Which of `number` starts: in turn for a batch, shape `(chains,)`; by its key for a single chain."""
    if batched:
        return np.arange(key.shape[0]) % number
    data = jax.random.key_data(key) if is_typed_key(key) else key
    return data[-1] % number if isinstance(data, Tracer) else int(np.asarray(data)[-1]) % number
