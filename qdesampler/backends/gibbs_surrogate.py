r"""Palindromic Gibbs sweeps at one temperature: a transition reversible with respect to a known law.

Each update draws one spin (or one colour) from its conditional law under `q ~ exp(-beta E)`, which is
reversible with respect to `q`. A product of such updates need not be; one that reads the same backwards is,

    K = T_1 T_2 ... T_n  T_n ... T_2 T_1,        q(s) K(s, s') = q(s') K(s', s),

so a proposal from `K` is accepted with `min(1, pi(s') q(s) / (pi(s) q(s')))` for any target `pi`, and the
constant of `q` cancels (Liu 2001, section 9.4.3, "surrogate transition").
"""

import dataclasses
from functools import partial

import jax

from qdesampler.backends.protocol import Capabilities, LocalBackend, SampleCall, Samples
from qdesampler.backends.simulated_annealing import heat_bath
from qdesampler.backends.sweeps import SweepPlan, from_blocks, plan_sweeps, sweep_spins, to_blocks
from qdesampler.validation import as_positive_int

__all__ = ["GibbsSurrogate"]


@dataclasses.dataclass(frozen=True)
class GibbsSurrogate(LocalBackend):
    """`num_sweeps` pairs of heat-bath sweeps, forwards and then backwards, at constant `beta`.

    A read is where the sweeps end that start from its initial state, a uniform random one if none is given.
    `sample` takes no `schedule`.

    Attributes:
        num_sweeps: pairs of sweeps for each read.
    """

    num_sweeps: int = 10

    def __post_init__(self) -> None:
        as_positive_int("num_sweeps", self.num_sweeps)

    @property
    def capabilities(self) -> Capabilities:
        """A kernel from the initial states, reversible with respect to `exp(-beta E)`."""
        return Capabilities(law="reversible", jittable=True, initial_states=True)

    def _draw(self, call: SampleCall) -> Samples:
        start, key_run = call.first_states()
        states = _palindrome(plan_sweeps(call.problem), call.beta, key_run, start, self.num_sweeps)
        return Samples(states, call.problem.energies(states))


@partial(jax.jit, static_argnums=4)
def _palindrome(plan: SweepPlan, beta: jax.Array, key: jax.Array, start: jax.Array, num_sweeps: int):
    decide = partial(heat_bath, beta)

    def pair(spins, key):
        for reverse, key_sweep in zip((False, True), jax.random.split(key), strict=True):
            noise = jax.random.uniform(key_sweep, spins.shape, spins.dtype)
            spins, _ = sweep_spins(plan, spins, noise, decide, reverse=reverse)
        return spins, None

    spins, _ = jax.lax.scan(pair, to_blocks(plan, start), jax.random.split(key, num_sweeps))
    return from_blocks(plan, spins)
