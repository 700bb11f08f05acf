r"""Minimise an objective by following its ground state while `D` falls: `anneal`.

The two loops of the quantum dynamic equation: at a large diffusion coefficient the ground state of

    H = -D lap + zeta

is broad and depends on the objective smoothed over its width; as `D` falls it contracts to the global
minimum. The state here is a Gaussian with independent coordinates (`qdesampler.solvers.annealing.path`),
evolved by averages of `zeta` over its own draws: without derivatives, and with a step that shrinks with the
spread of the values, so that the scale of the objective does not matter. Values far above the median of the
draws count as a ceiling: the state is small there, whatever they are. So walls, infinite or undefined, only
keep it away. Descents from the lowest draw and from the means of the state on its way end the search.

An objective without a minimum far away, such as the energy of a cluster of atoms, lets a state of a large `D`
spread for ever: start it no wider than the neighbourhood of a minimum. It can fail: the smoothed objective
may have its minimum elsewhere (deception), and a `D` that starts too low or falls too fast keeps the state in
a local minimum. Compare the results of several keys.

References:
    Wang and Maimaitiniyazi, "Quantum dynamics of machine learning", arXiv:2407.19890 (2024).
    Finnila et al., "Quantum annealing: a new method for minimizing multidimensional functions", Chem. Phys.
    Lett. 219 (1994) 343.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.equation.schedule import Schedule
from qdesampler.numerics.lbfgs import next_point, start_descent, update_descent
from qdesampler.numerics.metric import identity_metric
from qdesampler.solvers.annealing.path import (
    ImaginaryTimePath,
    Packet,
    check_schedule,
    evolve_packet,
    first_packet,
)
from qdesampler.solvers.gaussian.wavefunction import GaussianWavefunction
from qdesampler.validation import as_positive_int, as_positive_scalar, is_traced

__all__ = ["AnnealedMinimum", "anneal"]

_STOPS = (
    16  # places on the way that descents start from: with none, 30% of runs on seven atoms found the least
)
_RESOLVED = 1e-6  # of the height that the state has come down: what a descent still gains before it ends
_ROUNDINGS = 10  # relative roundings of the least value below which no gain is seen
_MEMORY = 16  # pairs of steps and gradient differences that a descent remembers, at most


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AnnealedMinimum:
    """What an annealing run found; an immutable JAX pytree.

    Attributes:
        position: the lowest point found, shape `(dim,)`.
        value: `zeta` there.
        path: the state on its way; `path.state` is the last one.
        evaluations: of `zeta`, in total; a gradient counts as one.
        polished: gain of the descents at the end over the lowest draw.
        at_walls: share of the draws at which `zeta` was infinite or NaN.
    """

    position: jax.Array
    value: jax.Array
    path: ImaginaryTimePath
    evaluations: int = dataclasses.field(metadata={"static": True})
    polished: jax.Array
    at_walls: jax.Array


def anneal(
    hamiltonian: Hamiltonian,
    schedule: Schedule,
    *,
    key: jax.Array,
    centre: ArrayLike = 0.0,
    width: ArrayLike = 1.0,
    num_steps: int = 250,
    num_draws: int = 20,
    strength: float = 0.1,
    polish: int = 100,
) -> AnnealedMinimum:
    """Minimise the objective of `hamiltonian` by lowering `D` along `schedule`.

    A ground state at `D` in a parabola of curvature `k` has the variance `(D / 2k)^(1/2)`: choose the first
    `D` so that the standard deviation is the size of the region to search, and the last so that it is the
    size of one basin.

    Args:
        hamiltonian: from `Hamiltonian.from_objective`; its own `D` is not used.
        schedule: `D` over the run, such as `Schedule.geometric(100.0, 0.01)`.
        key: JAX key; the result is a function of it.
        centre: where the state starts, a number or shape `(dim,)`.
        width: standard deviation of the start, a number or shape `(dim,)`: half of the region to search.
        num_steps: steps of imaginary time.
        num_draws: evaluations a step, an even number.
        strength: a step is `strength / sd(zeta)` long, `sd` over the draws: smaller follows more closely.
        polish: most evaluations of each descent at the end, from the lowest draw, from the last mean of the
            state and from 16 on its way; 0: none.

    Raises:
        TypeError: an argument is not of these kinds.
        ValueError: a Boltzmann Hamiltonian; a schedule that reaches 0; a number out of range; an objective
            that is not finite at any draw, or minus infinity at one; the call is traced.
    """
    _check_objective(hamiltonian, schedule)
    if is_traced(key):
        raise ValueError("anneal reports on the host: call it outside of jit, vmap and grad.")
    num_steps, dim = as_positive_int("num_steps", num_steps), hamiltonian.dim
    strength = float(as_positive_scalar("strength", strength))
    if as_positive_int("num_draws", num_draws) % 2 or num_draws < 4:
        raise ValueError(f"num_draws must be even and at least 4, got {num_draws}.")
    if polish < 0:
        raise ValueError(f"polish must not be negative, got {polish}.")
    mean = _of_coordinates("centre", centre, dim)
    sd = _of_coordinates("width", width, dim)
    if not bool(jnp.all(sd > 0)):
        raise ValueError(f"width must be positive, got {width}.")
    packet, seen = evolve_packet(
        hamiltonian,
        first_packet(mean, sd**2),
        schedule.table(num_steps + 1),
        key,
        num_draws,
        strength=strength,
        walls=True,
    )
    position, value = packet.best, packet.best_value
    if not bool(jnp.isfinite(value)):
        raise ValueError(
            f"the objective is {value} at the lowest of {num_draws * (num_steps + 1)} draws; expected a "
            "finite number at one of them at least, and minus infinity nowhere. Start where it is finite "
            "(centre, width), or mend it."
        )
    metric = identity_metric(dim, 0)._replace(scale=jnp.sqrt(packet.variance))
    spent = num_draws * (num_steps + 1)
    path = ImaginaryTimePath(state=GaussianWavefunction(packet.mean, metric), evaluations=spent, **seen)
    at_walls = packet.at_walls / spent
    if polish:
        lower, end, used = _descend_from_path(hamiltonian, packet, path, polish)
        spent += used
        position = jnp.where(lower < value, end, position)
        value = jnp.minimum(lower, value)
    return AnnealedMinimum(position, value, path, spent, packet.best_value - value, at_walls)


def _check_objective(hamiltonian: Hamiltonian, schedule: Schedule) -> None:
    """Refuse what is no objective, or no schedule for one.

    Raises:
        TypeError: an argument is not of these kinds.
        ValueError: a Boltzmann Hamiltonian; a schedule that reaches 0.
    """
    if not isinstance(hamiltonian, Hamiltonian) or not isinstance(schedule, Schedule):
        raise TypeError(
            "anneal takes a Hamiltonian and a Schedule, got "
            f"{type(hamiltonian).__name__} and {type(schedule).__name__}."
        )
    if hamiltonian.kind != "objective":
        raise ValueError(
            "the ground state of a Boltzmann Hamiltonian is the same for every D: there is nothing to "
            "anneal; use Hamiltonian.from_objective(-log_p) to find a mode."
        )
    check_schedule(hamiltonian, schedule)


def _of_coordinates(name: str, value: ArrayLike, dim: int) -> jax.Array:
    """A number for each coordinate.

    Raises:
        ValueError: it has another shape, or is not finite.
    """
    value = jnp.asarray(value, jnp.result_type(float))
    if value.shape not in ((), (dim,)) or not bool(jnp.all(jnp.isfinite(value))):
        raise ValueError(f"{name} must be a finite number or of shape ({dim},), got shape {value.shape}.")
    return jnp.broadcast_to(value, (dim,))


def _descend_from_path(
    hamiltonian: Hamiltonian, packet: Packet, path: ImaginaryTimePath, most: int
) -> tuple[jax.Array, jax.Array, int]:
    """The least value at the ends of descents, its place, and the evaluations."""
    stops = jnp.linspace(0, len(path.mean) - 1, _STOPS + 2)[1:-1].astype(int)
    points = jnp.concatenate([jnp.stack([packet.best, packet.mean]), path.mean[stops]])
    value, rounding = packet.best_value, jnp.finfo(points.dtype)
    least = _ROUNDINGS * rounding.eps * jnp.abs(value) + rounding.tiny
    unit = jnp.maximum(_RESOLVED * (path.energy[0] - value), least)
    ends, values, used = _polish(hamiltonian, points, most, unit)
    lowest = jnp.argmin(values)
    return values[lowest], ends[lowest], int(used)


@jax.jit
def _polish(hamiltonian: Hamiltonian, points: jax.Array, most: jax.Array | int, unit: jax.Array):
    """Ends of descents from `points`, `zeta` there, and the evaluations they took together.

    A descent ends where a tenth of a unit is left to gain, by its quadratic model.
    """
    evaluate = jax.vmap(jax.value_and_grad(lambda x: -hamiltonian.function(x) / unit))
    memory = min(hamiltonian.dim + 2, _MEMORY)
    init = jax.vmap(lambda x, v, s: start_descent(x, v, s, memory))(points, *evaluate(points))

    def unfinished(carry):
        return jnp.any(~carry[0].arrived) & (carry[2] < most)

    def move(carry):
        descents, spent, step = carry
        tried = jax.vmap(next_point)(descents)
        spent = spent + jnp.sum(~descents.arrived)
        return jax.vmap(update_descent)(descents, tried, *evaluate(tried)), spent, step + 1

    one = jnp.ones((), int)
    descents, spent, _ = jax.lax.while_loop(unfinished, move, (init, points.shape[0] * one, one))
    values = jnp.where(jnp.isfinite(descents.log_density), -descents.log_density * unit, jnp.inf)
    return descents.position, values, spent
