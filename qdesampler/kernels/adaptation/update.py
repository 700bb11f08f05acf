r"""Warm-up: the trial, step size, metric and trajectory length, pooled over all chains, then frozen.

What is done when stands in a table (`qdesampler.kernels.adaptation.schedule`) that the state carries. Its
last row says "frozen" and stands for every iteration after the warm-up, so that no kept draw can be adapted.
All that is adapted depends on the past of all chains together; nothing depends on which chain asks.
"""

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
    candidates_wanted,
    count_outliers,
    observed_time,
    refine_size,
    round_size,
    runs_away,
    share_of_evaluations,
)
from qdesampler.kernels.adaptation.schedule import (
    ADAPT,
    DESCEND,
    FREEZE,
    MEASURE,
    RECENTRE,
    REFINE,
    REFINING_ROWS,
    REFIT,
    REST,
    ROUND,
    SEARCH,
    SETTLE,
)
from qdesampler.kernels.adaptation.state import (
    Adaptation,
    AdaptationSettings,
    Choice,
    Coordinates,
    current_flags,
)
from qdesampler.kernels.adaptation.trajectory_length import best_length, record_jumps, search_cost
from qdesampler.kernels.mcmc.dual_averaging import start_averaging, update_averaging
from qdesampler.kernels.mcmc.mixture import GLOBAL, LOCAL, Window
from qdesampler.numerics.control_flow import update_if
from qdesampler.numerics.importance_weights import independence_time
from qdesampler.numerics.lbfgs import secants
from qdesampler.numerics.metric import whiten

__all__ = ["adapt"]

_ENOUGH_MEASURED = 16  # candidates below which a trial is not trusted
_MOST_UNCLEAR = 0.5  # of the evaluations for a trial that is not clear: tails unseen need local moves
_LEAST_ACCEPTANCE = 0.1  # below this, promised or seen by one chain, a refined trial is given up
_BROKEN_PROMISE = 4.0  # times the promised autocorrelation time that the chains may see
_UNEVEN = 0.8  # of the chains' mean acceptance: one that sees less stands where the trial has no tail
_ROOM = 60  # iterations of warm-up that are worth another adaptation
_JUMP_COST = 1.5  # evaluations per effective draw over evaluations per move, where it was not measured


def _acceptance_signal(chain_accept: jax.Array, accept_prob: jax.Array) -> jax.Array:
    """Mean acceptance, lowered when the chains' recent averages differ: a stuck chain is heard."""
    floor = jnp.maximum(chain_accept, 1e-3)
    imbalance = 1 / (jnp.mean(1 / floor) * jnp.mean(floor))
    return jnp.mean(accept_prob) * imbalance


def adapt(
    settings: AdaptationSettings,
    state: Adaptation,
    iteration: jax.Array,
    choice: Choice,
    before: jax.Array,
    after: jax.Array,
    accept_prob: jax.Array,
    num_evals: jax.Array,
    coordinates: Coordinates | None = None,
) -> Adaptation:
    """Learn from one move of every chain; returns the state unchanged once the warm-up is over.

    Args:
        settings: what is adapted.
        state: what is known; its window and descents as the move left them.
        iteration: index of this move, from 0.
        choice: what the move was.
        before: positions before it, shape `(chains, dim)`.
        after: positions after it.
        accept_prob: acceptance probabilities, shape `(chains,)`.
        num_evals: evaluations spent, shape `(chains,)`.
        coordinates: how to re-centre the coordinates of the moves; None where they cannot be.
    """
    flags, row = current_flags(state, iteration)
    warming = iteration < state.num_warmup
    moved = choice.kind == LOCAL
    written = jnp.where(choice.kind == GLOBAL, choice.evaluations, 1)
    state = state._replace(
        count=state.count + jnp.where(warming & choice.record, written, 0),
        solve=state.solve._replace(fresh=jnp.zeros((), bool), restart=jnp.zeros((), bool)),
        row=jnp.where(warming & ((flags & REST) == 0), row + 1, state.row),
    )

    def learn(pair):
        state, (iteration, flags, before, after, accept_prob, num_evals) = pair
        chain_accept = 0.9 * state.chain_accept + 0.1 * accept_prob
        searching = (flags & SEARCH) != 0
        step = (jnp.mean(after, 0) - state.centre) / jnp.minimum(iteration + 1, 100)
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
        return state, pair[1]

    news = (iteration, flags, before, after, accept_prob, num_evals)
    state, _ = update_if(((flags & ADAPT) != 0) & moved, learn, (state, news))
    fitting = (flags & REFIT) != 0
    if settings.solve:
        refining = ((flags & REFINE) != 0) & (choice.kind == GLOBAL)
        made = jnp.where(refining, choice.evaluations, 0)
        solve = state.solve
        offered = (solve.offered + made).astype(solve.offered.dtype)
        state = state._replace(solve=solve._replace(offered=offered, taken=solve.taken + made * accept_prob))
        descended = (flags & DESCEND) != 0
        state, _, _ = update_if(descended, _descended, (state, iteration, row))
        fitting = fitting | (descended & (state.row == state.sections.rounds))
        state, _, _ = update_if((flags & ROUND) != 0, _judge_round, (state, row, flags))
    if coordinates is not None:
        operand = (state, flags, coordinates.dynamic)
        state, _, _ = update_if((flags & RECENTRE) != 0, lambda o: recentre(coordinates, o), operand)
    if settings.adapt_metric:
        state, _ = update_if(fitting, lambda pair: (refit(settings, *pair), pair[1]), (state, flags))
    if settings.solve:
        state, _ = update_if((flags & (DESCEND | ROUND)) != 0, _go_on, (state, flags))
    if settings.search_length:
        settling = (flags & SETTLE) != 0
        state, _ = update_if(settling, lambda pair: (_settle(settings, *pair), pair[1]), (state, flags))
    ending = ((flags & FREEZE) != 0) | (iteration == state.num_warmup - 1)
    last = warming & ending & ((flags & REST) == 0)
    if settings.solve:
        # What neither descent nor chain finds an end of has no normalisable ground state.
        lost = (iteration == state.num_warmup - 1) & jnp.any(runs_away(after))
        outcome = jnp.where(lost, UNBOUNDED, state.solve.outcome).astype(state.solve.outcome.dtype)
        state = state._replace(solve=state.solve._replace(outcome=outcome))
    news = (flags, iteration)
    state, _ = update_if(last, lambda pair: (_freeze(settings, pair[0], *pair[1]), pair[1]), (state, news))
    return state


def _descended(operand):
    """After an iteration of descents: go on, or leave their secants in the window and begin the rounds."""
    state, iteration, row = operand
    solve, done = after_descents(state.solve, iteration, row)
    done = done | (row + 1 == state.sections.rounds)
    _, lost = best_end(solve)
    moves, scores, weights = jax.vmap(secants)(solve.descent)
    pairs = moves.shape[1]
    window = Window(
        state.window.draws.at[:, :pairs].set(moves),
        state.window.scores.at[:, :pairs].set(scores),
        state.window.log_weights.at[:, :pairs].set(jnp.where(weights > 0, 0, -jnp.inf)),
    )
    outcome = jnp.where(done & lost, UNBOUNDED, solve.outcome).astype(solve.outcome.dtype)
    state = state._replace(
        solve=solve._replace(outcome=outcome, fresh=done & ~lost),
        row=jnp.where(done, jnp.where(lost, state.sections.local, state.sections.rounds), state.row),
        window=jax.tree.map(lambda new, old: jnp.where(done, new, old), window, state.window),
        count=jnp.where(done & ~lost, pairs, state.count),
    )
    return state, iteration, row


def _judge_round(operand):
    """The certificate of the trial that drew this round, from its own candidates."""
    state, row, flags = operand
    chains, _, dim = state.window.draws.shape
    newest = age(state) < round_size(dim, chains)
    log_weights = pooled_rows(state.window).log_weights
    time, acceptance = independence_time(log_weights, newest)
    bound = jnp.nanmedian(jnp.where(newest, log_weights, jnp.nan))
    last = row + 1 == state.sections.local
    return state._replace(solve=after_round(state.solve, time, acceptance, bound, last)), row, flags


def _go_on(operand):
    """After the fit of a descent or a round: where the outcome leads."""
    state, flags = operand
    outcome = state.solve.outcome
    rounding = (flags & ROUND) != 0
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
        fractions=jnp.where(leaving, state.solve.origin_fractions, state.fractions),
        solve=state.solve._replace(restart=leaving),
    ), flags


def _settle(settings: AdaptationSettings, state: Adaptation, flags: jax.Array) -> Adaptation:
    searched = state.row <= state.sections.tune if settings.solve else jnp.ones((), bool)
    step = jnp.exp(state.averaging.log_average) if settings.adapt_step_size else state.step_size
    length = jnp.where(searched, best_length(state.search), state.length)
    return state._replace(length=length, step_size=step, averaging=start_averaging(step))


def _freeze(
    settings: AdaptationSettings, state: Adaptation, flags: jax.Array, iteration: jax.Array
) -> Adaptation:
    """Fix the step size and, from the candidates measured, the proportions of the mixture.

    A refined trial whose candidates the chains do not take as often as it promises has missed where they are:
    then the local adaptation begins instead, if the warm-up is long enough for it.
    """
    if settings.adapt_step_size:
        adapting = (flags & ADAPT) != 0
        step = jnp.where(adapting, jnp.exp(state.averaging.log_average), state.step_size)
        state = state._replace(step_size=step)
    if not settings.solve:
        return state
    pooled = pooled_rows(state.window)
    measured = age(state) < state.count
    time, acceptance = independence_time(pooled.log_weights, measured)
    judged = (flags & (REFINE | MEASURE)) != 0
    trusted = judged & (jnp.sum(measured) >= _ENOUGH_MEASURED)
    # Candidates do not show where the trial is lacking; chains that stand still there do.
    promised, seen = time, observed_time(state.solve, acceptance)
    time = jnp.where((flags & REFINE) != 0, jnp.maximum(time, seen), time)
    time = jnp.where(trusted, time, jnp.inf)
    steps = jnp.maximum(state.length / state.step_size, 1)
    local_cost = search_cost(state.search)
    local_cost = jnp.where(jnp.isfinite(local_cost), local_cost, _JUMP_COST * steps)
    candidates = candidates_wanted(time)
    evaluations = share_of_evaluations(time, local_cost)
    evaluations = jnp.where(acceptance < CLEAR, jnp.minimum(evaluations, _MOST_UNCLEAR), evaluations)
    moves = evaluations / candidates
    share = moves / (moves + (1 - evaluations) / steps)
    # The ends of re-centred models are modes of other coordinates: nothing to compare.
    comparable = trusted & jnp.all(state.fractions == 1)
    outliers = jnp.where(comparable, count_outliers(state.solve, state.trial), 0)
    solve = state.solve._replace(
        acceptance=jnp.where(trusted, acceptance, state.solve.acceptance),
        outliers=outliers.astype(state.solve.outliers.dtype),
    )
    frozen = state._replace(
        share=jnp.where(trusted, share, 0), candidates=candidates, solve=solve, row=state.sections.rest
    )
    alone = jnp.min(state.solve.taken) < _LEAST_ACCEPTANCE * state.solve.offered
    untuned = state.solve.offered <= REFINING_ROWS * refine_size(state.centre.size, state.chain_accept.size)
    mean = jnp.mean(state.solve.taken)
    uneven = (jnp.min(state.solve.taken) < _UNEVEN * mean) & (mean < UNCLEAR * state.solve.offered) & ~untuned
    missed = (acceptance < _LEAST_ACCEPTANCE) | (seen > _BROKEN_PROMISE * promised) | alone | uneven
    again = ((flags & REFINE) != 0) & missed & (state.num_warmup - iteration > _ROOM)
    guess = gaussian_step(state)
    start = state._replace(
        solve=solve._replace(outcome=jnp.asarray(HOPELESS, solve.outcome.dtype), restart=jnp.ones((), bool)),
        fractions=solve.origin_fractions,
        row=state.sections.local,
        count=jnp.zeros_like(state.count),
        step_size=guess,
        averaging=start_averaging(guess, settings.search_step_size),
    )
    # Few candidates called the trial clear, more do not: back to the section that was skipped.
    room = state.num_warmup - iteration > state.sections.rest - state.sections.tune
    back = ((flags & REFINE) != 0) & untuned & (acceptance < UNCLEAR) & room & ~again
    tune = state._replace(solve=solve, row=state.sections.tune, count=jnp.zeros_like(state.count))
    return jax.tree.map(lambda a, b, c: jnp.where(again, a, jnp.where(back, b, c)), start, tune, frozen)
