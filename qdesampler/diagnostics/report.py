"""One self-contained HTML page about a run: what was run, may it be used, the numbers, the plots."""

import base64
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import xarray as xr

from qdesampler.diagnostics.files import write_atomically
from qdesampler.diagnostics.finding import Finding, verdict
from qdesampler.diagnostics.findings import MAX_R_HAT, diagnose, least_ess
from qdesampler.diagnostics.plots import Plot, draw_plots
from qdesampler.diagnostics.summary import COLUMNS, as_tree, formatted_rows, shortened, summary

MAX_ROWS = 200

_STYLE = """
:root { --ink: #1d2733; --soft: #5b6878; --line: #e1e6ec; --paper: #fff; --back: #f4f6f8;
  --good: #1b7f4d; --goodback: #e8f5ee; --bad: #b3261e; --badback: #fdeeec; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px; }
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
.verdict li { margin: 6px 0; }
.advice { color: var(--soft); }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 12px 24px;
  margin: 0; }
.facts dt { color: var(--soft); font-size: 13px; }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.scroll { overflow: auto; max-height: 640px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { position: sticky; top: 0; background: var(--paper); color: var(--soft); font-weight: 600;
  font-size: 13px; }
td.bad { color: var(--bad); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
tbody tr:hover { background: var(--back); }
.note, figcaption { color: var(--soft); font-size: 13px; margin: 8px 0 0; }
figure { margin: 0; }
figure img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
pre { margin: 0; overflow: auto; font-size: 13px; }
footer { color: var(--soft); font-size: 13px; }
@media print { body { background: #fff; } section { break-inside: avoid; } .scroll { max-height: none; } }
"""


def report(
    run: Any,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    comparison: str | None = None,
    table: Any = None,
    findings: Sequence[Finding] | None = None,
    finished_plots: Sequence[Plot] | None = None,
) -> Path:
    """Write a report as one HTML file without any outside part: style and images are inside.

    The file is written under a temporary name in the same folder and then renamed.

    Args:
        run: a `numpyro.infer.MCMC` after `run`, or a tree of `to_datatree` (or any tree with a posterior).
        path: the file to write.
        title: heading; None takes the model's name.
        comparison: text that compares the draws with reference values, shown as it is.
        table: the full table of `summary`, if it is at hand.
        findings: the result of `diagnose`, if it is at hand.
        finished_plots: the result of `draw_plots`, if it is at hand.

    Returns:
        The path written.

    Raises:
        ValueError: there are no draws.
        OSError: the folder does not exist or cannot be written.
    """
    tree = as_tree(run)
    table = summary(tree) if table is None else table
    findings = diagnose(tree, table=table) if findings is None else findings
    images = list(draw_plots(tree, table=table)) if finished_plots is None else finished_plots
    heading = title or str(tree.attrs.get("model") or "Posterior")
    body = [
        f"<h1>{escape(heading)}</h1>",
        f'<p class="lead">{escape(_lead(tree))}</p>',
        _verdict(findings),
        _section("What was run", _facts(facts(tree))),
        _section("Summary", _table(table, tree["posterior"].sizes["chain"])),
    ]
    if comparison:
        block = f'<div class="scroll"><pre>{escape(comparison)}</pre></div>'
        body.append(_section("Against reference values", block))
    body += [_section(image.title, _figure(image)) for image in images]
    body.append(f"<footer>{escape(_versions(tree))}</footer>")
    page = "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(heading)}</title>",
            f"<style>{_STYLE}</style></head>",
            "<body><main>",
            *body,
            "</main></body></html>",
            "",
        ]
    )
    target = Path(path)
    write_atomically(target, page.encode())
    return target


def facts(tree: xr.DataTree) -> dict[str, str]:
    """What was run, as words: label to value, unknown facts left out."""
    attrs = tree.attrs
    size = tree["posterior"].sizes
    chains, draws = size["chain"], size["draw"]
    known = {
        "Model": attrs.get("model"),
        "Kernel": attrs.get("kernel"),
        "Chains": f"{chains}" + (f" ({attrs['chain_method']})" if "chain_method" in attrs else ""),
        "Draws": f"{draws:,} in each chain, {chains * draws:,} together",
        "Warm-up": f"{int(attrs['num_warmup']):,} iterations" if "num_warmup" in attrs else None,
        "Thinning": f"every {attrs['thinning']}th draw is kept" if attrs.get("thinning", 1) != 1 else None,
        "Evaluations in warm-up": _count(attrs.get("warmup_evals")),
        "Evaluations in sampling": _count(
            attrs.get("sampling_evals"), exact=attrs.get("sampling_evals_exact", 1)
        ),
        "Solve": _solve(attrs),
        "Seed": attrs.get("seed"),
        "Precision": attrs.get("precision"),
        "Wall time": f"{float(attrs['wall_seconds']):.1f} s" if "wall_seconds" in attrs else None,
        "Made": attrs.get("created_at"),
    }
    return {label: str(value) for label, value in known.items() if value not in (None, "")}


def _solve(attrs: Any) -> str | None:
    """What came of QDE's imaginary-time solve."""
    if "solve_outcome" not in attrs:
        return None
    return (
        f"{attrs['solve_outcome']}; acceptance of its trial {float(attrs['solve_acceptance']):.2f}, "
        f"{float(attrs['global_share']):.0%} of the draws are global moves"
    )


def _count(evaluations: Any, *, exact: Any = 1) -> str | None:
    if evaluations is None:
        return None
    return f"{'' if exact else 'about '}{int(evaluations):,}"


def _lead(tree: xr.DataTree) -> str:
    size = tree["posterior"].sizes
    kernel = tree.attrs.get("kernel")
    return f"{size['chain'] * size['draw']:,} draws of the posterior" + (f" by {kernel}." if kernel else ".")


def _verdict(findings: Sequence[Finding]) -> str:
    items = "".join(
        f'<li>{escape(finding.message)} <span class="advice">{escape(finding.advice)}</span></li>'
        for finding in findings
    )
    listed = f"<ul>{items}</ul>" if items else ""
    return (
        f'<div class="verdict {"bad" if findings else "good"}">'
        f"<strong>{escape(verdict(findings))}</strong>{listed}</div>"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _facts(pairs: Mapping[str, str]) -> str:
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs.items())
    return f'<dl class="facts">{items}</dl>'


def _table(table: Any, chains: int) -> str:
    rows, note = shortened(table, MAX_ROWS)
    least = least_ess(chains)
    marks = {"ess_bulk": rows["ess_bulk"] < least, "ess_tail": rows["ess_tail"] < least}
    marks["r_hat"] = rows["r_hat"] > MAX_R_HAT
    head = "".join(f"<th>{escape(column)}</th>" for column in ("", *COLUMNS.values()))
    lines = ""
    for i, (label, *cells) in enumerate(formatted_rows(rows)):
        marked = (column in marks and marks[column].iloc[i] for column in COLUMNS)
        numbers = (
            f"<td{' class="bad"' if bad else ''}>{escape(cell)}</td>"
            for cell, bad in zip(cells, marked, strict=True)
        )
        lines += f"<tr><td>{escape(label)}</td>{''.join(numbers)}</tr>"
    explained = (
        "MCSE is the Monte Carlo standard error, ESS the effective sample size (bulk: of the mean; tail: of "
        "the 5% and 95% quantiles); R-hat compares the chains and is 1 when they agree."
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
        f'<p class="note">{escape(f"{note} {explained}".strip())}</p>'
    )


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode("ascii")
    return (
        f'<figure><img alt="{escape(plot.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>"
    )


def _versions(tree: xr.DataTree) -> str:
    attrs = tree.attrs
    library = attrs.get("inference_library")
    names = [f"{library} {attrs.get('inference_library_version', '')}".strip()] if library else []
    others = [name for name in ("jax", "numpyro", "arviz") if f"{name}_version" in attrs]
    names += [f"{name} {attrs[f'{name}_version']}" for name in others]
    return " · ".join(names)
