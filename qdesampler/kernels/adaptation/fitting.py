"""What a warm-up fits from the points it has recorded: metric, trial and coordinates."""

import jax
import jax.numpy as jnp

from qdesampler.kernels.adaptation.imaginary_time import (
    CLEAR,
    GUARD,
    GUARD_SOLVED,
    SHAPELY,
    SOLVED,
    TELLING,
    best_end,
    round_size,
)
from qdesampler.kernels.adaptation.schedule import DESCEND, REFINE, ROUND
from qdesampler.kernels.adaptation.state import POOLED_ROWS, Adaptation, AdaptationSettings, Coordinates
from qdesampler.kernels.mcmc.dual_averaging import start_averaging
from qdesampler.kernels.mcmc.mixture import Window
from qdesampler.numerics.importance_weights import tempered_weights
from qdesampler.numerics.metric import fisher_loss, fit_metric
from qdesampler.numerics.trial import fit_centre, fit_shape, gaussian_trial

__all__ = ["age", "gaussian_step", "pooled_rows", "recentre", "refit"]

# Identity, diagonal, correlated: the loss of the richer must be lower by this factor.
GAIN_TEST = (1.0, 0.95, 0.85)
_CAUTION = 0.8  # step size that is not adapted, as a fraction of what a Gaussian would bear


def gaussian_step(state: Adaptation) -> jax.Array:
    """The step size that a whitened Gaussian of this dimension bears."""
    return jnp.asarray(1.2 * max(state.centre.size, 1) ** -0.25, state.step_size.dtype)


def pooled_rows(window: Window) -> Window:
    """The rows of all chains, or of as many as a fit can use, in one axis."""
    chains, rows, dim = window.draws.shape
    used = min(chains, max(1, -(-POOLED_ROWS // rows)))
    return Window(
        window.draws[:used].reshape(-1, dim),
        window.scores[:used].reshape(-1, dim),
        window.log_weights[:used].reshape(-1),
    )


def age(state: Adaptation) -> jax.Array:
    """How many rows ago each pooled row was written, shape of the pooled rows; huge where never."""
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


def refit(settings: AdaptationSettings, state: Adaptation, flags: jax.Array) -> Adaptation:
    """New metric and trial from the window.

    Draws of the chains choose the metric by the gain test on the later half; secants and candidates of the
    trial fit the correlated kind.
    """
    chains, rows, dim = state.window.draws.shape
    pooled = pooled_rows(state.window)
    draws, scores = pooled.draws, pooled.scores
    descending, rounding = (flags & DESCEND) != 0, (flags & ROUND) != 0
    newest = jnp.where(rounding, 2 * round_size(dim, chains), rows)
    weights = _weights(state, newest)
    early = (age(state) >= jnp.minimum(state.count, rows) / 2).astype(draws.dtype)

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
    solving = (flags & (DESCEND | ROUND | REFINE)) != 0
    choice = jnp.where(solving, 2, choice)
    chosen = jax.tree.map(lambda leaf: leaf[choice], full)
    correlated = jax.tree.map(lambda leaf: leaf[2], full)
    enough = (jnp.sum(weights > 0) >= 4) & (solving | jnp.isfinite(losses[choice]))
    usable = enough & jnp.all(jnp.isfinite(chosen.scale) & (chosen.scale > 0))
    metric = jax.tree.map(lambda new, old: jnp.where(usable, new, old), chosen, state.metric)
    centre = jnp.where(descending, best_end(state.solve)[0], fit_centre(correlated, draws, scores, weights))
    sound = usable & jnp.all(jnp.isfinite(centre))
    # A round in which most candidates had no density was drawn too wide.
    wild = rounding & (jnp.sum(weights > 0) < jnp.minimum(state.count, newest) * (draws.shape[0] / rows) / 2)
    narrowed = state.trial._replace(metric=state.trial.metric._replace(scale=state.trial.metric.scale / 2))
    old = jax.tree.map(lambda a, b: jnp.where(wild, a, b), narrowed, state.trial)
    sound = sound & ~wild
    shaped = fit_shape(gaussian_trial(centre, correlated), draws, weights)
    seeking = rounding & (state.solve.acceptance >= TELLING)
    new = shaped._replace(spread=jnp.where(seeking, jnp.maximum(shaped.spread, state.wide), shaped.spread))
    solved = (state.solve.outcome == SOLVED) & (state.solve.acceptance >= CLEAR)
    plain = descending | solved | (rounding & (state.solve.acceptance < SHAPELY))
    new = jax.tree.map(lambda a, b: jnp.where(plain, a, b), gaussian_trial(centre, correlated), new)
    guard = jnp.where(solved, GUARD_SOLVED, jnp.where(rounding | descending, 0, GUARD))
    new = new._replace(guard=guard.astype(centre.dtype))
    trial = jax.tree.map(lambda new, old: jnp.where(sound, new, old), new, old)
    guess = jnp.where(solving, _CAUTION, 1) * gaussian_step(state)
    # While a trial is refined the metric hardly moves any more, and the step size may have been tuned to it.
    renewed = usable & settings.adapt_step_size & ((flags & REFINE) == 0)
    step = jnp.where(renewed, guess, state.step_size)
    return state._replace(
        metric=metric,
        trial=trial,
        count=jnp.where(rounding, state.count, 0),
        step_size=step,
        averaging=start_averaging(step, settings.search_step_size),
    )


def recentre(
    coordinates: Coordinates, operand: tuple[Adaptation, jax.Array, list[jax.Array]]
) -> tuple[Adaptation, jax.Array, list[jax.Array]]:
    """New fractions from the window, whose points follow into the new coordinates.

    Args:
        coordinates: the coordinates of the moves.
        operand: what is known, the flags of the row, `coordinates.dynamic`; returned with the first changed.
    """
    state, flags, dynamic = operand
    chains, rows, dim = state.window.draws.shape
    newest = jnp.where((flags & ROUND) != 0, 2 * round_size(dim, chains), rows)
    pooled = pooled_rows(state.window)
    weights = _weights(state, newest)
    keep = (weights > 0)[:, None]
    fractions, draws, scores = coordinates.recentre(
        dynamic, state.fractions, jnp.where(keep, pooled.draws, state.trial.centre), pooled.scores, weights
    )
    used = draws.shape[0] // rows
    sound = keep[:, 0] & jnp.all(jnp.isfinite(draws) & jnp.isfinite(scores), axis=1)
    window = Window(
        state.window.draws.at[:used].set(draws.reshape(used, rows, dim)),
        state.window.scores.at[:used].set(scores.reshape(used, rows, dim)),
        state.window.log_weights.at[:used].set(
            jnp.where(sound, pooled.log_weights, -jnp.inf).reshape(used, rows)
        ),
    )
    told = ((flags & ROUND) == 0) | (state.solve.acceptance >= TELLING)
    fractions, window = jax.tree.map(
        lambda new, old: jnp.where(told, new, old), (fractions, window), (state.fractions, state.window)
    )
    return state._replace(fractions=fractions, window=window), flags, dynamic
