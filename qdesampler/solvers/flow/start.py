r"""The Gaussian that a flow starts from, found without descents.

The densest point of a funnel is far from its mass, or there is none, and a search that begins there does not
come back. So these rounds begin at `N(0, I)` in the coordinates given: draw, score, one closed-form step of
`gaussian_step` from the latest rounds with weights tempered until they count (`trial.tempered_weights`).
Where the target is too far or too stiff for that, the rounds say so, and descents are the better start.
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
from qdesampler.solvers.gaussian.step import step
from qdesampler.solvers.gaussian.wavefunction import GaussianWavefunction, log_gaussian
from qdesampler.solvers.protocol import NoGroundStateError

__all__ = ["gaussian_start"]

_ROUNDS, _KEPT = 16, 3
_LOW_RANK = 32  # directions of a low-rank factor, beyond `DENSE_UP_TO` dimensions
_EFFECTIVE = 0.3  # part of the pool that tempered weights leave effective
_ENOUGH = 0.1  # nats that the evidence lower bound must gain in three rounds to go on


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
    weights = tempered_weights(log_weights, valid, _EFFECTIVE * jnp.sum(valid))
    return GaussianWavefunction(*step(psi.centre, psi.metric, positions, scores, weights))


def _outwards(u: jax.Array, scores: jax.Array) -> bool:
    """Whether whitened scores grow along their points instead of against them: nothing is confined."""
    return float(jnp.sum((u - jnp.mean(u, 0)) * (scores - jnp.mean(scores, 0)))) > 0


def gaussian_start(hamiltonian: Hamiltonian, key: jax.Array) -> tuple[GaussianWavefunction | None, int]:
    """A Gaussian near the mass of `p`, `None` where the rounds lost their way, and the evaluations used."""
    dim, dtype = hamiltonian.dim, jnp.result_type(float)
    count = max(32, 2 * dim)
    psi = GaussianWavefunction(
        jnp.zeros((dim,), dtype), identity_metric(dim, dim if dim <= DENSE_UP_TO else _LOW_RANK)
    )
    best, best_bound, bounds, spent, outwards = psi, -np.inf, [], 0, True
    positions, scores = jnp.zeros((2, _KEPT * count, dim), dtype)
    log_weights = jnp.full((_KEPT * count,), -jnp.inf, dtype)
    for i in range(_ROUNDS):
        drawn = _draw(hamiltonian, psi, jax.random.fold_in(key, i), count)
        spent += count
        finite = jnp.isfinite(drawn[2])
        share = float(jnp.mean(finite))
        if share < 0.5:  # look closer to the centre
            psi = GaussianWavefunction(psi.centre, psi.metric._replace(scale=psi.metric.scale / 2))
            continue
        bound = float(jnp.sum(jnp.where(finite, drawn[2], 0)) / jnp.sum(finite) + jnp.log(share))
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
