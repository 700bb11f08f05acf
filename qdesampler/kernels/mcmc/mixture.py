r"""One loop of evaluations for all that a chain does: local moves, global moves, descents.

* **local**: one trajectory, accepted or rejected at its end (`qdesampler.kernels.mcmc.trajectory`);
* **global**: independence Metropolis from the trial `q`, candidate after candidate. From `x` a draw `x'` of
  `q` is taken with probability

      min(1, w(x') / w(x)),        w = p / q,

  which leaves `p` invariant for any `q` that does not depend on `x` (Tierney 1994, section 2.3.3);
* **descent**: points of a descent of `-log p` (`qdesampler.numerics.lbfgs`), warm-up only: no Markov move.

Which one, and how many evaluations, is decided before by numbers that no position enters: a mixture of exact
moves with fixed probabilities is exact. All share one loop, so that the model's gradient is compiled
once, and all chains of a batch do the same thing at the same time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.mcmc.trajectory import (
    Path,
    Scheme,
    TrajectoryState,
    after_evaluation,
    finish_path,
    next_position,
    start_path,
)
from qdesampler.numerics.lbfgs import Descent, advance, next_point
from qdesampler.numerics.random_variates import signed_noise, to_normal, to_unit
from qdesampler.numerics.trial import Trial, log_trial, noise_size, trial_point
from qdesampler.numerics.types import ValueAndScore

__all__ = ["DESCENT", "GLOBAL", "LOCAL", "MixtureInfo", "Window", "empty_window", "mixture_move"]

LOCAL, GLOBAL, DESCENT = 0, 1, 2


class Window(NamedTuple):
    """The latest evaluated points of a chain that a fit may use: rings of `rows` entries.

    Attributes:
        draws: shape `(rows, dim)`.
        scores: `grad log p` there, same shape.
        log_weights: `log p - log q` of candidates, 0 for draws of the chain itself, shape `(rows,)`.
    """

    draws: jax.Array
    scores: jax.Array
    log_weights: jax.Array


class MixtureInfo(NamedTuple):
    """What happened in one move; the fields of `TrajectoryInfo` that every kind of move has.

    Attributes:
        accept_prob: acceptance probability, its mean over candidates of a global move.
        diverging: the trajectory's energy error was above 1000 or not finite.
        energy: potential plus kinetic energy of the kept point.
        num_evals: evaluations of the log density and its gradient.
    """

    accept_prob: jax.Array
    diverging: jax.Array
    energy: jax.Array
    num_evals: jax.Array


def empty_window(rows: int, dim: int) -> Window:
    """A window of one chain."""
    dtype = jnp.result_type(float)
    return Window(
        jnp.zeros((rows, dim), dtype), jnp.zeros((rows, dim), dtype), jnp.full((rows,), -jnp.inf, dtype)
    )


class _Carry(NamedTuple):
    path: Path
    log_weight: jax.Array
    accepted: jax.Array
    descent: Descent
    window: Window


def _write(window: Window, row: jax.Array, wanted: jax.Array, point: TrajectoryState, log_weight: jax.Array):
    """One row more; the ring stays as it is where nothing is to be recorded."""

    def put(ring, value):
        return ring.at[row].set(jnp.where(wanted, value, ring[row]))

    return Window(
        put(window.draws, point.position),
        put(window.scores, point.score),
        put(window.log_weights, log_weight),
    )


def mixture_move(
    key: jax.Array,
    state: TrajectoryState,
    value_and_score: ValueAndScore,
    kind: jax.Array,
    total: jax.Array,
    scheme: Scheme,
    trial: Trial,
    descent: Descent,
    window: Window,
    count: jax.Array,
    record: jax.Array,
    forget: jax.Array | bool = False,
) -> tuple[TrajectoryState, Descent, Window, MixtureInfo]:
    """One move of one chain from `state`.

    Args:
        key: JAX key.
        state: current point.
        value_and_score: `x -> (log p(x), grad log p(x))`, traced once.
        kind: `LOCAL`, `GLOBAL` or `DESCENT`; depends on no position.
        total: evaluations to make; none leaves everything as it is. Depends on no position.
        scheme: how trajectories are integrated.
        trial: where global candidates come from.
        descent: the descent to go on with.
        window: where points are recorded.
        count: points recorded before; the next goes into row `count % rows`.
        record: whether to record the candidates of a global move, or the end of a local one.
        forget: take the first candidate of a global move whatever it is (warm-up only: no Markov move).

    Returns:
        The next point, descent and window, and what happened. A descent leaves the chain where it is.
    """
    dim = state.position.size
    key_once, key_candidates = jax.random.split(key)
    noise = signed_noise(key_once, dim + 1)
    velocity = scheme.dynamics.refresh(to_normal(noise[:dim]))
    kinetic = scheme.dynamics.kinetic(velocity)
    rows = window.log_weights.size
    zero = jnp.zeros((), state.position.dtype)

    def weight_of(position, log_density):
        weight = log_density - log_trial(trial, position)
        return jnp.where(jnp.isnan(weight), -jnp.inf, weight)

    def candidate(i):
        drawn = signed_noise(jax.random.fold_in(key_candidates, i), 1 + noise_size(dim))
        return trial_point(drawn[1:], trial), to_unit(drawn[0])

    def propose(i, carry):
        """The point to evaluate, and the uniform draw that decides on a candidate."""
        return jax.lax.switch(
            kind,
            (
                lambda: (next_position(scheme, carry.path, i), zero),
                lambda: candidate(i),
                lambda: (next_point(carry.descent), zero),
            ),
        )

    def local(i, carry, point):
        return carry._replace(path=after_evaluation(scheme, carry.path, i, point))

    def independent(i, carry, point, unit):
        weight = weight_of(point.position, point.log_density)
        usable = jnp.isfinite(point.log_density) & jnp.all(jnp.isfinite(point.score))
        weight = jnp.where(usable, weight, -jnp.inf)
        prob = jnp.where(weight > -jnp.inf, jnp.exp(jnp.minimum(weight - carry.log_weight, 0)), 0)
        taken = unit < prob
        here = jax.tree.map(lambda new, old: jnp.where(taken, new, old), point, carry.path.here)
        return carry._replace(
            path=carry.path._replace(here=here),
            log_weight=jnp.where(taken, weight, carry.log_weight),
            accepted=carry.accepted + prob,
            window=_write(carry.window, (count + i) % rows, record, point, weight),
        )

    def descend(i, carry, point):
        return carry._replace(descent=advance(carry.descent, *point))

    def stage(i, carry):
        position, unit = propose(i, carry)
        point = TrajectoryState(position, *value_and_score(position))
        return jax.lax.switch(
            kind,
            (
                lambda: local(i, carry, point),
                lambda: independent(i, carry, point, unit),
                lambda: descend(i, carry, point),
            ),
        )

    start = _Carry(
        jax.lax.cond(
            kind == LOCAL, lambda: start_path(scheme, state, velocity), lambda: Path(state, velocity, zero)
        ),
        jnp.where(forget, -jnp.inf, weight_of(state.position, state.log_density)),
        zero,
        descent,
        window,
    )
    end = jax.lax.fori_loop(0, total, stage, start)

    def finish_local():
        kept, info = finish_path(to_unit(noise[dim]), state, end.path, kinetic, scheme.num_steps, total)
        marked = _write(end.window, count % rows, record, kept, zero)
        return kept, marked, info.accept_prob, info.diverging, info.energy

    def finish_global():
        here = end.path.here
        mean = jnp.where(total > 0, end.accepted / jnp.maximum(total, 1), 1)
        return here, end.window, mean, jnp.zeros((), bool), kinetic - here.log_density

    def stay():
        return state, end.window, jnp.ones_like(zero), jnp.zeros((), bool), kinetic - state.log_density

    kept, window, accept_prob, diverging, energy = jax.lax.switch(kind, (finish_local, finish_global, stay))
    return (
        kept,
        end.descent,
        window,
        MixtureInfo(accept_prob, diverging, energy, jnp.asarray(total)),
    )
