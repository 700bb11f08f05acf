"""A plot that compares the costs of kernels."""

from collections.abc import Mapping, Sequence

import numpy as np
from arviz_plots.plot_collection import PlotCollection

from qdesampler.diagnostics.plots.canvas import Canvas

__all__ = ["plot_comparison"]


def plot_comparison(
    labels: Sequence[str], values: Mapping[str, Sequence[float]], *, backend: str | None = None
) -> PlotCollection:
    """One panel for each cost and one row for each kernel, on a logarithmic scale from the smallest cost.

    Args:
        labels: names of the rows.
        values: positive numbers for each cost, one for each row.
        backend: backend of arviz_plots.

    Raises:
        ValueError: there is nothing to compare, lengths differ, or numbers are not positive.
    """
    if not labels or not values:
        raise ValueError("There is nothing to compare.")
    for name, numbers in values.items():
        if len(numbers) != len(labels) or not all(0 < number < np.inf for number in numbers):
            raise ValueError(f"{name} needs {len(labels)} positive numbers, got {list(numbers)}.")
    canvas = Canvas(list(values), size=(5.4, 1.3 + 0.4 * len(labels)), backend=backend)
    y = -np.arange(len(labels), dtype=float)
    for name, numbers in values.items():
        target, least = canvas[name], min(numbers)
        reach = np.log10(np.asarray(numbers, float) / least)
        for at, length in zip(y, reach, strict=True):
            canvas.draw.line(np.array([0.0, length]), np.array([at, at]), target, color=canvas.colors[0])
        canvas.draw.scatter(reach, y, target, color=canvas.colors[0])
        ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 1000, 10_000) if np.log10(t) <= max(reach.max(), 0.3)]
        canvas.draw.xticks(np.log10(ticks), [f"{tick:g}" for tick in ticks], target)
        rows = [f"{label}: {number:,.3g}" for label, number in zip(labels, numbers, strict=True)]
        canvas.draw.yticks(y, rows, target)
        canvas.label(name, name.capitalize(), "times the smallest", "")
    return canvas.collection()
