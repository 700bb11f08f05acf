"""States of QDE between iterations: the first one, and the next after a move."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from qdesampler.infer.model.device_arrays import real, start_index, whole
from qdesampler.infer.model.raveling import unraveler
from qdesampler.infer.model.target import StartingPoint
from qdesampler.infer.qde.per_chain import PerChain
from qdesampler.infer.qde.prepared import Prepared
from qdesampler.infer.qde.site_blocks import SiteBlocks
from qdesampler.infer.qde.state import Frozen, QDEAdaptState, QDEState
from qdesampler.kernels.mcmc.mixture import Mixture, MixtureInfo
from qdesampler.kernels.mcmc.trajectory import TrajectoryInfo
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.trial import Trial
from qdesampler.numerics.triangular_map import to_device

__all__ = ["adapted", "chosen_start", "first_state", "frozen", "next_state", "still"]


def frozen(prepared: Prepared, num_warmup: int) -> Frozen:
    """The result of the warm-up as arrays of the device."""
    trial = prepared.trial
    return Frozen(
        Mixture(
            Trial(
                real(trial.centre),
                Metric(*map(real, trial.metric)),
                *(real(part) for part in (trial.shift, trial.width, trial.skew, trial.defensive_weight)),
            ),
            real(prepared.step_size),
            real(prepared.length),
            real(prepared.probability),
            whole(prepared.candidates),
            whole(prepared.moves),
            real(prepared.short_fraction),
        ),
        real(prepared.centredness),
        whole(num_warmup),
        whole(min(prepared.burn_in, num_warmup)),
        whole(prepared.outcome),
        real(prepared.acceptance),
        whole(prepared.outliers),
        jnp.asarray(prepared.at_floor),
        real(prepared.edges),
        None if prepared.law is None else to_device(prepared.law),
    )


def chosen_start(
    prepared: Prepared, key: jax.Array, prototype: Any, num_evals: int, *, batched: bool
) -> StartingPoint:
    """Starts from those that the warm-up offers: in turn for a batch, by its key for a single chain."""
    number = len(prepared.starts)
    index = start_index(key, number, batched=batched)
    unravel = unraveler(prototype)
    dtype = jnp.result_type(float)
    tables = (table.astype(dtype) for table in (prepared.starts, -prepared.log_densities, -prepared.scores))
    if isinstance(index, Tracer):
        z, energy, gradient = (jnp.asarray(table)[index] for table in tables)
        return StartingPoint(unravel(z), energy, unravel(gradient), num_evals)
    z, energy, gradient = (np.asarray(table[index]) for table in tables)
    return StartingPoint(
        jax.tree.map(jnp.asarray, unravel(z)),
        jnp.asarray(energy),
        jax.tree.map(jnp.asarray, unravel(gradient)),
        num_evals,
    )


def first_state(
    rng_key: Any, start: StartingPoint, adapt: Any, sites: SiteBlocks, spent: int, *, batched: bool
) -> QDEState:
    """The state of chains that begin at `start`; the evaluations of the warm-up are spread over them."""
    chains = rng_key.shape[0] if batched else 1

    def each(value, dtype=float):
        shape, dtype = (chains,) if batched else (), jnp.result_type(dtype)
        traced = isinstance(value, Tracer)
        return jnp.full(shape, value, dtype) if traced else jnp.asarray(np.full(shape, value, dtype))

    pending = each(-(-spent // chains) + start.num_evals, int)
    if isinstance(adapt, Frozen):
        step_size, length = each(adapt.mixture.step_size), each(adapt.mixture.length)
    else:
        step_size, length = adapt.adapt.step_size, adapt.length
    energy = start.potential_energy
    return QDEState(
        i=each(0, int),
        z=start.z,
        z_grad=start.gradient,
        potential_energy=energy,
        energy=energy,
        num_evals=each(0, int),
        warmup_evals=each(0, int),
        pending_evals=pending,
        accept_prob=each(0),
        mean_accept_prob=each(0),
        diverging=~jnp.isfinite(energy),
        adapt_state=QDEAdaptState(step_size, length, adapt, sites),
        rng_key=rng_key,
    )


def still(state: QDEState, rng_key: jax.Array, warming: jax.Array) -> QDEState:
    """The next state of a target without coordinates."""
    certain = jnp.ones_like(state.accept_prob)
    return state._replace(
        i=state.i + 1,
        num_evals=state.pending_evals,
        warmup_evals=state.warmup_evals + jnp.where(warming, state.pending_evals, 0),
        pending_evals=jnp.zeros_like(state.pending_evals),
        accept_prob=certain,
        mean_accept_prob=certain,
        rng_key=rng_key,
    )


def adapted(state: QDEState, adapt: PerChain) -> QDEState:
    """The state of chains that adapt by themselves, with their new adaptation."""
    step_size = adapt.adapt.step_size
    own = state.adapt_state._replace(step_size=step_size, trajectory_length=adapt.length, shared=adapt)
    return state._replace(adapt_state=own)


def next_state(
    state: QDEState,
    rng_key: jax.Array,
    sites: tuple[Any, jax.Array, Any],
    info: MixtureInfo | TrajectoryInfo,
    warming: jax.Array,
    num_warmup: jax.Array,
) -> QDEState:
    """The state after an iteration, from `(z, U(z), grad U(z))` and what happened."""
    z, energy, z_grad = sites
    evals = info.num_evals + state.pending_evals
    counted = state.i + 1 - jnp.where(warming, 0, num_warmup)
    return state._replace(
        i=state.i + 1,
        z=z,
        z_grad=z_grad,
        potential_energy=energy,
        energy=info.energy,
        num_evals=evals,
        warmup_evals=state.warmup_evals + jnp.where(warming, evals, 0),
        pending_evals=jnp.zeros_like(state.pending_evals),
        accept_prob=info.accept_prob,
        mean_accept_prob=state.mean_accept_prob + (info.accept_prob - state.mean_accept_prob) / counted,
        diverging=info.diverging | ~jnp.isfinite(energy),
        rng_key=rng_key,
    )
