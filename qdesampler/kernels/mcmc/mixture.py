r"""The frozen transition of QDE: a mixture of global and local moves in one loop of evaluations.

* **global**: independence Metropolis with candidates from the trial `q`, one after another. From `x` a
  candidate `x'` is accepted with probability

      min(1, w(x') / w(x)),        w = p / q,

  which leaves `p` invariant for any `q` that does not depend on `x` (Tierney 1994, section 2.3.3);
* **local**: one trajectory, accepted or rejected at its end (`qdesampler.kernels.mcmc.trajectory`).

The kind and the number of evaluations are decided before the move, from numbers that do not depend on the
position: a mixture of exact moves with fixed probabilities is exact. Both kinds run in the coordinates
`y = L^-1 (x - mu)` that the trial whitens, and share one loop, so that the model's gradient is compiled once
and all chains of a batch do the same at the same time. Each operation costs compile time, so what the two
kinds have in common is written once, and chosen between by `where`.

Both kinds report divergences, which change no move. A trajectory diverges if its energy error exceeds 1000
nats. Of a global move the error is `log w(x) - log w(x')`, and the move diverges

* if it exceeds 1000 nats at a candidate from the bulk of the trial: the target ends, or falls off a cliff,
  where the trial has its mass;
* if it is below `-LEAP`. At equilibrium as many chains leap down as up, and down they leap with probability
  `exp(-LEAP)` at most: a leap up shows that the chain was not at equilibrium before.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.mcmc.integrators import Dynamics, Integrator
from qdesampler.kernels.mcmc.trajectory import (
    DIVERGENCE_THRESHOLD,
    SHORT_STEP,
    TrajectoryState,
    draw_num_steps,
)
from qdesampler.numerics.metric import to_position, to_whitened_gradient, whiten
from qdesampler.numerics.random_variates import signed_noise, to_normal, to_unit
from qdesampler.numerics.trial import Trial, log_whitened, noise_size, whitened_candidate
from qdesampler.numerics.types import ValueAndScore

__all__ = ["BULK", "LEAP", "MOST_CANDIDATES", "Mixture", "MixtureInfo", "MovePlan", "When", "choose_move"]
__all__ += ["mixture_move", "mixture_step", "move_noise"]

_SHARED = 3  # random numbers of a move that all chains share
MOST_CANDIDATES = 8  # of one global move; random numbers are drawn for so many
BULK = 10  # squared whitened length, more than the `dim` of a draw, up to which a candidate is in the bulk
LEAP = 20.0  # nats: at equilibrium one candidate of 5e8, at most, gains more


class Mixture(NamedTuple):
    """What a warm-up has fixed: the trial, the trajectories in its coordinates, and their proportions.

    Attributes:
        trial: candidates of global moves, and by its metric the coordinates of local moves.
        step_size: of trajectories, whitened units.
        length: mean trajectory length, whitened units.
        probability: that a move is global.
        candidates: of one global move, at most `MOST_CANDIDATES`.
        moves: of one iteration, so that few draws of a poor trial are not mostly repetitions.
        short_fraction: of the trajectories, those with steps of `SHORT_STEP` times the size.
    """

    trial: Trial
    step_size: jax.Array
    length: jax.Array
    probability: jax.Array
    candidates: jax.Array
    moves: jax.Array
    short_fraction: jax.Array | float = 0.0


class MovePlan(NamedTuple):
    """What an iteration does; nothing here depends on a position.

    Attributes:
        is_global: whether it draws candidates rather than a trajectory.
        evaluations: number of evaluations; with 0 the move changes nothing.
        forget: whether the first candidate is accepted unconditionally (warm-up only: no Markov move).
        shrink: of the steps of a trajectory.
    """

    is_global: jax.Array
    evaluations: jax.Array
    forget: jax.Array | bool = False
    shrink: jax.Array | float = 1.0


class When(NamedTuple):
    """What depends on the iteration.

    Attributes:
        most_steps: most integrator steps of a trajectory.
        active: whether the iteration moves the chains at all.
        forget: whether the first candidate of a global move is accepted unconditionally (warm-up only).
    """

    most_steps: jax.Array | int = 1023
    active: jax.Array | bool = True
    forget: jax.Array | bool = False


ALWAYS = When()


class MixtureInfo(NamedTuple):
    """What happened in one move.

    Attributes:
        accept_prob: acceptance probability; of a global move its mean over candidates.
        diverging: whether the move diverged: the head of this file says when.
        energy: potential plus kinetic energy of the kept point.
        num_evals: evaluations of the log density and its gradient.
    """

    accept_prob: jax.Array
    diverging: jax.Array
    energy: jax.Array
    num_evals: jax.Array


class _Carry(NamedTuple):
    """The loop of a move: the point, and what each kind of move remembers of it."""

    point: TrajectoryState
    whitened: jax.Array  # the point, in the coordinates of the trial
    velocity: jax.Array  # of a trajectory
    change: jax.Array  # kinetic energy gained by a trajectory
    log_weight: jax.Array  # log p - log q at the point
    accepted: jax.Array  # sum of the acceptance probabilities of candidates
    diverging: jax.Array  # whether a candidate diverged


def choose_move(
    units: jax.Array,
    mixture: Mixture,
    most_steps: jax.Array | int,
    stages: int,
) -> MovePlan:
    """What all chains do in a move, by three uniform draws on (0, 1).

    Args:
        units: shape `(3,)`.
        mixture: the proportions.
        most_steps: most integrator steps of a trajectory.
        stages: gradients of a step.
    """
    is_global = units[0] < mixture.probability
    is_short = 1 - units[0] < mixture.short_fraction * (1 - mixture.probability)
    shrink = jnp.where(is_short, SHORT_STEP, 1.0)
    steps = draw_num_steps(units[1:], mixture.step_size * shrink, mixture.length, most_steps)
    evaluations = jnp.where(is_global, mixture.candidates, steps * stages)
    return MovePlan(is_global, evaluations, shrink=shrink)


def move_noise(key: jax.Array, dim: int) -> jax.Array:
    """The random numbers of one move, shape `(3 + MOST_CANDIDATES * (1 + noise_size(dim)),)`.

    The first three are for what all chains do alike, which is decided by those of the first chain.
    """
    return signed_noise(key, _SHARED + MOST_CANDIDATES * (1 + noise_size(dim)))


def mixture_move(
    noise: jax.Array,
    state: TrajectoryState,
    value_and_score: ValueAndScore,
    plan: MovePlan,
    mixture: Mixture,
    dynamics: Dynamics,
    integrator: Integrator,
) -> tuple[TrajectoryState, MixtureInfo]:
    """One move of one chain from `state`.

    Args:
        noise: of `move_noise`.
        state: current point.
        value_and_score: `x -> (log p(x), grad log p(x))`, traced once.
        plan: what the move does.
        mixture: trial, step size and proportions.
        dynamics: how a velocity is drawn and kicked.
        integrator: the splitting of a step.
    """
    trial, metric = mixture.trial, mixture.trial.metric
    dim, dtype = state.position.size, state.position.dtype
    stages, total, is_global = integrator.stages, plan.evaluations, plan.is_global
    noise = noise[_SHARED:].reshape(MOST_CANDIDATES, -1)
    velocity = dynamics.refresh(to_normal(noise[0, 1 : 1 + dim]))
    kinetic = dynamics.kinetic(velocity)
    step_size = mixture.step_size * plan.shrink
    kicks = jnp.asarray((*integrator.kicks[1:-1], 2 * integrator.kicks[-1]), dtype) * step_size
    drifts = jnp.asarray(integrator.drifts, dtype) * step_size
    half_kick = integrator.kicks[-1] * step_size

    def force(score):
        # Where the score is not finite no force acts: the map stays reversible and keeps volume.
        return jnp.where(jnp.all(jnp.isfinite(score)), to_whitened_gradient(metric, score), 0)

    def stage(i, carry):
        row = noise[jnp.minimum(i, MOST_CANDIDATES - 1)]
        candidate, log_trial = whitened_candidate(row[1:], trial)
        whitened = jnp.where(is_global, candidate, carry.whitened + drifts[i % stages] * carry.velocity)
        position = trial.centre + to_position(metric, whitened)
        value, score = value_and_score(position)
        # The last kick of a step and the first of the next use the same force: one kick, except at the end.
        kick = jnp.where(i == total - 1, half_kick, kicks[i % stages])
        velocity, gained = dynamics.kick(carry.velocity, force(score), kick)
        weight = jnp.where(jnp.isfinite(value) & jnp.all(jnp.isfinite(score)), value - log_trial, -jnp.inf)
        gain = weight - carry.log_weight
        prob = jnp.where(weight > -jnp.inf, jnp.exp(jnp.minimum(gain, 0)), 0)
        taken = ~is_global | (to_unit(row[0]) < prob)
        ended = (gain < -DIVERGENCE_THRESHOLD) & (jnp.sum(candidate**2) <= dim + BULK)
        strange = carry.diverging | ended | ((gain > LEAP) & (carry.log_weight > -jnp.inf))
        new = (TrajectoryState(position, value, score), whitened, velocity, carry.change + gained, weight)
        point, *kept = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, tuple(carry)[:5])
        whitened, velocity, change, weight = kept
        return _Carry(point, whitened, velocity, change, weight, carry.accepted + prob, strange)

    first = whiten(metric, state.position - trial.centre)
    log_weight = state.log_density - log_whitened(trial, first)
    log_weight = jnp.where(jnp.isnan(log_weight) | plan.forget, -jnp.inf, log_weight)
    velocity, gained = dynamics.kick(velocity, force(state.score), half_kick)
    zero = jnp.zeros((), dtype)
    begin = _Carry(state, first, velocity, zero + gained, log_weight, zero, zero > 0)
    end = jax.lax.fori_loop(0, total, stage, begin)
    # A chain that starts at a point without density (possible under `jit` and `vmap` only) may leave for any.
    start = jnp.where(jnp.isnan(state.log_density), -jnp.inf, state.log_density)
    error = jnp.where(total > 0, (start - end.point.log_density) + end.change, 0)
    finite = jnp.isfinite(end.point.log_density + jnp.sum(end.point.position) + jnp.sum(end.point.score))
    error = jnp.where(finite & ~jnp.isnan(error), error, jnp.inf)
    prob = jnp.exp(jnp.minimum(-error, 0))
    accepted = is_global | (to_unit(noise[0, 0]) < prob)
    kept = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), end.point, state)
    mean = jnp.where(is_global, end.accepted / jnp.maximum(total, 1), prob)
    return kept, MixtureInfo(
        accept_prob=jnp.where(total > 0, mean, 1),
        diverging=jnp.where(is_global, end.diverging, error > DIVERGENCE_THRESHOLD),
        energy=kinetic - kept.log_density + jnp.where(is_global | ~accepted, 0, end.change),
        num_evals=jnp.asarray(total),
    )


def mixture_step(
    keys: jax.Array,
    points: TrajectoryState,
    value_and_score: ValueAndScore,
    mixture: Mixture,
    dynamics: Dynamics,
    integrator: Integrator,
    when: When = ALWAYS,
) -> tuple[TrajectoryState, MixtureInfo]:
    """One iteration of one chain, or of a batch of chains in step.

    Args:
        keys: key of the move; of a batch one key for each chain.
        points: the evaluated points; of a batch with chains leading.
        value_and_score: `x -> (log p(x), grad log p(x))`, for one point.
        mixture: trial, step size and proportions.
        dynamics: how a velocity is drawn and kicked.
        integrator: the splitting of a step.
        when: what the warm-up changes.
    """
    batched = points.position.ndim == 2

    def one_move(number, carry):
        points, total = carry

        def draw(key):
            return move_noise(jax.random.fold_in(key, number), points.position.shape[-1])

        noise = (jax.vmap(draw) if batched else draw)(keys)
        units = to_unit((noise[0] if batched else noise)[:_SHARED])
        plan = choose_move(units, mixture, when.most_steps, integrator.stages)
        plan = plan._replace(forget=when.forget & (number == 0))

        def move(noise, point):
            return mixture_move(noise, point, value_and_score, plan, mixture, dynamics, integrator)

        points, info = (jax.vmap(move) if batched else move)(noise, points)
        return points, MixtureInfo(
            accept_prob=total.accept_prob + info.accept_prob,
            diverging=total.diverging | info.diverging,
            energy=info.energy,
            num_evals=total.num_evals + info.num_evals,
        )

    zero = jnp.zeros_like(points.log_density)
    nothing = MixtureInfo(zero, zero > 0, -points.log_density, jnp.zeros(zero.shape, int))
    number = jnp.where(when.active, mixture.moves, 0)
    points, total = jax.lax.fori_loop(0, number, one_move, (points, nothing))
    mean = jnp.where(number > 0, total.accept_prob / jnp.maximum(number, 1), 1)
    return points, total._replace(accept_prob=mean)
