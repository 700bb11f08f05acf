r"""Warm-up: step size, metric and trajectory length, pooled over all chains of the batch, then frozen.

The plan of the warm-up is a table, one row an iteration, carried in the state; its last row says "frozen" and
stands for every iteration after the warm-up, so that no kept draw can be adapted. The plan:

    70%  growing windows: at the end of each the metric is refitted from the window's draws and scores, and
    kept
         only if it wins the gain test; the step size restarts
    15%  metric fixed: the trajectory length is searched for by measured efficiency
    15%  metric and length fixed: the step size settles on its average

Everything that is adapted depends on the past of all chains together; nothing depends on which chain asks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.kernels.control import update_if
from qdesampler.kernels.length import (
    LADDER,
    START,
    LengthSearch,
    best_length,
    candidate,
    record_jumps,
    start_length_search,
)
from qdesampler.kernels.metric import Metric, fisher_loss, fit_metric, whiten
from qdesampler.kernels.step_size import DualAveraging, start_averaging, update_averaging

__all__ = [
    "Adaptation",
    "AdaptationSettings",
    "Window",
    "adapt",
    "num_steps_limit",
    "start_adaptation",
    "trial_length",
]

RECORD, REFIT, SEARCH, SETTLE, FREEZE, ADAPT = 1, 2, 4, 8, 16, 32
FIRST_WINDOW, WINDOW_GROWTH = 10, 1.5
POOLED_ROWS = 1024  # draws kept for a metric estimate, over all chains
GAIN_TEST = (
    1.0,
    0.95,
    0.85,
)  # identity, diagonal, correlated: the loss of the richer must be lower by this factor
EARLY_STEPS, WINDOW_STEPS = 8, 32  # longest trajectories before the geometry is known


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

    @property
    def rank(self) -> int:
        """Columns of the metric's basis."""
        return sum(min(self.block_rank, len(block)) for block in self.blocks)


class Window(NamedTuple):
    """The latest draws of all chains and their scores, rings of shape `(chains, rows, dim)`."""

    draws: jax.Array
    scores: jax.Array
    count: jax.Array


class Adaptation(NamedTuple):
    """Everything the warm-up knows; shared by all chains of a batch.

    Attributes:
        step_size: in use now.
        target_accept_prob: acceptance that the step size aims at.
        length: mean trajectory length in use outside the search, whitened units.
        metric: in use now.
        averaging: the step-size search.
        chain_accept: recent acceptance of each chain, shape `(chains,)`.
        centre: running mean of the positions, shape `(dim,)`.
        window: draws for the next metric.
        search: the trajectory-length search.
        plan: one flag word an iteration, shape `(num_warmup + 1,)`; the last is zero, "frozen".
        steps_limit: longest trajectory by iteration, same shape.
    """

    step_size: jax.Array
    target_accept_prob: jax.Array
    length: jax.Array
    metric: Metric
    averaging: DualAveraging
    chain_accept: jax.Array
    centre: jax.Array
    window: Window
    search: LengthSearch
    plan: jax.Array
    steps_limit: jax.Array


def _plan(num_warmup: int, settings: AdaptationSettings) -> tuple[np.ndarray, np.ndarray]:
    """The table of the warm-up: flags and step limits, both of length `num_warmup + 1`."""
    plan = np.zeros(num_warmup + 1, dtype=np.int32)
    limit = np.full(num_warmup + 1, settings.max_steps[1], dtype=np.int32)
    limit[:num_warmup] = settings.max_steps[0]
    if num_warmup == 0:
        return plan, limit
    plan[:num_warmup] |= ADAPT
    search_length = settings.search_length and num_warmup >= 60
    windows_end = int(num_warmup * (0.7 if search_length else 0.85))
    if settings.adapt_metric and windows_end >= 2 * FIRST_WINDOW:
        start, size = 0, float(FIRST_WINDOW)
        while start < windows_end:
            end = start + int(size)
            if end + int(size * WINDOW_GROWTH) > windows_end:
                end = windows_end
            plan[start:end] |= RECORD
            plan[end - 1] |= REFIT
            limit[start:end] = np.minimum(
                limit[start:end], EARLY_STEPS if start < 3 * FIRST_WINDOW else WINDOW_STEPS
            )
            start, size = end, size * WINDOW_GROWTH
    if search_length:
        search_end = int(num_warmup * 0.85)
        plan[windows_end:search_end] |= SEARCH
        plan[search_end - 1] |= SETTLE
    plan[num_warmup - 1] |= FREEZE
    return plan, limit


def start_adaptation(
    settings: AdaptationSettings,
    metric: Metric,
    num_chains: int,
    num_warmup: int,
    *,
    step_size: float | jax.Array = 1.0,
    target_accept_prob: float | jax.Array = 0.9,
    length: float | jax.Array = LADDER[START],
) -> Adaptation:
    """State before the first iteration.

    Args:
        settings: what is adapted.
        metric: the first metric; its rank must be `settings.rank`.
        num_chains: chains that share this state.
        num_warmup: iterations of the warm-up.
        step_size: first step size, whitened units.
        target_accept_prob: acceptance that the step size aims at, in (0, 1).
        length: first mean trajectory length, whitened units.
    """
    dim, dtype = metric.scale.size, jnp.result_type(float)
    rows = max(1, min(num_warmup, -(-POOLED_ROWS // num_chains))) if settings.adapt_metric else 1
    plan, limit = _plan(num_warmup, settings)
    step = jnp.asarray(step_size, dtype)
    return Adaptation(
        step_size=step,
        target_accept_prob=jnp.asarray(target_accept_prob, dtype),
        length=jnp.asarray(length, dtype),
        metric=metric,
        averaging=start_averaging(step, settings.search_step_size),
        chain_accept=jnp.full((num_chains,), target_accept_prob, dtype),
        centre=jnp.zeros((dim,), dtype),
        window=Window(
            jnp.zeros((num_chains, rows, dim), dtype),
            jnp.zeros((num_chains, rows, dim), dtype),
            jnp.zeros((), int),
        ),
        search=start_length_search(dim),
        plan=jnp.asarray(plan),
        steps_limit=jnp.asarray(limit),
    )


def _flags(state: Adaptation, iteration: jax.Array) -> jax.Array:
    return state.plan[jnp.minimum(iteration, state.plan.size - 1)]


def num_steps_limit(state: Adaptation, iteration: jax.Array) -> jax.Array:
    """Longest trajectory allowed in this iteration, in steps."""
    return state.steps_limit[jnp.minimum(iteration, state.steps_limit.size - 1)]


def trial_length(state: Adaptation, iteration: jax.Array) -> jax.Array:
    """Mean trajectory length to use in this iteration, whitened units."""
    searching = (_flags(state, iteration) & SEARCH) != 0
    return jnp.where(
        searching, jnp.asarray(LADDER, state.length.dtype)[candidate(state.search)], state.length
    )


def _acceptance_signal(chain_accept: jax.Array, accept_prob: jax.Array) -> jax.Array:
    """Mean acceptance, lowered when the chains' recent averages differ: a stuck chain is heard."""
    floor = jnp.maximum(chain_accept, 1e-3)
    imbalance = 1 / (jnp.mean(1 / floor) * jnp.mean(floor))
    return jnp.mean(accept_prob) * imbalance


def _refit(settings: AdaptationSettings, state: Adaptation) -> Adaptation:
    """New metric from the window by the gain test on held-out draws; window emptied, step size restarted."""
    chains, rows, dim = state.window.draws.shape
    draws, scores = state.window.draws.reshape(-1, dim), state.window.scores.reshape(-1, dim)
    row = jnp.tile(jnp.arange(rows), chains)
    filled = jnp.minimum(state.window.count, rows)
    finite = jnp.all(jnp.isfinite(draws) & jnp.isfinite(scores), axis=1)
    weights = ((row < filled) & finite).astype(draws.dtype)
    early = (row < filled / 2).astype(draws.dtype)

    def fit(weights):
        kinds = fit_metric(
            draws, scores, weights, state.metric, settings.blocks, settings.block_rank, settings.regularize
        )
        return jax.tree.map(lambda *each: jnp.stack(each), *kinds)

    # A loop and not two calls: the decompositions are compiled once.
    fitted = jax.lax.map(fit, jnp.stack([weights * early, weights]))
    trained, full = (jax.tree.map(lambda leaf, k=k: leaf[k], fitted) for k in range(2))
    losses = jax.vmap(lambda metric: fisher_loss(metric, draws, scores, weights * (1 - early)))(trained)
    # A richer metric must earn its place on draws that it has not seen.
    choice = jnp.argmin(losses / jnp.asarray(GAIN_TEST, losses.dtype))
    if settings.force_blocks:
        choice = jnp.where(jnp.isfinite(losses[2]), 2, choice)
    chosen = jax.tree.map(lambda leaf: leaf[choice], full)
    usable = (jnp.sum(weights) >= 4) & jnp.isfinite(losses[choice]) & jnp.all(chosen.scale > 0)
    metric = jax.tree.map(lambda new, old: jnp.where(usable, new, old), chosen, state.metric)
    guess = jnp.asarray(1.2 * max(dim, 1) ** -0.25, state.step_size.dtype)
    step = jnp.where(usable & settings.adapt_step_size, guess, state.step_size)
    return state._replace(
        metric=metric,
        window=state.window._replace(count=jnp.zeros((), int)),
        step_size=step,
        averaging=start_averaging(step, settings.search_step_size),
    )


def adapt(
    settings: AdaptationSettings,
    state: Adaptation,
    iteration: jax.Array,
    before: jax.Array,
    after: jax.Array,
    scores: jax.Array,
    accept_prob: jax.Array,
    num_evals: jax.Array,
) -> Adaptation:
    """Learn from one move of every chain; returns the state unchanged once the warm-up is over.

    Args:
        settings: what is adapted.
        state: what is known.
        iteration: index of this move, from 0.
        before: positions before the move, shape `(chains, dim)`.
        after: positions after it.
        scores: `grad log p` at `after`.
        accept_prob: acceptance probabilities, shape `(chains,)`.
        num_evals: evaluations spent, shape `(chains,)`.
    """
    flags = _flags(state, iteration)

    def learn(pair):
        state, (iteration, flags, before, after, scores, accept_prob, num_evals) = pair
        chain_accept = 0.9 * state.chain_accept + 0.1 * accept_prob
        searching = (flags & SEARCH) != 0
        step = (jnp.mean(after, 0) - state.centre) / jnp.minimum(iteration + 1, 100)
        state = state._replace(
            chain_accept=chain_accept, centre=jnp.where(searching, state.centre, state.centre + step)
        )
        if settings.adapt_step_size:
            signal = _acceptance_signal(chain_accept, accept_prob)
            averaging = update_averaging(state.averaging, signal, state.target_accept_prob)
            state = state._replace(averaging=averaging, step_size=jnp.exp(averaging.log_step))
        if settings.adapt_metric:
            state = state._replace(window=_record(state.window, after, scores, (flags & RECORD) != 0))
        if settings.search_length:
            whitened = jax.vmap(lambda x: whiten(state.metric, x - state.centre))
            searched = record_jumps(state.search, whitened(before), whitened(after), num_evals)
            search = jax.tree.map(lambda new, old: jnp.where(searching, new, old), searched, state.search)
            state = state._replace(search=search)
        return state, pair[1]

    news = (iteration, flags, before, after, scores, accept_prob, num_evals)
    state, _ = update_if((flags & ADAPT) != 0, learn, (state, news))
    if settings.adapt_metric:
        state = update_if((flags & REFIT) != 0, lambda s: _refit(settings, s), state)
    if settings.search_length:
        state = update_if((flags & SETTLE) != 0, lambda s: _settle_length(settings, s), state)
    if settings.adapt_step_size:
        state = update_if((flags & FREEZE) != 0, _freeze_step_size, state)
    return state


def _record(window: Window, draws: jax.Array, scores: jax.Array, wanted: jax.Array) -> Window:
    slot = window.count % window.draws.shape[1]
    kept = Window(
        window.draws.at[:, slot].set(draws), window.scores.at[:, slot].set(scores), window.count + 1
    )
    return jax.tree.map(lambda new, old: jnp.where(wanted, new, old), kept, window)


def _settle_length(settings: AdaptationSettings, state: Adaptation) -> Adaptation:
    step = jnp.exp(state.averaging.log_average) if settings.adapt_step_size else state.step_size
    return state._replace(length=best_length(state.search), step_size=step, averaging=start_averaging(step))


def _freeze_step_size(state: Adaptation) -> Adaptation:
    return state._replace(step_size=jnp.exp(state.averaging.log_average))
