"""What a warm-up fits to the points it has recorded: metric, trial and coordinates."""

import jax
import jax.numpy as jnp

from qdesampler.kernels.adaptation.imaginary_time import (
    CLEAR,
    DEFENSIVE_WEIGHT,
    DEFENSIVE_WEIGHT_SOLVED,
    INFORMATIVE,
    SKEW_VISIBLE,
    SOLVED,
    best_end,
    round_size,
)
from qdesampler.kernels.adaptation.schedule import Row, has
from qdesampler.kernels.adaptation.state import POOLED_ROWS, Adaptation, AdaptationSettings, Coordinates
from qdesampler.kernels.mcmc.dual_averaging import start_averaging
from qdesampler.kernels.mcmc.mixture import FitWindow
from qdesampler.kernels.mcmc.trajectory import gaussian_step_size
from qdesampler.numerics.importance_weights import tempered_weights
from qdesampler.numerics.metric import Metric, fisher_loss, fit_metric
from qdesampler.numerics.trial import Trial, fit_centre, fit_skew, gaussian_trial

__all__ = ["age", "gaussian_step", "pooled_rows", "recentre", "refit"]

# Factors by which the losses of the identity, the diagonal and the correlated metric are divided before they
# are compared: the more general metric must be better by this much.
GAIN_TEST = (1.0, 0.95, 0.85)
_CAUTION = 0.8  # step size that is not adapted, relative to the one that a Gaussian allows
_FEWEST_POINTS = 4  # a fit needs so many points with weight


def gaussian_step(state: Adaptation) -> jax.Array:
    """The step size that a whitened Gaussian of this dimension allows."""
    return jnp.asarray(gaussian_step_size(state.centre.size), state.step_size.dtype)


def pooled_rows(window: FitWindow) -> FitWindow:
    """The rows of all chains, or of as many chains as a fit can use, on one axis."""
    chains, rows, dim = window.draws.shape
    used = min(chains, max(1, -(-POOLED_ROWS // rows)))
    return FitWindow(
        window.draws[:used].reshape(-1, dim),
        window.scores[:used].reshape(-1, dim),
        window.log_weights[:used].reshape(-1),
    )


def age(state: Adaptation) -> jax.Array:
    """How many rows ago each pooled row was written, shape of the pooled rows; huge for an empty row."""
    rows = state.window.draws.shape[1]
    row = jnp.arange(rows)
    age = (state.count - 1 - row) % rows
    age = jnp.where(row < state.count, age, rows + 1)
    return jnp.tile(age, pooled_rows(state.window).log_weights.size // rows)


def _weights(state: Adaptation, newest: jax.Array) -> jax.Array:
    """Fit weights of the pooled rows written among the `newest` last ones of each chain."""
    pooled = pooled_rows(state.window)
    dim = pooled.draws.shape[1]
    valid = (
        (age(state) < newest)
        & jnp.isfinite(pooled.log_weights)
        & jnp.all(jnp.isfinite(pooled.draws) & jnp.isfinite(pooled.scores), axis=1)
    )
    number = jnp.sum(valid)
    return tempered_weights(
        pooled.log_weights, valid, jnp.maximum(0.5 * number, jnp.minimum(number, dim + 2))
    )


def _fit_kinds(
    settings: AdaptationSettings, state: Adaptation, weights: jax.Array
) -> tuple[Metric, jax.Array]:
    """Metrics of the three kinds, stacked, fitted to all rows; and the losses of a gain test.

    For the test they are fitted to the earlier half of the rows and judged on the later half.
    """
    rows = state.window.draws.shape[1]
    draws, scores, _ = pooled_rows(state.window)
    early = (age(state) >= jnp.minimum(state.count, rows) / 2).astype(draws.dtype)

    def fit(weights):
        kinds = fit_metric(
            draws,
            scores,
            weights,
            state.metric,
            settings.blocks,
            settings.block_rank,
            regularize=settings.regularize,
        )
        return jax.tree.map(lambda *each: jnp.stack(each), *kinds)

    # A loop and not two calls: the decompositions are compiled once.
    fitted = jax.lax.map(fit, jnp.stack([weights * early, weights]))
    trained, full = (jax.tree.map(lambda leaf, k=k: leaf[k], fitted) for k in range(2))
    losses = jax.vmap(lambda metric: fisher_loss(metric, draws, scores, weights * (1 - early)))(trained)
    return full, losses


def _new_trial(
    state: Adaptation, flags: jax.Array, centre: jax.Array, correlated: Metric, weights: jax.Array
) -> Trial:
    """The trial of these rows: skewed where the weights of its proposals show that much."""
    descending, rounding = has(flags, Row.DESCEND), has(flags, Row.ROUND)
    skewed = fit_skew(gaussian_trial(centre, correlated), pooled_rows(state.window).draws, weights)
    seeking = rounding & (state.solve.acceptance >= INFORMATIVE)
    new = skewed._replace(
        width=jnp.where(seeking, jnp.maximum(skewed.width, state.proposal_widths), skewed.width)
    )
    solved = (state.solve.outcome == SOLVED) & (state.solve.acceptance >= CLEAR)
    gaussian = descending | solved | (rounding & (state.solve.acceptance < SKEW_VISIBLE))
    new = jax.tree.map(lambda a, b: jnp.where(gaussian, a, b), gaussian_trial(centre, correlated), new)
    defensive = jnp.where(
        solved, DEFENSIVE_WEIGHT_SOLVED, jnp.where(rounding | descending, 0, DEFENSIVE_WEIGHT)
    )
    return new._replace(defensive_weight=defensive.astype(centre.dtype))


def refit(settings: AdaptationSettings, state: Adaptation, flags: jax.Array) -> Adaptation:
    """New metric and trial from the window.

    Draws of the chains choose the kind of metric by the gain test. Secants of descents and proposals of the
    trial fit the correlated kind.
    """
    chains, rows, dim = state.window.draws.shape
    draws, scores, _ = pooled_rows(state.window)
    descending, rounding = has(flags, Row.DESCEND), has(flags, Row.ROUND)
    newest = jnp.where(rounding, 2 * round_size(dim, chains), rows)
    weights = _weights(state, newest)
    full, losses = _fit_kinds(settings, state, weights)
    choice = jnp.argmin(losses / jnp.asarray(GAIN_TEST, losses.dtype))
    if settings.force_blocks:
        choice = jnp.where(jnp.isfinite(losses[2]), 2, choice)
    solving = has(flags, Row.DESCEND | Row.ROUND | Row.REFINE)
    choice = jnp.where(solving, 2, choice)
    chosen = jax.tree.map(lambda leaf: leaf[choice], full)
    correlated = jax.tree.map(lambda leaf: leaf[2], full)
    enough = (jnp.sum(weights > 0) >= _FEWEST_POINTS) & (solving | jnp.isfinite(losses[choice]))
    usable = enough & jnp.all(jnp.isfinite(chosen.scale) & (chosen.scale > 0))
    metric = jax.tree.map(lambda new, old: jnp.where(usable, new, old), chosen, state.metric)
    centre = jnp.where(descending, best_end(state.solve)[0], fit_centre(correlated, draws, scores, weights))
    sound = usable & jnp.all(jnp.isfinite(centre))
    # If most proposals of a round have no density, the trial is too wide: it is narrowed, not fitted.
    wild = rounding & (jnp.sum(weights > 0) < jnp.minimum(state.count, newest) * (draws.shape[0] / rows) / 2)
    narrowed = state.trial._replace(metric=state.trial.metric._replace(scale=state.trial.metric.scale / 2))
    old = jax.tree.map(lambda a, b: jnp.where(wild, a, b), narrowed, state.trial)
    sound = sound & ~wild
    new = _new_trial(state, flags, centre, correlated, weights)
    trial = jax.tree.map(lambda new, old: jnp.where(sound, new, old), new, old)
    guess = jnp.where(solving, _CAUTION, 1) * gaussian_step(state)
    # While a trial is refined the metric hardly changes, and the step size may have been tuned to it.
    renewed = usable & settings.adapt_step_size & ((flags & int(Row.REFINE)) == 0)
    step = jnp.where(renewed, guess, state.step_size)
    return state._replace(
        metric=metric,
        trial=trial,
        count=jnp.where(rounding, state.count, 0),
        step_size=step,
        averaging=start_averaging(step, search=settings.search_step_size),
    )


def recentre(
    coordinates: Coordinates, state: Adaptation, flags: jax.Array, dynamic: list[jax.Array]
) -> Adaptation:
    """New centredness from the window, and its points in the new coordinates.

    Args:
        coordinates: the coordinates of the moves.
        state: the adaptation.
        flags: the row of the plan.
        dynamic: `coordinates.dynamic`.
    """
    chains, rows, dim = state.window.draws.shape
    newest = jnp.where(has(flags, Row.ROUND), 2 * round_size(dim, chains), rows)
    pooled = pooled_rows(state.window)
    weights = _weights(state, newest)
    keep = (weights > 0)[:, None]
    centredness, draws, scores = coordinates.recentre(
        dynamic, state.centredness, jnp.where(keep, pooled.draws, state.trial.centre), pooled.scores, weights
    )
    used = draws.shape[0] // rows
    sound = keep[:, 0] & jnp.all(jnp.isfinite(draws) & jnp.isfinite(scores), axis=1)
    window = FitWindow(
        state.window.draws.at[:used].set(draws.reshape(used, rows, dim)),
        state.window.scores.at[:used].set(scores.reshape(used, rows, dim)),
        state.window.log_weights.at[:used].set(
            jnp.where(sound, pooled.log_weights, -jnp.inf).reshape(used, rows)
        ),
    )
    informed = ((flags & int(Row.ROUND)) == 0) | (state.solve.acceptance >= INFORMATIVE)
    centredness, window = jax.tree.map(
        lambda new, old: jnp.where(informed, new, old),
        (centredness, window),
        (state.centredness, state.window),
    )
    return state._replace(centredness=centredness, window=window)
