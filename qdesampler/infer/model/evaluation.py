"""Value and gradient of a potential, for one point or a batch of chains."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from numpyro.util import is_prng_key


def value_and_gradient(potential: Callable, *, forward_mode: bool) -> Callable:
    """`z -> (U(z), grad U(z))`, by reverse or forward differentiation, traced once.

    The energy has JAX's default float type, whatever type the model computes in. NaN counts as no density,
    `U = inf`.
    """

    def as_default(energy):
        energy = jnp.asarray(energy, jnp.result_type(float))
        return jnp.where(jnp.isnan(energy), jnp.inf, energy)

    def twice(z):
        value = potential(z)
        return value, value

    def forward(z):
        gradient, value = jax.jacfwd(twice, has_aux=True)(z)
        return as_default(value), gradient

    def reverse(z):
        with missing_reverse_mode_explained():
            value, gradient = jax.value_and_grad(potential)(z)
        return as_default(value), gradient

    return forward if forward_mode else reverse


@contextmanager
def missing_reverse_mode_explained() -> Iterator[None]:
    """Add what to do to JAX's error of a loop whose length is not known when it is differentiated."""
    try:
        yield
    except ValueError as error:
        if "Reverse-mode differentiation" in str(error):
            error.add_note("Such a log density has derivatives forwards: forward_mode_differentiation=True.")
        raise


def is_batched(rng_key: jax.Array) -> bool:
    """Whether this is one key for each of several vectorized chains."""
    return not is_prng_key(rng_key)
