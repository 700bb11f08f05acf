r"""The imaginary-time solve inside a warm-up: from descents to a trial whose quality is measured.

1. *Descents* (`D -> 0`) from several starts. Their secants give the first covariance, the best end the first
   centre.
2. *Rounds*: candidates are drawn from the trial, scored, and the trial takes one closed-form step of
   imaginary time (`qdesampler.numerics.trial`). The candidates move the chains as well. Before every step
   they tell how well the trial that drew them does: its acceptance and autocorrelation time as an
   independence proposal. That certificate decides: solved, middling, or hopeless.
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
    "HOPELESS",
    "MIDDLING",
    "NOT_TRIED",
    "OUTCOMES",
    "SOLVED",
    "UNBOUNDED",
    "UNCLEAR",
    "UNFINISHED",
    "Solve",
    "after_descents",
    "after_round",
    "begin_solve",
    "best_end",
    "candidates_wanted",
    "observed_time",
    "restarted",
    "runs_away",
    "share_of_evaluations",
]

NOT_TRIED, UNFINISHED, SOLVED, MIDDLING, HOPELESS, UNBOUNDED = range(6)  # what came of a solve

# The outcomes in words.
OUTCOMES = ("not tried", "unfinished", "solved", "middling", "hopeless", "no normalisable ground state")

DESCENTS = 4  # at least, over all chains
_MEMORY = 16
_SMALLEST_ROUND, _LARGEST_ROUND = 16, 256  # candidates of a round, over all chains
_GOOD_TIME = 1.75  # autocorrelation time at which a trial counts as solved
CLEAR = 0.8  # acceptance from which local moves hardly matter, so that their step size need not be tuned
UNCLEAR = 0.7  # acceptance below which the few candidates of a round do not pass for clear
_USABLE = 0.15  # acceptance below which a trial is hopeless
TELLING = 0.08  # acceptance from which candidates tell more than where the bulk is
SHAPELY = 0.25  # acceptance from which weighted candidates show the shape of the posterior
_UNUSABLE = 0.03  # acceptance below which it is given up early
_PATIENCE = 3  # rounds without a better trial
_PATIENT_ROWS = 20  # iterations of descents before stragglers are left behind
_FIRST_LOOK = 16  # rounds after which a trial that is still hopeless is given up
_RISE = 2.0  # nats a round by which an evidence bound counts as rising
GUARD, GUARD_SOLVED = 0.1, 0.02  # part of the candidates that has far tails
_TOO_LOW = 1e5  # nats
_LOST, _SKY = 1e12, 1e20  # a coordinate, a log density beyond these has run away


class Solve(NamedTuple):
    """How far the solve is.

    Attributes:
        outcome: one of the codes of this module.
        descent: the running descent of every chain, chains leading.
        best: the best end of each chain's descents so far: position and log density, chains leading.
        tries: descents that each chain still has to make after this one.
        fresh: whether chains take their next candidate whatever it is.
        origin: where the chains started, evaluated, in the coordinates of `origin_fractions`; chains leading.
        origin_fractions: centredness of each coordinate at the start, shape `(dim,)`.
        restart: whether the chains go back there before their next move.
        rounds: rounds so far.
        since: rounds since the trial last became better.
        best_time: smallest autocorrelation time measured so far.
        best_bound: highest evidence bound `E_q [log p - log q]` so far: what is still rising is not solved.
        offered: candidates that each chain was offered while the trial is refined.
        taken: sum of their acceptance probabilities, shape `(chains,)`.
        acceptance: acceptance measured last.
        half: row of the plan at which half of the chains had arrived; large before.
        outliers: chains whose descent ended far outside the trial: they may have found other modes.
    """

    outcome: jax.Array
    descent: Descent
    best: tuple[jax.Array, jax.Array]
    tries: jax.Array
    fresh: jax.Array
    origin: tuple[jax.Array, jax.Array, jax.Array]
    origin_fractions: jax.Array
    restart: jax.Array
    rounds: jax.Array
    since: jax.Array
    best_time: jax.Array
    best_bound: jax.Array
    offered: jax.Array
    taken: jax.Array
    acceptance: jax.Array
    half: jax.Array
    outliers: jax.Array


def memory(dim: int) -> int:
    """Pairs that a descent remembers."""
    return min(dim + 2, _MEMORY)


def round_size(dim: int, chains: int) -> int:
    """Candidates of one round for each chain."""
    return -(-min(max(_SMALLEST_ROUND, 2 * dim), _LARGEST_ROUND) // chains)


def refine_size(dim: int, chains: int) -> int:
    """Candidates of one refining iteration for each chain."""
    return -(-max(48, min(3 * dim, 300)) // (6 * chains))


def unevaluated(position: jax.Array, pairs: int) -> Descent:
    """A descent whose next point is its start."""
    return start_descent(position, jnp.full((), -jnp.inf, position.dtype), jnp.zeros_like(position), pairs)


def begin_solve(
    positions: jax.Array,
    log_densities: jax.Array,
    scores: jax.Array,
    solve: bool,
    starts: jax.Array | None = None,
    fractions: jax.Array | None = None,
) -> Solve:
    """A solve that starts at the chains' evaluated positions, shape `(chains, dim)`, or at `starts`.

    `fractions` say how centred the coordinates are, shape `(dim,)`; ones if left out.
    """
    chains, dim = positions.shape
    pairs = memory(dim) if solve else 1
    if starts is None:
        descent = jax.vmap(lambda x, v, s: start_descent(x, v, s, pairs))(positions, log_densities, scores)
    else:
        descent = jax.vmap(lambda x: unevaluated(x, pairs))(starts)
    dtype = positions.dtype
    return Solve(
        outcome=jnp.asarray(UNFINISHED if solve else NOT_TRIED, int),
        descent=descent,
        best=(positions, jnp.full((chains,), -jnp.inf, dtype)),
        tries=jnp.asarray(-(-DESCENTS // chains) - 1, int),
        fresh=jnp.zeros((), bool),
        origin=(positions, log_densities, scores),
        origin_fractions=jnp.ones((dim,), dtype) if fractions is None else fractions,
        restart=jnp.zeros((), bool),
        rounds=jnp.zeros((), int),
        since=jnp.zeros((), int),
        best_time=jnp.asarray(jnp.inf, dtype),
        best_bound=jnp.asarray(-jnp.inf, dtype),
        offered=jnp.zeros((), int),
        taken=jnp.zeros((chains,), dtype),
        acceptance=jnp.zeros((), dtype),
        half=jnp.asarray(1 << 20, int),
        outliers=jnp.zeros((), int),
    )


def _steps_of_kronecker(dim: int, dtype: Any) -> jax.Array:
    """Fractional parts of square roots of square-free numbers, shape `(dim,)`: rationally independent."""
    numbers = np.arange(2, 4 * dim + 8)
    free = np.all(numbers[:, None] % np.arange(2, 2 + int(numbers[-1] ** 0.5))[None, :] ** 2 != 0, axis=1)
    return jnp.asarray(np.sqrt(numbers[free][:dim]) % 1, dtype)


def after_descents(solve: Solve, iteration: jax.Array, row: jax.Array) -> tuple[Solve, jax.Array]:
    """Keep each chain's best end; start again where descents are left. Returns whether all is done.

    A straggler is waited for half as long again as it took half of the chains to arrive.
    """
    descent, (position, log_density) = solve.descent, solve.best
    chains, dim = position.shape
    better = descent.log_density > log_density
    best = (
        jnp.where(better[:, None], descent.position, position),
        jnp.where(better, descent.log_density, log_density),
    )
    half = jnp.where(2 * jnp.sum(descent.arrived) >= chains, jnp.minimum(solve.half, row), solve.half)
    arrived = jnp.all(descent.arrived) | ((2 * (row - half) > half) & (row > _PATIENT_ROWS))
    again = arrived & (solve.tries > 0)
    # The start of a further descent needs no secret: points of a Kronecker sequence fill the box evenly.
    order = (iteration + 1) * chains + jnp.arange(chains)
    points = 4 * ((order[:, None] * _steps_of_kronecker(dim, position.dtype)) % 1) - 2
    nothing = jax.vmap(lambda x: unevaluated(x, descent.moves.shape[1]))(points)
    started = jax.tree.map(lambda new, old: jnp.where(again, new.astype(old.dtype), old), nothing, descent)
    solve = solve._replace(
        descent=started,
        best=best,
        tries=jnp.where(again, solve.tries - 1, solve.tries),
        half=jnp.where(again, 1 << 20, half).astype(solve.half.dtype),
    )
    return solve, arrived & ~again


def runs_away(positions: jax.Array) -> jax.Array:
    """Which of these positions, shape `(chains, dim)`, are beyond all bounds, shape `(chains,)`."""
    return ~jnp.all(jnp.abs(positions) < _LOST, axis=1)


def best_end(solve: Solve) -> tuple[jax.Array, jax.Array]:
    """The highest end of all descents, shape `(dim,)`, and whether it has run away."""
    position, log_density = solve.best
    runaway = runs_away(position) | (log_density > _SKY)
    usable = jnp.isfinite(log_density) & ~runaway
    index = jnp.argmax(jnp.where(usable, log_density, -jnp.inf))
    # What rises without end beats every mode: one runaway that is higher than the best end spoils it.
    spoiled = jnp.any(runaway & ~(log_density <= log_density[index]))
    return position[index], ~usable[index] | spoiled


def count_outliers(solve: Solve, trial: Trial) -> jax.Array:
    """Chains whose best end lies outside the trial's bulk, and high enough for its mode to matter."""
    dim = trial.centre.size
    height = solve.best[1]
    radius = jax.vmap(lambda x: jnp.sum(whiten(trial.metric, x - trial.centre) ** 2))(solve.best[0])
    return jnp.sum((radius > 4 * dim + 30) & (height > jnp.max(height) - dim - 10))


def after_round(
    solve: Solve, time: jax.Array, acceptance: jax.Array, bound: jax.Array, last: jax.Array
) -> Solve:
    """Judge the trial that drew the last round.

    Args:
        solve: the solve.
        time: its autocorrelation time as an independence proposal.
        acceptance: its acceptance.
        bound: median of its log weights, standing for the evidence bound.
        last: whether no more rounds can be had.
    """
    rising = bound > solve.best_bound + _RISE
    better = (time < 0.85 * solve.best_time) | rising
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


def restarted(
    restart: jax.Array, origin: tuple[jax.Array, jax.Array, jax.Array], here: TrajectoryState
) -> TrajectoryState:
    """A chain back at its start, where a solve that failed may have left it in a spike without mass.

    A start that lies so low that no step size fits there is not gone back to.
    """
    back = restart & (origin[1] > here.log_density - _TOO_LOW)
    return jax.tree.map(lambda old, new: jnp.where(back, old, new), TrajectoryState(*origin), here)


def observed_time(solve: Solve, acceptance: jax.Array) -> jax.Array:
    """Autocorrelation time of the chains under the candidates they were offered: `mean 2 / alpha - 1`.

    The acceptance `alpha` of a chain is shrunk towards `acceptance`, as if one candidate more had shown it.
    """
    alpha = (solve.taken + acceptance) / (solve.offered + 1)
    return jnp.mean(2 / jnp.maximum(alpha, 1e-6) - 1)


def share_of_evaluations(global_time: jax.Array, local_cost: jax.Array) -> jax.Array:
    """Share of the evaluations that global moves get.

    Both kinds are measured in evaluations per effective draw. The better one gets the most, in proportion to
    the square of the efficiencies; neither is ever left out, for each mends what the other cannot do: a chain
    held at a point where `p / q` is large leaves it by local moves, a chain that cannot travel by global
    ones. A few candidates do not show the largest weights there are, so a time is taken as its square.
    """
    good, other = 1 / jnp.maximum(global_time, 1) ** 2, 1 / jnp.maximum(local_cost, 1)
    share = jnp.clip(good**2 / (good**2 + other**2), 0.05, 0.95)
    return jnp.where(jnp.isfinite(global_time), share, 0)


def candidates_wanted(global_time: jax.Array) -> jax.Array:
    """Candidates of one global move: half of what makes one effective draw, at most 8."""
    return jnp.clip(jnp.round(jnp.where(jnp.isfinite(global_time), global_time, 16) / 2), 1, 8).astype(int)
