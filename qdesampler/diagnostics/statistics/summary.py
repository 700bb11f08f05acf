"""The summary table of a run, and the draws of its scalars."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from qdesampler.diagnostics.datatree.convert import complex_parts, to_datatree
from qdesampler.diagnostics.datatree.dims import SAMPLE_DIMS
from qdesampler.diagnostics.statistics.array_statistics import in_threads, table_columns
from qdesampler.diagnostics.statistics.control_fit import DRAWS_A_FEATURE, MOST_FEATURES
from qdesampler.diagnostics.statistics.control_variates import LEAST_DRAWS, estimates_of
from qdesampler.diagnostics.statistics.summary_table import COLUMNS, ZERO_VARIANCE_COLUMNS, SummaryTable
from qdesampler.infer.model.scores import NoScoresError

__all__ = [
    "RunStatistics",
    "all_labels",
    "blocks",
    "labels",
    "posterior_dataset",
    "scalars",
    "statistics_of",
    "summary",
    "with_estimates",
]

ZERO_VARIANCE = "zero_variance"  # group of a tree
BLOCK = 2_000_000  # numbers in memory at a time


def posterior_dataset(tree: xr.DataTree, var_names: Sequence[str] | None = None) -> xr.Dataset:
    """The variables of the posterior, with chain and draw leading, without empty ones and ambiguous labels.

    Raises:
        ValueError: a name in `var_names` is not a variable, or every variable is empty.
    """
    dataset = tree["posterior"].to_dataset()
    parts = complex_parts({str(name): values for name, values in dataset.data_vars.items()})
    dataset = dataset.drop_vars(dataset.data_vars).assign(parts)
    unknown = [name for name in var_names or () if name not in dataset]
    if unknown:
        raise ValueError(
            f"No variable {', '.join(unknown)}; there are {', '.join(map(str, dataset.data_vars))}."
        )
    chosen = [name for name in (var_names or dataset.data_vars) if dataset[name].size]
    if not chosen:
        raise ValueError("There is nothing to summarise: every variable is empty.")
    unclear = [dim for dim, index in dataset[chosen].indexes.items() if not index.is_unique]
    return dataset[chosen].drop_vars(unclear).transpose(*SAMPLE_DIMS, ...)


def labels(values: xr.DataArray) -> list[str]:
    """The label, e.g. `beta[2]`, of every scalar of a variable whose leading axes are chain and draw."""
    dims = values.dims[2:]
    if not dims:
        return [str(values.name)]
    axes = [values[dim].values if dim in values.coords else range(values.sizes[dim]) for dim in dims]
    return [f"{values.name}[{', '.join(map(str, index))}]" for index in product(*axes)]


def all_labels(dataset: xr.Dataset) -> list[str]:
    """The labels of all scalars, in the order of `summary`."""
    return [label for values in dataset.data_vars.values() for label in labels(values)]


def blocks(dataset: xr.Dataset, largest: int = BLOCK) -> Iterator[np.ndarray]:
    """Draws of the scalars in float64, some at a time, in order; shapes `(scalars, chains, draws)`."""
    for values in dataset.data_vars.values():
        flat = np.asarray(values).reshape(*values.shape[:2], -1)
        step = max(1, largest // (flat.shape[0] * flat.shape[1]))
        for start in range(0, flat.shape[2], step):
            part = flat[:, :, start : start + step]
            yield np.ascontiguousarray(np.moveaxis(part, 2, 0), dtype=np.float64)


def scalars(dataset: xr.Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """The label and the draws `(chains, draws)`, float64, of every scalar, in the order of `summary`."""
    each = (values for block in blocks(dataset) for values in block)
    yield from zip(all_labels(dataset), each, strict=True)


class RunStatistics:
    """A run with what is computed from it; each part is computed when it is first asked for, and kept.

    Args:
        run: a `numpyro.infer.MCMC` after `run`, or a tree with a posterior.
        attrs: facts to add to the attributes of a run's tree, for instance `{"seed": 0}`.
        tree: a tree of the run that was made already, for instance with coordinates of your own.

    Attributes:
        run: the run or the tree.
    """

    def __init__(
        self,
        run: Any,
        attrs: Mapping[str, str | int | float] | None = None,
        *,
        tree: xr.DataTree | None = None,
    ):
        self.run = run
        self._attrs = attrs
        self._tree = run if isinstance(run, xr.DataTree) else tree

    @cached_property
    def tree(self) -> xr.DataTree:
        """The tree itself, or the tree of the run.

        Raises:
            ValueError: the tree has no group `posterior`, or the sampler has not run.
        """
        if self._tree is None:
            return to_datatree(self.run, attrs=self._attrs)
        if "posterior" not in self._tree.children:
            found = ", ".join(self._tree.children) or "none"
            raise ValueError(f"The tree has no group 'posterior', only: {found}.")
        return self._tree

    @cached_property
    def dataset(self) -> xr.Dataset:
        """The result of `posterior_dataset`."""
        return posterior_dataset(self.tree)

    @cached_property
    def plain_table(self) -> SummaryTable:
        """The table of all scalars without zero-variance means, for which no density is evaluated."""
        return _table(self.dataset)

    @cached_property
    def table(self) -> SummaryTable:
        """The table of all scalars, as `summary` returns it."""
        return _completed(self.plain_table, self.dataset, *self._estimates)

    @cached_property
    def _estimates(self) -> "_Estimates":
        if ZERO_VARIANCE in self.tree.children:
            return _Estimates(self.tree[ZERO_VARIANCE].to_dataset())
        if isinstance(self.run, xr.DataTree):
            return _Estimates(None)
        draws = self.dataset.sizes["chain"] * self.dataset.sizes["draw"]
        if draws < LEAST_DRAWS:
            return _Estimates(None, f"there are {draws} draws, and they need at least {LEAST_DRAWS}.")
        finite = [name for name, values in self.dataset.data_vars.items() if np.all(np.isfinite(values))]
        if not finite:
            return _Estimates(None, "no variable is finite at every draw.")
        try:
            found = estimates_of(self.dataset[finite], self.run)
        except (NoScoresError, np.linalg.LinAlgError) as error:
            return _Estimates(None, str(error))
        useful = any(bool((found[name].sel(estimate="gain") > 1).any()) for name in finite)
        return _Estimates(found) if useful else _Estimates(None, _no_gain(found))

    def tree_with_estimates(self) -> xr.DataTree:
        """The tree with the zero-variance estimates as a group, in a form that can be written to a file."""
        known = ZERO_VARIANCE in self.tree.children
        return self.tree if known else with_estimates(self.tree, self._estimates.estimates)


def with_estimates(tree: xr.DataTree, estimates: xr.Dataset | None) -> xr.DataTree:
    """The tree with the estimates as a group, in a form that can be written to a file."""
    if estimates is None:
        return tree
    attrs = {**estimates.attrs, "disagreeing": ", ".join(estimates.attrs.get("disagreeing", ()))}
    return xr.DataTree.from_dict({**tree.to_dict(), ZERO_VARIANCE: estimates.assign_attrs(attrs)})


def statistics_of(run: Any) -> RunStatistics:
    """The statistics themselves, or new ones of a run or a tree."""
    return run if isinstance(run, RunStatistics) else RunStatistics(run)


def summary(
    run: Any, *, var_names: Sequence[str] | None = None, estimates: xr.Dataset | None = None
) -> SummaryTable:
    """Posterior moments with their Monte Carlo errors, one row for each scalar.

    Rank-normalised split R-hat and bulk and tail effective sample sizes are those of Vehtari, Gelman,
    Simpson, Carpenter & Buerkner, Bayesian Analysis 16(2), 2021, and equal ArviZ's (R-hat of a single chain
    compares its two halves). If they can be computed, the zero-variance means follow in further columns.

    Args:
        run: a `numpyro.infer.MCMC` after `run`, a tree with a posterior, or an `Analysis`.
        var_names: names of variables; None for all.
        estimates: the result of `zero_variance`. None computes it for a run whose kernel has a potential
            function (one gradient for each draw, unless the run collected `z_grad`), and takes the group
            `zero_variance` of a tree that has one.

    Returns:
        A `pandas.DataFrame` that prints as readable text, with columns `mean`, `sd`, `mcse_mean`, `mcse_sd`,
        `ess_bulk`, `ess_tail`, `r_hat`, and with estimates `zv_mean`, `zv_mcse` and `zv_gain`, unrounded.
        Entries that cannot be computed (R-hat of a constant, anything of a NaN) are NaN. If the zero-variance
        means of a run cannot be computed, a note under the printed table says why.

    Raises:
        ValueError: there are no draws, or a name in `var_names` is not a variable.
    """
    found = statistics_of(run)
    if var_names is None and estimates is None:
        return found.table
    dataset = found.dataset if var_names is None else posterior_dataset(found.tree, var_names)
    known, reason = (estimates, "") if estimates is not None else found._estimates
    return _completed(_table(dataset), dataset, known, reason)


def _table(dataset: xr.Dataset) -> SummaryTable:
    parts = list(in_threads(table_columns, blocks(dataset)))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}
    return SummaryTable(columns, index=np.array(all_labels(dataset), dtype=object))


def _completed(
    plain: SummaryTable, dataset: xr.Dataset, estimates: xr.Dataset | None, reason: str
) -> SummaryTable:
    """The table with zero-variance columns, or with the reason why it has none."""
    columns = {} if estimates is None else _zero_variance_columns(dataset, estimates)
    table = SummaryTable(plain.assign(**columns))
    if reason:
        table.attrs["no_zero_variance"] = reason
    return table


def _no_gain(estimates: xr.Dataset) -> str:
    """Why no error became smaller: no fit could be made, or the fits are of no use.

    One slow coordinate is enough to prevent the fits of all scalars, because each fit has a coefficient for
    every coordinate.
    """
    facts = estimates.attrs
    if facts["highest_order"] > 0:
        return (
            "control variates were fitted and make no error smaller: the density is far from Gaussian, or it "
            "has long tails. The plain means are right."
        )
    needed = DRAWS_A_FEATURE * facts["coordinates"]
    if not facts["effective_draws"] >= needed:  # NaN too
        return (
            f"their fit needs {needed} effective draws, {DRAWS_A_FEATURE} for each of {facts['coordinates']} "
            f"coordinates, and {facts['slowest']} has {facts['effective_draws']:.0f}. Draw more."
        )
    return (
        f"their fit has room for {MOST_FEATURES} coordinates, and there are {facts['coordinates']}. "
        "The plain means are right."
    )


class _Estimates(NamedTuple):
    """Zero-variance estimates, or the reason why a run has none; neither for a tree without them."""

    estimates: xr.Dataset | None
    reason: str = ""


def _zero_variance_columns(dataset: xr.Dataset, estimates: xr.Dataset) -> Mapping[str, np.ndarray]:
    """The columns `zv_mean`, `zv_mcse` and `zv_gain`; NaN for the scalars of variables without estimates."""
    found = {name: [] for name in ZERO_VARIANCE_COLUMNS}
    for name, values in dataset.data_vars.items():
        count = math.prod(values.shape[2:])
        for column, estimate in zip(found, ("mean", "mcse", "gain"), strict=True):
            entries = np.full(count, np.nan)
            if name in estimates and estimates[name].isel(estimate=0).size == count:
                entries = np.asarray(estimates[name].sel(estimate=estimate), float).reshape(-1)
            found[column].append(entries)
    return {column: np.concatenate(entries) for column, entries in found.items()}
