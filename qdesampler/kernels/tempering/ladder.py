"""One iteration of a frozen ladder of replicas inside one chain.

Every rung moves its replica: the lowest draws a new one from the reference, the others make a trajectory,
accepted or rejected at its end. Then neighbours swap (`swaps.py`). The product of all rungs is invariant,
because each part leaves it invariant: metrics, step sizes and numbers of steps are fixed before
(`host_ladder.py`). The target's gradient is compiled once: the draw of the reference is evaluated in the
first round of the trajectories' loop, in the place of the first of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.mcmc.trajectory import DIVERGENCE_THRESHOLD, JITTER
from qdesampler.kernels.references.path import combine
from qdesampler.kernels.references.reference import (
    Reference,
    draw,
    log_density,
    noise_size,
    value_and_score,
)
from qdesampler.kernels.tempering.evidence_sums import KeptSums, add_iteration
from qdesampler.kernels.tempering.swaps import Replicas, swap, swap_log_ratio
from qdesampler.numerics.metric import Metric, to_position, to_whitened_gradient
from qdesampler.numerics.random_variates import signed_noise, to_normal, to_unit
from qdesampler.numerics.types import ValueAndScore

__all__ = ["FrozenLadder", "Ladder", "LadderInfo", "ladder_step"]


class FrozenLadder(NamedTuple):
    """What the warm-up on the host has fixed, one for all chains; `rungs` from the reference to the target.

    Attributes:
        reference: density of the lowest rung.
        betas: position of each rung on the path, shape `(rungs,)`.
        coefficients: `(c_q, c_p)` of each rung, shape `(rungs, 2)`.
        centres: the bridges' constants `C`, about `log Z_k+1 / Z_k`, shape `(rungs - 1,)`.
        metrics: of the rungs above the reference, leading axis `rungs - 1`.
        step_sizes: of these, whitened units, shape `(rungs - 1,)`.
        num_steps: leapfrog steps of every trajectory.
        move_every: iterations from one trajectory to the next.
    """

    reference: Reference
    betas: jax.Array
    coefficients: jax.Array
    centres: jax.Array
    metrics: Metric
    step_sizes: jax.Array
    num_steps: jax.Array
    move_every: jax.Array


class Ladder(NamedTuple):
    """What changes from one iteration to the next.

    Attributes:
        replicas: one a rung.
        directions: for each rung's replica, 1 if it was at the reference last, -1 if at the target, 0 if it
            has been at neither, shape `(rungs,)`.
        kept: sums over iterations after the warm-up.
    """

    replicas: Replicas
    directions: jax.Array
    kept: KeptSums


class LadderInfo(NamedTuple):
    """What one iteration did.

    Attributes:
        accept_prob: acceptance probability of the trajectory on the rung of the target.
        moved: whether there were trajectories; without them `accept_prob` is 1.
        energy: total energy of the kept point on the rung of the target.
        diverging: whether that trajectory diverged.
        num_evals: evaluations of the target.
    """

    accept_prob: jax.Array
    moved: jax.Array
    energy: jax.Array
    diverging: jax.Array
    num_evals: jax.Array


class _Orbits(NamedTuple):
    """Trajectories of all rungs above the reference while they run, and the draw of the reference.

    Attributes:
        here: the last evaluated points.
        velocity: shape `(rungs - 1, dim)`.
        log_fresh: `log p` at the draw of the reference.
        score_fresh: its score.
    """

    here: Replicas
    velocity: jax.Array
    log_fresh: jax.Array
    score_fresh: jax.Array


def _on_reference(reference: Reference, positions: jax.Array, *, with_scores: bool):
    """`log q` and its scores, which a ladder of two rungs does not need."""
    if with_scores:
        return value_and_score(reference, positions)
    return log_density(reference, positions), jnp.zeros_like(positions)


def _rung_density(coefficients: jax.Array, points: Replicas) -> tuple[jax.Array, jax.Array]:
    """Log density and score of every point on its rung."""
    of_q, of_p = coefficients[:, :1], coefficients[:, 1:]
    score = jnp.where(of_q == 0, 0, of_q * points.scores_q) + jnp.where(of_p == 0, 0, of_p * points.scores_p)
    return combine(coefficients, points.log_q, points.log_p), score


def _move(noise, replicas: Replicas, frozen: FrozenLadder, evaluate, num_steps):
    """A draw on the lowest rung and one trajectory on each of the others."""
    rungs, dim = replicas.positions.shape
    above, reference = rungs - 1, frozen.reference
    first, rest = noise[: noise_size(reference)], noise[noise_size(reference) :]
    fresh = draw(reference, first)
    velocity = to_normal(rest[: above * dim]).reshape(above, dim)
    units = to_unit(rest[above * dim :])
    steps = (frozen.step_sizes * (1 - JITTER + 2 * JITTER * units[:above]))[:, None]
    coefficients = frozen.coefficients[1:]
    start = jax.tree.map(lambda leaf: leaf[1:], replicas)

    def kick(velocity, points):
        _, score = _rung_density(coefficients, points)
        finite = jnp.all(jnp.isfinite(score), 1, keepdims=True)
        force = jax.vmap(to_whitened_gradient)(frozen.metrics, jnp.where(finite, score, 0))
        return velocity + 0.5 * steps * force

    def stage(i, orbits):
        is_first = i == 0
        half = kick(orbits.velocity, orbits.here)
        ahead = orbits.here.positions + jax.vmap(to_position)(frozen.metrics, steps * half)
        asked = orbits.here.positions.at[0].set(fresh)
        positions = jnp.where(is_first, asked, ahead)
        log_p, scores_p = jax.vmap(evaluate)(positions)
        log_p = jnp.where(jnp.isnan(log_p), -jnp.inf, log_p)
        log_q, scores_q = _on_reference(reference, positions, with_scores=rungs > 2)
        there = Replicas(positions, log_q, scores_q, log_p, scores_p)
        next_ = _Orbits(there, kick(half, there), orbits.log_fresh, orbits.score_fresh)
        same = orbits._replace(log_fresh=log_p[0], score_fresh=scores_p[0])
        return jax.tree.map(lambda a, b: jnp.where(is_first, a, b), same, next_)

    init = _Orbits(start, velocity, jnp.zeros((), fresh.dtype), jnp.zeros_like(fresh))
    end = jax.lax.fori_loop(0, num_steps + 1, stage, init)
    kept, energy, accept_prob, error = _finish(units[above : 2 * above], start, velocity, end, coefficients)
    log_q, scores_q = _on_reference(reference, fresh[None], with_scores=rungs > 2)
    drawn = Replicas(fresh[None], log_q, scores_q, end.log_fresh[None], end.score_fresh[None])
    replicas = jax.tree.map(lambda one, others: jnp.concatenate([one, others]), drawn, kept)
    return replicas, units[2 * above :], energy, accept_prob, error


def _finish(units, start: Replicas, velocity, end: _Orbits, coefficients):
    """Accept or reject the ends of trajectories."""
    before, _ = _rung_density(coefficients, start)
    after, score = _rung_density(coefficients, end.here)
    gained = 0.5 * jnp.sum(end.velocity**2 - velocity**2, 1)
    error = before - after + gained
    sound = jnp.isfinite(after) & jnp.all(jnp.isfinite(score) & jnp.isfinite(end.here.positions), 1)
    error = jnp.where(sound & ~jnp.isnan(error), error, jnp.inf)
    accept_prob = jnp.exp(jnp.minimum(-error, 0))
    accepted = units < accept_prob

    def choose(new, old):
        return jnp.where(accepted if new.ndim == 1 else accepted[:, None], new, old)

    kept = jax.tree.map(choose, end.here, start)
    kinetic = 0.5 * jnp.sum(velocity**2, 1) + jnp.where(accepted, gained, 0)
    return kept, kinetic - jnp.where(accepted, after, before), accept_prob, error


def ladder_step(
    key: jax.Array,
    ladder: Ladder,
    frozen: FrozenLadder,
    evaluate: ValueAndScore,
    iteration: jax.Array | int,
    keeps: jax.Array | bool = True,
    active: jax.Array | bool = True,
    log_ratio: Callable[[jax.Array, jax.Array], jax.Array] = swap_log_ratio,
) -> tuple[Ladder, LadderInfo]:
    """One iteration of one chain.

    Args:
        key: JAX key.
        ladder: the chain's ladder before.
        frozen: what is the same in all iterations.
        evaluate: `x -> (log p, grad log p)`.
        iteration: number of iterations before, the same for all chains.
        keeps: whether the iteration adds to the sums of the evidence.
        active: whether it moves anything; otherwise nothing is evaluated.
        log_ratio: log ratio of the joint densities after and before a swap.
    """
    rungs, dim = ladder.replicas.positions.shape
    # Two rungs are a single pair, which swaps at every iteration.
    parity = jnp.asarray(iteration % 2 if rungs > 2 else 0)
    moves = jnp.asarray(active) & (iteration % frozen.move_every == 0)
    num_steps = jnp.where(moves, frozen.num_steps, 0)
    noise = signed_noise(key, noise_size(frozen.reference) + (rungs - 1) * (dim + 3))
    total = jnp.where(active, num_steps, -1)
    replicas, units, energy, accept_prob, error = _move(noise, ladder.replicas, frozen, evaluate, total)
    replicas, source, swaps = swap(units, replicas, frozen.coefficients, parity, log_ratio)
    directions = ladder.directions[source]
    trips = (directions[0] == -1).astype(int)
    directions = directions.at[0].set(1).at[-1].set(-1)
    sums = add_iteration(
        ladder.kept, frozen.centres, swaps.accept_prob, swaps.work_up, swaps.work_down, directions, trips
    )
    kept = jax.tree.map(lambda new, old: jnp.where(keeps, new, old), sums, ladder.kept)
    replicas, directions = jax.tree.map(
        lambda new, old: jnp.where(active, new, old),
        (replicas, directions),
        (ladder.replicas, ladder.directions),
    )
    evals = jnp.where(active, (rungs - 1) * num_steps + 1, 0)
    info = LadderInfo(
        accept_prob=accept_prob[-1],
        moved=moves,
        energy=energy[-1],
        diverging=error[-1] > DIVERGENCE_THRESHOLD,
        num_evals=evals,
    )
    return Ladder(replicas, directions, kept), info
