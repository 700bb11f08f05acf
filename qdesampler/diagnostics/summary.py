"""Summary table of a run, and the same as text for a terminal."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from arviz_base import xarray_var_iter
from arviz_base.labels import BaseLabeller
from arviz_stats.summary import summary as arviz_summary

from qdesampler.diagnostics.convert import to_datatree
from qdesampler.diagnostics.dims import SAMPLE_DIMS

COLUMNS = {
    "mean": "mean",
    "sd": "sd",
    "mcse_mean": "MCSE mean",
    "mcse_sd": "MCSE sd",
    "ess_bulk": "ESS bulk",
    "ess_tail": "ESS tail",
    "r_hat": "R-hat",
}


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
    """The posterior's variables in float64, empty ones and labels that are not unique left out.

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
    return dataset[chosen].drop_vars(unclear).astype(np.float64)


def scalars(dataset: xr.Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Label, e.g. `beta[2]`, and draws `(chains, draws)` of every scalar, ordered as in `summary`."""
    dataset = dataset.transpose(*SAMPLE_DIMS, ...)
    labeller = BaseLabeller()
    for name, selection, position, values in xarray_var_iter(dataset, skip_dims=set(SAMPLE_DIMS)):
        yield labeller.make_label_flat(name, selection, position), np.asarray(values)


def summary(run: Any, *, var_names: Sequence[str] | None = None) -> Any:
    """Posterior moments with their Monte Carlo errors, one row for each scalar.

    Rank-normalised split R-hat and bulk and tail effective sample sizes after Vehtari, Gelman, Simpson,
    Carpenter & Buerkner, Bayesian Analysis 16(2), 2021, as computed by `arviz_stats`.

    Args:
        run: a `numpyro.infer.MCMC` after `run`, or a tree with a posterior.
        var_names: which variables; None for all.

    Returns:
        `pandas.DataFrame` with columns `mean`, `sd`, `mcse_mean`, `mcse_sd`, `ess_bulk`, `ess_tail`, `r_hat`,
        unrounded. Entries that cannot be computed (R-hat of a constant, anything of a NaN) are NaN.

    Raises:
        ValueError: there are no draws, or no such variable.
    """
    dataset = posterior_dataset(as_tree(run), var_names)
    with np.errstate(invalid="ignore", divide="ignore"):  # constants give 0/0; they are NaN in the table
        table: Any = arviz_summary(dataset, kind="all", round_to="none")
    return table[list(COLUMNS)]


def format_summary(table: Any, *, max_rows: int = 40) -> str:
    """The table as aligned text; each number is shown to two digits of its Monte Carlo error.

    Args:
        table: what `summary` returned.
        max_rows: a longer table is cut to the rows with the smallest bulk effective sample size, and says so.

    Returns:
        Lines of text without a final newline.
    """
    rows, note = shortened(table, max_rows)
    cells = [["", *COLUMNS.values()], *formatted_rows(rows)]
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


def formatted_rows(table: Any) -> list[list[str]]:
    """Label and cells of every row as text."""
    return [
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
