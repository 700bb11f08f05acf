r"""One update of the adaptation: trial, step size, metric and trajectory length, pooled over all chains.

A table (`qdesampler.kernels.adaptation.schedule`), which is part of the state, says what each iteration does.
Its last row is empty and stands for every iteration after the warm-up, so that no kept draw is adapted. All
that is adapted depends on the past of all chains together, and is the same for every chain.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.kernels.adaptation.fitting import age, gaussian_step, pooled_rows, recentre, refit
from qdesampler.kernels.adaptation.imaginary_time import (
    CLEAR,
    HOPELESS,
    MIDDLING,
    SOLVED,
    UNBOUNDED,
    UNCLEAR,
    after_descents,
    after_round,
    best_end,
    count_outliers,
    global_evaluation_fraction,
    observed_time,
    proposals_per_move,
    refine_size,
    round_size,
    runs_away,
)
from qdesampler.kernels.adaptation.schedule import REFINING_ROWS, Row, has
from qdesampler.kernels.adaptation.state import (
    Adaptation,
    AdaptationSettings,
    Coordinates,
    NextMove,
    current_flags,
)
from qdesampler.kernels.adaptation.trajectory_length import best_length, record_jumps, search_cost
from qdesampler.kernels.mcmc.dual_averaging import start_averaging, update_averaging
from qdesampler.kernels.mcmc.mixture import GLOBAL, LOCAL, FitWindow
from qdesampler.numerics.control_flow import update_if
from qdesampler.numerics.importance_weights import independence_time
from qdesampler.numerics.lbfgs import secants
from qdesampler.numerics.metric import whiten

__all__ = ["MoveResult", "adapt"]

_ENOUGH_MEASURED = 16  # proposals from which a measured trial is used
# Most of the evaluations for a trial that is not clear: local moves must find the tails that it has not seen.
_MOST_UNCLEAR = 0.5
_LEAST_ACCEPTANCE = 0.1  # of a refined trial, predicted or seen by one chain; below, it is given up
_BROKEN_PROMISE = (
    4.0  # seen over predicted autocorrelation time above which it is given up: results/hard.md, banana
)
_UNEVEN = 0.8  # acceptance of one chain over the mean, below which it is given up: results/hard.md, banana
_ROOM = 60  # iterations of warm-up that suffice for another adaptation
_JUMP_COST = 1.5  # evaluations per effective draw over evaluations per move, if it was not measured
_OLD, _NEW = 0.9, 0.1  # weights of the running mean of each chain's acceptance
_LEAST_MEAN = 1e-3  # smaller mean acceptances of a chain count as this one
_LONGEST_MEAN = 100  # iterations that the running mean of the positions goes back


class MoveResult(NamedTuple):
    """What a move of every chain did, chains leading.

    Attributes:
        before: positions before it, shape `(chains, dim)`.
        after: positions after it, same shape.
        accept_prob: acceptance probabilities, shape `(chains,)`.
        num_evals: evaluations, shape `(chains,)`.
    """

    before: jax.Array
    after: jax.Array
    accept_prob: jax.Array
    num_evals: jax.Array


def _update_if(predicate: jax.Array, update: Any, state: Adaptation, *values: Any) -> Adaptation:
    """`update(state, *values)` if `predicate` holds, else `state`; see `control_flow.update_if`."""
    return update_if(predicate, lambda given: (update(*given), *given[1:]), (state, *values))[0]


def _acceptance_signal(chain_accept: jax.Array, accept_prob: jax.Array) -> jax.Array:
    """Mean acceptance, lowered when the chains' recent averages differ, so that a stuck chain counts."""
    floor = jnp.maximum(chain_accept, _LEAST_MEAN)
    imbalance = 1 / (jnp.mean(1 / floor) * jnp.mean(floor))
    return jnp.mean(accept_prob) * imbalance


def adapt(
    settings: AdaptationSettings,
    state: Adaptation,
    iteration: jax.Array,
    move: NextMove,
    result: MoveResult,
    coordinates: Coordinates | None = None,
) -> Adaptation:
    """Learn from one move of every chain; returns the state unchanged once the warm-up is over.

    Args:
        settings: what is adapted.
        state: the adaptation; its window and descents as the move left them.
        iteration: index of this move, from 0.
        move: what the move was to do.
        result: what it did.
        coordinates: how to re-centre the coordinates of the moves; None if they cannot be re-centred.
    """
    flags, row = current_flags(state, iteration)
    warming = iteration < state.num_warmup
    moved = move.kind == LOCAL
    written = jnp.where(move.kind == GLOBAL, move.evaluations, 1)
    state = state._replace(
        count=state.count + jnp.where(warming & move.record, written, 0),
        solve=state.solve._replace(forget=jnp.zeros((), bool), restart=jnp.zeros((), bool)),
        row=jnp.where(warming & ((flags & int(Row.REST)) == 0), row + 1, state.row),
    )
    state = _update_if(
        has(flags, Row.ADAPT) & moved, partial(_after_local_move, settings), state, iteration, flags, result
    )
    fitting = has(flags, Row.REFIT)
    if settings.solve:
        refining = has(flags, Row.REFINE) & (move.kind == GLOBAL)
        made = jnp.where(refining, move.evaluations, 0)
        solve = state.solve
        proposals = (solve.proposals + made).astype(solve.proposals.dtype)
        accepted = solve.accepted + made * result.accept_prob
        state = state._replace(solve=solve._replace(proposals=proposals, accepted=accepted))
        descended = has(flags, Row.DESCEND)
        state = _update_if(descended, _after_descents, state, iteration, row)
        fitting = fitting | (descended & (state.row == state.sections.rounds))
        state = _update_if(has(flags, Row.ROUND), _judge_round, state, row)
    if coordinates is not None:
        state = _update_if(
            has(flags, Row.RECENTRE), partial(recentre, coordinates), state, flags, coordinates.dynamic
        )
    if settings.adapt_metric:
        state = _update_if(fitting, partial(refit, settings), state, flags)
    if settings.solve:
        state = _update_if(has(flags, Row.DESCEND | Row.ROUND), _next_section, state, flags)
    if settings.search_length:
        state = _update_if(has(flags, Row.END_SEARCH), partial(_end_length_search, settings), state)
    ending = has(flags, Row.FREEZE) | (iteration == state.num_warmup - 1)
    last = warming & ending & ((flags & int(Row.REST)) == 0)
    if settings.solve:
        # If descents and chains both run away, the ground state is not normalisable.
        lost = (iteration == state.num_warmup - 1) & jnp.any(runs_away(result.after))
        outcome = jnp.where(lost, UNBOUNDED, state.solve.outcome).astype(state.solve.outcome.dtype)
        state = state._replace(solve=state.solve._replace(outcome=outcome))
    return _update_if(last, partial(_freeze, settings), state, flags, iteration)


def _after_local_move(
    settings: AdaptationSettings,
    state: Adaptation,
    iteration: jax.Array,
    flags: jax.Array,
    result: MoveResult,
) -> Adaptation:
    """Step size and length search after a local move."""
    before, after, accept_prob, num_evals = result
    chain_accept = _OLD * state.chain_accept + _NEW * accept_prob
    searching = has(flags, Row.SEARCH)
    step = (jnp.mean(after, 0) - state.centre) / jnp.minimum(iteration + 1, _LONGEST_MEAN)
    state = state._replace(
        chain_accept=chain_accept, centre=jnp.where(searching, state.centre, state.centre + step)
    )
    if settings.adapt_step_size:
        signal = _acceptance_signal(chain_accept, accept_prob)
        averaging = update_averaging(state.averaging, signal, state.target_accept_prob, accept_prob.size)
        state = state._replace(averaging=averaging, step_size=jnp.exp(averaging.log_step))
    if settings.search_length:
        whitened = jax.vmap(lambda x: whiten(state.metric, x - state.centre))
        searched = record_jumps(state.search, whitened(before), whitened(after), num_evals)
        search = jax.tree.map(lambda new, old: jnp.where(searching, new, old), searched, state.search)
        state = state._replace(search=search)
    return state


def _after_descents(state: Adaptation, iteration: jax.Array, row: jax.Array) -> Adaptation:
    """After an iteration of descents: continue, or leave their secants in the window and begin the rounds."""
    solve, done = after_descents(state.solve, iteration, row)
    done = done | (row + 1 == state.sections.rounds)
    _, lost = best_end(solve)
    steps, scores, weights = jax.vmap(secants)(solve.descent)
    pairs = steps.shape[1]
    window = FitWindow(
        state.window.draws.at[:, :pairs].set(steps),
        state.window.scores.at[:, :pairs].set(scores),
        state.window.log_weights.at[:, :pairs].set(jnp.where(weights > 0, 0, -jnp.inf)),
    )
    outcome = jnp.where(done & lost, UNBOUNDED, solve.outcome).astype(solve.outcome.dtype)
    return state._replace(
        solve=solve._replace(outcome=outcome, forget=done & ~lost),
        row=jnp.where(done, jnp.where(lost, state.sections.local, state.sections.rounds), state.row),
        window=jax.tree.map(lambda new, old: jnp.where(done, new, old), window, state.window),
        count=jnp.where(done & ~lost, pairs, state.count),
    )


def _judge_round(state: Adaptation, row: jax.Array) -> Adaptation:
    """The certificate of the trial that drew this round, from its own proposals."""
    chains, _, dim = state.window.draws.shape
    newest = age(state) < round_size(dim, chains)
    log_weights = pooled_rows(state.window).log_weights
    time, acceptance = independence_time(log_weights, newest)
    bound = jnp.nanmedian(jnp.where(newest, log_weights, jnp.nan))
    last = row + 1 == state.sections.local
    return state._replace(solve=after_round(state.solve, time, acceptance, bound, last))


def _next_section(state: Adaptation, flags: jax.Array) -> Adaptation:
    """After the fit of a descent or a round: the section that the outcome leads to."""
    outcome = state.solve.outcome
    rounding = has(flags, Row.ROUND)
    row = jnp.select(
        [
            rounding & (outcome == SOLVED) & (state.solve.acceptance >= UNCLEAR),
            rounding & ((outcome == SOLVED) | (outcome == MIDDLING)),
            rounding & (outcome == HOPELESS),
        ],
        [state.sections.refine, state.sections.tune, state.sections.local],
        state.row,
    )
    leaving = rounding & (outcome == HOPELESS)
    return state._replace(
        row=row,
        count=jnp.where(leaving, 0, state.count),
        centredness=jnp.where(leaving, state.solve.origin_centredness, state.centredness),
        solve=state.solve._replace(restart=leaving),
    )


def _end_length_search(settings: AdaptationSettings, state: Adaptation) -> Adaptation:
    """The length that the search found, and a new start for the step size."""
    searched = state.row <= state.sections.tune if settings.solve else jnp.ones((), bool)
    step = jnp.exp(state.averaging.log_average) if settings.adapt_step_size else state.step_size
    length = jnp.where(searched, best_length(state.search), state.length)
    return state._replace(length=length, step_size=step, averaging=start_averaging(step))


class _Measured(NamedTuple):
    """What the proposals of the last rows say of the trial.

    Attributes:
        trusted: whether there were enough of them.
        time: autocorrelation time that they predict.
        acceptance: acceptance that they predict.
        seen: autocorrelation time that the chains had under them.
    """

    trusted: jax.Array
    time: jax.Array
    acceptance: jax.Array
    seen: jax.Array


def _freeze(
    settings: AdaptationSettings, state: Adaptation, flags: jax.Array, iteration: jax.Array
) -> Adaptation:
    """Fix the step size and, from the measured proposals, the proportions of the mixture.

    If the chains accept far fewer proposals of a refined trial than it predicts, it has missed the place
    where they are. Then the local adaptation begins instead, if the warm-up is long enough for it.
    """
    if settings.adapt_step_size:
        adapting = has(flags, Row.ADAPT)
        step = jnp.where(adapting, jnp.exp(state.averaging.log_average), state.step_size)
        state = state._replace(step_size=step)
    if not settings.solve:
        return state
    pooled = pooled_rows(state.window)
    rows_measured = age(state) < state.count
    time, acceptance = independence_time(pooled.log_weights, rows_measured)
    judged = has(flags, Row.REFINE | Row.MEASURE)
    trusted = judged & (jnp.sum(rows_measured) >= _ENOUGH_MEASURED)
    measured = _Measured(trusted, time, acceptance, observed_time(state.solve, acceptance))
    frozen = _mixed(state, flags, measured)
    missed, untuned = _missed(state, measured)
    again = has(flags, Row.REFINE) & missed & (state.num_warmup - iteration > _ROOM)
    guess = gaussian_step(state)
    solve = frozen.solve
    start = state._replace(
        solve=solve._replace(outcome=jnp.asarray(HOPELESS, solve.outcome.dtype), restart=jnp.ones((), bool)),
        centredness=solve.origin_centredness,
        row=state.sections.local,
        count=jnp.zeros_like(state.count),
        step_size=guess,
        averaging=start_averaging(guess, search=settings.search_step_size),
    )
    # More proposals than those of a round show that the trial is not clear: the tuning was skipped wrongly.
    room = state.num_warmup - iteration > state.sections.rest - state.sections.tune
    back = has(flags, Row.REFINE) & untuned & (acceptance < UNCLEAR) & room & ~again
    tune = state._replace(solve=solve, row=state.sections.tune, count=jnp.zeros_like(state.count))
    return jax.tree.map(lambda a, b, c: jnp.where(again, a, jnp.where(back, b, c)), start, tune, frozen)


def _mixed(state: Adaptation, flags: jax.Array, measured: _Measured) -> Adaptation:
    """The frozen state, with the proportions of the mixture."""
    trusted, time, acceptance, seen = measured
    # Proposals do not show where the trial has no mass; chains that stand still there do.
    time = jnp.where(has(flags, Row.REFINE), jnp.maximum(time, seen), time)
    time = jnp.where(trusted, time, jnp.inf)
    steps = jnp.maximum(state.length / state.step_size, 1)
    local_cost = search_cost(state.search)
    local_cost = jnp.where(jnp.isfinite(local_cost), local_cost, _JUMP_COST * steps)
    proposals = proposals_per_move(time)
    evaluations = global_evaluation_fraction(time, local_cost)
    evaluations = jnp.where(acceptance < CLEAR, jnp.minimum(evaluations, _MOST_UNCLEAR), evaluations)
    moves = evaluations / proposals
    probability = moves / (moves + (1 - evaluations) / steps)
    # Descents of re-centred models ended in other coordinates: they cannot be compared with the trial.
    comparable = trusted & jnp.all(state.centredness == 1)
    outliers = jnp.where(comparable, count_outliers(state.solve, state.trial), 0)
    solve = state.solve._replace(
        acceptance=jnp.where(trusted, acceptance, state.solve.acceptance),
        outliers=outliers.astype(state.solve.outliers.dtype),
    )
    return state._replace(
        global_probability=jnp.where(trusted, probability, 0),
        proposals=proposals,
        solve=solve,
        row=state.sections.rest,
    )


def _missed(state: Adaptation, measured: _Measured) -> tuple[jax.Array, jax.Array]:
    """Whether a refined trial has missed the place of some chain; whether its local moves were not tuned."""
    _, promised, acceptance, seen = measured
    alone = jnp.min(state.solve.accepted) < _LEAST_ACCEPTANCE * state.solve.proposals
    untuned = state.solve.proposals <= REFINING_ROWS * refine_size(state.centre.size, state.chain_accept.size)
    mean = jnp.mean(state.solve.accepted)
    uneven = (
        (jnp.min(state.solve.accepted) < _UNEVEN * mean) & (mean < UNCLEAR * state.solve.proposals) & ~untuned
    )
    missed = (acceptance < _LEAST_ACCEPTANCE) | (seen > _BROKEN_PROMISE * promised) | alone | uneven
    return missed, untuned
