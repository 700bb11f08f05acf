r"""One iteration of QDE as a pure function: a move of every chain, then one update of what they share.

`qde_step` knows no model. It needs `x -> (log p(x), grad log p(x))` in the coordinates of the moves, the
current points, and an `Adaptation` (`qdesampler.kernels.adaptation.state.start_adaptation`). What is done,
and how often, does not depend on any position: all chains of a batch make moves of the same kind and cost.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.adaptation.imaginary_time import restarted
from qdesampler.kernels.adaptation.state import Adaptation, AdaptationSettings, Coordinates, choose_move
from qdesampler.kernels.adaptation.update import MoveResult, adapt
from qdesampler.kernels.mcmc.integrators import Dynamics, Integrator
from qdesampler.kernels.mcmc.mixture import LOCAL, MixtureInfo, MovePlan, Recorder, mixture_move
from qdesampler.kernels.mcmc.trajectory import Scheme, TrajectoryState, draw_num_steps
from qdesampler.numerics.types import ValueAndScore

__all__ = ["StepSettings", "qde_step"]


class StepSettings(NamedTuple):
    """Settings of an iteration: Python values, fixed for the life of a kernel.

    Attributes:
        adaptation: what is adapted.
        dynamics: how a velocity is drawn and kicked.
        integrator: the splitting of a step.
    """

    adaptation: AdaptationSettings
    dynamics: Dynamics
    integrator: Integrator


def qde_step(
    key_shared: jax.Array,
    key_moves: jax.Array,
    points: TrajectoryState,
    adaptation: Adaptation,
    iteration: jax.Array,
    value_and_score: ValueAndScore,
    settings: StepSettings,
    coordinates: Coordinates | None = None,
) -> tuple[TrajectoryState, Adaptation, MixtureInfo]:
    """One iteration of one chain, or of a batch of chains in step.

    Args:
        key_shared: key of what all chains do alike.
        key_moves: key of the move; of a batch one key for each chain.
        points: the evaluated points; of a batch with chains leading.
        adaptation: what the chains share; always with chains leading, a single chain too.
        iteration: index of this iteration, from 0.
        value_and_score: `x -> (log p(x), grad log p(x))`, for one point.
        settings: fixed settings.
        coordinates: how to re-centre the coordinates of the moves; None if they cannot be re-centred. The
            points that are returned are in the coordinates of the `adaptation` given.

    Returns:
        The new points, the new adaptation, and what happened (of a batch with chains leading).
    """
    batched = points.position.ndim == 2
    units = jax.random.uniform(key_shared, (3,))
    choice = choose_move(settings.adaptation, adaptation, units[2], iteration)
    integrator = settings.integrator
    steps = draw_num_steps(units[:2], adaptation.step_size, choice.length, choice.steps_limit)
    total = jnp.where(choice.kind == LOCAL, steps * integrator.stages, choice.evaluations)
    scheme = Scheme(adaptation.metric, adaptation.step_size, steps, settings.dynamics, integrator)
    plan = MovePlan(choice.kind, total, choice.forget)

    def move(key, here, descent, window, origin):
        here = restarted(adaptation.solve.restart, origin, here)
        recorder = Recorder(window, adaptation.count, choice.record)
        new, descent, window, info = mixture_move(
            key, here, value_and_score, plan, scheme, adaptation.trial, descent, recorder
        )
        return here.position, new, descent, window, info

    own = (adaptation.solve.descent, adaptation.window, adaptation.solve.origin)
    if not batched:
        own = jax.tree.map(lambda leaf: leaf[0], own)
    before, new, descent, window, info = (jax.vmap(move) if batched else move)(key_moves, points, *own)

    def rows(tree):
        return tree if batched else jax.tree.map(lambda leaf: leaf[None], tree)

    descent, window = rows((descent, window))
    adaptation = adapt(
        settings.adaptation,
        adaptation._replace(solve=adaptation.solve._replace(descent=descent), window=window),
        iteration,
        choice,
        rows(MoveResult(before, new.position, info.accept_prob, info.num_evals)),
        coordinates,
    )
    return new, adaptation, info
