"""Checks of arguments. A message says what was given, what was expected, and what to do.

Values that JAX is tracing cannot be inspected, so under `jit`, `vmap` and `grad` only shapes and types are
checked.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike


def is_traced(value: Any) -> bool:
    """Whether `value` is being traced by JAX, so that it has a shape but no number yet."""
    return isinstance(value, Tracer)


def as_positive_int(name: str, value: Any) -> int:
    """Return `value` as a Python int of at least one.

    Raises:
        TypeError: `value` is not an integer.
        ValueError: `value` is less than one.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a positive integer, got {value!r} of type {type(value).__name__}.")
    if number < 1:
        raise ValueError(f"{name} must be a positive integer, got {number}.")
    return number


def check_whole(name: str, value: Any, least: int, remedy: str = "") -> None:
    """Check that `value` is a whole number of at least `least`, such as 16 or 16.0.

    Raises:
        ValueError: what was given and what is expected, followed by `remedy`.
    """
    try:
        number = math.nan if isinstance(value, bool | np.bool_ | str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number.is_integer() or number < least:  # neither NaN nor infinity is an integer
        raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}.{remedy}")


def as_positive_scalar(name: str, value: ArrayLike, *, allow_zero: bool = False) -> float | jax.Array:
    """Return `value` as a Python float, or unchanged while it is traced.

    A Python float keeps the precision of what it is combined with (it is weakly typed in JAX).

    Raises:
        TypeError: `value` is not a real number.
        ValueError: `value` is not a scalar, not finite, or not positive (negative, with `allow_zero`).
    """
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | np.number | np.ndarray | jax.Array
    ):
        raise TypeError(f"{name} must be a real number, got {value!r} of type {type(value).__name__}.")
    if np.shape(value) != ():
        raise ValueError(
            f"{name} must be one number, got shape {np.shape(value)}; "
            "where coordinates differ in scale, rescale them instead."
        )
    if jnp.issubdtype(jnp.result_type(value), jnp.complexfloating):
        raise TypeError(f"{name} must be real, got {value!r}.")
    if is_traced(value):
        return jnp.asarray(value)
    number = float(value)
    wanted = "non-negative" if allow_zero else "positive"
    if not math.isfinite(number) or number < 0 or (number == 0 and not allow_zero):
        raise ValueError(f"{name} must be {wanted} and finite, got {number}.")
    return number


def check_key(name: str, key: Any) -> None:
    """Check that `key` is a JAX random key, or an array of them.

    Raises:
        TypeError: it is something else, a seed for instance.
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and (dtype != np.uint32 or np.ndim(key) == 0):
        raise TypeError(
            f"{name} must be a JAX random key, such as jax.random.key(0), got {key!r} of type "
            f"{type(key).__name__}."
        )


def as_float_array(values: ArrayLike | Sequence[Any]) -> jax.Array:
    """Return numbers, or nested sequences of them, as a floating-point array; floats keep their precision."""
    if not isinstance(values, jax.Array):
        values = np.asarray(values)
    return jnp.asarray(values, jnp.result_type(float, values))


def as_point(name: str, x: ArrayLike, dim: int) -> jax.Array:
    """Return `x` as a floating-point array of shape `(dim,)`.

    Raises:
        ValueError: `x` has another shape.
    """
    x = as_float_array(x)
    if x.shape != (dim,):
        raise ValueError(f"{name} must be one point of shape ({dim},), got {x.shape}; batch with jax.vmap.")
    return x


def check_scalar_function(name: str, function: Callable[[jax.Array], Any], dim: int) -> None:
    """Check, without computing, that `function` maps one point of shape `(dim,)` to one real number.

    Raises:
        TypeError: `function` is not callable, or does not return a real floating-point number.
        ValueError: `function` returns an array that is not a scalar.
    """
    if not callable(function):
        raise TypeError(
            f"{name} must be a function of one point, got {function!r} of type {type(function).__name__}."
        )
    point = jax.ShapeDtypeStruct((dim,), jnp.result_type(float))
    try:
        out = jax.eval_shape(lambda x: function(x), point)
    except Exception as error:
        error.add_note(f"This happened while {name} was traced at one point of shape ({dim},).")
        raise
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise TypeError(
            f"{name} must return one real number, got {type(out).__name__} for a point of shape ({dim},)."
        )
    if out.shape != ():
        raise ValueError(
            f"{name} must return a scalar (shape ()), got shape {out.shape} for one point of shape ({dim},); "
            "write it for one point (sum over the last axis) and batch with jax.vmap."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(f"{name} must return a real floating-point number, got dtype {out.dtype}.")
