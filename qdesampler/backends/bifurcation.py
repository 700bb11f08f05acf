r"""Simulated bifurcation: classical nonlinear oscillators that settle at low energies. A mode finder.

Each spin is an oscillator with position `x` and momentum `y` between walls at `|x| = 1`; the pump `a` rises
from 0 to 1 and each oscillator must choose a side,

    dy/dt = -(1 - a(t)) x - c (h + J g(x)),      dx/dt = y,      g(x) = sign x (discrete) or x (ballistic),

with `x` set to the wall and `y` to 0 where it would leave. The read is `sign x`. There is no temperature and
the law is "unknown": good for finding modes and filling pools; the ballistic form gives little diversity.

References:
    Goto et al., "High-performance combinatorial optimization based on classical mechanics", Science Advances
    7 (2021) eabe7953, equations (7)-(11).
"""

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from qdesampler.backends.protocol import Capabilities, LocalBackend, SampleCall, Samples
from qdesampler.backends.sweeps import SweepPlan, from_blocks, plan_sweeps
from qdesampler.validation import as_positive_int, as_positive_scalar

__all__ = ["SimulatedBifurcation"]


@dataclasses.dataclass(frozen=True)
class SimulatedBifurcation(LocalBackend):
    """Simulated bifurcation, all reads at once.

    A read is the signs of the oscillators at the end of a run from small random positions. `sample` ignores
    `beta`, and takes no `schedule` and no `initial_states`.

    Attributes:
        num_steps: steps of the integrator.
        step_size: length of a step, in units of the free oscillator's period over `2 pi`.
        form: "discrete" (more accurate, more diverse) or "ballistic" (faster to a good mode).
    """

    num_steps: int = 1000
    step_size: float = 0.5
    form: Literal["discrete", "ballistic"] = "discrete"

    def __post_init__(self) -> None:
        as_positive_int("num_steps", self.num_steps)
        as_positive_scalar("step_size", self.step_size)
        if self.form not in ("discrete", "ballistic"):
            raise ValueError(f"form must be 'discrete' or 'ballistic', got {self.form!r}.")

    @property
    def capabilities(self) -> Capabilities:
        """Low states of unknown law; no temperature."""
        return Capabilities(law="unknown", jittable=True, beta=False)

    def _draw(self, call: SampleCall) -> Samples:
        plan = plan_sweeps(call.problem)
        discrete = self.form == "discrete"
        states = _bifurcate(plan, call.key, call.num_reads, self.num_steps, self.step_size, discrete)
        return Samples(states, call.problem.energies(states))


def _force(plan: SweepPlan, g: jax.Array) -> jax.Array:
    """`-(h + J g)` of all spins, shape `(blocks, size, reads)`."""
    flat = g.reshape(-1, g.shape[-1])
    if plan.neighbours is None:
        field = jnp.matmul(plan.couplings, flat, precision=jax.lax.Precision.HIGHEST)
    else:
        field = sum(
            plan.couplings[..., k, None] * flat[plan.neighbours[..., k]]
            for k in range(plan.couplings.shape[-1])
        )
    return -(plan.h[..., None] + field)


@partial(jax.jit, static_argnums=(2, 3, 5))
def _bifurcate(
    plan: SweepPlan, key: jax.Array, num_reads: int, num_steps: int, step_size: float, discrete: bool
):
    dtype = plan.h.dtype
    n = plan.position.shape[0]
    # c = 0.5 / (sd of a row's couplings times sqrt n); with the fields included, strong ones are scaled down.
    row = jnp.sqrt((jnp.sum(plan.couplings**2) + jnp.sum(plan.h**2)) / n)
    strength = 0.5 / jnp.where(row > 0, row, 1.0)
    x, y = 0.1 * jax.random.uniform(key, (2, *plan.h.shape, num_reads), dtype, -1, 1)

    def step(carry, pump):
        x, y = carry
        g = jnp.where(x < 0, -1.0, 1.0).astype(dtype) if discrete else x
        y = y + step_size * (strength * _force(plan, g) - (1 - pump) * x)
        x = x + step_size * y
        outside = jnp.abs(x) > 1
        return (jnp.clip(x, -1, 1), jnp.where(outside, 0.0, y)), None

    (x, _), _ = jax.lax.scan(step, (x, y), jnp.linspace(0, 1, num_steps, dtype=dtype))
    return from_blocks(plan, jnp.where(x < 0, -1.0, 1.0))
