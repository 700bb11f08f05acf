"""The Gaussian of least energy under a Boltzmann Hamiltonian: modes by mass, then closed-form steps."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.numerics.importance_weights import independence_time, tempered_weights
from qdesampler.numerics.metric import (
    DENSE_UP_TO,
    Metric,
    identity_metric,
    to_position,
    to_whitened_gradient,
    whiten,
)
from qdesampler.solvers.gaussian.starts import LOST, Ends, log_weight
from qdesampler.solvers.gaussian.step import least_energy_step
from qdesampler.solvers.gaussian.wavefunction import (
    GaussianWavefunction,
    kinetic_energy,
    log_gaussian,
    precision_factor,
)
from qdesampler.solvers.protocol import NoGroundStateError

__all__ = ["GaussianSettings", "certify", "check_bounded", "solve_boltzmann"]

_LOCAL_ROUNDS = 3  # before the masses of several modes are compared
_SAME = 4.0  # squared whitened distance within which two modes are one (in many dimensions dim / 4)
_WILD = 1e15  # whitened score beyond which a point is dropped as if it were not finite
_POOLED_ROWS = 4096  # points that a fit uses at most, unless two rounds have more
_FEWEST_CERTIFIED = 128  # draws that the final numbers are estimated from, at least


class GaussianSettings(NamedTuple):
    """The settings of the rounds, described in `GaussianTrial`."""

    rank: int
    rounds: int
    candidates: int
    tolerance: float


class Candidates(NamedTuple):
    """Draws from a trial, evaluated under the target; a batch has a leading axis.

    Attributes:
        position: shape `(dim,)`.
        score: `grad log p`.
        log_weight: `log p - log q`; `-inf` where density or score is not finite, or the score is wild.
        energy: `(D/4) |grad log q - grad log p|^2`.
    """

    position: jax.Array
    score: jax.Array
    log_weight: jax.Array
    energy: jax.Array


class _RecentRounds(NamedTuple):
    """The latest rounds of candidates, newest first, shape `(kept, n, ...)`."""

    position: jax.Array
    score: jax.Array
    log_weight: jax.Array


@functools.partial(jax.jit, static_argnames=("count",))
def _draw(hamiltonian: Hamiltonian, psi: GaussianWavefunction, key: jax.Array, count: int) -> Candidates:
    metric = psi.metric

    def one(y):
        x = psi.centre + to_position(metric, y)
        value, score = jax.value_and_grad(lambda x: log_weight(hamiltonian, x))(x)
        whitened = to_whitened_gradient(metric, score)
        sound = jnp.isfinite(value) & (jnp.max(jnp.abs(whitened)) < _WILD)
        difference = precision_factor(metric, jnp.where(sound, whitened + y, 0))
        weight = jnp.where(sound, value - log_gaussian(metric, y), -jnp.inf)
        return Candidates(x, score, weight, 0.25 * hamiltonian.diffusion * difference @ difference)

    return jax.vmap(one)(jax.random.normal(key, (count, psi.dim), psi.centre.dtype))


@jax.jit
def _improve(psi: GaussianWavefunction, recent: _RecentRounds, newest: jax.Array):
    """The trial fitted to the `newest` rounds, and how far it moved: root mean square whitened distance."""
    kept, count, dim = recent.position.shape
    log_weights = recent.log_weight.reshape(-1)
    valid = jnp.repeat(jnp.arange(kept) < newest, count) & jnp.isfinite(log_weights)
    number = jnp.sum(valid).astype(log_weights.dtype)
    if 0 < psi.metric.stretch.size < dim:
        weights = valid.astype(log_weights.dtype)  # with few points for each dimension, p / q is mostly noise
    else:
        target = jnp.maximum(0.5 * number, jnp.minimum(number, dim + 2))
        weights = tempered_weights(log_weights, valid, target)
    rows = (recent.position.reshape(-1, dim), recent.score.reshape(-1, dim))
    centre, metric = least_energy_step(psi.centre, psi.metric, *rows, weights)
    probes = jax.random.normal(jax.random.key(0), (min(dim, 64), dim), centre.dtype)

    def moved(y):
        return whiten(psi.metric, centre - psi.centre + to_position(metric, y)) - y

    return GaussianWavefunction(centre, metric), jnp.sqrt(jnp.mean(jnp.sum(jax.vmap(moved)(probes) ** 2, 1)))


@jax.jit
def _from_curvature(hamiltonian: Hamiltonian, end: jax.Array, pairs: tuple, blank: Metric):
    """The Gaussian of covariance `|hess log p|^-1` at an end, fitted to secants if that is not finite."""
    hessian = jax.hessian(lambda x: log_weight(hamiltonian, x))(end)
    moves = jnp.concatenate([jnp.eye(end.size), -jnp.eye(end.size)]).astype(end.dtype)
    scores = jnp.concatenate([hessian, -hessian])
    sound = jnp.all(jnp.isfinite(hessian))
    exact = least_energy_step(
        jnp.zeros_like(end), blank, moves, scores, jnp.ones((2 * end.size,), end.dtype), 1.0
    )[1]
    metric = jax.tree.map(lambda a, b: jnp.where(sound, a, b), exact, _from_secants(end, pairs, blank).metric)
    return GaussianWavefunction(end, metric)


@jax.jit
def _from_secants(end: jax.Array, pairs: tuple[jax.Array, ...], blank: Metric) -> GaussianWavefunction:
    moves, scores, weights = pairs
    return GaussianWavefunction(
        end, least_energy_step(jnp.zeros_like(end), blank, moves, scores, weights, 1.0)[1]
    )


@jax.jit
def certify(candidates: Candidates) -> dict[str, jax.Array]:
    """Energy, evidence lower bound, acceptance and independence time of the trial that drew `candidates`."""
    finite = jnp.isfinite(candidates.log_weight)
    number = jnp.maximum(jnp.sum(finite), 1)

    def mean(values):
        values = jnp.where(finite, values, 0)
        average = jnp.sum(values) / number
        spread = jnp.sum(jnp.where(finite, values - average, 0) ** 2)
        return average, jnp.sqrt(spread / jnp.maximum(number - 1, 1) / number)

    time, acceptance = independence_time(candidates.log_weight, jnp.ones_like(finite))
    (energy, energy_error), (bound, bound_error) = mean(candidates.energy), mean(candidates.log_weight)
    # If some draws have no density, this is the bound of the trial restricted to the others.
    bound = bound + jnp.log(jnp.mean(finite))
    return {
        "energy": energy,
        "energy_standard_error": energy_error,
        "evidence_lower_bound": bound,
        "evidence_lower_bound_error": bound_error,
        "acceptance": acceptance,
        "independence_time": time,
        "finite_share": jnp.mean(finite),
    }


def check_bounded(psi: GaussianWavefunction, most_width: float = LOST) -> None:
    """Refuse a trial that grows without bound.

    Raises:
        NoGroundStateError: a width is above `most_width`, or the ratio of two too large for the arithmetic.
    """
    scale, stretch = np.asarray(psi.metric.scale), np.asarray(psi.metric.stretch)
    widest = float(np.max(scale) * np.max(stretch, initial=1.0))
    ratio = float(np.max(stretch, initial=1.0) / np.min(stretch, initial=1.0))
    most = 0.1 / float(np.finfo(scale.dtype).eps)
    centre = float(np.max(np.abs(np.asarray(psi.centre))))
    if widest < most_width and ratio < most and centre < LOST:
        return
    raise NoGroundStateError(
        f"no normalisable ground state: the trial grows without bound (largest width {widest:.3g}, ratio of "
        f"widths {ratio:.3g}, centre at {centre:.3g}). The target is flat in some direction, improper or "
        "unbounded: give every coordinate a proper prior (a confining potential), or, if it is only "
        "ill-conditioned, rescale it or enable jax x64."
    )


class _Search:
    """The rounds of one trial, with counts of rounds and evaluations."""

    def __init__(self, hamiltonian: Hamiltonian, settings: GaussianSettings, psi: GaussianWavefunction):
        self.hamiltonian, self.settings, self.psi = hamiltonian, settings, psi
        self.rounds = self.evaluations = self.wild = self.filled = 0
        self.change = np.inf
        count, dim = settings.candidates, psi.dim
        kept = int(np.clip(_POOLED_ROWS // count, 2, max(2, -(-settings.rounds // 2))))
        dtype = psi.centre.dtype
        self.recent = _RecentRounds(
            jnp.zeros((kept, count, dim), dtype),
            jnp.zeros((kept, count, dim), dtype),
            jnp.full((kept, count), -jnp.inf, dtype),
        )
        self.latest: Candidates | None = None

    def draw(self, key: jax.Array, count: int) -> Candidates:
        self.evaluations += count
        return _draw(self.hamiltonian, self.psi, key, count)

    def round(self, key: jax.Array) -> None:
        """Draw candidates and take one step; where most are not finite, halve the widths instead."""
        latest = self.latest = self.draw(key, self.settings.candidates)
        self.rounds += 1
        if int(jnp.sum(jnp.isfinite(latest.log_weight))) < self.settings.candidates / 2:
            self.wild, self.filled, self.change = self.wild + 1, 0, np.inf
            metric = self.psi.metric
            self.psi = GaussianWavefunction(self.psi.centre, metric._replace(scale=metric.scale / 2))
            return
        kept = self.recent.log_weight.shape[0]
        self.recent = _RecentRounds(
            *(
                jnp.concatenate([new[None], old[:-1]])
                for new, old in zip(latest[:3], self.recent, strict=True)
            )
        )
        self.filled = min(self.filled + 1, kept)
        # Fit the later half of the rounds: the early ones were drawn from trials far away.
        newest = min(self.filled, (self.rounds + 1) // 2)
        if 0 < self.settings.rank < self.psi.dim:
            newest = min(newest, 2)  # a low-rank fit is not exact: distant points would slow it down
        self.psi, change = _improve(self.psi, self.recent, jnp.asarray(newest))
        self.change = float(change)
        check_bounded(self.psi)


def _distinct(trials: list[GaussianWavefunction]) -> list[int]:
    """Indices of the first of each group of trials that lie within each other."""
    kept: list[int] = []
    for i, trial in enumerate(trials):
        for j in kept:
            offset = trial.centre - trials[j].centre
            near = min(float(jnp.sum(whiten(t.metric, offset) ** 2)) for t in (trial, trials[j]))
            if near <= max(_SAME, 0.25 * trial.dim):
                break
        else:
            kept.append(i)
    return kept


def solve_boltzmann(
    hamiltonian: Hamiltonian, key: jax.Array, ends: Ends, settings: GaussianSettings
) -> tuple[GaussianWavefunction, dict[str, Any]]:
    """The Gaussian of least energy, and the diagnostics of its search.

    Raises:
        NoGroundStateError: the trial grows without bound, or has no point of finite density.
    """
    key_rounds, key_modes, key_last = jax.random.split(key, 3)
    blank = identity_metric(hamiltonian.dim, settings.rank)
    trials, spent = [], 0
    for i, end in enumerate(ends.positions):
        pairs = tuple(part[i] for part in ends.pairs)
        if hamiltonian.dim <= DENSE_UP_TO:  # beyond, the secants of the descent replace the Hessian
            trials.append(_from_curvature(hamiltonian, end, pairs, blank))
            spent += hamiltonian.dim
        else:
            trials.append(_from_secants(end, pairs, blank))
    searches = [_Search(hamiltonian, settings, trials[i]) for i in _distinct(trials)]
    masses = [np.nan]
    if len(searches) > 1:
        for i, search in enumerate(searches):
            for k in range(_LOCAL_ROUNDS):
                search.round(jax.random.fold_in(key_modes, i * _LOCAL_ROUNDS + k))
        spent += sum(search.evaluations for search in searches)
        searches = [searches[i] for i in _distinct([search.psi for search in searches])]
        masses = [float(certify(search.latest)["evidence_lower_bound"]) for search in searches]
    best = int(np.nanargmax(masses)) if len(searches) > 1 else 0
    search = searches[best]
    spent -= search.evaluations  # they are added below
    while search.rounds < settings.rounds:
        search.round(jax.random.fold_in(key_rounds, search.rounds))
        if search.rounds > 1 and search.change <= settings.tolerance:
            break
    last = search.draw(key_last, max(_FEWEST_CERTIFIED, settings.candidates))
    certificate = certify(last)
    if float(certificate["finite_share"]) == 0:
        raise NoGroundStateError(
            f"none of {settings.candidates} points of the trial has a finite log density and gradient, after "
            f"{search.wild} rounds whose widths were cut; check log_p for NaN, or give a start inside."
        )
    if len(searches) == 1:
        masses = [float(certificate["evidence_lower_bound"])]
    return search.psi, {
        **certificate,
        "kinetic_energy": kinetic_energy(hamiltonian, search.psi.metric),
        "evaluations": ends.evaluations + spent + search.evaluations,
        "rounds": search.rounds,
        "wild_rounds": search.wild,
        "change": search.change,
        "converged": search.change <= settings.tolerance,
        "modes": jnp.stack([other.psi.centre for other in searches]),
        "mode_log_masses": jnp.asarray(masses),
    }
