"""Plots of imaginary-time evolutions, ground states with their levels, trials, and annealers' reads.

Like ArviZ's own plots, each function returns a `PlotCollection` of arviz_plots on any of its backends.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from arviz_plots.plot_collection import PlotCollection
from scipy import stats

from qdesampler.backends.problem import IsingProblem
from qdesampler.backends.protocol import Samples
from qdesampler.diagnostics.checks.annealer import read_temperature
from qdesampler.diagnostics.datatree.kernel_answers import kernel_answer
from qdesampler.diagnostics.plots.canvas import Canvas
from qdesampler.diagnostics.statistics.labels import short_names
from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.infer.model.kernel_reports import TrialReport
from qdesampler.infer.model.scores import run_scores
from qdesampler.numerics.trial import draw_trial
from qdesampler.solvers.annealing.path import ImaginaryTimePath
from qdesampler.solvers.gaussian.wavefunction import GaussianWavefunction
from qdesampler.solvers.grid.grid import Grid
from qdesampler.solvers.grid.imaginary_time import ImaginaryTimeTrajectory
from qdesampler.solvers.protocol import GroundState

__all__ = ["plot_evolution", "plot_ground_state", "plot_reads", "plot_trial"]

_NODES_1D, _NODES_2D = 400, 90  # points on each axis of a plot in one and in two dimensions
_MOST_LINES = 8  # coordinates of an evolution that are drawn
_TRIAL_DRAWS = 4000  # draws behind each density of a trial
_MOST_TRIAL = 9  # coordinates of a trial that are drawn
_TRIAL_ROOM = 28  # characters of a name above a coordinate of a trial
_MOST_UNEQUAL = 4  # sides of a box in two dimensions up to which both axes have one scale


def plot_evolution(
    *paths: ImaginaryTimePath | ImaginaryTimeTrajectory, grid: Grid | None = None, backend: str | None = None
) -> PlotCollection:
    """Energy, mean and standard deviation along imaginary time, and the densities at the ends of the paths.

    Densities are drawn only in one dimension.

    Args:
        paths: paths of `evolve` or `propagate`, one after the other; each end is one density, from light to
            dark.
        grid: grid of a path of `evolve`, which does not contain its grid (`SpectralGrid(...).grid(dim)`).
        backend: backend of arviz_plots.

    Raises:
        TypeError: an argument is not a path.
        ValueError: there is no path.
    """
    if not paths:
        raise ValueError("plot_evolution needs at least one path of evolve or propagate.")
    for path in paths:
        if not isinstance(path, ImaginaryTimePath | ImaginaryTimeTrajectory):
            raise TypeError(f"expected a path of evolve or propagate, got {type(path).__name__}.")
    densities = [found for path in paths if (found := _end_density(path, grid)) is not None]
    moments = isinstance(paths[0], ImaginaryTimePath)
    panels = ["energy", "moments" if moments else "distance", *(["density"] if densities else [])]
    canvas = Canvas(panels, columns=3, backend=backend)
    draw, start = canvas.draw, 0.0
    for path in paths:
        time = start + np.asarray(path.time, float)
        draw.line(time, np.asarray(path.energy, float), canvas["energy"], color=canvas.colors[0])
        if isinstance(path, ImaginaryTimePath):
            mean, sd = np.asarray(path.mean, float), np.sqrt(np.asarray(path.variance, float))
            for i in range(min(mean.shape[1], _MOST_LINES)):
                color = canvas.colors[i % len(canvas.colors)]
                draw.line(time, mean[:, i], canvas["moments"], color=color)
                low, high = mean[:, i] - sd[:, i], mean[:, i] + sd[:, i]
                draw.fill_between_y(time, low, high, canvas["moments"], color=color, alpha=0.15)
        else:
            distance = np.maximum(np.asarray(path.distance, float), 1e-300)
            draw.line(time, distance, canvas["distance"], color=canvas.colors[0])
        start = time[-1]
    for i, (x, density) in enumerate(densities):
        alpha = 0.35 + 0.65 * (i + 1) / len(densities)
        draw.line(x, density, canvas["density"], color=canvas.colors[0], alpha=alpha)
    canvas.label("energy", "Energy", "imaginary time", "energy")
    if moments:
        canvas.label("moments", "Mean and standard deviation", "imaginary time", "position")
    else:
        draw.yscale(canvas["distance"], "log")
        canvas.label("distance", "Distance to the ground state", "imaginary time", "distance")
    if densities:
        canvas.label("density", "Density where the path ends", "position", "density")
    return canvas.collection()


def _end_density(path: Any, grid: Grid | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Nodes and density of the last state of a path in one dimension, else None."""
    if isinstance(path.state, GaussianWavefunction):
        if path.mean.shape[1] != 1:
            return None
        mean, sd = float(path.mean[-1, 0]), float(jnp.sqrt(path.variance[-1, 0]))
        x = np.linspace(mean - 4 * sd, mean + 4 * sd, _NODES_1D)
        return x, stats.norm.pdf(x, mean, sd)
    grid = getattr(path, "grid", grid)
    psi = np.asarray(path.state, float)
    if grid is None or psi.ndim != 1:
        return None
    return np.asarray(grid.nodes(0), float), psi**2


def plot_ground_state(
    state: GroundState,
    hamiltonian: Hamiltonian,
    bounds: Any = None,
    *,
    names: Sequence[str] | None = None,
    backend: str | None = None,
) -> PlotCollection:
    """A ground state with its potential and levels in one dimension, contours of both in two dimensions.

    Args:
        state: the result of `ground_state`.
        hamiltonian: the Hamiltonian of the state.
        bounds: `(lower, upper)`, one for each axis or one for all; None takes the box that contains 1000
            draws of the state, widened by a third.
        names: names of the coordinates, for the axes; None calls them "position", in two dimensions "first
            coordinate" and "second coordinate".
        backend: backend of arviz_plots.

    Raises:
        ValueError: more than two dimensions, bounds that are not increasing, or another number of names than
            coordinates.
    """
    if state.dim not in (1, 2):
        raise ValueError(f"A ground state of {state.dim} coordinates cannot be drawn; of 1 or 2 it can.")
    box = _box(state) if bounds is None else np.broadcast_to(np.asarray(bounds, float), (state.dim, 2))
    if not np.all(box[:, 0] < box[:, 1]) or not np.all(np.isfinite(box)):
        raise ValueError(f"bounds must be increasing pairs, got {bounds!r}.")
    names = _coordinate_names(names, state.dim)
    if state.dim == 1:
        return _in_one_dimension(state, hamiltonian, box[0], names[0], backend)
    axes = [jnp.linspace(low, high, _NODES_2D) for low, high in box]
    points = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    shape = (_NODES_2D, _NODES_2D)
    density = np.exp(np.asarray(jax.vmap(state.log_prob)(points), float)).reshape(shape)
    potential = np.asarray(jax.vmap(hamiltonian.potential)(points), float).reshape(shape)
    finite = potential[np.isfinite(potential)]
    potential = np.where(np.isfinite(potential), potential, finite.max() if finite.size else 0.0)
    # Far from the state the potential may be huge, so the contours cover its values near the state.
    met = np.quantile(potential[density > 1e-3 * density.max()], [0.0, 1.0])
    levels = np.linspace(met[0], met[1] + 1e-9 + 0.2 * (met[1] - met[0]), 12)
    canvas = Canvas(["density", "potential"], backend=backend)
    x, y = (np.asarray(axis, float) for axis in axes)
    top = density.max()
    canvas.draw.contourf(x, y, density, canvas["density"], levels=np.linspace(0.02 * top, top, 12))
    canvas.draw.contour(x, y, np.clip(potential, levels[0], levels[-1]), canvas["potential"], levels=levels)
    title = f"Density, energy {float(state.energy):.4g}"
    canvas.label("density", title, *names)
    canvas.label("potential", "Potential", *names)
    sides = box[:, 1] - box[:, 0]
    if sides.max() <= _MOST_UNEQUAL * sides.min():
        for panel in ("density", "potential"):
            canvas.equal_scales(panel)
    return canvas.collection()


def _coordinate_names(names: Sequence[str] | None, dim: int) -> tuple[str, ...]:
    """The names of the axes of one or two coordinates."""
    if names is None:
        return ("position",) if dim == 1 else ("first coordinate", "second coordinate")
    names = (names,) if isinstance(names, str) else tuple(names)
    if len(names) != dim:
        raise ValueError(f"names must have one name for each of the {dim} coordinates, got {list(names)}.")
    return names


def _box(state: GroundState) -> np.ndarray:
    draws = np.asarray(state.sample(jax.random.key(0), (1000,)), float)
    low, high = draws.min(0), draws.max(0)
    return np.stack([low - (high - low) / 3, high + (high - low) / 3], axis=1)


def _in_one_dimension(
    state: GroundState, hamiltonian: Hamiltonian, box: np.ndarray, name: str, backend: str | None
) -> PlotCollection:
    x = np.linspace(box[0], box[1], _NODES_1D)
    points = jnp.asarray(x, jnp.result_type(float))[:, None]
    density = np.exp(np.asarray(jax.vmap(state.log_prob)(points), float))
    potential = np.asarray(jax.vmap(hamiltonian.potential)(points), float)
    known = [float(state.energy)] if state.levels is None else [float(level) for level in state.levels]
    canvas = Canvas(["state"], size=(7.0, 4.6), backend=backend)
    draw, target = canvas.draw, canvas["state"]
    met = potential[(density > 0.1 * density.max()) & np.isfinite(potential)]
    low = min(met.min(initial=known[0]), known[0])
    high = max(known[-1], met.max(initial=known[-1]))
    height = max(high - low, 1e-9)
    shown = np.where((potential < low + 2 * height) & np.isfinite(potential), potential, np.nan)
    draw.line(x, shown, target, color=canvas.colors[1])
    for i, level in enumerate(known):
        draw.hline(level, target, color=canvas.colors[3], alpha=1.0 if i == 0 else 0.5)
    lifted = known[0] + 0.8 * height * density / density.max()
    draw.fill_between_y(x, np.full_like(x, known[0]), lifted, target, color=canvas.colors[0], alpha=0.3)
    draw.line(x, lifted, target, color=canvas.colors[0])
    draw.ylim((low - 0.1 * height, low + 1.5 * height), target)
    error = float(state.energy_error)
    title = f"Energy {known[0]:.6g} \N{PLUS-MINUS SIGN} {error:.1g}"
    if state.gap is not None:
        title += f", gap {float(state.gap):.4g}"
    canvas.label("state", title, name, "energy")
    canvas.legend(["potential", "levels", "density"], color=[canvas.colors[i] for i in (1, 3, 0)])
    return canvas.collection()


def plot_trial(run: Any, state: GroundState | None = None, *, backend: str | None = None) -> PlotCollection:
    """The marginal densities of the trial state and of the draws, in unconstrained space.

    Args:
        run: a `numpyro.infer.MCMC` after `run`.
        state: the trial; None takes the trial of the global moves of a QDE run, without the coordinates that
            the kernel has re-centred.
        backend: backend of arviz_plots.

    Raises:
        ValueError: there is no trial, its dimension is not that of the draws, or all coordinates are
            re-centred; see also `qdesampler.infer.model.scores.run_scores`.
    """
    found = run_scores(run, require_finite=False)
    dim = found.positions.shape[-1]
    shown = np.ones(dim, bool)
    if state is not None:
        if state.dim != dim:
            raise ValueError(f"The trial has {state.dim} coordinates, the draws have {dim}.")
        draws = np.asarray(state.sample(jax.random.key(0), (_TRIAL_DRAWS,)), float)
    else:
        report: TrialReport | None = kernel_answer(run, "trial_report")
        if report is None:
            raise ValueError(
                "This run has no trial: give one, or run QDE with vectorized chains, which share one trial."
            )
        trial, shown = report.trial, report.as_written
        keys = jax.random.split(jax.random.key(0), _TRIAL_DRAWS)
        draws = np.asarray(jax.vmap(lambda key: draw_trial(key, trial))(keys), float)
    if not shown.any():
        raise ValueError("Every coordinate of this trial is re-centred: none is a coordinate of the draws.")
    chosen = np.flatnonzero(shown)[:_MOST_TRIAL]
    canvas = Canvas([found.labels[i] for i in chosen], columns=3, size=(3.6, 2.6), backend=backend)
    titles = short_names([found.labels[i] for i in chosen], _TRIAL_ROOM)
    for i, title in zip(chosen, titles, strict=True):
        label = found.labels[i]
        values = found.positions[..., i].ravel()
        low, high = np.quantile(values, [0.001, 0.999])
        reach = 0.4 * (high - low) + 1e-9
        x = np.linspace(low - reach, high + reach, 200)
        for sample, color in ((values, canvas.colors[0]), (draws[:, i], canvas.colors[1])):
            sample = sample[:: max(1, len(sample) // _TRIAL_DRAWS)]
            if np.ptp(sample) > 0:
                canvas.draw.line(x, stats.gaussian_kde(sample)(x), canvas[label], color=color)
        canvas.label(label, title, "", "")
    canvas.legend(["draws", "trial"], color=canvas.colors[:2])
    return canvas.collection()


def plot_reads(
    problem: IsingProblem, samples: Samples, *, beta: float = 1.0, backend: str | None = None
) -> PlotCollection:
    """The energies of an annealer's reads, and how often spins point along the fields of their neighbours.

    On the right, spins are sorted by the size of the field of their neighbours. The fraction that points
    along it should be `1 / (1 + exp(-2 beta |f|))`, which is drawn for the requested `beta` and for the
    `beta` estimated from the reads.

    Args:
        problem: the energy.
        samples: the reads that the backend returned.
        beta: the requested inverse temperature.
        backend: backend of arviz_plots.

    Raises:
        TypeError, ValueError: as `read_temperature`.
    """
    found = read_temperature(problem, samples.states)
    dense = problem.dense()
    spins = np.asarray(samples.states, float)
    field = np.asarray(dense.h, float) + spins @ np.asarray(dense.J, float)
    size, down = np.abs(field).ravel(), (spins * field < 0).ravel()
    canvas = Canvas(["energies", "temperature"], backend=backend)
    draw = canvas.draw
    energies = np.asarray(samples.energies, float)
    counts, edges = np.histogram(energies, bins=min(40, max(8, found.reads // 25)))
    draw.hist(counts, edges[:-1], edges[1:], canvas["energies"], color=canvas.colors[0], alpha=0.8)
    draw.vline(float(energies.min()), canvas["energies"], color=canvas.colors[1])
    canvas.label("energies", f"{found.reads} reads, {found.different} different states", "energy", "reads")
    order = np.argsort(size)
    parts = [part for part in np.array_split(order, 15) if part.size]
    x = np.array([size[part].mean() for part in parts])
    fraction = np.array([down[part].mean() for part in parts])
    draw.scatter(x, fraction, canvas["temperature"], color=canvas.colors[0])
    fine = np.linspace(0, x.max() + 1e-12, 200)
    for value, color in ((beta, canvas.colors[1]), (found.beta, canvas.colors[0])):
        if np.isfinite(value):
            draw.line(fine, 1 / (1 + np.exp(-2 * value * fine)), canvas["temperature"], color=color)
    error = f" \N{PLUS-MINUS SIGN} {found.standard_error:.2g}" if np.isfinite(found.beta) else ""
    title = f"beta {found.beta:.3g}{error}, requested {beta:g}"
    canvas.label("temperature", title, "size of the field", "fraction along it")
    canvas.legend(["requested", "estimated"], color=[canvas.colors[1], canvas.colors[0]])
    return canvas.collection()
