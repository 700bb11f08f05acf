"""The start of a search: descents from several points and their ends, without those that ran away."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.numerics.lbfgs import Descent, next_point, secants, start_descent, update_descent
from qdesampler.solvers.protocol import NoGroundStateError

__all__ = ["LOST", "Ends", "run_descents", "log_weight"]

LOST = 1e12  # a coordinate or a standard deviation beyond this has run away
_SPREAD = 2.0  # half width of the box that starts are drawn from
_TRIES = 64  # points drawn for each start before the search for a finite one is given up
_MEMORY = 32  # pairs of steps and gradient differences that a descent remembers, at most
_DESCENT_STEPS = 320  # steps of a descent, at most; in more than 160 dimensions twice their number


class Ends(NamedTuple):
    """Ends of descents, the highest first.

    Attributes:
        positions: shape `(ends, dim)`.
        log_densities: `log p` (an objective: `-zeta / D`) there.
        pairs: secants of each descent, see `qdesampler.numerics.lbfgs.secants`.
        evaluations: gradients evaluated for all descents.
    """

    positions: jax.Array
    log_densities: jax.Array
    pairs: tuple[jax.Array, jax.Array, jax.Array]
    evaluations: int


def log_weight(hamiltonian: Hamiltonian, x: jax.Array) -> jax.Array:
    """The function that descents maximise: `log p`, or `-zeta / D`, a scalar."""
    value = hamiltonian.function(x)
    return value if hamiltonian.kind == "boltzmann" else -value / hamiltonian.diffusion


@jax.jit
def _evaluate(hamiltonian: Hamiltonian, points: jax.Array):
    values, scores = jax.vmap(jax.value_and_grad(lambda x: log_weight(hamiltonian, x)))(points)
    return values, scores, jnp.isfinite(values) & jnp.all(jnp.isfinite(scores), axis=1)


@functools.partial(jax.jit, static_argnames=("memory",))
def _descend(hamiltonian: Hamiltonian, points, values, scores, most, memory: int):
    init = jax.vmap(lambda x, v, s: start_descent(x, v, s, memory))(points, values, scores)

    def unfinished(carry) -> jax.Array:
        descents, _, step = carry
        return jnp.any(~descents.arrived) & (step < most)

    def move(carry):
        descents, spent, step = carry
        tried = jax.vmap(next_point)(descents)
        value, score = jax.vmap(jax.value_and_grad(lambda x: log_weight(hamiltonian, x)))(tried)
        spent = spent + jnp.sum(~descents.arrived)
        return jax.vmap(update_descent)(descents, tried, value, score), spent, step + 1

    zero = jnp.zeros((), int)
    return jax.lax.while_loop(unfinished, move, (init, zero, zero))[:2]


def _starts(hamiltonian: Hamiltonian, key: jax.Array, centre: jax.Array | None, count: int):
    """Points with a finite density and gradient, and the evaluations of the search for them."""
    dim, dtype = hamiltonian.dim, jnp.result_type(float)
    origin = jnp.zeros((dim,), dtype) if centre is None else centre
    found: list[tuple] = []
    spent = 0
    for attempt in range(_TRIES):
        offsets = jax.random.uniform(jax.random.fold_in(key, attempt), (count, dim), dtype, -_SPREAD, _SPREAD)
        points = origin + offsets * 0.8 ** (attempt // 8)  # a smaller box after every eight attempts
        if centre is not None and attempt == 0:
            points = points.at[0].set(centre)
        values, scores, finite = _evaluate(hamiltonian, points)
        spent += count
        found += [(points[i], values[i], scores[i]) for i in np.flatnonzero(np.asarray(finite))]
        if len(found) >= count:
            break
    if not found:
        name = "log density" if hamiltonian.kind == "boltzmann" else "objective"
        raise NoGroundStateError(
            f"the {name} or its gradient was not finite at {spent} points within {_SPREAD:g} of "
            f"{'the origin' if centre is None else 'start'}; give a start where it is finite."
        )
    return [jnp.stack(column) for column in zip(*found[:count], strict=True)], spent


def run_descents(hamiltonian: Hamiltonian, key: jax.Array, centre: jax.Array | None, count: int) -> Ends:
    """Descents from `count` points around `centre` (the first from there) or around the origin.

    Raises:
        NoGroundStateError: no start is finite, or `log p` (an objective: `-zeta`) rises without end.
    """
    (points, values, scores), spent = _starts(hamiltonian, key, centre, count)
    dim = hamiltonian.dim
    most = max(_DESCENT_STEPS, 2 * dim)
    descents, steps = _descend(hamiltonian, points, values, scores, most, min(dim + 2, _MEMORY))
    height = np.asarray(descents.log_density)
    far = np.max(np.abs(np.asarray(descents.position)), axis=1)
    lost = ~(far < LOST)
    best = np.max(height[~lost], initial=-np.inf)
    if np.any(lost & ~(height <= best)):
        i = int(np.argmax(np.where(lost, np.nan_to_num(height, nan=np.inf), -np.inf)))
        rises = "log density rises" if hamiltonian.kind == "boltzmann" else "objective falls"
        raise NoGroundStateError(
            f"no normalisable ground state: the {rises} without end; a descent came to |x| = {far[i]:.3g}. "
            "Check its sign, give every coordinate a proper prior (a confining potential), and write a "
            "funnel in non-centred coordinates."
        )
    order = np.argsort(np.where(lost, np.inf, -height))[: np.count_nonzero(~lost)]
    kept: Descent = jax.tree.map(lambda leaf: leaf[order], descents)
    return Ends(kept.position, kept.log_density, jax.vmap(secants)(kept), spent + int(steps))
