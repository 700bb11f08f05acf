r"""Imaginary time in a transverse field, run exactly: spins flip one by one at rates set by the energy.

The flip of spin `i` happens at the rate `sqrt(q(s^i) / q(s))`, `q ~ exp(-beta E)`. The generator `L` of this
process obeys

    sqrt(q) L / sqrt(q) = -H,        H = sum_i exp(-beta (E(s^i) - E(s)) / 2) - sum_i X_i,

a transverse field of strength one and a potential for which `sqrt(q)` is the ground state (Castelnovo et al.
2005). So running the process for a time `tau` draws from `exp(-tau H)`, which is symmetric: the transition is
reversible with respect to `q`, whatever `tau` is. The waiting times are drawn, not the flips that do not
happen (Bortz, Kalos, Lebowitz 1975): the cost grows with the number of flips, and spins that are certain cost
nothing.

The field may also have terms `- sum X_i X_j` over pairs: both spins flip at once, at a rate of the same
form. Nothing else changes. Two spins that exclude each other exchange in one step, where two single flips
would pass a state that hardly occurs.

References:
    Castelnovo, Chamon, Mudry, Pujol, "From quantum mechanics to classical statistical physics", Annals of
    Physics 318 (2005) 316.
    Bortz, Kalos, Lebowitz, "A new algorithm for Monte Carlo simulation of Ising spin systems", J. Comput.
    Phys. 17 (1975) 10.
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from qdesampler.backends.problem import IsingProblem
from qdesampler.backends.protocol import Capabilities, LocalBackend, SampleCall, Samples
from qdesampler.validation import as_positive_int, as_positive_scalar

__all__ = ["ImaginaryTime", "imaginary_time_flips"]

MOST_FLIPS = 1000  # of a path; change points take 12 on average at tau = 0.25


@dataclasses.dataclass(frozen=True)
class ImaginaryTime(LocalBackend):
    """Single flips for an imaginary time `tau` at constant `beta`, in continuous time.

    A read is where the process ends that starts from its initial state, a uniform random one if none is
    given. A path of more than `max_flips` flips is given up, and the read is its start: a path and its
    reverse have equally many flips, so the transition stays reversible. `sample` takes no `schedule`.

    Attributes:
        tau: imaginary time, in units of the inverse transverse field.
        max_flips: most flips of a path.
    """

    tau: float = 1.0
    max_flips: int = MOST_FLIPS

    def __post_init__(self) -> None:
        as_positive_scalar("tau", self.tau)
        as_positive_int("max_flips", self.max_flips)

    @property
    def capabilities(self) -> Capabilities:
        """A kernel from the initial states, reversible with respect to `exp(-beta E)`."""
        return Capabilities(law="reversible", jittable=True, initial_states=True)

    def _draw(self, call: SampleCall) -> Samples:
        start, key_run = call.first_states()
        problem = call.problem.dense()
        keys = jax.random.split(key_run, call.num_reads)
        states = _paths(problem, call.beta, keys, start, self.tau, self.max_flips)
        return Samples(states, call.problem.energies(states))


@partial(jax.jit, static_argnums=5)
def _paths(problem, beta, keys, starts, tau, max_flips):
    return jax.vmap(lambda key, s: imaginary_time_flips(key, s, problem, tau, beta, max_flips)[0])(
        keys, starts
    )


def imaginary_time_flips(
    key: jax.Array,
    state: jax.Array,
    problem: IsingProblem,
    tau: ArrayLike,
    beta: ArrayLike = 1.0,
    max_flips: int = MOST_FLIPS,
    pairs: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return where one path ends, int8, shape `(n,)`, and the number of its flips, that of a pair being one.

    Args:
        key: JAX key.
        state: where it starts, -1 and +1, shape `(n,)`.
        problem: dense.
        tau: imaginary time; 0 returns the start.
        beta: inverse temperature.
        max_flips: a path of more flips returns the start.
        pairs: spins that may flip together, shape `(m, 2)`, two different ones each; None for none. They may
            not depend on the state.
    """
    problem = problem._replace(h=jnp.asarray(problem.h), J=jnp.asarray(problem.J))  # may be on the host
    n, dtype = problem.num_variables, problem.h.dtype
    s = state.astype(dtype)
    first = second = jnp.arange(n)
    if pairs is not None:
        first, second = (jnp.concatenate([first, pairs[:, side]]) for side in (0, 1))
        across = 2 * problem.J[pairs[:, 0], pairs[:, 1]]

    def going(carry):
        return (carry[2] < tau) & (carry[3] <= max_flips)

    def flip(carry):
        s, field, now, count = carry
        log_rates = s * field  # half of -(E(s^i) - E(s))
        if pairs is not None:
            both = log_rates[pairs[:, 0]] + log_rates[pairs[:, 1]]
            log_rates = jnp.append(log_rates, both - across * s[pairs[:, 0]] * s[pairs[:, 1]])
        log_rates = beta * log_rates
        top = jnp.max(log_rates)
        unit = jax.random.uniform(jax.random.fold_in(key, count), (2,), dtype)
        which, total = _pick(jnp.exp(log_rates - top), unit[1])
        now = now - jnp.log1p(-unit[0]) * jnp.exp(-top) / total
        i, j = first[which], second[which]
        change = jnp.where(now < tau, -2 * s[i], 0.0)
        s, field = s.at[i].add(change), field + change * problem.J[i]
        if pairs is not None:
            change = jnp.where((now < tau) & (i != j), -2 * s[j], 0.0)
            s, field = s.at[j].add(change), field + change * problem.J[j]
        return s, field, now, count + 1

    start = (s, problem.h + problem.J @ s, jnp.zeros((), dtype), jnp.zeros((), jnp.int32))
    end, _, _, count = jax.lax.while_loop(going, flip, start)
    return jnp.where(count <= max_flips, end, s).astype(jnp.int8), count


def _pick(rates: jax.Array, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return an index drawn in proportion to `rates` by a uniform number, and their sum.

    First a block of about `sqrt(m)` of the `m` rates is drawn, then one in it: running sums of all rates
    took most of the time of a flip at 200 spins and 400 pairs.
    """
    size = rates.size
    width = math.isqrt(size - 1) + 1
    blocks = jnp.pad(rates, (0, -size % width)).reshape(-1, width)
    sums = jnp.cumsum(jnp.sum(blocks, 1))
    target = unit * sums[-1]
    block = jnp.minimum(jnp.sum(sums <= target), sums.size - 1)
    before = sums[block] - jnp.sum(blocks[block])
    inside = jnp.sum(before + jnp.cumsum(blocks[block]) <= target)
    return jnp.minimum(block * width + jnp.minimum(inside, width - 1), size - 1), sums[-1]
