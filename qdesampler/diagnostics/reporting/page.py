"""The parts of a report as HTML; all text from outside is escaped here."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from qdesampler.diagnostics.checks.draws import MAX_R_HAT, least_ess
from qdesampler.diagnostics.checks.finding import Check, Finding, in_html, verdict
from qdesampler.diagnostics.plots.posterior import Plot
from qdesampler.diagnostics.statistics.labels import short_names
from qdesampler.diagnostics.statistics.summary_table import (
    MAX_NAME,
    column_names,
    formatted_rows,
    missing_note,
    name_cell,
    shortened,
)

__all__ = [
    "checks_table",
    "facts_list",
    "figure",
    "page",
    "paragraph",
    "preformatted",
    "section",
    "summary_table",
    "verdict_box",
]

MAX_ROWS = 200  # rows of the summary
_MARKS = {
    True: ("ok", "\N{CHECK MARK}"),
    False: ("fail", "\N{MULTIPLICATION X}"),
    None: ("none", "\N{MIDDLE DOT}"),
}
_EXPLAINED = (
    "MCSE is the Monte Carlo standard error, ESS the effective sample size (bulk: of the mean; tail: of "
    "the 5% and 95% quantiles); R-hat compares the chains and is 1 when they agree."
)
_ZERO_VARIANCE = (
    "ZV are means with control variates of the local energy: the same draws, less noise; the gain is how "
    "many times more draws the plain mean would need."
)

_HINT = (
    "Where the table is wider than this window, scroll it sideways. "
    "A name in red has a number in red in its row."
)

_ROWS_IN_SIGHT = 18  # of the summary, without scrolling its box (`.scroll` below)
_STYLE = """
:root { --ink: #1d2733; --soft: #5b6878; --line: #e1e6ec; --paper: #fff; --back: #f4f6f8;
  --good: #1b7f4d; --goodback: #e8f5ee; --bad: #b3261e; --badback: #fdeeec; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 28px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 12px; }
.lead { color: var(--soft); margin: 0 0 20px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 24px; margin: 0 0 18px; }
.verdict { border-left: 6px solid; border-radius: 6px; padding: 14px 18px; margin: 0 0 18px; }
.verdict.good { background: var(--goodback); border-color: var(--good); }
.verdict.bad { background: var(--badback); border-color: var(--bad); }
.verdict strong { display: block; font-size: 17px; }
.verdict ul { margin: 10px 0 0; padding-left: 20px; }
.verdict li { margin: 6px 0; overflow-wrap: anywhere; }
.advice { color: var(--soft); }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 12px 24px;
  margin: 0; }
.facts dt { color: var(--soft); font-size: 13px; }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.scroll { overflow: auto; max-height: 640px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 8px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { position: sticky; top: 0; background: var(--paper); color: var(--soft); font-weight: 600;
  font-size: 13px; }
td.bad { color: var(--bad); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
.wide th:first-child, .wide td:first-child { position: sticky; left: 0; background: var(--paper);
  border-right: 1px solid var(--line); }
.wide thead th:first-child { z-index: 1; }
.hint { display: none; color: var(--ink); background: var(--back); border-radius: 6px; padding: 6px 10px;
  font-size: 13px; margin: 0 0 8px; }
.checks td { text-align: left; white-space: normal; vertical-align: top; overflow-wrap: anywhere; }
.checks th { text-align: left; }
.checks td:first-child { width: 1.6em; font-weight: 700; }
.ok { color: var(--good); } .fail { color: var(--bad); } .none { color: var(--soft); }
tbody tr:hover { background: var(--back); }
.note, figcaption { color: var(--soft); font-size: 13px; margin: 8px 0 0; }
figure { margin: 0; }
figure img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
pre { margin: 0; overflow: auto; font-size: 13px; }
footer { color: var(--soft); font-size: 13px; }
@media screen and (max-width: 1199px) { .hint { display: block; } }
@media (max-width: 640px) { .wide th:first-child, .wide td:first-child { width: 36vw; min-width: 36vw;
  white-space: normal; overflow-wrap: anywhere; }
  main { padding: 16px 10px 40px; } section { padding: 14px 12px; }
  h1 { font-size: 23px; } th, td { padding: 5px 6px; } .facts { grid-template-columns: 1fr 1fr; }
  .checks .limit { display: none; } }
@media print { @page { margin: 14mm; } body { background: #fff; } body { font-size: 12px; }
  main { max-width: none; padding: 0; } section { border: 0; padding: 8px 0; }
  .whole, figure, tr, .facts div { break-inside: avoid; } h2 { break-after: avoid; }
  figure img { max-height: 200mm; } .scroll { max-height: none; overflow: visible; }
  th, .wide th:first-child, .wide td:first-child { position: static; }
  pre { white-space: pre-wrap; } table { font-size: 10px; } .wide th, .wide td { padding: 2px 4px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def page(heading: str, lead: str, body: Sequence[str], foot: str) -> str:
    """The whole document with its style."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(heading)}</title>",
            f"<style>{_STYLE}</style></head>",
            "<body><main>",
            f"<h1>{escape(heading)}</h1>",
            f'<p class="lead">{escape(lead)}</p>',
            *body,
            f"<footer>{escape(foot)}</footer>",
            "</main></body></html>",
            "",
        ]
    )


def section(title: str, *content: str, kind: str = "") -> str:
    """One card with a heading; one of kind "whole" stays on one page in print."""
    marked = f' class="{escape(kind)}"' if kind else ""
    return f"<section{marked}><h2>{escape(title)}</h2>{''.join(content)}</section>"


def preformatted(text: str) -> str:
    """Text without formatting, in a box that scrolls."""
    return f'<div class="scroll"><pre>{escape(text)}</pre></div>'


def paragraph(text: str) -> str:
    """A small note."""
    return f'<p class="note">{escape(text)}</p>'


def facts_list(pairs: Mapping[str, str]) -> str:
    """Pairs of label and value in columns."""
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs.items())
    return f'<dl class="facts">{items}</dl>'


def verdict_box(findings: Sequence[Finding]) -> str:
    """The verdict on the draws and the findings behind it."""
    items = "".join(
        f'<li>{in_html(finding.message)} <span class="advice">{in_html(finding.advice)}</span></li>'
        for finding in findings
    )
    listed = f"<ul>{items}</ul>" if items else ""
    bad = any(finding.grave for finding in findings)
    return (
        f'<div class="verdict {"bad" if bad else "good"}">'
        f"<strong>{escape(verdict(findings))}</strong>{listed}</div>"
    )


def checks_table(checks: Sequence[Check]) -> str:
    """Every check that was made, with its result and the required value."""
    lines = ""
    for check in checks:
        kind, mark = _MARKS[check.passed]
        cells = "".join(f"<td>{escape(text)}</td>" for text in (check.name, check.value))
        lines += f'<tr><td class="{kind}">{mark}</td>{cells}<td class="limit">{escape(check.limit)}</td></tr>'
    head = '<th></th><th>Check</th><th>Result</th><th class="limit">Required</th>'
    return f'<div><table class="checks"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def summary_table(table: Any, chains: int) -> str:
    """The table of `summary` with bad numbers marked; a long table is cut to its worst rows."""
    rows, note = shortened(table, MAX_ROWS)
    least = least_ess(chains)
    marks = {"ess_bulk": rows["ess_bulk"] < least, "ess_tail": rows["ess_tail"] < least}
    marks["r_hat"] = rows["r_hat"] > MAX_R_HAT
    columns = column_names(rows)
    head = "".join(f"<th>{escape(column)}</th>" for column in ("", *columns.values()))
    lines = ""
    names = short_names([str(label) for label in rows.index], MAX_NAME)
    for i, (label, *cells) in enumerate(formatted_rows(rows)):
        marked = [column in marks and bool(marks[column].iloc[i]) for column in columns]
        numbers = (
            f"<td{' class="bad"' if bad else ''}>{escape(cell)}</td>"
            for cell, bad in zip(cells, marked, strict=True)
        )
        first = name_cell("td", label, names[i], kind="bad" if any(marked) else "")
        lines += f"<tr>{first}{''.join(numbers)}</tr>"
    explained = _ZERO_VARIANCE if "zv_mean" in columns else missing_note(table)
    length = f"The table has {len(rows)} rows." if len(rows) > _ROWS_IN_SIGHT else ""
    return (
        f'<p class="hint">{escape(_HINT)}</p>'
        f'<div class="scroll wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
        + paragraph(" ".join(text for text in (length, note, _EXPLAINED, explained) if text))
    )


def figure(plot: Plot) -> str:
    """An image inside the page and its caption."""
    data = base64.b64encode(plot.png).decode("ascii")
    return (
        f'<figure><img alt="{escape(plot.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )
