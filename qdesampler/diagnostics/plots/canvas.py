"""The panels of one figure on any backend of arviz_plots: matplotlib, bokeh, plotly, or none."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import xarray as xr
from arviz_base import rcParams
from arviz_plots.plot_collection import PlotCollection

__all__ = ["BACKENDS", "Canvas"]

BACKENDS = ("none", "matplotlib", "bokeh", "plotly")


class Canvas:
    """A figure with named panels and the drawing functions of `arviz_plots.backend`.

    Args:
        panels: names of the panels, which become their coordinates.
        columns: most columns of the grid.
        size: width and height of one panel, inches.
        backend: one of `BACKENDS`; None takes ArviZ's `rcParams["plot.backend"]`.

    Attributes:
        draw: the module of the backend, as in `draw.line(x, y, target, color=...)`.
        colors: ten colours of the backend.

    Raises:
        ValueError: the backend does not exist.
        ImportError: the package of the backend is not installed.
    """

    def __init__(
        self,
        panels: Sequence[str],
        *,
        columns: int = 2,
        size: tuple[float, float] = (4.6, 3.4),
        backend: str | None = None,
    ):
        backend = backend or str(rcParams["plot.backend"])
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}.")
        self.backend = backend
        self.draw: Any = import_module(f"arviz_plots.backend.{backend}")
        columns = min(columns, len(panels))
        rows = -(-len(panels) // columns)
        self.figure, plots = self.draw.create_plotting_grid(
            len(panels),
            rows,
            columns,
            figsize=(size[0] * columns, size[1] * rows),
            figsize_units="inches",
            squeeze=False,
            **({"layout": "constrained"} if backend == "matplotlib" else {}),
        )
        cells = list(np.ndindex(rows, columns))[: len(panels)]
        self._panels = {name: plots[cell] for name, cell in zip(panels, cells, strict=True)}
        self.colors = list(self.draw.get_default_aes("color", 10))

    def __getitem__(self, name: str) -> Any:
        return self._panels[name]

    def label(self, panel: str, title: str, x: str, y: str) -> None:
        """Set the title and the labels of the axes of a panel."""
        target = self[panel]
        self.draw.title(title, target)
        self.draw.xlabel(x, target)
        self.draw.ylabel(y, target)

    def equal_scales(self, panel: str) -> None:
        """Give both axes of a panel one scale, so that circles look like circles; on matplotlib only."""
        if self.backend == "matplotlib":
            self[panel].set_aspect("equal", adjustable="box")

    def legend(self, labels: Sequence[str], **properties: Sequence[Any]) -> None:
        """Add a legend of lines to the figure; each property has one value for each label.

        On matplotlib it stands below the panels, where no title can run under it.
        """
        entries = [
            dict(zip(properties, values, strict=True)) for values in zip(*properties.values(), strict=True)
        ]
        collection = self.collection()
        legend: Any = import_module(f"arviz_plots.backend.{self.backend}.legend").legend
        below = {"loc": "outside lower center", "ncols": len(entries)} if self.backend == "matplotlib" else {}
        legend(collection, entries, list(labels), **below)

    def collection(self) -> PlotCollection:
        """The figure in the form of arviz_plots: `viz["figure"]`, `viz["plot"]`, `savefig`, `show`."""
        plots = np.empty(len(self._panels), dtype=object)
        for i, target in enumerate(self._panels.values()):
            plots[i] = target
        panels = xr.DataArray(plots, dims="panel", coords={"panel": list(self._panels)})
        figure: Any = np.empty((), dtype=object)
        figure[()] = self.figure
        viz = xr.DataTree(xr.Dataset({"figure": ((), figure), "plot": panels}))
        return PlotCollection(xr.Dataset(), viz, aes_dt=xr.DataTree(), backend=self.backend)
