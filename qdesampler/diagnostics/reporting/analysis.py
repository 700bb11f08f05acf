"""All that is known of a run in one object."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import xarray as xr

from qdesampler.diagnostics.checks.diagnose import diagnose
from qdesampler.diagnostics.checks.finding import Diagnosis, Finding
from qdesampler.diagnostics.plots.posterior import Plot, draw_plots, write_plots
from qdesampler.diagnostics.statistics.summary import RunStatistics

__all__ = ["Analysis", "analysis_of"]


class Analysis(RunStatistics):
    """The tree, the table, the findings and the plots of a run; each is computed once, when it is asked for.

    `summary`, `diagnose`, `draw_plots`, `save_plots` and `report` take an analysis in the place of a run, and
    compute nothing anew::

        found = Analysis(mcmc)
        print(found.table, found.findings)
        report(found, "report.html")

    Args:
        run: a `numpyro.infer.MCMC` after `run`, or a tree with a posterior.
        attrs: facts to add to the attributes of a run's tree, for instance `{"seed": 0}`.
        tree: a tree of the run that was made already, for instance with coordinates of your own.
        further: findings from elsewhere, for instance from a comparison with known values.

    Attributes:
        run: the run or the tree.
    """

    def __init__(
        self,
        run: Any,
        attrs: Mapping[str, str | int | float] | None = None,
        *,
        tree: xr.DataTree | None = None,
        further: Sequence[Finding] = (),
    ):
        super().__init__(run, attrs, tree=tree)
        self._further = further

    @cached_property
    def findings(self) -> Diagnosis:
        """The result of `diagnose`, and the further findings."""
        return diagnose(self).extended(self._further)

    @cached_property
    def plots(self) -> list[Plot]:
        """The result of `draw_plots`."""
        return list(draw_plots(self))

    def save_plots(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the plots as `<name>.png`; see `qdesampler.plots.save_plots`."""
        return write_plots(self.plots, folder)

    def to_netcdf(self, path: str | os.PathLike[str]) -> None:
        """Write the tree with the zero-variance estimates to a netCDF file."""
        self.tree_with_estimates().to_netcdf(path, engine="h5netcdf")


def analysis_of(run: Any) -> Analysis:
    """The analysis itself, or a new one of a run or a tree."""
    return run if isinstance(run, Analysis) else Analysis(run)
