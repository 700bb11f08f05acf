"""One run of diffusion Monte Carlo at one time step: burn-in until it has settled, measurement, alarms."""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.solvers.dmc.blocking import ratio
from qdesampler.solvers.dmc.diffusion_step import Guide, Step
from qdesampler.solvers.dmc.window import Layout, Population, Turn, Window, run_window
from qdesampler.solvers.protocol import NoGroundStateError

__all__ = ["Monitor", "PopulationError", "Run", "WalkersWarning", "run"]

Progress = Callable[[int, int, float], None]

_CUT = 20.0  # largest deviation of the local energy that weighs, in units of sqrt(spread / tau)
# Branching brings its population back within this time in units of 1 / spread, but not in less than a turn.
_FEEDBACK = 0.5
_SETTLED = 3.0  # standard errors between the last two windows of the burn-in
_MOST_BURN_IN = 4  # times what was asked for
_FEWEST_EFFECTIVE = 0.02  # part of the walkers
_LOW_ACCEPTANCE, _COARSE = 0.9, 0.5


class PopulationError(RuntimeError):
    """The population of walkers died out, exploded or collapsed to a few; the message says when."""


class WalkersWarning(UserWarning):
    """The walkers answer, but a step, a length or the trial limits the accuracy; the message says which."""


class Monitor(NamedTuple):
    """What the host compares the run to.

    Attributes:
        energy: of the trial.
        spread: of its local energies.
        depth: how far below `energy` no ground state is looked for.
        progress: called with steps done, steps in all and the energy of the last window; or `None`.
        total: steps in all, over all runs.
        done: steps of the runs before.
    """

    energy: float
    spread: float
    depth: float
    progress: Progress | None
    total: int
    done: int


class Run(NamedTuple):
    """A finished run.

    Attributes:
        population: at the end.
        turns: averages of the measured turns, float64.
        tau_effective: time step of the weights.
        snapshots: for each measured window: points at its start, and their descendants after half of it and
            at its end; shapes `(places kept, dim)`, `(places kept,)` twice.
        burn_in: steps of the burn-in.
        settled: whether its last two windows agree.
    """

    population: Population
    turns: Turn
    tau_effective: float
    snapshots: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    burn_in: int
    settled: bool


def run(
    guide: Guide,
    population: Population,
    tau: float,
    key: jax.Array,
    layout: Layout,
    windows: int,
    burn_in: int,
    keep: int,
    monitor: Monitor,
) -> Run:
    """Burn in for at least `burn_in` windows, then measure `windows`.

    Args:
        guide: Hamiltonian and trial.
        population: at the start.
        tau: time step.
        key: of this run.
        layout: of a window.
        windows: to measure.
        burn_in: windows, at least two.
        keep: points to keep of each window.
        monitor: alarms.

    Warns:
        WalkersWarning: a coarse time step; a burn-in that did not settle.

    Raises:
        NoGroundStateError: the energy runs away.
        PopulationError: no walkers, too many, or too few different ones.
        FloatingPointError: trial or local energy is not a number at a proposal.
    """
    dtype = population.walker.x.dtype
    cut = max(_CUT * math.sqrt(monitor.spread / tau), 2 * _CUT * monitor.spread)
    length = layout.turns * layout.steps
    feedback = jnp.asarray(max(_FEEDBACK / monitor.spread, layout.steps * tau), dtype)

    before: list[Turn] = []
    tau_effective, reference, settled = tau, monitor.energy, False

    def one(index: int, measured: int) -> Window:
        step = Step(*(jnp.asarray(a, dtype) for a in (tau, tau_effective, reference, cut)))
        window = run_window(guide, population, step, feedback, jax.random.fold_in(key, index), layout)
        _check(window.turns, layout, population.weight.size, index * length, monitor)
        if monitor.progress is not None:
            monitor.progress(monitor.done + measured * length, monitor.total, _mean(window.turns).mean)
        return window

    while len(before) < burn_in or (not settled and len(before) < _MOST_BURN_IN * burn_in):
        window = one(len(before), 0)
        population = window.population
        before.append(jax.tree.map(lambda a: np.asarray(a, np.float64), window.turns))
        recent = before[len(before) // 2 :]
        proposed = sum(np.sum(t.proposed) for t in recent)
        tau_effective = tau * float(sum(np.sum(t.accepted) for t in recent) / proposed)
        reference = float(np.mean([_mean(t).mean for t in recent]))
        settled = len(before) > 1 and _agree(before[-2], before[-1])
    acceptance = float(np.mean([t.acceptance for t in before[-2:]]))
    if not settled:
        _check_falling(before, monitor)
        _warn(
            f"the burn-in of {len(before) * length} steps at time step {tau:g} did not settle: its last "
            "windows differ by more than their errors. Take more burn_in, or a better trial."
        )
    if acceptance < _LOW_ACCEPTANCE or monitor.spread * tau > _COARSE:
        _warn(
            f"the time step {tau:g} is coarse: acceptance {acceptance:.3f} (better above 0.99), and the "
            f"weights of one step spread by {monitor.spread * tau:.2g} (better below 0.1). Take a smaller "
            "one, several to extrapolate from, or a better trial."
        )
    turns, snapshots = [], []
    for index in range(windows):
        points = _kept(population, keep)
        window = one(len(before) + index, index + 1)
        population = window.population
        turns.append(jax.tree.map(lambda a: np.asarray(a, np.float64), window.turns))
        alive = points[1] > 0
        counts = (np.asarray(a)[:: points[2]][alive] for a in (window.half, window.full))
        snapshots.append((points[0][alive], *counts))
    return Run(
        population,
        jax.tree.map(lambda *parts: np.concatenate(parts), *turns),
        tau_effective,
        snapshots,
        len(before) * length,
        settled,
    )


def _kept(population: Population, keep: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Every so many walkers: neighbours may be copies."""
    stride = -(-population.weight.size // keep)
    return np.asarray(population.walker.x[:, ::stride]).T, np.asarray(population.weight[::stride]), stride


def _mean(turns: Turn):
    return ratio(
        np.asarray(turns.after), np.asarray(turns.reference, np.float64) + np.asarray(turns.deviation)
    )


def _agree(first: Turn, second: Turn) -> bool:
    a, b = _mean(first), _mean(second)
    rounding = float(jnp.finfo(jnp.result_type(float)).eps) * max(abs(a.mean), 1.0)
    return abs(a.mean - b.mean) <= _SETTLED * math.hypot(a.error, b.error) + rounding


def _check_falling(before: list[Turn], monitor: Monitor) -> None:
    """Relaxation slows down; a fall that does not is no relaxation."""
    last = [_mean(t) for t in before[-5:]]
    steps = [b.mean - a.mean for a, b in zip(last[:-1], last[1:], strict=True)]
    errors = [math.hypot(a.error, b.error) for a, b in zip(last[:-1], last[1:], strict=True)]
    significant = all(s < -_SETTLED * e for s, e in zip(steps, errors, strict=True))
    if len(steps) > 3 and significant and steps[-1] < 0.7 * steps[0]:
        _raise_runaway(last[-1].mean, monitor)


def _raise_runaway(energy: float, monitor: Monitor) -> None:
    raise NoGroundStateError(
        f"the energy runs away: {energy:.6g} and falling, from {monitor.energy:.6g} of the trial (spread "
        f"{monitor.spread:.3g}). The potential seems unbounded below (check its sign and its singularities), "
        "or the trial has next to no overlap with the ground state: move or widen it."
    )


def _check(turns: Turn, layout: Layout, places: int, done: int, monitor: Monitor) -> None:
    """Alarms of one window."""
    host = jax.tree.map(np.asarray, turns)

    def step_of(bad: np.ndarray) -> int:
        return done + (int(np.argmax(bad)) + 1) * layout.steps

    if np.any(bad := host.broken > 0):
        raise FloatingPointError(
            f"log psi_T, its gradient or the local energy is not a number at {int(host.broken.sum())} "
            f"proposals, first about step {step_of(bad)}; check the trial and the potential where walkers "
            "go (the trial may be -inf, and the potential inf, where the state is zero)."
        )
    # Whatever comes after the death of all is not a number; the first trouble is the one to name.
    dead = (host.after <= 0) | (host.total < 1)
    crowded = host.total > places
    energies = host.reference.astype(np.float64) + host.deviation
    fallen = energies < monitor.energy - monitor.depth
    lost = ~np.isfinite(energies) & ~dead & np.isfinite(host.after)
    # Weights that overflow are those of one walker, too.
    collapsed = (host.effective < max(2.0, _FEWEST_EFFECTIVE * host.before[0])) | ~np.isfinite(host.after)
    trouble = dead | crowded | fallen | lost | collapsed
    if not trouble.any():
        return
    first, where = int(np.argmax(trouble)), f"about step {step_of(trouble)}"
    if dead[first]:
        raise PopulationError(
            f"all walkers died {where}: the weights of a turn are zero. Start them inside the walls, take a "
            "smaller time step, or a better trial."
        )
    if fallen[first] or lost[first]:
        _raise_runaway(float(energies[first]), monitor)
    if crowded[first]:
        raise PopulationError(
            f"the population exploded {where}: {int(host.total[first])} walkers for {places} places. Take a "
            "larger max_population, a smaller time step, a better trial, or population='reconfiguration'."
        )
    raise PopulationError(
        f"the population collapsed {where}: the weights of {int(host.before[first])} walkers count as "
        f"{host.effective[first]:.1f}. Take fewer steps_per_turn, a smaller time step, more walkers, or a "
        "better trial; or the potential is unbounded below."
    )


def _warn(message: str) -> None:
    warnings.warn(message, WalkersWarning, stacklevel=5)
