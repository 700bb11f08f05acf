"""All states of a small Ising problem: exact draws, probabilities and partition function."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.backends.checks import check_call
from qdesampler.backends.problem import IsingProblem, bits_to_spins
from qdesampler.backends.protocol import Capabilities, LocalBackend, SampleCall, Samples

__all__ = ["ExactEnumeration", "all_bits", "all_states"]

_LARGEST = 16  # variables: 65,536 states are enumerated


def all_bits(n: int) -> jax.Array:
    """Return all `2^n` bit vectors as int8, shape `(2^n, n)`; row `k` holds the digits of `k`, highest first.

    The rows' order is that of `jnp.ravel` on an array of shape `(2,) * n`.
    """
    return ((jnp.arange(2**n)[:, None] >> jnp.arange(n - 1, -1, -1)) & 1).astype(jnp.int8)


def all_states(n: int) -> jax.Array:
    """Return all `2^n` states, -1 and +1, in the order of `all_bits`."""
    return bits_to_spins(all_bits(n))


@dataclasses.dataclass(frozen=True)
class ExactEnumeration(LocalBackend):
    """Independent draws from `exp(-beta E) / Z` by enumeration, `n <= 16`: the reference of the tests.

    `sample` returns the log probability of every state, and takes no `schedule` and no `initial_states`.
    """

    @property
    def capabilities(self) -> Capabilities:
        """Exact independent draws with their log probability."""
        return Capabilities(law="density", jittable=True, max_variables=_LARGEST)

    def _draw(self, call: SampleCall) -> Samples:
        states, log_prob = _draw(call.problem, call.beta, call.key, call.num_reads)
        return Samples(states, call.problem.energies(states), None, log_prob)

    def log_partition(self, problem: IsingProblem, *, beta: ArrayLike = 1.0) -> jax.Array | np.ndarray:
        """Return `log Z = log sum_s exp(-beta E(s))`; in double precision unless JAX traces."""
        problem, _, scale = check_call("ExactEnumeration", problem, 1, beta, _LARGEST)
        return _log_partition(problem, scale) - scale * problem.offset

    def log_prob(
        self, problem: IsingProblem, states: ArrayLike, *, beta: ArrayLike = 1.0
    ) -> jax.Array | np.ndarray:
        """Return the log probability of states, -1 and +1, shape `(..., n)`."""
        problem, _, scale = check_call("ExactEnumeration", problem, 1, beta, _LARGEST)
        return -scale * problem.without_offset().energies(states) - _log_partition(problem, scale)


def _log_partition(problem: IsingProblem, beta: Any) -> Any:
    """`log Z` of the problem without its constant; known numbers are summed on the host."""
    exponents = -beta * problem.without_offset().energies(all_states(problem.num_variables))
    if isinstance(exponents, jax.Array):
        return jax.nn.logsumexp(exponents)
    return np.logaddexp.reduce(exponents)


@partial(jax.jit, static_argnums=3)
def _draw(problem: IsingProblem, beta: jax.Array, key: jax.Array, num_reads: int):
    states = all_states(problem.num_variables)
    log_prob = jax.nn.log_softmax(-beta * problem.energies(states))
    # One uniform number for each read: a categorical draw by Gumbel noise would need 2^n of them.
    total = jnp.cumsum(jnp.exp(log_prob))
    level = total[-1] * (1 - jax.random.uniform(key, (num_reads,), total.dtype))
    rows = jnp.searchsorted(total, level)
    return states[rows], log_prob[rows]
