"""A ladder of replicas inside one chain: its start from walkers, its warm-up, its frozen iterations.

The warm-up is four rounds that double in length. At the end of each of the first three the rungs are placed
anew, at equal shares of the measured rejections; the last round tunes step sizes where the rungs stay. From
then on nothing changes, and what the evidence needs is summed up.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from qdesampler.kernels.mcmc.dual_averaging import DualAveraging, start_averaging, update_averaging
from qdesampler.kernels.paths.path import TemperingPath, combine
from qdesampler.kernels.paths.replica import Replica, at_rung
from qdesampler.kernels.paths.rung_metric import choose_metric, steps_for
from qdesampler.kernels.references.reference import Reference
from qdesampler.kernels.smc.persistent_sampling import Walkers, log_weights, target_log_weights
from qdesampler.kernels.tempering.evidence_sums import KeptSums, add_iteration, empty_sums
from qdesampler.kernels.tempering.schedule import equal_shares, log_normalisers_at
from qdesampler.kernels.tempering.swaps import sweep
from qdesampler.numerics.importance_weights import resample
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.types import ValueAndScore

__all__ = ["Ladder", "LadderInfo", "SHORTEST_WARMUP", "ladder_step", "start_ladder"]

SHORTEST_WARMUP = 32
_ROUNDS = (8, 4, 2, 1)  # the warm-up over each of these is where a round ends
_LEAST_TERM = 1e-6
# Acceptance of swaps between two rungs above which trajectories do now and then, and single steps do.
_OFTEN, _FRESH = 0.7, 0.85
_NOW_AND_THEN = 4  # iterations from one trajectory to the next: fresh draws do the rest
_MOST_STEPS = 4  # of a trajectory between two swaps: longer ones do not mix a ladder faster


class LadderInfo(NamedTuple):
    """What one iteration did.

    Attributes:
        accept_prob: mean acceptance of the trajectories.
        target_accept_prob: acceptance of the trajectory on the rung of the target.
        moved: whether there were trajectories; without, the acceptances are 1.
        energy: total energy of the kept point on the rung of the target.
        diverging: whether that trajectory diverged.
        num_evals: evaluations of the target.
    """

    accept_prob: jax.Array
    target_accept_prob: jax.Array
    moved: jax.Array
    energy: jax.Array
    diverging: jax.Array
    num_evals: jax.Array


class Ladder(NamedTuple):
    """One chain's ladder; `rungs` from the reference to the target.

    Attributes:
        iteration: done so far.
        num_warmup: iterations in which it adapts.
        replicas: one a rung.
        directions: of each rung's replica: 1 at the reference last, -1 at the target last, 0 neither yet.
        reference: density of the lowest rung.
        fractions: of the path, shape `(rungs,)`.
        centres: the bridges' constants `C`, about `log Z_k+1 / Z_k`.
        metrics: one a rung.
        local_scales: 0, or the typical local factor of the step sizes (`choose_metric`), one a rung.
        averaging: search for the step sizes above the reference, one a rung.
        step_sizes: in use, shape `(rungs,)`.
        num_steps: of every trajectory.
        move_every: iterations from one trajectory to the next.
        round_sums: of this round: rejections and the two bridge terms, shape `(3, pairs)`.
        round_count: iterations of this round.
        kept: sums over iterations after the warm-up.
        walker_log_evidence: what the last leg of walkers found before.
        hidden_share: mass of modes that descents found and walkers had not.
        components: Gaussians of the fitted reference; 0 where it is the broad one, -1 for the product, -2
            for the autoregressive Gaussian.
    """

    iteration: jax.Array
    num_warmup: jax.Array
    replicas: Replica
    directions: jax.Array
    reference: Reference
    fractions: jax.Array
    centres: jax.Array
    metrics: Metric
    local_scales: jax.Array
    averaging: DualAveraging
    step_sizes: jax.Array
    num_steps: jax.Array
    move_every: jax.Array
    round_sums: jax.Array
    round_count: jax.Array
    kept: KeptSums
    walker_log_evidence: jax.Array
    hidden_share: jax.Array
    components: jax.Array


def _steps(
    step_sizes: jax.Array, local_scales: jax.Array, max_steps: int, swaps: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """For all rungs above the reference, and how often: two that swap well live on fresh draws."""
    typical = step_sizes * jnp.where(local_scales > 0, local_scales, 1)
    most = min(max_steps, _MOST_STEPS)
    steps = steps_for(jnp.exp(jnp.mean(jnp.log(typical))), jnp.zeros(()), most)
    if step_sizes.size > 1:
        return steps, jnp.ones((), int)
    swaps = jnp.asarray(swaps)
    return jnp.where(swaps >= _FRESH, 1, steps), jnp.where(swaps >= _OFTEN, _NOW_AND_THEN, 1)


def start_ladder(
    key: jax.Array,
    walkers: Walkers,
    reference: Reference,
    path: TemperingPath,
    fractions: jax.Array,
    num_warmup: int,
    max_steps: int,
    hidden_share: jax.Array,
    components: jax.Array,
) -> Ladder:
    """Rungs at `fractions`, with replicas, metrics and constants from walkers.

    Args:
        key: JAX key.
        walkers: seen from `reference` (`tempering_fit.with_reference`).
        reference: density of the lowest rung.
        path: from it to the target.
        fractions: shape `(rungs,)`.
        num_warmup: iterations of adaptation, at least `SHORTEST_WARMUP`.
        max_steps: most steps of a trajectory.
        hidden_share: see `Ladder`.
        components: see `Ladder`.
    """
    rungs = fractions.size
    points = walkers.replicas
    per_stage = walkers.log_mixture.size // walkers.fractions.size
    coefficients = jax.vmap(path.coefficients)(fractions)

    def rung(key, coefficients):
        weights = log_weights(walkers, jax.vmap(lambda phi: combine(coefficients, phi))(points.features))
        chosen = resample(key, weights, per_stage)
        draws = jax.tree.map(lambda leaf: leaf[chosen], points)
        draws = jax.vmap(lambda replica: at_rung(replica, coefficients))(draws)
        return jax.tree.map(lambda leaf: leaf[0], draws), *choose_metric(draws)

    replicas, metrics, local_scales = jax.vmap(rung)(jax.random.split(key, rungs), coefficients)
    dtype = jnp.result_type(float)
    step_sizes = jnp.full((rungs,), walkers.step_size, dtype)
    log_z = log_normalisers_at(walkers, path, fractions)
    centres = jnp.diff(log_z)
    num_steps, move_every = _steps(step_sizes[1:], local_scales[1:], max_steps, 0.0)
    log_evidence = jax.nn.logsumexp(target_log_weights(walkers, path)) - jnp.log(walkers.used * per_stage)
    return Ladder(
        iteration=jnp.zeros((), int),
        num_warmup=jnp.asarray(num_warmup, int),
        replicas=replicas,
        directions=jnp.zeros((rungs,), int),
        reference=reference,
        fractions=fractions,
        centres=jnp.where(jnp.isfinite(centres), centres, 0),
        metrics=metrics,
        local_scales=local_scales,
        averaging=jax.vmap(start_averaging)(step_sizes[1:]),
        step_sizes=step_sizes,
        num_steps=num_steps,
        move_every=move_every,
        round_sums=jnp.zeros((3, rungs - 1), dtype),
        round_count=jnp.zeros((), int),
        kept=empty_sums(rungs),
        walker_log_evidence=log_evidence,
        hidden_share=hidden_share,
        components=components,
    )


def ladder_step(
    key: jax.Array,
    ladder: Ladder,
    evaluate: ValueAndScore,
    path: TemperingPath,
    max_steps: int,
    target_accept_prob: float,
) -> tuple[Ladder, LadderInfo]:
    """One iteration of one chain.

    Args:
        key: JAX key.
        ladder: so far.
        evaluate: `x -> (log p, grad log p)`.
        path: from the reference to the target.
        max_steps: most steps of a trajectory.
        target_accept_prob: what the step sizes aim at.
    """
    rungs = ladder.fractions.size
    warming = ladder.iteration < ladder.num_warmup
    # Two rungs are one pair, which need not wait for its turn.
    parity = ladder.iteration % 2 if rungs > 2 else jnp.zeros((), int)
    moves = ladder.iteration % ladder.move_every == 0
    num_steps = jnp.where(moves, ladder.num_steps, 0)
    replicas, source, seen, moved = sweep(
        key,
        ladder.replicas,
        evaluate,
        ladder.reference,
        path,
        ladder.fractions,
        ladder.metrics,
        ladder.step_sizes,
        num_steps,
        ladder.local_scales,
        parity,
    )
    directions = ladder.directions[source]
    trips = (directions[0] == -1).astype(int)
    directions = directions.at[0].set(1).at[-1].set(-1)
    averaging = jax.vmap(update_averaging, in_axes=(0, 0, None))(
        ladder.averaging, moved.accept_prob, target_accept_prob
    )
    averaging = jax.tree.map(lambda a, b: jnp.where(moves, a, b), averaging, ladder.averaging)
    terms = jnp.stack(
        [
            1 - seen.accept_prob,
            jax.nn.sigmoid(seen.work_up - ladder.centres),
            jax.nn.sigmoid(ladder.centres - seen.work_down),
        ]
    )
    adapted = ladder._replace(
        averaging=averaging,
        step_sizes=ladder.step_sizes.at[1:].set(jnp.exp(averaging.log_step)),
        round_sums=ladder.round_sums + terms,
        round_count=ladder.round_count + 1,
    )
    ends = jnp.stack([ladder.num_warmup // part for part in _ROUNDS])
    ended = jnp.any(ladder.iteration + 1 == ends)
    last = ladder.iteration + 1 == ladder.num_warmup
    renewed = _end_round(adapted, last, max_steps)
    adapted = jax.tree.map(lambda a, b: jnp.where(ended, a, b), renewed, adapted)
    kept = add_iteration(
        ladder.kept, ladder.centres, seen.accept_prob, seen.work_up, seen.work_down, directions, trips
    )
    sampled = ladder._replace(kept=kept)
    new = jax.tree.map(lambda a, b: jnp.where(warming, a, b), adapted, sampled)
    replicas = jax.vmap(at_rung)(replicas, jax.vmap(path.coefficients)(new.fractions))
    new = new._replace(iteration=ladder.iteration + 1, replicas=replicas, directions=directions)
    evals = ((rungs - 1) * num_steps + 1) * path.slices
    info = LadderInfo(
        accept_prob=jnp.mean(moved.accept_prob),
        target_accept_prob=moved.accept_prob[-1],
        moved=moves,
        energy=moved.energy[-1],
        diverging=moved.diverging[-1],
        num_evals=evals,
    )
    return new, info


def _end_round(ladder: Ladder, last: jax.Array, max_steps: int) -> Ladder:
    """Place the rungs anew (but at the end of the last round), renew constants, step sizes and steps."""
    rejections, up, down = ladder.round_sums / jnp.maximum(ladder.round_count, 1)
    fractions = equal_shares(ladder.fractions, rejections, ladder.fractions.size)
    fractions = jnp.where(last, ladder.fractions, fractions)
    increments = ladder.centres + jnp.log(jnp.maximum(up, _LEAST_TERM) / jnp.maximum(down, _LEAST_TERM))
    log_z = jnp.concatenate([jnp.zeros(1, increments.dtype), jnp.cumsum(increments)])
    step_sizes = jnp.exp(ladder.averaging.log_average)
    swaps = 1 - jnp.mean(rejections)
    num_steps, move_every = _steps(step_sizes, ladder.local_scales[1:], max_steps, swaps)
    return ladder._replace(
        fractions=fractions,
        centres=jnp.diff(jnp.interp(fractions, ladder.fractions, log_z)),
        averaging=jax.vmap(start_averaging)(step_sizes),
        step_sizes=ladder.step_sizes.at[1:].set(step_sizes),
        num_steps=num_steps,
        move_every=move_every,
        round_sums=jnp.zeros_like(ladder.round_sums),
        round_count=jnp.zeros_like(ladder.round_count),
    )
