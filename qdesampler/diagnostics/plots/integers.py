"""Bars in the place of densities for scalars that are integers."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

__all__ = ["draw_bars"]

_WIDTH = 0.8  # of the bars of all chains together, where neighbouring integers are 1 apart
_MOST_BARS = 60  # bars that can be told apart in a panel of five inches; of more, outlines are drawn


def draw_bars(axes: Axes, draws: Any) -> None:
    """Replace the lines of a panel by bars: the share of each integer among the draws of each line.

    Bars of several lines stand side by side and keep the colours of the lines. Where that makes too many,
    the outline of each line's bars is drawn.

    Args:
        axes: a panel with as many lines as `draws` has rows.
        draws: integers, shape `(lines, draws)`.

    Raises:
        ValueError: the number of lines is another one.
    """
    values = np.asarray(draws)
    lines = list(axes.lines)
    if len(lines) != len(values):
        raise ValueError(f"the panel has {len(lines)} lines, but the draws have {len(values)} rows.")
    low, high = int(values.min()), int(values.max())
    at, width = np.arange(low, high + 1), _WIDTH / len(values)
    crowded = len(values) > 1 and at.size * len(values) > _MOST_BARS
    for i, (line, row) in enumerate(zip(lines, values, strict=True)):
        share = np.bincount(row - low, minlength=at.size) / row.size
        if crowded:
            axes.stairs(share, np.arange(low, high + 2) - 0.5, color=line.get_color())
        else:
            offset = (i - (len(values) - 1) / 2) * width
            axes.bar(at + offset, share, width, color=line.get_color())
        line.remove()
    axes.relim()
    axes.set_xlim(low - 0.6, high + 0.6)
    axes.set_ylim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
