"""A plot of the gain of control variates: errors of plain and zero-variance means."""

from typing import Any

import numpy as np
from arviz_plots.plot_collection import PlotCollection

from qdesampler.diagnostics.plots.canvas import Canvas
from qdesampler.diagnostics.statistics.labels import short_names

__all__ = ["plot_zero_variance"]

MOST_ROWS = 30  # rows; of more scalars those with the smallest gain are shown
_ROOM = 28  # characters of a name


def plot_zero_variance(table: Any, *, backend: str | None = None) -> PlotCollection:
    """Standard errors of plain and zero-variance means in posterior standard deviations, one row per scalar.

    Args:
        table: the table of `summary(mcmc)` with zero-variance columns; a long table is cut to the rows with
            the smallest gain.
        backend: backend of arviz_plots.

    Raises:
        ValueError: the table has no zero-variance columns, or nothing in it varies.
    """
    if "zv_gain" not in table:
        raise ValueError("The table has no zero-variance columns: summary(mcmc) of a run has them.")
    rows = table[(table["sd"] > 0) & np.isfinite(table["zv_mcse"]) & (table["zv_mcse"] > 0)]
    if not len(rows):
        raise ValueError("There is no scalar with a zero-variance estimate.")
    rows = rows.nsmallest(MOST_ROWS, "zv_gain") if len(rows) > MOST_ROWS else rows
    plain = np.log10((rows["mcse_mean"] / rows["sd"]).to_numpy())
    reduced = np.log10((rows["zv_mcse"] / rows["sd"]).to_numpy())
    y = -np.arange(len(rows), dtype=float)
    canvas = Canvas(["gain"], size=(7.0, 1.2 + 0.26 * len(rows)), backend=backend)
    draw, target = canvas.draw, canvas["gain"]
    for at, left, right in zip(y, reduced, plain, strict=True):
        draw.line(np.array([left, right]), np.array([at, at]), target, color=canvas.colors[7], alpha=0.7)
    draw.scatter(plain, y, target, color=canvas.colors[1])
    draw.scatter(reduced, y, target, color=canvas.colors[0])
    ticks = _ticks(min(plain.min(), reduced.min()), max(plain.max(), reduced.max()))
    draw.xticks(np.log10(ticks), [f"{100 * tick:g}%" for tick in ticks], target)
    draw.yticks(y, short_names([str(label) for label in rows.index], _ROOM), target)
    title = f"Median gain {np.median(rows['zv_gain']):.3g}"
    canvas.label("gain", title, "standard error of the mean over sd", "")
    canvas.legend(["plain", "zero variance"], color=[canvas.colors[1], canvas.colors[0]])
    return canvas.collection()


def _ticks(low: float, high: float) -> np.ndarray:
    """Round numbers for the ticks, about six at most."""
    decades = 10.0 ** np.arange(np.floor(low), np.ceil(high) + 1)
    fine = np.outer(decades, (1, 2, 5)).ravel() if len(decades) <= 4 else decades[:: 1 + len(decades) // 6]
    inside = fine[(np.log10(fine) >= low - 0.1) & (np.log10(fine) <= high + 0.1)]
    return inside if inside.size else fine
