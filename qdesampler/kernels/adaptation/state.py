"""What a warm-up knows, what it is asked to adapt, and what it has all chains do next."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from qdesampler.kernels.adaptation.imaginary_time import Solve, begin_solve, memory, refine_size, round_size
from qdesampler.kernels.adaptation.schedule import (
    DESCEND,
    MEASURE,
    RECORD,
    REFINE,
    REST,
    ROUND,
    SEARCH,
    PlanSettings,
    make_plan,
)
from qdesampler.kernels.adaptation.trajectory_length import (
    LADDER,
    START,
    LengthSearch,
    candidate,
    start_length_search,
)
from qdesampler.kernels.mcmc.dual_averaging import DualAveraging, start_averaging
from qdesampler.kernels.mcmc.mixture import DESCENT, GLOBAL, LOCAL, Window, empty_window
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.trial import Trial, gaussian_trial

__all__ = [
    "POOLED_ROWS",
    "Adaptation",
    "AdaptationSettings",
    "Choice",
    "Coordinates",
    "choose_move",
    "current_flags",
    "start_adaptation",
]

POOLED_ROWS = 1024  # points kept for a fit, over all chains
_MEASURED_SHARE = 0.25  # of the iterations that measure a trial beside local moves
_MEASURED_CANDIDATES = 8


class AdaptationSettings(NamedTuple):
    """What is adapted and how: plain Python values, fixed for the life of a kernel.

    Attributes:
        adapt_step_size: whether the step size moves at all.
        adapt_metric: whether the metric does.
        search_step_size: double or halve the step size at every restart before averaging.
        regularize: floor for metric estimates from few draws.
        blocks: index groups correlated within; empty for a diagonal metric.
        block_rank: most correlated directions per block.
        force_blocks: the user asked for these blocks: skip the gain test between diagonal and correlated.
        search_length: whether the trajectory length is searched for.
        max_steps: most steps of a trajectory (warm-up, sampling).
        solve: whether the imaginary-time solve is tried, and global moves are made from its trial.
    """

    adapt_step_size: bool = True
    adapt_metric: bool = True
    search_step_size: bool = False
    regularize: bool = True
    blocks: tuple[tuple[int, ...], ...] = ()
    block_rank: int = 0
    force_blocks: bool = False
    search_length: bool = True
    max_steps: tuple[int, int] = (1023, 1023)
    solve: bool = False

    @property
    def rank(self) -> int:
        """Columns of the metric's basis."""
        return sum(min(self.block_rank, len(block)) for block in self.blocks)


class Sections(NamedTuple):
    """First rows of the plan's sections, and the evaluations of a descent in one iteration."""

    rounds: jax.Array
    local: jax.Array
    tune: jax.Array
    refine: jax.Array
    rest: jax.Array
    descent_stages: jax.Array


class Adaptation(NamedTuple):
    """Everything the warm-up knows; shared by all chains of a batch.

    Attributes:
        step_size: in use now.
        target_accept_prob: acceptance that the step size aims at.
        length: mean trajectory length in use outside the search, whitened units.
        metric: in use now by local moves.
        trial: in use now by global moves.
        share: probability that an iteration makes a global move, once frozen.
        candidates: candidates of a global move, once frozen.
        fractions: centredness of each coordinate, shape `(dim,)`; 1 is the model as written.
        wide: spread of each coordinate's candidates while the trial is sought, shape `(dim,)`.
        averaging: the step-size search.
        chain_accept: recent acceptance of each chain, shape `(chains,)`.
        centre: running mean of the positions, shape `(dim,)`.
        window: points for the next fit, chains leading.
        count: points recorded in each chain's window.
        search: the trajectory-length search.
        solve: the imaginary-time solve.
        row: row of the plan that the next iteration of the warm-up follows.
        num_warmup: iterations of the warm-up.
        plan: one flag word a row; the last is zero, "frozen".
        steps_limit: longest trajectory by row, same shape.
        sections: where the plan's sections begin.
    """

    step_size: jax.Array
    target_accept_prob: jax.Array
    length: jax.Array
    metric: Metric
    trial: Trial
    share: jax.Array
    candidates: jax.Array
    fractions: jax.Array
    wide: jax.Array
    averaging: DualAveraging
    chain_accept: jax.Array
    centre: jax.Array
    window: Window
    count: jax.Array
    search: LengthSearch
    solve: Solve
    row: jax.Array
    num_warmup: jax.Array
    plan: jax.Array
    steps_limit: jax.Array
    sections: Sections


class Coordinates(Protocol):
    """Coordinates of the moves that can be re-centred (`qdesampler.infer.model.centering`)."""

    @property
    def dynamic(self) -> list[jax.Array]:
        """Traced arrays that `recentre` needs."""
        ...

    def recentre(
        self,
        dynamic: list[jax.Array],
        fractions: jax.Array,
        draws: jax.Array,
        scores: jax.Array,
        weights: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """New fractions that suit weighted points, and the points and scores in the new coordinates."""
        ...


class Choice(NamedTuple):
    """What all chains do in an iteration.

    Attributes:
        kind: `LOCAL`, `GLOBAL` or `DESCENT`.
        length: mean trajectory length of a local move.
        steps_limit: longest trajectory.
        evaluations: candidates of a global move, or points of a descent.
        record: whether points are recorded in the window.
        forget: whether the first candidate is taken whatever it is.
    """

    kind: jax.Array
    length: jax.Array
    steps_limit: jax.Array
    evaluations: jax.Array
    record: jax.Array
    forget: jax.Array


def start_adaptation(
    settings: AdaptationSettings,
    metric: Metric,
    positions: jax.Array,
    log_densities: jax.Array,
    scores: jax.Array,
    num_warmup: int,
    *,
    fractions: jax.Array | None = None,
    wide: jax.Array | None = None,
    descent_starts: jax.Array | None = None,
    step_size: float | jax.Array = 1.0,
    target_accept_prob: float | jax.Array = 0.9,
    length: float | jax.Array = LADDER[START],
) -> Adaptation:
    """State before the first iteration.

    Args:
        settings: what is adapted.
        metric: the first metric; its rank must be `settings.rank`.
        positions: where the chains start, shape `(chains, dim)`.
        log_densities: `log p` there, shape `(chains,)`.
        scores: `grad log p` there, shape `(chains, dim)`.
        num_warmup: iterations of the warm-up.
        fractions: centredness of each coordinate, shape `(dim,)`; ones if left out.
        wide: spread of each coordinate's candidates while the trial is sought, shape `(dim,)`; ones if left
            out.
        descent_starts: where descents begin instead of at `positions`, same shape.
        step_size: first step size, whitened units.
        target_accept_prob: acceptance that the step size aims at, in (0, 1).
        length: first mean trajectory length, whitened units.
    """
    chains, dim = positions.shape
    dtype = jnp.result_type(float)
    rows = max(1, min(num_warmup, -(-POOLED_ROWS // chains))) if settings.adapt_metric else 1
    if settings.solve:
        least = max(2 * round_size(dim, chains), 2 * memory(dim), 12 * refine_size(dim, chains))
        rows = max(rows, least)
    plan = make_plan(
        num_warmup,
        PlanSettings(
            settings.solve, settings.adapt_metric, settings.search_length, settings.max_steps, chains
        ),
    )
    step = jnp.asarray(step_size, dtype)
    one = empty_window(rows, dim)
    sections = (plan.rounds, plan.local, plan.tune, plan.refine, plan.rest, plan.descent_stages)
    return Adaptation(
        step_size=step,
        target_accept_prob=jnp.asarray(target_accept_prob, dtype),
        length=jnp.asarray(length, dtype),
        metric=metric,
        trial=gaussian_trial(jnp.zeros((dim,), dtype), metric),
        share=jnp.zeros((), dtype),
        candidates=jnp.ones((), int),
        fractions=jnp.ones((dim,), dtype) if fractions is None else fractions,
        wide=jnp.ones((dim,), dtype) if wide is None else wide,
        averaging=start_averaging(step, settings.search_step_size),
        chain_accept=jnp.full((chains,), target_accept_prob, dtype),
        centre=jnp.zeros((dim,), dtype),
        window=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (chains, *leaf.shape)), one),
        count=jnp.zeros((), int),
        search=start_length_search(dim),
        solve=begin_solve(positions, log_densities, scores, plan.rounds > 0, descent_starts, fractions),
        row=jnp.zeros((), int),
        num_warmup=jnp.asarray(num_warmup, int),
        plan=jnp.asarray(plan.flags),
        steps_limit=jnp.asarray(plan.steps_limit),
        sections=Sections(*(jnp.asarray(row, int) for row in sections)),
    )


def current_flags(state: Adaptation, iteration: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Flags and row of this iteration: the last row once the warm-up is over."""
    row = jnp.where(iteration < state.num_warmup, state.row, state.plan.size - 1)
    return state.plan[row], row


def choose_move(
    settings: AdaptationSettings, state: Adaptation, unit: jax.Array, iteration: jax.Array
) -> Choice:
    """What this iteration does, by a uniform draw on (0, 1); depends on no position of a frozen chain."""
    flags, row = current_flags(state, iteration)
    searching = (flags & SEARCH) != 0
    ladder = jnp.asarray(LADDER, state.length.dtype)
    length = jnp.where(searching, ladder[candidate(state.search)], state.length)
    recording = (flags & RECORD) != 0
    never = jnp.zeros((), bool)
    if not settings.solve:
        kind = jnp.asarray(LOCAL, int)
        return Choice(kind, length, state.steps_limit[row], kind, recording, never)
    chains, _, dim = state.window.draws.shape
    measuring = (flags & MEASURE) != 0
    chance = jnp.where(flags == 0, state.share, jnp.where(measuring, _MEASURED_SHARE, 0))
    proposing = (flags & (ROUND | REFINE | REST)) != 0
    going_global = proposing | (unit < chance)
    kind = jnp.where((flags & DESCEND) != 0, DESCENT, jnp.where(going_global, GLOBAL, LOCAL))
    evaluations = jnp.select(
        [
            (flags & DESCEND) != 0,
            (flags & ROUND) != 0,
            (flags & REFINE) != 0,
            (flags & REST) != 0,
            measuring,
        ],
        [
            state.sections.descent_stages,
            round_size(dim, chains),
            refine_size(dim, chains),
            0,
            _MEASURED_CANDIDATES,
        ],
        state.candidates,
    )
    record = recording & ((kind == GLOBAL) | ~measuring)
    # A kept draw forgets nothing, however the warm-up ended.
    forget = state.solve.fresh & (flags != 0)
    return Choice(kind.astype(int), length, state.steps_limit[row], evaluations.astype(int), record, forget)
