r"""The imaginary-time solve inside a warm-up: from descents to a trial whose quality is measured.

1. *Descents* (`D -> 0`) from several starts. Their secants give the first covariance, the best end the first
   centre.
2. *Rounds*: proposals are drawn from the trial, scored, and the trial makes one closed-form step of
   imaginary time (`qdesampler.numerics.trial`). The proposals move the chains as well. Before every step
   they measure the trial that drew them: its acceptance and autocorrelation time as an independence
   proposal. That certificate decides whether the trial is solved, middling, or hopeless.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.kernels.mcmc.trajectory import TrajectoryState
from qdesampler.numerics.lbfgs import Descent, start_descent
from qdesampler.numerics.metric import whiten
from qdesampler.numerics.trial import Trial

__all__ = [
    "CLEAR",
    "DEFENSIVE_WEIGHT",
    "DEFENSIVE_WEIGHT_SOLVED",
    "HOPELESS",
    "INFORMATIVE",
    "MIDDLING",
    "NOT_TRIED",
    "OUTCOMES",
    "SKEW_VISIBLE",
    "SOLVED",
    "UNBOUNDED",
    "UNCLEAR",
    "UNFINISHED",
    "DescentEnd",
    "Solve",
    "after_descents",
    "after_round",
    "begin_solve",
    "best_end",
    "global_evaluation_fraction",
    "observed_time",
    "proposals_per_move",
    "restarted",
    "runs_away",
]

NOT_TRIED, UNFINISHED, SOLVED, MIDDLING, HOPELESS, UNBOUNDED = range(6)  # outcomes of a solve

# The outcomes in words.
OUTCOMES = ("not tried", "unfinished", "solved", "middling", "hopeless", "no normalisable ground state")

DESCENTS = 4  # least number of descents, over all chains
_MEMORY = 16  # most pairs that a descent remembers
_SMALLEST_ROUND, _LARGEST_ROUND = 16, 256  # proposals of a round, over all chains
_SMALLEST_REFINEMENT, _LARGEST_REFINEMENT = 48, 300  # proposals of the refinement's fit, over all chains
_GOOD_TIME = 1.75  # autocorrelation time, in proposals, at which a trial is solved
_BETTER = 0.85  # relative autocorrelation time below which a trial is better than the best before
CLEAR = 0.8  # acceptance from which local moves hardly matter, so that their step size need not be tuned
UNCLEAR = 0.7  # acceptance that the few proposals of a round must show for the same
_USABLE = 0.15  # acceptance below which a trial is hopeless
INFORMATIVE = 0.08  # acceptance from which the weights of proposals show more than the place of the bulk
SKEW_VISIBLE = 0.25  # acceptance from which the weights of proposals show the skew of the posterior
_UNUSABLE = 0.03  # acceptance below which a trial is given up after `_FIRST_LOOK` rounds
_PATIENCE = 3  # rounds without a better trial after which the rounds end
_PATIENT_ROWS = 20  # iterations of descents before the last chains are no longer waited for
_FIRST_LOOK = 16  # rounds after which a trial may be given up
_RISE = 2.0  # nats a round by which an evidence bound counts as rising
DEFENSIVE_WEIGHT = 0.1  # fraction of the proposals with far tails
DEFENSIVE_WEIGHT_SOLVED = 0.02  # the same where the trial is solved and clear
_TOO_LOW = 1e5  # nats below the present point from which a start is not returned to
_LOST = 1e12  # absolute value of a coordinate beyond which a point has run away
_SKY = 1e20  # log density beyond which a point has run away
_FAR, _FAR_OFFSET = (
    4,
    30,
)  # squared whitened distance `4 dim + 30` beyond which the end of a descent is outside
_MATTERS = 10  # nats: an end lower than the highest by more than `dim + 10` does not count
_SQUARE = 2  # half side of the box of the further starts
_LEAST_FRACTION, _MOST_FRACTION = 0.05, 0.95  # bounds of the fraction of evaluations for global moves
_MOST_PROPOSALS = 8  # of one global move
_UNKNOWN_TIME = 16  # autocorrelation time assumed for a trial without one
_NEVER = 1 << 20  # a row that no plan reaches


class DescentEnd(NamedTuple):
    """The end of a descent: position, shape `(dim,)`, and log density."""

    position: jax.Array
    log_density: jax.Array


class Solve(NamedTuple):
    """How far the solve is.

    Attributes:
        outcome: one of the codes of this module.
        descent: the running descent of every chain, chains leading.
        best: the best end of each chain's descents so far, chains leading.
        tries: descents that each chain still has to make after this one.
        forget: whether chains accept their next proposal unconditionally.
        origin: the evaluated starts of the chains in the coordinates of `origin_centredness`, chains leading.
        origin_centredness: centredness of each coordinate at the start, shape `(dim,)`.
        restart: whether the chains return to their starts before their next move.
        rounds: rounds so far.
        since: rounds since the trial last became better.
        best_time: smallest autocorrelation time measured so far.
        best_bound: highest evidence bound `E_q [log p - log q]` so far; a trial is not solved while it rises.
        proposals: number of proposals to each chain since the refinement began.
        accepted: sum of their acceptance probabilities, shape `(chains,)`.
        acceptance: acceptance measured last.
        half: row of the plan at which half of the chains had arrived; large before.
        outliers: number of chains whose descent ended far outside the trial, perhaps in other modes.
    """

    outcome: jax.Array
    descent: Descent
    best: DescentEnd
    tries: jax.Array
    forget: jax.Array
    origin: TrajectoryState
    origin_centredness: jax.Array
    restart: jax.Array
    rounds: jax.Array
    since: jax.Array
    best_time: jax.Array
    best_bound: jax.Array
    proposals: jax.Array
    accepted: jax.Array
    acceptance: jax.Array
    half: jax.Array
    outliers: jax.Array


def memory(dim: int) -> int:
    """Number of pairs that a descent remembers."""
    return min(dim + 2, _MEMORY)


def round_size(dim: int, chains: int) -> int:
    """Proposals of one round for each chain."""
    return -(-min(max(_SMALLEST_ROUND, 2 * dim), _LARGEST_ROUND) // chains)


def refine_size(dim: int, chains: int) -> int:
    """Proposals of one refining iteration for each chain."""
    return -(-max(_SMALLEST_REFINEMENT, min(3 * dim, _LARGEST_REFINEMENT)) // (6 * chains))


def unevaluated(position: jax.Array, pairs: int) -> Descent:
    """A descent whose next point is its start."""
    return start_descent(position, jnp.full((), -jnp.inf, position.dtype), jnp.zeros_like(position), pairs)


def begin_solve(
    first: TrajectoryState,
    starts: jax.Array | None = None,
    centredness: jax.Array | None = None,
    *,
    solve: bool,
) -> Solve:
    """A solve whose descents start at the chains' evaluated points, or at other positions.

    Args:
        first: the chains' points, chains leading.
        starts: where the descents start instead, shape `(chains, dim)`, not evaluated.
        centredness: of the coordinates, shape `(dim,)`; ones if left out.
        solve: whether there will be descents at all.
    """
    chains, dim = first.position.shape
    pairs = memory(dim) if solve else 1
    if starts is None:
        descent = jax.vmap(lambda x, v, s: start_descent(x, v, s, pairs))(*first)
    else:
        descent = jax.vmap(lambda x: unevaluated(x, pairs))(starts)
    dtype = first.position.dtype
    return Solve(
        outcome=jnp.asarray(UNFINISHED if solve else NOT_TRIED, int),
        descent=descent,
        best=DescentEnd(first.position, jnp.full((chains,), -jnp.inf, dtype)),
        tries=jnp.asarray(-(-DESCENTS // chains) - 1, int),
        forget=jnp.zeros((), bool),
        origin=first,
        origin_centredness=jnp.ones((dim,), dtype) if centredness is None else centredness,
        restart=jnp.zeros((), bool),
        rounds=jnp.zeros((), int),
        since=jnp.zeros((), int),
        best_time=jnp.asarray(jnp.inf, dtype),
        best_bound=jnp.asarray(-jnp.inf, dtype),
        proposals=jnp.zeros((), int),
        accepted=jnp.zeros((chains,), dtype),
        acceptance=jnp.zeros((), dtype),
        half=jnp.asarray(_NEVER, int),
        outliers=jnp.zeros((), int),
    )


def _steps_of_kronecker(dim: int, dtype: Any) -> jax.Array:
    """Fractional parts of square roots of square-free numbers, shape `(dim,)`: rationally independent."""
    numbers = np.arange(2, 4 * dim + 8)
    free = np.all(numbers[:, None] % np.arange(2, 2 + int(numbers[-1] ** 0.5))[None, :] ** 2 != 0, axis=1)
    return jnp.asarray(np.sqrt(numbers[free][:dim]) % 1, dtype)


def after_descents(solve: Solve, iteration: jax.Array, row: jax.Array) -> tuple[Solve, jax.Array]:
    """Keep each chain's best end, and start further descents if there are any; returns whether all are done.

    The last chains are waited for until 1.5 times the iterations that half of the chains needed.
    """
    descent, (position, log_density) = solve.descent, solve.best
    chains, dim = position.shape
    better = descent.log_density > log_density
    best = DescentEnd(
        jnp.where(better[:, None], descent.position, position),
        jnp.where(better, descent.log_density, log_density),
    )
    half = jnp.where(2 * jnp.sum(descent.arrived) >= chains, jnp.minimum(solve.half, row), solve.half)
    arrived = jnp.all(descent.arrived) | ((2 * (row - half) > half) & (row > _PATIENT_ROWS))
    again = arrived & (solve.tries > 0)
    # Further descents start at points of a Kronecker sequence, which needs no key and fills a box evenly.
    order = (iteration + 1) * chains + jnp.arange(chains)
    points = 2 * _SQUARE * ((order[:, None] * _steps_of_kronecker(dim, position.dtype)) % 1) - _SQUARE
    new_descent = jax.vmap(lambda x: unevaluated(x, descent.steps.shape[1]))(points)
    started = jax.tree.map(
        lambda new, old: jnp.where(again, new.astype(old.dtype), old), new_descent, descent
    )
    solve = solve._replace(
        descent=started,
        best=best,
        tries=jnp.where(again, solve.tries - 1, solve.tries),
        half=jnp.where(again, _NEVER, half).astype(solve.half.dtype),
    )
    return solve, arrived & ~again


def runs_away(positions: jax.Array) -> jax.Array:
    """Whether each of these positions, shape `(chains, dim)`, has run away, shape `(chains,)`."""
    return ~jnp.all(jnp.abs(positions) < _LOST, axis=1)


def best_end(solve: Solve) -> tuple[jax.Array, jax.Array]:
    """The highest end of all descents, shape `(dim,)`, and whether it has run away."""
    position, log_density = solve.best
    runaway = runs_away(position) | (log_density > _SKY)
    usable = jnp.isfinite(log_density) & ~runaway
    index = jnp.argmax(jnp.where(usable, log_density, -jnp.inf))
    # A single descent that ran away to above every end means that the density rises without end.
    spoiled = jnp.any(runaway & ~(log_density <= log_density[index]))
    return position[index], ~usable[index] | spoiled


def count_outliers(solve: Solve, trial: Trial) -> jax.Array:
    """Number of chains whose best end is outside the trial's bulk, and high enough for its mode to matter."""
    dim = trial.centre.size
    height = solve.best.log_density
    radius = jax.vmap(lambda x: jnp.sum(whiten(trial.metric, x - trial.centre) ** 2))(solve.best.position)
    return jnp.sum((radius > _FAR * dim + _FAR_OFFSET) & (height > jnp.max(height) - dim - _MATTERS))


def after_round(
    solve: Solve, time: jax.Array, acceptance: jax.Array, bound: jax.Array, last: jax.Array
) -> Solve:
    """Judge the trial that drew the last round.

    Args:
        solve: the solve.
        time: the trial's autocorrelation time as an independence proposal.
        acceptance: its acceptance.
        bound: median of its log weights, in the place of the evidence bound.
        last: whether this was the last round of the plan.
    """
    rising = bound > solve.best_bound + _RISE
    better = (time < _BETTER * solve.best_time) | rising
    rounds = solve.rounds + 1
    since = jnp.where(better, 0, solve.since + 1)
    best = jnp.minimum(time, solve.best_time)
    hopeful = acceptance >= _USABLE
    solved = (time <= _GOOD_TIME) & (rounds > 1) & ~(rising & (rounds > 2))
    stale = (since >= _PATIENCE) & hopeful
    given_up = (rounds >= _FIRST_LOOK) & (acceptance < _UNUSABLE)
    outcome = jnp.where(
        solved,
        SOLVED,
        jnp.where(stale | (last & hopeful), MIDDLING, jnp.where(given_up | last, HOPELESS, UNFINISHED)),
    )
    return solve._replace(
        outcome=outcome.astype(solve.outcome.dtype),
        rounds=rounds,
        since=since,
        best_time=best,
        best_bound=jnp.maximum(bound, solve.best_bound),
        acceptance=acceptance,
    )


def restarted(restart: jax.Array, origin: TrajectoryState, here: TrajectoryState) -> TrajectoryState:
    """The chain back at its start, because a failed solve may have left it in a spike without mass.

    It does not return to a start with so low a density that no step size would work there.
    """
    back = restart & (origin.log_density > here.log_density - _TOO_LOW)
    return jax.tree.map(lambda old, new: jnp.where(back, old, new), origin, here)


def observed_time(solve: Solve, acceptance: jax.Array) -> jax.Array:
    """Autocorrelation time that the chains had under global moves: `mean 2 / alpha - 1`.

    The acceptance `alpha` of a chain is shrunk towards `acceptance`, as if one more proposal had shown it.
    """
    alpha = (solve.accepted + acceptance) / (solve.proposals + 1)
    return jnp.mean(2 / jnp.maximum(alpha, 1e-6) - 1)


def global_evaluation_fraction(global_time: jax.Array, local_cost: jax.Array) -> jax.Array:
    """Fraction of the evaluations that global moves get.

    Both kinds are measured in evaluations per effective draw, and the fractions are in proportion to the
    squares of their efficiencies. Both kinds are always used, because each solves a problem of the other: a
    chain that is held at a point where `p / q` is large leaves it by local moves, a chain that cannot travel
    locally travels by global ones. A few proposals do not show the largest weights, so the global time is
    squared.
    """
    good, other = 1 / jnp.maximum(global_time, 1) ** 2, 1 / jnp.maximum(local_cost, 1)
    fraction = jnp.clip(good**2 / (good**2 + other**2), _LEAST_FRACTION, _MOST_FRACTION)
    return jnp.where(jnp.isfinite(global_time), fraction, 0)


def proposals_per_move(global_time: jax.Array) -> jax.Array:
    """Proposals of one global move: half of the number that makes one effective draw, at most 8."""
    time = jnp.where(jnp.isfinite(global_time), global_time, _UNKNOWN_TIME)
    return jnp.clip(jnp.round(time / 2), 1, _MOST_PROPOSALS).astype(int)
