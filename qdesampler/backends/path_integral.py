r"""Path-integral annealing: simulated quantum annealing on Suzuki-Trotter slices.

The partition function of `H = scale E(Z) - Gamma sum_i X_i` at `beta` is, to `O(M^-2)`, that of `M` coupled
copies (slices) of the spins on a ring in imaginary time,

    log w = -(beta scale / M) sum_m E(s^m) + Jp sum_{m,i} s_i^m s_i^{m+1},
    Jp = -(1/2) log tanh(beta Gamma / M).

Lowering `Gamma` is quantum annealing. A sweep visits every spin: even slices, odd slices, then the whole
world line at once, which is what still moves when `Gamma` is small and the slices are locked.

A slice at `Gamma > 0` is not a draw from `exp(-beta E)`: the law is "unknown", for pools.

References:
    Suzuki, Prog. Theor. Phys. 56 (1976) 1454.
    Martonak, Santoro, Tosatti, "Quantum annealing by the path-integral Monte Carlo method", Phys. Rev. B 66
    (2002) 094203.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from qdesampler.backends.checks import annealing_table
from qdesampler.backends.protocol import Capabilities, LocalBackend, SampleCall, Samples
from qdesampler.backends.sweeps import SweepPlan, from_blocks, plan_sweeps, sweep_spins, to_blocks
from qdesampler.equation.schedule import Schedule
from qdesampler.validation import as_positive_int

__all__ = ["PathIntegralAnnealing"]


@dataclasses.dataclass(frozen=True)
class PathIntegralAnnealing(LocalBackend):
    """Simulated quantum annealing; a read is one slice, chosen at random.

    All slices of a read start at its initial state; without one, every spin of every slice starts at random.

    Attributes:
        num_sweeps: sweeps for each read; a `schedule` given to `sample` as a table has its own number.
        num_slices: `M`, even.
        energy_scale: factor of `E` over the run.
        transverse_field: `Gamma` over the run, in the units of the energy.
    """

    num_sweeps: int = 100
    num_slices: int = 8
    energy_scale: Schedule = Schedule.constant(1.0)
    transverse_field: Schedule = Schedule.linear(3.0, 0.0)

    def __post_init__(self) -> None:
        as_positive_int("num_sweeps", self.num_sweeps)
        if as_positive_int("num_slices", self.num_slices) % 2:
            raise ValueError(
                f"num_slices must be even, got {self.num_slices}: odd and even slices alternate."
            )
        for name in ("energy_scale", "transverse_field"):
            if not isinstance(getattr(self, name), Schedule):
                raise TypeError(f"{name} must be a Schedule, got {getattr(self, name)!r}.")

    @property
    def capabilities(self) -> Capabilities:
        """Draws of unknown law."""
        return Capabilities(law="unknown", jittable=True, initial_states=True, schedule=True)

    def _draw(self, call: SampleCall) -> Samples:
        table = annealing_table(call.schedule, self.num_sweeps, self.energy_scale, self.transverse_field)
        plan, start = plan_sweeps(call.problem), call.initial_states
        states = _evolve(plan, table, call.beta, call.key, start, call.num_reads, self.num_slices)
        return Samples(states, call.problem.energies(states))


def _decide(weight, trotter, s, field, noise):
    """Metropolis on even slices, odd slices, world line; the last axis is (slice pair, parity, read)."""
    pairs, _, reads = noise[0].shape[-3:]
    shape = (*s.shape[:-1], pairs, 2, reads)
    s, pull = s.reshape(shape), weight * field.reshape(shape)
    uniform, of_line = noise
    even, odd = s[..., 0, :], s[..., 1, :]

    def flip(own, pull, near, uniform):
        return jnp.where(uniform < jnp.exp(2 * own * (pull - trotter * near)), -own, own)

    even = flip(even, pull[..., 0, :], odd + jnp.roll(odd, 1, -2), uniform[..., 0, :])
    odd = flip(odd, pull[..., 1, :], even + jnp.roll(even, -1, -2), uniform[..., 1, :])
    s = jnp.stack([even, odd], -2)
    gain = jnp.sum(2 * s * pull, (-3, -2), keepdims=True)
    return jnp.where(of_line[..., None, None, :] < jnp.exp(gain), -s, s).reshape(*s.shape[:-3], -1)


@partial(jax.jit, static_argnums=(5, 6))
def _evolve(
    plan: SweepPlan,
    table: jax.Array,
    beta: jax.Array,
    key: jax.Array,
    start: jax.Array | None,
    num_reads: int,
    num_slices: int,
):
    dtype = plan.h.dtype
    key_start, key_run, key_slice = jax.random.split(key, 3)
    if start is None:
        shape = (num_slices * num_reads, plan.position.shape[0])
        start = 2 * jax.random.bernoulli(key_start, 0.5, shape).astype(jnp.int8) - 1
    else:
        start = jnp.tile(start, (num_slices, 1))
    weights = (beta * table[:, 0] / num_slices).astype(dtype)
    tiny = jnp.finfo(
        dtype
    ).tiny  # tanh 0 would give an infinite coupling; a large finite one locks the slices too
    trotters = (-jnp.log(jnp.maximum(jnp.tanh(beta * table[:, 1] / num_slices), tiny)) / 2).astype(dtype)

    def step(spins, now):
        index, weight, trotter = now
        key_local, key_line = jax.random.split(jax.random.fold_in(key_run, index))
        noise = (
            jax.random.uniform(key_local, (*plan.h.shape, num_slices // 2, 2, num_reads), dtype),
            jax.random.uniform(key_line, (*plan.h.shape, num_reads), dtype),
        )
        spins, _ = sweep_spins(plan, spins, noise, partial(_decide, weight, trotter))
        return spins, None

    steps = (jnp.arange(table.shape[0]), weights, trotters)
    spins, _ = jax.lax.scan(step, to_blocks(plan, start), steps)
    states = from_blocks(plan, spins).reshape(num_slices, num_reads, -1)
    chosen = jax.random.randint(key_slice, (num_reads,), 0, num_slices)
    return states[chosen, jnp.arange(num_reads)]
