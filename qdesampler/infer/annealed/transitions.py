"""States of AnnealedQDE between iterations: the first one, and the next after an iteration."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.infer.annealed.search import PreparedLadder
from qdesampler.infer.annealed.state import AnnealedAdaptState, AnnealedState, Found
from qdesampler.infer.model.device_arrays import real, start_index, whole
from qdesampler.infer.model.fingerprint import is_typed_key
from qdesampler.infer.model.raveling import unraveler
from qdesampler.kernels.references.path import TemperingPath
from qdesampler.kernels.references.reference import to_device
from qdesampler.kernels.tempering.evidence_sums import empty_sums
from qdesampler.kernels.tempering.host_ladder import STARTS
from qdesampler.kernels.tempering.ladder import FrozenLadder, Ladder, LadderInfo
from qdesampler.kernels.tempering.swaps import Replicas
from qdesampler.numerics.metric import Metric

__all__ = ["first_state", "found_by", "next_state"]

_BURN_IN = 16  # first iterations, in which chains leave the starts that they share


def found_by(prepared: PreparedLadder, path: TemperingPath, num_warmup: int) -> Found:
    """The result of the search as arrays of the device."""
    tuned = prepared.tuned
    metrics = Metric(*(real(np.stack(parts)) for parts in zip(*(r.metric for r in tuned.above), strict=True)))
    frozen = FrozenLadder(
        reference=to_device(prepared.reference),
        betas=real(tuned.betas),
        coefficients=real(path.coefficients(tuned.betas)),
        centres=real(tuned.centres),
        metrics=metrics,
        step_sizes=real([rung.step_size for rung in tuned.above]),
        num_steps=whole(tuned.num_steps),
        move_every=whole(tuned.move_every),
    )
    return Found(
        frozen,
        whole(num_warmup),
        whole(min(_BURN_IN, num_warmup)),
        real(prepared.log_evidences),
        real(prepared.missed_mass),
        real(prepared.surprising),
        whole(prepared.kind),
    )


def _replicas(prepared: PreparedLadder, index: Any) -> Replicas:
    """The replicas of these starts, with a leading axis of chains if `index` has one."""
    rungs, dtype = len(prepared.tuned.betas), jnp.result_type(float)
    leaves = []
    for number, part in enumerate(prepared.tuned.starts):
        table = part.reshape(rungs, STARTS, *part.shape[1:]).swapaxes(0, 1)
        if number == 2 and rungs == 2:
            table = np.zeros_like(table)  # scores of the reference, which two rungs do not need
        leaves.append(jnp.asarray(table.astype(dtype))[index])
    return Replicas(*leaves)


def first_state(
    rng_key: jax.Array,
    key_start: jax.Array,
    prepared: PreparedLadder,
    found: Found,
    prototype: Any,
    spent: int,
) -> AnnealedState:
    """The state of chains at starts of the search; its evaluations are spread over them."""
    batched = np.ndim(jax.random.key_data(rng_key) if is_typed_key(rng_key) else rng_key) == 2
    chains = rng_key.shape[0] if batched else 1

    def each(value, dtype=float) -> Any:
        return jnp.full((chains,) if batched else (), value, jnp.result_type(dtype))

    replicas = _replicas(prepared, start_index(key_start, STARTS, batched=batched))
    rungs = len(prepared.tuned.betas)
    sums = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (chains, *leaf.shape)) if batched else leaf, empty_sums(rungs)
    )
    directions = jnp.zeros((chains, rungs) if batched else (rungs,), int)
    z, energy, gradient = posterior_rung(replicas, prototype)
    return AnnealedState(
        i=each(0, int),
        z=z,
        z_grad=gradient,
        potential_energy=energy,
        energy=energy,
        num_evals=each(0, int),
        warmup_evals=each(0, int),
        pending_evals=each(-(-spent // chains), int),
        accept_prob=each(0),
        mean_accept_prob=each(0),
        diverging=~jnp.isfinite(energy),
        adapt_state=AnnealedAdaptState(
            each(prepared.tuned.above[-1].step_size), Ladder(replicas, directions, sums), found
        ),
        rng_key=rng_key,
    )


def posterior_rung(replicas: Replicas, prototype: Any) -> tuple[Any, jax.Array, Any]:
    """`z`, `U(z)` and its gradient on the rung of the posterior."""
    unravel = unraveler(prototype)
    last = jax.tree.map(lambda leaf: leaf[..., -1, :], (replicas.positions, -replicas.scores_p))
    return unravel(last[0]), -replicas.log_p[..., -1], unravel(last[1])


def next_state(
    state: AnnealedState, rng_key: jax.Array, ladder: Ladder, info: LadderInfo, warming: jax.Array
) -> AnnealedState:
    """The state after an iteration."""
    evals = info.num_evals + state.pending_evals
    counted = state.i + 1 - jnp.where(warming, 0, state.adapt_state.shared.num_warmup)
    accept_prob = jnp.where(info.moved, info.accept_prob, state.accept_prob)
    batched = jnp.ndim(state.potential_energy) == 1
    prototype = jax.tree.map(lambda x: x[0], state.z) if batched else state.z
    z, energy, gradient = posterior_rung(ladder.replicas, prototype)
    return state._replace(
        i=state.i + 1,
        z=z,
        z_grad=gradient,
        potential_energy=energy,
        energy=info.energy,
        num_evals=evals,
        warmup_evals=state.warmup_evals + jnp.where(warming, evals, 0),
        pending_evals=jnp.zeros_like(state.pending_evals),
        accept_prob=accept_prob,
        mean_accept_prob=state.mean_accept_prob + (accept_prob - state.mean_accept_prob) / counted,
        diverging=info.diverging | ~jnp.isfinite(energy),
        adapt_state=state.adapt_state._replace(ladder=ladder),
        rng_key=rng_key,
    )
