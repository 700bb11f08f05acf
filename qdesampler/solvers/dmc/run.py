"""One run of diffusion Monte Carlo at one time step: burn-in until it settles, measurement, checks."""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.solvers.dmc.blocking import ratio
from qdesampler.solvers.dmc.diffusion_step import Guide, Step
from qdesampler.solvers.dmc.window import Layout, Population, Snapshot, Turn, WindowResult, run_window
from qdesampler.solvers.protocol import NoGroundStateError

__all__ = ["MeasuredRun", "Monitor", "PopulationError", "WalkersWarning", "run_at_time_step"]

Progress = Callable[[int, int, float], None]

_CUT = 20.0  # largest deviation of the local energy in the weights, in units of sqrt(spread / tau)
# Branching brings its population back within this time in units of 1 / spread, but not in less than a turn.
_FEEDBACK = 0.5
_SETTLED = 3.0  # standard errors by which the last two windows of the burn-in may differ
_MOST_BURN_IN = 4  # longest burn-in, in units of `burn_in`
_FEWEST_EFFECTIVE = 0.02  # effective walkers per walker, below which the population has collapsed
_LOW_ACCEPTANCE = 0.9  # mean acceptance below which the time step is called coarse
_COARSE = 0.5  # spread of the log weights of one step above which the time step is called coarse


class PopulationError(RuntimeError):
    """The population of walkers died out, exploded or collapsed to a few; the message says when."""


class WalkersWarning(UserWarning):
    """The walkers answer, but a step, a length or the trial limits the accuracy; the message says which."""


class Monitor(NamedTuple):
    """The numbers that the host checks a run against, and the report of its progress.

    Attributes:
        energy: energy of the trial.
        spread: spread of its local energies, as a standard deviation.
        depth: an energy lower than `energy - depth` counts as running away.
        progress: called with the steps done, their total and the energy of the last window; or `None`.
        total: number of measured steps, over all runs.
        done: steps of the runs before.
    """

    energy: float
    spread: float
    depth: float
    progress: Progress | None
    total: int
    done: int


class MeasuredRun(NamedTuple):
    """A finished run.

    Attributes:
        population: at the end.
        turns: averages of the measured turns, float64.
        tau_effective: time step of the weights.
        snapshots: one for each measured window.
        burn_in: steps of the burn-in.
        settled: whether its last two windows agree.
    """

    population: Population
    turns: Turn
    tau_effective: float
    snapshots: list[Snapshot]
    burn_in: int
    settled: bool


class _BurnIn(NamedTuple):
    """A finished burn-in.

    Attributes:
        population: at the end.
        turns: averages of the turns of each window, float64.
        tau_effective: time step of the weights.
        reference: `E_ref`, the mean energy of its second half.
        settled: whether the last two windows agree.
    """

    population: Population
    turns: list[Turn]
    tau_effective: float
    reference: float
    settled: bool


class _Windows:
    """The windows of one run, in order: each draws from its own key and is checked at its end."""

    def __init__(
        self, guide: Guide, tau: float, key: jax.Array, layout: Layout, monitor: Monitor, dtype: np.dtype
    ):
        self.length = layout.turns * layout.steps
        self._guide, self._tau, self._key, self._layout = guide, tau, key, layout
        self._monitor, self._dtype, self._done = monitor, dtype, 0
        self._cut = max(_CUT * math.sqrt(monitor.spread / tau), 2 * _CUT * monitor.spread)
        self._feedback = jnp.asarray(max(_FEEDBACK / monitor.spread, layout.steps * tau), dtype)

    def run(
        self, population: Population, tau_effective: float, reference: float, measured: int
    ) -> WindowResult:
        """Run the next window; `measured` counts the measured windows up to and including this one."""
        numbers = (self._tau, tau_effective, reference, self._cut)
        step = Step(*(jnp.asarray(a, self._dtype) for a in numbers))
        key = jax.random.fold_in(self._key, self._done)
        window = run_window(self._guide, population, step, self._feedback, key, self._layout)
        places, monitor = population.weight.size, self._monitor
        _check(window.turns, self._layout, places, self._done * self.length, monitor)
        self._done += 1
        if monitor.progress is not None:
            steps = monitor.done + measured * self.length
            monitor.progress(steps, monitor.total, _mean(window.turns).mean)
        return window


def _burn_in(windows: _Windows, population: Population, tau: float, fewest: int, energy: float) -> _BurnIn:
    """Run at least `fewest` windows, and up to four times as many until the last two agree."""
    before: list[Turn] = []
    tau_effective, reference, settled = tau, energy, False
    while len(before) < fewest or (not settled and len(before) < _MOST_BURN_IN * fewest):
        window = windows.run(population, tau_effective, reference, 0)
        population = window.population
        before.append(jax.tree.map(lambda a: np.asarray(a, np.float64), window.turns))
        recent = before[len(before) // 2 :]
        proposed = sum(np.sum(t.proposed) for t in recent)
        tau_effective = tau * float(sum(np.sum(t.accepted) for t in recent) / proposed)
        reference = float(np.mean([_mean(t).mean for t in recent]))
        settled = len(before) > 1 and _means_agree(before[-2], before[-1])
    return _BurnIn(population, before, tau_effective, reference, settled)


def run_at_time_step(
    guide: Guide,
    population: Population,
    tau: float,
    key: jax.Array,
    layout: Layout,
    windows: int,
    burn_in: int,
    keep: int,
    monitor: Monitor,
) -> MeasuredRun:
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
    series = _Windows(guide, tau, key, layout, monitor, population.walker.x.dtype)
    before = _burn_in(series, population, tau, burn_in, monitor.energy)
    _check_burn_in(before, tau, series.length, monitor)
    population, turns, snapshots = before.population, [], []
    for index in range(windows):
        points, weights, stride = _kept(population, keep)
        window = series.run(population, before.tau_effective, before.reference, index + 1)
        population = window.population
        turns.append(jax.tree.map(lambda a: np.asarray(a, np.float64), window.turns))
        alive = weights > 0
        counts = (np.asarray(a)[::stride][alive] for a in (window.half, window.full))
        snapshots.append(Snapshot(points[alive], *counts))
    return MeasuredRun(
        population,
        jax.tree.map(lambda *parts: np.concatenate(parts), *turns),
        before.tau_effective,
        snapshots,
        len(before.turns) * series.length,
        before.settled,
    )


def _check_burn_in(before: _BurnIn, tau: float, length: int, monitor: Monitor) -> None:
    """Warn of a burn-in that has not settled and of a coarse time step; refuse an energy that falls on."""
    if not before.settled:
        _check_falling(before.turns, monitor)
        _warn(
            f"the burn-in of {len(before.turns) * length} steps at time step {tau:g} did not settle: its "
            "last windows differ by more than their errors. Take more burn_in, or a better trial."
        )
    acceptance = float(np.mean([t.acceptance for t in before.turns[-2:]]))
    if acceptance < _LOW_ACCEPTANCE or monitor.spread * tau > _COARSE:
        _warn(
            f"the time step {tau:g} is coarse: acceptance {acceptance:.3f} (better above 0.99), and the "
            f"weights of one step spread by {monitor.spread * tau:.2g} (better below 0.1). Take a smaller "
            "one, several to extrapolate from, or a better trial."
        )


def _kept(population: Population, keep: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Points and weights of every `stride`-th walker, since neighbours may be copies; and the stride."""
    stride = -(-population.weight.size // keep)
    return np.asarray(population.walker.x[:, ::stride]).T, np.asarray(population.weight[::stride]), stride


def _mean(turns: Turn):
    return ratio(
        np.asarray(turns.after), np.asarray(turns.reference, np.float64) + np.asarray(turns.deviation)
    )


def _means_agree(first: Turn, second: Turn) -> bool:
    a, b = _mean(first), _mean(second)
    rounding = float(jnp.finfo(jnp.result_type(float)).eps) * max(abs(a.mean), 1.0)
    return abs(a.mean - b.mean) <= _SETTLED * math.hypot(a.error, b.error) + rounding


def _check_falling(before: list[Turn], monitor: Monitor) -> None:
    """Refuse a burn-in whose energy falls on without slowing down, which is no relaxation."""
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
    """Refuse a window with a broken proposal, a runaway energy or a population out of bounds."""
    host = jax.tree.map(np.asarray, turns)

    def step_of(bad: np.ndarray) -> int:
        return done + (int(np.argmax(bad)) + 1) * layout.steps

    if np.any(bad := host.broken > 0):
        raise FloatingPointError(
            f"log psi_T, its gradient or the local energy is not a number at {int(host.broken.sum())} "
            f"proposals, first about step {step_of(bad)}; check the trial and the potential where walkers "
            "go (the trial may be -inf, and the potential inf, where the state is zero)."
        )
    # Once all walkers are dead, every later number is NaN; the message names the first trouble.
    dead = (host.after <= 0) | (host.total < 1)
    crowded = host.total > places
    energies = host.reference.astype(np.float64) + host.deviation
    fallen = energies < monitor.energy - monitor.depth
    lost = ~np.isfinite(energies) & ~dead & np.isfinite(host.after)
    # Weights overflow if a few walkers carry nearly all of the weight.
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
    warnings.warn(message, WalkersWarning, stacklevel=6)
