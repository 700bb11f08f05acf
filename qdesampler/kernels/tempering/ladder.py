"""A ladder of replicas inside one chain: its start from particles, its warm-up, its frozen iterations.

The warm-up is four rounds that double in length. At the end of each of the first three rounds the rungs are
placed anew, so that all pairs have the same rejection rate. The last round tunes the step sizes of the final
rungs. After the warm-up nothing is adapted, and the sums that the evidence needs are collected.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from qdesampler.kernels.mcmc.dual_averaging import DualAveraging, start_averaging, update_averaging
from qdesampler.kernels.paths.path import TemperingPath, combine
from qdesampler.kernels.paths.replica import Replica, retarget
from qdesampler.kernels.paths.rung_metric import choose_metric, num_steps_for
from qdesampler.kernels.references.reference import Reference
from qdesampler.kernels.smc.persistent_sampling import Particles, log_evidence, log_weights
from qdesampler.kernels.tempering.evidence_sums import KeptSums, add_iteration, empty_sums
from qdesampler.kernels.tempering.schedule import HIGH_ACCEPTANCE, log_normalisers_at, place_rungs
from qdesampler.kernels.tempering.swaps import Tempering, sweep
from qdesampler.numerics.importance_weights import resample
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.types import ValueAndScore

__all__ = ["Ladder", "LadderInfo", "SHORTEST_WARMUP", "ladder_step", "start_ladder"]

SHORTEST_WARMUP = 32  # iterations; fewer leave the first round too short
_ROUNDS = (8, 4, 2, 1)  # a round ends at the warm-up divided by each of these
_LEAST_TERM = 1e-6  # smallest mean of a bridge term before its logarithm
# In a ladder of two rungs: acceptance of swaps above which trajectories have a single step
# (results/evidence.md: arK of "One mode").
_SINGLE_STEP_ACCEPTANCE = 0.85
# In a ladder of two rungs that swap often: iterations from one trajectory to the next; between them the draws
# of the reference move the target's replica (results/evidence.md: arK of "One mode").
_MOVE_EVERY = 4
_MAX_STEPS = 4  # steps of a trajectory between two swaps (results/evidence.md: "Steps between swaps")


class LadderInfo(NamedTuple):
    """What one iteration did.

    Attributes:
        accept_prob: mean acceptance probability of the trajectories.
        target_accept_prob: acceptance probability of the trajectory on the rung of the target.
        moved: whether there were trajectories; without them the acceptance probabilities are 1.
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
        iteration: number of iterations so far.
        num_warmup: number of iterations that adapt.
        replicas: one a rung.
        directions: for each rung's replica, 1 if it was at the reference last, -1 if at the target, 0 if it
            has been at neither, shape `(rungs,)`.
        reference: density of the lowest rung.
        betas: position of each rung on the path, shape `(rungs,)`.
        centres: the bridges' constants `C`, about `log Z_k+1 / Z_k`, shape `(rungs - 1,)`.
        metrics: one a rung.
        local_scales: 0, or the typical factor of step sizes that follow the score (`choose_metric`), one a
            rung.
        averaging: dual averaging of the step sizes above the reference, one a rung.
        step_sizes: step sizes in use, shape `(rungs,)`.
        num_steps: leapfrog steps of every trajectory.
        move_every: iterations from one trajectory to the next.
        round_sums: sums of this round: rejections and the two bridge terms, shape `(3, pairs)`.
        round_count: iterations of this round.
        kept: sums over iterations after the warm-up.
        particle_log_evidence: `log Z` by the last pass of particles before the warm-up.
        missed_mass: Laplace mass of modes that descents found and particles missed, over the target's mass.
        components: Gaussians of the fitted reference; 0 for the prior reference, -1 for the product, -2 for
            the autoregressive Gaussian.
    """

    iteration: jax.Array
    num_warmup: jax.Array
    replicas: Replica
    directions: jax.Array
    reference: Reference
    betas: jax.Array
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
    particle_log_evidence: jax.Array
    missed_mass: jax.Array
    components: jax.Array


def _trajectory_steps(
    step_sizes: jax.Array, local_scales: jax.Array, max_steps: int, swap_rate: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """`num_steps` and `move_every` of a ladder.

    Two rungs that swap often need few trajectories: most of the target's draws come from the reference.

    Args:
        step_sizes: those above the reference.
        local_scales: those above the reference.
        max_steps: most steps of a trajectory.
        swap_rate: mean acceptance probability of swaps.
    """
    typical = step_sizes * jnp.where(local_scales > 0, local_scales, 1)
    steps = num_steps_for(jnp.exp(jnp.mean(jnp.log(typical))), jnp.zeros(()), min(max_steps, _MAX_STEPS))
    if step_sizes.size > 1:
        return steps, jnp.ones((), int)
    swap_rate = jnp.asarray(swap_rate)
    num_steps = jnp.where(swap_rate >= _SINGLE_STEP_ACCEPTANCE, 1, steps)
    return num_steps, jnp.where(swap_rate >= HIGH_ACCEPTANCE, _MOVE_EVERY, 1)


def start_ladder(
    key: jax.Array,
    particles: Particles,
    reference: Reference,
    path: TemperingPath,
    betas: jax.Array,
    *,
    num_warmup: int,
    max_steps: int,
    missed_mass: jax.Array,
    components: jax.Array,
) -> Ladder:
    """Rungs at `betas`, with replicas, metrics and constants from particles.

    Args:
        key: JAX key.
        particles: one population, with `log q` of `reference`
            (`qdesampler.kernels.smc.reference_fit.with_reference`).
        reference: density of the lowest rung.
        path: from it to the target.
        betas: shape `(rungs,)`.
        num_warmup: iterations of adaptation, at least `SHORTEST_WARMUP`.
        max_steps: most steps of a trajectory.
        missed_mass: see `Ladder`.
        components: see `Ladder`.
    """
    rungs = betas.size
    points = particles.replicas
    per_stage = particles.log_mixture.size // particles.betas.size
    coefficients = jax.vmap(path.coefficients)(betas)

    def start_rung(key, coefficients):
        weights = log_weights(particles, jax.vmap(lambda phi: combine(coefficients, phi))(points.features))
        chosen = resample(key, weights, per_stage)
        draws = jax.tree.map(lambda leaf: leaf[chosen], points)
        draws = jax.vmap(lambda replica: retarget(replica, coefficients))(draws)
        return jax.tree.map(lambda leaf: leaf[0], draws), *choose_metric(draws)

    replicas, metrics, local_scales = jax.vmap(start_rung)(jax.random.split(key, rungs), coefficients)
    dtype = jnp.result_type(float)
    step_sizes = jnp.full((rungs,), particles.step_size, dtype)
    log_z = log_normalisers_at(particles, path, betas)
    centres = jnp.diff(log_z)
    num_steps, move_every = _trajectory_steps(step_sizes[1:], local_scales[1:], max_steps, 0.0)
    particle_log_evidence = log_evidence(particles, path)
    return Ladder(
        iteration=jnp.zeros((), int),
        num_warmup=jnp.asarray(num_warmup, int),
        replicas=replicas,
        directions=jnp.zeros((rungs,), int),
        reference=reference,
        betas=betas,
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
        particle_log_evidence=particle_log_evidence,
        missed_mass=missed_mass,
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
        ladder: the chain's ladder before.
        evaluate: `x -> (log p, grad log p)`.
        path: from the reference to the target.
        max_steps: most steps of a trajectory.
        target_accept_prob: acceptance probability that the step sizes aim at.
    """
    rungs = ladder.betas.size
    warming = ladder.iteration < ladder.num_warmup
    # Two rungs are a single pair, which swaps at every iteration.
    parity = ladder.iteration % 2 if rungs > 2 else jnp.zeros((), int)
    moves = ladder.iteration % ladder.move_every == 0
    num_steps = jnp.where(moves, ladder.num_steps, 0)
    tempering = Tempering(
        reference=ladder.reference,
        path=path,
        betas=ladder.betas,
        metrics=ladder.metrics,
        step_sizes=ladder.step_sizes,
        local_scales=ladder.local_scales,
        num_steps=num_steps,
    )
    replicas, source, swaps, moved = sweep(key, ladder.replicas, evaluate, tempering, parity)
    directions = ladder.directions[source]
    trips = (directions[0] == -1).astype(int)
    directions = directions.at[0].set(1).at[-1].set(-1)
    averaging = jax.vmap(update_averaging, in_axes=(0, 0, None))(
        ladder.averaging, moved.accept_prob, target_accept_prob
    )
    averaging = jax.tree.map(lambda a, b: jnp.where(moves, a, b), averaging, ladder.averaging)
    terms = jnp.stack(
        [
            1 - swaps.accept_prob,
            jax.nn.sigmoid(swaps.work_up - ladder.centres),
            jax.nn.sigmoid(ladder.centres - swaps.work_down),
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
        ladder.kept, ladder.centres, swaps.accept_prob, swaps.work_up, swaps.work_down, directions, trips
    )
    sampled = ladder._replace(kept=kept)
    new = jax.tree.map(lambda a, b: jnp.where(warming, a, b), adapted, sampled)
    replicas = jax.vmap(retarget)(replicas, jax.vmap(path.coefficients)(new.betas))
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
    """Renew constants, step sizes and numbers of steps; place the rungs anew unless the last round ended."""
    rejections, up, down = ladder.round_sums / jnp.maximum(ladder.round_count, 1)
    betas = place_rungs(ladder.betas, rejections, ladder.betas.size)
    betas = jnp.where(last, ladder.betas, betas)
    increments = ladder.centres + jnp.log(jnp.maximum(up, _LEAST_TERM) / jnp.maximum(down, _LEAST_TERM))
    log_z = jnp.concatenate([jnp.zeros(1, increments.dtype), jnp.cumsum(increments)])
    step_sizes = jnp.exp(ladder.averaging.log_average)
    swap_rate = 1 - jnp.mean(rejections)
    num_steps, move_every = _trajectory_steps(step_sizes, ladder.local_scales[1:], max_steps, swap_rate)
    return ladder._replace(
        betas=betas,
        centres=jnp.diff(jnp.interp(betas, ladder.betas, log_z)),
        averaging=jax.vmap(start_averaging)(step_sizes),
        step_sizes=ladder.step_sizes.at[1:].set(step_sizes),
        num_steps=num_steps,
        move_every=move_every,
        round_sums=jnp.zeros_like(ladder.round_sums),
        round_count=jnp.zeros_like(ladder.round_count),
    )
