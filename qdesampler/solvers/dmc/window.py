"""A window of diffusion Monte Carlo in one compiled program: many walkers, many steps, one forward walk.

A *turn* is a few steps of every walker by itself followed by population control; a *window* is an even number
of turns, and the unit in which the host follows the run. At its start every walker is numbered; the numbers
are inherited, so that at its end the descendants of each can be counted.

The last axis of every array counts the walkers, so that the arithmetic of one walker becomes that of vectors.
Random numbers are a function of the turn's key and of the place in the array (JAX's counter-based generator),
and every sum over walkers is taken over the gathered array: several devices share the walkers, but each takes
all sums in the same order, so that only rounding depends on their number.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qdesampler.solvers.dmc.diffusion_step import Guide, Step, Trace, Walker, walker_step
from qdesampler.solvers.dmc.population_control import Control, branch, reconfigure

__all__ = ["Layout", "Population", "Snapshot", "Turn", "WindowResult", "run_window"]


class Layout(NamedTuple):
    """The sizes that a window is compiled for.

    Attributes:
        turns: turns of a window, even.
        steps: steps of a turn.
        policy: of population control.
        target: walkers wanted (the places are as many, or more for branching).
        mesh: of devices, with the one axis "walkers"; `None`: one device.
    """

    turns: int
    steps: int
    policy: Literal["reconfiguration", "branching"]
    target: int
    mesh: Mesh | None


class Population(NamedTuple):
    """Walkers, places on the last axis.

    Attributes:
        walker: points, shape `(dim, places)`, with the trial and its local energy there.
        weight: 1 for a walker, 0 for an empty place.
    """

    walker: Walker
    weight: jax.Array


class Turn(NamedTuple):
    """Averages of one turn, scalars; in a window with a leading axis.

    Attributes:
        deviation: weighted mean of `E_L - E_ref` over walkers and steps.
        reference: `E_ref` that this turn's weights refer to.
        before: total weight at the start.
        after: total weight at the end, before control.
        log_control: log of the factor that control divided out.
        total: walkers wanted by control.
        effective: effective number of walkers at the end, `(sum w)^2 / sum w^2`.
        acceptance: mean Metropolis probability.
        proposed: mean squared displacement proposed.
        accepted: mean squared displacement accepted.
        broken: number of broken proposals.
    """

    deviation: jax.Array
    reference: jax.Array
    before: jax.Array
    after: jax.Array
    log_control: jax.Array
    total: jax.Array
    effective: jax.Array
    acceptance: jax.Array
    proposed: jax.Array
    accepted: jax.Array
    broken: jax.Array


class WindowResult(NamedTuple):
    """A window's outcome.

    Attributes:
        population: at its end.
        turns: its averages, leading axis `turns`.
        half: descendants of each place after half of the window, shape `(places,)`.
        full: descendants at its end.
    """

    population: Population
    turns: Turn
    half: jax.Array
    full: jax.Array


class Snapshot(NamedTuple):
    """Some walkers at the start of a window, and their numbers of descendants; on the host.

    Attributes:
        points: shape `(n, dim)`.
        half: descendants after half of the window, shape `(n,)`.
        full: descendants at its end, same shape.
    """

    points: np.ndarray
    half: np.ndarray
    full: np.ndarray


def _gathered(values, mesh: Mesh | None):
    """The same values, whole on every device, so that sums do not depend on how the walkers are divided."""
    if mesh is None:
        return values
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, whole), values)


def _replicated(function: Callable, mesh: Mesh | None) -> Callable:
    """The function, evaluated by every device in full: the compiler must not add up partial sums."""
    if mesh is None:
        return function
    return jax.shard_map(
        function, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False
    )


def _sharded(values, mesh: Mesh | None):
    """The same values, the last axis divided between devices."""
    if mesh is None:
        return values

    def constrain(a):
        names = (*(None,) * (a.ndim - 1), "walkers")
        return jax.lax.with_sharding_constraint(a, NamedSharding(mesh, PartitionSpec(*names)))

    return jax.tree.map(constrain, values)


def _averages(trace: Trace, weight: jax.Array, reference: jax.Array, control: Control) -> Turn:
    """The turn's averages; traces have the shape `(steps, places)`."""
    weights = weight * jnp.exp(trace.log_weight)
    sums = jnp.sum(weights * trace.deviation, 1)
    last = weights[-1]
    carried = jnp.concatenate([weight[None], weights[:-1]])  # before each step

    def mean(a):
        return jnp.mean(jnp.sum(carried * a, 1) / jnp.sum(carried, 1))

    return Turn(
        jnp.mean(sums / jnp.sum(weights, 1)),
        reference,
        jnp.sum(weight),
        jnp.sum(last),
        control.log_control,
        control.total,
        jnp.sum(last) ** 2 / jnp.sum(last**2),
        mean(trace.acceptance),
        mean(trace.proposed),
        mean(trace.accepted),
        jnp.sum(weight * trace.broken),
    )


def _close(
    policy: str, trace: Trace, weight: jax.Array, reference: jax.Array, key: jax.Array
) -> tuple[Control, Turn]:
    """The end of a turn: population control, and the averages."""
    control = (branch if policy == "branching" else reconfigure)(weight * jnp.exp(trace.log_weight[-1]), key)
    return control, _averages(trace, weight, reference, control)


@functools.partial(jax.jit, static_argnames=("layout",))
def run_window(
    guide: Guide,
    population: Population,
    step: Step,
    feedback: jax.Array,
    key: jax.Array,
    layout: Layout,
) -> WindowResult:
    """Run one window.

    Args:
        guide: Hamiltonian and trial.
        population: at the start.
        step: numbers of the step.
        feedback: imaginary time in which branching brings its population back.
        key: of this window.
        layout: see the class.
    """
    dim, places = population.walker.x.shape
    dtype = population.walker.x.dtype

    def turn(state, index):
        walkers, origin = state
        turn_key = jax.random.fold_in(key, index)
        before = jnp.sum(walkers.weight)
        reference = step.reference
        if layout.policy == "branching":
            reference = reference - jnp.log(before / layout.target) / feedback
        numbers = step._replace(reference=reference)
        key_noise, key_uniform, key_control = jax.random.split(turn_key, 3)
        noise = jax.random.normal(key_noise, (layout.steps, dim, places), dtype)
        uniform = jax.random.uniform(key_uniform, (layout.steps, places), dtype, jnp.finfo(dtype).tiny)

        def move(state, random):
            moved, trace = jax.vmap(
                lambda w, log_weight, xi, log_u: walker_step(guide, w, log_weight, numbers, xi, log_u),
                in_axes=-1,
                out_axes=-1,
            )(*state, *random)
            return (moved, trace.log_weight), trace

        start = _sharded((walkers.walker, jnp.zeros(places, dtype)), layout.mesh)
        (moved, _), trace = jax.lax.scan(move, start, _sharded((noise, jnp.log(uniform)), layout.mesh))
        control, averages = _replicated(functools.partial(_close, layout.policy), layout.mesh)(
            _gathered(trace, layout.mesh), walkers.weight, reference, key_control
        )
        moved = jax.tree.map(lambda a: a[..., control.ancestor], _gathered(moved, layout.mesh))
        return (Population(_sharded(moved, layout.mesh), control.weight), origin[control.ancestor]), averages

    def descendants(walkers, origin):
        return jnp.zeros(places, walkers.weight.dtype).at[origin].add(walkers.weight)

    def half(state, indices):
        state, turns = jax.lax.scan(turn, state, indices)
        return state, (turns, descendants(*state))

    indices = jnp.arange(layout.turns).reshape(2, -1)
    state, (turns, counts) = jax.lax.scan(half, (population, jnp.arange(places)), indices)
    turns = jax.tree.map(lambda a: a.reshape(-1), turns)
    return WindowResult(state[0], turns, counts[0], counts[1])
