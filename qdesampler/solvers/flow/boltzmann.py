r"""Training a flow on the energy of a Boltzmann Hamiltonian, by scored points that are reused.

With the flow `x = T(u)`, `u ~ N(0, I)`, the energy density `|grad log q - grad log p|^2` may be measured in
any coordinates. In those of `u`, where `q` is the standard normal law,

    r(x) = J^T (grad log p - grad log q)(x) = grad_u [log p(T(u)) + log |det J(u)| + |u|^2 / 2],   J = dT/du,

it does not grow where `p` is narrow, whereas the energy itself grows without bound in the neck of a funnel.
It needs only `grad log p` at points `x`, so a scored point serves every step of training. The points come
from all trials so far, weighted by a power of `p / q` (`q` the mixture of those trials) that keeps some of
them effective: imaginary time in rounds "draw from the trial, score, store, train on all". (Seyboldt, Carlson
and Carpenter 2026 train flows on this loss for preconditioning; the weights are our addition.)
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.numerics.importance_weights import tempered_weights
from qdesampler.numerics.metric import to_whitened_gradient, whiten
from qdesampler.solvers.flow.start import EFFECTIVE
from qdesampler.solvers.flow.training import minimise
from qdesampler.solvers.flow.wavefunction import FlowWavefunction
from qdesampler.solvers.gaussian.boltzmann import Candidates, certify
from qdesampler.solvers.gaussian.starts import LOST, log_weight
from qdesampler.solvers.protocol import NoGroundStateError

__all__ = ["FlowSettings", "solve_boltzmann"]

_GROWTH = 1.5  # ratio of the sizes of consecutive rounds
_CHUNK = 128  # points drawn at once; the size of a round is a multiple
_SETTLED = 0.01  # nats of evidence lower bound that two rounds must gain to continue
_CERTIFIED = 8  # chunks of draws that the final numbers are estimated from
_WORTH = 1.2  # acceptance relative to the Gaussian's, above which the flow is worth its cost
_LEAST = 20.0  # nats below the median at which log weights are cut off in the robust bound


class FlowSettings(NamedTuple):
    """The settings of training, described in `FlowTrial`."""

    evaluations: int
    rounds: int
    steps: int
    batch: int
    rate: float
    acceptance: float


class _Pool(NamedTuple):
    """Scored points in the coordinates that the start whitens.

    Attributes:
        position: shape `(capacity, dim)`; rows beyond the points so far are blank.
        score: `grad log p` there.
        log_density: `log p`, up to a constant; `-inf` where it is not finite and in blank rows.
        log_trials: `log q` of every trial so far, shape `(trials, capacity)`.
        sizes: number of points that each trial drew, shape `(trials,)`.
    """

    position: jax.Array
    score: jax.Array
    log_density: jax.Array
    log_trials: jax.Array
    sizes: jax.Array


class _RoundRecord(NamedTuple):
    """Estimates from the fresh draws of a round, of the flow that drew them.

    Attributes:
        bound: evidence lower bound, with very low log weights cut off.
        acceptance: as a proposal of independence Metropolis.
        evaluations: spent so far.
    """

    bound: float
    acceptance: float
    evaluations: int


def _standard(psi: FlowWavefunction) -> FlowWavefunction:
    """The flow in the coordinates that its start whitens."""
    gaussian = psi.gaussian
    metric = jax.tree.map(jnp.ones_like, gaussian.metric)._replace(
        basis=jnp.zeros_like(gaussian.metric.basis)
    )
    return dataclasses.replace(
        psi, gaussian=dataclasses.replace(gaussian, centre=jnp.zeros_like(gaussian.centre), metric=metric)
    )


@jax.jit
def _log_trial(psi: FlowWavefunction, positions: jax.Array) -> jax.Array:
    return 2 * jax.vmap(psi.log_psi)(positions)


def _residual(psi: FlowWavefunction, position: jax.Array, score: jax.Array) -> jax.Array:
    """`r` at one point, shape `(dim,)`; `psi` in standard coordinates."""
    u = psi.pull(position)[0]

    def log_ratio(u):
        y, log_q = psi.push(u)
        return score @ y - log_q

    return jax.grad(log_ratio)(u)


def _loss(numbers: Any, key: jax.Array, psi: FlowWavefunction, pool: _Pool, levels: jax.Array, strata):
    """Mean of `sqrt(1 + |r|^2 / dim) - 1` over a weighted batch: far points pull, but not squared.

    Args:
        numbers: of the flow.
        key: of the batch.
        psi: the flow in standard coordinates.
        pool: scored points.
        levels: cumulative weights of the points, from 0 to 1.
        strata: `k / batch`, one point is drawn from each interval of the weights.
    """
    flow = dataclasses.replace(psi, numbers=numbers)
    shifts = jax.random.uniform(key, strata.shape, strata.dtype) / strata.size
    chosen = jnp.minimum(jnp.searchsorted(levels, strata + shifts), levels.size - 1)
    residual = jax.vmap(lambda x, a: _residual(flow, x, a))(pool.position[chosen], pool.score[chosen])
    return jnp.mean(jnp.sqrt(1 + jnp.mean(residual**2, 1)) - 1)


@jax.jit
def _levels(pool: _Pool) -> jax.Array:
    """Cumulative tempered weights `p / q` of the pool, `q` the mixture of the trials that drew it."""
    log_fractions = jnp.log(pool.sizes / jnp.sum(pool.sizes))
    mixture = jax.scipy.special.logsumexp(pool.log_trials + log_fractions[:, None], axis=0)
    log_weights = jnp.where(jnp.isfinite(pool.log_density), pool.log_density - mixture, -jnp.inf)
    valid = jnp.isfinite(log_weights)
    weights = tempered_weights(log_weights, valid, EFFECTIVE * jnp.sum(valid))
    return jnp.cumsum(weights) / jnp.sum(weights)


@functools.partial(jax.jit, static_argnames=("count",))
def _draw(hamiltonian: Hamiltonian, psi: FlowWavefunction, key: jax.Array, count: int) -> Candidates:
    def one(u):
        x, log_q = psi.push(u)
        value, score = jax.value_and_grad(lambda x: log_weight(hamiltonian, x))(x)
        difference = 2 * jax.grad(psi.log_psi)(x) - score
        energy = 0.25 * hamiltonian.diffusion * difference @ difference
        sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(score)) & jnp.isfinite(log_q + energy)
        weight = jnp.where(sound, value - log_q, -jnp.inf)
        return Candidates(x, jnp.where(sound, score, 0), weight, jnp.where(sound, energy, 0))

    return jax.vmap(one)(jax.random.normal(key, (count, psi.dim), psi.gaussian.centre.dtype))


def _draw_round(hamiltonian, psi: FlowWavefunction, key: jax.Array, chunks: int) -> Candidates:
    parts = [_draw(hamiltonian, psi, jax.random.fold_in(key, i), _CHUNK) for i in range(chunks)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


@jax.jit
def _robust_bound(log_weights: jax.Array) -> jax.Array:
    """The evidence lower bound, with very low log weights cut off."""
    finite = jnp.isfinite(log_weights)
    middle = jnp.nanmedian(jnp.where(finite, log_weights, jnp.nan))
    return jnp.mean(jnp.where(finite, jnp.maximum(log_weights, middle - _LEAST), middle - _LEAST))


@jax.jit
def _acceptance(candidates: jax.Array, present: jax.Array, weights: jax.Array) -> jax.Array:
    """`E_p min(1, w(x') / w(x))` of log weights of candidates, and of weighted points that stand for `p`."""
    usable = (weights > 0) & jnp.isfinite(present)
    ratio = jnp.exp(jnp.minimum(candidates[None, :] - jnp.where(usable, present, 0)[:, None], 0))
    weights = jnp.where(usable, weights, 0)
    total = jnp.maximum(jnp.sum(weights), jnp.finfo(weights.dtype).tiny)
    return jnp.sum(weights * jnp.mean(ratio, 1)) / total


def _check(drawn: Candidates, *, first: bool) -> None:
    if first and not bool(jnp.any(jnp.isfinite(drawn.log_weight))):
        raise NoGroundStateError(
            f"none of {drawn.log_weight.size} points of the Gaussian that the flow starts from has a finite "
            "log density and gradient; check log_p for NaN, or give another start."
        )
    far = float(jnp.max(jnp.where(jnp.isfinite(drawn.position), jnp.abs(drawn.position), 0)))
    if far > LOST:
        raise NoGroundStateError(
            f"no normalisable ground state: the flow spreads without bound, a draw came to |x| = {far:.3g}. "
            "Give every coordinate a proper prior (a confining potential)."
        )


def _compare(psi: FlowWavefunction, last: Candidates, of_gaussian: Candidates) -> dict[str, Any]:
    """The flow against the Gaussian it started from, on the flow's draws weighted to stand for `p`."""
    log_density = last.log_weight + _log_trial(psi, last.position)
    present = log_density - 2 * jax.vmap(psi.gaussian.log_psi)(last.position)
    weights = jnp.exp(last.log_weight - jnp.max(last.log_weight))
    flow = float(_acceptance(last.log_weight, last.log_weight, weights))
    gaussian = float(_acceptance(of_gaussian.log_weight, present, weights))
    return {"gaussian_acceptance": gaussian, "pays": flow > _WORTH * gaussian}


def _fill(pool: _Pool, psi: FlowWavefunction, drawn: Candidates, first: int) -> _Pool:
    """The pool with new points in the rows from `first` on."""
    gaussian, rows = psi.gaussian, slice(first, first + drawn.log_weight.size)
    sound = jnp.isfinite(drawn.log_weight)
    log_q = _log_trial(psi, drawn.position)
    at = jnp.where(sound[:, None], drawn.position, gaussian.centre)
    return pool._replace(
        position=pool.position.at[rows].set(
            jax.vmap(lambda x: whiten(gaussian.metric, x - gaussian.centre))(at)
        ),
        score=pool.score.at[rows].set(
            jax.vmap(lambda a: to_whitened_gradient(gaussian.metric, a))(drawn.score)
        ),
        log_density=pool.log_density.at[rows].set(jnp.where(sound, drawn.log_weight + log_q, -jnp.inf)),
    )


def solve_boltzmann(
    hamiltonian: Hamiltonian, key: jax.Array, psi: FlowWavefunction, settings: FlowSettings
) -> tuple[FlowWavefunction, dict[str, Any]]:
    """The flow with the highest evidence lower bound on held-out draws, and its diagnostics.

    Raises:
        NoGroundStateError: no draw of the start is finite, or draws run away.
    """
    chunks = np.maximum(1, _GROWTH ** np.arange(settings.rounds))
    chunks = np.maximum(1, (chunks / chunks.sum() * settings.evaluations / _CHUNK).astype(int))
    capacity, dim, dtype = int(chunks.sum()) * _CHUNK, psi.dim, psi.gaussian.centre.dtype
    blank = jnp.zeros((capacity, dim), dtype)
    nothing = jnp.full((capacity,), -jnp.inf, dtype)
    trials_before = jnp.full((settings.rounds, capacity), -jnp.inf, dtype)
    pool = _Pool(blank, blank, nothing, trials_before, jnp.zeros((settings.rounds,), dtype))
    strata = jnp.arange(settings.batch, dtype=dtype) / settings.batch
    standard = _standard(psi)
    trials, losses, filled, converged = [], [], 0, False
    history: list[_RoundRecord] = []
    of_start: Any = None  # the first draws, of the Gaussian
    for i in range(settings.rounds + 1):
        key, key_draw, key_fit = jax.random.split(key, 3)
        size = int(chunks[i]) if i < settings.rounds else _CERTIFIED
        drawn = _draw_round(hamiltonian, psi, key_draw, size)
        _check(drawn, first=i == 0)
        of_start = drawn if i == 0 else of_start
        filled_before, filled = filled, filled + drawn.log_weight.size
        trials.append(psi)
        certificate = certify(drawn)
        bound = float(_robust_bound(drawn.log_weight))
        history.append(_RoundRecord(bound, float(certificate["acceptance"]), filled))
        converged = i > 1 and min(record.acceptance for record in history[-2:]) >= settings.acceptance
        settled = i > 3 and bound < max(record.bound for record in history[:-2]) + _SETTLED
        if converged or settled or i == settings.rounds:
            break
        pool = _fill(pool, psi, drawn, filled_before)
        flows = [dataclasses.replace(standard, numbers=trial.numbers) for trial in trials]
        log_trials = pool.log_trials
        for j, flow in enumerate(flows):
            log_trials = log_trials.at[j].set(_log_trial(flow, pool.position))
        pool = pool._replace(log_trials=log_trials, sizes=pool.sizes.at[i].set(drawn.log_weight.size))
        numbers, loss = minimise(
            _loss, psi.numbers, key_fit, settings.steps, settings.rate, standard, pool, _levels(pool), strata
        )
        losses.append(float(loss[-1]))
        psi = dataclasses.replace(psi, numbers=numbers)
    best = int(np.argmax([record.bound for record in history]))
    psi = trials[best]
    key, key_last = jax.random.split(key)
    last = _draw_round(hamiltonian, psi, key_last, _CERTIFIED)
    found = certify(last)
    return psi, {
        **found,
        **_compare(psi, last, of_start),
        "evaluations": filled + last.log_weight.size,
        "rounds": len(losses),
        "best_round": best,
        "converged": converged,
        "history": {
            "evaluations": jnp.asarray([record.evaluations for record in history]),
            "held_out_bound": jnp.asarray([record.bound for record in history]),
            "held_out_acceptance": jnp.asarray([record.acceptance for record in history]),
            "loss": jnp.asarray(losses),
        },
    }
