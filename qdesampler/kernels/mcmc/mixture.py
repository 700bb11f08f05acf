r"""Three kinds of moves of a chain in one loop of evaluations: local moves, global moves, descents.

* **local**: one trajectory, accepted or rejected at its end (`qdesampler.kernels.mcmc.trajectory`);
* **global**: independence Metropolis with proposals from the trial `q`, one after another. From `x` a
  proposal `x'` is accepted with probability

      min(1, w(x') / w(x)),        w = p / q,

  which leaves `p` invariant for any `q` that does not depend on `x` (Tierney 1994, section 2.3.3);
* **descent**: points of a descent of `-log p` (`qdesampler.numerics.lbfgs`). It is no Markov move, so it is
  made in the warm-up only.

The kind and the number of evaluations are decided before the move, from numbers that do not depend on the
position: a mixture of exact moves with fixed probabilities is exact. All kinds share one loop, so that the
model's gradient is compiled once and all chains of a batch do the same thing at the same time.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.mcmc.trajectory import (
    RunningTrajectory,
    Scheme,
    TrajectoryState,
    after_evaluation,
    finish_trajectory,
    next_position,
    start_trajectory,
)
from qdesampler.numerics.lbfgs import Descent, next_point, update_descent
from qdesampler.numerics.random_variates import signed_noise, to_normal, to_unit
from qdesampler.numerics.trial import Trial, log_trial, noise_size, trial_point
from qdesampler.numerics.types import ValueAndScore

__all__ = [
    "DESCENT",
    "GLOBAL",
    "LOCAL",
    "FitWindow",
    "MixtureInfo",
    "MovePlan",
    "Recorder",
    "empty_window",
    "mixture_move",
]

LOCAL, GLOBAL, DESCENT = 0, 1, 2  # kinds of moves


class FitWindow(NamedTuple):
    """The latest evaluated points of a chain, for a fit: ring buffers of `rows` entries.

    Attributes:
        draws: shape `(rows, dim)`.
        scores: `grad log p` at the draws, same shape.
        log_weights: `log p - log q` of proposals, 0 for draws of the chain itself, shape `(rows,)`.
    """

    draws: jax.Array
    scores: jax.Array
    log_weights: jax.Array


class MovePlan(NamedTuple):
    """What a move does; nothing here depends on a position.

    Attributes:
        kind: `LOCAL`, `GLOBAL` or `DESCENT`.
        evaluations: number of evaluations; with 0 the move changes nothing.
        forget: whether a global move accepts its first proposal unconditionally (warm-up only: no Markov
            move).
    """

    kind: jax.Array
    evaluations: jax.Array
    forget: jax.Array | bool = False


class Recorder(NamedTuple):
    """Where the points of a move are recorded.

    Attributes:
        window: the points recorded before.
        count: their number; the next point goes into row `count % rows`.
        record: whether to record the proposals of a global move, or the end of a local one.
    """

    window: FitWindow
    count: jax.Array
    record: jax.Array


class MixtureInfo(NamedTuple):
    """What happened in one move; the fields of `TrajectoryInfo` that every kind of move has.

    Attributes:
        accept_prob: acceptance probability; of a global move its mean over proposals.
        diverging: whether the trajectory's energy error was above 1000 or not finite.
        energy: potential plus kinetic energy of the kept point.
        num_evals: evaluations of the log density and its gradient.
    """

    accept_prob: jax.Array
    diverging: jax.Array
    energy: jax.Array
    num_evals: jax.Array


def empty_window(rows: int, dim: int) -> FitWindow:
    """A window of one chain."""
    dtype = jnp.result_type(float)
    return FitWindow(
        jnp.zeros((rows, dim), dtype), jnp.zeros((rows, dim), dtype), jnp.full((rows,), -jnp.inf, dtype)
    )


class _Carry(NamedTuple):
    """State of the loop; each kind of move uses its own part."""

    trajectory: RunningTrajectory
    log_weight: jax.Array
    accepted: jax.Array
    descent: Descent
    window: FitWindow


class _Kind(NamedTuple):
    """One kind of move as three functions.

    Attributes:
        propose: `(i, carry) -> (position, unit)`: the point that stage `i` evaluates, and the uniform draw
            that decides on a proposal.
        absorb: `(i, carry, point, unit) -> carry` after the evaluation.
        finish: `carry -> (point, window, accept_prob, diverging, energy)` after the last stage.
    """

    propose: Callable
    absorb: Callable
    finish: Callable


def _write(recorder: Recorder, row: jax.Array, point: TrajectoryState, log_weight: jax.Array) -> FitWindow:
    """The window with one more row, or unchanged if nothing is to be recorded."""

    def put(ring, value):
        return ring.at[row].set(jnp.where(recorder.record, value, ring[row]))

    window = recorder.window
    return FitWindow(
        put(window.draws, point.position),
        put(window.scores, point.score),
        put(window.log_weights, log_weight),
    )


def _log_weight(trial: Trial, position: jax.Array, log_density: jax.Array) -> jax.Array:
    weight = log_density - log_trial(trial, position)
    return jnp.where(jnp.isnan(weight), -jnp.inf, weight)


def _local(
    scheme: Scheme,
    state: TrajectoryState,
    recorder: Recorder,
    noise: jax.Array,
    kinetic: jax.Array,
    total: jax.Array,
) -> _Kind:
    """A trajectory from `state`, whose end the last number of `noise` accepts or rejects."""
    zero = jnp.zeros((), state.position.dtype)

    def propose(i, carry):
        return next_position(scheme, carry.trajectory, i), zero

    def absorb(i, carry, point, _):
        return carry._replace(trajectory=after_evaluation(scheme, carry.trajectory, i, point))

    def finish(end):
        kept, info = finish_trajectory(
            to_unit(noise[state.position.size]), state, end.trajectory, kinetic, scheme.num_steps, total
        )
        rows = recorder.window.log_weights.size
        window = _write(recorder._replace(window=end.window), recorder.count % rows, kept, zero)
        return kept, window, info.accept_prob, info.diverging, info.energy

    return _Kind(propose, absorb, finish)


def _global(key: jax.Array, trial: Trial, recorder: Recorder, kinetic: jax.Array, total: jax.Array) -> _Kind:
    """Independence Metropolis from the trial, one proposal a stage."""
    rows = recorder.window.log_weights.size
    dim = trial.centre.size

    def propose(i, _):
        noise = signed_noise(jax.random.fold_in(key, i), 1 + noise_size(dim))
        return trial_point(noise[1:], trial), to_unit(noise[0])

    def absorb(i, carry, point, unit):
        weight = _log_weight(trial, point.position, point.log_density)
        usable = jnp.isfinite(point.log_density) & jnp.all(jnp.isfinite(point.score))
        weight = jnp.where(usable, weight, -jnp.inf)
        prob = jnp.where(weight > -jnp.inf, jnp.exp(jnp.minimum(weight - carry.log_weight, 0)), 0)
        accepted = unit < prob
        here = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), point, carry.trajectory.here)
        return carry._replace(
            trajectory=carry.trajectory._replace(here=here),
            log_weight=jnp.where(accepted, weight, carry.log_weight),
            accepted=carry.accepted + prob,
            window=_write(recorder._replace(window=carry.window), (recorder.count + i) % rows, point, weight),
        )

    def finish(end):
        here = end.trajectory.here
        mean = jnp.where(total > 0, end.accepted / jnp.maximum(total, 1), 1)
        return here, end.window, mean, jnp.zeros((), bool), kinetic - here.log_density

    return _Kind(propose, absorb, finish)


def _descent(state: TrajectoryState, kinetic: jax.Array) -> _Kind:
    """Points of the descent; the chain stays at `state`."""
    zero = jnp.zeros((), state.position.dtype)

    def propose(_, carry):
        return next_point(carry.descent), zero

    def absorb(_, carry, point, __):
        return carry._replace(descent=update_descent(carry.descent, *point))

    def finish(end):
        return state, end.window, jnp.ones_like(zero), jnp.zeros((), bool), kinetic - state.log_density

    return _Kind(propose, absorb, finish)


def mixture_move(
    key: jax.Array,
    state: TrajectoryState,
    value_and_score: ValueAndScore,
    plan: MovePlan,
    scheme: Scheme,
    trial: Trial,
    descent: Descent,
    recorder: Recorder,
) -> tuple[TrajectoryState, Descent, FitWindow, MixtureInfo]:
    """One move of one chain from `state`.

    Args:
        key: JAX key.
        state: current point.
        value_and_score: `x -> (log p(x), grad log p(x))`, traced once.
        plan: what the move does.
        scheme: how trajectories are integrated.
        trial: the density of the proposals of global moves.
        descent: the descent to continue.
        recorder: where points are recorded.

    Returns:
        The next point, descent and window, and what happened. A descent does not move the chain.
    """
    dim = state.position.size
    key_once, key_proposals = jax.random.split(key)
    noise = signed_noise(key_once, dim + 1)
    velocity = scheme.dynamics.refresh(to_normal(noise[:dim]))
    kinetic = scheme.dynamics.kinetic(velocity)
    zero = jnp.zeros((), state.position.dtype)
    kind, total = plan.kind, plan.evaluations
    kinds = (
        _local(scheme, state, recorder, noise, kinetic, total),
        _global(key_proposals, trial, recorder, kinetic, total),
        _descent(state, kinetic),
    )

    def stage(i, carry):
        position, unit = jax.lax.switch(kind, [lambda k=k: k.propose(i, carry) for k in kinds])
        point = TrajectoryState(position, *value_and_score(position))
        return jax.lax.switch(kind, [lambda k=k: k.absorb(i, carry, point, unit) for k in kinds])

    start = _Carry(
        jax.lax.cond(
            kind == LOCAL,
            lambda: start_trajectory(scheme, state, velocity),
            lambda: RunningTrajectory(state, velocity, zero),
        ),
        jnp.where(plan.forget, -jnp.inf, _log_weight(trial, state.position, state.log_density)),
        zero,
        descent,
        recorder.window,
    )
    end = jax.lax.fori_loop(0, total, stage, start)
    kept, window, accept_prob, diverging, energy = jax.lax.switch(
        kind, [lambda k=k: k.finish(end) for k in kinds]
    )
    return kept, end.descent, window, MixtureInfo(accept_prob, diverging, energy, jnp.asarray(total))
