r"""The imaginary-time path of a state while the diffusion coefficient moves: `evolve`.

    d psi / d tau = D(tau) lap psi - V psi,        D(tau) from a `Schedule` over the run.

Inner loop of the quantum dynamic equation at a constant `D`, its outer loop (quantum annealing) where the
schedule falls. A state on a grid is propagated by Strang steps, with an error of order `dt^2`. A Gaussian
state, in any dimension, obeys the same equation projected on the Gaussians with independent coordinates
(time-dependent variational principle), with averages over draws `x = mu + s y` of the state itself,

    d mu_i / d tau = -2 s_i E[y_i zeta],        d log s_i^2 / d tau = D / s_i^2 - 2 E[(y_i^2 - 1) zeta],

Stein's identities for `-2 Sigma E[grad zeta]` and `D - 2 Sigma^2 E[hess zeta]`: no derivatives are needed.
Their noise falls with the number of draws and with the length of the step: a step is no longer than
`strength / sd(zeta)`, `sd` over the draws, so that it averages over as many steps as it has to.

References:
    Wang and Maimaitiniyazi, "Quantum dynamics of machine learning", arXiv:2407.19890 (2024): the two loops.
    Kramer and Saraceno, "Geometry of the Time-Dependent Variational Principle in Quantum Mechanics" (1981).
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.equation.schedule import Schedule
from qdesampler.numerics.metric import identity_metric
from qdesampler.solvers.gaussian.wavefunction import GaussianWavefunction
from qdesampler.solvers.grid.grid import Grid, cap_potential, evaluate_on, evaluate_potential
from qdesampler.solvers.grid.imaginary_time import multiply_in_momentum, squared_wavenumbers, strang_step
from qdesampler.solvers.grid.wavefunction import GridWavefunction
from qdesampler.solvers.protocol import GroundState
from qdesampler.validation import as_positive_int, as_positive_scalar, is_traced

__all__ = ["ImaginaryTimePath", "Packet", "evolve", "evolve_packet", "first_packet"]

_MOST_GROWTH = 0.5  # largest change of log s^2 in one step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ImaginaryTimePath:
    """The observables along a path of `n` steps; an immutable JAX pytree.

    Attributes:
        time: imaginary time `tau`, shape `(n + 1,)`, the start included.
        diffusion: `D` there.
        energy: `<psi|H|psi>` at that `D`; of a Gaussian state estimated from the step's draws.
        mean: of `psi^2`, shape `(n + 1, dim)`.
        variance: of each coordinate under `psi^2`, same shape.
        state: the last state: a `GaussianWavefunction`, or `psi` on the nodes of the grid with sum of squares
            times the cell volume 1.
        evaluations: of the potential.
    """

    time: jax.Array
    diffusion: jax.Array
    energy: jax.Array
    mean: jax.Array
    variance: jax.Array
    state: Any
    evaluations: int = dataclasses.field(metadata={"static": True})


class Packet(NamedTuple):
    """A Gaussian state with independent coordinates, and the lowest point it has drawn.

    Attributes:
        mean: shape `(dim,)`.
        variance: shape `(dim,)`.
        best: the draw of least potential, shape `(dim,)`.
        best_value: the potential there.
        at_walls: draws so far at which the potential was infinite or NaN.
    """

    mean: jax.Array
    variance: jax.Array
    best: jax.Array
    best_value: jax.Array
    at_walls: jax.Array


def first_packet(mean: jax.Array, variance: jax.Array) -> Packet:
    """A packet that has drawn nothing yet."""
    return Packet(mean, variance, mean, jnp.asarray(jnp.inf, mean.dtype), jnp.zeros((), int))


def evolve(
    hamiltonian: Hamiltonian,
    psi: GroundState,
    schedule: Schedule | None = None,
    *,
    time_step: float,
    num_steps: int,
    num_draws: int = 64,
    key: jax.Array | None = None,
) -> ImaginaryTimePath:
    """Follow `psi` through imaginary time.

    Args:
        hamiltonian: what to evolve by; its `D` is that of the schedule while it lasts.
        psi: the start: a ground state of `SpectralGrid` (evolved on the same box and points, with walls) or
            of `GaussianTrial` (its mean and variances are taken).
        schedule: `D` over the run, positive; `None`: that of `hamiltonian`, constant.
        time_step: `dt`, an inverse energy. Of a Gaussian state it is the longest step.
        num_steps: how many steps.
        num_draws: draws of a Gaussian state a step, an even number.
        key: for the draws of a Gaussian state.

    Raises:
        TypeError: `psi` is no ground state of these kinds; an argument has a wrong type.
        ValueError: dimensions differ; the schedule reaches 0; a number is not positive; a Gaussian state has
            no key or an odd number of draws; the potential is not finite where the state is.
    """
    time_step = float(as_positive_scalar("time_step", time_step))
    num_steps = as_positive_int("num_steps", num_steps)
    if not isinstance(psi, GroundState):
        raise TypeError(
            f"psi must be a GroundState found by SpectralGrid or GaussianTrial, got {type(psi).__name__}."
        )
    if psi.dim != hamiltonian.dim:
        raise ValueError(f"psi has {psi.dim} coordinates, the Hamiltonian {hamiltonian.dim}.")
    if schedule is None:
        schedule = Schedule.constant(float(hamiltonian.diffusion))
    check_schedule(hamiltonian, schedule)
    wave = psi.wavefunction
    if isinstance(wave, GridWavefunction):
        return _evolve_on_grid(hamiltonian, psi, wave, schedule, time_step, num_steps)
    if not isinstance(wave, GaussianWavefunction):
        raise TypeError(
            f"psi has a {type(wave).__name__}; only states of SpectralGrid and GaussianTrial are evolved."
        )
    if key is None:
        raise ValueError(
            "a Gaussian state is evolved with random draws: give a key, such as key=jax.random.key(0)."
        )
    if num_draws % 2 or as_positive_int("num_draws", num_draws) < 4:
        raise ValueError(f"num_draws must be even and at least 4, got {num_draws}.")
    variance = jnp.diagonal(wave.covariance)
    packet, seen = evolve_packet(
        hamiltonian,
        first_packet(wave.centre, variance),
        schedule.table(num_steps + 1),
        key,
        num_draws,
        time_step=time_step,
    )
    check_finite(seen["energy"])
    metric = identity_metric(psi.dim, 0)._replace(scale=jnp.sqrt(packet.variance))
    return ImaginaryTimePath(
        state=GaussianWavefunction(packet.mean, metric), evaluations=num_draws * (num_steps + 1), **seen
    )


def check_schedule(hamiltonian: Hamiltonian, schedule: Schedule) -> None:
    """Refuse a diffusion coefficient that vanishes, or that does not fit a Boltzmann potential.

    Raises:
        ValueError: the schedule reaches 0, or moves `D` under a Boltzmann Hamiltonian.
    """
    if not schedule.positive:
        raise ValueError(f"the diffusion coefficient must stay positive, the schedule has {schedule.values}.")
    same = all(value == float(hamiltonian.diffusion) for value in schedule.values)
    if hamiltonian.kind == "boltzmann" and not same:
        raise ValueError(
            f"the schedule has {schedule.values} and the Boltzmann Hamiltonian D = {hamiltonian.diffusion}: "
            "its potential goes with D, and its ground state is the same for every D. Leave the schedule "
            "out, or anneal Hamiltonian.from_objective(-log_p)."
        )


def check_finite(energy: jax.Array) -> None:
    """Refuse a path whose energy is not finite.

    Raises:
        ValueError: with the first step where the energy is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(np.asarray(energy)))
    if bad.size:
        raise ValueError(
            f"the potential is not finite under the state from step {bad[0]} on; keep the state where it is "
            "(a narrower start, a smaller D) or mend the potential."
        )


def _lowered(values: jax.Array) -> jax.Array:
    """The values with a ceiling as far above their median as the lower quartile is below it.

    Where the wave function nearly vanishes it does not matter how high the potential is. An average over
    draws of a Gaussian, which does not vanish there, would consist of nothing else: of `1 / r^12`, of walls.
    """
    ordered = jnp.sort(jnp.where(jnp.isnan(values), jnp.inf, values))
    half, quarter = ordered[values.size // 2], ordered[values.size // 4]
    most = jnp.max(jnp.where(jnp.isfinite(ordered), ordered, -jnp.inf))  # -inf if none is finite
    ceiling = jnp.where(jnp.isfinite(half), half + (half - quarter), most)
    ceiling = jnp.where(jnp.isfinite(ceiling), ceiling, 0)
    return jnp.where(values < ceiling, values, ceiling)  # NaN is not less


@functools.partial(jax.jit, static_argnames=("num_draws", "walls"))
def evolve_packet(
    hamiltonian: Hamiltonian,
    start: Packet,
    diffusion: jax.Array,
    key: jax.Array,
    num_draws: int,
    *,
    time_step: float | jax.Array = jnp.inf,
    strength: float | jax.Array = jnp.inf,
    walls: bool = False,
) -> tuple[Packet, dict[str, jax.Array]]:
    """Steps of a Gaussian state with independent coordinates, one for each `D`, the last left undone.

    Args:
        hamiltonian: whose potential is averaged.
        start: the state before.
        diffusion: `D` of each step and of the end, shape `(n + 1,)`.
        key: for the draws.
        num_draws: draws a step, in pairs of opposite sign.
        time_step: longest step.
        strength: longest step in units of `1 / sd(V)`.
        walls: whether high values count as a ceiling that depends on the draws, and infinite or undefined
            ones as well.

    Returns:
        The state after, and `time`, `diffusion`, `energy`, `mean`, `variance` at every step.
    """
    dim = start.mean.size
    dtype = start.mean.dtype
    potential = jax.vmap(hamiltonian.potential)
    half = num_draws // 2

    def step(carry, each):
        packet, time = carry
        key, d, final = each
        pairs = jax.random.normal(key, (half, dim), dtype)
        y = jnp.concatenate([pairs, -pairs])
        scale = jnp.sqrt(packet.variance)
        points = packet.mean + scale * y
        raw = potential(points)
        values = _lowered(raw) if walls else raw
        spread = values - jnp.mean(values)
        sd = jnp.std(values)
        # A step longer than the relaxation time of the widest coordinate would leave the path.
        longest = 0.5 * jnp.max(packet.variance) / d
        tau = jnp.minimum(jnp.minimum(time_step, longest), strength / jnp.maximum(sd, jnp.finfo(dtype).tiny))
        tau = jnp.where(final, 0, tau)
        slope = spread @ y / num_draws
        bend = spread @ (y**2 - 1) / num_draws
        growth = jnp.clip(tau * (d / packet.variance - 2 * bend), -_MOST_GROWTH, _MOST_GROWTH)
        energy = jnp.mean(values) + 0.25 * d * jnp.sum(1 / packet.variance)
        seen = {
            "time": time,
            "diffusion": d,
            "energy": energy,
            "mean": packet.mean,
            "variance": packet.variance,
        }
        lowest = jnp.argmin(jnp.where(jnp.isnan(raw), jnp.inf, raw))
        better = raw[lowest] < packet.best_value
        new = Packet(
            packet.mean - 2 * tau * scale * slope,
            packet.variance * jnp.exp(growth),
            jnp.where(better, points[lowest], packet.best),
            jnp.where(better, raw[lowest], packet.best_value),
            packet.at_walls + jnp.sum(jnp.isnan(raw) | (raw == jnp.inf)),
        )
        return (new, time + tau), seen

    count = diffusion.shape[0]
    each = (jax.random.split(key, count), jnp.asarray(diffusion, dtype), jnp.arange(count) == count - 1)
    (packet, _), seen = jax.lax.scan(step, (start, jnp.zeros((), dtype)), each)
    return packet, seen


def _evolve_on_grid(
    hamiltonian: Hamiltonian,
    psi: GroundState,
    wave: GridWavefunction,
    schedule: Schedule,
    time_step: float,
    num_steps: int,
) -> ImaginaryTimePath:
    if is_traced(wave.lower):
        raise ValueError("evolve on a grid runs on the host: call it outside of jit, vmap and grad.")
    box = Grid(
        tuple(float(v) for v in wave.lower), tuple(float(v) for v in wave.upper), wave.cell_log_bounds.shape
    )
    dtype = jnp.result_type(float)
    start = evaluate_on(lambda x: jnp.exp(psi.log_psi(x)), box)
    potential = cap_potential(box, evaluate_potential(hamiltonian, box), max(schedule.values))
    bottom = float(potential.min())
    shifted = jnp.asarray(potential - bottom, dtype)
    squares = [jnp.asarray(squared_wavenumbers(box, axis), dtype) for axis in range(box.dim)]
    nodes = [jnp.asarray(box.nodes(axis), dtype) for axis in range(box.dim)]
    table = jnp.asarray(schedule.table(num_steps + 1), dtype)
    half_potential = jnp.exp(-shifted * time_step / 2)

    def observe(psi, d):
        image = shifted * psi
        for axis in range(box.dim):
            image = image + d * multiply_in_momentum(psi, squares[axis], axis)
        means, variances = [], []
        for axis, x in enumerate(nodes):
            law = jnp.sum(psi**2, tuple(a for a in range(box.dim) if a != axis))
            means.append(law @ x)
            variances.append(law @ (x - law @ x) ** 2)
        return jnp.vdot(psi, image), jnp.stack(means), jnp.stack(variances)

    def step(psi, pair):
        now, after = pair
        middle = 0.5 * (now + after)
        psi = strang_step(psi, half_potential, [jnp.exp(-middle * q * time_step) for q in squares])
        psi = psi / jnp.linalg.norm(psi.ravel())
        return psi, observe(psi, after)

    @jax.jit
    def run(psi):
        first = observe(psi, table[0])
        psi, seen = jax.lax.scan(step, psi, (table[:-1], table[1:]))
        return psi, [jnp.concatenate([a[None], b]) for a, b in zip(first, seen, strict=True)]

    last, (energy, mean, variance) = run(jnp.asarray(start / np.linalg.norm(start), dtype))
    return ImaginaryTimePath(
        time=time_step * jnp.arange(num_steps + 1, dtype=dtype),
        diffusion=table,
        energy=energy + bottom,
        mean=mean,
        variance=variance,
        state=last / np.sqrt(box.cell_volume),
        evaluations=box.size,
    )
