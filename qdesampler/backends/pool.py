"""Pools: reads of any backend, taken before a chain runs and frozen for it."""

from typing import Any

import jax
from jax.typing import ArrayLike

from qdesampler.backends.problem import IsingProblem, spins_to_bits
from qdesampler.backends.protocol import AnnealingBackend

__all__ = ["build_pool"]


def build_pool(
    backend: AnnealingBackend,
    problem: IsingProblem,
    *,
    key: jax.Array,
    size: int,
    beta: ArrayLike = 1.0,
    schedule: Any = None,
) -> jax.Array:
    """Return `size` reads as bits, int8, shape `(size, n)`, for the mask and coset moves.

    Those moves are exact whatever the law of the reads, provided that the pool does not depend on the chain's
    current state: build it before the run, or between phases of warm-up.

    Raises:
        TypeError: not a backend. What the backend itself raises passes through.
    """
    if not isinstance(backend, AnnealingBackend):
        raise TypeError(f"build_pool takes an annealing backend, got {type(backend).__name__}.")
    return spins_to_bits(
        backend.sample(problem, key=key, num_reads=size, beta=beta, schedule=schedule).states
    )
