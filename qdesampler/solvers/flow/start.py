r"""The Gaussian that a flow starts from, found without descents.

The densest point of a funnel is far from its mass, or does not exist, and a search that begins there does not
return to the mass. So these rounds begin at `N(0, I)` in the model's coordinates: draw, evaluate the score,
and take one closed-form step (`qdesampler.solvers.gaussian.step`) from the latest rounds with tempered
weights (`qdesampler.numerics.importance_weights`). If the target is too far or too stiff for that, the result
is None, and descents are the better start.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.numerics.importance_weights import tempered_weights
from qdesampler.numerics.metric import DENSE_UP_TO, identity_metric, to_position, to_whitened_gradient
from qdesampler.solvers.gaussian.boltzmann import check_bounded
from qdesampler.solvers.gaussian.starts import log_weight
from qdesampler.solvers.gaussian.step import LOW_RANK, least_energy_step
from qdesampler.solvers.gaussian.wavefunction import GaussianWavefunction, log_gaussian
from qdesampler.solvers.protocol import NoGroundStateError

__all__ = ["EFFECTIVE", "gaussian_start"]

EFFECTIVE = 0.3  # effective sample size of tempered weights, as a part of the pool
_ROUNDS = 16  # rounds of draws, at most
_KEPT = 3  # latest rounds that a step is fitted to
_ENOUGH = 0.1  # nats that the evidence lower bound must gain in three rounds to continue


@functools.partial(jax.jit, static_argnames=("count",))
def _draw(hamiltonian: Hamiltonian, psi: GaussianWavefunction, key: jax.Array, count: int):
    def one(u):
        x = psi.centre + to_position(psi.metric, u)
        value, score = jax.value_and_grad(lambda x: log_weight(hamiltonian, x))(x)
        sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(score))
        weight = jnp.where(sound, value - log_gaussian(psi.metric, u), -jnp.inf)
        score = jnp.where(sound, score, 0)
        return x, score, weight, u, to_whitened_gradient(psi.metric, score)

    return jax.vmap(one)(jax.random.normal(key, (count, psi.dim), psi.centre.dtype))


@jax.jit
def _step(psi: GaussianWavefunction, positions, scores, log_weights):
    valid = jnp.isfinite(log_weights)
    weights = tempered_weights(log_weights, valid, EFFECTIVE * jnp.sum(valid))
    return GaussianWavefunction(*least_energy_step(psi.centre, psi.metric, positions, scores, weights))


def _outwards(u: jax.Array, scores: jax.Array) -> bool:
    """Whether whitened scores point outwards on average, so that the target confines nothing."""
    return float(jnp.sum((u - jnp.mean(u, 0)) * (scores - jnp.mean(scores, 0)))) > 0


def gaussian_start(hamiltonian: Hamiltonian, key: jax.Array) -> tuple[GaussianWavefunction | None, int]:
    """A Gaussian near the mass of `p`, or `None` if the rounds do not find one; and the evaluations used."""
    dim, dtype = hamiltonian.dim, jnp.result_type(float)
    count = max(32, 2 * dim)
    psi = GaussianWavefunction(
        jnp.zeros((dim,), dtype), identity_metric(dim, dim if dim <= DENSE_UP_TO else LOW_RANK)
    )
    best, best_bound, bounds, spent, outwards = psi, -np.inf, [], 0, True
    positions, scores = jnp.zeros((2, _KEPT * count, dim), dtype)
    log_weights = jnp.full((_KEPT * count,), -jnp.inf, dtype)
    for i in range(_ROUNDS):
        drawn = _draw(hamiltonian, psi, jax.random.fold_in(key, i), count)
        spent += count
        finite = jnp.isfinite(drawn[2])
        finite_fraction = float(jnp.mean(finite))
        if finite_fraction < 0.5:  # draw closer to the centre
            psi = GaussianWavefunction(psi.centre, psi.metric._replace(scale=psi.metric.scale / 2))
            continue
        bound = float(jnp.sum(jnp.where(finite, drawn[2], 0)) / jnp.sum(finite) + jnp.log(finite_fraction))
        if bound > best_bound:
            best, best_bound, outwards = psi, bound, _outwards(*drawn[3:])
        bounds.append(best_bound)
        if len(bounds) > 5 and bounds[-1] - bounds[-4] < _ENOUGH:
            break
        positions, scores, log_weights = (
            jnp.concatenate([new, old[:-count]])
            for new, old in zip(drawn[:3], (positions, scores, log_weights), strict=True)
        )
        psi = _step(psi, positions, scores, log_weights)
        try:
            check_bounded(psi)
        except NoGroundStateError:
            return None, spent
    return None if outwards else best, spent
