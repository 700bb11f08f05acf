r"""Diffusion Monte Carlo, in any dimension and with any trial state: `Walkers`."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.equation.laplacian import ScalarFunction
from qdesampler.solvers.dmc.diffusion_step import Guide
from qdesampler.solvers.dmc.equilibration import equilibrate
from qdesampler.solvers.dmc.estimators import Energies, estimate, extrapolate
from qdesampler.solvers.dmc.forward_walking import build_wavefunction
from qdesampler.solvers.dmc.run import (
    MeasuredRun,
    Monitor,
    PopulationError,
    WalkersWarning,
    run_at_time_step,
)
from qdesampler.solvers.dmc.window import Layout, Population
from qdesampler.solvers.protocol import GroundState, Wavefunction
from qdesampler.validation import (
    as_positive_int,
    as_positive_scalar,
    check_scalar_function,
    is_traced,
)

__all__ = ["PopulationError", "Walkers", "WalkersWarning"]

_WINDOWS = 20  # windows of a run if no forward_time is given
_FEWEST_WINDOWS = 4  # windows that a run needs, for errors from them
_FEWEST_TURNS = 8  # turns of population control in a window, at least
_MOST_POINTS = 65536  # walkers stored, of all windows together
_UNSETTLED = 4.5  # standard errors between the halves of the run, above which it has not settled
_DOUBTFUL_FIT = 1e-3  # p-value of the extrapolation below which it is doubted
_FORWARD_SHIFT = 5.0  # standard errors by which moments may move in the second half of the forward walk


@dataclasses.dataclass(frozen=True, kw_only=True)
class Walkers:
    r"""Solver for any dimension: diffusion Monte Carlo with importance sampling.

    Weighted walkers carry out `exp(-H tau)`, guided by a trial state `psi_T`: they drift along
    `2 D grad log psi_T`, diffuse, and are weighted by the local energy of the trial (the equations are in
    `qdesampler.solvers.dmc.diffusion_step`). The better the trial, the smaller errors of every kind; they
    vanish if it is the ground state. The only assumption is that the trial is not zero where the ground state
    is not.

    `energy` is the mixed estimate, corrected for the bias of population control over a finite time
    (`qdesampler.solvers.dmc.estimators`), and `energy_error` is *one standard error* of it, by blocking; the
    bias of a finite time step is not included. With several time steps `energy` is the extrapolation to zero,
    with terms of first order and of order 3/2, and the error is that of the fit. Take three steps or more:
    two do not determine the second term, which makes the error large.
    `gap` is `None`.

    The state is estimated from walkers and descendants (`qdesampler.solvers.dmc.forward_walking`) at the
    smallest time step, without extrapolation: `sample` draws from the stored points, `log_psi` is the trial
    times a smooth fit, and its norm is an importance-sampling estimate.

    The result is a function of the key: random numbers depend on the walker's place, not on its device, and
    all sums over walkers are taken in the same order for any number of devices. Only rounding may differ, as
    the compiler vectorises parts of different length in different ways.

    Diagnostics: `time_steps`, and for each of them `energies`, `energy_errors`, `growth_energies`,
    `growth_energy_errors`, `population_biases` (the mean over walkers minus the corrected estimate) and
    `population_bias_errors`, `acceptances`, `effective_time_steps`, `correlation_times` (imaginary time) and
    `converged` (whether the runs are much longer than these); with several time steps `extrapolation_slope`,
    `extrapolation_bend` and `extrapolation_p_value`; `trial_energy` and `local_energy_spread` of the trial,
    without its outer tenth; `burn_in_steps`, `settled`, `num_steps`, and `walker_steps` of all runs together;
    `forward_time`, and `forward_shift`, the largest change of a first or second moment over the second half
    of it, in standard errors; `sample_is_empirical`, and `effective_draws`, the number of independent draws
    behind those moments; `log_psi_is_estimate`; `correction_degree`; `correction_gain`, the gain of the
    Poisson log likelihood per held-out point by the fit; `correction_error`, root mean square error of
    `2 log psi0` along the fit, on held-out points; `log_norm_error`.

    Attributes:
        trial: `log |psi_T|`, a function of one point, or a `GroundState`.
        time_step: `tau > 0`, or a tuple of different ones to extrapolate from. A good one has an acceptance
            above 0.99.
        num_walkers: number of walkers; for branching their mean number.
        num_steps: steps to measure, for each time step; rounded up to whole windows.
        burn_in: least number of steps before; a burn-in that has not settled may take four times as long.
            `None`: a quarter of `num_steps`.
        steps_per_turn: steps between two turns of population control.
        population: `"reconfiguration"` (fixed number, by a comb) or `"branching"`.
        max_population: places for branching; `None`: twice `num_walkers`.
        start: where walkers start: one point of shape `(dim,)`, points of shape `(n, dim)`, or a function
            from a key to one point; a Metropolis run under `psi_T^2` follows. `None`: draws of `trial` where
            it is a `GroundState`, else the origin.
        fixed_node: forbid moves that change the sign of the trial, for states that are not positive: the
            energy is then the lowest among states with the nodes of the trial, an upper bound.
        sign: sign of the trial, a function of one point; goes with `fixed_node`.
        forward_time: imaginary time over which descendants are counted, a few times `1 / gap`; `None`: a
            twentieth of a run at the smallest time step.
        correction_turns: turns over which the bias of population control is corrected; `None`: automatic; 0:
            no correction.
        devices: JAX devices that share the walkers; their number divides that of the places. `None`: one.
        progress: called after every window with the steps done, their total (without the burn-in), and the
            window's mean energy.

    Raises:
        TypeError, ValueError: an argument is not of these kinds; the message names it.
    """

    trial: ScalarFunction | GroundState
    time_step: float | tuple[float, ...]
    num_walkers: int = 2048
    num_steps: int = 4000
    burn_in: int | None = None
    steps_per_turn: int = 10
    population: Literal["reconfiguration", "branching"] = "reconfiguration"
    max_population: int | None = None
    start: Any = None
    fixed_node: bool = False
    sign: ScalarFunction | None = None
    forward_time: float | None = None
    correction_turns: int | None = None
    devices: Sequence[Any] | None = None
    progress: Callable[[int, int, float], None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.trial, GroundState) and not callable(self.trial):
            raise TypeError(
                f"trial must be a function log_psi_T(x) of one point or a GroundState, got {self.trial!r}."
            )
        object.__setattr__(self, "time_step", _as_time_steps(self.time_step))
        for name in ("num_walkers", "num_steps", "steps_per_turn"):
            as_positive_int(name, getattr(self, name))
        for name in ("burn_in", "max_population"):
            if getattr(self, name) is not None:
                as_positive_int(name, getattr(self, name))
        if self.num_walkers < 4:
            raise ValueError(f"num_walkers must be at least 4, got {self.num_walkers}.")
        if self.correction_turns is not None and self.correction_turns != 0:
            as_positive_int("correction_turns", self.correction_turns)
        if self.population not in ("reconfiguration", "branching"):
            raise ValueError(f"population must be 'reconfiguration' or 'branching', got {self.population!r}.")
        if self.max_population is not None:
            if self.population != "branching":
                raise ValueError("max_population goes with population='branching'; leave it out.")
            if self.max_population <= self.num_walkers:
                raise ValueError(
                    f"max_population must exceed num_walkers = {self.num_walkers}, got {self.max_population}."
                )
        if self.fixed_node != (self.sign is not None):
            raise ValueError(
                "fixed_node=True and sign=, the sign of the trial at one point, go together; "
                f"got fixed_node={self.fixed_node} and sign={self.sign!r}."
            )
        if self.forward_time is not None:
            as_positive_scalar("forward_time", self.forward_time)
        if self.start is not None and not callable(self.start):
            start = np.asarray(self.start)
            if not np.issubdtype(start.dtype, np.number) or not np.isfinite(start).all() or start.ndim == 0:
                raise ValueError(
                    "start must be finite points of shape (dim,) or (n, dim), or a function from a key to "
                    f"one point, got {self.start!r}."
                )
            object.__setattr__(self, "start", start)
        if self.devices is not None:
            object.__setattr__(self, "devices", tuple(self.devices))
            if not self.devices or self._places() % len(self.devices):
                raise ValueError(
                    f"{self._places()} places for walkers cannot be shared by {len(self.devices)} devices; "
                    "take a multiple of their number."
                )

    def _places(self) -> int:
        if self.population == "branching":
            return self.max_population or 2 * self.num_walkers
        return self.num_walkers

    def solve(self, hamiltonian: Hamiltonian, key: jax.Array | None = None) -> GroundState:
        """Return the energy and the state, estimated from the walkers.

        Warns:
            WalkersWarning: a coarse time step; a burn-in or a run that has not settled; a run that is short
                compared with its correlation time; energies that do not follow the extrapolation; a forward
                walk that is too short.

        Raises:
            NoGroundStateError: the energy runs away: the potential is unbounded below, or the trial has next
                to no overlap with the ground state. (A `ValueError`.)
            PopulationError: the walkers died out, exploded or collapsed. (A `RuntimeError`.)
            FloatingPointError: trial, its gradient or the local energy is not a number where walkers go.
            TypeError, ValueError: `key` is `None`; the trial is for another dimension or returns no scalar;
                `start` has another shape; the trial vanishes at the start; `forward_time` is more than a
                quarter of the run.
        """
        if key is None:
            raise ValueError("Walkers draws random numbers: give a key, such as key=jax.random.key(0).")
        if is_traced(hamiltonian.diffusion) or is_traced(key):
            raise ValueError("Walkers solves on the host: call it outside of jit, vmap and grad.")
        guide, trial = self._guide(hamiltonian), self.trial if isinstance(self.trial, GroundState) else None
        steps = sorted(self._time_steps, reverse=True)
        layout, windows, burn_in = self._plan(steps[-1])
        key_start, key_density, *keys = jax.random.split(key, 2 + len(steps))
        begin = equilibrate(guide, trial, self.start, self.num_walkers, steps[0], key_start)
        places = self._places()
        index = np.arange(places) % self.num_walkers
        weight = jnp.asarray(np.arange(places) < self.num_walkers, begin.walker.x.dtype)
        population = Population(jax.tree.map(lambda a: a[..., index], begin.walker), weight)
        length, keep = layout.turns * layout.steps, max(1, _MOST_POINTS // windows)
        total = len(steps) * windows * length
        runs: list[MeasuredRun] = []
        for i, (tau, run_key) in enumerate(zip(steps, keys, strict=True)):
            monitor = Monitor(
                begin.energy, begin.spread, begin.depth, self.progress, total, i * windows * length
            )
            runs.append(
                run_at_time_step(guide, population, tau, run_key, layout, windows, burn_in, keep, monitor)
            )
            population = runs[-1].population
        lag = self.correction_turns
        found = [estimate(r.turns, layout.steps * r.tau_effective, lag) for r in runs]
        _check_runs(steps, found)
        energy, error, extrapolation = _energy(np.array(steps), found)
        support = trial.support if trial is not None else None
        wavefunction, state = build_wavefunction(guide.log_psi, support, runs[-1].snapshots, key_density)
        if state["forward_shift"] > _FORWARD_SHIFT:
            _warn(
                f"moments of psi0^2 still move, by {state['forward_shift']:.1f} standard errors in the "
                f"second half of the forward walk of length {length * steps[-1]:g}; take a longer "
                "forward_time."
            )
        dtype = jnp.result_type(float)
        return GroundState(
            energy=jnp.asarray(energy, dtype),
            energy_error=jnp.asarray(error, dtype),
            gap=None,
            levels=None,
            level_errors=None,
            diffusion=hamiltonian.diffusion,
            wavefunction=wavefunction,
            diagnostics={
                **_per_run(steps, runs, found, layout.steps),
                **extrapolation,
                "trial_energy": begin.energy,
                "local_energy_spread": begin.spread,
                "num_steps": windows * length,
                "walker_steps": (total + sum(r.burn_in for r in runs)) * self.num_walkers,
                "forward_time": length * steps[-1],
                **state,
            },
        )

    @property
    def _time_steps(self) -> tuple[float, ...]:
        return self.time_step if isinstance(self.time_step, tuple) else (self.time_step,)

    def _guide(self, hamiltonian: Hamiltonian) -> Guide:
        dim = hamiltonian.dim
        if isinstance(self.trial, GroundState):
            if self.trial.dim != dim:
                raise ValueError(f"the trial has dim = {self.trial.dim}, the Hamiltonian dim = {dim}.")
            log_psi: ScalarFunction = jax.tree_util.Partial(_log_psi, self.trial.wavefunction)
        else:
            log_psi = self.trial
        check_scalar_function("trial", log_psi, dim)
        if self.sign is not None:
            check_scalar_function("sign", self.sign, dim)
        return Guide(hamiltonian, log_psi, self.sign)

    def _plan(self, smallest: float) -> tuple[Layout, int, int]:
        """The layout of a window, and the numbers of windows to measure and to burn in."""
        turn, least = self.steps_per_turn, _FEWEST_TURNS * self.steps_per_turn
        wanted = self.num_steps / _WINDOWS
        if self.forward_time is not None:
            wanted = self.forward_time / smallest
        turns = 2 * math.ceil(max(wanted, least) / (2 * turn) - 1e-9)
        windows = math.ceil(self.num_steps / (turns * turn))
        if windows < _FEWEST_WINDOWS:
            raise ValueError(
                f"num_steps = {self.num_steps} holds {windows} forward walks of {turns * turn} steps, and at "
                f"least {_FEWEST_WINDOWS} are needed: take more steps, fewer steps_per_turn, or a shorter "
                "forward_time."
            )
        burn_in = self.num_steps // 4 if self.burn_in is None else self.burn_in
        mesh = None if self.devices is None else Mesh(np.array(self.devices), ("walkers",))
        layout = Layout(turns, turn, self.population, self.num_walkers, mesh)
        return layout, windows, max(2, math.ceil(burn_in / (turns * turn)))


def _log_psi(wavefunction: Wavefunction, x: jax.Array) -> jax.Array:
    return wavefunction.log_psi(x)


def _energy(steps: np.ndarray, found: list[Energies]) -> tuple[float, float, dict[str, Any]]:
    """Energy, its error, and the diagnostics of the extrapolation."""
    if len(steps) == 1:
        return found[0].mixed, found[0].error, {}
    values, errors = np.array([e.mixed for e in found]), np.array([e.error for e in found])
    # The errors of an exact trial may all be zero; the weights are then arbitrary.
    fit = extrapolate(steps, values, np.maximum(errors, np.finfo(np.float32).eps * errors.max() + 1e-30))
    if fit.p_value < _DOUBTFUL_FIT:
        _warn(
            f"the energies at the time steps {steps.tolist()} do not follow first order and order 3/2 "
            f"(probability {fit.p_value:.1g}); take smaller steps, or more of them."
        )
    return (
        float(fit.coefficients[0]),
        math.sqrt(fit.covariance[0, 0]),
        {
            "extrapolation_slope": float(fit.coefficients[1]),
            "extrapolation_bend": float(fit.coefficients[2]),
            "extrapolation_p_value": fit.p_value,
        },
    )


def _per_run(steps: list[float], runs: list[MeasuredRun], found: list[Energies], turn: int) -> dict[str, Any]:
    columns = {
        "time_steps": steps,
        "energies": [e.mixed for e in found],
        "energy_errors": [e.error for e in found],
        "growth_energies": [e.growth for e in found],
        "growth_energy_errors": [e.growth_error for e in found],
        "population_biases": [e.population_bias for e in found],
        "population_bias_errors": [e.population_bias_error for e in found],
        "acceptances": [float(r.turns.acceptance.mean()) for r in runs],
        "effective_time_steps": [r.tau_effective for r in runs],
        "correlation_times": [
            e.correlation_time * turn * r.tau_effective for e, r in zip(found, runs, strict=True)
        ],
        "converged": [e.converged for e in found],
        "burn_in_steps": [r.burn_in for r in runs],
        "settled": [r.settled for r in runs],
    }
    return {name: np.array(values) for name, values in columns.items()}


def _check_runs(steps: list[float], found: list[Energies]) -> None:
    for tau, e in zip(steps, found, strict=True):
        if not e.converged:
            _warn(
                f"the run at time step {tau:g} is short against its correlation time: the energy error "
                f"{e.error:.2g} is likely too small. Take more num_steps."
            )
        if abs(e.drift) > _UNSETTLED:
            _warn(
                f"the energy at time step {tau:g} still moves: its two halves differ by {abs(e.drift):.1f} "
                "standard errors. Take more burn_in."
            )


def _as_time_steps(value: Any) -> float | tuple[float, ...]:
    if not isinstance(value, tuple | list):
        return float(as_positive_scalar("time_step", value))
    steps = tuple(float(as_positive_scalar("time_step", tau)) for tau in value)
    if len(steps) < 2 or len(set(steps)) < len(steps):
        raise ValueError(f"several time steps must be two or more different ones, got {value!r}.")
    return steps


def _warn(message: str) -> None:
    warnings.warn(message, WalkersWarning, stacklevel=4)
