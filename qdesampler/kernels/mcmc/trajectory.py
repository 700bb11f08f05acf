r"""The local move: a trajectory of a given number of steps, accepted or rejected as a whole.

From `x`, with a fresh velocity `v`, the integrator runs `num_steps` steps in the coordinates whitened by the
metric. The end `x'` is accepted with probability

    min(1, exp(log p(x') - log p(x) - sum of kinetic energy changes)).

This is exact for any metric, step size and number of steps that do not depend on the current position (Duane,
Kennedy, Pendleton and Roweth 1987). If the score is not finite, the force is taken as zero. That is a
deterministic function of the position, so the map stays reversible and keeps volume, and a trajectory can
leave a bad region. A trajectory that ends in one is always rejected.

The interface is BlackJAX's: `init(position, key=None) -> state`, `step(key, state) -> (state, info)`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from qdesampler.kernels.mcmc.integrators import DYNAMICS, INTEGRATORS, Dynamics, Integrator
from qdesampler.numerics.metric import DenseFactor, Metric, identity_metric, to_position, to_whitened_gradient
from qdesampler.numerics.random_variates import signed_noise, to_normal, to_unit
from qdesampler.numerics.types import ValueAndScore

__all__ = [
    "JITTER",
    "SHORT_STEP",
    "RunningTrajectory",
    "SamplingAlgorithm",
    "Scheme",
    "TrajectoryInfo",
    "TrajectoryState",
    "after_evaluation",
    "draw_num_steps",
    "finish_trajectory",
    "gaussian_step_size",
    "next_position",
    "start_trajectory",
    "trajectory",
    "trajectory_move",
]

DIVERGENCE_THRESHOLD = (
    1000.0  # nats of energy error above which a trajectory diverges, as in Stan and NumPyro
)
JITTER = 0.4  # relative half width of the uniform law of a length or step size, to break periodic orbits
SHORT_STEP = 0.3  # of the step size: trajectories that free a chain where the density is narrow
_GAUSSIAN_STEP = 1.2  # step size that a whitened Gaussian allows, times dim^(1/4)


class TrajectoryState(NamedTuple):
    """A point with its log density and score.

    Attributes:
        position: shape `(dim,)`.
        log_density: scalar, `log p` up to a constant.
        score: `grad log p`, shape `(dim,)`.
    """

    position: jax.Array
    log_density: jax.Array
    score: jax.Array


class TrajectoryInfo(NamedTuple):
    """What happened in one move.

    Attributes:
        accept_prob: acceptance probability of the end point.
        accepted: whether the end point was accepted.
        diverging: whether the energy error was above 1000, or not finite.
        energy: total energy of the kept point.
        num_steps: integrator steps.
        num_evals: evaluations of the log density and its gradient.
    """

    accept_prob: jax.Array
    accepted: jax.Array
    diverging: jax.Array
    energy: jax.Array
    num_steps: jax.Array
    num_evals: jax.Array


class SamplingAlgorithm(NamedTuple):
    """The pair `init(position, key=None) -> state`, `step(key, state) -> (state, info)`.

    BlackJAX passes a key to every `init`; one that draws nothing ignores it.
    """

    init: Callable
    step: Callable


def gaussian_step_size(dim: int) -> float:
    """The step size that a whitened Gaussian of this dimension allows, `1.2 dim^(-1/4)`."""
    return _GAUSSIAN_STEP * max(dim, 1) ** -0.25


def draw_num_steps(
    units: jax.Array, step_size: ArrayLike, length: ArrayLike, max_steps: jax.Array | int
) -> jax.Array:
    """A random number of steps with mean about `length / step_size`, at least one.

    The length is uniform on `length * [1 - JITTER, 1 + JITTER]`, because a fixed length would have periodic
    orbits. The quotient is rounded up or down at random in proportion. `units` are two uniform draws on
    (0, 1).
    """
    factor = 1 - JITTER + 2 * JITTER * units[0]
    steps = jnp.floor(length * factor / step_size + units[1])
    return jnp.clip(steps, 1, max_steps).astype(int)


def _finite_force(metric: Metric | DenseFactor, score: jax.Array) -> jax.Array:
    return jnp.where(jnp.all(jnp.isfinite(score)), to_whitened_gradient(metric, score), 0)


def trajectory_move(
    key: jax.Array,
    state: TrajectoryState,
    value_and_score: ValueAndScore,
    metric: Metric | DenseFactor,
    step_size: ArrayLike,
    num_steps: jax.Array,
    dynamics: Dynamics = DYNAMICS["canonical"],
    integrator: Integrator = INTEGRATORS["leapfrog"],
) -> tuple[TrajectoryState, TrajectoryInfo]:
    """One exact move of `num_steps` steps from `state`, one chain.

    Args:
        key: JAX key.
        state: current point.
        value_and_score: `x -> (log p(x), grad log p(x))`, traced once.
        metric: the whitening, frozen or at least independent of the current position.
        step_size: in whitened units (a standard Gaussian is stable below 2).
        num_steps: integrator steps, at least 1; a traced integer is fine.
        dynamics: `canonical` or `isokinetic`.
        integrator: `leapfrog` (1 gradient a step) or `mn2` (2 gradients).

    Returns:
        The next state and what happened.
    """
    dim = state.position.size
    noise = signed_noise(key, dim + 1)
    scheme = Scheme(metric, step_size, num_steps, dynamics, integrator)
    velocity = dynamics.refresh(to_normal(noise[:dim]))
    kinetic = dynamics.kinetic(velocity)

    def stage(i, running):
        position = next_position(scheme, running, i)
        return after_evaluation(scheme, running, i, TrajectoryState(position, *value_and_score(position)))

    total = num_steps * integrator.stages
    running = jax.lax.fori_loop(0, total, stage, start_trajectory(scheme, state, velocity))
    return finish_trajectory(to_unit(noise[dim]), state, running, kinetic, num_steps, total)


class Scheme(NamedTuple):
    """How a trajectory is integrated; arguments as in `trajectory_move`."""

    metric: Metric | DenseFactor
    step_size: ArrayLike
    num_steps: jax.Array
    dynamics: Dynamics
    integrator: Integrator


class RunningTrajectory(NamedTuple):
    """A trajectory that is being integrated.

    Attributes:
        here: the last evaluated point.
        velocity: shape `(dim,)`.
        change: sum of the kinetic energy changes so far.
    """

    here: TrajectoryState
    velocity: jax.Array
    change: jax.Array


def start_trajectory(scheme: Scheme, state: TrajectoryState, velocity: jax.Array) -> RunningTrajectory:
    """The trajectory after its first half kick."""
    kick = scheme.integrator.kicks[-1] * jnp.asarray(scheme.step_size, velocity.dtype)
    force = _finite_force(scheme.metric, state.score)
    return RunningTrajectory(state, *scheme.dynamics.kick(velocity, force, kick))


def next_position(scheme: Scheme, running: RunningTrajectory, i: jax.Array) -> jax.Array:
    """The position at which stage `i` evaluates the log density, shape `(dim,)`."""
    drifts = jnp.asarray(scheme.integrator.drifts, running.velocity.dtype)
    step = scheme.step_size * drifts[i % scheme.integrator.stages]
    return running.here.position + step * to_position(scheme.metric, running.velocity)


def after_evaluation(
    scheme: Scheme, running: RunningTrajectory, i: jax.Array, here: TrajectoryState
) -> RunningTrajectory:
    """The trajectory after the kick of stage `i`, at the point just evaluated."""
    integrator, velocity = scheme.integrator, running.velocity
    # The last kick of a step and the first of the next use the same force: one kick, except at the end.
    kicks = jnp.asarray((*integrator.kicks[1:-1], 2 * integrator.kicks[-1]), velocity.dtype)
    last = i == scheme.num_steps * integrator.stages - 1
    kick = jnp.asarray(scheme.step_size) * jnp.where(last, integrator.kicks[-1], kicks[i % integrator.stages])
    velocity, gained = scheme.dynamics.kick(velocity, _finite_force(scheme.metric, here.score), kick)
    return RunningTrajectory(here, velocity, running.change + gained)


def finish_trajectory(
    unit: jax.Array,
    state: TrajectoryState,
    running: RunningTrajectory,
    kinetic: jax.Array,
    num_steps: jax.Array,
    num_evals: jax.Array,
) -> tuple[TrajectoryState, TrajectoryInfo]:
    """Accept or reject the end of a trajectory that started at `state`, by a uniform draw on (0, 1)."""
    end, change = running.here, running.change
    # A chain that starts at a point without density (possible under `jit` and `vmap` only) may leave for any.
    start = jnp.where(jnp.isnan(state.log_density), -jnp.inf, state.log_density)
    error = (start - end.log_density) + change
    usable = jnp.all(jnp.isfinite(jnp.stack([end.position, end.score]))) & jnp.isfinite(end.log_density)
    error = jnp.where(usable & ~jnp.isnan(error), error, jnp.inf)
    accept_prob = jnp.exp(jnp.minimum(-error, 0))
    accepted = unit < accept_prob
    kept = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, state)
    energy = kinetic - kept.log_density + jnp.where(accepted, change, 0)
    diverging = error > DIVERGENCE_THRESHOLD
    return kept, TrajectoryInfo(accept_prob, accepted, diverging, energy, num_steps, num_evals)


def trajectory(
    logdensity_fn: Callable,
    step_size: float,
    length: float = 1.5,
    *,
    metric: Metric | None = None,
    dynamics: str = "canonical",
    integrator: str = "leapfrog",
    max_steps: int = 1023,
) -> SamplingAlgorithm:
    """The move with fixed parameters as a BlackJAX-shaped algorithm over any pytree position.

    Args:
        logdensity_fn: `position pytree -> log p`, scalar.
        step_size: in whitened units, positive.
        length: mean trajectory length in whitened units, positive.
        metric: whitening of the raveled position; identity if left out.
        dynamics: "canonical" or "isokinetic" (the latter needs at least 2 dimensions).
        integrator: "leapfrog" or "mn2".
        max_steps: most integrator steps of a move.

    Raises:
        ValueError: for an unknown name, a non-positive number, or a dimension that the dynamics does not
            have.
    """
    check_move_settings(step_size=step_size, length=length, dynamics=dynamics, integrator=integrator)

    def init(position, rng_key=None):
        del rng_key  # nothing is drawn
        flat, unravel = ravel_pytree(position)
        check_dimension(dynamics, flat.size)
        value, score = jax.value_and_grad(lambda x: logdensity_fn(unravel(x)))(flat)
        return TrajectoryState(position, value, unravel(score))

    def step(key, state):
        flat, unravel = ravel_pytree(state.position)
        used = identity_metric(flat.size, 0) if metric is None else metric
        key_steps, key_move = jax.random.split(key)
        steps = draw_num_steps(jax.random.uniform(key_steps, (2,)), step_size, length, max_steps)
        flat_state = TrajectoryState(flat, state.log_density, ravel_pytree(state.score)[0])
        value_and_score = jax.value_and_grad(lambda x: logdensity_fn(unravel(x)))
        new, info = trajectory_move(
            key_move,
            flat_state,
            value_and_score,
            used,
            step_size,
            steps,
            DYNAMICS[dynamics],
            INTEGRATORS[integrator],
        )
        return TrajectoryState(unravel(new.position), new.log_density, unravel(new.score)), info

    return SamplingAlgorithm(init, step)


def check_move_settings(*, step_size: Any = None, length: Any = None, dynamics: str, integrator: str) -> None:
    """Refuse unknown names and non-positive numbers; traced numbers are not checked.

    Raises:
        ValueError: naming the argument, what was given and what is expected.
    """
    for name, value in (("step_size", step_size), ("trajectory_length", length)):
        if value is not None and not isinstance(value, Tracer) and not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}; expected a positive finite number.")
    for name, value, table in (("dynamics", dynamics, DYNAMICS), ("integrator", integrator, INTEGRATORS)):
        if value not in table:
            raise ValueError(f"{name} is {value!r}; expected one of {sorted(table)}.")


def check_dimension(dynamics: str, dim: int) -> None:
    """Refuse a dimension in which the dynamics is not defined.

    Raises:
        ValueError: with the remedy.
    """
    smallest = DYNAMICS[dynamics].smallest_dim
    if 0 < dim < smallest:
        raise ValueError(
            f"dynamics={dynamics!r} needs at least {smallest} dimensions and this target has {dim}; "
            'use dynamics="canonical".'
        )
