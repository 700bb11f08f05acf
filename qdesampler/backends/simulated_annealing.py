r"""Simulated annealing in JAX, with annealed-importance weights: the default backend.

A read starts at a uniform state (`beta_0 = 0`) and makes one sweep at each `beta_k = beta scale_k`. Its
weight,

    log w = n log 2 - sum_k (beta_k - beta_{k-1}) E(x_{k-1}) - (beta - beta_T) E(x_T),

makes it properly weighted: `E[w g(x_T)] = sum_s exp(-beta E(s)) g(s)` for every `g`, whatever the schedule,
so that `E[w]` is the partition function (Neal 2001). Here `E` has no constant: `log_scale` restores it.
`reverse_log_weight` runs the path backwards from a given state; with it annealed-importance draws become
exact Markov moves.

`low_energies` anneals for low energies, between the inverse temperatures of `annealing_range`.

References:
    Kirkpatrick, Gelatt, Vecchi, "Optimization by simulated annealing", Science 220 (1983) 671.
    Neal, "Annealed importance sampling", Statistics and Computing 11 (2001) 125.
"""

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.backends.checks import annealing_table, check_call, refuse_traced
from qdesampler.backends.precision import in_enough_precision, is_staged
from qdesampler.backends.problem import IsingProblem, check_states, uniform_states
from qdesampler.backends.protocol import Capabilities, LocalBackend, SampleCall, Samples
from qdesampler.backends.sweeps import SweepPlan, from_blocks, plan_sweeps, sweep_spins, to_blocks
from qdesampler.equation.schedule import Schedule
from qdesampler.validation import as_positive_int

__all__ = [
    "UPDATES",
    "SimulatedAnnealing",
    "Update",
    "annealing_range",
    "check_update",
    "energy_scales",
    "log_partition_estimate",
    "low_energies",
]

Update = Literal["metropolis", "heat_bath"]


@dataclasses.dataclass(frozen=True)
class SimulatedAnnealing(LocalBackend):
    """Annealing by single-spin updates, all reads at once; coloured sweeps for sparse problems.

    The default schedule is linear in `beta`, from `beta / num_sweeps` to `beta` itself, which suits sampling
    and weights; a single sweep is made at `beta`. As an optimiser it needs a large `beta`, and a geometric
    schedule where penalties are large: `low_energies` chooses both.

    `sample` returns log weights for the `beta` of the call, unless `initial_states` are given: draws from
    given states have no weight. The transverse field of a `schedule` is not used.

    Attributes:
        num_sweeps: sweeps for each read; a `schedule` given to `sample` as a table has its own number.
        energy_scale: `beta_k / beta` over the run; None for the straight line described.
        update: "metropolis" (lower energies) or "heat_bath".
    """

    num_sweeps: int = 100
    energy_scale: Schedule | None = None
    update: Update = "metropolis"

    def __post_init__(self) -> None:
        as_positive_int("num_sweeps", self.num_sweeps)
        check_update(self.update, self.energy_scale)

    @property
    def capabilities(self) -> Capabilities:
        """Weighted draws from uniform starts; draws from given states have no weight."""
        return Capabilities(law="weighted", jittable=True, initial_states=True, schedule=True)

    def _draw(self, call: SampleCall) -> Samples:
        problem, start = call.problem, call.initial_states
        plan, scales = plan_sweeps(problem), energy_scales(call.schedule, self.num_sweeps, self.energy_scale)
        states, log_weight = _anneal(
            plan, problem, scales, call.beta, call.key, start, call.num_reads, self.update
        )
        return Samples(states, problem.energies(states), log_weight if start is None else None)

    def reverse_log_weight(
        self,
        problem: IsingProblem,
        states: ArrayLike,
        *,
        key: jax.Array,
        beta: ArrayLike = 1.0,
        schedule: Any = None,
    ) -> jax.Array:
        """Return the log weight of a path drawn backwards from each state, shape `(reads,)`.

        Like `log_weight` it leaves out the constant of the problem. If the states have the law
        `exp(-beta E) / Z`, a state and its path have the law of a forward
        run weighted by its weight; so `E[1 / w] = 1 / Z`.

        Args:
            problem: as in `sample`.
            states: where the paths end, -1 and +1, shape `(reads, n)`.
            key: JAX key.
            beta: as in `sample`.
            schedule: as in `sample`.
        """
        reads = jnp.shape(states)[0] if jnp.ndim(states) == 2 else 1
        problem, reads, beta = check_call("SimulatedAnnealing", problem, reads, beta)
        states = check_states("states", states, reads, problem.num_variables)

        def run(problem, beta):
            scales = energy_scales(schedule, self.num_sweeps, self.energy_scale)
            return _backwards(plan_sweeps(problem), problem, scales, beta, key, states, self.update)

        others = (key, states, schedule)
        return in_enough_precision("SimulatedAnnealing", run, problem.without_offset(), beta, others)


def check_update(update: str, energy_scale: Any) -> None:
    """Refuse an update or an energy scale that annealers do not have.

    Raises:
        ValueError, TypeError: as said.
    """
    if update not in UPDATES:
        raise ValueError(f"update must be 'metropolis' or 'heat_bath', got {update!r}.")
    if energy_scale is not None and not isinstance(energy_scale, Schedule):
        raise TypeError(f"energy_scale must be a Schedule or None, got {energy_scale!r}.")


def energy_scales(schedule: Any, num_sweeps: int, energy_scale: Schedule | None) -> jax.Array:
    """Return `beta_k / beta` of every sweep; None stands for a straight line."""
    if energy_scale is None:  # not through 0: a sweep at beta = 0 changes nothing in law
        one = num_sweeps == 1
        energy_scale = Schedule.constant(1.0) if one else Schedule.linear(1 / num_sweeps, 1.0)
    return annealing_table(schedule, num_sweeps, energy_scale, Schedule.constant(0.0))[:, 0]


def annealing_range(problem: IsingProblem) -> tuple[float, float]:
    """Return the first and the last inverse temperature of an anneal that is to find low energies.

    At the first every spin turns with probability one half or more, whatever its neighbours are; at the last
    the weakest terms keep about one turn in a hundred sweeps (the rule of dwave-samplers):

        hot = log 2 / (2 max_i F_i),   F_i = |h_i| + sum_j |J_ij|,
        cold = log(100 c) / (2 f),   f the smallest term that is not zero, c spins having it.

    Raises:
        TypeError: the problem is traced.
        ValueError: all its terms are zero.
    """
    refuse_traced("annealing_range looks at numbers: call it outside of jit.", problem)
    problem = problem.sparse()
    h, J = (np.abs(np.asarray(part, np.float64)) for part in (problem.h, problem.J))
    fields, weakest = h.copy(), np.where(h > 0, h, np.inf)
    for ends in np.asarray(problem.edges).T:
        np.add.at(fields, ends, J)
        np.minimum.at(weakest, ends, np.where(J > 0, J, np.inf))
    if not np.any(fields > 0):
        raise ValueError("all fields and couplings are zero: every state has the lowest energy.")
    least = weakest.min()
    excited = int(np.sum(weakest == least))
    return float(np.log(2) / (2 * fields.max())), float(np.log(100 * excited) / (2 * least))


def low_energies(
    problem: IsingProblem, *, key: jax.Array, num_reads: int = 100, num_sweeps: int = 1000
) -> Samples:
    """Return reads of simulated annealing for low energies, shape `(num_reads, n)`.

    Inverse temperatures rise geometrically over `annealing_range(problem)`, the default of dwave-samplers.
    The weights of the reads belong to the last one, where they are worth little.

    Args:
        problem: known numbers, not traced.
        key: JAX key.
        num_reads: states to return.
        num_sweeps: sweeps for each.

    Raises:
        TypeError: the problem is traced.
        ValueError: all its terms are zero, or a number that is not positive.
    """
    hot, cold = annealing_range(problem)
    annealer = SimulatedAnnealing(num_sweeps, Schedule.geometric(hot / cold, 1.0))
    return annealer.sample(problem, key=key, num_reads=num_reads, beta=cold)


def log_partition_estimate(samples: Samples) -> tuple[Any, Any]:
    """Return `log Z` from weighted samples and its standard error.

    With `W_p` the share of population `p` of `P` in the sum of all weights, the error is that of the delta
    method, `sqrt((P sum_p W_p^2 - 1) / (P - 1))`. Reads without populations are one population each.

    Raises:
        ValueError: the samples have no weights, or fewer than two reads or populations.
    """
    weights, population = samples.log_weight, samples.population
    if weights is None or weights.shape[0] < 2:
        raise ValueError("log Z needs two weighted samples or more: law 'weighted', without initial_states.")
    xp = jnp if is_staged(samples) else np
    weights = weights if xp is jnp else np.asarray(weights, np.float64)
    count = weights.shape[0]
    top = xp.max(weights)
    shares = xp.exp(weights - top)
    mean = xp.mean(shares)
    if population is not None:
        if xp is jnp:
            shares = jnp.bincount(population, shares, length=count)
        else:
            shares = np.bincount(population, shares)
            if len(shares) < 2:
                raise ValueError(
                    "log Z needs two populations or more: take a number of reads that has a common divisor "
                    "with num_populations."
                )
        count = xp.max(population) + 1
    square = count * xp.sum((shares / xp.sum(shares)) ** 2) - 1
    error = xp.sqrt(xp.maximum(square, 0.0) / (count - 1))
    return top + xp.log(mean) + (0.0 if samples.log_scale is None else samples.log_scale), error


def metropolis(beta: jax.Array, s: jax.Array, field: jax.Array, noise: jax.Array) -> jax.Array:
    """Flip with probability `min(1, exp(-beta dE))`, `dE = -2 s field`."""
    return jnp.where(noise < jnp.exp(2 * beta * s * field), -s, s)


def heat_bath(beta: jax.Array, s: jax.Array, field: jax.Array, noise: jax.Array) -> jax.Array:
    """Draw from the conditional law, `P(s = 1) = 1 / (1 + exp(2 beta field))`."""
    return jnp.where(noise * (1 + jnp.exp(2 * beta * field)) < 1, jnp.ones_like(s), -jnp.ones_like(s))


UPDATES = {"metropolis": metropolis, "heat_bath": heat_bath}


@partial(jax.jit, static_argnums=(6, 7))
def _anneal(
    plan: SweepPlan,
    problem: IsingProblem,
    scales: jax.Array,
    beta: jax.Array,
    key: jax.Array,
    start: jax.Array | None,
    num_reads: int,
    update: Update,
):
    n, dtype = problem.num_variables, plan.h.dtype
    key_start, key_run = jax.random.split(key)
    if start is None:
        start = uniform_states(key_start, num_reads, n)
    betas = beta * scales.astype(dtype)
    rises = jnp.diff(betas, prepend=0)

    def step(carry, now):
        spins, energy, log_weight = carry
        index, b, rise = now
        log_weight = log_weight - rise * energy
        noise = jax.random.uniform(jax.random.fold_in(key_run, index), spins.shape, dtype)
        spins, change = sweep_spins(plan, spins, noise, partial(UPDATES[update], b))
        return (spins, energy + change, log_weight), None

    first = (to_blocks(plan, start), problem.energies(start), jnp.full(num_reads, n * jnp.log(2.0), dtype))
    now = (jnp.arange(betas.size), betas, rises)
    (spins, energy, log_weight), _ = jax.lax.scan(step, first, now)
    return from_blocks(plan, spins), log_weight - (beta - betas[-1]) * energy


@partial(jax.jit, static_argnums=(6,))
def _backwards(plan, problem, scales, beta, key, states, update):
    dtype, n = plan.h.dtype, problem.num_variables
    betas = beta * scales.astype(dtype)
    rises = jnp.diff(betas, prepend=0)

    def step(carry, now):
        spins, energy, log_weight = carry
        index, b, rise = now
        noise = jax.random.uniform(jax.random.fold_in(key, index), spins.shape, dtype)
        spins, change = sweep_spins(plan, spins, noise, partial(UPDATES[update], b), reverse=True)
        energy = energy + change
        return (spins, energy, log_weight - rise * energy), None

    energy = problem.energies(states)
    log_weight = n * jnp.log(2.0).astype(dtype) - (beta - betas[-1]) * energy
    now = (jnp.arange(betas.size), betas, rises)
    carry, _ = jax.lax.scan(step, (to_blocks(plan, states), energy, log_weight), now, reverse=True)
    return carry[2]
