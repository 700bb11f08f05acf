"""Local moves under NumPyro's own warm-up, where nothing can be solved before a chain moves.

Inside Gibbs the target changes from sweep to sweep, and arguments that are traced have no values. There every
chain adapts by itself, in the compiled loop, as NUTS does: `numpyro.infer.hmc_util.warmup_adapter` finds step
size and mass matrix, and the move is a trajectory of random length.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from numpyro.infer.hmc_util import HMCAdaptState, IntegratorState, warmup_adapter

from qdesampler.infer.model.evaluation import is_batched
from qdesampler.infer.model.target import StartingPoint
from qdesampler.infer.qde.coordinates.device import MoveCoordinates
from qdesampler.kernels.mcmc.integrators import Dynamics, Integrator
from qdesampler.kernels.mcmc.trajectory import (
    TrajectoryInfo,
    TrajectoryState,
    draw_num_steps,
    trajectory_move,
)
from qdesampler.numerics.metric import DenseFactor, Metric
from qdesampler.numerics.types import ValueAndScore

__all__ = ["PerChain", "PerChainSettings", "StepOfChains", "adapted_step", "start_chains"]


class PerChain(NamedTuple):
    """The adaptation of one chain.

    Attributes:
        adapt: NumPyro's.
        length: mean trajectory length, whitened units.
        num_warmup: iterations of the warm-up.
    """

    adapt: HMCAdaptState
    length: jax.Array
    num_warmup: jax.Array


class PerChainSettings(NamedTuple):
    """What is adapted, and to what.

    Attributes:
        adapt_step_size: whether the step size is adapted.
        adapt_metric: whether the mass matrix is adapted.
        dense: whether it is a matrix.
        target_accept_prob: acceptance of end points that the step size aims at.
        regularize: whether a mass matrix of few draws is drawn towards the identity.
        most_steps: of a trajectory.
    """

    adapt_step_size: bool
    adapt_metric: bool
    dense: bool
    target_accept_prob: float
    regularize: bool
    most_steps: int


def _adapter(num_warmup: int, settings: PerChainSettings) -> tuple[Callable, Callable]:
    return warmup_adapter(
        num_warmup,
        find_reasonable_step_size=lambda step_size, *_: step_size,
        adapt_step_size=settings.adapt_step_size,
        adapt_mass_matrix=settings.adapt_metric,
        dense_mass=settings.dense,
        target_accept_prob=settings.target_accept_prob,
        regularize_mass_matrix=settings.regularize,
    )


def _as_numpyro(point: TrajectoryState) -> IntegratorState:
    return IntegratorState(point.position, None, -point.log_density, -point.score)


def start_chains(
    key: jax.Array,
    start: StartingPoint,
    num_warmup: int,
    settings: PerChainSettings,
    step_size: float,
    length: float,
    inverse_mass_matrix: Any | None,
) -> PerChain:
    """The adaptation of one chain, or of each of a batch of keys, compiled as one program."""
    init, _ = _adapter(num_warmup, settings)

    def begin(key, z, energy, gradient):
        point = TrajectoryState(ravel_pytree(z)[0], -energy, -ravel_pytree(gradient)[0])
        dtype = point.position.dtype
        matrix = None if inverse_mass_matrix is None else jnp.asarray(inverse_mass_matrix, dtype)
        adapt = init(_as_numpyro(point), key, jnp.asarray(step_size, dtype), matrix, point.position.size)
        return PerChain(adapt, jnp.asarray(length, dtype), jnp.asarray(num_warmup, int))

    begin = jax.jit(jax.vmap(begin) if is_batched(key) else begin)
    return begin(key, start.z, start.potential_energy, start.gradient)


def _metric(adapt: HMCAdaptState) -> Metric | DenseFactor:
    factor = adapt.mass_matrix_sqrt_inv
    if factor.ndim == 2:
        return DenseFactor(factor)
    return Metric(factor, jnp.zeros((factor.size, 0), factor.dtype), jnp.ones((0,), factor.dtype))


def adapted_step(
    key: jax.Array,
    iteration: jax.Array,
    point: TrajectoryState,
    state: PerChain,
    value_and_score: ValueAndScore,
    num_warmup: int,
    settings: PerChainSettings,
    dynamics: Dynamics,
    integrator: Integrator,
) -> tuple[TrajectoryState, PerChain, TrajectoryInfo]:
    """One trajectory of one chain, from which it learns while it warms up."""
    key_steps, key_move = jax.random.split(key)
    step_size = state.adapt.step_size
    steps = draw_num_steps(jax.random.uniform(key_steps, (2,)), step_size, state.length, settings.most_steps)
    new, info = trajectory_move(
        key_move, point, value_and_score, _metric(state.adapt), step_size, steps, dynamics, integrator
    )
    _, update = _adapter(num_warmup, settings)
    adapt = jax.lax.cond(
        iteration < state.num_warmup,
        lambda adapt: update(iteration, info.accept_prob, _as_numpyro(new), adapt),
        lambda adapt: adapt,
        state.adapt,
    )
    return new, state._replace(adapt=adapt), info


class StepOfChains(NamedTuple):
    """One iteration of one chain, in the coordinates of the model as written; made for `vmap` over chains.

    Attributes:
        coordinates: of the moves.
        num_warmup: iterations of the warm-up.
        settings: what is adapted.
        dynamics: how a velocity is drawn and kicked.
        integrator: the splitting of a step.
    """

    coordinates: MoveCoordinates
    num_warmup: int
    settings: PerChainSettings
    dynamics: Dynamics
    integrator: Integrator

    def __call__(self, key: Any, iteration: Any, z: Any, energy: Any, gradient: Any, adapt: PerChain):
        """The new `(z, U(z), grad U(z))`, the adaptation, and what happened."""
        everywhere = jnp.ones(())  # the centredness of sites as they are written
        point = self.coordinates.inside(z, energy, gradient, everywhere)
        density = self.coordinates.value_and_score(everywhere)
        new, adapt, info = adapted_step(
            key,
            iteration,
            point,
            adapt,
            density,
            self.num_warmup,
            self.settings,
            self.dynamics,
            self.integrator,
        )
        return self.coordinates.outside(new, everywhere), adapt, info
