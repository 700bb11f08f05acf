r"""Palindromic Gibbs sweeps at one temperature: a transition reversible with respect to a known law.

Each update draws one spin (or one colour) from its conditional law under `q ~ exp(-beta E)`, which is
reversible with respect to `q`. A product of such updates need not be; one that reads the same backwards is,

    K = T_1 T_2 ... T_n  T_n ... T_2 T_1,        q(s) K(s, s') = q(s') K(s', s),

so a proposal from `K` is accepted with `min(1, pi(s') q(s) / (pi(s) q(s')))` for any target `pi`, and the
constant of `q` cancels (Liu 2001, section 9.4.3, "surrogate transition").
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from qdesampler.backends.checks import check_call, refuse
from qdesampler.backends.problem import IsingProblem, check_states
from qdesampler.backends.protocol import Capabilities, LocalBackend, Samples
from qdesampler.backends.simulated_annealing import heat_bath
from qdesampler.backends.sweeps import SweepPlan, from_blocks, make_plan, sweep, to_blocks
from qdesampler.validation import as_positive_int

__all__ = ["GibbsSurrogate"]


@dataclasses.dataclass(frozen=True)
class GibbsSurrogate(LocalBackend):
    """`num_sweeps` pairs of heat-bath sweeps, forwards and then backwards, at constant `beta`.

    Attributes:
        num_sweeps: pairs of sweeps of a read.
    """

    num_sweeps: int = 10

    def __post_init__(self):
        as_positive_int("num_sweeps", self.num_sweeps)

    @property
    def capabilities(self) -> Capabilities:
        """A kernel from the initial states, reversible with respect to `exp(-beta E)`."""
        return Capabilities(law="reversible", jittable=True, initial_states=True)

    def sample(
        self,
        problem: IsingProblem,
        *,
        key: jax.Array,
        num_reads: int = 1,
        beta: ArrayLike = 1.0,
        schedule: Any = None,
        initial_states: ArrayLike | None = None,
    ) -> Samples:
        """Return where the sweeps lead from `initial_states`, `(num_reads, n)` or `(n,)`; else random ones.

        Raises:
            TypeError: an argument is not of its kind.
            ValueError: a number out of range, states of another shape, or a `schedule`.
        """
        problem, num_reads, beta = check_call("GibbsSurrogate", problem, num_reads, beta, key=key)
        refuse("GibbsSurrogate", schedule=schedule)
        n = problem.num_variables
        key_start, key_run = jax.random.split(key)
        if initial_states is None:
            initial_states = 2 * jax.random.bernoulli(key_start, 0.5, (num_reads, n)).astype(jnp.int8) - 1
        start = check_states("initial_states", initial_states, num_reads, n)
        states = _palindrome(make_plan(problem), beta, key_run, start, self.num_sweeps)
        return Samples(states, problem.energies(states))


@partial(jax.jit, static_argnums=4)
def _palindrome(plan: SweepPlan, beta: jax.Array, key: jax.Array, start: jax.Array, num_sweeps: int):
    decide = partial(heat_bath, beta)

    def pair(spins, key):
        for reverse, key_sweep in zip((False, True), jax.random.split(key), strict=True):
            noise = jax.random.uniform(key_sweep, spins.shape, spins.dtype)
            spins, _ = sweep(plan, spins, noise, decide, reverse=reverse)
        return spins, None

    spins, _ = jax.lax.scan(pair, to_blocks(plan, start), jax.random.split(key, num_sweeps))
    return from_blocks(plan, spins)
