"""Summary table of a run, and the same as text for a terminal."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from qdesampler.diagnostics.datatree.convert import to_datatree
from qdesampler.diagnostics.datatree.dims import SAMPLE_DIMS
from qdesampler.diagnostics.statistics.array_statistics import in_threads, table_columns
from qdesampler.diagnostics.statistics.control_variates import estimates_of

COLUMNS = {
    "mean": "mean",
    "sd": "sd",
    "mcse_mean": "MCSE mean",
    "mcse_sd": "MCSE sd",
    "ess_bulk": "ESS bulk",
    "ess_tail": "ESS tail",
    "r_hat": "R-hat",
}
ZERO_VARIANCE = "zero_variance"  # group of a tree
ZERO_VARIANCE_COLUMNS = {"zv_mean": "ZV mean", "zv_mcse": "ZV MCSE", "zv_gain": "ZV gain"}
BLOCK = 2_000_000  # numbers worked on at once


def as_tree(run: Any) -> xr.DataTree:
    """The tree itself, or the tree of a `numpyro.infer.MCMC` after `run`.

    Raises:
        ValueError: the tree has no group `posterior`, or the sampler has not run.
    """
    tree = run if isinstance(run, xr.DataTree) else to_datatree(run)
    if "posterior" not in tree.children:
        raise ValueError(f"The tree has no group 'posterior', only: {', '.join(tree.children) or 'none'}.")
    return tree


def posterior_dataset(tree: xr.DataTree, var_names: Sequence[str] | None = None) -> xr.Dataset:
    """The posterior's variables, chain and draw leading, empty ones and ambiguous labels left out.

    Raises:
        ValueError: a name in `var_names` is no variable, or nothing is left.
    """
    dataset = tree["posterior"].to_dataset()
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
    """Label, e.g. `beta[2]`, of every scalar of a variable whose leading axes are chain and draw."""
    dims = values.dims[2:]
    if not dims:
        return [str(values.name)]
    axes = [values[dim].values if dim in values.coords else range(values.sizes[dim]) for dim in dims]
    return [f"{values.name}[{', '.join(map(str, index))}]" for index in product(*axes)]


def all_labels(dataset: xr.Dataset) -> list[str]:
    """Labels of all scalars, ordered as in `summary`."""
    return [label for values in dataset.data_vars.values() for label in labels(values)]


def blocks(dataset: xr.Dataset, largest: int = BLOCK) -> Iterator[np.ndarray]:
    """Draws of the scalars in float64, some at a time: shapes `(scalars, chains, draws)`, in order."""
    for values in dataset.data_vars.values():
        flat = np.asarray(values).reshape(*values.shape[:2], -1)
        step = max(1, largest // (flat.shape[0] * flat.shape[1]))
        for start in range(0, flat.shape[2], step):
            part = flat[:, :, start : start + step]
            yield np.ascontiguousarray(np.moveaxis(part, 2, 0), dtype=np.float64)


def scalars(dataset: xr.Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Label and draws `(chains, draws)`, float64, of every scalar, ordered as in `summary`."""
    each = (values for block in blocks(dataset) for values in block)
    yield from zip(all_labels(dataset), each, strict=True)


def summary(
    run: Any,
    *,
    var_names: Sequence[str] | None = None,
    estimates: xr.Dataset | None = None,
    tree: xr.DataTree | None = None,
) -> Any:
    """Posterior moments with their Monte Carlo errors, one row for each scalar.

    Rank-normalised split R-hat and bulk and tail effective sample sizes after Vehtari, Gelman, Simpson,
    Carpenter & Buerkner, Bayesian Analysis 16(2), 2021, equal to ArviZ's (of one chain, R-hat
    compares the two halves). Beside the plain means stand the zero-variance ones.

    Args:
        run: a `numpyro.infer.MCMC` after `run`, or a tree with a posterior.
        var_names: which variables; None for all.
        estimates: what `zero_variance` returned. None computes it for a run whose kernel shows its potential
            (one gradient a draw, unless the run collected `z_grad`), and takes a tree's group
            `zero_variance`, if it has one.
        tree: the tree of the run, if it is at hand.

    Returns:
        `pandas.DataFrame` with columns `mean`, `sd`, `mcse_mean`, `mcse_sd`, `ess_bulk`, `ess_tail`, `r_hat`,
        and with estimates `zv_mean`, `zv_mcse` and `zv_gain`, unrounded. Entries that cannot be computed
        (R-hat of a constant, anything of a NaN) are NaN.

    Raises:
        ValueError: there are no draws, or no such variable.
    """
    tree = as_tree(run if tree is None else tree)
    dataset = posterior_dataset(tree, var_names)
    parts = list(in_threads(table_columns, blocks(dataset)))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}
    if estimates is None:
        estimates = available_estimates(run, tree)
    if estimates is not None:
        columns |= _zero_variance_columns(dataset, estimates)
    named = {name: ("parameter", values) for name, values in columns.items()}
    table: Any = xr.Dataset(named, coords={"parameter": all_labels(dataset)}).to_dataframe()
    return table.rename_axis(index=None)


def available_estimates(run: Any, tree: xr.DataTree) -> xr.Dataset | None:
    """Zero-variance estimates of a run, or those that a tree holds; None where there are none to be had.

    There are none without a potential, without continuous coordinates, where a gradient is not finite, or
    from fewer than 8 draws. Sites that are not finite at every draw are left out.
    """
    if ZERO_VARIANCE in tree.children:
        return tree[ZERO_VARIANCE].to_dataset()
    if isinstance(run, xr.DataTree):
        return None
    dataset = posterior_dataset(tree)
    finite = [name for name, values in dataset.data_vars.items() if np.all(np.isfinite(values))]
    try:
        return estimates_of(dataset[finite], run)
    except (ValueError, AttributeError, NotImplementedError, RuntimeError):
        return None


def with_estimates(tree: xr.DataTree, estimates: xr.Dataset | None) -> xr.DataTree:
    """The tree with its estimates as a group, in a form that files can hold."""
    if estimates is None:
        return tree
    attrs = {**estimates.attrs, "disagreeing": ", ".join(estimates.attrs.get("disagreeing", ()))}
    return xr.DataTree.from_dict({**tree.to_dict(), ZERO_VARIANCE: estimates.assign_attrs(attrs)})


def _zero_variance_columns(dataset: xr.Dataset, estimates: xr.Dataset) -> Mapping[str, np.ndarray]:
    """`zv_mean`, `zv_mcse` and `zv_gain` of every scalar; NaN for a variable without estimates."""
    found = {name: [] for name in ZERO_VARIANCE_COLUMNS}
    for name, values in dataset.data_vars.items():
        count = math.prod(values.shape[2:])
        for column, estimate in zip(found, ("mean", "mcse", "gain"), strict=True):
            entries = np.full(count, np.nan)
            if name in estimates and estimates[name].isel(estimate=0).size == count:
                entries = np.asarray(estimates[name].sel(estimate=estimate), float).reshape(-1)
            found[column].append(entries)
    return {column: np.concatenate(entries) for column, entries in found.items()}


def format_summary(table: Any, *, max_rows: int = 40) -> str:
    """The table as aligned text; each number is shown to two digits of its Monte Carlo error.

    Args:
        table: what `summary` returned.
        max_rows: a longer table is cut to the rows with the smallest bulk effective sample size, and says so.

    Returns:
        Lines of text without a final newline.
    """
    rows, note = shortened(table, max_rows)
    cells = [["", *column_names(rows).values()], *formatted_rows(rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    return "\n".join([*lines, note] if note else lines)


def shortened(table: Any, max_rows: int) -> tuple[Any, str]:
    """At most `max_rows` rows, those with the smallest ESS; a sentence if some are left out."""
    if len(table) <= max_rows:
        return table, ""
    worst = np.sort(np.argsort(table["ess_bulk"].to_numpy(), kind="stable")[:max_rows])
    return table.iloc[worst], (
        f"({max_rows} of {len(table)} rows are shown, those with the smallest effective sample size.)"
    )


def column_names(table: Any) -> dict[str, str]:
    """Columns of a table with their headings."""
    return {name: text for name, text in (COLUMNS | ZERO_VARIANCE_COLUMNS).items() if name in table}


def formatted_rows(table: Any) -> list[list[str]]:
    """Label and cells of every row as text."""
    formed = [
        [
            str(label),
            rounded(row.mean, row.mcse_mean),
            rounded(row.sd, row.mcse_sd),
            rounded(row.mcse_mean, row.mcse_mean),
            rounded(row.mcse_sd, row.mcse_sd),
            _integer(row.ess_bulk),
            _integer(row.ess_tail),
            f"{row.r_hat:.3f}",
        ]
        for label, row in zip(table.index, table.itertuples(index=False), strict=True)
    ]
    if "zv_mean" in table:
        for cells, row in zip(formed, table.itertuples(index=False), strict=True):
            cells += [
                rounded(row.zv_mean, row.zv_mcse),
                rounded(row.zv_mcse, row.zv_mcse),
                f"{row.zv_gain:.3g}" if math.isfinite(row.zv_gain) else str(float(row.zv_gain)),
            ]
    return formed


def rounded(value: float, error: float) -> str:
    """`value` to the second digit of its standard error, e.g. 4.2318 with error 0.012 is "4.232"."""
    if not math.isfinite(value):
        return str(float(value))
    if not (math.isfinite(error) and error > 0):
        return f"{value:.4g}"
    decimals = 1 - math.floor(math.log10(error))
    if decimals > 7 or abs(value) >= 1e7:
        digits = math.floor(math.log10(abs(value) or error)) + decimals
        return f"{value:.{min(max(digits, 1), 8)}e}"
    return f"{value:.{max(decimals, 0)}f}"


def _integer(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else str(float(value))
