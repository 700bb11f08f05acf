"""The state of the adaptation, its settings, and the choice of the next move."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from qdesampler.kernels.adaptation.imaginary_time import Solve, begin_solve, memory, refine_size, round_size
from qdesampler.kernels.adaptation.schedule import (
    REFINING_ROWS,
    Row,
    WarmupPlanSettings,
    has,
    make_warmup_plan,
)
from qdesampler.kernels.adaptation.trajectory_length import (
    LENGTH_GRID,
    START_INDEX,
    LengthSearch,
    next_index,
    start_length_search,
)
from qdesampler.kernels.mcmc.dual_averaging import DualAveraging, start_averaging
from qdesampler.kernels.mcmc.mixture import DESCENT, GLOBAL, LOCAL, FitWindow, empty_window
from qdesampler.kernels.mcmc.trajectory import TrajectoryState
from qdesampler.numerics.metric import Metric
from qdesampler.numerics.trial import Trial, gaussian_trial

__all__ = [
    "POOLED_ROWS",
    "Adaptation",
    "AdaptationSettings",
    "Coordinates",
    "NextMove",
    "StartCoordinates",
    "choose_move",
    "current_flags",
    "start_adaptation",
]

POOLED_ROWS = 1024  # points kept for a fit, over all chains
_MEASURED_PROBABILITY = 0.25  # of a global move in the rows that measure a trial beside local moves
_MEASURED_PROPOSALS = 8  # of each of these global moves


class AdaptationSettings(NamedTuple):
    """What is adapted and how: plain Python values, fixed for the life of a kernel.

    Attributes:
        adapt_step_size: whether the step size is adapted.
        adapt_metric: whether the metric is adapted.
        search_step_size: whether to double or halve the step size at every restart before averaging.
        regularize: whether metric estimates from few draws have a floor.
        blocks: index groups with correlations inside; empty for a diagonal metric.
        block_rank: most correlated directions per block.
        force_blocks: whether these blocks are the user's, so that the gain test does not apply to them.
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
    """All that the warm-up adapts; shared by all chains of a batch.

    Attributes:
        step_size: in use now.
        target_accept_prob: acceptance that the step size aims at.
        length: mean trajectory length in use outside the search, whitened units.
        metric: in use now by local moves.
        trial: in use now by global moves.
        global_probability: probability that an iteration makes a global move, once frozen.
        proposals: proposals of a global move, once frozen.
        centredness: of each coordinate, shape `(dim,)`; 1 is the model as written.
        proposal_widths: least width of each coordinate's proposals during the solve, shape `(dim,)`.
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
    global_probability: jax.Array
    proposals: jax.Array
    centredness: jax.Array
    proposal_widths: jax.Array
    averaging: DualAveraging
    chain_accept: jax.Array
    centre: jax.Array
    window: FitWindow
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
        centredness: jax.Array,
        draws: jax.Array,
        scores: jax.Array,
        weights: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """New centredness that suits weighted points, and the points and scores in the new coordinates."""
        ...


class StartCoordinates(NamedTuple):
    """The coordinates of the moves before the first iteration.

    Attributes:
        centredness: of each coordinate, shape `(dim,)`; ones if left out.
        proposal_widths: least width of each coordinate's proposals during the solve, shape `(dim,)`; ones if
            left out.
        descent_starts: where descents begin instead of at the chains' positions, shape `(chains, dim)`.
    """

    centredness: jax.Array | None = None
    proposal_widths: jax.Array | None = None
    descent_starts: jax.Array | None = None


AS_WRITTEN = StartCoordinates()


class NextMove(NamedTuple):
    """What all chains do in an iteration.

    Attributes:
        kind: `LOCAL`, `GLOBAL` or `DESCENT`.
        length: mean trajectory length of a local move.
        steps_limit: longest trajectory.
        evaluations: proposals of a global move, or points of a descent.
        record: whether points are recorded in the window.
        forget: whether the first proposal is accepted unconditionally.
    """

    kind: jax.Array
    length: jax.Array
    steps_limit: jax.Array
    evaluations: jax.Array
    record: jax.Array
    forget: jax.Array


def _window_rows(settings: AdaptationSettings, num_warmup: int, chains: int, dim: int) -> int:
    """Rows of each chain's window."""
    rows = max(1, min(num_warmup, -(-POOLED_ROWS // chains))) if settings.adapt_metric else 1
    if settings.solve:
        refinement = REFINING_ROWS * refine_size(dim, chains)
        rows = max(rows, max(2 * round_size(dim, chains), 2 * memory(dim), refinement))
    return rows


def start_adaptation(
    settings: AdaptationSettings,
    metric: Metric,
    first: TrajectoryState,
    num_warmup: int,
    coordinates: StartCoordinates = AS_WRITTEN,
    *,
    step_size: float | jax.Array = 1.0,
    target_accept_prob: float | jax.Array = 0.9,
    length: float | jax.Array = LENGTH_GRID[START_INDEX],
) -> Adaptation:
    """State before the first iteration.

    Args:
        settings: what is adapted.
        metric: the first metric; its rank must be `settings.rank`.
        first: where the chains start, evaluated, chains leading.
        num_warmup: iterations of the warm-up.
        coordinates: the coordinates of `first`.
        step_size: first step size, whitened units.
        target_accept_prob: acceptance that the step size aims at, in (0, 1).
        length: first mean trajectory length, whitened units.
    """
    chains, dim = first.position.shape
    dtype = jnp.result_type(float)
    centredness, widths, descent_starts = coordinates
    rows = _window_rows(settings, num_warmup, chains, dim)
    plan = make_warmup_plan(
        num_warmup,
        WarmupPlanSettings(
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
        global_probability=jnp.zeros((), dtype),
        proposals=jnp.ones((), int),
        centredness=jnp.ones((dim,), dtype) if centredness is None else centredness,
        proposal_widths=jnp.ones((dim,), dtype) if widths is None else widths,
        averaging=start_averaging(step, search=settings.search_step_size),
        chain_accept=jnp.full((chains,), target_accept_prob, dtype),
        centre=jnp.zeros((dim,), dtype),
        window=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (chains, *leaf.shape)), one),
        count=jnp.zeros((), int),
        search=start_length_search(dim),
        solve=begin_solve(first, descent_starts, centredness, solve=plan.rounds > 0),
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
) -> NextMove:
    """What this iteration does, by a uniform draw on (0, 1); depends on no position of a frozen chain."""
    flags, row = current_flags(state, iteration)
    grid = jnp.asarray(LENGTH_GRID, state.length.dtype)
    length = jnp.where(has(flags, Row.SEARCH), grid[next_index(state.search)], state.length)
    recording = has(flags, Row.RECORD)
    never = jnp.zeros((), bool)
    if not settings.solve:
        kind = jnp.asarray(LOCAL, int)
        return NextMove(kind, length, state.steps_limit[row], kind, recording, never)
    chains, _, dim = state.window.draws.shape
    measuring = has(flags, Row.MEASURE)
    probability = jnp.where(
        flags == 0, state.global_probability, jnp.where(measuring, _MEASURED_PROBABILITY, 0)
    )
    going_global = has(flags, Row.ROUND | Row.REFINE | Row.REST) | (unit < probability)
    kind = jnp.where(has(flags, Row.DESCEND), DESCENT, jnp.where(going_global, GLOBAL, LOCAL))
    evaluations = jnp.select(
        [
            has(flags, Row.DESCEND),
            has(flags, Row.ROUND),
            has(flags, Row.REFINE),
            has(flags, Row.REST),
            measuring,
        ],
        [
            state.sections.descent_stages,
            round_size(dim, chains),
            refine_size(dim, chains),
            0,
            _MEASURED_PROPOSALS,
        ],
        state.proposals,
    )
    record = recording & ((kind == GLOBAL) | ~measuring)
    # After the warm-up a move never accepts unconditionally, however the warm-up ended.
    forget = state.solve.forget & (flags != 0)
    return NextMove(kind.astype(int), length, state.steps_limit[row], evaluations.astype(int), record, forget)
