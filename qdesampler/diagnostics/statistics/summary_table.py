"""The table of a summary: a data frame that prints itself as readable text."""

import math
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from qdesampler.diagnostics.statistics.labels import short_names

__all__ = [
    "COLUMNS",
    "MAX_NAME",
    "ZERO_VARIANCE_COLUMNS",
    "SummaryTable",
    "column_names",
    "format_summary",
    "formatted_rows",
    "missing_note",
    "name_cell",
    "rounded",
    "shortened",
]

# Columns of a table and their headings.
COLUMNS = {
    "mean": "mean",
    "sd": "sd",
    "mcse_mean": "MCSE mean",
    "mcse_sd": "MCSE sd",
    "ess_bulk": "ESS bulk",
    "ess_tail": "ESS tail",
    "r_hat": "R-hat",
}
ZERO_VARIANCE_COLUMNS = {"zv_mean": "ZV mean", "zv_mcse": "ZV MCSE", "zv_gain": "ZV gain"}
MAX_ROWS = 40  # rows of a printed table
MAX_NAME = 30  # characters of a name in HTML, with which ten columns fit into a window of 1200 pixels
NOTHING = "-"  # in the place of what does not exist, such as the R-hat of a constant
_LARGEST_GAIN = 1e6  # gains above it are limited by rounding, and their digits mean nothing


class SummaryTable(pd.DataFrame):
    """A `pandas.DataFrame` that prints as `format_summary` writes it.

    Only the way of printing differs. Rows, columns and copies of the table are ordinary data frames, and a
    table with other columns prints as one.
    """

    def __repr__(self) -> str:
        """The table as aligned text, each number to two digits of its Monte Carlo error."""
        return format_summary(self) if self._is_whole() else super().__repr__()

    def _repr_html_(self) -> str | None:
        """The same table for notebooks."""
        if not self._is_whole():
            return super()._repr_html_()  # pyright: ignore[reportCallIssue]: pandas calls it without arguments
        rows, note = shortened(self, MAX_ROWS)
        head = "".join(f"<th>{escape(name)}</th>" for name in ("", *column_names(rows).values()))
        names = short_names([str(label) for label in rows.index], MAX_NAME)
        body = "".join(
            f"<tr>{name_cell('th', label, short)}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
            for short, (label, *cells) in zip(names, formatted_rows(rows), strict=True)
        )
        notes = "".join(f"<p>{escape(text)}</p>" for text in (note, missing_note(self)) if text)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"

    def _is_whole(self) -> bool:
        """Whether the table has the columns of a summary and no others."""
        return list(self.columns) in ([*COLUMNS], [*COLUMNS, *ZERO_VARIANCE_COLUMNS])


def name_cell(tag: str, name: str, short: str, *, kind: str = "") -> str:
    """The first cell of a row in HTML; a pointer that rests on a short name shows the whole one."""
    marked = f' class="{kind}"' if kind else ""
    whole = f' title="{escape(name)}"' if short != name else ""
    return f"<{tag}{marked}{whole}>{escape(short)}</{tag}>"


def format_summary(table: Any, *, max_rows: int = MAX_ROWS) -> str:
    """The table as aligned text; each number is shown to two digits of its Monte Carlo error.

    Args:
        table: the table that `summary` returned.
        max_rows: most rows; a longer table is cut to the rows with the smallest bulk effective sample size,
            and a note says so.

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
    return "\n".join([*lines, *(text for text in (note, missing_note(table)) if text)])


def missing_note(table: Any) -> str:
    """A sentence that says why a table has no zero-variance means; empty if nothing is missing."""
    reason = table.attrs.get("no_zero_variance", "")
    return f"(There are no zero-variance means: {reason})" if reason else ""


def shortened(table: Any, max_rows: int) -> tuple[Any, str]:
    """At most `max_rows` rows, those with the smallest ESS, and a sentence if some are left out."""
    if len(table) <= max_rows:
        return table, ""
    worst = np.sort(np.argsort(table["ess_bulk"].to_numpy(), kind="stable")[:max_rows])
    return table.iloc[worst], (
        f"({max_rows} of {len(table)} rows are shown, those with the smallest effective sample size.)"
    )


def column_names(table: Any) -> dict[str, str]:
    """The columns of a table with their headings."""
    return {name: text for name, text in (COLUMNS | ZERO_VARIANCE_COLUMNS).items() if name in table}


def formatted_rows(table: Any) -> list[list[str]]:
    """The label and the cells of every row as text."""
    formed = [
        [
            str(label),
            rounded(row.mean, row.mcse_mean),
            rounded(row.sd, row.mcse_sd),
            rounded(row.mcse_mean, row.mcse_mean),
            rounded(row.mcse_sd, row.mcse_sd) if row.sd != 0 else NOTHING,
            _integer(row.ess_bulk),
            _integer(row.ess_tail),
            NOTHING if math.isnan(row.r_hat) else f"{row.r_hat:.3f}",
        ]
        for label, row in zip(table.index, table.itertuples(index=False), strict=True)
    ]
    if "zv_mean" in table:
        for cells, row in zip(formed, table.itertuples(index=False), strict=True):
            cells += [
                rounded(row.zv_mean, row.zv_mcse),
                rounded(row.zv_mcse, row.zv_mcse),
                _gain(row),
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


def _gain(row: Any) -> str:
    """The gain to three digits, without an exponent."""
    if row.sd == 0 or math.isnan(row.zv_gain):
        return NOTHING
    if row.zv_gain > _LARGEST_GAIN:
        return f">{_LARGEST_GAIN:.0f}"
    return f"{row.zv_gain:.3g}" if row.zv_gain < 1000 else f"{row.zv_gain:.0f}"


def _integer(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else str(float(value))
