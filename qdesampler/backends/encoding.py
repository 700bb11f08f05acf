r"""Sites of several states as bits, so that an Ising machine can hold them.

Site `i` with `q_i` states gets `q_i - 1` bits, bit `(i, c)` for the states `c = 1, ..., q_i - 1`,

    u_ic = 1 if x_i = c, else 0,

and no bit on means state 0. A site of two states is its own bit. Two bits of a site on at once stand for no
position; a penalty in the energy makes that rare, and the moves on bits give it probability 0.
"""

import dataclasses
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["StateEncoding"]


@dataclasses.dataclass(frozen=True)
class StateEncoding:
    """The code of positions `x`, `x_i in {0, ..., q_i - 1}`, shape `(n,)`, as bits, shape `(N,)`.

    Attributes:
        num_states: `q_i` of each site, at least 2.
    """

    num_states: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.num_states or any(not isinstance(q, (int, np.integer)) or q < 2 for q in self.num_states):
            raise ValueError(
                f"num_states must give at least 2 states for each site, and one site, got {self.num_states}."
            )

    @property
    def num_sites(self) -> int:
        """The number of sites, `n`."""
        return len(self.num_states)

    @property
    def num_bits(self) -> int:
        """The number of bits, `N = sum_i (q_i - 1)`."""
        return sum(self.num_states) - self.num_sites

    @cached_property
    def site(self) -> np.ndarray:
        """The site of every bit, shape `(N,)`."""
        return np.repeat(np.arange(self.num_sites), np.asarray(self.num_states) - 1)

    @cached_property
    def state(self) -> np.ndarray:
        """The state that every bit stands for, shape `(N,)`."""
        return np.concatenate([np.arange(1, q) for q in self.num_states])

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """All pairs of bits `a < b` of different sites."""
        first, second = np.triu_indices(self.num_bits, 1)
        apart = self.site[first] != self.site[second]
        return first[apart], second[apart]

    @property
    def is_binary(self) -> bool:
        """Whether every site has two states."""
        return self.num_bits == self.num_sites

    def encode(self, position: jax.Array) -> jax.Array:
        """Return the bits of a position, int8."""
        return (position[..., self.site] == self.state).astype(jnp.int8)

    def decode(self, bits: jax.Array) -> jax.Array:
        """Return the position of bits, int32; of several bits of a site the highest state counts."""
        largest = jnp.zeros((*bits.shape[:-1], self.num_sites), jnp.int32)
        return largest.at[..., self.site].max(bits.astype(jnp.int32) * self.state.astype(np.int32))

    def is_position(self, bits: jax.Array) -> jax.Array:
        """Return whether no site has two bits on."""
        if self.is_binary:
            return jnp.ones(bits.shape[:-1], bool)
        count = jnp.zeros((*bits.shape[:-1], self.num_sites), jnp.int32)
        return jnp.all(count.at[..., self.site].add(bits.astype(jnp.int32)) <= 1, -1)
